"""Relative speeds: how fast each model trains on each type, against one type. A user's own table, or the built-in catalogue.

    {"reference": "v100", "speeds": {"resnet-50": {"v100": 1.0, "p100": 0.66, "k80": 0.16, "my-card": 1.3}, "other": {...}}}

A trace says how many seconds a job takes, not on what: they are taken as seconds on the reference type, and the job runs `speed`
times as fast on another. A gang scales as the trace says, whatever the type. Type names are free; a type that a row lacks cannot run that
model. Models are compared without case, batch size in brackets, or what joins their words; one that has no row takes that of
"other", and the run says how many did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainmaster.cluster.accelerators import canonical
from trainmaster.cluster.cluster import Cluster
from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError
from trainmaster.workload.jobs import GPU_MILLI, Floats, JobTable
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.reading import nearest

OTHER = "other"
MOST_SPEED = 1e6
Table = Mapping[str, Mapping[str, float]]  # model -> type -> speed


def looks_like_speeds(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("speeds"), dict)


def plain(model: str) -> str:
    """ "ResNet-50 (batch size 64)" -> "resnet50" """
    return re.sub(r"[\s_.-]+", "", re.sub(r"\(.*?\)", "", model).lower())


@dataclass(frozen=True, slots=True)
class SpeedModel:
    speed: Floats  # (jobs, types)
    types: tuple[str, ...]
    gpu_milli: list[int]
    unknown: int
    source: str

    def rates_by_type(self, jobs: JobTable, types: Sequence[str]) -> Floats:
        return self.speed

    def rate(self, row: int, allocation: Allocation, done: float, neighbours: Sequence[int]) -> tuple[float, float]:
        of_type = {name: float(speed) for name, speed in zip(self.types, self.speed[row], strict=True)}
        slowest = min(of_type[name] for name in (allocation.types or (allocation.type,)))  # a gang waits for its slowest part
        return slowest * round(allocation.total_gpus * GPU_MILLI) / self.gpu_milli[row] if self.gpu_milli[row] else 1.0, math.inf

    def notes(self) -> list[str]:
        said = f"{self.unknown:,} jobs are of models that {self.source} does not know: they take its row {OTHER!r}"
        return [said] if self.unknown else []


@dataclass(slots=True)
class Speeds:
    """The `Profiles` of a table of relative speeds."""

    source: str
    table: Table
    name: str = "speeds"

    @classmethod
    def of(cls, source: str, data: Any) -> Speeds:
        """From a file's JSON; `source` is for messages."""
        reference, speeds = data.get("reference"), data["speeds"]
        if not isinstance(reference, str):
            raise InputError(f'{source}: "reference" must name the type whose speed is 1')
        table: dict[str, dict[str, float]] = {}
        for model, row in speeds.items():
            if not isinstance(row, dict):
                raise InputError(f"{source}: {quoted(model)}: not a table of types")
            for accelerator, speed in row.items():
                if not isinstance(speed, int | float) or isinstance(speed, bool) or not 0 < speed <= MOST_SPEED:
                    raise InputError(f"{source}: {quoted(model)}: {quoted(accelerator)}: a speed is a number above 0")
            table[plain(model)] = {canonical(accelerator): float(speed) for accelerator, speed in row.items()}
            if table[plain(model)].get(canonical(reference)) != 1.0:
                raise InputError(f"{source}: {quoted(model)}: its speed on the reference, {quoted(reference)}, must be 1")
        return cls(source, table)

    def bind(self, jobs: JobTable, cluster: Cluster) -> tuple[JobTable, SpeedModel]:
        unknown_work = np.isnan(jobs.work) | jobs.work_in_steps
        if unknown_work.any():
            job = jobs.id[int(np.argmax(unknown_work))]
            raise InputError(f"job {job}: its work is not in seconds, which is what {self.source} scales")
        rows = [self.table.get(plain(name), self.table.get(OTHER)) for name in (*jobs.model.names, "")]
        missing = [i for i in np.unique(jobs.model.codes).tolist() if rows[i] is None]
        if missing:
            name = jobs.model.names[missing[0]] if missing[0] >= 0 else ""
            near = nearest(plain(name), sorted(self.table))
            raise InputError(f"{self.source}: no row for model {quoted(name)}, and none for {OTHER!r}; {near}")
        types = tuple(cluster.types)
        known = {name for row in self.table.values() for name in row}
        for accelerator in types:
            if canonical(accelerator) not in known:
                which = quoted(accelerator) if accelerator else "untyped nodes"
                raise InputError(f"{self.source}: no speeds on {which}; {nearest(accelerator, sorted(known))}")
        by_code = np.array([[(row or {}).get(canonical(name), 0.0) for name in types] for row in rows])
        named = [plain(name) in self.table for name in jobs.model.names] + [False]
        unknown = int((~np.array(named)[jobs.model.codes]).sum())
        return jobs.due_by_slo(jobs.work), SpeedModel(by_code[jobs.model.codes], types, jobs.gpu_milli.tolist(), unknown, self.source)
