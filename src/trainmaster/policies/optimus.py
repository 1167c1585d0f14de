"""Optimus: GPUs one at a time to whom they save most time, by speed and convergence fitted while jobs run.

Peng et al., "Optimus: An Efficient Dynamic Resource Scheduler for Deep Learning Clusters", EuroSys 2018, sections 3 and 4.

    l(k)       1 / (b0 k + b1) + b2: loss after k epochs, b >= 0                                       [eq. 1]
    1 / f(w)   t0 / w + t1 + t2 w: seconds a step on w GPUs, t >= 0; all-reduce, so without servers    [eq. 4]
    Q          epochs until l has all but stopped falling, less those done
    gain       (Q / f now - Q / f with one task more) / what the task takes                            [section 4.1]

Everybody gets one GPU, by arrival; then the largest gain is served until none is positive. Fits are non-negative least squares
(NNLS). Sizes that were measured count as they were. A job that has run on one size only is taken to scale linearly, one that
has not run yet to be as fast as the others are on average; one that has reported fewer than three losses is given
`young_epochs` more epochs, and its gains count `young` of their worth.
Placement (section 4.2): small jobs first; each is dealt out evenly over the fewest servers, the emptiest first, that hold it. Where
even its minimum cannot be dealt out so, it takes what is left.

`estimate=oracle` is the "+Oracle" of the Pollux paper: true seconds left by number of GPUs, from the profiles.
Not here: parameter servers as tasks of their own; the rule of growth, `grow`, knows them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from trainmaster.errors import ParamError
from trainmaster.policies.base import Array, Decision, EngineRules, Floats, Line, Memory, Policy, Preset, View, check, policy
from trainmaster.policies.goodput import tunable
from trainmaster.policies.speeds import accelerator_of, least_elastic, seconds_left

if TYPE_CHECKING:
    from trainmaster.workload.jobs import JobTable

Counts = tuple[int, ...]  # of each kind of task: (workers,), or (servers, workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    estimate: str = "fitted"  # fitted: while it runs, as the paper; oracle: the true time left, then it cheats
    interval_s: float = 600.0  # between decisions
    converged_fall: float = 0.01  # of the loss in an epoch, relative to the first one: below it three times, a job has converged
    young_epochs: int = 20
    young: float = 0.95
    whole_epochs: bool = False  # the oracle counts what is left after the present epoch, as the artifact does
    place: str = "even"  # even: dealt out over the fewest servers; freest: from the server with most free GPUs, then the next

    def __post_init__(self) -> None:
        check(self.estimate in ("fitted", "oracle"), f"estimate: {self.estimate!r} is not fitted or oracle")
        check(self.place in ("even", "freest"), f"place: {self.place!r} is not even or freest")
        check(self.interval_s > 0, "interval_s counts from above 0")


PRESETS = {
    "pollux-artifact": Preset(
        params={"estimate": "oracle", "place": "freest", "whole_epochs": True, "interval_s": 60.0},
        rules=EngineRules(due_grid_s=1.0),
        source="petuum/adaptdl, branch osdi21-artifact",
    )
}


@policy(name="optimus", paper="Peng et al., EuroSys 2018", needs=("oracle", "profile", "losses"), params=Params, presets=PRESETS)
class Optimus(Policy[Params]):
    own_estimates = ("fitted",)

    def start_memory(self, jobs: int) -> Memory:
        return {"speeds": {}, "losses": {}, "epoch_work": {}}  # by seq; of speeds: GPUs -> seconds a unit of work, as measured

    def least_gpus(self, jobs: JobTable) -> Floats:
        return least_elastic(jobs)

    def decide(self, view: View, memory: Memory) -> Decision:
        jobs, total = view.jobs, int(view.nodes.gpus[view.nodes.up].sum())
        if not len(jobs) or not total:
            return Decision()
        oracle = self.params.estimate == "oracle"
        left = oracle_left(view, total, self.params.whole_epochs) if oracle else self.fitted_left(view, memory, total)
        most, least = np.nan_to_num(jobs.max_gpus, nan=np.inf), np.maximum(np.nan_to_num(jobs.min_gpus, nan=1.0), 1.0).astype(np.int64)
        left = [bounded(*each) for each in zip(left, least.tolist(), np.minimum(most, total).astype(int).tolist(), strict=True)]
        counts = share(left, total, least.tolist())
        return Decision(lines=tuple(self.placed(view, counts, least)), lease_s=self.params.interval_s)

    def fitted_left(self, view: View, memory: Memory, total: int) -> list[Floats]:
        """Seconds left on 0, 1, … GPUs, by what each job has shown so far."""
        self.learn(view, memory)
        epoch_s = {seq: unit_seconds(points, total) * memory["epoch_work"][seq] for seq, points in memory["speeds"].items()}
        on_one_s = [float(seconds[1]) for seconds in epoch_s.values()]
        usual_s = fmean(on_one_s) if on_one_s else 1.0  # of equals any number will do
        new = unit_seconds({"1": usual_s}, total)
        left = []
        for seq in map(str, view.jobs.seq.tolist()):
            epochs, known = epochs_left(tuple(memory["losses"].get(seq, ())), self.params.converged_fall, self.params.young_epochs)
            left.append(epoch_s.get(seq, new) * epochs * (1.0 if known else self.params.young))
        return left

    def learn(self, view: View, memory: Memory) -> None:
        if not hasattr(view.profile, "metrics"):
            missing = "fits the losses of jobs, and these --profiles have none"
            raise ParamError(f"--policy: {view.policy_name} {missing}; its estimate may be oracle")
        alive = {str(seq) for seq in view.jobs.seq.tolist()}
        for known in (memory["speeds"], memory["losses"], memory["epoch_work"]):
            for ended in [seq for seq in known if seq not in alive]:
                del known[ended]
        observed = view.observed
        for number, row, rate in zip(observed.seq.tolist(), observed.row.tolist(), observed.rate.tolist(), strict=True):
            seq, seen = str(number), observed.metrics(row)
            memory["speeds"].setdefault(seq, {})[str(int(observed.allocation(row).total_gpus))] = 1.0 / rate
            memory["epoch_work"][seq] = seen["epoch_work"]
            if "loss" in seen:
                losses = memory["losses"].setdefault(seq, [])
                losses += [seen["loss"]] * int(seen["epochs"] - len(losses))  # epochs that ended since the last look count alike

    def placed(self, view: View, counts: Array, least: Array) -> list[Line]:
        """Jobs of unchanged size stay; the others are dealt out, smallest first."""
        jobs, even = view.jobs, self.params.place == "even"
        free = np.where(view.nodes.up, view.nodes.gpus, 0).astype(np.int64)
        lines = []
        stays = jobs.running & (jobs.held_gpus == counts)
        for i in np.flatnonzero(stays).tolist():
            on, held = view.holdings(int(jobs.row[i]))
            free[list(on)] -= np.array(held, np.int64)
            lines += [Line(int(jobs.row[i]), n, node=node) for node, n in zip(on, held, strict=True)]
        for i in np.argsort(counts, kind="stable").tolist():
            if counts[i] and not stays[i]:
                parts = (even and deal(int(counts[i]), free, int(least[i]))) or take(int(counts[i]), free)
                for node, gpus in parts:
                    free[node] -= gpus
                lines += [Line(int(jobs.row[i]), float(gpus), node=node) for node, gpus in parts]
        return lines


def oracle_left(view: View, total: int, whole_epochs: bool) -> list[Floats]:
    """True seconds left on 0, 1, … GPUs: as many as a job's batch can be split over."""
    if not whole_epochs:
        return [seconds_left(view, job, total) for job in range(len(view.jobs))]
    left, node_gpus = tunable(view).seconds_after_epoch, int(view.nodes.gpus.max())
    return [left(row, accelerator_of(view, row), node_gpus, total, view.done(row)) for row in view.jobs.row.tolist()]


