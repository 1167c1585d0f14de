"""Series over time: exact sums of events, and down-sampling that keeps means and extremes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.build import cluster, job, made_up, run
from metrics.test_summary import three_jobs
from trainmaster.engine.result import REJECTED
from trainmaster.metrics.series import gpus_in_use, gpus_waiting, jobs_waiting, node_use
from trainmaster.metrics.steps import Steps


def test_gpus_in_use_steps_only_where_something_changes():
    steps = gpus_in_use(three_jobs())

    assert steps.time_s.tolist() == [0, 10, 30, 50, 60]  # 10: one stops as the other starts
    assert steps.value.tolist() == [4, 4, 4, 1, 0]


def test_the_queue_holds_eligible_jobs_that_hold_nothing():
    assert jobs_waiting(three_jobs()).at([0, 9, 10, 20, 30, 49, 50, 99]).tolist() == [0, 0, 1, 2, 1, 1, 0, 0]
    assert gpus_waiting(three_jobs()).at([0, 10, 20, 30, 50]).tolist() == [0, 4, 5, 1, 0]


def test_a_job_that_never_starts_waits_for_ever_and_a_rejected_one_not_at_all():
    result = run([job("waits", 5.0), job("refused", 5.0)], {}, cluster(1, 1), unfinished={"refused": REJECTED})

    assert jobs_waiting(result).at([0, 5, 1e9]).tolist() == [0, 1, 1]


def test_a_node_is_used_for_the_share_of_the_bin_in_which_its_gpus_are_held():
    use = node_use(three_jobs(), np.array([0.0, 20.0, 40.0, 55.0, 80.0]))

    assert use[0].tolist() == pytest.approx([2, 2, 2 * 10 / 15, 0])
    assert use[1].tolist() == pytest.approx([2, 2, (2 * 10 + 5) / 15, 5 / 25])


def test_nodes_together_use_what_the_series_says_even_in_groups():
    result, edges_s = made_up(500), np.linspace(0, 70 * 86_400.0, 40)
    means = gpus_in_use(result).binned(edges_s)[1]

    assert node_use(result, edges_s).sum(axis=0) == pytest.approx(means)
    assert node_use(result, edges_s, np.arange(64) // 10).shape == (7, 39)
    assert node_use(result, edges_s, np.arange(64) // 10).sum(axis=0) == pytest.approx(means)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(-3, 3)), min_size=1, max_size=30), st.integers(1, 12))
def test_bins_keep_the_mean_and_the_extremes_of_every_second(events, bins):
    steps = Steps.of(np.array([float(time_s) for time_s, _ in events]), np.array([change for _, change in events]))
    seconds = np.array([sum(change for at_s, change in events if at_s <= second) for second in range(120)], float)
    edges_s = np.linspace(0, 120, bins + 1) // 1

    least, mean, greatest = steps.binned(edges_s)
    for k in range(bins):
        inside = seconds[int(edges_s[k]) : int(edges_s[k + 1])]
        assert (least[k], greatest[k]) == (inside.min(), inside.max())
        assert mean[k] == pytest.approx(inside.mean())


def test_before_the_first_step_there_is_nothing():
    steps = Steps(np.array([10.0, 20.0]), np.array([3.0, 0.0]))

    assert steps.at([9.9, 10.0, 20.0]).tolist() == [0, 3, 0]
    assert steps.integral([0.0, 15.0, 99.0]).tolist() == [0, 15, 30]
    assert steps.mean(np.array([5.0, 12.0]), np.array([15.0, 12.0])).tolist() == [1.5, 3]
