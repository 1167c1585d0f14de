"""A real Ray for a test session: the project's own small cluster (scripts/ray_cluster.py), or the reason why there is none here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from live.scripts import script


def small_cluster(*nodes: str, gpus: int = 4, **about: Any) -> Any:
    """Started; to be stopped by whoever asked for it."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: make test-ray")
    cluster = script("ray_cluster").RayCluster(**about)
    try:
        cluster.bring_up(*nodes, gpus=gpus)
    except BaseException:
        cluster.stop()
        raise
    return cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """Two nodes of four GPUs."""
    cluster = small_cluster("n1", "n2")
    yield cluster
    cluster.stop()
