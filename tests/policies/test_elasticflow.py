"""ElasticFlow: the artifact's hand-sized cases, its promise as a property, and buddies."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules import Schedule, cluster, job, schedule_of
from trainmaster.cluster.yaml_file import cluster_from_yaml
from trainmaster.engine.core import Setup
from trainmaster.engine.loop import Simulation
from trainmaster.policies.buddies import buddies
from trainmaster.policies.elasticflow import Edf, ElasticFlow
from trainmaster.policies.kernels.deadlines import plan
from trainmaster.workload.jobs import Job, JobTable, Labels
from trainmaster.workload.perf.profiles import load_profiles
from trainmaster.workload.traces import load_trace

DATA = Path(os.environ.get("TRAINMASTER_DATA") or "absent")
MICRO = DATA.parent / "reference" / "elasticflow_micro.json"
needs_data = pytest.mark.skipif(not MICRO.is_file(), reason="TRAINMASTER_DATA does not name the folder of public data")

SIZES = np.array([1, 2, 4, 8])


def planned(jobs: list[tuple[float, float, list[float]]], gpus: int, slot_s: float = 0.0,
            restart_s: float = 0.0) -> tuple[list[bool], list[list[float]]]:
    """Of (deadline, work, speeds on 1, 2, 4, 8)."""
    deadline_s, left = np.array([d for d, _, _ in jobs], float), np.array([w for _, w, _ in jobs], float)
    speed = np.array([s for _, _, s in jobs], float)
    nobody, no_time_s = np.full(len(jobs), -1), np.zeros(len(jobs))
    met, pieces = plan(0.0, slot_s, gpus, deadline_s, left, speed, SIZES, speed.argmax(axis=1), np.zeros((0, 4)), nobody, no_time_s,
                       np.full(len(jobs), float(restart_s)))  # fmt: skip
    return met.tolist(), pieces.tolist()


LINEAR, POOR = [1, 2, 4, 8], [1, 1.5, 2, 2.5]


def test_the_smallest_size_that_ends_in_time_is_the_share():
    assert planned([(10, 18, LINEAR)], 8) == ([True], [[0, 0, 9, 2]])
    assert planned([(10, 18, POOR)], 8) == ([True], [[0, 0, 9, 4]])


def test_a_later_job_takes_what_is_free_before_and_after_an_earlier_one():
    met, pieces = planned([(10, 80, LINEAR), (20, 40, LINEAR)], 8)

    assert met == [True, True]
    assert pieces == [[0, 0, 10, 8], [1, 10, 20, 4]]


def test_a_share_is_needed_only_from_as_late_as_possible_and_half_of_it_before():
    met, pieces = planned([(10, 40, LINEAR), (20, 70, LINEAR)], 8)

    assert (met, pieces[0]) == ([True, True], [0, 0, 10, 4])
    assert pieces[1:] == [[1, 0, 17.5, 4]]


def test_a_restart_is_planned_where_a_size_changes():
    assert planned([(10, 18, LINEAR)], 8, restart_s=1) == ([True], [[0, 0, 10, 2]])  # a second to start, nine at work
    assert planned([(10, 19, LINEAR)], 8, restart_s=1) == ([True], [[0, 0, 1 + 19 / 4, 4]])  # two GPUs would need ten and a half
    assert planned([(10, 18, LINEAR)], 2, restart_s=2) == ([False], [[0, 0, 11, 2]])


def test_what_cannot_end_in_time_is_planned_late():
    met, pieces = planned([(10, 100, LINEAR)], 8)

    assert (met, pieces) == ([False], [[0, 0, 12.5, 8]])


def test_with_slots_gpus_are_free_again_at_the_end_of_a_slot():
    met, pieces = planned([(100, 65, [1, 1, 1, 1]), (120, 60, [1, 1, 1, 1])], 1, slot_s=60)

    assert pieces[0] == [0, 0, 120, 1]
    assert met == [True, False]


def run(jobs: JobTable, policy: ElasticFlow | Edf, on: str, **setup: float) -> Schedule:
    bound, model = load_profiles(DATA / "elasticflow" / "throughputs_A100").bind(jobs, cluster(on))
    simulation = Simulation(bound, cluster(on), policy, Setup(restart_cost_s=0, **setup), model=model)  # type: ignore[arg-type]
    return schedule_of(simulation, simulation.run())


def micro(case: str) -> JobTable:
    return load_trace(DATA / "elasticflow" / "micro" / f"{case}.csv").jobs


@needs_data
@pytest.mark.parametrize("case", ["m1", "m2", "m3"])
def test_edf_ends_where_the_artifacts_does(case):
    reference = json.loads(MICRO.read_text())["micro_cases_slot60_A100"]["cases"][case]["edf"]["end_time"]

    done = run(micro(case), Edf(), "1x8:a100", round_s=0)

    assert {id: done.finish_s(id) for id in reference} == pytest.approx(reference, abs=4)  # it rounds every end up


def sequence(maps: list[dict[str, int]]) -> list[list[int]]:
    """GPUs of all jobs, largest first, each time they change: when that is depends on slots and restarts, who of equals it is on ties."""
    sizes = [sorted(gpus.values(), reverse=True) for gpus in maps if gpus]
    return [now for before, now in zip([[], *sizes], sizes, strict=False) if now != before]


@needs_data
@pytest.mark.parametrize("case", ["m1", "m2", "m3", "m4"])
@pytest.mark.parametrize("theirs", ["edf", "ef", "ef-accessctrl"])
def test_every_hand_sized_case_goes_through_the_allocations_of_the_artifact(case, theirs):
    reference = json.loads(MICRO.read_text())["micro_cases_slot60_A100"]["cases"][case].get(theirs)
    if reference is None:
        return  # it was not run
    jobs, policy = micro(case), Edf() if theirs == "edf" else ElasticFlow(admit="together", keep_plan=False, spare="dearest")
    if theirs == "ef":  # refuses nobody
        jobs = jobs.replace(service_class=Labels.of(["soft"] * len(jobs)))
    done = run(jobs, policy, "1x4:a100" if case == "m4" else "1x8:a100", round_s=0)

    ours = [{h.id: sum(milli for _, milli in h.parts) // 1000 for h in instant.holdings} for instant in done.allocations]
    assert sequence(ours) == sequence([gpus for _, gpus in reference["gpus_at"]])
    ended = {id for id, fate in done.fates.items() if math.isfinite(fate.finish_s)}
    assert ended == set(reference["end_time"])
    if theirs == "edf":
        assert {id: done.finish_s(id) for id in ended} == pytest.approx(reference["end_time"], abs=4)


def first_shares(done: Schedule, at_s: float) -> dict[str, int]:
    return {h.id: sum(milli for _, milli in h.parts) // 1000 for h in done.holdings if h.start_s <= at_s < h.end_s}


@needs_data
@pytest.mark.parametrize(("case", "at_s"), [("m1", 0), ("m2", 60), ("m2", 120), ("m3", 0), ("m3", 1200)])
def test_gpus_are_shared_as_in_the_artifact(case, at_s):
    reference = json.loads(MICRO.read_text())["micro_cases_slot60_A100"]["cases"][case]["ef-accessctrl"]
    shares = {name.removeprefix("job"): gpus for name, gpus in dict(reference["gpus_at"])[at_s].items()}

    done = run(micro(case), ElasticFlow(admit="together", keep_plan=False, spare="dearest"), "1x8:a100", round_s=0)

    assert first_shares(done, at_s) == shares
    assert sum(math.isfinite(fate.finish_s) for fate in done.fates.values()) == reference["accepted"]
    assert all(done.finish_s(id) <= end_s for id, end_s in reference["end_time"].items())  # it charges slots and restarts


@needs_data
def test_one_by_one_an_impossible_job_takes_no_other_with_it():
    done = run(micro("m3"), ElasticFlow(), "1x8:a100", round_s=0)

    assert sum(math.isfinite(fate.finish_s) for fate in done.fates.values()) == 4


@needs_data
def test_a_free_gpu_goes_to_who_scales_best_and_in_the_artifact_to_who_scales_worst():
    ours = run(micro("m4"), ElasticFlow(), "1x4:a100", round_s=0)
    theirs = run(micro("m4"), ElasticFlow(admit="together", spare="dearest"), "1x4:a100", round_s=0)

    assert first_shares(ours, 0) == {"0": 2, "1": 1, "2": 1}  # the near-linear vgg16
    assert first_shares(theirs, 0)["0"] == 1  # one of the two bert has it


@st.composite
def jobs_with_deadlines(draw: st.DrawFn) -> list[Job]:
    jobs, now_s = [], 0.0
    for number in range(draw(st.integers(1, 12))):
        now_s += draw(st.integers(0, 30))
        work = draw(st.integers(1, 60))
        deadline_s = draw(st.one_of(st.none(), st.integers(1, 100)))
        least, largest = draw(st.sampled_from([(None, None), (None, None), (1, 2), (2, None), (3, 3)]))
        jobs.append(job(f"j{number}", now_s, 1, work, deadline_s=None if deadline_s is None else now_s + deadline_s,
                        min_gpus=least, max_gpus=largest))  # fmt: skip
    return jobs


@given(
    jobs_with_deadlines(), st.sampled_from(["1x4", "2x4", "1x8", "3x2+1x4"]),
    st.sampled_from(["each", "together"]), st.sampled_from(["cheapest", "dearest"]),
    st.sampled_from([0, 1, 4, 15]), st.sampled_from([0, 5]),
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_who_is_admitted_ends_in_time_if_run_times_are_as_predicted(jobs, on, admit, spare, restart_cost_s, round_s):
    setup = Setup(restart_cost_s=restart_cost_s, round_s=round_s)
    simulation = Simulation(JobTable.of(jobs), cluster(on), ElasticFlow(admit=admit, spare=spare), setup)
    done = schedule_of(simulation, simulation.run())

    for wanted in jobs:
        finish_s = done.finish_s(wanted.id)
        if wanted.deadline_s is not None:
            assert math.isnan(finish_s) or finish_s <= wanted.deadline_s + 1e-6
        else:
            assert math.isfinite(finish_s)  # best effort is refused nobody


def test_a_soft_deadline_is_never_refused():
    simulation = Simulation(JobTable.of([job("a", 0, 1, 100, deadline_s=5, service_class="soft"), job("b", 0, 1, 100, deadline_s=5)]),
                            cluster("1x4"), ElasticFlow(), Setup(restart_cost_s=0, round_s=0))  # fmt: skip
    done = schedule_of(simulation, simulation.run())

    assert done.finish_s("a") == 25
    assert math.isnan(done.finish_s("b"))


SHRINKS = """
nodes:
  - {count: 2, gpus: 4, label: some}
