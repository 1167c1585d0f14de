"""What a run looked like over time: GPUs in use, the queue, and every node, all from its allocations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainmaster.engine.result import REJECTED, UNSCHEDULABLE, Allocations, RunResult
from trainmaster.metrics.steps import Steps
from trainmaster.workload.jobs import GPU_MILLI, Floats, Ints


def measured_jobs(result: RunResult) -> NDArray[np.bool_]:
    """The jobs that figures are about: those submitted in the window [A, B), or all."""
    submit_s = result.jobs.submit_s
    if result.window is None:
        return np.ones(len(submit_s), bool)
    return (submit_s >= result.window[0]) & (submit_s < result.window[1])


def span_s(result: RunResult) -> tuple[float, float] | None:
    """From the first submission to the last finish of the measured jobs; None if none finished, or all in no time."""
    measured = measured_jobs(result)
    finish_s = result.finish_s[measured & np.isfinite(result.finish_s)]
    if not len(finish_s):
        return None
    first_s, last_s = float(result.jobs.submit_s[measured].min()), float(finish_s.max())
    return (first_s, last_s) if last_s > first_s else None


def allocated_milli(allocations: Allocations) -> Ints:
    """Thousandths of GPUs that each allocation holds over all its nodes."""
    upto: Ints = np.append(0, np.cumsum(allocations.gpu_milli))
    return upto[allocations.offset[1:]] - upto[allocations.offset[:-1]]


def gpus_in_use(result: RunResult) -> Steps:
    held = result.allocations
    milli = allocated_milli(held)
    steps = Steps.of(np.concatenate([held.start_s, held.end_s]), np.concatenate([milli, -milli]))
    return Steps(steps.time_s, steps.value / GPU_MILLI)


def capacity(result: RunResult) -> Steps:
    return Steps(result.capacity_s, result.capacity_gpus)


def contends(result: RunResult) -> NDArray[np.bool_]:
    """Jobs that were in the queue at all: not those refused at the door."""
    refused: NDArray[np.bool_] = (result.state == UNSCHEDULABLE) | (result.state == REJECTED)
    return ~refused


def jobs_waiting(result: RunResult) -> Steps:
    """Jobs that could run (eligible, unfinished) and hold nothing, whether they never ran or were preempted."""
    return _waiting(result, np.ones(len(result.jobs), np.int64))


def gpus_waiting(result: RunResult) -> Steps:
    """GPUs that the waiting jobs ask for."""
    steps = _waiting(result, result.jobs.gpu_milli)
    return Steps(steps.time_s, steps.value / GPU_MILLI)


def _waiting(result: RunResult, weight: Ints) -> Steps:
    held = result.allocations
    here, done = contends(result), contends(result) & np.isfinite(result.finish_s)
    times_s = [result.jobs.eligible_s[here], result.finish_s[done], held.start_s, held.end_s]
    changes = [weight[here], -weight[done], -weight[held.job], weight[held.job]]
    return Steps.of(np.concatenate(times_s), np.concatenate(changes))


def node_use(result: RunResult, edges_s: Floats, group: Ints | None = None) -> Floats:
    """(nodes, bins): the mean GPUs in use on each node, exactly; with `group`, on each group of nodes (its number by node)."""
    held = result.allocations
    group = np.arange(len(result.cluster.nodes)) if group is None else group
    per_holding = np.diff(held.offset)
    start_s, end_s = np.repeat(held.start_s, per_holding), np.repeat(held.end_s, per_holding)
    return mean_by_group(group[held.node], start_s, end_s, held.gpu_milli / GPU_MILLI, edges_s, int(group.max(initial=-1)) + 1)


def mean_by_group(row: Ints, start_s: Floats, end_s: Floats, amount: Floats, edges_s: Floats, rows: int) -> Floats:
    """(rows, bins): the mean of the amounts that are there in each bin, each from its start to its end, exactly."""
    bins = len(edges_s) - 1
    partial, later = np.zeros(rows * bins), np.zeros(rows * (bins + 1))
    # What comes at t counts for the rest of t's bin and for every later bin in full; what goes counts against them.
    for times_s, sign in ((start_s, 1.0), (end_s, -1.0)):
        at_s = np.clip(times_s, edges_s[0], edges_s[-1])
        column = np.clip(np.searchsorted(edges_s, at_s, side="right") - 1, 0, bins - 1)
        partial += np.bincount(row * bins + column, sign * amount * (edges_s[column + 1] - at_s), rows * bins)
        later += np.bincount(row * (bins + 1) + column + 1, sign * amount, rows * (bins + 1))
    widths_s = np.diff(edges_s)
    held_before = np.cumsum(later.reshape(rows, bins + 1), axis=1)[:, :bins]
    return np.maximum(partial.reshape(rows, bins) / widths_s + held_before, 0.0)  # rounding may leave -1e-12
