"""What a cluster's file is made of: one class a marginal, each drawn as a whole column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainmaster.workload.jobs import Floats, Ints, Labels

HOUR_S, DAY_S, WEEK_S = 3_600.0, 86_400.0, 604_800.0
Rng = np.random.Generator


class Gangs(Protocol):
    def draw(self, rng: Rng, rows: int, max_gang: int) -> Floats:
        """GPUs a job; none above `max_gang`."""
        ...


class RunTimes(Protocol):
    def draw(self, rng: Rng, gangs: Floats) -> Floats:
        """Seconds a job, at the GPUs it asks for."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Marginals:
    source: str
    cluster: str  # the default cluster, as a spec
    mean_gpu_s: float  # GPU-seconds of a mean job: sizes the default number of jobs, nothing else
    gangs: Gangs
    run_times: RunTimes
    rhythm: Rhythm
    statuses: Statuses | None = None
    queues: Queues | None = None
    users: Users | None = None


@dataclass(frozen=True, slots=True)
class CountedGangs:
    """Gangs as counted on a trace: `counts[i]` jobs of `sizes[i]` GPUs, ascending."""

    sizes: tuple[float, ...]
    counts: tuple[float, ...]

    def draw(self, rng: Rng, rows: int, max_gang: int) -> Floats:
        """A gang that is too large becomes the largest counted one that is not."""
        sizes = np.asarray(self.sizes)
        fits = max(1, int(np.searchsorted(sizes, max_gang, side="right")))
        return sizes[np.minimum(pick(rng, self.counts, rows), fits - 1)]


@dataclass(frozen=True, slots=True)
class QuantileTable:
    """Run times by measured quantiles; between two knots the logarithm is linear."""

    at: tuple[float, ...]  # from 0 to 1
    seconds: tuple[float, ...]

    def draw(self, rng: Rng, gangs: Floats) -> Floats:
        return self.inverse(rng.random(len(gangs)))

    def inverse(self, uniform: Floats) -> Floats:
        return np.exp(np.interp(uniform, self.at, np.log(self.seconds)))


@dataclass(frozen=True, slots=True)
class RunTimesByGang:
    """A quantile table for each class of gangs: class k holds gangs up to up_to[k] GPUs; the last is open."""

    up_to: tuple[float, ...]
    tables: tuple[QuantileTable, ...]

    def draw(self, rng: Rng, gangs: Floats) -> Floats:
        uniform, drawn = rng.random(len(gangs)), np.empty(len(gangs))
        classes = np.searchsorted(self.up_to, gangs, side="left")
        for number, table in enumerate(self.tables):
            drawn[classes == number] = table.inverse(uniform[classes == number])
        return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class LognormalRunTimes:
    """exp(N(log median, sigma)) x gang ** gang_exponent, cut off at `longest_s`."""

    median_s: float  # of a gang of one
    sigma: float
    gang_exponent: float = 0.0
    longest_s: float

    def draw(self, rng: Rng, gangs: Floats) -> Floats:
        drawn = self.median_s * gangs**self.gang_exponent * np.exp(self.sigma * rng.standard_normal(len(gangs)))
        return np.minimum(drawn, self.longest_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statuses:
    """How jobs end, such that both published splits hold: of jobs, and of GPU-time.

    Two splits fix two rows of probabilities, one for long jobs and one for the rest. Of jobs `long_jobs` are long, and
    they hold `long_gpu_time` of the GPU-seconds.

        long_jobs     x P[long] + (1 - long_jobs)     x P[rest] = split of jobs
        long_gpu_time x P[long] + (1 - long_gpu_time) x P[rest] = split of GPU-time
    """

    names: tuple[str, ...]  # the first is the good end
    of_jobs: tuple[float, ...]
    of_gpu_time: tuple[float, ...]
    long_s: float  # longer than this is long
    long_jobs: float
    long_gpu_time: float

    def draw(self, rng: Rng, work: Floats) -> Labels:
        of_jobs, of_gpu_time = np.asarray(self.of_jobs), np.asarray(self.of_gpu_time)
        gap = (of_gpu_time - of_jobs) / (self.long_gpu_time - self.long_jobs)  # P[long] - P[rest]
        rest = of_jobs - self.long_jobs * gap
        upper = np.cumsum([rest, rest + gap], axis=1)[:, :-1]
        codes = (rng.random(len(work))[:, None] >= upper[(work > self.long_s).astype(np.intp)]).sum(axis=1)
        return Labels(codes.astype(np.int32), self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """Virtual clusters: jobs of one GPU (or less) and larger gangs have different homes."""

    names: tuple[str, ...]
    singles: tuple[float, ...]  # weights
    gangs: tuple[float, ...]

    def draw(self, rng: Rng, gpus: Floats) -> Labels:
        uniform = rng.random(len(gpus))
        return _used(np.where(gpus <= 1, place(uniform, self.singles), place(uniform, self.gangs)), self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Zipf: the k-th user of a queue submits in proportion to 1 / k ** exponent. Without queues, all share one."""

    a_queue: int
    exponent: float

    def draw(self, rng: Rng, queue: Labels) -> Labels:
        ranks = pick(rng, np.arange(1, self.a_queue + 1) ** -self.exponent, len(queue))
        queues = max(1, len(queue.names))
        codes = np.maximum(queue.codes, 0).astype(np.int64) * self.a_queue + ranks
        return _used(codes, tuple(f"u{user}" for user in range(queues * self.a_queue)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """Arrivals, a Poisson process whose rate is hour-of-day x day-of-week (Monday first); only ratios matter."""

    hours: tuple[float, ...] = (1.0,) * 24
    weekdays: tuple[float, ...] = (1.0,) * 7

    def draw(self, rng: Rng, rows: int, span_s: float) -> Floats:
        """Sorted; the first at 0 and the last at `span_s`, so that the span is that of the jobs.

        Given how many there are, the arrivals of a Poisson process are independent with the rate for density: one inverse
        of the integrated rate places them all.
        """
        edges = np.arange(7 * 24 + 1) * HOUR_S
        week = np.concatenate([[0.0], np.cumsum(np.outer(self.weekdays, self.hours))])
        whole, rest = divmod(span_s, WEEK_S)
        mass = np.sort(rng.random(rows)) * (whole * week[-1] + np.interp(rest, edges, week))
        weeks, inside = np.divmod(mass, week[-1])
        submit_s = np.minimum(weeks * WEEK_S + np.interp(inside, week, edges), span_s)
        submit_s[-1], submit_s[0] = span_s, 0.0
        return submit_s


def pick(rng: Rng, weights: ArrayLike, rows: int) -> Ints:
    """Indices in proportion to their weights."""
    return place(rng.random(rows), weights)


def place(uniform: Floats, weights: ArrayLike) -> Ints:
    upper = np.cumsum(weights)
    return np.searchsorted(upper / upper[-1], uniform, side="right").astype(np.int64)


def _used(codes: NDArray[np.int64], names: tuple[str, ...]) -> Labels:
    present, codes = np.unique(codes, return_inverse=True)
    return Labels(codes.astype(np.int32), tuple(names[code] for code in present))
