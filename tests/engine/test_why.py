"""Why a job is where it is: what a decision writes of every job, and the sentence made of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.workloads import Case, cases, restless, with_quotas, workloads
from schedules import job, policy, prepare
from trainmaster.cluster.cluster import Cluster, Node, QueueSpec
from trainmaster.policies.base import ListPolicy, NoParams, Verdict
from trainmaster.workload.jobs import Job

FOR_EVER = math.inf  # a service: so that the run ends with jobs that wait


@pytest.fixture(params=[False, True], ids=["compiled", "interpreted"])
def why(request):
    """Reasons by job id, from the record of the last decision."""

    def why(jobs, on, policy, **setup):
        simulation = prepare(jobs, on, policy, interpreted=request.param, **setup)
        simulation.run()
        record = simulation.record()
        ids = {int(seq): id for seq, id in zip(simulation.jobs.seq, simulation.jobs.id, strict=True)}
        return {ids[int(seq)]: policy.explain(record, int(seq)) for seq in record.seq}

    return why


def test_capacity_says_how_many_gpus_are_missing(why):
    reasons = why([job("service", 0, 3, FOR_EVER), job("waits", 1, 4, 10)], "1x4", policy("fifo"))

    assert reasons["service"].code in ("started", "kept")
    assert reasons["waits"].code == "capacity"
    assert reasons["waits"].numbers == {"short_gpus": 3}
    assert reasons["waits"].text == "3 GPUs short behind the jobs before it"


def test_a_job_behind_the_head_of_the_line_is_blocked(why):
    reasons = why([job("service", 0, 3, FOR_EVER), job("head", 1, 4, 10), job("behind", 2, 1, 10)], "1x4", policy("fifo"))

    assert reasons["head"].code == "capacity"
    assert reasons["behind"].code == "blocked"


def test_the_head_of_the_line_is_told_what_it_lacks_though_one_behind_asks_the_same(why):
    reasons = why([job("service", 0, 1, FOR_EVER), job("head", 1, 4, 10), job("behind", 2, 4, 10)], "1x4", policy("fifo"))

    assert reasons["head"].numbers == {"short_gpus": 1}
    assert reasons["behind"].code == "blocked"


@pytest.mark.parametrize("name", ["fifo-greedy", "srtf"])
def test_enough_gpus_on_no_node_is_fragmented(why, name):
    services = [job("s1", 0, 1, FOR_EVER, preemptible=False), job("s2", 0, 1, FOR_EVER, preemptible=False)]

    reasons = why([*services, job("gang", 1, 2, 10, max_nodes=1)], "2x2", policy(name), placement="spread")

    assert reasons["gang"].code == "fragmented"


def test_a_quota_that_is_used_says_so(why):
    on = Cluster.of([Node(gpus=4)], {"a": QueueSpec(quota_gpus=2)})

    reasons = why([job("service", 0, 2, FOR_EVER, queue="a"), job("waits", 1, 1, 5, queue="a")], on, policy("fifo"))

    assert reasons["waits"].code == "quota"


def test_a_pinned_job_says_so(why):
    reasons = why([job("pinned", 0, 4, FOR_EVER, preemptible=False), job("short", 1, 4, 5)], "1x4", policy("srtf"))

    assert reasons["pinned"].code == "pinned"
    assert reasons["short"].code == "capacity"
    assert reasons["short"].numbers == {"short_gpus": 4}


def test_a_kept_job_and_one_that_was_displaced(why):
    jobs = [job("long", 0, 2, FOR_EVER), job("kept", 0, 1, FOR_EVER, priority=1), job("urgent", 5, 2, FOR_EVER, priority=2),
            job("small", 6, 2, 30)]  # fmt: skip

    reasons = why(jobs, "1x4", policy("srtf"))

    assert reasons["urgent"].code in ("started", "kept")
    assert reasons["kept"].code == "kept"
    assert reasons["long"].code == "capacity"
    assert reasons["long"].numbers == {"short_gpus": 1}


def test_a_key_of_infinity_is_nothing_now(why):
    class Refuses(ListPolicy):
        name, params_type = "refuses", NoParams

        def rank(self, view, memory):
            return [math.inf if gpus == 2 else 0 for gpus in view.jobs.gpus]

    reasons = why([job("two", 0, 2, 5), job("one", 0, 1, 5)], "1x4", Refuses())

    assert reasons["two"].code == "policy-zero"
    assert "one" not in reasons


def test_a_job_that_no_decision_saw_is_not_in_the_record():
    simulation = prepare([job("a", 0, 1, 5)], "1x1", policy("fifo"))
    simulation.run()

    with pytest.raises(KeyError, match="was not active"):
        simulation.record().row(0)


def test_an_unfinished_job_says_why_in_the_result():
    simulation = prepare([job("service", 0, 3, FOR_EVER), job("waits", 1, 4, 10)], "1x4", policy("fifo"))

    assert list(simulation.run().reason) == ["a service: it has no end", "3 GPUs short behind the jobs before it"]


@given(cases(jobs=st.one_of(restless(), workloads(work=st.sampled_from([5.0, 20.0, 40.0, FOR_EVER])))))
def test_both_loops_give_the_same_reasons(case):
    """Services hold what others wait for, so that the last decision has something to say."""
    check_the_reasons([job("service", 0, 1, FOR_EVER, preemptible=False), *case.jobs], case)


@given(cases(workloads(queue=st.sampled_from(["a", "b", "c", None]), work=st.sampled_from([5.0, 20.0, FOR_EVER])), with_quotas()))
def test_both_loops_give_the_same_reasons_under_quotas(case):
    check_the_reasons(case.jobs, case)


def check_the_reasons(jobs: list[Job], case: Case) -> None:
    records = []
    for interpreted in (False, True):
        simulation = prepare(jobs, case.on, policy(case.policy, **case.params), case.restart_cost_s, interpreted=interpreted, **case.setup)
        simulation.run()
        records.append(simulation.record())

    compiled, interpreted = records
    assert compiled.seq.tolist() == interpreted.seq.tolist()
    demand = [(jobs[seq].gpus, jobs[seq].max_nodes, jobs[seq].queue) for seq in compiled.seq]
    for row, verdict in enumerate(interpreted.verdict):
        # a compiled walk speaks of the first of those that ask the same, and may not look at the others
        if demand.count(demand[row]) == 1 and verdict not in (Verdict.KEPT, Verdict.STARTED, Verdict.PINNED):
            assert Verdict(compiled.verdict[row]) == Verdict(verdict)
            assert compiled.short_gpus[row] == interpreted.short_gpus[row]
