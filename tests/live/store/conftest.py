"""Each behaviour of the store is tested on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from live.postgres import Postgres
from trainmaster.live.store import Store


class Clock:
    """Time that a test moves by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


Opener = Callable[..., Store]


@pytest.fixture
def opened(url: str, clock: Clock) -> Iterator[Opener]:
    """Open the test's database; whatever is still open at the end is closed."""
    stores = []

    def open(owner: str = "first", **kwargs: object) -> Store:
        store = Store.open(url, owner=owner, now=clock, **kwargs)  # type: ignore[arg-type]
        stores.append(store)
        return store

    yield open
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opener) -> Store:
    return opened()
