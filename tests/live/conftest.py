"""Fixtures of every test of the live cluster."""

from live.postgres import postgres
from live.slurm.cluster import slurm

__all__ = ["postgres", "slurm"]
