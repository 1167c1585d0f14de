"""When slurmctld looks: at the ticks of a second and the cycles of its own threads, not at every event."""

from __future__ import annotations

import numpy as np
import pytest

from policies.helpers import limited
from schedules import simulate
from trainmaster.policies.slurm import Slurm

MAIN = {"SchedulerType": "sched/builtin", "batch_sched_delay": 0}  # the main scheduler alone


def test_a_submission_is_seen_at_the_next_tick():
    run = simulate([limited("a", 0.25, 4, 10)], "1x4", Slurm(**MAIN))

    assert run.held("a") == [(1, 11)]


def test_submissions_are_looked_at_no_more_often_than_batch_sched_delay():
    jobs = [limited("a", 0, 1, 60), limited("b", 1, 1, 60), limited("c", 4, 1, 60)]

    run = simulate(jobs, "1x4", Slurm(SchedulerType="sched/builtin"))  # 3 s

    assert [run.held(id)[0][0] for id in "abc"] == [0, 3, 6]


@pytest.mark.parametrize(("settings", "start_s"), [({}, 11), ({"Epilog": "/bin/true"}, 10.5), ({"Epilog": "/bin/true", "defer": True}, 11)])
def test_a_job_that_ends_is_followed_at_a_tick_or_where_nodes_run_an_epilog_at_once(settings, start_s):
    jobs = [limited("a", 0, 4, 10.5), limited("b", 1, 4, 10)]

    run = simulate(jobs, "1x4", Slurm(**MAIN, **settings))

    assert run.held("b") == [(start_s, start_s + 10)]


def test_two_looks_are_sched_min_interval_apart():
    jobs = [limited("a1", 0, 2, 10.5), limited("a2", 0, 2, 10.75), limited("b1", 1, 2, 10), limited("b2", 1, 2, 10)]

    run = simulate(jobs, "1x4", Slurm(**MAIN, Epilog="/bin/true", sched_min_interval=400_000))

    assert run.held("b1") == [(10.5, 20.5)]
    assert run.held("b2")[0][0] == pytest.approx(10.9)


def test_backfill_that_has_nothing_to_do_asks_every_tick():
    """Its cycles at 0 and 30 leave nobody waiting; what comes at 100.5 need not wait for 120."""
    jobs = [limited("a", 0, 3, 600), limited("b", 100.5, 4, 300), limited("short", 100.5, 1, 60)]

    run = simulate(jobs, "1x4", Slurm())

    assert run.held("short") == [(101, 161)]


def test_backfill_that_somebody_waits_for_keeps_its_cycles():
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 4, 300), limited("short", 100.5, 1, 60)]

    run = simulate(jobs, "1x4", Slurm())

    assert run.held("short") == [(120, 180)]


# ------------------------------------------------------------------------------------------------- how plans count


def cycle(now_s, runs, waits, open_to=None, seq=None):
    """Four nodes of eight GPUs; `runs`: (node, GPUs, end), `waits`: (nodes, GPUs on each, limit). When each starts, and where."""
    from trainmaster.policies.kernels.slurm import backfill

    free = np.full((4, 3), 8000)
    for node, gpus, _ in runs:
        free[node, 0] -= gpus * 1000
    parts = np.array([(holder, node, gpus * 1000, 0, 0) for holder, (node, gpus, _) in enumerate(runs)]).T.copy()
    count, each = np.array([nodes for nodes, _, _ in waits]), np.array([[gpus * 1000, 0, 0] for _, gpus, _ in waits])
    given, planned_s = backfill(
        now_s, 86_400.0, 60.0, 30.0, 500, free, np.ones(4, bool), np.ones((len(waits), 4), bool) if open_to is None else open_to, parts,
        np.array([end_s for _, _, end_s in runs]), np.arange(len(runs)) if seq is None else np.array(seq), each, count, count * each[:, 0],
        np.array([float(limit_s) for _, _, limit_s in waits]), 100 + np.arange(len(waits)),
    )  # fmt: skip
    return planned_s.tolist(), [np.flatnonzero(row > 0).tolist() for row in given]


def test_a_state_of_the_real_slurm_is_planned_as_it_planned_it():
    """Slurm 22.05.8 started the last three on the fourth node: the gangs of eight behind the head are planned for when its slot is over."""
    runs = [(3, 4, 86.0), (0, 1, 89.0), (2, 8, 149.0)]
    waits = [(2, 8, 60), (1, 8, 120), (1, 8, 120), (1, 1, 120), (1, 1, 180), (1, 1, 300)]

    planned_s, nodes = cycle(32.0, runs, waits)

    assert planned_s == [89, 120, 120, 32, 32, 32]
    assert nodes[3:] == [[3], [3], [3]]


@pytest.mark.parametrize(("seq", "planned"), [((0, 1, 2), 129), ((0, 2, 1), 183)])
def test_of_two_that_end_together_the_one_submitted_first_is_let_go_first(seq, planned):
    """The job may not use the second node. If its holder is last of the two, it does not close the group, and the next end is taken in."""
    runs = [(0, 8, 183.0), (1, 8, 129.0), (2, 8, 129.0)]
    open_to = np.array([[True, False, True, False]])

    assert cycle(69.0, runs, [(1, 4, 60)], open_to, seq)[0] == [planned]


def test_of_runs_of_nodes_the_shortest_is_taken_not_the_fullest():
    """Nodes 0 and 1 have one GPU free each, node 3 has seven: it is alone, and they are neighbours."""
    runs = [(0, 7, 600.0), (1, 7, 600.0), (2, 8, 600.0), (3, 1, 600.0)]

    assert cycle(0.0, runs, [(1, 1, 60)])[1] == [[3]]
