"""Gavel's table of steps a second: what is read from it, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.errors import InputError
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.gavel import JOB_KEY
from trainmaster.workload.perf.profiles import load_profiles

LM, RESNET, RECODER = "LM (batch size 20)", "ResNet-50 (batch size 128)", "Recommendation (batch size 1024)"
TABLE: dict[str, Any] = {
    "v100": {
        f"('{LM}', 1)": {"null": 60.0, f"('{LM}', 1)": [30.0, 30.0]},
        f"('{LM}', 4)": {"null": 110.5},
        f"('{RESNET}', 4)": {"null": 10},
    },
    "k80": {f"('{LM}', 1)": {"null": 15.0}, f"('{LM}', 4)": {"null": 30.0}, f"('{RESNET}', 4)": {"null": 0}},
    "p100": {f"('{LM}', 1)": {"null": 50.0}, f"('{RECODER}', 1)": {"null": 5.0}},
}
MIXED = Cluster.of([Node(gpus=4, type="v100"), Node(gpus=4, type="k80")])


def written(folder: Path, data: Any = TABLE) -> Path:
    path = folder / "throughputs.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def table(*jobs: tuple[str | None, float], in_steps: bool = True, **columns: Any) -> JobTable:
    models, gpus = zip(*jobs, strict=True)
    return JobTable.build(submit_s=range(len(jobs)), gpus=gpus, model=models, work=[100.0] * len(jobs), work_in_steps=in_steps, **columns)


def test_rates_are_those_of_the_gang_by_accelerator(tmp_path: Path) -> None:
    jobs, model = load_profiles(written(tmp_path)).bind(table((LM, 1), (RESNET, 4), (LM, 4), (LM, 1)), MIXED)

    rates = model.rates_by_type(jobs, ["k80", "v100"])
    assert rates is not None
    assert rates.tolist() == [[15, 60], [0, 10], [30, 110.5], [15, 60]]
    assert model.rate(2, Allocation((0,), (4.0,), "v100"), 0.0, ()) == (110.5, math.inf)
    assert model.rate(2, Allocation((0, 1), (2.0, 2.0), "v100"), 50.0, ()) == (110.5, math.inf)  # locality has no effect here
    assert jobs.work.tolist() == [100] * 4


def test_a_type_on_which_a_job_was_not_measured_is_one_it_cannot_run_on(tmp_path: Path) -> None:
    cluster = Cluster.of([Node(gpus=4, type="v100"), Node(gpus=4, type="p100")])
    jobs, model = load_profiles(written(tmp_path)).bind(table((RESNET, 4)), cluster)

    rates = model.rates_by_type(jobs, cluster.types)
    assert rates is not None
    assert rates.tolist() == [[10, 0]]


@pytest.mark.parametrize(
    ("jobs", "types", "complaint"),
    [
        (table((LM, 1)), ("",), r"the cluster's nodes need a type \(k80, p100, v100\)"),
        (table((LM, 1)), ("v1000",), 'no rates for accelerator "v1000"; nearest: "v100"'),
        (table(("LM (batch size 21)", 1)), ("v100",), rf'job 0: .* no model "LM \(batch size 21\)" on v100; nearest: "{LM[:3]}'),
        (table(("ResNet-50", 4)), ("v100",), r'nearest: "ResNet-50 \(batch size 128\)"$'),
        (table((RECODER, 1)), ("v100", "k80"), "job 0: .* on v100, k80"),
        (table((LM, 1), (LM, 3)), ("v100",), r"job 1: .* on 1, 4 GPUs, not on 3"),
        (table((LM, 0.5)), ("v100",), r"job 0: asks for 0\.5 GPUs"),
        (table((None, 1)), ("v100",), "job 0: names no model"),
        (table((LM, 1), in_steps=False), ("v100",), "job 0: its work is not in steps"),
        (table((RECODER, 1), accepts=[["k80"]]), ("k80", "p100"), "job 0: .* on k80;"),
    ],
)
def test_what_the_table_does_not_have_is_refused_in_one_line(
    tmp_path: Path, jobs: JobTable, types: tuple[str, ...], complaint: str
) -> None:
    cluster = Cluster.of([Node(gpus=4, type=accelerator) for accelerator in types])

    with pytest.raises(InputError, match=complaint) as refused:
        load_profiles(written(tmp_path)).bind(jobs, cluster)
    assert "\n" not in str(refused.value)


def test_a_gang_that_was_not_measured_has_no_rate(tmp_path: Path) -> None:
    _, model = load_profiles(written(tmp_path)).bind(table((LM, 4)), MIXED)

    with pytest.raises(InputError, match=r'job 0: "LM .*" was not measured on 3 GPUs of type "v100"'):
        model.rate(0, Allocation((0,), (3.0,), "v100"), 0.0, ())


def test_a_pair_has_the_rates_it_was_measured_with_whichever_stands_first(tmp_path: Path) -> None:
    data = {"v100": {f"('{LM}', 1)": {"null": 60.0, f"('{RECODER}', 1)": [40.0, 3.0]}, f"('{RECODER}', 1)": {"null": 5.0}}}
    _, model = load_profiles(written(tmp_path, data)).bind(table((LM, 1), (RECODER, 1)), Cluster.of([Node(gpus=4, type="v100")]))
    held = Allocation((0,), (1.0,), "v100", share=0.5)

    assert (model.rate(0, held, 0.0, (1,))[0], model.rate(1, held, 0.0, (0,))[0]) == (40.0, 3.0)
    assert (model.beside(0, 1, "v100"), model.beside(1, 0, "v100"), model.beside(0, 0, "v100")) == (40.0, 3.0, 0.0)
    with pytest.raises(InputError, match=r'"LM .*" was not measured on 1 GPUs of type "v100" beside "LM'):
        model.rate(0, held, 0.0, (0,))


@pytest.mark.parametrize("rates", [3.0, [1.0], [1.0, -1.0], [1.0, "2"]])
def test_a_pair_needs_two_rates(tmp_path: Path, rates: object) -> None:
    path = written(tmp_path, {"v100": {f"('{LM}', 1)": {"null": 1.0, f"('{LM}', 1)": rates}}})

    with pytest.raises(InputError, match="must be two numbers from 0"):
        load_profiles(path)


@pytest.mark.parametrize("rate", [-1, "60", None, True, [1.0, 2.0], 10**400])
def test_a_rate_that_is_no_rate_is_refused(tmp_path: Path, rate: object) -> None:
    path = written(tmp_path, {"v100": {f"('{LM}', 1)": {"null": rate}}})

    with pytest.raises(InputError, match=r"throughputs\.json: \"v100\": .*\"null\" must be steps a second"):
        load_profiles(path)


def test_keys_are_read_by_a_pattern_and_never_evaluated(tmp_path: Path) -> None:
    path = written(tmp_path, {"v100": {f"('{LM}', 1)": {"null": 1.0}, "(__import__('os').getcwd(), 1)": {"null": 1.0}}})

    with pytest.raises(InputError, match="is not of the form"):
        load_profiles(path)


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='"k80": not a table of job types'):
        load_profiles(written(tmp_path, TABLE | {"k80": 3}))


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="'\"\\"), min_size=1), st.integers(1, 999_999))
def test_the_pattern_reads_what_python_prints(job_type: str, scale: int) -> None:
    match = JOB_KEY.fullmatch(repr((job_type, scale)))

    if match:  # what Python prints escaped is not a name
        assert (match["job_type"], int(match["scale"])) == (job_type, scale)
    else:
        assert len(job_type) > 200 or repr(job_type) != f"'{job_type}'"


def test_an_slo_becomes_a_deadline_by_the_run_time_on_a_v100_or_else_on_the_fastest_type(tmp_path: Path) -> None:
    cluster, asked = Cluster.of([Node(gpus=4, type="p100")]), table((LM, 1), (LM, 1), (RECODER, 1), slo=[2.0, np.nan, 1.5])
    given = asked.replace(deadline_s=np.array([np.nan, 77.0, np.nan]))

    jobs, _ = load_profiles(written(tmp_path)).bind(given, cluster)

    assert jobs.deadline_s.tolist() == [2 * 100 / 60, 77.0, 2 + 1.5 * 100 / 5]


def test_rows_of_one_kind_share_their_rates(tmp_path: Path) -> None:
    jobs, model = load_profiles(written(tmp_path)).bind(table(*[(LM, 1), (LM, 4)] * 500), MIXED)

    rates = model.rates_by_type(jobs, ["v100"])
    assert rates is not None
    assert np.array_equal(rates[:, 0], [60, 110.5] * 500)


def test_a_table_without_jobs_binds(tmp_path: Path) -> None:
    jobs, model = load_profiles(written(tmp_path)).bind(JobTable.build(submit_s=[], gpus=[], work=[]), MIXED)

    rates = model.rates_by_type(jobs, MIXED.types)
    assert rates is not None
    assert rates.shape == (0, 2)
