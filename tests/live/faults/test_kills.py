"""Real controllers under SIGKILL and other blows at random instants, while people submit, cancel, suspend, and jobs start, are preempted
and end. Each prints its seed; the samples take that of TRAINMASTER_SEED."""

from __future__ import annotations

import pytest

from live.faults.mixture import mix
from live.faults.real import kill_often

LAS = ("--policy", "las", "--set", "quantum_s=1")


def test_a_controller_that_is_killed_again_and_again_loses_no_job(cluster) -> None:
    print(kill_often(cluster(*LAS), seed=1, kills=3, jobs=10))


# ------------------------------------------------------------------------------------------------- the sample of every change


@pytest.mark.slow
@pytest.mark.sample
def test_twenty_kills_lose_no_job(cluster, seed: int) -> None:
    print(kill_often(cluster(*LAS), seed, kills=20, jobs=60))


@pytest.mark.slow
@pytest.mark.sample
def test_five_blows_of_any_kind_lose_no_job(cluster, seed: int) -> None:
    print(mix(cluster(*LAS), seed, blows=5, jobs=30))


@pytest.mark.slow
@pytest.mark.sample
def test_five_blows_of_any_kind_lose_no_job_of_a_store_in_postgresql(cluster, postgres, seed: int) -> None:
    print(mix(cluster(*LAS, store=postgres.database("blows")), seed, blows=5, jobs=30, postgres=postgres))


# ------------------------------------------------------------------------------------------------- the full numbers


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_hundreds_of_kills_lose_no_job(cluster, seed: int) -> None:
    print(kill_often(cluster(*LAS), seed, kills=30, jobs=100))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 24))
def test_hundreds_of_kills_lose_no_job_of_a_store_in_postgresql(cluster, postgres, seed: int) -> None:
    print(kill_often(cluster(*LAS, store=postgres.database(f"kills_{seed}")), seed, kills=30, jobs=100))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30, 34))
def test_many_blows_of_any_kind_lose_no_job(cluster, seed: int) -> None:
    print(mix(cluster(*LAS), seed, blows=30, jobs=100))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 44))
def test_many_blows_of_any_kind_lose_no_job_of_a_store_in_postgresql(cluster, postgres, seed: int) -> None:
    print(mix(cluster(*LAS, store=postgres.database(f"blows_{seed}")), seed, blows=30, jobs=100, postgres=postgres))
