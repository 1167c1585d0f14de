"""What each tenant received, against what it was owed: shares of GPU time, and Jain's index over them.

    tenant    a queue, where jobs have several; else a user
    owed      at every moment the GPUs there are shared among the tenants that have jobs, by weight (a queue's in the cluster file,
              else 1), none more than its jobs ask for; what one cannot use goes to the others (max-min)
    received  GPU time held
    ratio     received / owed over the whole run: below 1 = had less than its share
    jain      (sum x)^2 / (n sum x^2) of the tenants' ratios: 1 = all fared alike, 1 / n = one had everything
              Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and Discrimination", DEC-TR-301, 1984

Moments are the averages of equal bins of the span: who asks for how much, and what is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainmaster.engine.result import RunResult
from trainmaster.metrics.series import allocated_milli, capacity, contends, mean_by_group
from trainmaster.workload.jobs import GPU_MILLI, Floats, Ints, Labels

BINS = 400


@dataclass(frozen=True)
class Tenants:
    """By tenant and bin, in GPUs."""

    names: tuple[str, ...]
    owed: Floats
    received: Floats
    width_s: Floats  # of the bins

    @classmethod
    def of(cls, result: RunResult, edges_s: Floats) -> Tenants | None:
        """None where the trace names fewer than two."""
        jobs = result.jobs
        labels = jobs.queue if _several(jobs.queue) else jobs.user
        if not _several(labels):
            return None
        names = (*labels.names, "")
        tenant = np.where(labels.codes < 0, len(labels.names), labels.codes).astype(np.int64)
        here = contends(result) & (jobs.gpu_milli > 0)
        leaves_s = np.where(np.isnan(result.finish_s), edges_s[-1], result.finish_s)
        asked = mean_by_group(tenant[here], jobs.eligible_s[here], leaves_s[here], jobs.gpus[here], edges_s, len(names))
        held = result.allocations
        gpus = allocated_milli(held) / GPU_MILLI
        received = mean_by_group(tenant[held.job], held.start_s, held.end_s, gpus, edges_s, len(names))
        queues = result.cluster.queues if labels is jobs.queue else {}
        weight = np.array([queues[name].weight if name in queues else 1.0 for name in names])
        owed = max_min_shares(asked, weight, capacity(result).mean(edges_s[:-1], edges_s[1:]))
        some = asked.any(axis=1)
        return cls(tuple(np.array(names, object)[some]), owed[some], received[some], np.diff(edges_s))

    def totals_gpu_s(self) -> tuple[Floats, Floats]:
        """(owed, received) of each tenant over the whole span."""
        return self.owed @ self.width_s, self.received @ self.width_s

    def jain_over_time(self) -> Floats:
        """In each bin; 1 where nobody is owed anything."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.where(self.owed > 0, np.minimum(self.received / self.owed, 1.0), np.nan)
        return jain_index(ratios)


def max_min_shares(asked: Floats, weight: Floats, there: Floats) -> Floats:
    """(tenants, bins): shares by weight, none above what is asked, the rest given on to the others."""
    asked_per_weight = asked / weight[:, None]
    order = np.argsort(asked_per_weight, axis=0, kind="stable")
    level = np.take_along_axis(asked_per_weight, order, axis=0)
    ordered_weight = weight[order]
    before = np.cumsum(np.take_along_axis(asked, order, axis=0), axis=0) - np.take_along_axis(asked, order, axis=0)
    open_weight = np.cumsum(ordered_weight[::-1], axis=0)[::-1]
    water = (there - before) / open_weight  # if all from this one on share alike
    first_full = np.argmax(np.vstack([water < level, np.ones(level.shape[1], bool)]), axis=0)
    height = np.where(first_full < len(weight), np.take_along_axis(water, np.minimum(first_full, len(weight) - 1)[None], axis=0)[0], np.inf)
    return np.minimum(asked, np.maximum(height, 0.0) * weight[:, None])


def jain_index(ratios: Floats) -> Floats:
    """Over the first axis; NaN = not there. 1 where nobody is."""
    count = np.count_nonzero(~np.isnan(ratios), axis=0)
    total, squares = np.nansum(ratios, axis=0), np.nansum(ratios**2, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(squares > 0, total**2 / (count * squares), 1.0)


def _several(labels: Labels) -> bool:
    codes: Ints = np.unique(labels.codes)
    return len(codes) > 1
