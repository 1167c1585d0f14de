"""SIGKILL to a real controller at random instants, while people submit, cancel, suspend, and jobs start, are preempted and end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from live.faults.real import Cluster, kill_often

LAS = ("--policy", "las", "--set", "quantum_s=1")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, *LAS)
    yield made
    made.close()


def test_a_controller_that_is_killed_again_and_again_loses_no_job(cluster: Cluster) -> None:
    print(kill_often(cluster, seed=1, kills=3, jobs=10))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_hundreds_of_kills_lose_no_job(cluster: Cluster, seed: int) -> None:
    print(kill_often(cluster, seed, kills=30, jobs=100))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 22))
def test_kills_with_postgresql_lose_no_job(tmp_path: Path, postgres, seed: int) -> None:
    cluster = Cluster(tmp_path, *LAS, store=postgres.database(f"kills_{seed}"))
    try:
        print(kill_often(cluster, seed, kills=30, jobs=100))
    finally:
        cluster.close()
