"""Recorded: the trace's own starts, and what is said where this cluster cannot follow them."""

import pytest

from schedules import job, simulate
from trainmaster.errors import ParamError
from trainmaster.policies.recorded import Recorded


def test_every_job_starts_when_it_did_at_no_restart_cost():
    jobs = [job("a", 0, 4, 10, recorded_start_s=5), job("b", 1, 4, 10, recorded_start_s=15)]

    run = simulate(jobs, "1x4", Recorded(), restart_cost_s=30)

    assert run.held("a") == [(5, 15)]
    assert run.held("b") == [(15, 25)]  # idle GPUs from 1 to 5 are left idle, as they were
    assert run.result.notes == ("0 of 2 jobs did not find their GPUs free at their recorded start",)


def test_a_job_whose_gpus_are_not_free_starts_as_soon_as_they_are():
    jobs = [
        job("a", 0, 3, 10, recorded_start_s=0),
        job("late", 1, 4, 10, recorded_start_s=4),
        job("small", 2, 1, 5, recorded_start_s=5),  # passes the one that waits, as it did
        job("last", 3, 4, 1, recorded_start_s=30),
    ]

    run = simulate(jobs, "1x4", Recorded())

    assert run.held("small") == [(5, 10)]
    assert run.held("late") == [(10, 20)]
    assert run.held("last") == [(30, 31)]
    assert run.result.notes == (
        "1 of 4 jobs did not find their GPUs free at their recorded start, and started later by 6 s on average, 6 s at most",
    )


def test_those_that_wait_start_in_the_order_of_their_recorded_starts():
    jobs = [
        job("a", 0, 4, 10, recorded_start_s=0),
        job("b", 1, 4, 10, recorded_start_s=8),
        job("c", 2, 4, 10, recorded_start_s=7),
    ]

    run = simulate(jobs, "1x4", Recorded())

    assert run.held("c") == [(10, 20)]
    assert run.held("b") == [(20, 30)]


def test_a_job_without_a_record_or_with_one_before_its_submission_starts_when_eligible_and_is_counted():
    jobs = [
        job("a", 0, 1, 10, recorded_start_s=0),
        job("unknown", 3, 1, 10),
        job("before", 5, 1, 10, recorded_start_s=2),
        job("held-back", 5, 1, 10, eligible_s=20, recorded_start_s=6),
    ]

    run = simulate(jobs, "1x4", Recorded())

    assert run.held("unknown") == [(3, 13)]
    assert run.held("before") == [(5, 15)]
    assert run.held("held-back") == [(20, 30)]
    assert run.result.notes[1:] == (
        "2 jobs were recorded as started before they were eligible; they start when eligible",
        "1 jobs have no recorded start; they start when eligible",
    )


def test_a_trace_without_any_recorded_start_is_refused():
    with pytest.raises(ParamError, match="no job of this trace has one"):
        simulate([job("a", 0, 1, 10)], "1x4", Recorded())
