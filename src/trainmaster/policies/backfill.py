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

Everything is planned anew at the next decision, so a job that ends before its limit moves the shadow time forward. A head
that no end of a running job can help (nodes are down, a service holds the GPUs) reserves nothing.

conservative-backfill: every waiting job has a promise. At every decision all are planned anew against free GPUs over time, each
at the earliest start that fits for its whole limit, in the order of the starts they had (newcomers last, in order); those
whose start is now start. No start moves back while ends are no later than planned: a job planned before this one starts no
later than it did, so at any instant after this one's old start it holds GPUs only if it did in the old plan too, and the
old start still fits. (Planning in order of submission would break promises: a job moved forward may take a promised hole.)

GPUs are counted, not nodes: a job that fits in number but finds no node is passed over (`fragmented`) and tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.errors import ParamError
from trainmaster.policies.base import Array, Decision, Floats, Memory, Policy, Verdict, View, policy

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    estimate: str = "limit"  # limit | a column of the trace | oracle: the true run times, and then it cheats


class Backfill(Policy[Params]):
    """What both have in common: counts, ends and limits of one set of GPUs."""

    preemptive = False

    def cheats(self) -> bool:
        return self.params.estimate == "oracle"

    def refuse(self, view: View) -> None:
        """One set of GPUs is what both plan."""
        if len(view.capacity_gpus) > 1:
            types = ", ".join(view.capacity_gpus)
            raise ParamError(f"--policy: {self.name} plans GPUs of one type; this cluster has {types} (give each type a run of its own)")


@policy(name="easy-backfill", paper="Lifka, JSSPP 1995; Mu'alem and Feitelson, IEEE TPDS 2001", params=Params)
class EasyBackfill(Backfill):
    def decide(self, view: View, memory: Memory) -> Decision:
        self.refuse(view)
        waiting = in_order(view)
        need_milli, limit_s = view.jobs.state["milli"][waiting], limits_s(view)[waiting]
        free_milli, ends_s, held_milli = capacity(view)
        at_once = int(np.searchsorted(np.cumsum(need_milli), free_milli, side="right"))
        if at_once == len(waiting):
            return Decision.start(view, waiting)
        free_milli -= int(need_milli[:at_once].sum())
        ends_s = np.concatenate([ends_s, view.now_s + limit_s[:at_once]])
        shadow_s, extra_milli = reservation(int(need_milli[at_once]), free_milli, ends_s, np.concatenate([held_milli, need_milli[:at_once]]))
        behind = slice(at_once + 1, None)
        let_in = at_once + 1 + backfill(need_milli[behind], view.now_s + limit_s[behind] <= shadow_s, free_milli, extra_milli)
        starts = np.zeros(len(waiting), bool)
        starts[:at_once] = starts[let_in] = True
        return start(view, waiting, starts, free_milli - int(need_milli[let_in].sum()))


def reservation(need_milli: int, free_milli: int, ends_s: Floats, held_milli: Ints) -> tuple[float, int]:
    """(shadow time, extra GPUs in thousandths) of a head that needs more than is free."""
    order = np.argsort(ends_s, kind="stable")
    ends_s, freed_milli = ends_s[order], free_milli + np.cumsum(held_milli[order])
    enough = int(np.searchsorted(freed_milli, need_milli))
    if enough == len(order):
        return np.inf, 0
    shadow_s = float(ends_s[enough])
    return shadow_s, int(freed_milli[np.searchsorted(ends_s, shadow_s, side="right") - 1]) - need_milli


def backfill(need_milli: Ints, in_time: NDArray[np.bool_], free_milli: int, extra_milli: int) -> Ints:
    """Which of the jobs behind the head may start now."""
    let_in = []
    for i in np.flatnonzero((need_milli <= free_milli) & (in_time | (need_milli <= extra_milli))).tolist():
        need = int(need_milli[i])
        if need <= free_milli and (in_time[i] or need <= extra_milli):
            let_in.append(i)
            free_milli -= need
            extra_milli -= 0 if in_time[i] else need
    return np.array(let_in, np.int64)


