"""The public profiles against figures of the Pollux artifact. Needs the data: TRAINMASTER_DATA names its folder."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.errors import InputError
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.application import Application
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.goodput import BatchLimits, Measured, best_batch, fit, step_times
from trainmaster.workload.perf.placements import PlacementModel, rigid_batch
from trainmaster.workload.perf.profiles import load_profiles
from trainmaster.workload.traces import load_trace
from workload.perf.pollux_replay import CLUSTER, average_jct_s, read_workload

DATA = Path(os.environ.get("TRAINMASTER_DATA") or "absent")
FIXTURES = DATA.parent / "reference" / "goodput_fixtures.json"
EPOCHS = {"bert": 2, "cifar10": 100, "ncf": 10, "imagenet": 90, "deepspeech2": 80, "yolov3": 50}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="TRAINMASTER_DATA does not name the folder of public data")
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_file(), reason="no goodput_fixtures.json beside the public data")


def pollux_app(name: str) -> Application:
    return Application.read(DATA / "sia" / "profiles" / name)


@pytest.mark.parametrize("app", EPOCHS)
def test_the_completion_epoch_is_the_last_one_measured(app: str) -> None:
    assert len(pollux_app(app).epoch_ends) == EPOCHS[app]


def workload(number: int) -> tuple[JobTable, PlacementModel]:
    jobs = read_workload(DATA / "sia" / "workloads" / "pollux-workloads" / f"workload-{number}.csv")
    bound, model = load_profiles(DATA / "sia" / "profiles").bind(jobs, CLUSTER)
    assert isinstance(model, PlacementModel)
    return bound, model


TIRESIAS_JCT_S = {1: 2473.65, 3: 3876.25625, 5: 3501.0125, 7: 5479.9125}  # shipped with the artifact

# On placements that were not measured: (application, nodes, GPUs, local batch, step_s, sync_s).
TRIANGULATED = [
    ("cifar10", 5, 16, 256, 0.2294679536819458, 0.022130909154891965),
    ("cifar10", 7, 16, 256, 0.24714334154129028, 0.050819490001678465),
    ("cifar10", 5, 12, 341, 0.28723558749724437, 0.022537284730815288),
    ("imagenet", 7, 24, 134, 0.7507138098279635, 0.07941898830731708),
    ("imagenet", 13, 48, 134, 0.7710429857174556, 0.09334818913141887),
]


@pytest.mark.parametrize("number", TIRESIAS_JCT_S)
def test_the_artifacts_tiresias_is_met_exactly(number: int) -> None:
    jobs, model = workload(number)

    assert average_jct_s(jobs, model) == pytest.approx(TIRESIAS_JCT_S[number], rel=1e-5)
    assert model.notes() == []


@pytest.mark.parametrize(("app", "nodes", "gpus", "local", "step_s", "sync_s"), TRIANGULATED)
def test_unmeasured_placements_are_triangulated_as_in_the_artifact(app, nodes, gpus, local, step_s, sync_s) -> None:
    uneven = (gpus - nodes + 1, *(1,) * (nodes - 1))

    assert pollux_app(app).step_times("").near(uneven).at(local) == pytest.approx((step_s, sync_s), rel=1e-8)


def fixtures() -> dict[str, Any]:
    return json.loads(FIXTURES.read_text()) if FIXTURES.is_file() else {}


@needs_fixtures
@pytest.mark.parametrize("app", EPOCHS)
def test_measured_and_interpolated_step_times_are_the_artifacts(app: str) -> None:
    times, figures = pollux_app(app).step_times(""), fixtures()[app]
    assert times.largest_local == figures["max_local_bsz"]
    for figure in figures["throughput"]:
        near, local = times.near(tuple(figure["placement"])), figure["local_bsz"]
        if local <= near.largest_local:
            assert near.at(local) == pytest.approx((figure["step_time"], figure["sync_time"]), rel=1e-12)
        else:  # the artifact raises, or triangulates from batches that were measured at other scales only
            assert "error" in figure or len(figure["placement"]) > 4


@needs_fixtures
@pytest.mark.parametrize("app", EPOCHS)
def test_iteration_times_are_those_of_the_artifacts_job_estimates(app: str) -> None:
    """Its estimate of a tuned job is the last epoch's iteration count times the iteration time, consolidated."""
    measured = pollux_app(app)
    times = measured.step_times("")
    for gpus, batch, estimate_s in fixtures()[app]["configurations_lo0.5_hi0.8"]:
        rows = (measured.folder / f"validation-{batch}.csv").read_text().split()
        iterations = int(rows[-1].split(",")[1])
        # The estimate neither caps the atomic batch nor makes a lone GPU accumulate.
        _, steps = rigid_batch(gpus, batch, initial=batch, largest=10**9, largest_local=times.largest_local)
        atomic = math.ceil(math.ceil(batch / gpus) / (steps + 1))
        step_s, sync_s = times.near((4,) * (gpus // 4) + ((gpus % 4,) if gpus % 4 else ())).at(atomic)
        assert iterations * (step_s + steps * (step_s - sync_s)) == pytest.approx(estimate_s, rel=1e-12)


@pytest.mark.parametrize("accelerator", ["aws", "azure", "dgx", "dgx-ext", "quad", "rtx"])
def test_every_accelerator_type_of_sia_reads(accelerator: str) -> None:
    apps = list(EPOCHS)
    jobs = JobTable.build(submit_s=[0] * len(apps), gpus=[1] * len(apps), model=apps, work=[math.nan] * len(apps))

    load_profiles(DATA / "sia" / "profiles").bind(jobs, Cluster.of([Node(gpus=8, type=accelerator)]))


def test_gavels_published_table_reads() -> None:
    cluster = Cluster.of([Node(gpus=4, type=accelerator) for accelerator in ("k80", "p100", "v100")])
    jobs = JobTable.build(
        submit_s=[0, 1], gpus=[1, 8], model=["LM (batch size 20)", "ResNet-50 (batch size 128)"], work=[1e6, 1e6], work_in_steps=True
    )
    bound, model = load_profiles(DATA / "gavel" / "simulation_throughputs.json").bind(jobs, cluster)
    rates = model.rates_by_type(bound, cluster.types)

    assert rates is not None
    assert rates[0, 2] == pytest.approx(64.7, abs=0.05)
    assert rates[1, 0] == 0  # does not fit
    assert (rates[1, 1:] > 0).all()


def test_tables_of_later_policies_are_recognised() -> None:
    with pytest.raises(InputError, match=r"Synergy.* not supported yet"):
        load_profiles(DATA / "synergy" / "model_profiles.json")


def test_elasticflows_own_count_of_iterations_is_the_work() -> None:
    trace = load_trace(DATA / "elasticflow" / "micro" / "m1.csv")

    bound, model = load_profiles(DATA / "elasticflow" / "throughputs_A100").bind(trace.jobs, Cluster.of([Node(gpus=8, type="a100")]))

    assert bound.work.tolist() == [10_000]
    assert model.rate(0, Allocation((0,), (8.0,), "a100"), 0.0, ()) == (16.53414011075494, math.inf)


@needs_fixtures
@pytest.mark.parametrize("app", EPOCHS)
def test_the_best_goodput_and_its_batch_are_the_artifacts(app: str) -> None:
    figures = fixtures()[app]
    limits, stats = batch_limits(figures), figures["grad_stats_epoch0_init_bsz"]
    for wanted in figures["goodput_optimum"]:
        choice = best_batch(fitted(figures), stats["sqr"], stats["var"], limits, wanted["nodes"], wanted["replicas"])

        assert choice.goodput == pytest.approx(wanted["goodput"], rel=1e-6)
        assert (choice.atomic, choice.steps) == (wanted["atomic_bsz"], wanted["accum_steps"])


@needs_fixtures
@pytest.mark.parametrize("app", EPOCHS)
def test_a_fit_predicts_what_the_artifacts_fit_predicts(app: str) -> None:
    figures = fixtures()[app]
    rows = figures["fit"]["observations_nodes_replicas_bsz_step_sync"]
    ours = fit([Measured(int(nodes), int(gpus), int(atomic), step_s - sync_s, step_s) for nodes, gpus, atomic, step_s, sync_s in rows])

    for nodes, gpus in ((1, 1), (1, 2), (1, 4), (2, 2), (2, 8), (4, 16)):  # it was shown up to 8
        for atomic in (figures["min_local_bsz"], figures["max_local_bsz"]):
            wanted = step_times(fitted(figures), nodes, gpus, atomic)
            assert step_times(ours, nodes, gpus, atomic) == pytest.approx(wanted, rel=0.01)


def fitted(figures: dict[str, Any]) -> np.ndarray:
    return np.array([figures["fit"]["params"][name] for name in ("alpha_c", "beta_c", "alpha_n", "beta_n", "alpha_r", "beta_r", "gamma")])


def batch_limits(figures: dict[str, Any]) -> BatchLimits:
    return BatchLimits(figures["init_batch_size"], figures["max_batch_size"], figures["min_local_bsz"], figures["max_local_bsz"])
