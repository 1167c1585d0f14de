"""One application as Pollux measured it: how long a step takes, and what a step is worth.

Qiao et al., "Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized Deep Learning", OSDI 2021, sections 3 and 5.3
(the simulator replays measurements of real training).

    placements[-TYPE].csv    step and sync time by GPUs per node (13: one GPU, and three on the next node) and local batch
    scalability[-TYPE].csv   the same by number of nodes and GPUs, for scales without such a sweep; may be absent
    validation-BATCH.csv     training at one global batch, a row an epoch: progress at its end, gradient statistics

Progress is counted in scale-invariant iterations: steps at the smallest (initial) batch that would advance as far.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainmaster.errors import InputError
from trainmaster.workload.jobs import Floats
from trainmaster.workload.perf.reading import Row, entries, read_rows
from trainmaster.workload.perf.threads import one_thread

VALIDATION = re.compile(r"validation-([1-9][0-9]{0,8})\.csv")
PLACEMENTS = re.compile(r"placements(?:-(.+))?\.csv")
MAX_NODES = 64  # of one measured placement
LEAST_STEP_S, LEAST_GRADIENT = 1e-9, 1e-30  # below, a figure is noise, and dividing by it worse

# The artifact lets yolov3 take 8 samples a GPU although its table goes to 16; its figures depend on it.
LARGEST_LOCAL = {("yolov3", ""): 8, ("yolov3", "aws"): 8}

# It runs ncf at one batch on one GPU, whoever schedules it: its tables end at smaller batches on more.
FIXED_BATCH = {"ncf": 32_768}

Placement = tuple[int, ...]  # GPUs on each node, in the order taken
Points = dict[int, list[tuple[float, float]]]  # local batch -> measurements of (step_s, sync_s)


@dataclass(frozen=True, slots=True)
class BatchCurve:
    """Step and sync seconds by local batch, linear between measured ones and flat outside them."""

    local: tuple[int, ...]
    step_s: tuple[float, ...]
    sync_s: tuple[float, ...]

    @classmethod
    def of(cls, points: Points) -> BatchCurve:
        """The mean where a batch was measured more than once."""
        local = tuple(sorted(points))
        step_s, sync_s = zip(*(tuple(map(_mean, zip(*points[batch], strict=True))) for batch in local), strict=True)
        return cls(local, step_s, sync_s)

    def at(self, batch: int) -> tuple[float, float]:
        near = between(self.local, batch)
        return sum(self.step_s[i] * weight for i, weight in near), sum(self.sync_s[i] * weight for i, weight in near)


@dataclass(frozen=True, slots=True)
class Blend:
    """Where a placement lies among the measured ones."""

    curves: tuple[tuple[BatchCurve, float], ...]  # with weights that sum to 1
    inside: bool  # False: beyond the measured scales, taken at the nearest of them
    cells: Callable[[int], tuple[float, float] | None] | None = None  # step and sync seconds by local batch; None outside all cells

    @property
    def smallest_local(self) -> int:
        return max(curve.local[0] for curve, _ in self.curves)

    @property
    def largest_local(self) -> int:
        return min(curve.local[-1] for curve, _ in self.curves)

    def at(self, batch: int) -> tuple[float, float]:
        """(step_s, sync_s) at a local batch."""
        if self.cells and (found := self.cells(batch)):
            return found
        times = [(curve.at(batch), weight) for curve, weight in self.curves]
        return sum(step * weight for (step, _), weight in times), sum(sync * weight for (_, sync), weight in times)


@dataclass(frozen=True)
class StepTimes:
    """The throughput tables of one application on one accelerator type."""

    measured: Mapping[Placement, BatchCurve]
    by_count: Mapping[int, Mapping[int, BatchCurve]]  # nodes -> GPUs -> mean over placements
    largest_local: int

    @cached_property
    def smallest_local(self) -> int:
        return min(curve.local[0] for curve in self.measured.values())

    def near(self, placement: Placement) -> Blend:
        """A measured placement as it is; another by its number of nodes and GPUs, linear between the measured ones.

        Inside the measured scales by triangulation of (nodes, GPUs, local batch), as the artifact does it with the same library:
        on such a grid triangulations are not unique, and its figures depend on which one it is. Outside, bilinear.
        """
        if len(placement) <= MAX_NODES and (curve := self.measured.get(smallest_rotation(placement))):
            return Blend(((curve, 1.0),), inside=True)
        gpus, counts = sum(placement), sorted(self.by_count)
        rows = [(sorted(self.by_count[counts[i]]), counts[i], weight) for i, weight in between(counts, len(placement))]
        if len(rows) == 2:
            # Each side is read at as many GPUs as it has been measured at, and the other makes up for it: together, the gang.
            (low, _, low_weight), (high, _, high_weight) = rows
            at_low = _clamp(gpus, low)
            at_high = _clamp((gpus - low_weight * at_low) / high_weight, high)
            wanted = [_clamp((gpus - high_weight * at_high) / low_weight, low), at_high]
        else:
            wanted = [_clamp(gpus, rows[0][0])]
        curves = tuple(
            (self.by_count[nodes][measured[i]], weight * share)
            for (measured, nodes, weight), want in zip(rows, wanted, strict=True)
            for i, share in between(measured, want)
        )
        covered = sum(weight * want for (_, _, weight), want in zip(rows, wanted, strict=True))
        inside = counts[0] <= len(placement) <= counts[-1] and abs(covered - gpus) < 1e-6
        nodes = min(len(placement), counts[-1])
        return Blend(curves, inside, lambda batch: self._in_cell(nodes, gpus, batch))

    def _in_cell(self, nodes: int, gpus: int, batch: int) -> tuple[float, float] | None:
        if self._triangulation is None:
            return None
        step_s, sync_s = self._triangulation(nodes, gpus, batch)
        return None if math.isnan(step_s) else (float(step_s), float(sync_s))

    @cached_property
    def _triangulation(self) -> Any:
        """None where the measured scales span no volume."""
        from scipy.interpolate import LinearNDInterpolator
        from scipy.spatial import QhullError

        points = [
            ((nodes, gpus, batch), times)
            for nodes, row in sorted(self.by_count.items())
            for gpus, curve in sorted(row.items())
            for batch, *times in zip(curve.local, curve.step_s, curve.sync_s, strict=True)
        ]
        try:
            with one_thread():
                found = LinearNDInterpolator(*(np.array(column, np.float64) for column in zip(*points, strict=True)))
                found(points[0][0])  # its cells' inverses are computed at the first question
        except QhullError:
            return None
        return found


@dataclass(frozen=True)
class Application:
    """What is the same on every accelerator: batches, epochs, gradient statistics."""

    folder: Path
    batches: tuple[int, ...]  # measured global batches; the first is the initial one
    epoch_ends: tuple[float, ...]  # progress at which each epoch ends, whatever the batch; the last completes the job
    grad_sqr: Floats  # (batches, epochs)
    grad_var: Floats  # in units of the initial batch
    iterations: Floats  # (batches, epochs): steps done at the end of each epoch
    metric: Floats  # (batches, epochs): of validation; the file does not say which

    @classmethod
    def read(cls, folder: Path) -> Application:
        files = {int(match[1]): path for path in entries(folder) if (match := VALIDATION.fullmatch(path.name))}
        if not files:
            raise InputError(f"{folder}: no validation-BATCH.csv, so the progress of its jobs is not known")
        columns = ("progress", "iteration", "metric", "grad_sqr", "grad_var")
        epochs = {batch: [_epoch(row) for row in read_rows(files[batch], columns)] for batch in sorted(files)}
        lengths = {batch: len(rows) for batch, rows in epochs.items()}
        if min(lengths.values()) != max(lengths.values()) or not min(lengths.values()):
            batch = min(lengths, key=lambda batch: lengths[batch])
            raise InputError(f"{files[batch]}: {lengths[batch]} epochs, another batch has {max(lengths.values())}; all need the same")
        progress, iterations, metric, grad_sqr, grad_var = np.moveaxis(np.asarray(list(epochs.values()), np.float64), 2, 0)
        ends = progress.min(axis=0)
        if (backwards := np.diff(ends, prepend=0.0) <= 0).any():
            raise InputError(f"{folder}: progress does not grow in epoch {int(np.argmax(backwards)) + 1} of its validation files")
        return cls(folder, tuple(epochs), tuple(ends.tolist()), grad_sqr, grad_var, iterations, metric)

    @property
    def initial_batch(self) -> int:
        return self.batches[0]

    @property
    def largest_batch(self) -> int:
        return self.batches[-1]

    @property
    def fixed_batch(self) -> int | None:
        """A job that does not choose its batch runs on one GPU."""
        return FIXED_BATCH.get(self.folder.name)

    def statistics(self, batch: int) -> tuple[Floats, Floats]:
        """(squared norm, variance) of the gradient at this global batch, by epoch; linear between measured batches."""
        return self._at(batch, self.grad_sqr), self._at(batch, self.grad_var)

    def steps(self, batch: int) -> Floats:
        """Steps done at the end of each epoch, likewise."""
        return self._at(batch, self.iterations)

    def losses(self, batch: int) -> Floats:
        """The validation metric at the end of each epoch as something that falls; likewise."""
        metric = self._at(batch, self.metric)
        if metric[-1] <= metric[0]:
            return metric
        return (1.0 if self.metric.max() <= 1 else max(100.0, self.metric.max())) - metric

    def _at(self, batch: int, figures: Floats) -> Floats:
        near = between(self.batches, min(max(batch, self.initial_batch), self.largest_batch))
        return sum((figures[i] * weight for i, weight in near), np.zeros(len(self.epoch_ends)))

    def gain(self, batch: int) -> Floats:
        """Progress of one step at this global batch, by epoch: section 3.1.

        1 at the initial batch; below batch / initial where the gradient's noise no longer hides its direction.
        """
        batch = min(max(batch, self.initial_batch), self.largest_batch)
        sqr, var = self.statistics(batch)
        return np.asarray((var + sqr) / (var / (batch / self.initial_batch) + sqr))

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Accelerator types it was measured on; "" for the table without a suffix."""
        return tuple(sorted(match[1] or "" for path in entries(self.folder) if (match := PLACEMENTS.fullmatch(path.name))))

    def step_times(self, accelerator: str) -> StepTimes:
        suffix = f"-{accelerator}" if accelerator else ""
        path = self.folder / f"placements{suffix}.csv"
        sweep: dict[Placement, Points] = {}
        for row in read_rows(path, ("placement", "local_bsz", "step_time", "sync_time")):
            _add(sweep.setdefault(smallest_rotation(_placement(row)), {}), row)
        if not sweep:
            raise InputError(f"{path}: no rows")
        measured = {placement: BatchCurve.of(points) for placement, points in sweep.items()}

        counts: dict[tuple[int, int], Points] = {}
        for placement, curve in measured.items():
            points = counts.setdefault((len(placement), sum(placement)), {})
            for batch, step_s, sync_s in zip(curve.local, curve.step_s, curve.sync_s, strict=True):
                points.setdefault(batch, []).append((step_s, sync_s))
        for scale, more in self._scalability(suffix).items():
            counts[scale] = more | counts.get(scale, {})  # what was measured by placement counts first
        by_count: dict[int, dict[int, BatchCurve]] = {}
        for (nodes, gpus), points in counts.items():
            by_count.setdefault(nodes, {})[gpus] = BatchCurve.of(points)

        largest = max(curve.local[-1] for curve in measured.values())
        return StepTimes(measured, by_count, LARGEST_LOCAL.get((self.folder.name, accelerator), largest))

    def _scalability(self, suffix: str) -> dict[tuple[int, int], Points]:
        counts: dict[tuple[int, int], Points] = {}
        path = self.folder / f"scalability{suffix}.csv"
        if path.exists():
            for row in read_rows(path, ("num_nodes", "num_replicas", "local_bsz", "step_time", "sync_time")):
                _add(counts.setdefault((row.whole("num_nodes"), row.whole("num_replicas")), {}), row)
        return counts


