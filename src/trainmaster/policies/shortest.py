"""Shortest first, by run time or by GPU-time.

    sjf    shortest job first: run time, no preemption
    srtf   shortest remaining time first, preemptive: optimal in average JCT on one GPU (Schrage 1968)
    srsf   shortest remaining service first: time left x GPUs, the oracle of Tiresias (Gu et al., NSDI 2019, section 2.2)

All three must know run times. `estimate=oracle` takes the true ones and cheats; `limit` takes the user's time limit;
`predicted` the mean of ended jobs of the same user and name, else of the user, the queue, everybody; any other word is a
column of predictions in the trace.
"""

from dataclasses import dataclass

from trainmaster.policies.base import ListPolicy, key_function, policy

SERVICE = 1e300  # a job without end comes last, but comes


@key_function
def by_time_left(jobs, rows, n, now_s, params, shared, per_job, out):
    for i in range(n):
        job = jobs[rows[i]]
        out[i, 0] = min(job.remaining_s, SERVICE)
        out[i, 1] = 0.0 if job.running else 1.0
        out[i, 2] = 0.0


@key_function
def by_service_left(jobs, rows, n, now_s, params, shared, per_job, out):
    for i in range(n):
        job = jobs[rows[i]]
        out[i, 0] = min(job.remaining_s * (job.milli / 1000.0), SERVICE)
        out[i, 1] = 0.0 if job.running else 1.0
        out[i, 2] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    estimate: str = "oracle"  # limit | predicted | oracle | a column of the trace
    blocking: bool = False  # stop at the first job that does not fit


@policy(name="sjf", paper="shortest job first", needs=("oracle",), params=Params)
class Sjf(ListPolicy[Params]):
    preemptive = False
    key = by_time_left


@policy(name="srtf", paper="Schrage, Operations Research 1968", needs=("oracle",), params=Params)
class Srtf(ListPolicy[Params]):
    key = by_time_left


@policy(name="srsf", paper="Gu et al., NSDI 2019, section 2.2", needs=("oracle",), params=Params)
class Srsf(ListPolicy[Params]):
    key = by_service_left
