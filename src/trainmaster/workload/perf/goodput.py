"""Goodput: throughput times statistical efficiency, and the batch that makes it largest.

Qiao et al., "Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized Deep Learning", OSDI 2021, section 3.

    R, N      GPUs, nodes;  m  samples a GPU and pass (atomic batch);  s  accumulation steps;  M = R m (s + 1) the global batch
    T_acc     alpha_c + beta_c m                                                    one pass over an atomic batch     [s]
    T_sync    alpha + beta max(R - 2, 0), with (alpha_r, beta_r) inside a node and (alpha_n, beta_n) between nodes    [s]
    T_opt     (T_acc^gamma + T_sync^gamma)^(1 / gamma): the last pass, partly overlapped with synchronisation         [s]
    throughput  M / (s T_acc + T_opt)                                                                                [samples/s]
    efficiency  (var + sqr) / (var / k + sqr) / k,  k = M / initial batch: what a sample is worth; 1 at the initial batch
    goodput     throughput x efficiency

The fit (section 4.1) minimises RMSE(log T_acc) + RMSE(log T_opt) + 1e-3 (gamma - 1)^2 + 1e-2 ((beta_n / alpha_n)^2 +
(beta_r / alpha_r)^2) over what the job has run so far. What it has not run is taken to cost nothing, so that it gets tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.workload.jobs import Floats
from trainmaster.workload.perf.threads import one_thread

ALPHA_C, BETA_C, ALPHA_N, BETA_N, ALPHA_R, BETA_R, GAMMA = range(7)  # places in a vector of throughput parameters
NOTHING_S = 1e-8  # what is not there takes this long, so that its logarithm exists
MOST_OVERLAP = 10.0  # upper bound of gamma
TRIED_BATCHES = 50

ModelParams = Floats  # seven figures, in the order above


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Samples: of the whole gang, and of one GPU in one pass."""

    initial: int
    largest: int
    smallest_local: int
    largest_local: int

    def __iter__(self) -> Any:
        return iter((self.initial, self.largest, self.smallest_local, self.largest_local))

    def most_gpus(self) -> int:
        """More would have less than the smallest local batch each."""
        return self.largest // self.smallest_local


@dataclass(frozen=True, slots=True)
class Measured:
    """What a running gang reports of itself: one configuration, and how long its parts take."""

    nodes: int
    gpus: int
    atomic: int  # samples a GPU and pass
    pass_s: float  # forward and backward
    step_s: float  # the last pass, synchronisation included


@dataclass(frozen=True, slots=True)
class Choice:
    goodput: float  # useful samples a second
    atomic: int
    steps: int  # of accumulation


def best_batch(params: ModelParams, grad_sqr: float, grad_var: float, limits: BatchLimits, nodes: int, gpus: int) -> Choice:
    """The best of 50 global batches, geometrically spaced; what a GPU gets is rounded up first, and then judged."""
    goodput, atomic, steps = kernels().best_batch(params, grad_sqr, grad_var, *limits, nodes > 1, gpus)
    return Choice(goodput, atomic, steps)


def goodput_table(params: Floats, stats: Floats, limits: NDArray[np.int64], most_gpus: NDArray[np.int64],
                  asked: Iterable[tuple[bool, int]] | None = None) -> Floats:
    """[job, spans nodes, GPUs]: the best goodput; 0 beyond `most_gpus` of a job, and for a gang of one on two nodes.

    A row a job: `params` (7), `stats` (sqr, var), `limits` (as BatchLimits). `asked`: (spans nodes, GPUs) to fill in; None = all.
    """
    table = np.zeros((len(params), 2, int(most_gpus.max(initial=0)) + 1))
    wanted = np.full(table.shape[1:], asked is None)
    for spans, gpus in asked or ():
        if gpus < wanted.shape[1]:
            wanted[int(spans), gpus] = True
    kernels().fill_table(params, stats, limits, most_gpus, wanted, table)
    return table


def step_times(params: ModelParams, nodes: int, gpus: int, atomic: float) -> tuple[float, float]:
    """Predicted (T_acc, T_opt) in seconds."""
    pass_s, step_s = kernels().step_times(params, nodes > 1, gpus, float(atomic))
    return float(pass_s), float(step_s)


def fit(measured: Sequence[Measured], *, tolerance: float | None = None) -> ModelParams:
    """Throughput parameters from what has been measured, at least one point."""
    from scipy.optimize import minimize

    nodes, gpus, atomic = (np.array(column) for column in zip(*((m.nodes, m.gpus, m.atomic) for m in measured), strict=True))
    pass_s, step_s = (np.array(column) for column in zip(*((m.pass_s, m.step_s) for m in measured), strict=True))
    start = np.array([0.1, 0.01, 0.1, 0.01, 0.1, 0.01, 1.001])
    low, high = np.array([NOTHING_S] * 6 + [1.0]), np.array([np.inf] * 6 + [MOST_OVERLAP])

    def pin(places: Sequence[int], value: float) -> None:
        for place in places:
            start[place] = low[place] = high[place] = value

    if len(np.unique(atomic)) == 1:  # half of a pass is taken to be constant: larger batches look cheap
        pin([ALPHA_C], float(pass_s.mean()) / 2)
    if not (nodes > 1).any():
        pin([ALPHA_N, BETA_N], NOTHING_S)
    if not ((nodes == 1) & (gpus > 1)).any():
        pin([ALPHA_R, BETA_R], NOTHING_S)
    if not (gpus > 2).any():
        pin([BETA_N, BETA_R], NOTHING_S)
    loss, log_pass, log_step = kernels().loss, np.log(np.maximum(pass_s, NOTHING_S)), np.log(np.maximum(step_s, NOTHING_S))
    args = (nodes > 1, gpus.astype(np.float64), atomic.astype(np.float64), log_pass, log_step)
    with one_thread():
        found = minimize(loss, start, args=args, jac=True, bounds=np.stack([low, high], axis=1), method="L-BFGS-B", tol=tolerance)
    params: ModelParams = found.x
    if not (nodes > 1).any():  # between nodes it is no faster than inside one
        params[ALPHA_N] = max(params[ALPHA_N], params[ALPHA_R] * 1.1)
        params[BETA_N] = max(params[BETA_N], params[BETA_R] * 1.1)
    return params


@cache
def kernels() -> Any:
    """The compiled part, imported when first used: to list policies must stay cheap."""
    from trainmaster.workload.perf import goodput_kernels

    return goodput_kernels
