"""Singularity's tiers by hand: who gets what, who is owed what, and what slicing costs."""

import pytest

from trainmaster.policies.tiers import BASIC, PREMIUM, STANDARD, gpu_fraction, owed_gpu_s, repaid_after_s, share_by_tier, sliced_step

HOUR = [(30 * 60.0, 8.0), (20 * 60.0, 4.0), (10 * 60.0, 0.0)]  # asked for 8 throughout


def test_a_gpu_fraction_is_of_the_time_asked_for():
    assert gpu_fraction(HOUR, 8) == pytest.approx(2 / 3)
    assert owed_gpu_s(HOUR, 8, STANDARD) == pytest.approx(16 * 60)
    assert owed_gpu_s(HOUR, 8, PREMIUM) == pytest.approx(136 * 60)


def test_what_is_owed_is_repaid_on_the_whole_gang():
    assert repaid_after_s(HOUR, 8, STANDARD) == pytest.approx(60 * 20 / 3)
    assert repaid_after_s(HOUR, 8, BASIC) == 0


@pytest.mark.parametrize(("capacity", "gpus"), [(24, [8, 8, 8]), (16, [8, 8, 0]), (14, [8, 6, 0]), (12, [8, 4, 0]), (8, [8, 0, 0])])
def test_floors_come_first_then_the_rest_each_from_the_top_tier_down(capacity, gpus):
    assert share_by_tier([8, 8, 8], [PREMIUM, STANDARD, BASIC], capacity) == gpus


def test_ranks_that_share_a_gpu_take_turns():
    assert sliced_step(8, 2) == 4
    assert sliced_step(8, 2, overhead=0.03) == pytest.approx(4.12)
    assert gpu_fraction([(100.0, 2.0)], 8) == 0.25
