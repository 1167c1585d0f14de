"""Jobs: one as a record (`Job`), all as columns (`JobTable`).

A row of the table is a job inside the engine. Rows are sorted by (submit_s, seq), so a row number is also the final
tie-break between jobs. Absent numbers are NaN, absent labels are code -1.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainmaster.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GPU_MILLI = 1000  # GPUs are counted in whole thousandths


@dataclass(frozen=True, slots=True)
class Labels:
    """A text column with few distinct values: `names[codes[row]]`; code -1 is absent."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, values: Iterable[str | None]) -> Labels:
        names: dict[str, int] = {}
        codes = [-1 if value is None or value == "" else names.setdefault(value, len(names)) for value in values]
        return cls(np.asarray(codes, np.int32), tuple(names))

    @classmethod
    def absent(cls, rows: int) -> Labels:
        return cls(np.full(rows, -1, np.int32), ())

    def take(self, rows: NDArray[Any]) -> Labels:
        return Labels(self.codes[rows], self.names)

    def and_then(self, other: Labels) -> Labels:
        """These rows, then those."""
        names = {name: code for code, name in enumerate(self.names)}
        recode = np.array([names.setdefault(name, len(names)) for name in other.names] + [-1], np.int32)
        return Labels(np.concatenate([self.codes, recode[other.codes]]), tuple(names))

    def text(self) -> NDArray[np.object_]:
        """One str a row, "" where absent."""
        return np.asarray([*self.names, ""], object)[self.codes]

    def __getitem__(self, row: int) -> str | None:
        code = int(self.codes[row])
        return None if code < 0 else self.names[code]

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job, as a user describes it. Times in seconds; `work` in seconds at the asked allocation, or in steps."""

    id: str
    submit_s: float
    work: float  # seconds, or steps where the trace counts them (`work_in_steps`); inf = a service
    gpus: float = 1.0  # the gang; a fraction of one GPU, or 0 with cpus > 0
    work_in_steps: bool = False
    seq: int | None = None
    name: str | None = None
    user: str | None = None
    account: str | None = None
    queue: str | None = None
    app: str | None = None  # several jobs of one search
    eligible_s: float | None = None  # queueing starts here; default submit_s
    accepts: tuple[str, ...] = ()  # accelerator types it may run on; () = any
    max_nodes: int = 0  # 0 = no limit
    nodes: int = 0  # exactly so many, as much on each; 0 = wherever it fits
    cpus: float = 0.0
    memory_gib: float = 0.0
    min_gpus: float | None = None  # elastic: between min_gpus and max_gpus
    max_gpus: float | None = None
    model: str | None = None  # key of a performance profile
    batch_size: float | None = None
    steps: float | None = None  # the same work in steps, where the trace gives both; a profile takes what it counts
    deadline_s: float | None = None
    slo: float | None = None  # a deadline as a multiple of the run time, where only a performance profile knows that
    limit_s: float | None = None
    priority: float = 0.0  # larger goes first
    weight: float = 1.0
    service_class: str | None = None
    preemptible: bool = True
    recorded_start_s: float | None = None
    recorded_end_s: float | None = None


LABEL_COLUMNS = ("user", "account", "queue", "app", "model", "service_class")
OPTIONAL_NUMBERS = ("min_gpus", "max_gpus", "batch_size", "steps", "deadline_s", "slo", "limit_s", "recorded_start_s", "recorded_end_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTable:
    """All jobs as columns of one length, sorted by (submit_s, seq)."""

    id: NDArray[np.object_]  # unique str
    seq: Ints  # order in the trace
    name: NDArray[np.object_]  # str, "" if absent
    user: Labels
    account: Labels
    queue: Labels
    app: Labels
    model: Labels
    service_class: Labels
    submit_s: Floats
    eligible_s: Floats
    gpu_milli: Ints  # thousandths of a GPU asked: 4000 = a gang of four, 500 = half of one, 0 = CPUs alone
    accept_set: NDArray[np.int32]  # index into accept_sets
    accept_sets: tuple[tuple[str, ...], ...]  # accept_sets[0] == () : any type
    max_nodes: NDArray[np.int32]
    nodes: NDArray[np.int32]
    cpus: Floats
    memory_gib: Floats
    min_gpus: Floats
    max_gpus: Floats
    work: Floats  # NaN: known only once performance profiles are bound
    work_in_steps: NDArray[np.bool_]
    batch_size: Floats
    steps: Floats
    deadline_s: Floats
    slo: Floats
    limit_s: Floats
    priority: Floats
    weight: Floats
    preemptible: NDArray[np.bool_]
    recorded_start_s: Floats
    recorded_end_s: Floats
    estimates: Mapping[str, Floats] = field(default_factory=dict)  # predicted run times of the trace, seconds

    def __len__(self) -> int:
        return len(self.submit_s)

    @property
    def gpus(self) -> Floats:
        return self.gpu_milli / GPU_MILLI

    @classmethod
    def build(cls, *, submit_s: ArrayLike, work: ArrayLike, gpus: ArrayLike, accepts: Sequence[Sequence[str]] | None = None,
              estimates: Mapping[str, ArrayLike] | None = None, **columns: Any) -> JobTable:
        """A table from columns in trace order; absent ones get their defaults, rows are sorted by (submit_s, seq).

        `accepts` is a sequence of type names a row (empty: any). Label columns take `Labels` or an iterable of str | None.
        Raises InputError for a job that asks for nothing, negative figures, or ids that repeat.
        """
        submit = np.asarray(submit_s, np.float64)
        rows = len(submit)

        def numbers(name: str, default: float) -> Floats:
            value = columns.pop(name, None)
            return np.full(rows, default) if value is None else np.broadcast_to(np.asarray(value, np.float64), rows).copy()

        def labels(name: str) -> Labels:
            value = columns.pop(name, None)
            return value if isinstance(value, Labels) else Labels.absent(rows) if value is None else Labels.of(value)

        def texts(name: str, default: Sequence[str]) -> NDArray[np.object_]:
            value = columns.pop(name, None)
            return np.asarray(default if value is None else value, object)

        sets: dict[tuple[str, ...], int] = {(): 0}
        accept_set = np.zeros(rows, np.int32)
        if accepts is not None:
            accept_set = np.asarray([sets.setdefault(tuple(types), len(sets)) for types in accepts], np.int32)
        labelled: dict[str, Any] = {name: labels(name) for name in LABEL_COLUMNS}
        optional: dict[str, Any] = {name: numbers(name, np.nan) for name in OPTIONAL_NUMBERS}
        seq = columns.pop("seq", None)
        in_steps, preemptible = columns.pop("work_in_steps", False), columns.pop("preemptible", True)
        table = cls(
            id=texts("id", [str(row) for row in range(rows)]),
            seq=np.arange(rows, dtype=np.int64) if seq is None else np.asarray(seq, np.int64),
            name=texts("name", [""] * rows),
            **labelled,
            submit_s=submit,
            eligible_s=np.maximum(submit, numbers("eligible_s", -np.inf)),
            gpu_milli=np.rint(np.broadcast_to(np.asarray(gpus, np.float64), rows) * GPU_MILLI).astype(np.int64),
            accept_set=accept_set,
            accept_sets=tuple(sets),
            max_nodes=numbers("max_nodes", 0).astype(np.int32),
            nodes=numbers("nodes", 0).astype(np.int32),
            cpus=numbers("cpus", 0.0),
            memory_gib=numbers("memory_gib", 0.0),
            work=np.broadcast_to(np.asarray(work, np.float64), rows).copy(),
            work_in_steps=np.broadcast_to(np.asarray(in_steps, bool), rows).copy(),
            priority=numbers("priority", 0.0),
            weight=numbers("weight", 1.0),
            preemptible=np.broadcast_to(np.asarray(preemptible, bool), rows).copy(),
            **optional,
            estimates={name: np.asarray(value, np.float64) for name, value in (estimates or {}).items()},
        )
        if columns:
            raise TypeError(f"unknown job columns: {', '.join(columns)}")
        table._check()
        return table.take(np.lexsort((table.seq, table.submit_s)))

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> JobTable:
        """A table of `Job` records; a seq of None is the position in `jobs`."""
        jobs = list(jobs)
        columns: dict[str, Any] = {f.name: [getattr(job, f.name) for job in jobs] for f in dataclasses.fields(Job)}
        columns["seq"] = [row if seq is None else seq for row, seq in enumerate(columns["seq"])]
        columns["name"] = [name or "" for name in columns["name"]]
        columns["eligible_s"] = [job.submit_s if job.eligible_s is None else job.eligible_s for job in jobs]
        for name in OPTIONAL_NUMBERS:
            columns[name] = [np.nan if value is None else value for value in columns[name]]
        return cls.build(**columns)

    def take(self, rows: NDArray[Any]) -> JobTable:
        """The rows given (indices or a mask), in that order."""
        changed: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "estimates":
                changed[f.name] = {name: column[rows] for name, column in value.items()}
            elif f.name != "accept_sets":
                changed[f.name] = value.take(rows) if isinstance(value, Labels) else value[rows]
        return dataclasses.replace(self, **changed)

    def and_then(self, other: JobTable) -> JobTable:
        """The rows of both, which have the same estimates, sorted by (submit_s, seq)."""
        sets = {accepted: code for code, accepted in enumerate(self.accept_sets)}
        recode = np.array([sets.setdefault(accepted, len(sets)) for accepted in other.accept_sets], np.int32)
        both: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name == "estimates":
                both[f.name] = {name: np.concatenate([mine[name], theirs[name]]) for name in mine}
            elif f.name == "accept_set":
                both[f.name] = np.concatenate([mine, recode[theirs]])
            elif f.name != "accept_sets":
                both[f.name] = mine.and_then(theirs) if isinstance(mine, Labels) else np.concatenate([mine, theirs])
        table = JobTable(**both, accept_sets=tuple(sets))
        return table.take(np.lexsort((table.seq, table.submit_s)))

    def due_by_slo(self, run_s: Floats) -> JobTable:
        """Deadlines from SLOs, now that run times are known; one that is given stays."""
        return self.replace(deadline_s=np.where(np.isnan(self.deadline_s), self.submit_s + self.slo * run_s, self.deadline_s))

    def replace(self, **columns: Any) -> JobTable:
        return dataclasses.replace(self, **columns)

    def _check(self) -> None:
        def refuse(bad: NDArray[np.bool_], problem: str) -> None:
            if bad.any():
                raise InputError(f"job {self.id[int(np.argmax(bad))]}: {problem}")

        refuse(~np.isfinite(self.submit_s), "submit_s is not a finite number")
        refuse(self.gpu_milli < 0, "a negative number of GPUs")
        refuse((self.gpu_milli == 0) & ~(self.cpus > 0), "asks for no GPU and no CPU")
        refuse(~(self.cpus >= 0) | ~(self.memory_gib >= 0), "negative CPUs or memory")
        refuse(self.work < 0, "negative work")
        uneven = self.gpu_milli % (np.maximum(self.nodes, 1).astype(np.int64) * GPU_MILLI) > 0
        refuse((self.nodes > 1) & uneven, "its GPUs do not lie evenly on its nodes")
        if len(set(self.id)) != len(self.id):
            repeated = next(job for job, times in Counter(self.id).items() if times > 1)
            raise InputError(f"job id {repeated!r} appears more than once")
