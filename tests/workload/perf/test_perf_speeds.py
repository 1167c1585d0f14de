"""Relative speeds: a user's table, and the catalogue that is built in."""

import json

import pytest

from schedules import cluster, job
from trainmaster.errors import InputError
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.catalogue import MODELS, catalogue
from trainmaster.workload.perf.profiles import load_profiles
from trainmaster.workload.perf.speeds import OTHER, Speeds

TWO = {"reference": "v100", "speeds": {"ResNet-50": {"v100": 1, "k80": 0.2, "moonshot": 3}, "other": {"v100": 1, "k80": 0.5}}}


def table(*models):
    return JobTable.of([job(f"j{i}", i, 2, 100, model=model) for i, model in enumerate(models)])


def test_a_job_runs_as_many_times_as_fast_as_the_table_says():
    _, model = Speeds.of("mine", TWO).bind(table("resnet50 (batch size 64)"), cluster("1x2:v100+1x2:k80+1x2:moonshot"))

    assert model.rates_by_type(None, ())[0].tolist() == [1.0, 0.2, 3.0]
    assert model.rate(0, Allocation((1,), (2.0,), "k80"), 0.0, ())[0] == 0.2
    assert model.rate(0, Allocation((1,), (1.0,), "k80"), 0.0, ())[0] == 0.1
    assert model.notes() == []


def test_a_model_without_a_row_takes_that_of_other_and_the_run_says_so():
    _, model = Speeds.of("mine", TWO).bind(table("llama", None), cluster("1x2:k80"))

    assert model.rates_by_type(None, ())[:, 0].tolist() == [0.5, 0.5]
    assert model.notes() == ["2 jobs are of models that mine does not know: they take its row 'other'"]


@pytest.mark.parametrize(("change", "said"), [
    ({"reference": 3}, '"reference" must name'),
    ({"reference": "k80"}, "its speed on the reference"),
    ({"speeds": {"a": {"v100": 1, "k80": -1}}}, "a speed is a number above 0"),
    ({"speeds": {"a": {"v100": 1, "k80": True}}}, "a speed is a number above 0"),
    ({"speeds": {"a": 4}}, "not a table of types"),
])  # fmt: skip
def test_a_bad_table_is_refused_in_one_line(change, said, tmp_path):
    path = tmp_path / "speeds.json"
    path.write_text(json.dumps(TWO | change))

    with pytest.raises(InputError, match=said):
        load_profiles(path)


def test_a_type_that_no_row_knows_is_refused():
    with pytest.raises(InputError, match="no speeds on"):
        Speeds.of("mine", TWO).bind(table("ResNet-50"), cluster("1x2:h100"))


def test_the_catalogue_covers_a_dozen_models_on_eight_types():
    speeds = catalogue().table

    assert len(MODELS) > 12
    for row in speeds.values():
        assert row.keys() >= {"v100", "a100", "h100", "t4", "l4", "k80", "p100", "cpu"}
        assert row["cpu"] < row["t4"] < row["l4"] < row["v100"] < row["a100"] < row["h100"]
    assert OTHER in speeds


def test_the_word_catalogue_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert load_profiles("catalogue").table == catalogue().table
