"""The behaviour tests run against every backend that this machine can have."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainmaster.live.backends.local import LocalBackend

from .harness import Harness


def local(state: Path) -> Callable[[], LocalBackend]:
    return lambda: LocalBackend(state, nodes=[("n1", 4), ("n2", 4)])


BACKENDS = {"local": local}


@pytest.fixture(params=BACKENDS)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """Two nodes of four accelerators each, and a folder to work in."""
    work = tmp_path / "work"
    work.mkdir()
    harness = Harness(BACKENDS[request.param](tmp_path / "state"), work)
    yield harness
    for one in harness.backend.observe():
        harness.backend.stop(one.job, one.attempt, grace_s=0, reason="cancel")
    harness.wait(lambda: all(one.ended_s is not None for one in harness.backend.observe()) or None)
    harness.backend.close()
