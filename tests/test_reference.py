"""Figures measured with the papers' own artifacts: every public check this version claims, case by case.

The references lie beside the public traces: TRAINMASTER_DATA/../reference.
"""

import csv
import gzip
import json
import os
from pathlib import Path

import pytest

from trainmaster.cli.main import main

DATA = os.environ.get("TRAINMASTER_DATA")
CLAIMED = {
    "tiresias.json": "", "swf.json": "", "pollux.json": "", "elasticflow.json": "", "sia.json": "sia/ratio",
    "elastic_multi.json": "pai/sjf pai/fifo",
}  # fmt: skip
SLOW = ("pollux-artifact/pollux/", "elasticflow/ratio/", "sia/ratio/")


def cases() -> list[object]:
    if DATA is None:
        return [pytest.param(None, marks=pytest.mark.skip("TRAINMASTER_DATA names no folder of public traces"))]
    folder = Path(DATA).parent / "reference"
    found = [case for file in CLAIMED for case in json.loads((folder / file).read_text())
             if any(part in case["name"] for part in CLAIMED[file].split() or [""])]  # fmt: skip
    return [pytest.param(case, id=case["name"], marks=[pytest.mark.slow] if case["name"].startswith(SLOW) else []) for case in found]


@pytest.mark.parametrize("case", cases())
def test_the_reference_holds(case, tmp_path):
    assert DATA is not None
    places = {"{data}": DATA, "{refs}": str(Path(DATA).parent / "reference")}
    args = list(case["args"])
    for word, place in places.items():
        args = [arg.replace(word, place) for arg in args]

    assert main(["simulate", *args, "--quiet", "--json", str(tmp_path / "out.json"), "--jobs-out", str(tmp_path / "jobs.csv")]) == 0

    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    for metric, (value, tolerance, *at_least) in case.get("expect", {}).items():
        reached = runs[0][metric] >= value * (1 - tolerance) if at_least else runs[0][metric] == pytest.approx(value, rel=tolerance)
        assert reached, (metric, runs[0][metric], value)
    by_policy = {run["policy"]: run for run in runs}
    for ratio in case.get("ratio", []):
        top, bottom = (by_policy[ratio[side]][ratio["metric"]] for side in ("of", "to"))
        assert ratio.get("min", 0) <= top / bottom <= ratio.get("max", float("inf")), ratio
    if "jobs" in case:
        with gzip.open(case["jobs"]["file"].replace("{data}", DATA), "rt") as file:
            wanted = {row["job_id"]: row for row in csv.DictReader(file)}
        ours = {row["job_id"]: row for row in csv.DictReader((tmp_path / "jobs.csv").open())}
        off = [(id, column) for id, row in wanted.items() for column in case["jobs"]["columns"]
               if not abs(float(ours[id][column]) - float(row[column])) <= case["jobs"]["within_s"]]  # fmt: skip
        assert off == []