def bounded(seconds: Floats, least: int, most: int) -> Floats:
    """Within a user's bounds: a minimum beyond what the batch can be split over runs no faster than that."""
    return np.pad(seconds, (0, max(least + 1 - len(seconds), 0)), mode="edge")[: most + 1]


# ------------------------------------------------------------------------------------------------- growth


def share(left: Sequence[Floats], total: int, least: Sequence[int] | None = None) -> Array:
    """GPUs of each job: one each (its least) in order, then one at a time to the largest saving, while it is positive."""
    grown = grow([_on(seconds) for seconds in left], [(first,) for first in least or [1] * len(left)], (1.0,), total)
    return np.array([counts[0] for counts in grown], np.int64)


def _on(seconds: Floats) -> Callable[[Counts], float]:
    by_workers = seconds.tolist()
    return lambda counts: by_workers[counts[0]] if counts[0] < len(by_workers) else np.inf


def grow(left: Sequence[Callable[[Counts], float]], first: Sequence[Counts], demand: Sequence[float], capacity: float) -> list[Counts]:
    """Tasks of each job. `left(counts)`: seconds left with so many of each kind; `demand`: what a task of each kind takes.

    A job gets its `first` tasks, or none once they no longer fit; a saving that no longer fits is passed over for the next.
    """
    nothing = tuple(0 for _ in demand)
    held, now_s = [nothing] * len(left), [np.inf] * len(left)
    savings: list[tuple[float, int, int, Counts, Counts, float]] = []  # (-gain, job, kind, tasks now, tasks then, seconds left then)

    def offer(job: int) -> None:
        for kind, each in enumerate(demand):
            counts = held[job]
            more = (*counts[:kind], counts[kind] + 1, *counts[kind + 1 :])
            seconds = left[job](more)
            if seconds < now_s[job]:
                heapq.heappush(savings, ((seconds - now_s[job]) / each, job, kind, counts, more, seconds))

    for job, counts in enumerate(first):
        need = sum(count * each for count, each in zip(counts, demand, strict=True))
        if need <= capacity and np.isfinite(left[job](counts)):
            held[job], now_s[job] = counts, left[job](counts)
            capacity -= need
    for job in range(len(left)):
        if held[job] != nothing:
            offer(job)
    while savings:
        _, job, kind, counts, more, seconds = heapq.heappop(savings)
        if demand[kind] > capacity or held[job] is not counts:
            continue  # it does not fit, or another kind has been added since
        held[job], now_s[job] = more, seconds
        capacity -= demand[kind]
        if capacity > 0:
            offer(job)
    return held


