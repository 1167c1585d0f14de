"""Tiresias: what the paper promises, on clusters small enough to check by hand."""

import csv

import numpy as np
import pytest

from schedules import job, prepare, simulate
from trainmaster.engine.state import JOB
from trainmaster.errors import ParamError
from trainmaster.policies.base import Samples
from trainmaster.policies.tiresias import GittinsParams, Las, TiresiasGittins, TiresiasLas


def levels(*limits_gpu_s: float, **more: object) -> TiresiasLas:
    return TiresiasLas(limits_gpu_s=limits_gpu_s, **more)


def test_a_long_gang_yields_to_a_newcomer_when_it_crosses_the_limit():
    long, short = job("long", 0, 4, 100), job("short", 30, 4, 10)

    run = simulate([long, short], "1x4", levels(200.0))  # 4 GPUs x 50 s = 200 GPU-s

    assert run.held("long") == [(0, 50), (60, 110)]
    assert run.held("short") == [(50, 60)]


def test_inside_a_level_a_running_job_is_not_displaced_by_an_earlier_submission():
    first, second, third = job("first", 0, 1, 10), job("second", 1, 2, 100), job("third", 2, 1, 5)

    run = simulate([first, second, third], "1x2", levels(1_000.0))

    assert run.held("third") == [(2, 7)]  # first holds one GPU, second needs two, third takes the other
    assert run.held("second") == [(10, 110)]


def test_restart_costs_count_as_attained_service():
    long, short = job("long", 0, 4, 100), job("short", 30, 4, 10)

    run = simulate([long, short], "1x4", levels(200.0), restart_cost_s=20)

    assert run.held("long")[0] == (0, 50)  # 20 s idle + 30 s of work = 200 GPU-s
    assert run.held("short") == [(50, 80)]
    assert run.held("long")[1] == (80, 170)  # 20 s again, and the 70 s left


def test_a_demoted_job_runs_on_where_nobody_waits():
    run = simulate([job("alone", 0, 4, 500)], "1x4", levels(200.0, 400.0))

    assert run.held("alone") == [(0, 500)]


def test_the_artifact_keeps_the_place_a_job_had_in_its_list():
    """Two jobs of one level: the one that ran stays ahead, though the other was submitted first."""
    early, late = job("early", 0, 2, 100), job("late", 1, 1, 100)
    block, rival = job("block", 0, 1, 20), job("rival", 25, 2, 10)
    rules = TiresiasLas.presets["artifact"]
    policy = TiresiasLas(**rules.params)

    run = simulate([block, early, late, rival], "1x2", policy, rules=rules.rules)

    # at 0 block holds one GPU and early (2) does not fit; at 1 late takes the other. When block ends, late is ahead of early.
    assert run.held("late") == [(1, 101)]
    assert run.held("early")[0][0] == 101


def test_as_many_lists_as_limits_and_one_open():
    with pytest.raises(ParamError, match="ascending"):
        levels(300.0, 200.0)
    with pytest.raises(ParamError, match="above 0"):
        levels()


def test_las_redecides_at_whole_quanta_while_jobs_wait():
    first, second = job("first", 0, 1, 100), job("second", 10, 1, 100)

    run = simulate([first, second], "1x1", Las(quantum_s=60.0))

    # second arrives with less and runs at once; at 60 it has 50 against 10, at 120 first has 70 against 50, ...
    assert run.held("first")[:2] == [(0, 10), (60, 120)]
    assert run.held("second")[:1] == [(10, 60)]


def test_las_displaces_nobody_between_quanta_but_for_an_arrival_with_less():
    a, b, c = job("a", 0, 1, 50), job("b", 5, 1, 50), job("c", 20, 1, 10)

    run = simulate([a, b, c], "1x1", Las(quantum_s=600.0))

    assert run.held("a") == [(0, 5), (30, 75)]  # waits with 5 GPU-s behind b, which had less when it came
    assert run.held("b") == [(5, 20), (75, 110)]
    assert run.held("c") == [(20, 30)]


def gittins_index(used_gpu_s: float, samples: list[float], quantum_gpu_s: float, **more: bool) -> float:
    policy = TiresiasGittins(samples=Samples(values=tuple(samples)), quantum_gpu_s=quantum_gpu_s, **more)
    jobs = np.zeros(1, JOB).view(np.recarray)
    jobs["attained_gpu_s"], out = used_gpu_s, np.zeros((1, 3))
    memory = policy.start_memory(1)
    policy.key.python(jobs, np.zeros(1, np.int32), 1, 0.0, policy.key_params(), memory["shared"], memory["per_job"], out)
    return -out[0, 1]


def test_a_quantum_shorter_than_the_restart_cost_is_refused():
    with pytest.raises(ParamError, match="longer than the restart cost"):
        prepare([job("a", 0, 1, 1)], "1x1", Las(quantum_s=5.0), restart_cost_s=7.5)


def test_the_gittins_index_by_hand():
    """Past jobs took 10, 10 and 100 GPU-s; D = 20. Of new jobs 2/3 end within D, at a mean cost of (10 + 10 + 20) / 3."""
    samples = [10.0, 10.0, 100.0]

    assert gittins_index(0, samples, 20) == pytest.approx((2 / 3) / (40 / 3))
    assert gittins_index(50, samples, 20) == 0  # what is left of 100 is more than D
    assert gittins_index(90, samples, 20) == pytest.approx(1 / 10)
    assert gittins_index(100, samples, 20) == 0  # nobody took more


def test_the_artifacts_gittins_index_is_that_of_its_notes(public_data):
    with (public_data / "tiresias" / "yarn-gput1000.csv").open() as file:
        samples = [float(row["duration"]) for row in csv.DictReader(file)]

    index = [1e6 * gittins_index(used, samples, 3_250.0, whole_sizes=True) for used in (500, 1_000, 3_250, 7_200)]

    assert np.round(index, 1).tolist() == pytest.approx([250, 192, 87, 36.7], rel=0.006)


def test_gittins_runs_the_job_that_is_about_to_end():
    """Jobs take 100 or 1,000 GPU-s: one that has used 90 is likelier to end soon than one that has used 300."""
    samples = Samples(values=(100.0, 100.0, 100.0, 1_000.0))
    near, far, filler = job("near", 0, 1, 95), job("far", 0, 1, 900), job("filler", 300, 1, 1)
    policy = TiresiasGittins(GittinsParams(samples=samples, limits_gpu_s=(10_000.0,), quantum_gpu_s=100.0))

    run = simulate([near, far, filler], "1x1", policy)

    assert run.held("near") == [(0, 95)]  # submitted first, and never displaced
    assert run.held("filler") == [(300, 301)]  # far has used 205: nobody of those ended soon


def test_gittins_without_past_jobs_is_refused():
    with pytest.raises(ParamError, match=r"samples=FILE\.csv"):
        prepare([job("a", 0, 1, 1)], "1x1", TiresiasGittins())


def test_why_a_job_waits_names_its_level():
    """At the end of the world: a service on the open level holds what a demoted job needs."""
    service, demoted = job("service", 0, 4, float("inf")), job("demoted", 10, 4, float("inf"))
    simulation = prepare([service, demoted, job("short", 20, 1, 5)], "1x4", levels(200.0))

    result = simulation.run()

    assert [result.reason[row].split(",")[0] for row in (0, 1)].count("a service: it has no end") >= 1
    record = simulation.record()
    waiting = int(record.seq[record.columns["running"] == 0][0])
    assert record.row(waiting) >= 0
