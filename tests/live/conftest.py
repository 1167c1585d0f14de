"""Fixtures of every test of the live cluster."""

from live.postgres import postgres
from live.ray.cluster import ray_cluster
from live.slurm.cluster import slurm

__all__ = ["postgres", "ray_cluster", "slurm"]
