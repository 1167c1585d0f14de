"""An engine that goes on from a snapshot decides what the one before it would have decided."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.workloads import cases, of_many_kinds, of_many_nodes, of_queues, restless, with_quotas
from schedules import job, policy, prepare
from trainmaster.engine import kernels
from trainmaster.engine.handover import Parts
from trainmaster.engine.loop import Simulation
from trainmaster.engine.snapshot import resume, slots_here, take


def run_until(simulation: Simulation, until_s: float) -> None:
    """Everything before `until_s`, decisions included."""
    clock = simulation.clock
    while True:
        clock["until_s"] = min(until_s, simulation.capacity.next_s(), simulation.executor.next_s())
        clock["open"] = bool(simulation.executor.coming)
        code = simulation.advance()
        if code == kernels.FINISHED or (code == kernels.EXTERNAL and clock["now_s"] >= until_s):
            return
        if code == kernels.EXTERNAL:
            simulation._apply_outside()


def outcomes(simulation: Simulation, *halves: Simulation) -> dict[str, tuple]:
    """When each job ended, and what it had cost, whichever engine saw its end."""
    told = {}
    for each in (simulation, *halves):
        S = each.state
        for row, id in enumerate(each.jobs.id):
            job = S.jobs[row]
            if not np.isnan(job["finish_s"]):
                told[id] = tuple(float(job[name]) for name in ("start_s", "finish_s", "settled_gpu_s", "overhead_gpu_s", "preemptions"))
    return told


def check_a_change_of_engines_changes_nothing(case, at_s, delays):
    whole, first, second = (case.prepare(**delays) for _ in range(3))
    for each in (whole, first, second):
        if delays:
            each.hand_to(each.executor)
    run_until(first, at_s)
    resume(second, take(first))
    second.executor.coming, second.executor.newest, second.executor.told = (
        first.executor.coming, first.executor.newest, first.executor.told)  # fmt: skip
    ended = np.flatnonzero(~np.isnan(first.state.jobs["finish_s"]))
    second.state.replace("arrivals", np.ascontiguousarray(second.state.arrivals[~np.isin(second.state.arrivals, ended)]))
    second.clock["finite_left"] -= len(ended)
    run_until(whole, np.inf)
    run_until(second, np.inf)

    assert outcomes(second, first) == outcomes(whole)


TIMES = st.floats(1.0, 200.0, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(cases(), TIMES)
def test_lists(case, at_s):
    check_a_change_of_engines_changes_nothing(case, at_s, {})


@settings(max_examples=40, deadline=None)
@given(cases(jobs=restless()), TIMES)
def test_priorities_and_pinned_jobs(case, at_s):
    check_a_change_of_engines_changes_nothing(case, at_s, {})


@settings(max_examples=40, deadline=None)
@given(cases(jobs=of_queues(), on=with_quotas()), TIMES)
def test_quotas(case, at_s):
    check_a_change_of_engines_changes_nothing(case, at_s, {})


@settings(max_examples=40, deadline=None)
@given(cases(jobs=of_many_kinds(), on=of_many_nodes()), TIMES)
def test_fractions_types_and_cpus(case, at_s):
    check_a_change_of_engines_changes_nothing(case, at_s, {})


@settings(max_examples=60, deadline=None)
@given(cases(), TIMES, st.sampled_from([(0.0, 3.0), (2.0, 0.0), (4.0, 9.0)]))
def test_jobs_that_start_and_drain(case, at_s, delays):
    check_a_change_of_engines_changes_nothing(case, at_s, {"start_delay_s": delays[0], "stop_delay_s": delays[1]})


def test_a_snapshot_shares_nothing_with_its_engine():
    jobs = [job(f"j{i}", float(i % 7), 1 + i % 4, 10.0 + i) for i in range(20)]
    simulation = prepare(jobs, "2x4", policy("tiresias-las", limits_gpu_s=(30.0,), lists=True))
    run_until(simulation, 5.0)
    snapshot = take(simulation)
    before = snapshot.state.tobytes(), {name: value.tobytes() for name, value in snapshot.memory.items()}
    run_until(simulation, np.inf)
    assert (snapshot.state.tobytes(), {name: value.tobytes() for name, value in snapshot.memory.items()}) == before


def shared(slot: int) -> Parts:
    one = np.array([1], np.int64)
    return Parts(np.array([0], np.int32), one * 750, np.array([slot], np.int32), one * 0, one * 0)


def test_on_a_smaller_node_the_ledger_gets_gpus_of_its_own_before_those_that_drain():
    engine = prepare([job("a", 0, 1, 10)], "1x2", policy("fifo"))
    assert slots_here(engine, [shared(2), shared(3)], [shared(0), shared(1)]) == {(0, 2): 0, (0, 3): 1, (0, 0): 0, (0, 1): 1}
