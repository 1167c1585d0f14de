"""Logs on Ray: they come from the nodes as they grow, and keep their beginning and their end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import Harness
from trainmaster.live.backends.ray import RayBackend

pytestmark = [pytest.mark.slow, pytest.mark.ray]


PROGRAM = """
import time
for number in range(1_000_000):
    print(f"line {number:07}")
print("done", flush=True)
open("written", "w").write("all")
time.sleep(60)
"""


def test_a_log_past_its_limit_keeps_its_beginning_and_its_end_there_and_here(ray_cluster: Any, tmp_path: Path) -> None:
    limit, nodes = 1 << 20, tmp_path / "nodes"
    site = Harness(lambda: RayBackend(tmp_path / "state", ray_cluster.address, node_folder=nodes, log_limit=limit), tmp_path)
    attempt = site.start([sys.executable, "-c", PROGRAM])
    site.file("written")
    (there,) = nodes.glob(f"*/node-*/jobs/{attempt.job}/1/0.log")
    here = site.wait(lambda: site.backend.log_files(attempt.job, 1).get("0"))
    for path in (there, here):
        site.wait(lambda path=path: (path.stat().st_size == 13_000_005 and path.stat().st_blocks * 512 <= limit + (64 << 10)) or None)
        text = path.read_bytes()
        assert text.startswith(b"line 0000000\nline 0000001\n") and text.endswith(b"line 0999999\ndone\n")
        assert text.count(b"this log has passed its limit of 1 MiB") == 1
    site.backend.stop(attempt.job, 1, grace_s=0, reason="cancel")
    site.until(attempt)
    site.close()
