"""Fixtures of every test of the live cluster."""

import os

import pytest

from live.postgres import postgres
from live.ray.cluster import ray_cluster
from live.slurm.cluster import slurm

__all__ = ["postgres", "ray_cluster", "seed", "slurm"]


@pytest.fixture
def seed() -> int:
    """Of the sample that this run takes. Real processes keep no time, so that a seed repeats the blows and not the outcome."""
    number = int(os.environ.get("TRAINMASTER_SEED", "0"))
    print(f"\nseed {number}; again: make samples SEED={number}")
    return number
