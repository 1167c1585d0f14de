"""The behaviour tests run against every backend that this machine can have; the real systems take longer, and are slow tests."""

import getpass
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainmaster.live.backends.local import LocalBackend
from trainmaster.live.backends.ray import RayBackend
from trainmaster.live.backends.slurm import SlurmBackend

from .harness import Harness


def local(state: Path, _: Any) -> Callable[[], LocalBackend]:
    return lambda: LocalBackend(state, nodes=[("n1", 4), ("n2", 4)])


def slurm(state: Path, _: Any) -> Callable[[], SlurmBackend]:
    return lambda: SlurmBackend(state)


def ray(state: Path, cluster: Any) -> Callable[[], RayBackend]:
    return lambda: RayBackend(state, cluster.address, node_folder=state.parent / "nodes")


BACKENDS: dict[str, Callable[..., Callable[[], Any]]] = {"local": local, "slurm": slurm, "ray": ray}
SYSTEMS = {"slurm": "slurm", "ray": "ray_cluster"}  # backends that need a fixture of the session
MANY = {"ray": 12}  # it starts a Python for every job


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """Two nodes of four accelerators each, and a folder to work in. Local, unless the test asks for others (`every_backend`)."""
    name = getattr(request, "param", "local")
    system = request.getfixturevalue(SYSTEMS[name]) if name in SYSTEMS else None
    work = tmp_path / "work"
    work.mkdir()
    harness = Harness(BACKENDS[name](tmp_path / "state", system), work, user=getpass.getuser(), many=MANY.get(name, 120))
    yield harness
    harness.close()
