"""Gavel's throughputs: steps a second by job type, scale and accelerator.

Narayanan et al., "Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads", OSDI 2020, section 3:
the matrix T; the file is the artifact's `simulation_throughputs.json`.

    {accelerator: {"('<job type>', <scale>)": {"null": steps/s alone, "<another key>": [mine, theirs], …}}}

Scale is the gang, and the figure is the whole gang's. The keys are Python tuples in print; a pattern reads them, nothing
is evaluated. 0 means measured and does not fit. A job type that one accelerator lacks cannot run there; one that no
accelerator of the cluster has is refused.
Not here: the pairs (co-location), and `<accelerator>_unconsolidated`, which the artifact's simulator does not read either:
speed depends on the accelerator and the gang, never on the nodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.cluster.cluster import UNTYPED, Cluster
from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError
from trainmaster.workload.jobs import GPU_MILLI, Floats, JobTable
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.reading import nearest

JOB_KEY = re.compile(r"""\((?P<quote>['"])(?P<job_type>[^'"\\\x00-\x1f]{1,200})(?P=quote), ?(?P<scale>[1-9][0-9]{0,5})\)""")
ALONE = "null"
MAX_STEPS_PER_S = 1e12

Rates = Mapping[str, Mapping[tuple[str, int], float]]  # accelerator -> (job type, scale) -> steps/s


def looks_like_gavel(data: Any) -> bool:
    """Whether some accelerator's table holds a key of the form above."""
    return isinstance(data, dict) and any(
        isinstance(table, dict) and any(JOB_KEY.fullmatch(key) for key in table) for table in data.values()
    )


@dataclass(frozen=True, slots=True)
class GavelModel:
    rates: Rates
    job_ids: NDArray[np.object_]
    job_types: list[str]  # by row

    def rates_by_type(self, jobs: JobTable, types: Sequence[str]) -> Floats:
        rows = np.stack([jobs.model.codes.astype(np.int64), jobs.gpu_milli])
        kinds, kind_of = np.unique(rows, axis=1, return_inverse=True)
        names = [(jobs.model.names[code], int(milli) // GPU_MILLI) for code, milli in kinds.T]
        by_kind = [[self.rates.get(accelerator, {}).get(kind, 0.0) for accelerator in types] for kind in names]
        return np.asarray(by_kind, np.float64).reshape(len(names), len(types))[kind_of.reshape(-1)]

    def rate(self, row: int, allocation: Allocation, done: float, neighbours: Sequence[int]) -> tuple[float, float]:
        try:
            return self.rates[allocation.type][self.job_types[row], int(allocation.total_gpus)], math.inf
        except KeyError:
            held = f"{allocation.total_gpus:g} GPUs of type {quoted(allocation.type)}"
            raise InputError(f"job {self.job_ids[row]}: {quoted(self.job_types[row])} was not measured on {held}") from None


@dataclass(slots=True)
class Gavel:
    path: Path
    rates: Rates
    name: str = "gavel"

    @classmethod
    def of(cls, path: Path, data: Any) -> Gavel:
        """From the file's JSON; `path` is for messages."""
        return cls(path, {accelerator: _steps_per_s(path, accelerator, table) for accelerator, table in data.items()})

    def bind(self, jobs: JobTable, cluster: Cluster) -> tuple[JobTable, GavelModel]:
        if not jobs.work_in_steps.all() or np.isnan(jobs.work).any():
            job = jobs.id[int(np.argmin(jobs.work_in_steps & ~np.isnan(jobs.work)))]
            raise InputError(f"job {job}: its work is not in steps, which is what {self.path} counts")
        for accelerator in cluster.types:
            self._check_type(accelerator)
        kinds = np.stack([jobs.model.codes.astype(np.int64), jobs.gpu_milli, jobs.accept_set.astype(np.int64)])
        for row in np.unique(kinds, axis=1, return_index=True)[1]:
            self._check_job(jobs, int(row), cluster.types)
        return jobs, GavelModel(self.rates, jobs.id, jobs.model.text().tolist())

    def _check_type(self, accelerator: str) -> None:
        if accelerator == UNTYPED:
            known = ", ".join(sorted(self.rates))
            raise InputError(f"{self.path}: rates differ by accelerator, so the cluster's nodes need a type ({known}): --cluster 9x4:TYPE")
        if accelerator not in self.rates:
            raise InputError(f"{self.path}: no rates for accelerator {quoted(accelerator)}; {nearest(accelerator, sorted(self.rates))}")

    def _check_job(self, jobs: JobTable, row: int, types: Sequence[str]) -> None:
        job, job_type, milli = jobs.id[row], jobs.model[row], int(jobs.gpu_milli[row])
        if job_type is None:
            raise InputError(f"job {job}: names no model, so {self.path} cannot tell its rate")
        if milli == 0 or milli % GPU_MILLI:
            raise InputError(f"job {job}: asks for {milli / GPU_MILLI:g} GPUs; {self.path} has rates for whole GPUs only")
        accepts = jobs.accept_sets[jobs.accept_set[row]]
        usable = [accelerator for accelerator in types if not accepts or accelerator in accepts] or list(self.rates)
        scales = {scale for accelerator in usable for name, scale in self.rates[accelerator] if name == job_type}
        if not scales:
            known = {name for accelerator in usable for name, _ in self.rates[accelerator]}
            missing = f"no model {quoted(job_type)} on {', '.join(usable)}"
            raise InputError(f"job {job}: {self.path} has {missing}; {nearest(job_type, sorted(known))}")
        if milli // GPU_MILLI not in scales:
            measured = ", ".join(map(str, sorted(scales)))
            raise InputError(f"job {job}: {self.path} has {quoted(job_type)} on {measured} GPUs, not on {milli // GPU_MILLI}")


def _steps_per_s(path: Path, accelerator: str, table: Any) -> dict[tuple[str, int], float]:
    if not isinstance(table, dict):
        raise InputError(f"{path}: {quoted(accelerator)}: not a table of job types")
    rates: dict[tuple[str, int], float] = {}
    for key, measured in table.items():
        match = JOB_KEY.fullmatch(key)
        if match is None:
            raise InputError(f"{path}: {quoted(accelerator)}: {quoted(key)} is not of the form ('<job type>', <scale>)")
        rate = measured.get(ALONE) if isinstance(measured, dict) else None
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate <= MAX_STEPS_PER_S:
            raise InputError(f'{path}: {quoted(accelerator)}: {quoted(key)}: "{ALONE}" must be steps a second, a number from 0')
        rates[match["job_type"], int(match["scale"])] = float(rate)
    return rates
