"""The examples as they are shipped: each YAML file and batch script, stopped once while it trains, ends with the same weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from .cluster import Cluster, needs

needs("torch", "accelerate")

EXAMPLES = Path(__file__).parents[3] / "examples"
TRAINED_S = 900.0  # to its end, on a machine that is busy with other things too
SHORTER = {"--epochs 20": "--epochs 8 --samples 1600", "--steps 2000": "--steps 120"}
LAUNCHED = {
    "python": ["python"],
    "torchrun": ["torchrun", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
                   "--dynamo_backend", "no"],
}  # fmt: skip


def checkout(folder: Path) -> Path:
    """Where a person would stand: the root of a checkout, its examples made shorter."""
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "examples").iterdir():
        if path.suffix in (".sh", ".yaml"):
            text = path.read_text()
            for long, short in SHORTER.items():
                text = text.replace(long, short)
            path.write_text(text)
    return folder


def digest(text: str) -> str:
    (found,) = set(re.findall(r"sha256 (\w{64})", text))  # attempts may share one output file
    return found


def stopped_once(up: Cluster, id: int) -> str:
    """A job with a higher priority takes the machine after its seventh step. What it wrote, all attempts."""
    up.until(lambda: up.steps(id, 1) >= 7 or up.job(id)["finish_s"] is not None, about=id)
    assert up.job(id)["state"] == "RUNNING", up.tell(id)
    up.until(lambda: up.job(id)["preemptible"], about=id)
    up.succeeded(up.submit("--gpus", "4", "--priority", "10", "--", "true"))
    job = up.succeeded(id, TRAINED_S)
    assert (job["attempts"], job["preemptions"], job["lost_steps"]) == (2, 1, 0), up.tell(id)
    first, second = up.client.attempts(id)
    assert first["saved_step"] == first["step"] < second["step"]
    written = up.outputs(id)
    assert f"resumed after step {first['step']}" in written
    return written


def test_the_images_example_from_its_yaml_file(up: Cluster, tmp_path: Path) -> None:
    here = checkout(tmp_path)
    written = stopped_once(up, up.submit("examples/cnn_images.yaml", cwd=here))
    alone = up.submit("--", "python", "examples/cnn_images.py", "--epochs", "8", "--samples", "1600", cwd=here)
    up.succeeded(alone, TRAINED_S)
    assert digest(written) == digest(up.output(alone))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["cnn_images.sh", "transformer_text.yaml", "transformer_text.sh"])
def test_every_other_file_of_the_examples(up: Cluster, tmp_path: Path, file: str) -> None:
    here = checkout(tmp_path)
    written = stopped_once(up, up.submit(f"examples/{file}", cwd=here))
    alone = up.submit(f"examples/{file}", cwd=here)
    up.succeeded(alone, TRAINED_S)
    assert digest(written) == digest(up.output(alone))


@pytest.mark.slow
@pytest.mark.parametrize("script", ["cnn_images.py --epochs 8 --samples 1600", "transformer_text.py --steps 120"])
@pytest.mark.parametrize("launcher", LAUNCHED)
def test_the_examples_under_every_launcher(up: Cluster, tmp_path: Path, launcher: str, script: str) -> None:
    here = checkout(tmp_path)
    gpus = "1" if launcher == "python" else "2"
    name, *arguments = script.split()
    command = ["--gpus", gpus, "--", *LAUNCHED[launcher], f"examples/{name}", *arguments]
    written = stopped_once(up, up.submit(*command, cwd=here))
    alone = up.submit(*command, cwd=here)
    up.succeeded(alone, TRAINED_S)
    assert digest(written) == digest(up.output(alone))
