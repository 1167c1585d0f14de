"""Slurm's main scheduler and backfill on clusters small enough to check by hand, and what holds of every schedule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.helpers import limited, workloads
from schedules import prepare, simulate
from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.policies.slurm import Slurm, split_over_nodes

MINUTE = 60
ALWAYS = {"bf_interval": 1.0}  # a cycle as often as Slurm allows



def of(*nodes: Node) -> Cluster:
    return Cluster(nodes=nodes, present=np.ones(len(nodes), bool))


# ------------------------------------------------------------------------------------------------- the main scheduler


def test_jobs_start_in_order_until_one_finds_no_room():
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 2, 60), limited("c", 2, 1, 60)]

    run = simulate(jobs, "1x4", Slurm(SchedulerType="sched/builtin"))

    assert run.held("b") == [(600, 660)]  # two GPUs are missing
    assert run.held("c") == [(600, 660)]  # one is free at 2, but b has shut the partition


def test_another_partition_on_the_same_nodes_is_shut_too():
    """sched/builtin: who finds no room takes the nodes of its partition away from everybody behind it."""
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 2, 60, queue="x"), limited("c", 2, 1, 60, queue="y")]

    run = simulate(jobs, "1x4", Slurm(SchedulerType="sched/builtin"))

    assert run.held("c") == [(600, 660)]


def test_a_partition_of_its_own_nodes_goes_on():
    nodes = (Node(gpus=4, queues=("x",)), Node(gpus=4, queues=("y",)))
    jobs = [limited("a", 0, 3, 600, queue="x"), limited("b", 1, 2, 60, queue="x"), limited("c", 2, 1, 60, queue="y")]

    run = simulate(jobs, of(*nodes), Slurm(SchedulerType="sched/builtin", batch_sched_delay=0))

    assert run.held("c") == [(2, 62)]


def test_no_more_than_default_queue_depth_jobs_are_tried():
    jobs = [limited("a", 0, 2, 600), *[limited(f"b{i}", 1, 1, 60, queue="x") for i in range(4)]]

    run = simulate(jobs, "1x4", Slurm(SchedulerType="sched/builtin", default_queue_depth=1, batch_sched_delay=0))

    assert [run.held(f"b{i}")[0][0] for i in range(4)] == [1, 61, 121, 181]  # one at a time: each end tries one job


def test_a_higher_tier_goes_before_any_priority():
    partitions = ("PartitionName=first PriorityTier=2", "PartitionName=main PriorityJobFactor=100")
    policy = Slurm(partitions=partitions, PriorityWeightPartition=1000)
    jobs = [limited("a", 0, 4, 60), limited("main", 1, 4, 60, queue="main"), limited("first", 2, 4, 60, queue="first")]

    run = simulate(jobs, "1x4", policy)

    assert run.held("first") == [(60, 120)]
    assert run.held("main") == [(120, 180)]


# ------------------------------------------------------------------------------------------------- backfill


def test_a_job_starts_early_if_it_ends_before_the_plan_of_the_one_ahead():
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 4, 300), limited("short", 2, 1, 540), limited("long", 2, 1, 660)]

    run = simulate(jobs, "1x4", Slurm())

    assert run.held("b") == [(600, 900)]  # planned for 600 by the limit of a
    assert run.held("short") == [(30, 570)]  # at the next cycle: 30 + 540 < 600
    assert run.held("long") == [(900, 1560)]  # 30 + 660 > 600


def test_a_cycle_comes_only_every_bf_interval():
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 4, 300), limited("short", 2, 1, 240)]

    run = simulate(jobs, "1x4", Slurm(bf_interval=120))

    assert run.held("short") == [(120, 360)]


def test_every_tested_job_is_planned_not_only_the_first():
    """c is planned behind b, and d may not delay it: conservative, where EASY would let d start."""
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 4, 600), limited("c", 1, 2, 600), limited("d", 1, 1, 1800)]

    run = simulate(jobs, "2x4", Slurm())

    assert run.nodes("a") == [(0,)] and run.nodes("b") == [(1,)]
    assert run.held("c") == [(600, 1200)] or run.held("c") == [(601, 1201)]
    assert run.held("d")[0][0] >= 600  # one GPU is free from the start, on the node that c is planned for


def test_plans_take_whole_nodes():
    """b needs half a node at 600; until then and after, nobody may use its other half beyond that time."""
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 2, 600), limited("c", 1, 1, 1200)]

    run = simulate(jobs, "1x4", Slurm())

    assert run.held("b") == [(600, 1200)]
    assert run.held("c") == [(600, 1800)]  # GPUs alone would have let it in at 30: 4 >= 2 + 1 at any time


def test_jobs_behind_bf_max_job_test_are_not_looked_at():
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 4, 300), limited("short", 2, 1, 60)]

    run = simulate(jobs, "1x4", Slurm(bf_max_job_test=1))

    assert run.held("short") == [(900, 960)]


def test_what_would_start_beyond_bf_window_is_not_planned():
    jobs = [limited("a", 0, 3, 7200), limited("b", 1, 4, 300), limited("long", 2, 1, 36_000)]

    near, far = simulate(jobs, "1x4", Slurm(bf_window=60)), simulate(jobs, "1x4", Slurm())

    assert far.held("b") == [(7200, 7500)]
    assert near.held("long") == [(30, 36_030)]  # nothing was reserved for b
    assert near.held("b")[0][0] == 36_030


def test_ends_within_half_a_minute_count_as_one():
    """a1 ends at 600, a2 at 620 by their limits: b, which needs one of their GPUs, is planned for 620."""
    jobs = [limited("a1", 0, 2, 600), limited("a2", 0, 2, 620), limited("b", 1, 2, 60)]
    run = prepare(jobs, "1x4", Slurm())
    run.clock["until_s"] = 60.0
    run.advance()

    assert run.memory["planned_s"][2] == 620


def test_limits_come_from_the_partition_where_a_job_has_none():
    partitions = ("PartitionName=main DefaultTime=9", "PartitionName=long MaxTime=11")
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 4, 300)]
    jobs += [limited("short", 2, 1, None, 60, queue="main"), limited("long", 2, 1, None, 60, queue="long")]

    run = simulate(jobs, "1x4", Slurm(partitions=partitions))

    assert run.held("short") == [(30, 90)]  # 9 minutes end before 600
    assert run.held("long") == [(900, 960)]  # 11 do not


# ------------------------------------------------------------------------------------------------- priority at work


def test_the_older_job_goes_first_only_once_its_age_counts():
    """Job size weighs 100, age 1000 an hour: after 10 minutes the small job has 167 - and the large one's size is 100 more."""
    policy = Slurm(PriorityWeightAge=1000, PriorityMaxAge="60", PriorityWeightJobSize=100, bf_interval=-1, batch_sched_delay=0)
    jobs = [limited("a", 0, 4, 900), limited("small", 1, 1, 900), limited("large", 899, 4, 60)]

    run = simulate(jobs, "1x4", policy)

    assert run.held("small") == [(900, 1800)]  # (900 - 1) / 3600 x 1000 = 249, + (1 + 1/4) / 2 x 100 = 62; large: 100
    assert run.held("large") == [(1800, 1860)]