def smallest_rotation(placement: Placement) -> Placement:
    """Ring all-reduce: a placement and its rotations are one measurement."""
    return min(placement[i:] + placement[:i] for i in range(len(placement)))


def between(points: Sequence[float], value: float) -> list[tuple[int, float]]:
    """Indices and weights that interpolate linearly in sorted points; the nearest end outside them."""
    right = bisect_left(points, value)
    if right == len(points):
        return [(right - 1, 1.0)]
    if right == 0 or points[right] == value:
        return [(right, 1.0)]
    weight = (value - points[right - 1]) / (points[right] - points[right - 1])
    return [(right - 1, 1 - weight), (right, weight)]


def _clamp(value: float, points: Sequence[float]) -> float:
    return min(max(value, points[0]), points[-1])


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(values) == 1 else float(np.mean(values))


def _epoch(row: Row) -> tuple[float, ...]:
    iterations, metric = row.number("iteration", at_least=0), row.number("metric")
    progress, sqr, var = row.number("progress", above=0), row.number("grad_sqr", at_least=0), row.number("grad_var", at_least=0)
    if sqr + var < LEAST_GRADIENT:
        raise InputError(f"{row.where}: grad_sqr: {sqr:g} with grad_var {var:g}: no gradient to tell the gain of a batch from")
    return progress, iterations, metric, sqr, var


def _add(points: Points, row: Row) -> None:
    step_s, sync_s = row.number("step_time", at_least=LEAST_STEP_S), row.number("sync_time", at_least=0)
    if sync_s > step_s:
        raise InputError(f"{row.where}: sync_time: {sync_s:g} s is more than the whole step ({step_s:g} s)")
    points.setdefault(row.whole("local_bsz"), []).append((step_s, sync_s))


def _placement(row: Row) -> Placement:
    digits = row.cells["placement"].strip()
    if not digits.isascii() or not digits.isdigit() or "0" in digits or len(digits) > MAX_NODES:
        raise InputError(f"{row.where}: placement: {digits[:20]!r} is not GPUs per node, a digit from 1 to 9 a node")
    return tuple(map(int, digits))
