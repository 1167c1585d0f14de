"""One running cluster a module."""

from collections.abc import Iterator

import pytest

from .cluster import Cluster, cluster


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("up")) as one:
        yield one
