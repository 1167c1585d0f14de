"""Themis: its auction by hand and against brute force; rho as the paper reads it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import job, simulate
from trainmaster.policies.themis import Themis, auction, ideal_time, value

HOUR_S = 3_600.0
LINEAR = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
FOUR = np.arange(5)


def test_two_equal_bidders_share_and_keep_half():
    chosen, keeps = auction([FOUR, FOUR], [LINEAR, LINEAR], 4)

    assert chosen == [2, 2]
    assert keeps == pytest.approx([0.5, 0.5])
    assert [bundle * part for bundle, part in zip(chosen, keeps, strict=True)] == pytest.approx([1, 1])  # two of four are left


def test_who_gains_less_from_more_costs_the_other_less():
    of_b = np.array([0.0, 1.0, 1.8, 2.4, 2.8])

    chosen, keeps = auction([FOUR, FOUR], [LINEAR, of_b], 4)

    assert chosen == [2, 2]
    assert LINEAR[2] * of_b[2] == pytest.approx(3.6)
    assert keeps == pytest.approx([1.8 / 2.8, 0.5])


def test_bids_by_rho_count_the_time_elapsed():
    a = value(1 * HOUR_S, 8 * HOUR_S, LINEAR, 4 * HOUR_S)
    b = value(0.0, 4 * HOUR_S, LINEAR, 2 * HOUR_S)

    assert a[1:] == pytest.approx([0.4444, 0.8, 1.0909, 1.3333], abs=1e-4)
    assert b[1:] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    chosen, keeps = auction([FOUR, FOUR], [a, b], 4)
    assert chosen == [2, 2]
    assert a[2] * b[2] == pytest.approx(0.8)
    assert keeps == pytest.approx([0.5, 0.6])
    assert [int(part * bundle + 1e-9) for bundle, part in zip(chosen, keeps, strict=True)] == [1, 1]


def test_who_takes_nothing_from_others_keeps_all():
    slow_when_spread = value(1 * HOUR_S, 8 * HOUR_S, np.array([0.0, 1.0, 2.0, 1.5, 2.0]), 4 * HOUR_S)
    b = value(0.0, 4 * HOUR_S, LINEAR, 2 * HOUR_S)

    assert slow_when_spread[1:] == pytest.approx([0.4444, 0.8, 0.6316, 0.8], abs=1e-4)
    chosen, keeps = auction([FOUR, FOUR], [slow_when_spread, b], 4)
    assert chosen == [2, 2]
    assert keeps == pytest.approx([0.5, 1.0])  # one GPU of four is left


@pytest.mark.parametrize("bidders", [2, 3, 4, 10])
def test_equal_bidders_keep_less_the_more_they_are_down_to_one_in_e(bidders):
    """Three of two GPUs each keep 4/9, which is .889 of one, and rounds to none. Without one, the others would have one GPU more each."""
    each = bidders - 1
    gpus = np.arange(bidders * each + 1)

    chosen, keeps = auction([gpus] * bidders, [gpus.astype(float)] * bidders, bidders * each)

    assert chosen == [each] * bidders
    assert keeps == pytest.approx([((bidders - 1) / bidders) ** (bidders - 1)] * bidders)


def test_two_of_ten_apps_see_an_offer_at_the_default_f():
    """A fifth of ten is two, though 10 x (1 - 0.8) is a little less in floating point: the others share what these leave."""
    jobs = [job(f"j{i}", 0, 1, 3_000) for i in range(10)]
    seen = []

    class Watched(Themis):
        def _auction(self, view, apps, bidders, j, turn, left):
            seen.append(len(bidders))
            super()._auction(view, apps, bidders, j, turn, left)

    simulate(jobs, "1x2", Watched())

    assert seen[0] == 2


def test_with_more_bidders_than_gpus_as_many_as_can_be_win():
    large, small = np.array([0, 2]), np.array([0, 1])

    chosen, _ = auction([large, small, small], [np.array([0.0, 9.0]), np.array([0.0, 1.0]), np.array([0.0, 1.0])], 2)

    assert chosen == [0, 1, 1]


@pytest.mark.parametrize(("elapsed_h", "gpus", "rho"), [(0, 2, 1.0), (1, 2, 1.25), (1, 4, 0.75), (3, 4, 1.25)])
def test_rho_of_an_app_with_half_the_cluster_to_itself(elapsed_h, gpus, rho):
    ideal_s = ideal_time(np.array([8 * HOUR_S]), np.array([4.0]), 4.0, np.array([2.0]))

    assert 1 / value(elapsed_h * HOUR_S, 8 * HOUR_S, np.array([float(gpus)]), ideal_s[0]) == pytest.approx([rho])


@pytest.mark.parametrize(("usable", "share_h", "slots_h"), [(1, 10, 80), (4, 2.5, 20), (16, 1.25, 5), (64, 1.25, 1.25)])
def test_the_two_readings_of_the_ideal_time_agree_where_an_app_can_use_the_cluster(usable, share_h, slots_h):
    case = np.array([10 * HOUR_S]), np.array([float(usable)]), 64.0, np.array([8.0])

    assert ideal_time(*case) / HOUR_S == pytest.approx([share_h])
    assert ideal_time(*case, "slots") / HOUR_S == pytest.approx([slots_h])


bids = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0]), min_size=1, max_size=4), min_size=1, max_size=4)


@given(bids, st.integers(1, 6))
def test_the_chosen_bundles_are_the_largest_product_of_the_most_winners(tables, gpus):
    values = [np.array([0.0, *table]) for table in tables]
    sizes = [np.arange(len(v)) for v in values]

    def worth(bundles):
        won = [v[b] for v, b in zip(values, bundles, strict=True) if v[b] > 0]
        return len(won), float(np.prod(won))

    chosen, keeps = auction(sizes, values, gpus)

    assert sum(chosen) <= gpus
    most, product = max(worth(b) for b in itertools.product(*(range(len(v)) for v in values)) if sum(b) <= gpus)
    assert worth(chosen) == (most, pytest.approx(product))
    assert all(0 <= keep <= 1 for keep in keeps)


@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=4), st.integers(4, 8), st.floats(1, 20))
def test_with_linear_values_and_room_for_all_over_bidding_never_gains(slopes, gpus, factor):
    sizes, truth = [np.arange(gpus + 1)] * len(slopes), [slope * np.arange(gpus + 1.0) for slope in slopes]

    def kept(values):
        chosen, keeps = auction(sizes, values, gpus)
        return truth[0][chosen[0]] * keeps[0]

    assert kept([truth[0] * factor, *truth[1:]]) <= kept(truth) * (1 + 1e-6)


def test_two_apps_on_half_the_gpus_they_want_take_turns():
    run = simulate([job("a", 0, 4, 4_800), job("b", 0, 4, 4_800)], "1x4", Themis(lease_s=1_200.0))

    assert {run.jct_s("a"), run.jct_s("b")} == {9_600.0, max(h.end_s for h in run.holdings if h.end_s < 9_600.0)}
    assert abs(run.jct_s("a") - run.jct_s("b")) <= 2 * 1_200.0
