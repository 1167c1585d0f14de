"""First come and shortest first, by hand."""

import pytest

from schedules import job, simulate
from trainmaster.errors import ParamError
from trainmaster.policies.fifo import Fifo, FifoGreedy
from trainmaster.policies.shortest import Sjf, Srsf, Srtf

GANGS = [job("a", 0, 3, 100), job("b", 1, 2, 50), job("c", 2, 1, 10)]  # on four GPUs b does not fit beside a, c does


def test_fifo_blocks_behind_a_gang_that_does_not_fit():
    run = simulate(GANGS, "1x4", Fifo())

    assert run.held("b") == [(100, 150)]
    assert run.held("c") == [(100, 110)]


def test_fifo_greedy_passes_over_it():
    run = simulate(GANGS, "1x4", FifoGreedy())

    assert run.held("c") == [(2, 12)]
    assert run.held("b") == [(100, 150)]


def test_fifo_without_blocking_is_fifo_greedy():
    assert simulate(GANGS, "1x4", Fifo(blocking=False)).allocations_csv() == simulate(GANGS, "1x4", FifoGreedy()).allocations_csv()


def test_sjf_never_stops_a_running_job():
    run = simulate([job("long", 0, 1, 100), job("mid", 1, 1, 50), job("short", 2, 1, 10)], "1x1", Sjf())

    assert run.held("long") == [(0, 100)]
    assert run.held("short") == [(100, 110)]
    assert run.held("mid") == [(110, 160)]


def test_srtf_preempts_for_a_shorter_job_and_not_for_an_equal_one():
    run = simulate([job("long", 0, 1, 100), job("short", 40, 1, 10), job("equal", 60, 1, 50)], "1x1", Srtf())

    assert run.held("long") == [(0, 40), (50, 110)]  # at 60 it has 50 s left, as many as the newcomer
    assert run.held("equal") == [(110, 160)]


def test_srsf_counts_gpus_as_well():
    wide, narrow = job("wide", 0, 4, 10), job("narrow", 0, 1, 30)  # 40 GPU-s against 30

    run = simulate([wide, narrow], "1x4", Srsf())

    assert run.held("narrow") == [(0, 30)]
    assert run.held("wide") == [(30, 40)]


def test_an_estimate_takes_the_place_of_the_truth():
    liar, honest = job("liar", 0, 1, 100, limit_s=10), job("honest", 0, 1, 20, limit_s=20)

    run = simulate([liar, honest], "1x1", Sjf(estimate="limit"))

    assert run.held("liar") == [(0, 100)]
    assert run.held("honest") == [(100, 120)]


def test_predictions_come_from_ended_jobs_of_the_same_user():
    """Before anybody has ended nothing is known; then ann's jobs are expected to take 100 s and bob's 10."""
    jobs = [job("a1", 0, 1, 100, user="ann"), job("b1", 1, 1, 10, user="bob"),
            job("a2", 120, 1, 5, user="ann"), job("block", 110, 1, 50, user="eve"), job("b2", 130, 1, 90, user="bob")]  # fmt: skip

    run = simulate(jobs, "1x1", Sjf(estimate="predicted"))

    assert run.held("block") == [(110, 160)]
    assert run.held("b2") == [(160, 250)]  # expected 10 s, takes 90
    assert run.held("a2") == [(250, 255)]


def test_a_missing_estimate_is_refused_and_the_choices_named():
    with pytest.raises(ParamError, match=r"no time limits.*predicted, oracle"):
        simulate([job("a", 0, 1, 1)], "1x1", Sjf(estimate="limit"))


def test_only_the_oracle_cheats():
    assert Srtf().cheats()
    assert not Srtf(estimate="limit").cheats()
    assert not Fifo().cheats()
