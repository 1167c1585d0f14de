"""What a run leaves behind: a row a job, a row an allocation, and the series that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.cluster.cluster import Cluster
from trainmaster.workload.jobs import Floats, Ints, JobTable

# States of a job at the end of a run.
FINISHED, UNSCHEDULABLE, REJECTED, UNFINISHED = "finished", "unschedulable", "rejected", "unfinished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocations:
    """One row a stretch of time in which a job held the same GPUs, in order of start.

    Row i holds gpu_milli[offset[i]:offset[i+1]] thousandths on nodes node[offset[i]:offset[i+1]].
    """

    job: NDArray[np.int32]  # row in the JobTable
    start_s: Floats
    end_s: Floats
    offset: Ints  # len(job) + 1
    node: NDArray[np.int32]
    gpu_milli: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One policy on one workload. All arrays are by row of `jobs` unless said otherwise; NaN = it never happened."""

    label: str
    policy: str
    params: Mapping[str, Any]  # effective parameters; the effective rules under "rules"
    oracle: bool  # the policy used what no real cluster knows
    placement: str
    round_s: float
    restart_cost_s: float
    seed: int
    load: float
    window: tuple[float, float] | None  # only jobs submitted in it are measured
    jobs: JobTable
    cluster: Cluster
    start_s: Floats  # first start
    finish_s: Floats
    state: NDArray[np.object_]  # FINISHED, ...
    reason: NDArray[np.object_]  # one line for what did not finish, else ""
    held_s: Floats  # seconds holding an allocation
    attained_gpu_s: Floats  # GPU-seconds held
    overhead_gpu_s: Floats  # held but idle: restart costs
    lost_gpu_s: Floats  # work lost to failures
    alone_s: Floats  # run time alone on what it asked for, at full rate
    nodes: NDArray[np.int32]  # nodes of the last allocation
    gpu_type: NDArray[np.object_]  # type of the last allocation, ""
    preemptions: NDArray[np.int32]
    migrations: NDArray[np.int32]
    resizes: NDArray[np.int32]
    failures: NDArray[np.int32]
    allocations: Allocations
    capacity_s: Floats  # capacity_gpus[i] GPUs are up from capacity_s[i] on
    capacity_gpus: Floats
    decisions: int
    wall_s: float
    peak_rss_mib: float
    notes: tuple[str, ...] = field(default_factory=tuple)  # said once at the end: recorded starts missed, ...