def test_between_two_calculations_nobody_grows_older():
    policy = Slurm(PriorityWeightAge=10_000, PriorityMaxAge="60", PriorityWeightJobSize=100, PriorityCalcPeriod=20, bf_interval=-1,
                   batch_sched_delay=0)  # fmt: skip
    jobs = [limited("a", 0, 4, 900), limited("small", 1, 1, 900), limited("large", 899, 4, 60)]

    run = simulate(jobs, "1x4", policy)

    assert run.held("large") == [(900, 960)]  # the last calculation was at 0


def test_who_has_used_more_waits_longer():
    policy = Slurm(PriorityWeightFairshare=1000, bf_interval=-1)
    jobs = [limited("a", 0, 4, 600, user="ann"), limited("ann", 1, 4, 60, user="ann"), limited("bob", 2, 4, 60, user="bob")]

    run = simulate(jobs, "1x4", policy)

    assert run.held("bob") == [(600, 660)]
    assert run.held("ann") == [(660, 720)]


def test_usage_is_what_was_held_whether_or_not_anybody_waited():
    policy = Slurm(PriorityWeightFairshare=1000, PriorityDecayHalfLife="UNLIMITED", PriorityFlags=("NO_FAIR_TREE",))
    jobs = [limited("alone", 10, 2, 600, user="ann"), limited("later", 5000, 4, 100, user="bob"), limited("last", 6000, 1, 60, user="cat")]
    run = prepare(jobs, "1x4", policy)
    run.run()

    people = {name[1]: usage for name, usage in zip(run.memory["names"], run.memory["people"][0].tolist(), strict=True)}
    assert people == {"ann": pytest.approx(1200), "bob": pytest.approx(400), "cat": pytest.approx(60)}


