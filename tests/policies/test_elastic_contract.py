"""What must hold of every policy that plans with measured speeds, whatever it makes of the sizes of gangs.

The workloads are of one small application (`tiny_profiles.py`): epochs that end, batches to choose, up to three nodes measured. The
same promises for policies that leave gangs as they are: `engine/test_properties.py`.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.test_properties import hide_the_truth, instrument, registered
from engine.workloads import clusters
from schedules import Schedule, job, prepare, schedule_of, simulate
from trainmaster.cluster.cluster import Cluster
from trainmaster.engine.faults import Faults
from trainmaster.engine.loop import Simulation
from trainmaster.engine.result import FINISHED, REJECTED, UNSCHEDULABLE
from trainmaster.policies.base import Policy
from trainmaster.policies.registry import policies
from trainmaster.workload.jobs import Job, JobTable
from trainmaster.workload.perf.profiles import load_profiles
from workload.perf.tiny_profiles import FILES, write_profiles

NAMES = [name for name, cls in policies().items() if "profile" in cls.needs]
ADMITS = ("elasticflow",)  # may refuse a job with a deadline
ROUNDS = st.sampled_from([0.0, 0.0, 5.0, 30.0])
FEW = settings(max_examples=12)


@cache
def profiles(times: float = 1.0) -> Path:
    """The measured application; `times` as slow."""
    slower = {}
    for name in ("placements.csv", "scalability.csv"):
        header, *rows = FILES[name].splitlines()
        scaled = [[*row.split(",")[:-2], *(repr(float(cell) * times) for cell in row.split(",")[-2:])] for row in rows]
        slower[name.replace(".csv", "_csv")] = "\n".join([header, *map(",".join, scaled)]) + "\n"
    return write_profiles(Path(mkdtemp()), **slower)


@st.composite
def elastic_jobs(draw: st.DrawFn, most: int = 8) -> list[Job]:
    """Rigid ones too: a job may leave out either bound. Some have a deadline, some are guaranteed what they ask for."""
    jobs = []
    for number in range(draw(st.integers(1, most))):
        gpus = draw(st.sampled_from([1, 1, 2, 3, 4, 12]))
        least = draw(st.sampled_from([None, 1, 2, min(gpus, 4)]))
        largest = draw(st.sampled_from([None, gpus, max(gpus, 8)]))
        submit_s = float(draw(st.integers(0, 60)))
        jobs.append(Job(
            id=f"j{number}", seq=number, submit_s=submit_s, gpus=gpus, work=float(draw(st.integers(1, 30))), work_in_steps=True,
            model="toy", batch_size=draw(st.sampled_from([8, 16, 32])),
            min_gpus=None if least is None else min(least, gpus), max_gpus=largest,
            deadline_s=draw(st.sampled_from([None, submit_s + 20, submit_s + 400])),
            service_class=draw(st.sampled_from([None, None, "soft", "guaranteed"])),
        ))  # fmt: skip
    return jobs


def ready(jobs: list[Job], on: Cluster, policy: Policy[Any], restart_cost_s: float = 3.0, *, times: float = 1.0,
          **setup: Any) -> Simulation:
    table, model = load_profiles(profiles(times)).bind(JobTable.of(jobs), on)
    return prepare(table, on, policy, restart_cost_s, model=model, **setup)


def simulated(*args: Any, **options: Any) -> Schedule:
    simulation = ready(*args, **options)
    return schedule_of(simulation, simulation.run())


def check_sizes(run: Schedule) -> None:
    """No GPU is given twice; a gang is one piece, and within its bounds."""
    table = run.result.jobs
    bounds = dict(zip(table.id.tolist(), zip(table.min_gpus.tolist(), table.max_gpus.tolist(), strict=True), strict=True))
    for instant in run.allocations:
        assert instant.gpus_overcommitted() == []
        holders = [holding.id for holding in instant.holdings]
        assert len(holders) == len(set(holders))
        for holding in instant.holdings:
            gpus, (least, most) = sum(milli for _, milli in holding.parts) / 1000, bounds[holding.id]
            assert gpus == int(gpus) > 0
            assert not gpus < least, f"{holding.id} runs on {gpus:g} of at least {least:g}"
            assert not gpus > most


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(elastic_jobs(), clusters(), ROUNDS, st.sampled_from([0.0, 3.0]))
def test_no_gpu_is_overcommitted_and_no_elastic_job_is_ever_below_its_minimum(name, jobs, on, round_s, restart_cost_s):
    check_sizes(simulated(jobs, on, registered(name), restart_cost_s, round_s=round_s))


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(elastic_jobs(), clusters())
def test_nor_while_nodes_fail(name, jobs, on):
    check_sizes(simulated(jobs, on, registered(name), faults=Faults(mtbf_s=80.0, mttr_s=15.0, checkpoint_s=10.0), seed=3))


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(elastic_jobs(), clusters(), ROUNDS)
def test_every_job_that_fits_ends_and_no_job_is_lost(name, jobs, on, round_s):
    result = simulated(jobs, on, registered(name), round_s=round_s).result

    assert sorted(result.jobs.id) == sorted(each.id for each in jobs)
    least = registered(name).least_gpus(result.jobs)
    for row, state in enumerate(result.state):
        assert (state == FINISHED) == (not math.isnan(result.finish_s[row]))
        if least[row] > on.gpus:
            assert state == UNSCHEDULABLE
        else:
            assert state == FINISHED or (state == REJECTED and name in ADMITS and not math.isnan(result.jobs.deadline_s[row]))


def test_an_elastic_job_is_unschedulable_only_if_its_minimum_fits_nowhere():
    jobs = [job("elastic", 0, 16, 80, min_gpus=2), job("rigid", 0, 16, 80), job("large", 0, 16, 80, min_gpus=8)]
    shared, alone = (simulate(jobs, "1x4", registered(name)) for name in ("lyra", "srtf"))

    assert {id: math.isfinite(fate.finish_s) for id, fate in shared.fates.items()} == {"elastic": True, "rigid": False, "large": False}
    assert shared.result.reason.tolist()[1:] == ["a gang of 16 on 1 node of 4 (4 GPUs)", "a gang of at least 8 on 1 node of 4 (4 GPUs)"]
    assert set(alone.result.state) == {UNSCHEDULABLE}  # a policy that gives every job what it asked for


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(elastic_jobs(), clusters(), st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_bytes_and_the_order_of_rows_changes_nothing(name, jobs, on, seed):
    first, again, turned = (simulated(rows, on, registered(name), seed=seed) for rows in (jobs, jobs, jobs[::-1]))

    assert first.jobs_csv() == again.jobs_csv()
    assert sorted(first.jobs_csv().splitlines()) == sorted(turned.jobs_csv().splitlines())
    assert first.allocations_csv() == again.allocations_csv() == turned.allocations_csv()


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(elastic_jobs(), clusters())
def test_a_policy_does_not_write_to_what_it_is_shown(name, jobs, on):
    simulation = ready(jobs, on, registered(name))
    state = simulation.state

    def watched(decide):
        def call(*arguments):
            before = state.jobs.tobytes(), state.nodes.tobytes()
            answer = decide(*arguments)
            assert before == (state.jobs.tobytes(), state.nodes.tobytes())
            return answer

        return call

    instrument(simulation, watched)
    simulation.run()


@pytest.mark.parametrize("name", ["afs-p", "easyscale", "pollux", "sia"])  # edf and elasticflow are told the iterations on submission
@FEW
@given(elastic_jobs(), clusters())
def test_a_policy_that_declares_no_oracle_decides_the_same_where_the_truth_is_hidden(name, jobs, on):
    honest, simulation = simulated(jobs, on, registered(name)), ready(jobs, on, registered(name))
    hide_the_truth(simulation)

    assert honest.allocations_csv() == schedule_of(simulation, simulation.run()).allocations_csv()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("pollux", "sia")])  # their fits begin at so many seconds
@FEW
@given(elastic_jobs(), clusters(), ROUNDS)
def test_doubling_every_time_doubles_every_jct(name, jobs, on, round_s):
    doubled = [
        dataclasses.replace(each, submit_s=2 * each.submit_s, deadline_s=None if each.deadline_s is None else 2 * each.deadline_s)
        for each in jobs
    ]
    once = simulated(jobs, on, registered(name), round_s=round_s)
    twice = simulated(doubled, on, registered(name, times=2), 6.0, times=2.0, round_s=2 * round_s)

    for each in jobs:
        assert twice.jct_s(each.id) == pytest.approx(2 * once.jct_s(each.id), rel=1e-9, nan_ok=True)
