"""Gavel's throughputs: steps a second by job type, scale and accelerator.

Narayanan et al., "Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads", OSDI 2020, section 3:
the matrix T; the file is the artifact's `simulation_throughputs.json`.

    {accelerator: {"('<job type>', <scale>)": {"null": steps/s alone, "<another key>": [mine, theirs], …}}}

Scale is the gang, and the figure is the whole gang's. The keys are Python tuples in print; a pattern reads them, nothing
is evaluated. 0 means measured and does not fit. A job type that one accelerator lacks cannot run there; one that no
accelerator of the cluster has is refused.
A pair is two gangs of one scale on the same GPUs. Whether one was measured as mine or as theirs makes no difference; where a file
has both, mine counts. Three on one GPU, or gangs of two scales, were never measured: `beside` says 0, and `rate` refuses.
Not here: `<accelerator>_unconsolidated`, which the artifact's simulator does not read either: speed depends on the
accelerator and the gang, never on the nodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

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
RUN_TIME_TYPE = "v100"
MAX_STEPS_PER_S = 1e12

Gang = tuple[str, int]  # job type, scale
Rates = Mapping[str, Mapping[Gang, float]]  # accelerator -> gang -> steps/s
Pairs = Mapping[str, Mapping[tuple[Gang, Gang], float]]  # accelerator -> (gang, the one beside it) -> steps/s of the first


def looks_like_gavel(data: Any) -> bool:
    """Whether some accelerator's table holds a key of the form above."""
    return isinstance(data, dict) and any(
        isinstance(table, dict) and any(JOB_KEY.fullmatch(key) for key in table) for table in data.values()
    )


@dataclass(frozen=True, slots=True)
class GavelModel:
    rates: Rates
    pairs: Pairs
    job_ids: NDArray[np.object_]
    gangs: list[Gang]  # by row, as asked for

    by_neighbours: ClassVar[bool] = True

    def rates_by_type(self, jobs: JobTable, types: Sequence[str]) -> Floats:
        rows = np.stack([jobs.model.codes.astype(np.int64), jobs.gpu_milli])
        kinds, kind_of = np.unique(rows, axis=1, return_inverse=True)
        names = [(jobs.model.names[code], int(milli) // GPU_MILLI) for code, milli in kinds.T]
        by_kind = [[self.rates.get(accelerator, {}).get(kind, 0.0) for accelerator in types] for kind in names]
        return np.asarray(by_kind, np.float64).reshape(len(names), len(types))[kind_of.reshape(-1)]

    def rate(self, row: int, allocation: Allocation, done: float, neighbours: Sequence[int]) -> tuple[float, float]:
        gang, held = (self.gangs[row][0], int(allocation.total_gpus)), f"{allocation.total_gpus:g} GPUs of type {quoted(allocation.type)}"
        try:
            if allocation.types or len(neighbours) > 1:
                raise KeyError
            if neighbours:
                return self.pairs[allocation.type][gang, self.gangs[neighbours[0]]], math.inf
            return self.rates[allocation.type][gang], math.inf
        except KeyError:
            beside = f" beside {', '.join(quoted(self.gangs[other][0]) for other in neighbours)}" if neighbours else ""
            raise InputError(f"job {self.job_ids[row]}: {quoted(gang[0])} was not measured on {held}{beside}") from None

    def beside(self, row: int, other: int, accelerator: str) -> float:
        """Steps a second of a job whose GPUs another shares, both on the gang they ask for; 0 if that does not fit or was not measured."""
        return self.pairs.get(accelerator, {}).get((self.gangs[row], self.gangs[other]), 0.0)


@dataclass(slots=True)
class Gavel:
    path: Path
    rates: Rates
    pairs: Pairs
    name: str = "gavel"

    @classmethod
    def of(cls, path: Path, data: Any) -> Gavel:
        """From the file's JSON; `path` is for messages."""
        read = {accelerator: _steps_per_s(path, accelerator, table) for accelerator, table in data.items()}
        return cls(path, {name: alone for name, (alone, _) in read.items()}, {name: pairs for name, (_, pairs) in read.items()})

    def bind(self, jobs: JobTable, cluster: Cluster) -> tuple[JobTable, GavelModel]:
        if not jobs.work_in_steps.all() or np.isnan(jobs.work).any():
            job = jobs.id[int(np.argmin(jobs.work_in_steps & ~np.isnan(jobs.work)))]
            raise InputError(f"job {job}: its work is not in steps, which is what {self.path} counts")
        for accelerator in cluster.types:
            self._check_type(accelerator)
        kinds = np.stack([jobs.model.codes.astype(np.int64), jobs.gpu_milli, jobs.accept_set.astype(np.int64)])
        for row in np.unique(kinds, axis=1, return_index=True)[1]:
            self._check_job(jobs, int(row), cluster.types)
        gangs = list(zip(jobs.model.text().tolist(), (jobs.gpu_milli // GPU_MILLI).tolist(), strict=True))
        return jobs.due_by_slo(jobs.work / self._run_rates(gangs)), GavelModel(self.rates, self.pairs, jobs.id, gangs)

    def _run_rates(self, gangs: Sequence[Gang]) -> Floats:
        """At which an SLO counts a job's run time: on a V100, as those who made the traces did; else where it is fastest."""
        fastest = {gang: max(table.get(gang, 0.0) for table in self.rates.values()) for gang in set(gangs)}
        rates = {gang: self.rates.get(RUN_TIME_TYPE, {}).get(gang, 0.0) or rate for gang, rate in fastest.items()}
        return np.array([rates[gang] or np.nan for gang in gangs], np.float64)

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


def _steps_per_s(path: Path, accelerator: str, table: Any) -> tuple[dict[Gang, float], dict[tuple[Gang, Gang], float]]:
    """Of each gang alone, and beside another."""
    if not isinstance(table, dict):
        raise InputError(f"{path}: {quoted(accelerator)}: not a table of job types")
    alone: dict[Gang, float] = {}
    mine: dict[tuple[Gang, Gang], float] = {}
    theirs: dict[tuple[Gang, Gang], float] = {}
    for key, measured in table.items():
        where = f"{path}: {quoted(accelerator)}: {quoted(key)}"
        gang = _gang(key, where)
        rate = measured.get(ALONE) if isinstance(measured, dict) else None
        if not _is_rate(rate):
            raise InputError(f'{where}: "{ALONE}" must be steps a second, a number from 0')
        alone[gang] = float(rate)
        for other, rates in measured.items():
            if other == ALONE:
                continue
            if not isinstance(rates, list) or len(rates) != 2 or not all(map(_is_rate, rates)):
                raise InputError(f"{where}: {quoted(other)} must be two numbers from 0, steps a second of the one and of the other")
            beside = _gang(other, where)
            mine[gang, beside], theirs[beside, gang] = map(float, rates)
    return alone, theirs | mine


def _gang(key: str, where: str) -> Gang:
    match = JOB_KEY.fullmatch(key)
    if match is None:
        raise InputError(f"{where}: {quoted(key)} is not of the form ('<job type>', <scale>)")
    return match["job_type"], int(match["scale"])


def _is_rate(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_STEPS_PER_S
