"""AFS: the next GPU goes to whom it serves better in the long run, short or efficient.

Hwang et al., "Elastic Resource Sharing for Distributed Deep Learning", NSDI 2021, section 4.

    p(k), w    speed on k GPUs, work left;  length = w / p(k), infinite for k = 0
    contest    of a shorter and a longer job: the longer wins if (p_l(k + 1) - p_l(k)) / p_l(k + 1) > (p_s(k + 1) - p_s(k)) / p_s(k);
               of two without GPUs: the one that is shorter alone

GPUs are handed out one at a time, each to the winner of a scan over all jobs by (submission, seq) that a GPU makes faster.
Why: the GPU serves the short job first and then the long one, or the long one throughout; the denominators differ because
the long one holds it after the short one has ended. Exact for two jobs if the shorter ends first either way; no global optimum,
and no order: contests can go round in a circle, so the scan's order counts.

afs-l knows the work left (`--set afs-l.estimate=`). afs-p does not: it takes the service attained so far in its place (the longer
a job has run, the longer it is likely to run), and looks again every `quantum_s`.
A job with `min_gpus` gets them at once or nothing, and never holds fewer. Re-sharing costs a restart (`--restart-cost`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Decision, Floats, Line, Memory, Policy, View, check, policy
from trainmaster.policies.speeds import least_elastic, speeds, work_left

if TYPE_CHECKING:
    from trainmaster.workload.jobs import JobTable

Ints = NDArray[np.int64]
BIBTEX = """@inproceedings{afs,
  author = {Hwang, Changho and Kim, Taehyun and Kim, Sunghyun and Shin, Jinwoo and Park, KyoungSoo},
  title = {Elastic Resource Sharing for Distributed Deep Learning}, booktitle = {NSDI}, year = {2021}}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthParams:
    estimate: str = "oracle"  # of run times: oracle | limit | predicted | a column of the trace
    most_gpus: int = 64  # of a job

    def __post_init__(self) -> None:
        check(self.most_gpus > 0, "most_gpus counts from 1")


@policy(name="afs-l", paper="Hwang et al., NSDI 2021", needs=("oracle", "profile"), params=LengthParams, bibtex=BIBTEX)
class AfsL(Policy[LengthParams]):
    def least_gpus(self, jobs: JobTable) -> Floats:
        return least_elastic(jobs)

    def decide(self, view: View, memory: Memory) -> Decision:
        jobs, speed = view.jobs, demand(view, self.params.most_gpus)
        if self.params.estimate == "oracle":
            left = np.array([work_left(view, job) for job in range(len(jobs))])
        else:  # seconds on what it asked for, as work
            asked = np.minimum(jobs.gpus.astype(np.int64), speed.shape[1] - 1)
            left = jobs.remaining_s * speed[np.arange(len(jobs)), np.maximum(asked, 1)]
        return Decision(lines=lines(view, speed, left))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceParams:
    quantum_s: float = 600.0  # between decisions at most
    most_gpus: int = 64  # of a job

    def __post_init__(self) -> None:
        check(self.most_gpus > 0 and self.quantum_s > 0, "most_gpus counts from 1, quantum_s from above 0")


@policy(name="afs-p", paper="Hwang et al., NSDI 2021", needs=("profile",), params=ServiceParams, bibtex=BIBTEX)
class AfsP(Policy[ServiceParams]):
    def least_gpus(self, jobs: JobTable) -> Floats:
        return least_elastic(jobs)

    def decide(self, view: View, memory: Memory) -> Decision:
        speed = demand(view, self.params.most_gpus)
        done = np.array([view.done(row) for row in view.jobs.row.tolist()])
        return Decision(lines=lines(view, speed, np.maximum(done, 1e-9)), lease_s=self.params.quantum_s)


def demand(view: View, most: int) -> Floats:
    """[job, GPUs]: speed of every job on up to `most` GPUs."""
    most = min(most, int(view.nodes.gpus[view.nodes.up].sum()))
    return np.array([speeds(view, job, most) for job in range(len(view.jobs))]).reshape(len(view.jobs), most + 1)


def lines(view: View, speed: Floats, left: Floats) -> tuple[Line, ...]:
    gpus = share(int(view.nodes.gpus[view.nodes.up].sum()), speed, left, view.jobs.min_gpus, view.jobs.max_gpus)
    return tuple(Line(int(view.jobs.row[job]), float(gpus[job])) for job in np.flatnonzero(gpus).tolist())


def share(total: int, speed: Floats, left: Floats, min_gpus: Floats, max_gpus: Floats) -> Ints:
    """GPUs of each job, in the order of the scan. `speed` [job, GPUs]; NaN: no such bound."""
    from trainmaster.policies.kernels.contest import share_out

    if not len(left):
        return np.zeros(0, np.int64)
    runs = (speed > 0).argmax(axis=1)  # the least it runs on at all
    least = np.maximum(np.nan_to_num(min_gpus, nan=1.0), runs).astype(np.int64)
    most = np.minimum(np.nan_to_num(max_gpus, nan=np.inf), speed.shape[1] - 1)
    most = np.where((speed > 0).any(axis=1) & (least < speed.shape[1]), most, 0).astype(np.int64)
    return np.asarray(share_out(total, speed, left, np.minimum(least, speed.shape[1] - 1), most))