timeline:
  - {at_s: 10, remove: {count: 1, label: some}}
"""


def test_a_plan_that_counts_on_nodes_that_are_gone_is_made_anew():
    jobs = [job("wide", 0, 1, 300, deadline_s=50), job("narrow", 0, 1, 60, deadline_s=100)]  # needs 8 GPUs: it will be late
    on = cluster_from_yaml(SHRINKS, "cluster.yaml")
    simulation = Simulation(JobTable.of(jobs), on, ElasticFlow(), Setup(restart_cost_s=0, round_s=0))
    done = schedule_of(simulation, simulation.run())

    assert done.finish_s("narrow") <= 100
    assert 10 + (300 - 80) / 4 <= done.finish_s("wide") <= 100
    assert all(instant.gpus_overcommitted() == [] for instant in done.allocations)


def test_an_elastic_job_is_never_below_its_minimum():
    jobs = [job("a", 0, 4, 20, min_gpus=4, max_gpus=4, deadline_s=30), job("b", 0, 1, 10)]
    simulation = Simulation(JobTable.of(jobs), cluster("1x4"), ElasticFlow(), Setup(restart_cost_s=0, round_s=0))

    assert {h.parts[0][1] for h in schedule_of(simulation, simulation.run()).holdings if h.id == "a"} == {4000}


@given(st.lists(st.sampled_from([0, 1, 2, 4, 8, 16]), max_size=12), st.sampled_from([4, 8]), st.integers(1, 6))
def test_powers_of_two_in_falling_size_never_fragment(gpus, node_gpus, nodes):
    counts = np.array(gpus, np.int64)
    found = buddies(counts, np.full(nodes, node_gpus), {})

    if counts.sum() > node_gpus * nodes:
        return
    assert found is not None
    used = np.zeros(nodes)
    for job_, parts in found.items():
        assert sum(count for _, count in parts) == counts[job_]
        assert len(parts) == max(1, counts[job_] // node_gpus)
        for node, count in parts:
            used[node] += count
    assert (used <= node_gpus).all()
