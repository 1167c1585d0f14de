"""Step functions of time: what the number of GPUs in use, of waiting jobs and of contending jobs all are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trainmaster.workload.jobs import Floats


@dataclass(frozen=True, slots=True)
class Steps:
    """`value[i]` holds from `time_s[i]` up to `time_s[i + 1]`, the last one for ever; 0 before the first."""

    time_s: Floats
    value: Floats

    @classmethod
    def of(cls, time_s: Floats, change: ArrayLike) -> Steps:
        """The running sum of changes. Those of one instant count together: a migration is no dip.

        Changes are best whole numbers, whose sums are exact.
        """
        order = np.argsort(time_s, kind="stable")
        sorted_s = time_s[order]
        last = np.ones(len(sorted_s), bool)
        last[:-1] = sorted_s[1:] != sorted_s[:-1]
        return cls(sorted_s[last], np.cumsum(np.asarray(change)[order])[last].astype(np.float64))

    def at(self, time_s: ArrayLike) -> Floats:
        return np.append(self.value, 0.0)[np.searchsorted(self.time_s, time_s, side="right") - 1]  # [-1] is before the first

    def integral(self, time_s: ArrayLike) -> Floats:
        """From the first step to each time; 0 before it."""
        if not len(self.time_s):
            return np.zeros(np.shape(time_s))
        upto = np.append(0.0, np.cumsum(self.value[:-1] * np.diff(self.time_s)))
        step = np.maximum(np.searchsorted(self.time_s, time_s, side="right") - 1, 0)
        return upto[step] + self.value[step] * np.maximum(np.asarray(time_s) - self.time_s[step], 0.0)

    def mean(self, from_s: Floats, to_s: Floats) -> Floats:
        """The average over each [from_s, to_s]; over an empty one, the value there."""
        with np.errstate(invalid="ignore", divide="ignore"):
            averages = (self.integral(to_s) - self.integral(from_s)) / (to_s - from_s)
        return np.where(to_s > from_s, averages, self.at(from_s))

    def binned(self, edges_s: Floats) -> tuple[Floats, Floats, Floats]:
        """(least, mean, greatest) value inside each bin [edges_s[k], edges_s[k + 1]); nothing is lost to sampling."""
        inside = self.time_s[(self.time_s > edges_s[0]) & (self.time_s < edges_s[-1])]
        times_s = np.unique(np.concatenate([edges_s[:-1], inside]))
        values, starts = self.at(times_s), np.searchsorted(times_s, edges_s[:-1])
        least, greatest = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        return least, np.clip(self.mean(edges_s[:-1], edges_s[1:]), least, greatest), greatest