def test_why_gives_the_points_of_each_factor():
    policy = Slurm(PriorityWeightJobSize=100, PriorityWeightQOS=50, qos=("high=10", "low=1"))
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 4, 300, service_class="high")]
    run = prepare(jobs, "1x4", policy)
    run.clock["until_s"] = 20.0
    run.advance()

    reason = policy.explain(run.record(), 1)

    assert reason.numbers["priority"] == 150 and reason.numbers["qos"] == 50
    assert "priority 150 (job_size 100, qos 50)" in reason.text


def test_planned_starts_are_told():
    jobs = [limited("a", 0, 3, 600), limited("b", 1, 4, 300)]
    run = prepare(jobs, "1x4", Slurm(bf_interval=1))
    run.clock["until_s"] = 60.0
    run.advance()

    assert run.policy.explain(run.record(), 1).numbers["planned_s"] == 600


# ------------------------------------------------------------------------------------------------- nodes


def test_a_gang_takes_the_fewest_nodes_in_equal_parts():
    nodes, everywhere = np.full(4, 8000), np.ones((3, 4), bool)

    count, each = split_over_nodes(np.array([4000, 16_000, 12_000]), everywhere, nodes)

    assert count.tolist() == [1, 2, 2] and each.tolist() == [4000, 8000, 6000]


def test_a_gang_that_no_equal_parts_hold_takes_what_it_finds():
    run = simulate([limited("a", 0, 11, 600)], of(Node(gpus=8), Node(gpus=3)), Slurm())

    assert run.held("a") == [(0, 600)]


def test_the_tightest_run_of_nodes_is_taken():
    """n0 and n2 have room, n1 has none: n0 alone is a run of two free GPUs, n2 and n3 of eight."""
    jobs = [limited("a", 0, 2, 600), limited("b", 0, 4, 600), limited("c", 1, 1, 600)]

    run = simulate(jobs, "4x4", Slurm())

    assert run.nodes("a") == [(0,)] and run.nodes("b") == [(1,)]
    assert run.nodes("c") == [(0,)]


def test_cpus_that_a_node_declares_are_planned_too():
    nodes = (Node(gpus=4, cpus=8), Node(gpus=4, cpus=8))
    jobs = [limited("a", 0, 1, 600, cpus=8), limited("b", 1, 1, 600, cpus=8), limited("c", 2, 1, 60, cpus=1)]

    run = simulate(jobs, of(*nodes), Slurm())

    assert run.nodes("a") == [(0,)] and run.nodes("b") == [(1,)]
    assert run.held("c") == [(600, 660)]  # GPUs are free, CPUs are not


# ------------------------------------------------------------------------------------------------- every schedule


