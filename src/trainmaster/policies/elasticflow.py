"""ElasticFlow: deadlines guaranteed on admission, and what is left given to who makes most of it. EDF, its baseline.

Gu et al., "ElasticFlow: An Elastic Serverless Training Platform for Distributed Deep Learning", ASPLOS 2023, section 4.

    T(g)                    iterations a second on g GPUs, g a power of two, up to where T is largest
    minimum satisfactory    the smallest size with which a job ends in time, if it holds as much of it as is free, from as late as
    share                   possible on; before that it holds the size below                              [algorithm 1]
    admission               jobs are planned in the order of their deadlines; a new one is admitted if all then end in time
    elastic allocation      GPUs that no plan needs now: first to jobs that hold none, then, size by size, to the job whose GPU
                            time grows least by it                                                        [algorithm 2]

A job with no deadline is best effort: it runs on what is left. `service_class` "soft" makes a deadline a wish: such a job is never
refused, and runs as soon as it can if it is late. Powers of two on buddies of nodes: gangs never fragment the cluster (section
4.4); a job whose bounds admit no power of two runs on its minimum.

What is admitted is met if run times are as predicted. Plans count what every start and resize costs (`plan_restarts`); a free GPU is
given to nobody whom the restart for it would make late, nor is a gang moved so; and the present plan goes on, spare GPUs
included, until a new one keeps all the promises that it keeps.

edf: by deadline, each on as many GPUs as it was measured on; refuses nobody.
The artifact's quirks (preset): jobs that arrive together are admitted or refused together, and a free GPU goes to the job whose GPU
time grows *most*; plans leave restarts out. Not here: the seconds it charges running jobs at every event, ends that it rounds up to
slots (`--round` does as much), and its table of largest sizes, which are those where T is largest.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from trainmaster.policies.base import Array, Decision, EngineRules, Floats, Line, Memory, Policy, Preset, View, check, policy
from trainmaster.policies.buddies import Ints, Parts, anyhow, buddies
from trainmaster.policies.speeds import accelerator_of, least_elastic, speeds, work_left

if TYPE_CHECKING:
    from trainmaster.workload.jobs import JobTable

UNKNOWN, ADMITTED, BEST_EFFORT = range(3)
ALMOST = 1e-6  # of a job's work, or of a second: less is the rounding of many decisions
BIBTEX = """@inproceedings{elasticflow,
  author = {Gu, Diandian and Zhao, Yihao and Zhong, Yinmin and Xiong, Yifan and Han, Zhenhua and Cheng, Peng and Yang, Fan and Huang,
            Gang and Jin, Xin and Liu, Xuanzhe},
  title = {{ElasticFlow}: An Elastic Serverless Training Platform for Distributed Deep Learning}, booktitle = {ASPLOS}, year = {2023}}"""
ARTIFACT = "pkusys/ElasticFlow, commit 04a0109"
QUIRKS = {"admit": "together", "keep_plan": False, "plan_restarts": False, "spare": "dearest"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    most_gpus: int = 64  # of a job
    admit: str = "each"  # each: one new job after another; together: all that arrived since, or none
    keep_plan: bool = True  # go on with the present plan where a new one would miss a deadline that it meets
    plan_restarts: bool = True  # plans count the time that a start, another size or another place costs
    spare: str = "cheapest"  # who gets a free GPU: whose GPU time grows least (cheapest) or most (dearest)

    def __post_init__(self) -> None:
        check(self.most_gpus > 0, "most_gpus counts from 1")
        check(self.admit in ("each", "together"), f"admit: {self.admit!r} is not each or together")
        check(self.spare in ("cheapest", "dearest"), f"spare: {self.spare!r} is not cheapest or dearest")


@policy(name="elasticflow", paper="Gu et al., ASPLOS 2023", needs=("profile", "work"), params=Params, bibtex=BIBTEX,
        presets={"artifact": Preset(params=QUIRKS, rules=EngineRules(due_grid_s=1.0), source=ARTIFACT)})
class ElasticFlow(Policy[Params]):
    round_s = 60.0

    def start_memory(self, jobs: int) -> Memory:
        return {"standing": np.zeros(jobs, np.int8), "plan": np.zeros((0, 4))}  # plan: (seq, from_s, until_s, GPUs) of admitted jobs

    def least_gpus(self, jobs: JobTable) -> Floats:
        return least_elastic(jobs)

    def decide(self, view: View, memory: Memory) -> Decision:
        jobs, total = view.jobs, int(view.nodes.gpus[view.nodes.up].sum())
        if not len(jobs) or not total:
            return Decision()
        demand = Demand.of(view, min(self.params.most_gpus, total), restarts=self.params.plan_restarts)
        refused = self.admit(view, memory, demand, total)
        kept = np.setdiff1d(np.arange(len(jobs)), refused)
        plan, now_gpus = memory["plan"], np.zeros(len(jobs), np.int64)
        for seq, begin_s, end_s, gpus in plan.tolist():
            if begin_s <= view.now_s < end_s:
                now_gpus[demand.index[int(seq)]] = gpus
        borders_s = plan[:, 1:3][plan[:, 1:3] > view.now_s]
        step_s = float(borders_s.min() - view.now_s) if len(borders_s) else np.inf
        promises = Promises.of(demand, plan, view.now_s)
        give_spare(demand, kept, now_gpus, total, step_s, promises, dearest=self.params.spare == "dearest")
        memory["plan"] = promises.plan
        lines = place(view, now_gpus, promises)
        rows = tuple(int(jobs.row[i]) for i in refused.tolist())
        return Decision(lines=lines, reject=rows, lease_s=step_s if np.isfinite(step_s) else None)

    def admit(self, view: View, memory: Memory, demand: Demand, total: int) -> Array:
        """Plan who is admitted and who is new; returns the refused."""
        jobs, standing = view.jobs, memory["standing"]
        classes = jobs.table.service_class.text()[jobs.row]
        guaranteed = np.isfinite(demand.deadline_s)
        new = standing[jobs.seq] == UNKNOWN
        standing[jobs.seq[new & ~guaranteed]] = BEST_EFFORT
        admitted = np.flatnonzero(standing[jobs.seq] == ADMITTED)
        alive = np.isin(memory["plan"][:, 0], jobs.seq) & (memory["plan"][:, 2] > view.now_s)
        memory["plan"] = memory["plan"][alive]
        met, plan = demand.plan(view, admitted, total)
        present = Promises.of(demand, memory["plan"], view.now_s)
        kept = present.kept(admitted) if present.possible(total) else np.zeros(len(admitted), bool)
        if not self.params.keep_plan or met[kept].all():
            memory["plan"], kept = plan, met
        refused = list[int]()
        candidates = np.flatnonzero(new & guaranteed)
        candidates = candidates[np.argsort(demand.deadline_s[candidates], kind="stable")]
        together = self.params.admit == "together"
        groups = [candidates] if together and len(candidates) else list(candidates[:, None])
        if len(groups) > 1:  # all at once, if that keeps every promise
            everybody = np.concatenate([admitted, candidates])
            met, plan = demand.plan(view, everybody, total)
            if met[len(admitted) :].all() and met[: len(admitted)][kept].all():
                groups = []
                standing[jobs.seq[candidates]] = ADMITTED
                memory["plan"] = plan
        for group in groups:
            everybody = np.concatenate([admitted, group])
            met, plan = demand.plan(view, everybody, total)
            fine = met.all() if together else met[len(admitted) :].all() and met[: len(admitted)][kept].all()
            if not fine and not together:  # beside the plan as it is
                alone_met, alone = demand.plan(view, group, total, memory["plan"])
                met, plan = np.concatenate([kept, alone_met]), np.concatenate([memory["plan"], alone])
                fine = alone_met.all() or (classes[group] == "soft").all()
            if fine or (classes[group] == "soft").all():
                standing[jobs.seq[group]] = ADMITTED
                admitted, kept = everybody, met
                memory["plan"] = plan
            else:
                refused += group.tolist()
        return np.array(refused, np.int64)


@dataclass(frozen=True)
class Demand:
    """The jobs of a view as plans see them."""

    seq: Ints
    index: dict[int, int]  # of a job in the view, by seq
    deadline_s: Floats  # inf: best effort
    left: Floats
    sizes: Ints
    speed: Floats  # (jobs, sizes)
    top: Ints  # index of the largest useful size
    held: Ints  # GPUs now
    holds: Ints  # their index in `sizes`, -1 = none, or none of these
    idle_s: Floats  # until it makes progress on what it holds
    restart_s: Floats  # on anything else; 0 where plans leave restarts out

    @classmethod
    def of(cls, view: View, most: int, *, restarts: bool) -> Demand:
        jobs = view.jobs
        low, high = np.nan_to_num(jobs.min_gpus, nan=0.0), np.nan_to_num(jobs.max_gpus, nan=np.inf)
        odd = odd_minimum(low, high)
        sizes = np.unique(np.concatenate([2 ** np.arange(most.bit_length()), odd[(odd > 0) & (odd <= most)]])).astype(np.int64)
        speed = np.array([speeds(view, job, most)[sizes] for job in range(len(jobs))])
        usual = (sizes & (sizes - 1)) == 0
        speed[(sizes < low[:, None]) | (sizes > high[:, None]) | ~(usual | (sizes == odd[:, None]))] = 0.0
        deadline_s = np.nan_to_num(jobs.table.deadline_s[jobs.row], nan=np.inf)
        left = np.array([work_left(view, job) for job in range(len(jobs))])
        index = {seq: job for job, seq in enumerate(jobs.seq.tolist())}
        held = np.where(jobs.running, jobs.held_gpus, 0).astype(np.int64)
        at = np.searchsorted(sizes, held)
        holds = np.where((held > 0) & (np.append(sizes, 0)[at] == held), at, -1)
        idle_s = np.where(jobs.running, np.maximum(jobs.state["ready_s"] - view.now_s, 0.0), 0.0)
        cost_s = jobs.state["restart_s"].astype(np.float64)
        idle_s, cost_s = (idle_s, cost_s) if restarts else (np.zeros(len(jobs)), np.zeros(len(jobs)))
        return cls(jobs.seq, index, deadline_s, left, sizes, speed, speed.argmax(axis=1), held, holds, idle_s, cost_s)

    @property
    def charged(self) -> bool:
        """A change of size costs something."""
        return bool(self.restart_s.any())

    @cached_property
    def curves(self) -> list[dict[int, float]]:
        """Speed by size, of each job on the sizes it runs on up to its largest useful one."""
        sizes = self.sizes.tolist()
        return [
            {size: speed for size, speed in zip(sizes[: top + 1], row[: top + 1], strict=True) if speed > 0}
            for row, top in zip(self.speed.tolist(), self.top.tolist(), strict=True)
        ]

    def gpu_time(self, job: int, gpus: int, now_s: float, step_s: float) -> float:
        """GPU-seconds to its end on `gpus` for the next `step_s`, then on the smallest size that ends in time."""
        curve, left, lost_s = self.curves[job], float(self.left[job]), 0.0
        spent = work = 0.0
        if gpus:
            lost_s = float(self.idle_s[job] if gpus == self.held[job] else self.restart_s[job])
            work = min(curve[gpus] * max(step_s - lost_s, 0.0), left)
            spent = gpus * (min(lost_s, step_s) + work / curve[gpus])
        rest_s = max(float(self.deadline_s[job]) - now_s - (step_s if step_s < math.inf else 0.0), 0.0)
        rest = left - work
        size, speed = next(((size, speed) for size, speed in curve.items() if speed * rest_s >= rest), last(curve))
        return spent + size * rest / speed

    def plan(self, view: View, jobs: Array, total: int, beside: Floats | None = None) -> tuple[Array, Floats]:
        """(met, pieces by seq) of these jobs, in the order of their deadlines, beside what is planned already."""
        from trainmaster.policies.kernels.deadlines import plan

        order = np.lexsort((self.seq[jobs], self.deadline_s[jobs]))
        given, placed = np.zeros((0, 4)) if beside is None else beside, jobs[order]
        in_order, pieces = plan(view.now_s, view.round_s, total, self.deadline_s[placed], self.left[placed], self.speed[placed], self.sizes,
                                self.top[placed], given, self.holds[placed], self.idle_s[placed], self.restart_s[placed])  # fmt: skip
        pieces[:, 0] = self.seq[placed][pieces[:, 0].astype(np.int64)]
        met = np.zeros(len(jobs), bool)
        met[order] = in_order
        return met, pieces


def odd_minimum(low: Floats, high: Floats) -> Ints:
    """The minimum of each job whose bounds admit no power of two, else 0."""
    least = np.maximum(low, 1.0)
    return np.where(2.0 ** np.ceil(np.log2(least)) > high, least, 0.0).astype(np.int64)


def last(curve: dict[int, float]) -> tuple[int, float]:
    size = next(reversed(curve))
    return size, curve[size]


Piece = tuple[float, float, int]  # from_s, until_s, GPUs


@dataclass(slots=True)
class Promises:
    """A plan, and whom it brings to an end in time."""

    demand: Demand
    pieces: dict[int, list[Piece]]  # by job, in order of time
    now_s: float

    @classmethod
    def of(cls, demand: Demand, plan: Floats, now_s: float) -> Promises:
        pieces: dict[int, list[Piece]] = {}
        for seq, begin_s, until_s, gpus in plan.tolist():
            pieces.setdefault(demand.index[int(seq)], []).append((begin_s, until_s, int(gpus)))
        return cls(demand, pieces, now_s)

    @property
    def plan(self) -> Floats:
        rows = [(float(self.demand.seq[job]), *piece) for job, mine in self.pieces.items() for piece in mine]
        return np.array(rows, np.float64).reshape(len(rows), 4)

    def possible(self, total: int) -> bool:
        """Whether it can go on with so many GPUs: not after nodes failed on which it counts."""
        if any(gpus not in self.demand.curves[job] for job, mine in self.pieces.items() for _, _, gpus in mine):
            return False
        plan = self.plan
        times_s, change = np.concatenate([plan[:, 1], plan[:, 2]]).round(6), np.concatenate([plan[:, 3], -plan[:, 3]])
        return bool((np.cumsum(change[np.lexsort((change, times_s))]) <= total).all())

    def kept(self, jobs: Array, moved: bool = False) -> Array:
        """Which of these jobs end in time if the plan goes on; `moved`: if they lose their restart now."""
        return np.array([self._in_time(job, self.pieces.get(job, []), moved) for job in jobs.tolist()], bool)

    def _in_time(self, job: int, pieces: list[Piece], moved: bool = False) -> bool:
        d, curve = self.demand, self.demand.curves[job]
        size, idle_s, at_s, left = int(d.held[job]), float(d.idle_s[job]), self.now_s, float(d.left[job]) * (1 - ALMOST)
        if moved:
            size = 0
        for begin_s, until_s, gpus in pieces:
            begin_s = max(begin_s, self.now_s)
            if until_s <= begin_s:
                continue
            if gpus != size or begin_s > at_s:
                size, idle_s = gpus, float(d.restart_s[job])
            at_s, seconds = until_s, until_s - begin_s
            needed_s = idle_s + left / curve[gpus]
            if needed_s <= seconds:
                return begin_s + needed_s <= float(d.deadline_s[job]) + ALMOST
            left -= curve[gpus] * max(seconds - idle_s, 0.0)
            idle_s = max(idle_s - seconds, 0.0)
        return left <= 0

    def grow(self, job: int, gpus: int, step_s: float) -> bool:
        """Give a job so many GPUs for the next `step_s`, unless the restarts for it would make it late."""
        mine, end_s = self.pieces.get(job), self.now_s + step_s
        if mine is None or not self.demand.charged:
            return True  # nothing was promised, or nothing is lost by it
        after = [(self.now_s, end_s, gpus), *((max(begin_s, end_s), until_s, size) for begin_s, until_s, size in mine if until_s > end_s)]
        if self._in_time(job, mine) and not self._in_time(job, after):
            return False
        self.pieces[job] = after
        return True


def give_spare(demand: Demand, jobs: Array, now_gpus: Ints, total: int, step_s: float, promises: Promises, *, dearest: bool) -> None:
    """Hand out the GPUs that no plan needs for the next `step_s`, size by size; changes `now_gpus` and the plan of whom it grows.

    A restart makes a new size dearer than the one that a job holds: that is offered too, past the sizes in between.
    """
    free = total - int(now_gpus.sum())
    offers: list[tuple[bool, float, int, int, int, int]] = []  # (holds some, growth, rank, job, size now, next size), the first is served

    def offer(rank: int, job: int) -> None:
        now, held = int(now_gpus[job]), int(demand.held[job])
        larger = [size for size in demand.curves[job] if size > now]
        spent = demand.gpu_time(job, now, promises.now_s, step_s) if larger else 0.0
        for up in larger[:1] + [size for size in larger[1:] if size == held and demand.charged]:
            growth = (demand.gpu_time(job, up, promises.now_s, step_s) - spent) / (up - now)
            heapq.heappush(offers, (now > 0, -growth if dearest else growth, rank, job, now, up))

    for rank, job in enumerate(jobs[np.lexsort((demand.seq[jobs], demand.deadline_s[jobs]))].tolist() if free else []):
        offer(rank, job)
    while offers and free > 0:
        _, _, rank, job, now, up = heapq.heappop(offers)
        if now == now_gpus[job] and up - now <= free and promises.grow(job, up, step_s):  # what does not fit now never will
            free -= up - now
            now_gpus[job] = up
            offer(rank, job)


# ------------------------------------------------------------------------------------------------- EDF


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfParams:
    most_gpus: int = 64  # of a job

    def __post_init__(self) -> None:
        check(self.most_gpus > 0, "most_gpus counts from 1")


@policy(name="edf", paper="Liu and Layland, JACM 1973; as the baseline of Gu et al., ASPLOS 2023", needs=("profile",), params=EdfParams,
        presets={"artifact": Preset(rules=EngineRules(round_s=0.0, due_grid_s=1.0), source=ARTIFACT)})
class Edf(Policy[EdfParams]):
    def least_gpus(self, jobs: JobTable) -> Floats:
        return least_elastic(jobs)

    def decide(self, view: View, memory: Memory) -> Decision:
        jobs, free = view.jobs, int(view.nodes.gpus[view.nodes.up].sum())
        now_gpus = np.zeros(len(jobs), np.int64)
        deadline_s = np.nan_to_num(jobs.table.deadline_s[jobs.row], nan=np.inf)
        low = np.nan_to_num(jobs.min_gpus, nan=1.0)
        odd = odd_minimum(low, np.nan_to_num(jobs.max_gpus, nan=np.inf))
        for job in np.lexsort((jobs.seq, deadline_s)).tolist():
            most = min(self.params.most_gpus, widest(view, job), free)
            if not most:
                continue
            speed = speeds(view, job, most)
            usual = [size for size in (2 ** np.arange(most.bit_length())).tolist() if size >= low[job]] or [int(odd[job])]
            fits = [size for size in usual if size <= most and speed[size] > 0]
            if fits:
                now_gpus[job] = fits[-1]
                free -= fits[-1]
        return Decision(lines=place(view, now_gpus))


def widest(view: View, job: int) -> int:
    """As many GPUs as its profile goes to, its batch has samples and its user allows."""
    row = int(view.jobs.row[job])
    measured = view.profile.widest(row, accelerator_of(view, row)) if hasattr(view.profile, "widest") else np.inf
    table = view.jobs.table
    useful = np.nanmin(np.array([table.batch_size[row], measured, view.nodes.gpus.sum()]))
    return int(np.nanmin([max(useful, np.nan_to_num(table.min_gpus[row])), table.max_gpus[row]]))


# ------------------------------------------------------------------------------------------------- placement


def place(view: View, gpus: Ints, promises: Promises | None = None) -> tuple[Line, ...]:
    """Lines for these numbers of GPUs: who keeps its size stays; if then a gang finds no buddies, others move to make room for it.

    With `promises` a move costs a restart: as few small gangs as make room, and nobody whom it would make late. Where that does
    not do, gangs are not on buddies.
    """
    jobs = view.jobs
    nodes = np.where(view.nodes.up, view.nodes.gpus, 0).astype(np.int64)
    stays = np.flatnonzero(jobs.running & (jobs.held_gpus == gpus) & (gpus > 0))
    held = {int(job): [(n, int(g)) for n, g in zip(*view.holdings(int(jobs.row[job])), strict=True)] for job in stays.tolist()}
    found = buddies(gpus, nodes, held)
    if found is None and promises is not None and promises.demand.charged:
        found = moved_apart(gpus, nodes, held, promises) or anyhow(gpus, nodes, held)
    found = found or buddies(gpus, nodes, {}) or anyhow(gpus, nodes, held)
    return tuple(Line(int(jobs.row[job]), float(count), node=node) for job, parts in found.items() for node, count in parts)


def moved_apart(gpus: Ints, nodes: Ints, held: Mapping[int, Parts], promises: Promises) -> dict[int, Parts] | None:
    """All on buddies, with 1, 2, 4, … of the smallest gangs free to move; None where somebody would be late for it."""
    smallest = sorted(held, key=lambda job: (gpus[job], job))
    count = 1
    while smallest:
        staying = {job: held[job] for job in smallest[count:]}
        found = buddies(gpus, nodes, staying)
        if found is not None:
            moved = np.array([job for job in smallest[:count] if sorted(found[job]) != sorted(held[job])], np.int64)
            in_time = promises.kept(moved)
            return found if (promises.kept(moved, moved=True) >= in_time).all() else None
        if count >= len(smallest):
            return None
        count = min(2 * count, len(smallest))
    return None
