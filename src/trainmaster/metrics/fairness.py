"""Finish-time fairness: is a job worse off than with a cluster of its own, one n-th as large?

Mahajan et al., "Themis: Fair and Efficient GPU Cluster Scheduling", NSDI 2020, section 3.

    rho = T_shared / T_alone          above 1 = worse off                       [avg_ftf, max_ftf]
    T_shared = finish - eligible      (queueing starts at eligible: what a job awaits before is not the cluster's doing)
    T_alone  = W / min(R / n, d)      W = alone_s x d GPU-seconds of work, d = GPUs asked, so = alone_s x max(1, d n / R)
    R, n     = GPUs of the cluster, jobs contending (eligible, unfinished, asking for GPUs; itself too), both averaged
               over the job's life from eligible to finish

T_alone is the literal reading of the paper; a re-implementation agrees, and another reading, n W / min(R, d), gives up
to n times more. A job here is an app of its own. No rho: jobs that did not finish, ask for CPUs alone or have no work.
"""

from __future__ import annotations

import numpy as np

from trainmaster.engine.result import RunResult
from trainmaster.metrics.series import capacity, contends
from trainmaster.metrics.steps import Steps
from trainmaster.workload.jobs import Floats


def finish_time_fairness(result: RunResult) -> Floats:
    """rho by row, NaN where it does not apply."""
    jobs, finished = result.jobs, np.isfinite(result.finish_s)
    here = contends(result) & (jobs.gpu_milli > 0)
    leaves_s = result.finish_s[here & finished]
    contending = Steps.of(np.concatenate([jobs.eligible_s[here], leaves_s]), np.repeat([1, -1], [int(here.sum()), len(leaves_s)]))
    rho = np.full(len(jobs), np.nan)
    rows = np.flatnonzero(here & finished & (result.alone_s > 0))
    from_s, to_s = jobs.eligible_s[rows], result.finish_s[rows]
    n, cluster_gpus = contending.mean(from_s, to_s), capacity(result).mean(from_s, to_s)
    with np.errstate(divide="ignore"):
        alone_s = result.alone_s[rows] * np.maximum(1.0, jobs.gpus[rows] * n / cluster_gpus)
    rho[rows] = (to_s - from_s) / alone_s
    return rho
