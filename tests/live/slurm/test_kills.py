"""Ranks, supervisors, slurmd, slurmctld and the controller are killed at random under a mix of jobs: all end once, as they should."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live.slurm.conftest import mend
from live.slurm.site import Site, kill_anything

LAS = ("--policy", "las", "--set", "quantum_s=5")


@pytest.fixture
def site(slurm: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, slurm, *LAS)
    yield made
    made.close()
    slurm.run("scancel", "--user=root", fails=True)
    mend(slurm)


@pytest.mark.slow
def test_ten_faults_lose_no_job_and_run_none_twice(site: Site) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")
    print(kill_anything(site, seed, faults=10))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_faults_lose_no_job_and_run_none_twice(site: Site, seed: int) -> None:
    print(kill_anything(site, seed, faults=10))
