"""A PyTorch gang over two nodes of Ray: stopped at one step on both, resumed the other way round, with the weights of a run left alone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import Harness
from trainmaster.live.backends.base import Attempt, Observation, Seen
from trainmaster.live.backends.ray import RayBackend

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


def train(site: Harness, trace: str, pace_s: float, **about: Any) -> Attempt:
    (site.folder / trace).mkdir(exist_ok=True)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{SOURCE}:{':'.join(sys.path)}", "GLOO_SOCKET_IFNAME": "lo", "HOME": str(site.folder)}
    command = [sys.executable, str(TRAINING), str(site.folder / trace), str(STEPS_AN_EPOCH), str(pace_s)]
    return site.start(command, gpus=(1, 1), ranks="gpu", env=env, **about)


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


def test_a_gang_on_two_nodes_is_stopped_and_resumed_without_losing_a_step(site: Harness) -> None:
    alone = train(site, "alone", 0.0)
    assert ended(site, alone).exit_code == 0, site.log(alone)
    first = train(site, "stopped", 0.01)
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
