"""Real clusters, each with a state folder of its own; whatever a test has left of one is ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from live.faults.real import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes one that answers."""
    made: list[Cluster] = []

    def make(*flags: str, **more: Any) -> Cluster:
        made.append(Cluster(tmp_path, *flags, **more))
        made[-1].spawn()
        made[-1].until_it_answers()
        return made[-1]

    yield make
    for each in made:
        each.close()