def deal(tasks: int, free: Array, least: int = 1) -> list[tuple[int, int]]:
    """(server, tasks): evenly over the fewest servers that hold them so, the emptiest first; as many tasks as fit somewhere, or none."""
    servers = np.argsort(-free, kind="stable")
    for wanted in range(min(tasks, int(free.sum())), least - 1, -1):
        for n in range(1, len(servers) + 1):
            each = np.array([wanted // n + (i < wanted % n) for i in range(n)])
            if (each <= free[servers[:n]]).all():
                return [(int(server), int(count)) for server, count in zip(servers[:n], each, strict=True) if count]
    return []


def take(tasks: int, free: Array) -> list[tuple[int, int]]:
    """(server, tasks): all that the emptiest server has, then the next, until the gang is whole."""
    parts, left = list[tuple[int, int]](), tasks
    for server in np.argsort(-free, kind="stable").tolist():
        if left and free[server]:
            parts.append((server, min(left, int(free[server]))))
            left -= parts[-1][1]
    return [] if left else parts


# ------------------------------------------------------------------------------------------------- fits


def fit_speed(workers: Sequence[float], seconds: Sequence[float]) -> Floats:
    """(t0, t1, t2) of 1 / f(w) = t0 / w + t1 + t2 w; only as many terms as there are points, the first ones."""
    from scipy.optimize import nnls

    w, terms = np.asarray(workers, np.float64), np.zeros(3)
    known = min(len(w), 3)
    terms[:known], _ = nnls(np.stack([1 / w, np.ones(len(w)), w], axis=1)[:, :known], np.asarray(seconds, np.float64))
    return terms


def unit_seconds(measured: dict[str, float], most: int) -> Floats:
    """Seconds a unit of work on 0, 1, …, `most` GPUs: as measured, else as fitted."""
    sizes = np.arange(most + 1, dtype=np.float64)
    points = {int(size): seconds for size, seconds in measured.items()}
    t = fit_speed(list(points), list(points.values()))
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds = t[0] / sizes + t[1] + t[2] * sizes
    for size, measured_s in points.items():
        if size <= most:
            seconds[size] = measured_s
    seconds[0] = np.inf
    return seconds


@lru_cache(maxsize=4096)
def fit_loss(losses: tuple[float, ...]) -> Floats:
    """(b0, b1, b2) of l(k) = 1 / (b0 k + b1) + b2, k = 1, 2, …; the later a loss, the more it counts."""
    from scipy.optimize import nnls

    loss, k = np.asarray(losses, np.float64), np.arange(1, len(losses) + 1)
    weight = 4.0 ** (3 * (k - 1) // len(loss))

    def given(floor: float) -> tuple[float, Floats]:
        """Given b2 it is linear in 1 / (l - b2)."""
        gap = loss - floor
        b, _ = nnls(np.stack([k, np.ones(len(k))], axis=1) * (weight * gap)[:, None], weight)
        with np.errstate(divide="ignore"):
            return float((weight * (1 / (b[0] * k + b[1]) + floor - loss) ** 2).sum()), np.array([b[0], b[1], floor])

    low, high = 0.0, float(loss.min()) * (1 - 1e-6)
    for _ in range(3):
        floors = np.linspace(low, high, 16)
        errors = [given(float(floor))[0] for floor in floors]
        best = int(np.argmin(errors))
        low, high = floors[max(best - 1, 0)], floors[min(best + 1, 15)]
    return given(float(floors[best]))[1]


def converged_at(loss: Callable[[int], float], fall: float, *, window: int = 1, in_a_row: int = 3, most: int = 10_000) -> int:
    """The first of `in_a_row` epochs, each of which ends a fall of no more than `fall` over `window` epochs."""
    quiet = 0
    for epoch in range(window, most):
        quiet = quiet + 1 if loss(epoch - window) - loss(epoch) <= fall else 0
        if quiet == in_a_row:
            return epoch - in_a_row + 1
    return most


def epochs_left(losses: tuple[float, ...], fall: float, young_epochs: int) -> tuple[float, bool]:
    """Epochs until the fitted loss has converged, at least one; and whether there was enough to fit."""
    if len(losses) < 3:
        return float(young_epochs), False
    b0, b1, b2 = fit_loss(losses)
    first = losses[0] if losses[0] > 0 else 1.0
    end = converged_at(lambda k: 1 / max(b0 * k + b1, 1e-12) + b2, fall * first)
    return float(max(end - len(losses), 1)), True
