"""Generated workloads: `synthetic`, `synthetic:philly`, `:helios`, `:pai`.

Every marginal is a published number or one measured on a public trace, with its source beside it in the file of its
cluster; docs/synthetic.md is the table of all of them, and says what is not captured.

    sum over jobs of GPUs x run time = load x GPUs of the cluster x span    [GPU-seconds]

fixes the span of the arrivals, so the load is met exactly; a day stays a day, whatever the load. Times start on a Monday
at 00:00 of the trace's own clock, with the first job; the last job arrives at `span_s`. Each marginal has a random stream
of its own: another number in one leaves the draws of the others as they were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from trainmaster.errors import ParamError
from trainmaster.workload.jobs import GPU_MILLI, JobTable, Labels
from trainmaster.workload.synth import helios, pai, philly, plain
from trainmaster.workload.synth.limits import draw_limits
from trainmaster.workload.synth.marginals import WEEK_S, Marginals

SYNTHETIC: Mapping[str, Marginals] = {
    "": plain.MARGINALS,
    "philly": philly.MARGINALS,
    "helios": helios.MARGINALS,
    "pai": pai.MARGINALS,
}

# A cluster for a kind that is given none: the real one scaled to a size on which a week of jobs is simulated in seconds. Specs
# are text here: who builds a cluster from them is not this room. docs/synthetic.md says at which load a week of jobs queues.
DEFAULT_CLUSTERS: Mapping[str, str] = {kind: marginals.cluster for kind, marginals in SYNTHETIC.items()}

STREAMS = ("gang", "run-time", "status", "queue", "user", "limit", "arrival")  # append only: the position seeds the stream


class Synthetic(NamedTuple):
    """`status` has a row for every row of `jobs`, absent where the cluster's paper gives no shares; a job that was killed
    or failed has for work what it ran."""

    jobs: JobTable
    status: Labels
    span_s: float


def synthesize(kind: str, *, jobs: int | None, cluster_gpus: int, max_gang: int, load: float, seed: int) -> Synthetic:
    """A workload of `kind` for a cluster of `cluster_gpus`, no gang above `max_gang`; `jobs` None: about a week of it."""
    marginals = _checked(kind, jobs, cluster_gpus, max_gang, load, seed)
    rows = default_jobs(kind, cluster_gpus=cluster_gpus, load=load) if jobs is None else jobs
    rng = {name: np.random.default_rng([seed, position]) for position, name in enumerate(STREAMS)}

    gpus = np.rint(marginals.gangs.draw(rng["gang"], rows, max_gang) * GPU_MILLI) / GPU_MILLI
    work = np.maximum(np.rint(marginals.run_times.draw(rng["run-time"], gpus)), 1.0)  # whole seconds, as the traces record
    status = marginals.statuses.draw(rng["status"], work) if marginals.statuses else Labels.absent(rows)
    queue = marginals.queues.draw(rng["queue"], gpus) if marginals.queues else Labels.absent(rows)
    user = marginals.users.draw(rng["user"], queue) if marginals.users else Labels.absent(rows)
    limit_s = draw_limits(rng["limit"], work, status)

    span_s = float(gpus @ work) / (cluster_gpus * load)
    submit_s = marginals.rhythm.draw(rng["arrival"], rows, span_s)
    table = JobTable.build(submit_s=submit_s, work=work, gpus=gpus, queue=queue, user=user, limit_s=limit_s)
    return Synthetic(table, status.take(table.seq), span_s)


def default_jobs(kind: str, *, cluster_gpus: int, load: float) -> int:
    """Jobs that make about a week of arrivals at this load."""
    return max(1, round(load * cluster_gpus * WEEK_S / SYNTHETIC[kind].mean_gpu_s))


def _checked(kind: str, jobs: int | None, cluster_gpus: int, max_gang: int, load: float, seed: int) -> Marginals:
    if kind not in SYNTHETIC:
        raise ParamError(f'--trace: no synthetic workload "{kind}"; there are {", ".join(_name(known) for known in SYNTHETIC)}')
    for what, value in (("--jobs", jobs), ("the cluster's GPUs", cluster_gpus), ("the largest gang", max_gang)):
        if value is not None and value < 1:
            raise ParamError(f"{_name(kind)}: {what} must be at least 1, not {value}")
    if not (math.isfinite(load) and load > 0):
        raise ParamError(f"{_name(kind)}: --load must be a positive number, not {load}")
    if seed < 0:
        raise ParamError(f"{_name(kind)}: --seed must not be negative, not {seed}")
    return SYNTHETIC[kind]


def _name(kind: str) -> str:
    return f"synthetic:{kind}" if kind else "synthetic"
