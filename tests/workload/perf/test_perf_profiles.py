"""`--profiles`: told by content, and what is not a profile is refused in one line."""

import json
from pathlib import Path

import pytest

from trainmaster.errors import InputError
from trainmaster.workload.perf.profiles import load_profiles
from workload.perf.tiny_profiles import write_profiles


def test_a_folder_of_applications_is_measured_placements(tmp_path: Path) -> None:
    assert load_profiles(str(write_profiles(tmp_path))).name == "placements"


def test_accelerators_and_job_types_are_gavel(tmp_path: Path) -> None:
    (tmp_path / "any-name").write_text(json.dumps({"v100": {"('A3C (batch size 4)', 1)": {"null": 2.0}}}))

    assert load_profiles(tmp_path / "any-name").name == "gavel"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("missing.json", None, r"missing\.json: No such file"),
        ("empty.json", "", r"empty\.json:1: not JSON"),
        ("noise.json", "{\n  oops", r"noise\.json:2: not JSON"),
        ("other.json", '{"a": 1}', "JSON, but no performance profile"),
        ("list.json", "[1, 2]", "JSON, but no performance profile"),
        ("nan.json", '{"a": NaN}', "NaN"),
        ("deep.json", "[" * 200_000, "nested too deep"),
        ("digits.json", "1" * 10_000, "not JSON that a profile would hold"),
        ("synergy.json", '{"models": {"bert_1": {"tput": [[1]], "gpus": 1}}}', "Synergy's model profiles are not supported yet"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, name: str, text: str | None, complaint: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(InputError, match=complaint) as refused:
        load_profiles(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no performance profiles in this folder; known are"):
        load_profiles(tmp_path)


def test_one_application_alone_points_to_the_folder_above(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="toy: the measurements of one application; give the folder above"):
        load_profiles(write_profiles(tmp_path) / "toy")


@pytest.mark.parametrize("nested", [".", "throughputs_A100"])
def test_a_folder_of_sizes_is_scaling_curves(tmp_path: Path, nested: str) -> None:
    (tmp_path / nested).mkdir(exist_ok=True)
    (tmp_path / nested / "bert.csv").write_text("global_batch_size,1,2\n64,6.0,8.6\n")

    assert load_profiles(tmp_path).name == "scaling"
