"""What policies read of the profiles: how fast a job is by number of GPUs, and how long it has left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainmaster.errors import ParamError
from trainmaster.policies.base import Floats, View

if TYPE_CHECKING:
    from trainmaster.workload.jobs import JobTable


def speeds(view: View, job: int, most: int) -> Floats:
    """Work a second of job (an index into the view) on 0, 1, …, `most` GPUs of the first type it accepts, on the fewest nodes."""
    if not hasattr(view.profile, "speeds"):
        raise ParamError(f"--policy: {view.policy_name} needs a job's speed by number of GPUs, and these --profiles do not tell it")
    row = int(view.jobs.row[job])
    return np.asarray(view.profile.speeds(row, accelerator_of(view, row), int(view.nodes.gpus.max()), most, view.done(row)))


def seconds_left(view: View, job: int, most: int) -> Floats:
    """True seconds left on 0, 1, … GPUs, likewise; where speed changes with progress, with all that is to come."""
    row = int(view.jobs.row[job])
    if hasattr(view.profile, "seconds_left"):
        return np.asarray(view.profile.seconds_left(row, accelerator_of(view, row), int(view.nodes.gpus.max()), most, view.done(row)))
    with np.errstate(divide="ignore"):
        return np.asarray(work_left(view, job) / speeds(view, job, most))


def work_left(view: View, job: int) -> float:
    row = int(view.jobs.row[job])
    return float(view.jobs.table.work[row]) - view.done(row)


def accelerator_of(view: View, row: int) -> str:
    """The first type of the cluster that a job accepts."""
    accepted = view.jobs.table.accept_sets[view.jobs.table.accept_set[row]]
    return next((name for name in view.capacity_gpus if not accepted or not name or name in accepted), next(iter(view.capacity_gpus)))


def least_elastic(jobs: JobTable) -> Floats:
    """The fewest GPUs of jobs whose sizes a policy chooses: their minimum, else one."""
    return np.where(jobs.gpus < 1, jobs.gpus, np.nan_to_num(jobs.min_gpus, nan=1.0))
