"""How fast a job runs on what it holds: the interface between the engine and every performance model.

    rate(row, allocation, done, neighbours) -> (rate, until_work)

`rate` is work units a second; it holds until the job has done `until_work` units in all (an epoch ends) or an allocation
it depends on changes. Reaching `until_work` is an internal event that calls no policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainmaster.cluster.cluster import Cluster
from trainmaster.workload.jobs import JobTable


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a job holds: `gpus[i]` on node `nodes[i]`, in the order in which they were taken. Fractions are below 1."""

    nodes: tuple[int, ...]
    gpus: tuple[float, ...]
    type: str  # accelerator type, "" if untyped
    config: int = -1  # entry of the job's rate card (batch size, parallel plan); -1 = the job's own

    @property
    def total_gpus(self) -> float:
        return sum(self.gpus)


class PerformanceModel(Protocol):
    def rates_by_type(self, jobs: JobTable, types: Sequence[str]) -> NDArray[np.float64] | None:
        """(jobs, types) rates at the requested gang, where they depend on nothing else and never change by themselves;
        None if they depend on more. 0 = cannot run on that type."""

    def rate(self, row: int, allocation: Allocation, done: float, neighbours: Sequence[int]) -> tuple[float, float]:
        """(rate, until_work) of one job that has done `done` units of work; `neighbours` are rows sharing its GPUs."""


class Profiles(Protocol):
    """Measured performance data, read from where `--profiles` says, before it knows the jobs."""

    name: str

    def bind(self, jobs: JobTable, cluster: Cluster) -> tuple[JobTable, PerformanceModel]:
        """The table with `work` filled in where the profile tells it, and the model for these rows.

        Raises InputError, one line, for a model or accelerator type the profile does not have.
        """
