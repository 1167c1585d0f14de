"""Three engines, one schedule: the compiled walk, the walk ranked in Python, and the naive engine, byte for byte."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from engine.workloads import MORE, ORDERS, Case, cases, of_many_kinds, of_many_nodes, of_queues, restless, that_change, with_quotas
from naive import naive_simulate
from schedules import Schedule, cluster, job, policy
from trainmaster.engine.faults import Faults
from trainmaster.workload.jobs import JobTable

GOLDEN = Path(__file__).parent / "golden"
PARAMS = {"las": {"quantum_s": 120.0}, "tiresias-las": {"limits_gpu_s": (150.0, 600.0)}}


def check_the_three_agree(case: Case) -> Schedule:
    """Returns what the compiled engine did."""
    compiled, interpreted, naive = case.simulate(), case.simulate(interpreted=True), naively(case)
    for other in (interpreted, naive):
        assert compiled.jobs_csv() == other.jobs_csv()
        assert compiled.allocations_csv() == other.allocations_csv()
    return compiled


def naively(case: Case) -> Schedule:
    setup = dict(case.setup)
    faults = setup.pop("faults", None)
    outside = [(c.at_s, node, "here", up) for c in case.on.timeline for up, nodes in ((False, c.remove), (True, c.add)) for node in nodes]
    if faults:  # an endless stream; the first thousand are later than any of these workloads
        coming = faults.events(len(case.on.nodes), setup.pop("seed", 0))
        outside += [(time_s, node, "well", up) for _, (time_s, node, up) in zip(range(1_000), coming, strict=False)]
    outside.sort(key=lambda event: event[0])
    chosen = policy(case.policy, **case.params)
    checkpoint_s = faults.checkpoint_s if faults else 0.0
    return naive_simulate(JobTable.of(case.jobs), case.on, chosen, case.restart_cost_s, outside=outside, checkpoint_s=checkpoint_s, **setup)


@given(cases())
def test_the_three_engines_agree(case):
    check_the_three_agree(case)


@given(cases(jobs=restless()))
def test_they_agree_on_priorities_pinned_jobs_and_gangs_that_may_not_spread(case):
    check_the_three_agree(case)


@given(cases(jobs=of_queues(), on=with_quotas()))
def test_they_agree_on_quotas_borrowing_and_reclaim(case):
    check_the_three_agree(case)


@given(cases(jobs=of_many_kinds(), on=of_many_nodes()))
def test_they_agree_on_fractions_cpus_types_and_nodes_of_a_queue(case):
    check_the_three_agree(case)


@given(cases(on=that_change()))
def test_they_agree_while_nodes_come_and_go(case):
    check_the_three_agree(case)


@given(cases())
def test_they_agree_while_nodes_fail(case):
    faults = Faults(mtbf_s=100.0, mttr_s=20.0, checkpoint_s=15.0)
    check_the_three_agree(replace(case, setup=case.setup | {"faults": faults, "seed": 7}))


@pytest.mark.parametrize("name", ORDERS)
def test_they_agree_on_many_nodes_and_a_long_line(name):
    """More nodes than fit one word of a bucket, and classes with several jobs that wait."""
    random = np.random.Generator(np.random.Philox(7))
    submit_s = np.cumsum(random.exponential(3.0, 120))
    jobs = [job(f"j{i}", float(submit_s[i]), int(random.choice([1, 1, 2, 4, 16])), float(random.lognormal(4, 1.2))) for i in range(120)]

    check_the_three_agree(Case(jobs, cluster("3x8+70x1"), name, PARAMS.get(name, {}), 3.0))


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [
    cases(), cases(jobs=restless()), cases(jobs=of_queues(), on=with_quotas()), cases(jobs=of_many_kinds(), on=of_many_nodes()),
    cases(on=that_change()),
], ids=["plain", "restless", "quotas", "kinds", "timeline"])  # fmt: skip
def test_they_agree_on_thousands_of_workloads(drawn):
    settings(MORE)(given(drawn)(lambda case: check_the_three_agree(case) and None))()


# ------------------------------------------------------------------------------------------------- sixty jobs, their schedules in files


def sixty_jobs() -> list:
    """Bursts of arrivals, gangs of 1 to 8 (some may not spread), long tails: about 1.3 times what the cluster can do."""
    random = np.random.Generator(np.random.Philox(60))
    submit_s = np.cumsum(random.exponential(25.0, 60) * random.choice([0.0, 1.0, 2.0], 60)).round(1)
    gangs = random.choice([1, 1, 1, 2, 2, 4, 8], 60)
    work_s = random.lognormal(4.5, 1.2, 60).round(1)
    return [
        job(f"job-{i:02}", float(submit_s[i]), int(gangs[i]), float(work_s[i]), max_nodes=1 if gangs[i] == 4 and i % 2 else 0)
        for i in range(60)
    ]


@pytest.mark.parametrize("name", ORDERS)
def test_sixty_jobs_have_the_schedule_of_the_golden_file(name):
    """TRAINMASTER_GOLDEN=update writes the files anew; their diff is reviewed."""
    run = check_the_three_agree(Case(sixty_jobs(), cluster("3x4+1x8"), name, PARAMS.get(name, {}), 10.0))

    path = GOLDEN / f"sixty-jobs-{name}.csv"
    if os.environ.get("TRAINMASTER_GOLDEN") == "update":
        path.parent.mkdir(exist_ok=True)
        path.write_text(run.allocations_csv())
    assert run.allocations_csv() == path.read_text()
