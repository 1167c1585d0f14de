"""Starting and stopping that take time: promises, drains, and who holds what meanwhile. One executor, no second schedule."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from engine.workloads import cases
from schedules import job, policy, schedule_of, simulate


def test_a_newcomer_waits_until_the_stopped_job_has_gone_and_then_starts():
    long, short = job("long", 0, 4, 100), job("short", 30, 4, 10)

    run = simulate([long, short], "1x4", policy("srtf"), start_delay_s=5, stop_delay_s=10)

    assert run.held("long") == [(0, 40), (55, 135)]  # asked to go at 30, gone at 40; runs 5..30 and 60..135
    assert run.held("short") == [(40, 55)]  # promised at 30
    assert run.result.attained_gpu_s.tolist() == [4 * 120.0, 4 * 15.0]
    assert run.result.overhead_gpu_s.tolist() == [4 * (5 + 10 + 5.0), 4 * 5.0]


def test_a_promise_taken_back_before_it_is_kept_preempts_nobody():
    long, second, third = job("long", 0, 4, 100), job("second", 30, 4, 20), job("third", 35, 4, 10)

    run = simulate([long, second, third], "1x4", policy("srtf"), stop_delay_s=10)

    assert run.held("long") == [(0, 40), (70, 140)]
    assert run.held("third") == [(40, 50)]  # the GPUs that were promised to the second
    assert run.held("second") == [(50, 70)]
    assert [fate.preemptions for fate in run.fates.values()] == [1, 0, 0]


def test_free_gpus_of_a_node_go_to_promises_in_the_order_in_which_they_were_made():
    jobs = [job("a", 0, 2, 100), job("b", 0, 2, 50), job("c", 10, 2, 1), job("d", 10.5, 2, 0.5)]

    run = simulate(jobs, "1x4", policy("srtf"), stop_delay_s=8)

    assert run.held("c") == [(18, 19)]  # `a` was stopped for it at 10
    assert run.held("d") == [(18.5, 19)]  # and `b` at 10.5
    assert run.held("a") == [(0, 18), (19, 109)]
    assert run.held("b") == [(0, 18.5), (19, 58.5)]


def test_a_whole_gpu_is_not_made_of_what_is_left_of_two_shared_ones():
    sharers = [job("p", 0, 0.6, 5), job("q", 0, 0.5, 100), job("r", 0, 0.4, 100)]  # p and r on one GPU, q on the other
    first, second = job("whole", 10, 1, 5, priority=1), job("part", 10, 0.6, 5, priority=1)

    run = simulate([*sharers, first, second], "1x2", policy("srtf"), stop_delay_s=8)

    assert run.held("part") == [(10, 15)]  # beside r
    assert run.held("whole") == [(18, 23)]  # q was stopped for it at 10: until 18 half of its GPU is not free


def test_a_job_is_not_started_again_while_its_last_attempt_drains():
    jobs = [job("first", 0, 4, 31), job("long", 0, 4, 100), job("urgent", 30, 4, 1, priority=1)]

    run = simulate(jobs, "2x4", policy("srtf"), stop_delay_s=50)

    assert run.held("urgent") == [(80, 81)]
    assert run.held("long") == [(0, 80), (80, 150)]  # the node of `first` is free, and promised to it, from 31 on
    assert run.nodes("long") == [(1,), (0,)]


def test_a_job_keeps_its_gpus_for_the_least_time_it_is_granted():
    long, short = job("long", 0, 4, 100), job("short", 30, 4, 10)

    run = simulate([long, short], "1x4", policy("srtf"), min_run_s=60)

    assert run.held("long") == [(0, 60), (70, 110)]
    assert run.held("short") == [(60, 70)]


def test_a_job_is_preempted_no_more_often_than_it_may_be():
    jobs = [job("long", 0, 4, 100), *(job(f"s{i}", 10 + 20 * i, 4, 5) for i in range(4))]

    run = simulate(jobs, "1x4", policy("srtf"), most_preemptions=2)

    assert run.fates["long"].preemptions == 2
    assert run.held("long") == [(0, 10), (15, 30), (35, 110)]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_delays_of_zero_change_nothing(case):
    plain = case.prepare()
    handed = case.prepare()
    handed.hand_to(handed.executor)

    one, other = schedule_of(plain, plain.run()), schedule_of(handed, handed.run())

    assert other.jobs_csv() == one.jobs_csv()
    assert other.allocations_csv() == one.allocations_csv()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_no_gpu_is_given_twice_while_jobs_drain_and_every_job_ends(case):
    simulation = case.prepare(start_delay_s=3.0, stop_delay_s=7.0)
    result = simulation.run()
    run = schedule_of(simulation, result)

    for held in run.allocations:
        assert held.gpus_overcommitted() == []
    undelayed = case.prepare().run()
    assert set(np.flatnonzero(result.state == "finished")) == set(np.flatnonzero(undelayed.state == "finished"))
