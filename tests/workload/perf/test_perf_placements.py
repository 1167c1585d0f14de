"""Measured placements at a fixed batch: `tiny_profiles.py` has the numbers that these tests redo by hand."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.errors import InputError
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.application import BatchCurve, between, smallest_rotation
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.placements import PlacementModel, rigid_batch
from trainmaster.workload.perf.profiles import load_profiles
from workload.perf.tiny_profiles import write_profiles


def cluster(*types: str) -> Cluster:
    return Cluster.of([Node(gpus=4, type=accelerator) for accelerator in types or ("",)])


def table(batch: float = math.nan, gpus: float = 2, model: str | None = "toy", **columns: Any) -> JobTable:
    return JobTable.build(id=["a"], submit_s=[0], gpus=[gpus], model=[model], batch_size=[batch], **{"work": [math.nan], **columns})


def bound(folder: Path, jobs: JobTable, *types: str) -> PlacementModel:
    model = load_profiles(folder).bind(jobs, cluster(*types))[1]
    assert isinstance(model, PlacementModel)
    return model


def on(*gpus: float, accelerator: str = "") -> Allocation:
    return Allocation(tuple(range(len(gpus))), gpus, accelerator)


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    return write_profiles(tmp_path)


def test_work_is_the_progress_of_all_epochs(profiles: Path) -> None:
    jobs, _ = load_profiles(profiles).bind(table(), cluster())

    assert jobs.work.tolist() == [30]
    assert jobs.work_in_steps.all()


def test_work_that_the_trace_gives_in_progress_is_kept(profiles: Path) -> None:
    jobs, model = load_profiles(profiles).bind(table(work=[math.inf], work_in_steps=[True]), cluster())

    assert jobs.work.tolist() == [math.inf]
    assert model.rate(0, on(2), 1e9, ()) == (1 / 2, math.inf)  # the last epoch's rate goes on


def test_at_the_initial_batch_a_step_is_worth_one(profiles: Path) -> None:
    model = bound(profiles, table())  # batch 8: 4 a GPU, 2 s a step on 2 GPUs of a node, 3 s on two nodes

    assert model.rate(0, on(2), 0.0, ()) == (1 / 2, 10)
    assert model.rate(0, on(1, 1), 0.0, ()) == (1 / 3, 10)
    assert model.rate(0, on(1), 0.0, ()) == (1 / 2, 10)  # 8 on one GPU: 2 s


def test_the_gain_changes_where_an_epoch_ends(profiles: Path) -> None:
    model = bound(profiles, table(batch=16))  # 8 a GPU: 3 s on 2 GPUs

    assert model.rate(0, on(2), 0.0, ()) == pytest.approx((1.6 / 3, 10))
    assert model.rate(0, on(2), 9.99, ()) == pytest.approx((1.6 / 3, 10))
    assert model.rate(0, on(2), 10.0, ()) == pytest.approx((2.0 / 3, 30))
    assert model.rate(0, on(2), 30.0, ()) == pytest.approx((2.0 / 3, math.inf))


def test_going_from_epoch_end_to_epoch_end_completes_the_work(profiles: Path) -> None:
    jobs, model = load_profiles(profiles).bind(table(batch=16), cluster())
    ends, done = [], 0.0
    while done < jobs.work[0]:
        done = model.rate(0, on(2), done, ())[1]
        ends.append(done)

    assert ends == [10, 30]


def test_a_batch_too_large_for_the_gpus_is_accumulated(profiles: Path) -> None:
    model = bound(profiles, table(batch=32))  # 16 a GPU: two atomic batches of 8; 3 s, and 2 s without sync

    gain = (6 + 2) / (6 / 4 + 2)
    assert model.rate(0, on(2), 0.0, ())[0] == pytest.approx(gain / (3 + 2))


def test_step_times_are_linear_between_measured_local_batches(profiles: Path) -> None:
    model = bound(profiles, table(batch=12))  # 6 a GPU, half way from 2 s to 3 s

    gain = (3 + 1) / (3 / 1.5 + 1)  # statistics half way from batch 8 to 16, where they are the same
    assert model.rate(0, on(2), 0.0, ())[0] == pytest.approx(gain / 2.5)


def test_a_lone_gpu_above_the_initial_batch_accumulates(profiles: Path) -> None:
    model = bound(profiles, table(batch=12, gpus=1))  # twice 6: 1.5 s each, all of it computing

    assert model.rate(0, on(1), 0.0, ())[0] == pytest.approx(4 / 3 / 3)


def test_rotations_of_a_placement_are_one_measurement(tmp_path: Path) -> None:
    swept = "placement,local_bsz,step_time,sync_time\n1,4,1,0\n1,8,2,0\n12,4,6,0\n12,8,8,0\n111,4,1,0\n111,8,1,0\n"
    model = bound(write_profiles(tmp_path, placements_csv=swept), table(batch=12))  # 4 a GPU

    assert model.rate(0, on(2, 1), 0.0, ()) == model.rate(0, on(1, 2), 0.0, ()) == pytest.approx((4 / 3 / 6, 10))
    assert smallest_rotation((4, 1, 3)) == (1, 3, 4) != smallest_rotation((4, 3, 1))


def test_placements_not_measured_lie_between_the_measured_scales(tmp_path: Path) -> None:
    scaled = "num_nodes,num_replicas,local_bsz,step_time,sync_time\n4,4,4,5,0\n4,8,4,9,0\n"
    model = bound(write_profiles(tmp_path, scalability_csv=scaled), table(batch=16))  # 4 a GPU on 4 GPUs

    assert model.rate(0, on(1, 1, 1, 1), 0.0, ())[0] == pytest.approx(1.6 / 5)
    assert bound(tmp_path, table(batch=32)).rate(0, on(2, 2, 2, 2), 0.0, ())[0] == pytest.approx((8 / 3.5) / 9)
    gain = (3 + 1) / (3 / 1.5 + 1)  # batch 12 on 3 nodes: half way between 1+1 (3 s) and 4 GPUs on 4 nodes (5 s)
    assert bound(tmp_path, table(batch=12)).rate(0, on(1, 1, 1), 0.0, ())[0] == pytest.approx(gain / 4)


def test_beyond_the_measured_range_nothing_is_extrapolated(profiles: Path) -> None:
    model = bound(profiles, table(batch=16))

    assert model.notes() == []
    assert model.rate(0, on(4), 0.0, ())[0] == pytest.approx(1.6 / 2)  # 4 a GPU, as on 2 GPUs: the most of one node
    assert model.rate(0, on(*[1] * 16), 0.0, ())[0] == pytest.approx(1.6 / 7)  # 1 a GPU takes as long as the smallest, 4
    assert "toy: batch 16 on 4 GPUs is beyond what was measured" in model.notes()


def test_a_local_batch_never_measured_on_a_placement_is_split(tmp_path: Path) -> None:
    short = "placement,local_bsz,step_time,sync_time\n1,4,1,0\n1,8,2,0\n2,4,2,1\n11,4,3,2\n11,8,5,2\n"
    model = bound(write_profiles(tmp_path, placements_csv=short), table(batch=16))  # 8 a GPU, but 2 GPUs only known at 4

    assert model.rate(0, on(2), 0.0, ())[0] == pytest.approx(1.6 / (2 + 1))
    assert model.notes() == ["toy: batch 16 on 2 GPUs is beyond what was measured"]


def test_a_typed_node_takes_its_own_table(tmp_path: Path) -> None:
    fast = "local_bsz,sync_time,step_time,placement\n4,0.5,1,2\n8.0,0.5,2,2\n"  # columns in any order, counts as 8 or 8.0
    model = bound(write_profiles(tmp_path, placements_rtx_csv=fast), table(), "rtx", "")

    assert model.rate(0, on(2, accelerator="rtx"), 0.0, ())[0] == pytest.approx(1 / 1)
    assert model.rate(0, on(2), 0.0, ())[0] == pytest.approx(1 / 2)


def test_a_profile_without_types_holds_for_every_type(profiles: Path) -> None:
    assert bound(profiles, table(), "v100").rate(0, on(2, accelerator="v100"), 0.0, ()) == (1 / 2, 10)


def test_a_type_that_no_job_accepts_needs_no_table(tmp_path: Path) -> None:
    folder = write_profiles(tmp_path, placements_rtx_csv="placement,local_bsz,step_time,sync_time\n2,4,1,0\n")

    bound(folder, table(accepts=[["rtx"]]), "rtx", "k80")
    with pytest.raises(InputError, match=r"toy: no placements-k80\.csv; known: \"rtx\"; an untyped cluster takes placements\.csv"):
        bound(folder, table(), "rtx", "k80")


def test_an_untyped_cluster_needs_the_table_without_a_suffix(tmp_path: Path) -> None:
    folder = write_profiles(tmp_path, placements_csv="", placements_rtx_csv="placement,local_bsz,step_time,sync_time\n2,4,1,0\n")

    with pytest.raises(InputError, match=r"no placements\.csv for untyped nodes; give a type it has \(rtx\): --cluster 16x4:rtx"):
        bound(folder, table())


@pytest.mark.parametrize(
    ("jobs", "complaint"),
    [
        (table(model=None), "job a: names no model"),
        (table(model="toi"), 'job a: .* has no application "toi"; nearest: "toy"'),
        (table(model="../toy"), "has no application"),
        (table(gpus=0.5), r"job a: asks for 0\.5 GPUs"),
        (table(gpus=0, cpus=[1.0]), "job a: asks for 0 GPUs"),
        (table(batch=64), 'batch_size: 64 of "toy" must be a whole number from 8 to 32'),
        (table(batch=12.5), r"batch_size: 12\.5"),
        (table(batch=math.inf), "batch_size: inf"),
        (table(work=[100.0]), "job a: its work is in seconds"),
    ],
)
def test_a_job_the_profile_cannot_tell_about_is_refused_in_one_line(profiles: Path, jobs: JobTable, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as refused:
        bound(profiles, jobs)
    assert "\n" not in str(refused.value)


HEADER = "placement,local_bsz,step_time,sync_time\n"
EPOCHS = "progress,iteration,metric,grad_sqr,grad_var\n"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("placements_csv", "", r"no file|No such file"),
        ("placements_csv", HEADER, r"placements\.csv: no rows"),
        ("placements_csv", "placement,local_bsz\n1,4\n", r"placements\.csv:1: no column step_time"),
        ("placements_csv", HEADER + "1,4,1,0\n1,8,fast,0\n", r'placements\.csv:3: step_time: "fast" is not a number that was measured'),
        ("placements_csv", HEADER + "1,4,nan,0\n", r"placements\.csv:2: step_time"),
        ("placements_csv", HEADER + "1,4,1e308,0\n", r"placements\.csv:2: step_time"),
        ("placements_csv", HEADER + "1,4,0,0\n", r"placements\.csv:2: step_time: 0 must be at least 1e-09"),
        ("placements_csv", HEADER + "1,4,1,-1\n", r"placements\.csv:2: sync_time: -1 must be at least 0"),
        ("placements_csv", HEADER + "1,4,1,2\n", r"placements\.csv:2: sync_time: 2 s is more than the whole step \(1 s\)"),
        ("placements_csv", HEADER + "1,4.5,1,0\n", r"placements\.csv:2: local_bsz: 4\.5 is not a whole number"),
        ("placements_csv", HEADER + "1,1e300,1,0\n", r"placements\.csv:2: local_bsz"),
        ("placements_csv", HEADER + "10,4,1,0\n", r"placements\.csv:2: placement: '10' is not GPUs per node"),
        ("placements_csv", HEADER + "²,4,1,0\n", r"placements\.csv:2: placement"),
        ("placements_csv", HEADER + "1,4,1\n", r"placements\.csv:2: 3 fields, the header has 4"),
        ("placements_csv", HEADER + '"' + "1" * 200_000 + "\n", r"placements\.csv:\d: field larger than"),
        ("scalability_csv", "num_nodes,num_replicas,local_bsz,step_time,sync_time\n0,1,4,1,0\n", r"scalability\.csv:2: num_nodes"),
        ("validation_16_csv", EPOCHS + "11,7,0.5,1,3\n", r"validation-16\.csv: 1 epochs, another batch has 2"),
        ("validation_8_csv", EPOCHS + "10,1,1,1,3\n10,1,1,1,3\n", r"toy: progress does not grow in epoch 2"),
        ("validation_8_csv", EPOCHS + "10,1,1,-1,3\n30,1,1,1,3\n", r"validation-8\.csv:2: grad_sqr: -1 must be at least 0"),
        ("validation_8_csv", EPOCHS + "10,1,1,0,0\n30,1,1,1,3\n", r"validation-8\.csv:2: grad_sqr: 0 with grad_var 0"),
    ],
)
def test_a_file_that_cannot_be_believed_is_refused_by_line_and_field(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    folder = write_profiles(tmp_path, **{name: text})

    with pytest.raises(InputError, match=complaint) as refused:
        bound(folder, table())
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text_are_refused(profiles: Path) -> None:
    (profiles / "toy" / "placements.csv").write_bytes(b"\xff\xfe\x00\x01")

    with pytest.raises(InputError, match="not text in UTF-8"):
        bound(profiles, table())


def test_what_is_no_plain_file_is_not_waited_for(profiles: Path) -> None:
    (profiles / "toy" / "scalability.csv").unlink()
    os.mkfifo(profiles / "toy" / "scalability.csv")

    with pytest.raises(InputError, match=r"scalability\.csv: not a plain file"):
        bound(profiles, table())


def test_a_share_of_a_gpu_was_not_measured(profiles: Path) -> None:
    with pytest.raises(InputError, match="measured on whole GPUs"):
        bound(profiles, table()).rate(0, on(0.5), 0.0, ())


def test_a_table_without_jobs_binds(profiles: Path) -> None:
    jobs = JobTable.build(submit_s=[], gpus=[], work=[])

    assert len(load_profiles(profiles).bind(jobs, cluster())[0]) == 0


@pytest.fixture(scope="module")
def shared_profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_profiles(tmp_path_factory.mktemp("profiles"))


@settings(max_examples=200, deadline=None)
@given(
    batch=st.integers(8, 32),
    gpus=st.lists(st.integers(1, 4), min_size=1, max_size=40),
    done=st.floats(0, 1000),
)
def test_every_allocation_has_a_positive_rate_and_a_later_epoch_end(
    shared_profiles: Path, batch: int, gpus: list[int], done: float
) -> None:
    rate, until = bound(shared_profiles, table(batch=batch)).rate(0, on(*map(float, gpus)), done, ())

    assert 0 < rate < math.inf
    assert until > done


@given(gpus=st.integers(1, 64), batch=st.integers(8, 512), largest_local=st.integers(4, 512))
def test_the_rigid_batch_fits_the_gpu_and_makes_up_the_global_batch(gpus: int, batch: int, largest_local: int) -> None:
    atomic, steps = rigid_batch(gpus, batch, initial=8, largest=512, largest_local=largest_local)
    run = gpus * atomic * (steps + 1)

    assert 1 <= atomic <= largest_local
    assert steps >= (1 if gpus == 1 and batch > 8 else 0)
    assert batch - gpus * (steps + 1) < run < batch + gpus * (steps + 2)  # rounded to whole samples, at most a step's worth off
    assert run <= 512 or atomic == 1


@given(st.integers(8, 32), st.integers(8, 32))
def test_a_larger_batch_gains_more_a_step_and_less_a_sample(shared_profiles: Path, one: int, other: int) -> None:
    app = bound(shared_profiles, table()).kinds[0].app
    small, large = min(one, other), max(one, other)

    assert (app.gain(small) <= app.gain(large) + 1e-12).all()
    assert (app.gain(small) / small >= app.gain(large) / large - 1e-12).all()


@given(st.lists(st.integers(1, 100), min_size=1, unique=True), st.floats(-10, 200))
def test_interpolation_weights_sum_to_one_and_hit_the_point(points: list[int], value: float) -> None:
    points.sort()
    near = between(points, value)

    assert sum(weight for _, weight in near) == pytest.approx(1)
    assert sum(points[i] * weight for i, weight in near) == pytest.approx(np.clip(value, points[0], points[-1]))


def test_repeated_measurements_are_averaged() -> None:
    assert BatchCurve.of({4: [(1.0, 0.0), (3.0, 1.0)]}).at(4) == (2.0, 0.5)
