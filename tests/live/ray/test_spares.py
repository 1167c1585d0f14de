"""Workers of Ray that wait for our next actors: jobs begin in them, and nothing of them is left when the controller has gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import Harness
from trainmaster.live.backends.ray import RayBackend

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def idle(cluster: Any, node: str) -> set[int]:
    """Workers there that Ray has given to nobody."""
    return {pid for pid in cluster.pids(node) if title(pid).startswith("ray::IDLE")}


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_job_begins_in_a_worker_that_was_there_and_another_comes_in_its_place(ray_cluster: Any, tmp_path: Path) -> None:
    from trainmaster.live.backends.ray_spares import ON_A_NODE  # Ray's own modules are behind it

    before = idle(ray_cluster, "n1")
    site = Harness(lambda: RayBackend(tmp_path / "state", ray_cluster.address, node_folder=tmp_path / "nodes"), tmp_path)
    waiting = site.wait(lambda: found if len(found := idle(ray_cluster, "n1") - before) == ON_A_NODE else None)
    attempt = site.start(["sleep", "60"])
    site.running(attempt)
    assert len(waiting - idle(ray_cluster, "n1")) == 1
    assert site.wait(lambda: len(idle(ray_cluster, "n1") - before) == ON_A_NODE or None)
    site.crash()
    site.running(attempt)  # what runs is not among those that go with the controller
    site.wait(lambda: not waiting & idle(ray_cluster, "n1") or None)
    site.backend.stop(attempt.job, 1, grace_s=0, reason="cancel")
    site.until(attempt)
    site.close()
    assert site.wait(lambda: idle(ray_cluster, "n1") <= before or None)
