"""A PyTorch gang over two nodes of Ray: stopped at one step on both, resumed the other way round, with the weights of a run left alone."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import Harness
from trainmaster.live.backends.base import Attempt, Observation, Seen
from trainmaster.live.backends.ray import RayBackend
from trainmaster.live.node.linux import free_port

pytestmark = [pytest.mark.slow, pytest.mark.ray]
TRAINING = Path(__file__).parents[1] / "work" / "training.py"
SOURCE = Path(__file__).parents[3] / "src"
STEPS_AN_EPOCH, EPOCHS = 60, 4


@pytest.fixture
def site(ray_cluster: Any, tmp_path: Path) -> Iterator[Harness]:
    pytest.importorskip("torch")
    work = tmp_path / "work"
    work.mkdir()
    made = Harness(lambda: RayBackend(tmp_path / "state", ray_cluster.address, node_folder=tmp_path / "nodes"), work)
    yield made
    made.close()


def train(site: Harness, trace: str, pace_s: float, how: str, **about: Any) -> Attempt:
    """`how`: started on every node, or by srun in a script on the first."""
    (site.folder / trace).mkdir(exist_ok=True)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{SOURCE}:{':'.join(sys.path)}", "GLOO_SOCKET_IFNAME": "lo", "HOME": str(site.folder)}
    command = [sys.executable, str(TRAINING), str(site.folder / trace), str(STEPS_AN_EPOCH), str(pace_s)]
    if how == "gang":
        return site.start(command, gpus=(1, 1), ranks="gpu", env=env, **about)
    rank = f"RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS exec {shlex.join(command)}"
    script = f"#!/bin/sh\nexport MASTER_ADDR=127.0.0.1 MASTER_PORT={free_port('127.0.0.1')}\ntrap : TERM\nsrun sh -c {shlex.quote(rank)}\n"
    return site.start(script, gpus=(1, 1), ranks="batch", env=env, **about)


def ended(site: Harness, attempt: Attempt) -> Observation:
    for _ in range(4):  # PyTorch alone takes a while to load where many want the processor
        try:
            return site.until(attempt)
        except AssertionError:
            continue
    raise AssertionError(site.log(attempt))


def steps(site: Harness, trace: str, rank: int) -> list[int]:
    return [int(line.split()[1]) for line in (site.folder / trace / f"trace.{rank}").read_text().splitlines()]


def digest(site: Harness, attempt: Attempt) -> str:
    return re.findall(r"sha256 (\w{64})", site.log(attempt))[0]


@pytest.mark.parametrize("how", ["gang", "srun"])
def test_a_gang_on_two_nodes_is_stopped_and_resumed_without_losing_a_step(site: Harness, how: str) -> None:
    alone = train(site, "alone", 0.0, how)
    assert ended(site, alone).exit_code == 0, site.log(alone)
    first = train(site, "stopped", 0.01, how)
    for _ in range(3):
        if site.wait_some(lambda: (site.seen(first).step or 0) > 40):  # type: ignore[union-attr]
            break
    site.backend.stop(first.job, 1, grace_s=30, reason="preempt")
    stopped = ended(site, first)
    assert (stopped.seen, stopped.exit_code, stopped.acknowledged) == (Seen.ENDED, 0, True), site.log(first)
    assert stopped.step == stopped.saved_step and stopped.step is not None and 40 < stopped.step < EPOCHS * STEPS_AN_EPOCH
    again = replace(first, attempt=2, resumes=True, shares=first.shares[::-1])
    site.backend.start(again)
    assert ended(site, again).exit_code == 0, site.log(again)
    for rank in (0, 1):
        assert steps(site, "stopped", rank) == list(range(1, EPOCHS * STEPS_AN_EPOCH + 1))
    assert digest(site, again) == digest(site, alone)