@settings(max_examples=40)
@given(workloads(gpus=8))
def test_the_head_starts_no_later_than_it_was_ever_planned_for(jobs):
    """Some end before their limits, none after; plans of the others are no promises, as Slurm makes them anew on other nodes."""
    run = prepare(jobs, "2x4", Slurm(**ALWAYS, bf_resolution=1, group_s=1e-9))
    promised: dict[int, float] = {}
    decide = run.policy.decide

    def watched(view, memory):
        decision = decide(view, memory)
        waiting = np.flatnonzero(~view.jobs.running)
        if len(waiting):
            head, starts = int(waiting[0]), {line.row for line in decision.lines}
            seq = int(view.jobs.seq[head])
            assert view.now_s <= promised.get(seq, np.inf)
            if int(view.jobs.row[head]) not in starts and memory["cycle_s"] == view.now_s:
                promised[seq] = min(promised.get(seq, np.inf), float(memory["planned_s"][seq]))
        return decision

    run.policy.decide = watched  # type: ignore[method-assign]
    run.run()
    assert all(np.isfinite(list(promised.values())))


@settings(max_examples=60)
@given(st.data())
def test_who_starts_in_a_cycle_is_done_before_the_plans_of_those_ahead_begin(data):
    """Four nodes of four GPUs: whatever runs and waits, a node that starts somebody now is taken by no job ahead before that limit."""
    from trainmaster.policies.kernels.slurm import backfill

    runs = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), st.integers(1, 40)), max_size=8))
    shapes = st.sampled_from([(1, 1), (1, 3), (1, 4), (2, 4), (3, 2)])  # nodes, GPUs on each
    waits = data.draw(st.lists(st.tuples(shapes, st.integers(1, 40)), min_size=1, max_size=12))
    free, parts, ends_s = np.full((4, 3), 4000), [], []
    for node, gpus, end_s in runs:
        if free[node, 0] >= gpus * 1000:
            free[node, 0] -= gpus * 1000
            parts.append((len(ends_s), node, gpus * 1000, 0, 0))
            ends_s.append(100.0 + end_s)
    count = np.array([shape[0] for shape, _ in waits])
    each = np.array([[shape[1] * 1000, 0, 0] for shape, _ in waits])
    limit_s = np.array([float(limit) for _, limit in waits])

    def cycle(jobs: int):
        return backfill(100.0, 1e6, 1.0, 1e-9, 100, free.copy(), np.ones(4, bool), np.ones((jobs, 4), bool),
                        np.array(parts, np.int64).reshape(-1, 5).T.copy(), np.array(ends_s), np.arange(len(ends_s)), each[:jobs],
                        count[:jobs], count[:jobs] * each[:jobs, 0], limit_s[:jobs], len(ends_s) + np.arange(jobs))  # fmt: skip

    planned_s = np.full(len(waits), np.inf)
    for jobs in range(1, len(waits) + 1):  # who comes later in the order changes nothing for those ahead
        given, starts_s = cycle(jobs)
        assert np.array_equal(starts_s[: jobs - 1], planned_s[: jobs - 1], equal_nan=True)
        planned_s[:jobs] = starts_s
        assert ((given > 0).sum(axis=1) == np.where(given[:, 0] >= 0, count[:jobs], 0)).all()
    assert (free[:, 0] - np.maximum(given, 0).sum(axis=0) >= 0).all()
    assert not (planned_s < 100).any()  # nan: at no time until its limit is over is a node free that was not just before
    # with those who start now holding their nodes, those ahead can still start when they were planned for
    for first in np.flatnonzero((given[:, 0] < 0) & np.isfinite(planned_s)).tolist():
        later = free[:, 0].copy()
        for holder, node, milli, *_ in parts:
            later[node] += milli if ends_s[holder] <= planned_s[first] else 0
        for job in np.flatnonzero(given[:, 0] >= 0).tolist():
            later -= np.maximum(given[job], 0) if 100 + limit_s[job] > planned_s[first] else 0
        assert (later >= each[first, 0]).sum() >= count[first]


@settings(max_examples=30)
@given(workloads(gpus=8, priorities=True), st.sampled_from(["2x4", "3x4", "1x8"]))
def test_every_job_that_can_run_does(jobs, on):
    gpus = 8 if on != "3x4" else 12
    run = simulate(jobs, on, Slurm(PriorityWeightAge=100, PriorityWeightFairshare=100, PriorityWeightJobSize=10))

    assert all(len(run.held(job.id)) == 1 for job in jobs if job.gpus <= gpus)
