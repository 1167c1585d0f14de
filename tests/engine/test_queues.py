"""Queues: guaranteed quotas, borrowing and reclaim, and nodes of a queue's own. Each case also compiled and interpreted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.workloads import workloads
from schedules import job, policy, simulate
from trainmaster.cluster.cluster import Cluster, Node, QueueSpec
from trainmaster.errors import ParamError
from trainmaster.policies.base import Decision, NoParams, Policy

FIFO, GREEDY, SRTF = policy("fifo"), policy("fifo-greedy"), policy("srtf")


def quotas(nodes: str, borrow: str = "", **gpus: float) -> Cluster:
    """`quotas("1x8", "ab", a=4, b=4)`: one node of 8, two queues of 4 GPUs that may borrow."""
    count, each = map(int, nodes.split("x"))
    return Cluster.of([Node(gpus=each)] * count, {name: QueueSpec(quota_gpus=quota, borrow=name in borrow) for name, quota in gpus.items()})


def test_a_queue_that_does_not_borrow_stops_at_its_quota(run):
    jobs = [job(f"j{i}", 0, 2, 10, queue="a") for i in range(3)]

    schedule = run(jobs, quotas("1x8", a=4, b=4), FIFO)

    assert [schedule.held(f"j{i}") for i in range(3)] == [[(0, 10)], [(0, 10)], [(10, 20)]]


def test_a_queue_that_borrows_takes_what_is_idle(run):
    jobs = [job(f"j{i}", 0, 2, 10, queue="a") for i in range(5)]

    schedule = run(jobs, quotas("1x8", "a", a=4, b=4), FIFO)

    assert [schedule.held(f"j{i}")[0][0] for i in range(5)] == [0, 0, 0, 0, 10]


def test_jobs_within_quota_go_before_borrowers_whatever_the_order(run):
    """Both ask at 0 for the last two GPUs; the shorter one would borrow them."""
    own, borrower, within = job("own", 0, 2, 5, queue="a"), job("borrower", 0, 2, 6, queue="a"), job("within", 0, 2, 100, queue="b")

    schedule = run([own, borrower, within], quotas("1x4", "ab", a=2, b=2), SRTF)

    assert schedule.held("within") == [(0, 100)]
    assert schedule.held("borrower") == [(5, 11)]


def test_a_job_within_quota_displaces_borrowers_the_last_in_order_first(run):
    """Also under a policy that does not preempt."""
    borrowers = [job(f"b{i}", i, 2, 100, queue="b") for i in range(4)]

    schedule = run([*borrowers, job("own", 10, 4, 20, queue="a")], quotas("1x8", "b", a=4, b=2), FIFO)

    assert schedule.held("own") == [(10, 30)]
    assert schedule.held("b0") == [(0, 100)]
    assert schedule.held("b1") == [(1, 101)]
    assert schedule.held("b2") == [(2, 10), (30, 122)]
    assert schedule.held("b3") == [(3, 10), (30, 123)]


def test_reclaim_takes_no_more_than_it_needs(run):
    borrowers = [job(f"b{i}", i, 1, 100, queue="b") for i in range(4)]

    schedule = run([*borrowers, job("own", 10, 2, 20, queue="a")], quotas("1x4", "b", a=2, b=0), GREEDY)

    assert [len(schedule.held(f"b{i}")) for i in range(4)] == [1, 1, 2, 2]


def test_nobody_is_displaced_for_a_borrower(run):
    schedule = run([job("b", 0, 4, 50, queue="b"), job("a", 5, 4, 10, queue="a")], quotas("1x4", "ab", a=2, b=2), FIFO)

    assert schedule.held("b") == [(0, 50)]
    assert schedule.held("a") == [(50, 60)]


def test_borrowers_stay_where_the_job_within_quota_could_not_start_anyway(run):
    """Found by the naive engine: guarantees of 8 + 8 on 8 GPUs; `c` was stopped for `b`, which did not fit with or without."""
    jobs = [job("a", 0, 6, 100, queue="a"), job("c", 0, 2, 50, queue="c"), job("b", 10, 4, 20, queue="b")]

    schedule = run(jobs, quotas("1x8", "c", a=8, b=8, c=0), FIFO)

    assert schedule.held("c") == [(0, 50)]
    assert schedule.held("b") == [(100, 120)]


def test_a_job_without_a_queue_borrows(run):
    schedule = run([job("guest", 0, 4, 50), job("own", 5, 2, 10, queue="a")], quotas("1x4", a=2), GREEDY)

    assert schedule.held("guest") == [(0, 5), (15, 60)]
    assert schedule.held("own") == [(5, 15)]


def test_priority_does_not_lift_a_borrower_over_a_guarantee(run):
    schedule = run([job("rich", 0, 4, 50, queue="b", priority=9), job("own", 5, 2, 10, queue="a")], quotas("1x4", "b", a=2, b=0), SRTF)

    assert schedule.held("own") == [(5, 15)]


def test_a_gang_larger_than_a_quota_that_may_not_borrow_is_unschedulable(run):
    schedule = run([job("big", 0, 3, 5, queue="a"), job("small", 0, 2, 5, queue="a")], quotas("1x4", a=2), FIFO)

    assert list(schedule.result.state) == ["unschedulable", "finished"]
    assert schedule.result.reason[0] == "a gang of 3 is more than the quota of queue a, which does not borrow"


@given(workloads(queue=st.sampled_from("ab")))
def test_queues_that_never_borrow_never_exceed_their_quota(jobs):
    schedule = simulate(jobs, quotas("2x4", a=3, b=4), SRTF)

    queue = {job.id: job.queue for job in jobs}
    for instant in schedule.allocations:
        for name, quota in (("a", 3000), ("b", 4000)):
            assert sum(milli for h in instant.holdings if queue[h.id] == name for _, milli in h.parts) <= quota


# ------------------------------------------------------------------------------------------------- nodes of a queue


OWNED = Cluster.of([Node(gpus=4, queues=("a",)), Node(gpus=4, queues=("b",))])


def test_nodes_of_a_queue_have_their_own_head_of_line(run):
    jobs = [job("a1", 0, 4, 50, queue="a"), job("a2", 1, 4, 10, queue="a"), job("b1", 2, 4, 10, queue="b"), job("b2", 3, 1, 10, queue="b")]

    schedule = run(jobs, OWNED, FIFO)

    assert schedule.held("a2") == [(50, 60)]  # the head of a's line
    assert schedule.held("b1") == [(2, 12)]  # which is not in b's way
    assert schedule.held("b2") == [(12, 22)]


def test_nodes_of_a_queue_take_nobody_else(run):
    schedule = run([job("a", 0, 4, 10, queue="a"), job("c", 0, 1, 10, queue="c"), job("none", 0, 1, 10)], OWNED, FIFO)

    assert schedule.nodes("a") == [(0,)]
    assert list(schedule.result.state) == ["finished", "unschedulable", "unschedulable"]
    assert schedule.result.reason[1] == "no node of this cluster is for queue c"


def test_a_gang_may_span_its_own_nodes_and_open_ones(run):
    on = Cluster.of([Node(gpus=2), Node(gpus=2, queues=("a",)), Node(gpus=2, queues=("b",))])

    schedule = run([job("gang", 0, 4, 10, queue="a"), job("other", 0, 2, 10, queue="b")], on, FIFO)

    assert sorted(schedule.nodes("gang")[0]) == [0, 1]
    assert schedule.nodes("other") == [(2,)]


# ------------------------------------------------------------------------------------------------- whole-cluster policies


class Plans(Policy):
    name, params_type = "plans", NoParams

    def decide(self, view, memory):
        return Decision()


def test_a_policy_for_the_whole_cluster_that_knows_no_quotas_is_refused_in_one_line():
    with pytest.raises(ParamError, match=r"^--policy: plans plans the whole cluster and .* quotas; leave `quota_gpus` out"):
        simulate([job("a", 0, 1, 5, queue="a")], quotas("1x4", a=2), Plans())
