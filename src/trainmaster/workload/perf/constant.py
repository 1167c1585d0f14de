"""No profile: a table in seconds. A second on the GPUs asked for does a second of work.

On more or fewer GPUs than asked (an elastic policy on a table without profiles) the rate is in proportion: the trace
says nothing about scaling, and so flatters elasticity. What shares a GPU is not slowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainmaster.cluster.cluster import Cluster
from trainmaster.errors import InputError
from trainmaster.workload.jobs import GPU_MILLI, Floats, JobTable
from trainmaster.workload.perf.base import Allocation


@dataclass(frozen=True, slots=True)
class ConstantModel:
    gpu_milli: list[int]  # asked, by row

    def rates_by_type(self, jobs: JobTable, types: Sequence[str]) -> Floats:
        return np.ones((len(jobs), len(types)))

    def rate(self, row: int, allocation: Allocation, done: float, neighbours: Sequence[int]) -> tuple[float, float]:
        asked = self.gpu_milli[row]
        held = round(allocation.total_gpus * GPU_MILLI)  # thousandths: three tenths are exactly what was asked
        return (held / asked if asked else 1.0), math.inf

    def speeds(self, row: int, accelerator: str, node_gpus: int, most: int, done: float) -> Floats:
        """Work a second on 0, 1, …, `most` GPUs."""
        return np.arange(most + 1) * GPU_MILLI / max(self.gpu_milli[row], 1)


@dataclass(slots=True)
class Constant:
    """The `Profiles` of a run without `--profiles`."""

    name: str = "constant"

    def bind(self, jobs: JobTable, cluster: Cluster) -> tuple[JobTable, ConstantModel]:
        unknown = np.isnan(jobs.work) | jobs.work_in_steps
        if unknown.any():
            job = jobs.id[int(np.argmax(unknown))]
            raise InputError(f"job {job}: its work is not in seconds; give the performance data of its models with --profiles PATH")
        return jobs.due_by_slo(jobs.work), ConstantModel(jobs.gpu_milli.tolist())
