"""Optimus: gains, fits and placement by hand, and the artifact's figures on its own workloads."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import job, simulate
from trainmaster.errors import ParamError
from trainmaster.policies.optimus import Optimus, converged_at, deal, epochs_left, fit_loss, fit_speed, grow, share, take, unit_seconds


def left(work: float, *speeds: float) -> np.ndarray:
    return np.array([math.inf, *(work / speed for speed in speeds)])


A, B = left(120, 1, 1.8, 2.4, 2.8), left(60, 1, 1.9, 2.7, 3.4)


@pytest.mark.parametrize(("gpus", "shares"), [(2, [1, 1]), (3, [2, 1]), (4, [2, 2]), (5, [3, 2]), (6, [3, 3])])
def test_the_next_gpu_goes_where_it_saves_most_time(gpus, shares):
    assert share([A, B], gpus).tolist() == shares


def test_one_gpu_each_comes_first_in_order_of_arrival():
    assert share([A, A, B], 2).tolist() == [1, 1, 0]


def test_a_job_begins_with_its_minimum_or_waits():
    assert share([A, B], 3, [2, 2]).tolist() == [3, 0]


def test_no_gpu_goes_where_it_saves_nothing():
    assert share([left(10, 1, 1, 2)], 8).tolist() == [1]


def test_servers_and_workers_grow_in_turn():
    def seconds(counts: tuple[int, ...]) -> float:
        p, w = counts
        return 8 / w + 0.5 + w / p + 0.1 * w + 0.1 * p

    path = [grow([seconds], [(1, 1)], (1.0, 1.0), capacity)[0] for capacity in range(2, 9)]

    assert path == [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4), (4, 4)]
    assert [seconds(counts) for counts in path] == pytest.approx([9.7, 6.8, 5.9, 5.1667, 4.7667, 4.5333, 4.3], abs=5e-5)


def test_a_job_has_converged_when_its_loss_has_all_but_stopped_falling():
    def loss(k: int) -> float:
        return 1 / (0.1 * k + 1) + 0.2

    assert converged_at(loss, 0.01, window=1, in_a_row=3) == 23
    assert converged_at(loss, 0.05, window=9, in_a_row=1) == 38


def test_gangs_are_dealt_out_evenly_over_the_fewest_servers():
    free = np.array([4, 4, 4])
    (server, workers), = deal(2, free)
    free[server] -= workers

    assert (server, workers) == (0, 2)
    assert deal(5, free) == [(1, 3), (2, 2)]


def test_a_gang_that_fits_nowhere_evenly_is_shrunk():
    assert deal(5, np.array([1, 3])) == [(1, 3)]


def test_the_artifact_takes_from_the_freest_server_until_the_gang_is_whole():
    assert take(6, np.array([1, 4, 2, 4])) == [(1, 4), (3, 2)]
    assert take(6, np.array([1, 4])) == []


def test_a_speed_is_found_again_from_enough_sizes_and_is_linear_before():
    assert fit_speed([2], [5.0]).tolist() == [10, 0, 0]
    assert fit_speed([1, 2, 4], [8 + 0.5 + 0.1, 4 + 0.5 + 0.2, 2 + 0.5 + 0.4]) == pytest.approx([8, 0.5, 0.1])
    assert unit_seconds({"1": 8.0, "2": 5.0}, 3) == pytest.approx([math.inf, 8, 5, 2 + 2], abs=1e-9)


@given(st.floats(0.02, 1), st.floats(0.2, 2), st.floats(0, 1))
def test_a_loss_curve_is_predicted_from_its_first_thirty_epochs(b0, b1, b2):
    b = fit_loss(tuple(1 / (b0 * k + b1) + b2 for k in range(1, 31)))

    assert 1 / (b[0] * 40 + b[1]) + b[2] == pytest.approx(1 / (b0 * 40 + b1) + b2, rel=0.05)


def test_a_young_job_is_given_some_epochs_more():
    assert epochs_left((0.9, 0.8), 0.01, 20) == (20.0, False)
    assert epochs_left(tuple(1 / (0.1 * k + 1) + 0.2 for k in range(1, 11)), 0.01 / 1.109, 20) == (pytest.approx(13, abs=2), True)


def test_losses_are_asked_for_where_the_profile_has_none():
    with pytest.raises(ParamError, match="optimus fits the losses of jobs, and these --profiles have none; its estimate may be oracle"):
        simulate([job("a", 0, 1, 10)], "1x4", Optimus())


def test_with_known_times_a_lone_job_is_grown_to_the_cluster():
    run = simulate([job("a", 0, 1, 40)], "1x4", Optimus(estimate="oracle"))

    assert run.finish_s("a") == 10
