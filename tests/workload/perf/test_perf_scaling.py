"""Scaling curves: what a table says, between its sizes, and what is refused."""

import math
from pathlib import Path

import pytest

from trainmaster.cluster.cluster import Cluster
from trainmaster.cluster.spec import parse_cluster
from trainmaster.errors import InputError
from trainmaster.workload.jobs import Job, JobTable
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.profiles import load_profiles
from trainmaster.workload.perf.scaling import ScalingModel

TABLE = "global_batch_size,1,2,4,8\n64,10,18,30,\n128,nan,8,12,11\n"


def tables(folder: Path, text: str = TABLE, place: str = ".") -> Path:
    (folder / place).mkdir(exist_ok=True)
    (folder / place / "bert.csv").write_text(text)
    return folder


def bound(folder: Path, on: str = "2x8", **columns: object) -> tuple[JobTable, ScalingModel]:
    job = Job(**{"id": "a", "submit_s": 0, "work": 100, "gpus": 2, "model": "bert", "batch_size": 64, **columns})  # type: ignore[arg-type]
    jobs, model = load_profiles(folder).bind(JobTable.of([job]), parse_cluster(on))
    assert isinstance(model, ScalingModel)
    return jobs, model


def rate(model: ScalingModel, gpus: float, accelerator: str = "") -> float:
    return model.rate(0, Allocation((0,), (gpus,), accelerator), 0.0, ())[0]


def test_between_sizes_the_rate_is_linear_and_beyond_the_largest_it_is_that_of_the_largest(tmp_path: Path) -> None:
    _, model = bound(tables(tmp_path))

    assert [rate(model, gpus) for gpus in (1, 2, 3, 4, 8, 16)] == [10, 18, 24, 30, 30, 30]
    assert model.speeds(0, "", 8, 5, 0.0).tolist() == [0, 10, 18, 24, 30, 30]


def test_below_the_smallest_size_it_does_not_run(tmp_path: Path) -> None:
    _, model = bound(tables(tmp_path), batch_size=128)

    assert model.speeds(0, "", 8, 8, 0.0).tolist() == [0, 0, 8, 10, 12, 11.75, 11.5, 11.25, 11]
    with pytest.raises(InputError, match='job a: "bert" was not measured on as few as 1 GPUs'):
        rate(model, 1)


def test_work_is_the_seconds_at_what_was_asked_unless_the_trace_counts_steps(tmp_path: Path) -> None:
    tables(tmp_path)

    assert bound(tmp_path)[0].work.tolist() == [1800]  # 100 s at 18 a second
    assert bound(tmp_path, steps=7000)[0].work.tolist() == [7000]
    assert bound(tmp_path, work=5, work_in_steps=True)[0].work.tolist() == [5]
    with pytest.raises(InputError, match="job a: says neither how many iterations it runs nor for how long"):
        bound(tmp_path, work=math.nan)


def test_folders_by_type_hold_for_nodes_of_that_type(tmp_path: Path) -> None:
    tables(tmp_path, TABLE, "throughputs_A100")
    tables(tmp_path, "global_batch_size,1\n64,2\n", "throughputs_T4")
    jobs, model = bound(tmp_path, "1x8:a100+1x8:t4", gpus=1)

    assert rate(model, 1, "a100") == 10
    assert rate(model, 1, "t4") == 2
    assert model.rates_by_type(jobs, ("a100", "t4")).tolist() == [[10, 2]]
    with pytest.raises(InputError, match='no tables for accelerator "k80"'):
        bound(tmp_path, "1x8:k80")
    with pytest.raises(InputError, match="the nodes have none"):
        bound(tmp_path, "1x8")


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"model": "bart"}, 'job a: .* has no table "bart"; nearest: "bert"'),
        ({"model": None}, "job a: names no model"),
        ({"batch_size": 32}, 'job a: batch_size 32; .* has "bert" at 64, 128'),
        ({"batch_size": None}, 'job a: no batch_size; .* has "bert" at 64, 128'),
        ({"batch_size": 128, "gpus": 1}, 'job a: "bert" was not measured on as few as 1 GPUs'),
    ],
)
def test_a_job_that_the_tables_do_not_know_is_refused(tmp_path: Path, columns: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        bound(tables(tmp_path), **columns)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("global_batch_size,1,two\n64,1,2\n", r"bert\.csv:1: after global_batch_size, every column is a number of GPUs"),
        ("global_batch_size\n64\n", r"bert\.csv:1: after"),
        ("global_batch_size,1\n64,fast\n", r'bert\.csv:2: 1: "fast" is not a number of iterations a second'),
        ("global_batch_size,1\n64,-1\n", r'bert\.csv:2: 1: "-1" is not'),
        ("global_batch_size,1\n64,\n", r"bert\.csv:2: no size with a rate"),
        ("global_batch_size,1\n64,1\n64,2\n", r"bert\.csv:3: global_batch_size: 64 appears a second time"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as refused:
        load_profiles(tables(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_job_takes_the_rate_of_the_first_type_it_accepts(tmp_path: Path) -> None:
    tables(tmp_path, TABLE, "a_a100")
    tables(tmp_path, "global_batch_size,1,2\n64,2,3\n", "a_t4")

    assert bound(tmp_path, "1x8:a100+1x8:t4", accepts=("t4",))[0].work.tolist() == [300]
    assert isinstance(parse_cluster("1x8:t4"), Cluster)
