"""The behaviour tests run against every backend that this machine can have; the real systems take longer, and are slow tests."""

import getpass
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainmaster.live.backends.local import LocalBackend
from trainmaster.live.backends.slurm import SlurmBackend

from .harness import Harness


def local(state: Path) -> Callable[[], LocalBackend]:
    return lambda: LocalBackend(state, nodes=[("n1", 4), ("n2", 4)])


def slurm(state: Path) -> Callable[[], SlurmBackend]:
    return lambda: SlurmBackend(state)


BACKENDS = {"local": local, "slurm": slurm}
SYSTEMS = {"slurm": "slurm"}  # backends that need a fixture of the session


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """Two nodes of four accelerators each, and a folder to work in. Local, unless the test asks for others (`every_backend`)."""
    name = getattr(request, "param", "local")
    if name in SYSTEMS:
        request.getfixturevalue(SYSTEMS[name])
    work = tmp_path / "work"
    work.mkdir()
    harness = Harness(BACKENDS[name](tmp_path / "state"), work, user=getpass.getuser())
    yield harness
    for one in harness.backend.observe():
        harness.backend.stop(one.job, one.attempt, grace_s=0, reason="cancel")
    harness.wait(lambda: all(one.ended_s is not None for one in harness.backend.observe()) or None)
    harness.backend.close()
