"""A real Slurm for a test session: the project's own small cluster (scripts/slurm_cluster.py), or the reason why there is none here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from live.scripts import script


def why_not() -> str | None:
    if absent := script("slurm_cluster").missing():
        return f"{', '.join(absent)} not installed: scripts/slurm_cluster.py install"
    if os.getuid() != 0:
        return "the small Slurm cluster needs root"
    return None


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Two nodes of four GPUs, and SLURM_CONF that points there."""
    if reason := why_not():
        pytest.skip(reason)
    cluster = script("slurm_cluster").SmallCluster(tmp_path_factory.mktemp("slurm"), nodes=2, gpus=4)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(cluster.conf)
    try:
        cluster.start()
        yield cluster
    finally:
        if cluster.conf.exists():
            cluster.stop()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(cluster.folder, ignore_errors=True)
