"""First in, first out: in order of submission, no preemption.

    fifo          the first job that does not fit blocks those behind it
    fifo-greedy   passes over what does not fit: large gangs may wait for ever under load
"""

from dataclasses import dataclass

from trainmaster.policies.base import ListPolicy, key_function, policy


@key_function
def by_submission(jobs, rows, n, now_s, params, shared, per_job, out):
    for i in range(n):
        out[i, 0] = jobs[rows[i]].submit_s
        out[i, 1] = 0.0
        out[i, 2] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    blocking: bool = True  # false: pass over what does not fit (that is fifo-greedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyParams:
    blocking: bool = False  # true: stop at the first job that does not fit (that is fifo)


@policy(name="fifo", paper="first come, first served", params=Params)
class Fifo(ListPolicy[Params]):
    preemptive = False
    key = by_submission


@policy(name="fifo-greedy", paper="first come, first served, passing over what does not fit", params=GreedyParams)
class FifoGreedy(ListPolicy[GreedyParams]):
    preemptive = False
    key = by_submission
