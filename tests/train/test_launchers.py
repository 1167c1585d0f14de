"""The examples under what people start them with: stopped and started again, they end with the weights of the run left alone."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.fake_node import FakeNode

pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "examples"
RANKS = 2
ACCELERATE = ["launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCHERS = {
    "python": ([sys.executable], 1),
    "torchrun": ([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)], RANKS),
    "accelerate": ([sys.executable, "-m", "accelerate.commands.accelerate_cli", *ACCELERATE, "--num_processes", str(RANKS)], RANKS),
}
SCRIPTS = {
    "cnn_images.py": ["--epochs", "3", "--samples", "640"],
    "transformer_text.py": ["--steps", "40", "--every", "15"],
}


def start(launcher, script, environment):
    argv = [*LAUNCHERS[launcher][0], str(EXAMPLES / script), *SCRIPTS[script]]
    pipe, log = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(argv, env={**os.environ, **environment}, stdout=pipe, stderr=log, text=True)


def ended(process):
    log = process.communicate(timeout=120)[0]
    assert process.returncode == 0, log
    return log


def digest(log):
    return re.search(r"sha256 (\w{64})", log)[1]


def wait_for_step(node, step, process):
    """Looks where the ranks count: `progress` is written only once a second."""
    counters = node.control / "steps"
    while process.poll() is None:
        if counters.exists() and len(content := counters.read_bytes()) >= 8 and struct.unpack_from("<q", content)[0] >= step:
            return
        time.sleep(0.005)
    raise AssertionError(process.communicate()[0])


def stopped_once_ends_as_if_left_alone(folder, launcher, script, alone):
    ranks = LAUNCHERS[launcher][1]
    first = FakeNode(folder)
    process = start(launcher, script, first.environment)
    wait_for_step(first, 7, process)
    first.ask_to_stop()
    log = ended(process)
    assert "sha256" not in log  # nothing after the loop ran
    assert [ack["step"] for ack in first.acks(ranks)] == [first.stop_step] * ranks
    assert first.read("ack.0")["saved_step"] == first.stop_step

    log = ended(start(launcher, script, FakeNode(folder, 2).environment))
    assert f"resumed after step {first.stop_step}" in log
    assert digest(log) == alone


def test_an_example_stopped_and_started_again_ends_as_if_left_alone(tmp_path):
    alone = digest(ended(start("python", "cnn_images.py", {})))
    stopped_once_ends_as_if_left_alone(tmp_path, "python", "cnn_images.py", alone)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_examples_under_every_launcher(tmp_path, launcher, script):
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
    alone = digest(ended(start(launcher, script, {})))
    stopped_once_ends_as_if_left_alone(tmp_path, launcher, script, alone)


@pytest.mark.slow
def test_torchrun_and_accelerate_train_the_same_weights():
    assert digest(ended(start("torchrun", "cnn_images.py", {}))) == digest(ended(start("accelerate", "cnn_images.py", {})))
