"""Scaling curves: iterations a second by number of GPUs, measured at a fixed global batch.

Gu et al., "ElasticFlow: An Elastic Serverless Training Platform for Distributed Deep Learning", ASPLOS 2023, section 4.1;
the tables of its artifact, one CSV a model, a row a global batch:

    global_batch_size,1,2,4,8,…     whole-job iterations a second on so many GPUs; empty, 0 or nan: it does not run there

A folder of such tables holds for every accelerator type; a folder of folders NAME_TYPE (throughputs_A100) has one for each.
Between two measured sizes the rate is linear, beyond the largest it is that of the largest: more GPUs than were tried are
not known to help. Below the smallest a job does not run. Where its GPUs lie makes no difference.
Work is in iterations: the trace's own count of them, else its seconds on the GPUs it asked for at the rate measured there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainmaster.cluster.cluster import UNTYPED, Cluster
from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError
from trainmaster.workload.jobs import GPU_MILLI, Floats, JobTable
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.reading import Row, entries, first_line, nearest, parsed_number, read_rows

BATCH = "global_batch_size"
SIZE = re.compile(r"[1-9][0-9]{0,5}")
MAX_RATE = 1e12


@dataclass(frozen=True, slots=True)
class Curve:
    """One model at one global batch: ascending sizes, and iterations a second on each."""

    sizes: tuple[int, ...]
    rates: tuple[float, ...]

    def at(self, gpus: float) -> float:
        return 0.0 if gpus < self.sizes[0] else float(np.interp(gpus, self.sizes, self.rates))

    def up_to(self, most: int) -> Floats:
        """The rate on 0, 1, …, `most` GPUs."""
        rates = np.interp(np.arange(most + 1), self.sizes, self.rates)
        rates[: self.sizes[0]] = 0.0
        return rates


Tables = Mapping[str, Mapping[tuple[str, int], Curve]]  # accelerator type -> (model, global batch) -> its curve


@dataclass(frozen=True, slots=True)
class ScalingModel:
    tables: Tables
    job_ids: Sequence[str]
    kinds: list[tuple[str, int]]  # by row

    def rates_by_type(self, jobs: JobTable, types: Sequence[str]) -> Floats:
        rates = [[self.curve(row, accelerator).at(gpus) for accelerator in types] for row, gpus in enumerate(jobs.gpus.tolist())]
        return np.asarray(rates, np.float64).reshape(len(jobs), len(types))

    def rate(self, row: int, allocation: Allocation, done: float, neighbours: Sequence[int]) -> tuple[float, float]:
        rate = self.curve(row, allocation.type).at(allocation.total_gpus)
        if not rate:
            held = f"{allocation.total_gpus:g} GPUs"
            raise InputError(f"job {self.job_ids[row]}: {quoted(self.kinds[row][0])} was not measured on as few as {held}")
        return rate, math.inf

    def speeds(self, row: int, accelerator: str, node_gpus: int, most: int, done: float) -> Floats:
        """Iterations a second on 0, 1, …, `most` GPUs."""
        return self.curve(row, accelerator).up_to(most)

    def widest(self, row: int, accelerator: str) -> int:
        """The most GPUs it was measured on."""
        return self.curve(row, accelerator).sizes[-1]

    def curve(self, row: int, accelerator: str) -> Curve:
        table = self.tables[accelerator] if accelerator in self.tables else self.tables[UNTYPED]
        return table[self.kinds[row]]


@dataclass(slots=True)
class ScalingTables:
    """The folder as read."""

    path: Path
    tables: Tables
    name: str = "scaling"

    @classmethod
    def of(cls, path: Path) -> ScalingTables | None:
        """None where the folder holds no such table."""
        if own := _tables(path):
            return cls(path, {UNTYPED: own})
        found = {folder.name.rpartition("_")[2].lower(): _tables(folder) for folder in entries(path) if folder.is_dir()}
        typed = {accelerator: table for accelerator, table in found.items() if table}
        return cls(path, typed) if typed else None

    def bind(self, jobs: JobTable, cluster: Cluster) -> tuple[JobTable, ScalingModel]:
        usable = {accelerator: self._table(accelerator) for accelerator in cluster.types}
        sorts = np.stack([jobs.model.codes.astype(np.float64), np.where(np.isnan(jobs.batch_size), -1.0, jobs.batch_size)])
        _, first, sort_of = np.unique(sorts, axis=1, return_index=True, return_inverse=True)
        kinds = [self._kind(jobs, int(row), usable) for row in first]
        model = ScalingModel(self.tables, jobs.id.tolist(), [kinds[i] for i in sort_of.reshape(-1).tolist()])
        work = np.where(np.isnan(jobs.steps), jobs.work, jobs.steps)
        for row in np.flatnonzero(np.isnan(jobs.steps) & ~jobs.work_in_steps).tolist():
            work[row] *= self._asked_rate(jobs, row, model, cluster)
        if np.isnan(work).any():
            raise InputError(f"job {jobs.id[int(np.argmax(np.isnan(work)))]}: says neither how many iterations it runs nor for how long")
        return jobs.replace(work=work, work_in_steps=np.ones(len(jobs), bool)), model

    def _asked_rate(self, jobs: JobTable, row: int, model: ScalingModel, cluster: Cluster) -> float:
        accepted = jobs.accept_sets[jobs.accept_set[row]]
        accelerator = next((name for name in cluster.types if not accepted or name in accepted), cluster.types[0])
        rate = model.curve(row, accelerator).at(jobs.gpu_milli[row] / GPU_MILLI)
        if not rate:
            raise InputError(f"job {jobs.id[row]}: {quoted(model.kinds[row][0])} was not measured on as few as {jobs.gpus[row]:g} GPUs")
        return rate

    def _table(self, accelerator: str) -> Mapping[tuple[str, int], Curve]:
        if UNTYPED in self.tables:
            return self.tables[UNTYPED]
        if accelerator not in self.tables:
            missing = f"no tables for accelerator {quoted(accelerator)}" if accelerator else "tables by type, and the nodes have none"
            raise InputError(f"{self.path}: {missing}; {nearest(accelerator, sorted(self.tables))}")
        return self.tables[accelerator]

    def _kind(self, jobs: JobTable, row: int, usable: Tables) -> tuple[str, int]:
        job, model, size = jobs.id[row], jobs.model[row], float(jobs.batch_size[row])
        if model is None:
            raise InputError(f"job {job}: names no model, so {self.path} cannot tell its rate")
        for accelerator, table in usable.items():
            batches = sorted(batch for name, batch in table if name == model)
            where = f"{self.path}{f' ({accelerator})' if accelerator not in ('', UNTYPED) and UNTYPED not in self.tables else ''}"
            if not batches:
                raise InputError(f"job {job}: {where} has no table {quoted(model)}; {nearest(model, sorted({name for name, _ in table}))}")
            if size not in batches:
                asked = "no batch_size" if math.isnan(size) else f"batch_size {size:g}"
                raise InputError(f"job {job}: {asked}; {where} has {quoted(model)} at {', '.join(map(str, batches))}")
        return model, int(size)


def _tables(folder: Path) -> dict[tuple[str, int], Curve]:
    tables = {}
    for path in entries(folder):
        header = [name.strip() for name in first_line(path).split(",")] if path.suffix == ".csv" and path.is_file() else []
        if header[:1] == [BATCH]:
            sizes = header[1:]
            if not sizes or not all(SIZE.fullmatch(size) for size in sizes):
                raise InputError(f"{path}:1: after {BATCH}, every column is a number of GPUs")
            for row in read_rows(path, (BATCH, *sizes)):
                key = (path.stem, row.whole(BATCH))
                if key in tables:
                    raise InputError(f"{row.where}: {BATCH}: {key[1]} appears a second time")
                tables[key] = _curve(row, sorted(map(int, sizes)))
    return tables


def _curve(row: Row, sizes: Sequence[int]) -> Curve:
    points = [(size, rate) for size in sizes if (rate := _rate(row, str(size)))]
    if not points:
        raise InputError(f"{row.where}: no size with a rate")
    return Curve(*(tuple(column) for column in zip(*points, strict=True)))


def _rate(row: Row, size: str) -> float:
    """0 = it does not run on so many."""
    text = row.cells[size].strip()
    if text.lower() in ("", "nan"):
        return 0.0
    rate = parsed_number(text)
    if rate is None or not 0 <= rate <= MAX_RATE:
        raise InputError(f"{row.where}: {size}: {quoted(text)} is not a number of iterations a second")
    return rate