@policy(name="conservative-backfill", paper="Mu'alem and Feitelson, IEEE TPDS 2001", params=Params)
class ConservativeBackfill(Backfill):
    def start_memory(self, jobs: int) -> Memory:
        return {"start_s": np.full(jobs, np.inf)}  # by seq: the start planned for a waiting job

    def decide(self, view: View, memory: Memory) -> Decision:
        self.refuse(view)
        waiting = in_order(view)
        if not len(waiting):
            return Decision()
        seq = view.jobs.seq[waiting]
        waiting = waiting[np.argsort(memory["start_s"][seq], kind="stable")]
        seq, need_milli = view.jobs.seq[waiting], view.jobs.state["milli"][waiting]
        free_milli, ends_s, held_milli = capacity(view)
        start_s = compiled_plan()(view.now_s, free_milli, ends_s, held_milli, need_milli, limits_s(view)[waiting])
        memory["start_s"][seq] = start_s
        starts = start_s == view.now_s
        return start(view, waiting, starts, free_milli - int(need_milli[starts].sum()))


@cache
def compiled_plan() -> Any:
    """`plan`, compiled when first needed: to list policies must stay cheap."""
    from numba import njit

    return njit("f8[::1](f8, i8, f8[::1], i8[::1], i8[::1], f8[::1])", cache=True)(plan)


def plan(now_s: float, free_milli: int, ends_s: Floats, held_milli: Ints, need_milli: Ints, limit_s: Floats) -> Floats:
    """The earliest start of each waiting job, given the running ones and the jobs before it; inf = never.

    at_s[i] <= t < at_s[i + 1]: left[i] thousandths are free; the last step has no end.
    """
    running, waiting = len(ends_s), len(need_milli)
    at_s, left = np.empty(running + 2 * waiting + 2), np.empty(running + 2 * waiting + 2, np.int64)
    at_s[0], left[0], steps = now_s, free_milli, 1
    for i in np.argsort(ends_s):
        if ends_s[i] > at_s[steps - 1]:
            at_s[steps], left[steps] = ends_s[i], left[steps - 1]
            steps += 1
        left[steps - 1] += held_milli[i]
    start_s = np.full(waiting, np.inf)
    for job in range(waiting):
        need, first, after = need_milli[job], 0, 0
        while first < steps:  # it may start at `first` if every step up to `after` has room
            after = first
            end_s = at_s[first] + limit_s[job]
            while after < steps and left[after] >= need and (at_s[after] < end_s or after == first):
                after += 1
            if after == steps or (after > first and at_s[after] >= end_s):
                break
            first = after + 1
        if first >= steps:
            continue
        start_s[job] = at_s[first]
        end_s = at_s[first] + limit_s[job]
        if end_s < np.inf and (after == steps or at_s[after] > end_s):
            for i in range(steps, after, -1):
                at_s[i], left[i] = at_s[i - 1], left[i - 1]
            at_s[after], left[after] = end_s, left[after - 1]
            steps += 1
        for i in range(first, after):
            left[i] -= need
    return start_s


# ------------------------------------------------------------------------------------------------- what both read


def in_order(view: View) -> Array:
    """Waiting jobs: priority, then submission."""
    waiting = np.flatnonzero(~view.jobs.running)
    return waiting[np.argsort(-view.jobs.priority[waiting], kind="stable")]


def limits_s(view: View) -> Floats:
    """How long each job would hold its GPUs if it started now: what it has been served already (before a failure) is left out."""
    if view.jobs.estimates is None:  # the truth holds nothing for the restart cost
        return view.oracle.remaining_s + view.jobs.state["restart_s"]
    return view.jobs.remaining_s


def capacity(view: View) -> tuple[int, Floats, Ints]:
    """Thousandths of GPUs free now, and when each running job gives how many back: later than now, as it holds them now."""
    jobs = view.jobs
    running = np.flatnonzero(jobs.running)
    state = jobs.state[running]
    if jobs.estimates is None:
        ends_s = np.maximum(state["ready_s"], view.now_s) + view.oracle.remaining_s[running]
    else:
        ends_s = state["held_since_s"] + np.maximum(jobs.estimates[running] - state["served_mark_s"], 0.0)
    held_milli = state["held_milli"]
    free_milli = round(sum(view.capacity_gpus.values()) * 1000) - int(held_milli.sum())
    return free_milli, np.maximum(ends_s, np.nextafter(view.now_s, np.inf)), np.ascontiguousarray(held_milli)


def start(view: View, waiting: Array, starts: NDArray[np.bool_], left_milli: int) -> Decision:
    """Start some of the waiting jobs; the others are short of GPUs, or fit and would delay a job with a promise."""
    short_gpus = np.maximum(view.jobs.state["milli"][waiting] - left_milli, 0) / 1000.0
    verdicts = {
        row: (Verdict.CAPACITY if short > 0 else Verdict.BLOCKED, short)
        for row, short in zip(view.jobs.row[waiting[~starts]].tolist(), short_gpus[~starts].tolist(), strict=True)
    }
    return Decision.start(view, waiting[starts], verdicts=verdicts)
