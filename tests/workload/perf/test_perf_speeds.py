"""Relative speeds: a user's table, and the catalogue that is built in."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from schedules import cluster, job
from trainmaster.cluster.prices import USD_AN_HOUR
from trainmaster.errors import InputError
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.catalogue import MEASURED, MODELS, catalogue, row_of
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


EIGHT = ("cpu", "k80", "p100", "t4", "l4", "v100", "a100", "h100")


def test_the_catalogue_covers_a_dozen_models_on_eight_types():
    speeds = catalogue().table

    assert len(MODELS) > 12
    for row in speeds.values():
        assert row.keys() >= set(EIGHT)
        assert row["cpu"] < row["t4"] < row["l4"] < row["v100"] < row["a100"] < row["h100"]
    assert OTHER in speeds
    assert set(EIGHT) <= USD_AN_HOUR.keys()


def test_what_gains_less_from_a_fast_device_loses_less_on_a_slow_one():
    """A3C on a K80 is at 0.48 of a V100, ResNet-18 at 0.155: a power of 0.394, by which 0.342 on a T4 is 0.655."""
    row = row_of("a3c")

    assert row["t4"] == (pytest.approx(0.655, abs=1e-3), "D")
    assert row["a100"][0] == pytest.approx(2.08**0.394, abs=2e-3)
    assert row_of("gpt-2")["h100"] == (5.28, "D")  # like bert-large, of which nothing else is known


def test_the_documents_show_the_catalogue_as_it_is():
    page = (Path(__file__).parents[3] / "docs/gavel.md").read_text(encoding="utf-8")

    for model in MODELS:
        row = row_of(model)
        cells = " | ".join(f"{row[name][0]:.2f}{'' if row[name][1] == 'D' else ' ' + row[name][1]}" for name in EIGHT if name != "v100")
        assert f"| {model} | {cells} |" in page


def test_gavels_ratios_are_the_geometric_means_of_its_table(public_data):
    table = json.loads((public_data / "gavel/simulation_throughputs.json").read_text())
    named = {
        "resnet-50": "ResNet-50",
        "resnet-18": "ResNet-18",
        "cyclegan": "CycleGAN",
        "transformer": "Transformer",
        "lm": "LM",
        "a3c": "A3C",
    }
    for model, job_type in named.items():
        keys = [key for key in table["v100"] if key.startswith(f"('{job_type}") and key.endswith(", 1)")]
        for name in ("k80", "p100"):
            ratios = [table[name][key]["null"] / table["v100"][key]["null"] for key in keys]
            assert MEASURED[model][name] == (pytest.approx(np.exp(np.mean(np.log(ratios))), abs=0.006), "G")


@pytest.mark.parametrize(("model", "app", "name", "folder"), [
    ("bert-base", "bert", "t4", "aws"), ("resnet-18", "cifar10", "t4", "aws"), ("resnet-50", "imagenet", "t4", "aws"),
    ("deepspeech2", "deepspeech2", "t4", "aws"), ("yolov3", "yolov3", "t4", "aws"), ("resnet-18", "cifar10", "a100", "dgx-ext"),
])  # fmt: skip
def test_sias_ratios_are_those_of_its_profiles_at_the_largest_common_batch(public_data, model, app, name, folder):
    def one_gpu(suffix):
        rows = csv.DictReader((public_data / f"sia/profiles/{app}/placements-{suffix}.csv").open())
        found = {}
        for row in rows:
            if row["placement"] == "1":
                found.setdefault(float(row["local_bsz"]), []).append(float(row["step_time"]))
        return found

    mine, v100 = one_gpu(folder), one_gpu("azure")
    largest = max(mine.keys() & v100.keys())

    assert MEASURED[model][name] == (pytest.approx(np.mean(v100[largest]) / np.mean(mine[largest]), abs=5e-3), "S")


def test_the_word_catalogue_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert load_profiles("catalogue").table == catalogue().table
