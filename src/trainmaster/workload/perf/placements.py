"""Measured placements: jobs of the Pollux and Sia workloads at a fixed global batch, on whatever GPUs they hold.

Qiao et al., OSDI 2021, sections 3 and 5.3 (what is measured: `application.py`). Jayaram Subramanya et al., "Sia:
Heterogeneity-aware, goodput-optimized ML-cluster scheduling", SOSP 2023: the same measurements for more GPU types.

    work    progress at the end of the last measured epoch, whatever the batch      [scale-invariant iterations]
    rate    gain(batch, epoch) / (step + accumulation steps x (step - sync))        [the same a second]
    config  of an allocation: the batch its gang runs at, as atomic batch and accumulation steps; -1: the job's own batch

The gain changes from epoch to epoch, so a rate holds until the epoch ends. A typed node takes placements-TYPE.csv, an
untyped one the table without a suffix, which holds for every type where it is the only one.
Equal to the artifact wherever that has a figure, but for placements on a number of nodes that was not measured
(`StepTimes.near`). Beyond what was measured it raises; here, a local batch above the largest measured on such a placement
is split by more accumulation steps, one below the smallest takes as long as the smallest, and more nodes or GPUs than
were measured count as the most that were. `notes` tells when that happened.
Not here: slowdown by neighbours. Measured gangs have their GPUs to themselves.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from trainmaster.cluster.cluster import UNTYPED, Cluster
from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError
from trainmaster.workload.jobs import GPU_MILLI, Floats, JobTable
from trainmaster.workload.perf.application import VALIDATION, Application, StepTimes
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.goodput import BatchLimits
from trainmaster.workload.perf.reading import entries, nearest


@dataclass(frozen=True, slots=True)
class Pace:
    """The rates of one (application, batch, placement), epoch by epoch; past the last epoch its rate goes on."""

    rates: list[float]
    until: list[float]
    batch: int  # global
    atomic: int
    steps: int  # of accumulation
    step_s: float
    sync_s: float


@dataclass(frozen=True, slots=True)
class TimesLeft:
    """Seconds to the end by number of GPUs and progress: those of whole epochs are summed once."""

    unit_s: Floats  # (sizes, epochs): seconds a unit of progress; infinite for size 0
    after_s: Floats  # (sizes, epochs): from the end of each epoch to the last
    measured_s: Floats  # (sizes, epochs): the same by the iterations that were counted
    ends: list[float]  # progress at the ends of the epochs, from 0 on

    @classmethod
    def of(cls, paces: Sequence[Pace], ends: Floats, steps_left: Floats) -> TimesLeft:
        unit_s = np.stack([np.full(len(ends) - 1, np.inf), *(1 / np.array(pace.rates[:-1]) for pace in paces)])
        spent_s = np.diff(ends) * unit_s
        iteration_s = np.array([math.inf, *(pace.step_s + pace.steps * (pace.step_s - pace.sync_s) for pace in paces)])
        after_s = np.zeros_like(spent_s)
        after_s[:, :-1] = spent_s[:, :0:-1].cumsum(axis=1)[:, ::-1]
        return cls(unit_s, after_s, iteration_s[:, None] * np.maximum(steps_left, 1), ends.tolist())

    def at(self, done: float) -> Floats:
        epoch = self.epoch(done)
        return self.after_s[:, epoch] + self.unit_s[:, epoch] * max(self.ends[epoch + 1] - done, 0.0)

    def after_epoch(self, done: float) -> Floats:
        return self.measured_s[:, self.epoch(done)]

    def epoch(self, done: float) -> int:
        return min(bisect_right(self.ends, done) - 1, len(self.ends) - 2)


@dataclass(frozen=True, slots=True)
class Kind:
    """Jobs that differ in nothing the model looks at."""

    app: Application
    batch: int


STEPS_UNIT = 1 << 20  # a config is steps x this + atomic batch


def pack(atomic: int, steps: int) -> int:
    """A batch as the `config` of a line."""
    return steps * STEPS_UNIT + atomic


def unpack(config: int) -> tuple[int, int]:
    """(atomic batch, accumulation steps)."""
    return config % STEPS_UNIT, config // STEPS_UNIT


def rigid_batch(gpus: int, batch: int, *, initial: int, largest: int, largest_local: int) -> tuple[int, int]:
    """(atomic batch, accumulation steps) of a fixed global batch on so many GPUs, as the artifact's rigid policies run it.

    A lone GPU above the initial batch accumulates at least once: one atomic batch cannot tell its own variance.
    """
    local = math.ceil(batch / gpus)
    steps = math.ceil(local / largest_local) - 1
    if gpus == 1 and batch > initial:
        steps = max(steps, 1)
    atomic = min(math.ceil(local / (steps + 1)), largest // (gpus * (steps + 1)))
    return max(atomic, 1), steps


@dataclass(slots=True)
class PlacementModel:
    kind_of: list[int]  # by row
    kinds: list[Kind]
    times: dict[tuple[Path, str], StepTimes]  # (application's folder, accelerator)
    rate_cards: ClassVar[bool] = True
    outside: set[str] = field(default_factory=set)
    _times: dict[tuple[int, str, int, int], TimesLeft] = field(default_factory=dict)
    _paces: dict[tuple[int, str, tuple[float, ...], int], Pace] = field(default_factory=dict)

    def rates_by_type(self, jobs: JobTable, types: Sequence[str]) -> None:
        """None: the rate depends on the placement, and changes at every epoch."""

    def rate(self, row: int, allocation: Allocation, done: float, neighbours: Sequence[int]) -> tuple[float, float]:
        pace = self._pace(row, allocation)
        epoch = bisect_right(pace.until, done)
        return pace.rates[epoch], pace.until[epoch]

    def metrics(self, row: int, allocation: Allocation, done: float) -> dict[str, float]:
        """What the job's own trainer sees while it runs: step times, the gradient's statistics in this epoch, the last epoch's loss."""
        pace, app = self._pace(row, allocation), self.kinds[self.kind_of[row]].app
        ended = bisect_right(pace.until, done)
        epoch = min(ended, len(app.epoch_ends) - 1)
        sqr, var = app.statistics(pace.batch)
        seen = {
            "atomic_batch": float(pace.atomic), "pass_s": pace.step_s - pace.sync_s, "step_s": pace.step_s,
            "grad_sqr": float(sqr[epoch]), "grad_var": float(var[epoch]),
            "epochs": float(ended), "epoch_work": app.epoch_ends[epoch] - (app.epoch_ends[epoch - 1] if epoch else 0.0),
        }  # fmt: skip
        return seen | ({"loss": float(app.losses(pace.batch)[ended - 1])} if ended else {})

    def limits(self, row: int, accelerator: str) -> BatchLimits:
        """Within which the job may choose its batch."""
        app = self.kinds[self.kind_of[row]].app
        times = self.times[app.folder, accelerator]
        return BatchLimits(app.initial_batch, app.largest_batch, times.smallest_local, times.largest_local)

    def fixed_batch(self, row: int) -> int | None:
        return self.kinds[self.kind_of[row]].app.fixed_batch

    def speed_alone(self, row: int, accelerator: str) -> float:
        """Samples a second of one GPU at the largest batch measured on it."""
        curve = self.times[self.kinds[self.kind_of[row]].app.folder, accelerator].measured[1,]
        return curve.local[-1] / max(curve.step_s)

    def speeds(self, row: int, accelerator: str, node_gpus: int, most: int, done: float) -> Floats:
        """Progress a second on 0, 1, …, `most` GPUs of one type, on as few nodes as hold them, at the job's own batch."""
        rates = [self.rate(row, Allocation((0,) * len(parts), parts, accelerator), done, ())[0] for parts in packed(most, node_gpus)]
        return np.array([0.0, *rates])

    def seconds_left(self, row: int, accelerator: str, node_gpus: int, most: int, done: float) -> Floats:
        """True seconds to the end on 0, 1, … GPUs, as in `speeds`; up to `most` or what the job's batch can be split over."""
        return self._times_left(row, accelerator, node_gpus, most).at(done)

    def seconds_after_epoch(self, row: int, accelerator: str, node_gpus: int, most: int, done: float) -> Floats:
        """Seconds of the iterations measured after the present epoch, at least one: the artifact's idea of what is left."""
        return self._times_left(row, accelerator, node_gpus, most).after_epoch(done)

    def _times_left(self, row: int, accelerator: str, node_gpus: int, most: int) -> TimesLeft:
        key = (self.kind_of[row], accelerator, node_gpus, most)
        times = self._times.get(key)
        if times is None:
            kind = self.kinds[self.kind_of[row]]
            app, smallest = kind.app, self.times[kind.app.folder, accelerator].smallest_local
            most = 1 if app.fixed_batch else max(min(most, kind.batch // smallest), 1)
            paces = [self._pace(row, Allocation((0,) * len(parts), parts, accelerator)) for parts in packed(most, node_gpus)]
            steps_left = app.steps(kind.batch)[-1] - app.steps(kind.batch)
            times = self._times[key] = TimesLeft.of(paces, np.array([0.0, *app.epoch_ends]), steps_left)
        return times

    def _pace(self, row: int, allocation: Allocation) -> Pace:
        key = (self.kind_of[row], allocation.type, allocation.gpus, allocation.config)
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = self._measure(*key)
        return pace

    def notes(self) -> list[str]:
        """What was asked for beyond the measured range, and taken at its edge."""
        return sorted(self.outside)

    def _measure(self, kind: int, accelerator: str, gpus: tuple[float, ...], config: int) -> Pace:
        app, batch = self.kinds[kind].app, self.kinds[kind].batch
        times = self.times[app.folder, accelerator]
        placement = tuple(map(int, gpus))
        if placement != gpus or not all(placement):
            raise InputError(f"{app.folder}: measured on whole GPUs, not on {', '.join(f'{share:g}' for share in gpus)}")
        near, total = times.near(placement), sum(placement)
        bounds = {"initial": app.initial_batch, "largest": app.largest_batch}
        if config < 0:
            atomic, steps = rigid_batch(total, batch, **bounds, largest_local=times.largest_local)
        else:
            atomic, steps = unpack(config)
            batch = total * atomic * (steps + 1)
        if not near.inside or not near.smallest_local <= atomic <= near.largest_local:
            self.outside.add(f"{app.folder.name}: batch {batch} on {'+'.join(map(str, placement))} GPUs is beyond what was measured")
        if config < 0 and atomic > near.largest_local:
            atomic, steps = rigid_batch(total, batch, **bounds, largest_local=near.largest_local)
        step_s, sync_s = near.at(atomic)
        if atomic > near.largest_local:  # a batch that was chosen by itself is not split: its passes take as much longer
            step_s = (step_s - sync_s) * atomic / near.largest_local + sync_s
        batch = total * atomic * (steps + 1)
        rates = app.gain(batch) / (step_s + steps * (step_s - sync_s))
        return Pace([*rates.tolist(), float(rates[-1])], [*app.epoch_ends, math.inf], batch, atomic, steps, step_s, sync_s)


def packed(most: int, node_gpus: int) -> list[tuple[float, ...]]:
    """GPUs by node of gangs of 1, 2, …, `most` on as few nodes as hold them."""
    full = [divmod(gpus, node_gpus) for gpus in range(1, most + 1)]
    return [(float(node_gpus),) * whole + ((float(rest),) if rest else ()) for whole, rest in full]


@dataclass(slots=True)
class MeasuredPlacements:
    """The folder: one subfolder an application, read when a job needs it."""

    path: Path
    apps: tuple[str, ...]
    name: str = "placements"

    @classmethod
    def of(cls, path: Path) -> MeasuredPlacements:
        return cls(path, tuple(folder.name for folder in entries(path) if is_application(folder)))

    def bind(self, jobs: JobTable, cluster: Cluster) -> tuple[JobTable, PlacementModel]:
        kind_of, kinds = self._kinds(jobs)
        times: dict[tuple[Path, str], StepTimes] = {}
        groups = np.stack([np.asarray(kind_of, np.int64), jobs.accept_set.astype(np.int64)])
        for row in np.unique(groups, axis=1, return_index=True)[1]:
            app, accepts = kinds[kind_of[row]].app, jobs.accept_sets[jobs.accept_set[row]]
            for accelerator in cluster.types:
                if (not accepts or accelerator == UNTYPED or accelerator in accepts) and (app.folder, accelerator) not in times:
                    times[app.folder, accelerator] = app.step_times(self._table(app, accelerator))
        complete = np.asarray([kind.app.epoch_ends[-1] for kind in kinds])[kind_of]
        work = np.where(np.isnan(jobs.work), complete, jobs.work)
        return jobs.replace(work=work, work_in_steps=np.ones(len(jobs), bool)), PlacementModel(kind_of, kinds, times)

    def _kinds(self, jobs: JobTable) -> tuple[list[int], list[Kind]]:
        """The kind of every row; each application is read, and each sort of job checked, once."""
        known = np.isfinite(jobs.work) & ~jobs.work_in_steps
        if known.any():
            raise InputError(f"job {jobs.id[int(np.argmax(known))]}: its work is in seconds, and {self.path} counts progress of training")
        whole = (jobs.gpu_milli > 0) & (jobs.gpu_milli % GPU_MILLI == 0)
        if not whole.all():
            row = int(np.argmin(whole))
            raise InputError(f"job {jobs.id[row]}: asks for {jobs.gpus[row]:g} GPUs; {self.path} was measured on whole GPUs")
        batch = np.where(np.isnan(jobs.batch_size), -np.inf, jobs.batch_size)  # NaN equals nothing, itself included
        sorts = np.stack([jobs.model.codes.astype(np.float64), batch])
        _, first, kind_of = np.unique(sorts, axis=1, return_index=True, return_inverse=True)
        apps: dict[str, Application] = {}
        return kind_of.reshape(-1).tolist(), [self._kind(jobs, int(row), apps) for row in first]

    def _kind(self, jobs: JobTable, row: int, apps: dict[str, Application]) -> Kind:
        job, model, size = jobs.id[row], jobs.model[row], float(jobs.batch_size[row])
        if model is None:
            raise InputError(f"job {job}: names no model, so {self.path} cannot tell its rate")
        if model not in self.apps:
            raise InputError(f"job {job}: {self.path} has no application {quoted(model)}; {nearest(model, self.apps)}")
        app = apps.get(model) or apps.setdefault(model, Application.read(self.path / model))
        if math.isnan(size):
            return Kind(app, app.initial_batch)
        if not app.initial_batch <= size <= app.largest_batch or size != round(size):
            bounds = f"a whole number from {app.initial_batch} to {app.largest_batch}, as measured"
            raise InputError(f"job {job}: batch_size: {size:g} of {quoted(model)} must be {bounds} in {app.folder}")
        return Kind(app, int(size))

    def _table(self, app: Application, accelerator: str) -> str:
        """The type whose table holds on nodes of this one: its own; where none has a type, the one there is."""
        if accelerator in app.types or not app.types:
            return accelerator
        if app.types == (UNTYPED,):
            return UNTYPED
        typed = [name for name in app.types if name]
        if accelerator == UNTYPED:
            hint = f"give a type it has ({', '.join(typed)}): --cluster 16x4:{typed[0]}"
            raise InputError(f"{app.folder}: no placements.csv for untyped nodes; {hint}")
        untyped = "; an untyped cluster takes placements.csv" if UNTYPED in app.types else ""
        raise InputError(f"{app.folder}: no placements-{accelerator}.csv; {nearest(accelerator, typed)}{untyped}")


def is_application(folder: Path) -> bool:
    """A folder with the validation files of one application."""
    return folder.is_dir() and any(VALIDATION.fullmatch(path.name) for path in entries(folder))
