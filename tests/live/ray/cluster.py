"""A real Ray for a test session: the project's own small cluster (scripts/ray_cluster.py), or the reason why there is none here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "ray_cluster.py"


def script() -> ModuleType:
    """The script as a module."""
    if "ray_cluster" not in sys.modules:
        spec = importlib.util.spec_from_file_location("ray_cluster", SCRIPT)
        assert spec is not None and spec.loader is not None
        sys.modules["ray_cluster"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["ray_cluster"]


def small_cluster(*nodes: str, gpus: int = 4, **about: Any) -> Any:
    """Started; to be stopped by whoever asked for it."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: make test-ray")
    cluster = script().RayCluster(**about)
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
