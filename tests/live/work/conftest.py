"""One running cluster a module."""

from collections.abc import Iterator

import pytest

from .cluster import LONG_S, Cluster, cluster


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("up")) as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test that failed has left would be in the way of those after it."""
    yield
    if "up" in request.fixturenames:
        one: Cluster = request.getfixturevalue("up")
        if ids := [job["id"] for job in one.client.jobs()]:
            one.client.cancel(ids)
            for id in ids:
                one.client.wait(id, LONG_S)
