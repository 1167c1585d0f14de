"""Backfilling by time limits: a later job may start early, if by the plan it delays nobody that was promised a time.

Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995; Mu'alem and Feitelson, "Utilization, predictability, workloads, and user
runtime estimates in scheduling the IBM SP2 with backfilling", IEEE TPDS 12(6), 2001. Neither preempts.

    order     priority, then submission
    limit     seconds a job may hold its GPUs, restart cost included (a user asks for wall time); `estimate` names its source
    end       of a running job: its start + its limit; one past its limit is taken to end at the next instant

easy-backfill: only the head of the line has a promise. Public simulators disagree on the details; here, at every decision:

    1. jobs start in order while they fit; the first that does not is the head
    2. shadow time = when, by the ends of running jobs, enough GPUs for the head are free: the head's reservation
       extra GPUs  = GPUs free at the shadow time (all jobs that end by then have ended), less those the head needs
    3. each job behind the head, in order, starts if it fits now and either ends by the shadow time (now + limit <= shadow), or
       needs no more than the extra GPUs; a job let in on extra GPUs alone uses them up, one that ends in time does not

All is planned anew at the next decision, so a job that ends before its limit moves the shadow time forward. A head that no
end of a running job can help (nodes are down, a service holds the GPUs) reserves nothing.

conservative-backfill: every waiting job has a promise. At every decision all are planned anew against free GPUs over time, each
at the earliest start from which it fits for its whole limit, in the order of the starts they had (newcomers last, in order);
those whose start is now start. No start moves back while no job holds longer than planned: those planned before this one start
no later than they did, so at an instant after this one's old start they hold GPUs only where they did in the old plan, and the
old start still fits. (Planning in order of submission would break promises: who moves forward may take a hole already promised.)

Each pool of nodes (those of one type, or a queue's own) is planned by itself. A job that may use several takes the first where it
can start now, else waits for the one where it could start first: under EASY, where every pool has a head and a reservation of
its own, until the next decision; under conservative for good, as a promise is a time and a pool.
GPUs are counted, not nodes: a job that fits in number but finds no node is passed over (`fragmented`) and tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.errors import ParamError
from trainmaster.policies.base import Array, Decision, Floats, Line, Memory, Policy, Verdict, View, policy

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    estimate: str = "limit"  # limit | predicted | a column of the trace | oracle: the true run times; then it cheats


class Backfill(Policy[Params]):
    """What both have in common: counts, ends and limits, pool by pool."""

    preemptive = False

    def cheats(self) -> bool:
        return self.params.estimate == "oracle"


@policy(name="easy-backfill", paper="Lifka, JSSPP 1995; Mu'alem and Feitelson, IEEE TPDS 2001", params=Params)
class EasyBackfill(Backfill):
    def decide(self, view: View, memory: Memory) -> Decision:
        waiting = in_order(view)
        if not len(waiting):
            return Decision()
        free_milli, *running = supply(view)
        pool = compiled_easy()(view.now_s, free_milli, *running, *demand(view, waiting, self.name))
        return start(view, waiting, pool, free_milli)


@policy(name="conservative-backfill", paper="Mu'alem and Feitelson, IEEE TPDS 2001", params=Params)
class ConservativeBackfill(Backfill):
    def start_memory(self, jobs: int) -> Memory:
        return {"start_s": np.full(jobs, np.inf), "pool": np.full(jobs, -1)}  # by seq: what a waiting job is promised

    def decide(self, view: View, memory: Memory) -> Decision:
        waiting = in_order(view)
        if not len(waiting):
            return Decision()
        waiting = waiting[np.argsort(memory["start_s"][view.jobs.seq[waiting]], kind="stable")]
        seq, (free_milli, *running) = view.jobs.seq[waiting], supply(view)
        need_milli, limit_s, options = demand(view, waiting, self.name)
        promised = np.isfinite(memory["start_s"][seq])
        options[promised, 0], options[promised, 1:] = memory["pool"][seq[promised]], -1
        start_s, pool = compiled_plan()(view.now_s, free_milli, *running, need_milli, limit_s, options)
        memory["start_s"][seq], memory["pool"][seq] = start_s, pool
        return start(view, waiting, np.where(start_s == view.now_s, pool, -1), free_milli)


# ------------------------------------------------------------------------------------------------- what is free, and wanted


def in_order(view: View) -> Array:
    """Waiting jobs: priority, then submission."""
    waiting = np.flatnonzero(~view.jobs.running)
    return waiting[np.argsort(-view.jobs.priority[waiting], kind="stable")]


def supply(view: View) -> tuple[Ints, Floats, Ints, Ints]:
    """Thousandths free in each pool, and of each running job: when it gives its GPUs back, how many, in which pool."""
    jobs, nodes = view.jobs, view.nodes
    running = np.flatnonzero(jobs.running)
    state = jobs.state[running]
    if jobs.estimates is None:
        ends_s = np.maximum(state["ready_s"], view.now_s) + view.oracle.remaining_s[running]
    else:  # what it was served before its present start (until a node failed) is taken off its limit
        ends_s = state["held_since_s"] + np.maximum(jobs.estimates[running] - state["served_mark_s"], 0.0)
    ends_s = np.maximum(ends_s, np.nextafter(view.now_s, np.inf))
    pool = np.zeros(len(running), np.int64)
    if nodes.pool.any():
        pool[:] = [nodes.pool[view.holdings(row)[0][0]] for row in jobs.row[running].tolist()]
    held_milli = np.ascontiguousarray(state["held_milli"])
    pools = int(nodes.pool.max()) + 1
    total = np.bincount(nodes.pool[nodes.up], nodes.gpus[nodes.up] * 1000.0, pools)
    return np.rint(total - np.bincount(pool, held_milli, pools)).astype(np.int64), ends_s, held_milli, pool


def demand(view: View, waiting: Array, name: str) -> tuple[Ints, Floats, Ints]:
    """Of each waiting job: thousandths it needs, for how long, and the pools it may use (-1 ends)."""
    jobs, options = view.jobs, view.jobs.pools[waiting].astype(np.int64)
    types = types_of_pools(view)
    alike = (types[options[:, 1:]] == types[options[:, :-1]]) & (options[:, 1:] >= 0)
    if alike.any():
        job = jobs.table.id[jobs.row[waiting[int(np.argmax(alike.any(axis=1)))]]]
        raise ParamError(f"--policy: {name} plans each pool of nodes by itself; job {job} may spread over nodes of its queue and open ones")
    # the true work leaves out the restart cost, a limit does not
    limit_s = view.oracle.remaining_s + jobs.state["restart_s"] if jobs.estimates is None else jobs.remaining_s
    limit_s = np.maximum(limit_s[waiting], np.spacing(view.now_s))  # an estimate of nothing still takes an instant
    return np.ascontiguousarray(jobs.state["milli"][waiting]), limit_s, options


def types_of_pools(view: View) -> Array:
    types = np.zeros(int(view.nodes.pool.max()) + 1, object)
    types[view.nodes.pool] = view.nodes.type
    return types


def start(view: View, waiting: Array, pool: Ints, free_milli: Ints) -> Decision:
    """Start the jobs that were given a pool; the others are short of GPUs, or fit and would delay a job with a promise."""
    jobs, given = view.jobs, np.flatnonzero(pool >= 0)
    started, pool = waiting[given], pool[given]
    need_milli, open_to = jobs.state["milli"], jobs.pools >= 0
    left_milli = free_milli - np.bincount(pool, need_milli[started], len(free_milli)).astype(np.int64)
    short_gpus = np.maximum(need_milli - np.where(open_to, left_milli[jobs.pools], 0).max(axis=1), 0) / 1000.0
    named = (open_to.sum(axis=1) > 1) & (need_milli > 0)  # several pools differ in type; CPUs alone are not planned
    types = types_of_pools(view)
    return Decision(
        lines=tuple(
            Line(int(jobs.row[i]), float(jobs.gpus[i]), type=str(types[p]) if named[i] else None)
            for i, p in zip(started.tolist(), pool.tolist(), strict=True)
        ),
        verdict=np.where(short_gpus > 0, Verdict.CAPACITY, Verdict.BLOCKED),
        short_gpus=short_gpus,
    )


# ------------------------------------------------------------------------------------------------- the two rules, compiled


@cache
def compiled_easy() -> Any:
    """`easy`, compiled when first used: to list policies must stay cheap."""
    from numba import njit

    return njit("i8[::1](f8, i8[::1], f8[::1], i8[::1], i8[::1], i8[::1], f8[::1], i8[:, ::1])", cache=True)(easy)


@cache
def compiled_plan() -> Any:
    """`plan`, likewise."""
    from numba import njit

    return njit("Tuple((f8[::1], i8[::1]))(f8, i8[::1], f8[::1], i8[::1], i8[::1], i8[::1], f8[::1], i8[:, ::1])", cache=True)(plan)


def easy(now_s: float, free_milli: Ints, ends_s: Floats, held_milli: Ints, held_in: Ints, need_milli: Ints, limit_s: Floats,
         options: Ints) -> Ints:
    """The pool in which each waiting job starts now, -1 = it waits."""
    pools, waiting, holders = len(free_milli), len(need_milli), len(ends_s)
    free, extra, reserved, shadow_s = free_milli.copy(), np.zeros(pools, np.int64), np.zeros(pools, np.bool_), np.full(pools, np.inf)
    end_s, gives, gives_in = np.empty(holders + waiting), np.empty(holders + waiting, np.int64), np.empty(holders + waiting, np.int64)
    end_s[:holders], gives[:holders], gives_in[:holders] = ends_s, held_milli, held_in
    starts = np.full(waiting, -1)
    for job in range(waiting):
        need, by_s = need_milli[job], now_s + limit_s[job]
        for pool in options[job]:
            if pool >= 0 and need <= free[pool] and (not reserved[pool] or by_s <= shadow_s[pool] or need <= extra[pool]):
                starts[job] = pool
                break
        if starts[job] >= 0:
            pool = starts[job]
            free[pool] -= need
            if reserved[pool] and by_s > shadow_s[pool]:
                extra[pool] -= need
            end_s[holders], gives[holders], gives_in[holders] = by_s, need, pool
            holders += 1
            continue
        best, best_s, best_extra = -1, np.inf, np.int64(0)
        for pool in options[job]:
            if pool < 0 or reserved[pool]:
                continue
            order, left, time_s = np.argsort(end_s[:holders]), free[pool], np.inf
            for i in order:  # until the head fits, and all that ends at the same instant
                if end_s[i] > time_s:
                    break
                if gives_in[i] == pool:
                    left += gives[i]
                    if left >= need and time_s == np.inf:
                        time_s = end_s[i]
            if best < 0 or time_s < best_s:
                best, best_s, best_extra = pool, time_s, left - need
        if best >= 0:
            reserved[best], shadow_s[best], extra[best] = True, best_s, best_extra
    return starts


def plan(now_s: float, free_milli: Ints, ends_s: Floats, held_milli: Ints, held_in: Ints, need_milli: Ints, limit_s: Floats,
         options: Ints) -> tuple[Floats, Ints]:
    """The earliest start of each waiting job, given the running ones and the jobs before it (inf = never), and its pool.

    From at_s[pool, i] on, until at_s[pool, i + 1], left[pool, i] thousandths are free; the last step has no end.
    """
    pools, waiting = len(free_milli), len(need_milli)
    most = len(ends_s) + waiting + 2
    at_s, left, steps = np.empty((pools, most)), np.empty((pools, most), np.int64), np.ones(pools, np.int64)
    at_s[:, 0], left[:, 0] = now_s, free_milli
    for i in np.argsort(ends_s):
        pool = held_in[i]
        last = steps[pool] - 1
        if ends_s[i] > at_s[pool, last]:
            last += 1
            at_s[pool, last], left[pool, last] = ends_s[i], left[pool, last - 1]
            steps[pool] += 1
        left[pool, last] += held_milli[i]
    start_s, start_in = np.full(waiting, np.inf), np.full(waiting, -1)
    for job in range(waiting):
        need, limit = need_milli[job], limit_s[job]
        begin, end = 0, 0
        for pool in options[job]:
            if pool < 0:
                break
            times, room, n = at_s[pool], left[pool], steps[pool]
            first = 0
            while first < n and times[first] < start_s[job]:
                if room[first] < need:
                    first += 1
                    continue
                after = first + 1
                while after < n and times[after] < times[first] + limit and room[after] >= need:
                    after += 1
                if after == n or times[after] >= times[first] + limit:  # it fits in the steps first..after - 1
                    start_s[job], start_in[job], begin, end = times[first], pool, first, after
                    break
                first = after + 1
        pool = start_in[job]
        if pool < 0:
            continue
        until_s = start_s[job] + limit
        if until_s < np.inf and (end == steps[pool] or at_s[pool, end] > until_s):
            for i in range(steps[pool], end, -1):
                at_s[pool, i], left[pool, i] = at_s[pool, i - 1], left[pool, i - 1]
            at_s[pool, end], left[pool, end] = until_s, left[pool, end - 1]
            steps[pool] += 1
        for i in range(begin, end):
            left[pool, i] -= need
    return start_s, start_in
