"""ElasticFlow: deadlines guaranteed on admission, and what is left given to who makes most of it. EDF, its baseline.

Gu et al., "ElasticFlow: An Elastic Serverless Training Platform for Distributed Deep Learning", ASPLOS 2023, section 4.

    T(g)                    iterations a second on g GPUs, g a power of two, up to where T is largest
    minimum satisfactory    the smallest size with which a job ends in time, if it holds as much of it as is free, from as late as
    share                   possible on; before that it holds the size below                              [algorithm 1]
    admission               jobs are planned in the order of their deadlines; a new one is admitted if all then end in time
    elastic allocation      GPUs that no plan needs now: first to jobs that hold none, then, size by size, to the job whose GPU
                            time grows least by it                                                        [algorithm 2]

A job with no deadline is best effort: it runs on what is left. `service_class` "soft" makes a deadline a wish: such a job is never
refused, and runs as soon as it can if it is late. An admitted job keeps its plan until a new plan meets all deadlines too:
so what is admitted is met if run times are as predicted and nothing is charged for a resize (`--restart-cost 0`); a restart cost is not
planned for. Powers of two on buddies of nodes: gangs never fragment the cluster (section 4.4).

edf: by deadline, each on as many GPUs as it was measured on; refuses nobody.
The artifact's quirks (preset): jobs that arrive together are admitted or refused together, and a free GPU goes to the job whose GPU
time grows *most*. Not here: its restart times, and its table of largest sizes, which are those where T is largest.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Array, Decision, EngineRules, Floats, Line, Memory, Policy, Preset, View, check, policy
from trainmaster.policies.speeds import accelerator_of, speeds, work_left

Ints = NDArray[np.int64]

UNKNOWN, ADMITTED, BEST_EFFORT = range(3)
BIBTEX = """@inproceedings{elasticflow,
  author = {Gu, Diandian and Zhao, Yihao and Zhong, Yinmin and Xiong, Yifan and Han, Zhenhua and Cheng, Peng and Yang, Fan and Huang,
            Gang and Jin, Xin and Liu, Xuanzhe},
  title = {{ElasticFlow}: An Elastic Serverless Training Platform for Distributed Deep Learning}, booktitle = {ASPLOS}, year = {2023}}"""
ARTIFACT = "pkusys/ElasticFlow, commit 04a0109"
QUIRKS = {"admit": "together", "keep_plan": False, "spare": "dearest"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    most_gpus: int = 64  # of a job
    admit: str = "each"  # each: one new job after another; together: all that arrived since, or none
    keep_plan: bool = True  # go on with the present plan where a new one would miss a deadline that it meets
    spare: str = "cheapest"  # who gets a free GPU: whose GPU time grows least (cheapest) or most (dearest)

    def __post_init__(self) -> None:
        check(self.most_gpus > 0, "most_gpus counts from 1")
        check(self.admit in ("each", "together"), f"admit: {self.admit!r} is not each or together")
        check(self.spare in ("cheapest", "dearest"), f"spare: {self.spare!r} is not cheapest or dearest")


@policy(name="elasticflow", paper="Gu et al., ASPLOS 2023", needs=("profile",), params=Params, bibtex=BIBTEX,
        presets={"artifact": Preset(params=QUIRKS, rules=EngineRules(due_grid_s=1.0), source=ARTIFACT)})
class ElasticFlow(Policy[Params]):
    round_s = 60.0

    def start_memory(self, jobs: int) -> Memory:
        return {"standing": np.zeros(jobs, np.int8), "plan": np.zeros((0, 4))}  # plan: (seq, from_s, until_s, GPUs) of admitted jobs

    def decide(self, view: View, memory: Memory) -> Decision:
        jobs, total = view.jobs, int(view.nodes.gpus[view.nodes.up].sum())
        if not len(jobs) or not total:
            return Decision()
        demand = Demand.of(view, min(self.params.most_gpus, total))
        refused = self.admit(view, memory, demand, total)
        kept = np.setdiff1d(np.arange(len(jobs)), refused)
        now_gpus = np.zeros(len(jobs), np.int64)
        for seq, begin_s, end_s, gpus in memory["plan"].tolist():
            if begin_s <= view.now_s < end_s:
                now_gpus[demand.index[int(seq)]] = gpus
        borders_s = memory["plan"][:, 1:3]
        ahead_s = borders_s[borders_s > view.now_s]
        step_s = float(ahead_s.min() - view.now_s) if len(ahead_s) else np.inf
        give_spare(demand, kept, now_gpus, total, view.now_s, step_s, dearest=self.params.spare == "dearest")
        lines = place(view, now_gpus)
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
        if met.all() or not self.params.keep_plan or not keeps_promises(memory["plan"], demand, view.now_s, admitted):
            memory["plan"] = plan
        refused = list[int]()
        candidates = np.flatnonzero(new & guaranteed)
        candidates = candidates[np.argsort(demand.deadline_s[candidates], kind="stable")]
        groups = [candidates] if self.params.admit == "together" and len(candidates) else list(candidates[:, None])
        for group in groups:
            met, plan = demand.plan(view, np.concatenate([admitted, group]), total)
            soft = (classes[group] == "soft").all()
            if not met.all() and self.params.admit == "each":  # beside the plan as it is
                alone_met, alone = demand.plan(view, group, total, memory["plan"])
                if alone_met.all():
                    met, plan = alone_met, np.concatenate([memory["plan"], alone])
            if met.all() or soft:
                standing[jobs.seq[group]] = ADMITTED
                admitted = np.concatenate([admitted, group])
                memory["plan"] = plan
            else:
                refused += group.tolist()
        return np.array(refused, np.int64)


@dataclass(frozen=True, slots=True)
class Demand:
    """The jobs of a view as plans see them."""

    seq: Ints
    index: dict[int, int]  # of a job in the view, by seq
    deadline_s: Floats  # inf: best effort
    left: Floats
    sizes: Ints
    speed: Floats  # (jobs, sizes)
    top: Ints  # index of the largest useful size

    @classmethod
    def of(cls, view: View, most: int) -> Demand:
        jobs = view.jobs
        sizes = 2 ** np.arange(most.bit_length())
        speed = np.array([speeds(view, job, most)[sizes] for job in range(len(jobs))])
        low, high = np.nan_to_num(jobs.min_gpus, nan=0.0), np.nan_to_num(jobs.max_gpus, nan=np.inf)
        speed[(sizes < low[:, None]) | (sizes > high[:, None])] = 0.0
        deadline_s = np.nan_to_num(jobs.table.deadline_s[jobs.row], nan=np.inf)
        left = np.array([work_left(view, job) for job in range(len(jobs))])
        index = {seq: job for job, seq in enumerate(jobs.seq.tolist())}
        return cls(jobs.seq, index, deadline_s, left, sizes, speed, speed.argmax(axis=1))

    def gpu_time(self, job: int, gpus: int, now_s: float, step_s: float) -> float:
        """GPU-seconds to its end on `gpus` for the next `step_s`, then on the smallest size that ends in time."""
        speed = self.speed[job, np.searchsorted(self.sizes, gpus)] if gpus else 0.0
        work = min(speed * step_s, self.left[job]) if gpus else 0.0
        rest_s = self.deadline_s[job] - now_s - (step_s if np.isfinite(step_s) else 0.0)
        rest = self.left[job] - work
        enough = np.flatnonzero((self.speed[job] > 0) & (self.speed[job] * max(rest_s, 0.0) >= rest))
        later = int(enough[0]) if len(enough) else int(self.top[job])
        return float((gpus * work / speed if gpus else 0.0) + self.sizes[later] * rest / self.speed[job, later])

    def plan(self, view: View, jobs: Array, total: int, beside: Floats | None = None) -> tuple[Array, Floats]:
        """(met, pieces by seq) of these jobs, in the order of their deadlines, beside what is planned already."""
        from trainmaster.policies.kernels.deadlines import plan

        order = jobs[np.lexsort((self.seq[jobs], self.deadline_s[jobs]))]
        held = np.zeros((0, 4)) if beside is None else beside
        met, pieces = plan(view.now_s, view.round_s, total, self.deadline_s[order], self.left[order], self.speed[order], self.sizes,
                           self.top[order], held)  # fmt: skip
        pieces[:, 0] = self.seq[order][pieces[:, 0].astype(np.int64)]
        return met, pieces


def keeps_promises(plan: Floats, demand: Demand, now_s: float, admitted: Array) -> bool:
    """Whether every admitted job still ends in time if this plan goes on."""
    done = np.zeros(len(demand.seq))
    for seq, begin_s, end_s, gpus in plan.tolist():
        job = demand.index[int(seq)]
        seconds = min(end_s, demand.deadline_s[job]) - max(begin_s, now_s)
        done[job] += demand.speed[job, np.searchsorted(demand.sizes, gpus)] * max(seconds, 0.0)
    return bool((done[admitted] >= demand.left[admitted] * (1 - 1e-6)).all())


def give_spare(demand: Demand, jobs: Array, now_gpus: Ints, total: int, now_s: float, step_s: float, *, dearest: bool) -> None:
    """Hand out the GPUs that no plan needs for the next `step_s`, size by size; changes `now_gpus`."""
    free = total - int(now_gpus.sum())
    offers: list[tuple[bool, float, int, int, int]] = []  # (holds some, growth, rank, job, next size), the first is served

    def offer(rank: int, job: int) -> None:
        up, growth = next_size(demand, job, int(now_gpus[job]), now_s, step_s)
        if up:
            heapq.heappush(offers, (bool(now_gpus[job] > 0), -growth if dearest else growth, rank, job, up))

    for rank, job in enumerate(jobs[np.lexsort((demand.seq[jobs], demand.deadline_s[jobs]))].tolist()):
        offer(rank, job)
    while offers and free > 0:
        _, _, rank, job, up = heapq.heappop(offers)
        if up - now_gpus[job] <= free:  # what does not fit now never will
            free -= up - int(now_gpus[job])
            now_gpus[job] = up
            offer(rank, job)


def next_size(demand: Demand, job: int, gpus: int, now_s: float, step_s: float) -> tuple[int, float]:
    """(the next larger size it runs on, 0 = none; by how much its GPU time grows for every GPU more)."""
    larger = [k for k in range(demand.top[job] + 1) if demand.sizes[k] > gpus and demand.speed[job, k] > 0]
    if not larger:
        return 0, 0.0
    up = int(demand.sizes[larger[0]])
    spent = demand.gpu_time(job, up, now_s, step_s) - demand.gpu_time(job, gpus, now_s, step_s)
    return up, spent / (up - gpus)


# ------------------------------------------------------------------------------------------------- EDF


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfParams:
    most_gpus: int = 64  # of a job

    def __post_init__(self) -> None:
        check(self.most_gpus > 0, "most_gpus counts from 1")


@policy(name="edf", paper="Liu and Layland, JACM 1973; as the baseline of Gu et al., ASPLOS 2023", needs=("profile",), params=EdfParams,
        presets={"artifact": Preset(rules=EngineRules(round_s=0.0, due_grid_s=1.0), source=ARTIFACT)})
class Edf(Policy[EdfParams]):
    def decide(self, view: View, memory: Memory) -> Decision:
        jobs, free = view.jobs, int(view.nodes.gpus[view.nodes.up].sum())
        now_gpus = np.zeros(len(jobs), np.int64)
        deadline_s = np.nan_to_num(jobs.table.deadline_s[jobs.row], nan=np.inf)
        for job in np.lexsort((jobs.seq, deadline_s)).tolist():
            most = min(self.params.most_gpus, widest(view, job), free)
            if not most:
                continue
            speed = speeds(view, job, most)
            fits = [size for size in (2 ** np.arange(most.bit_length())).tolist() if speed[size] > 0]
            if fits:
                now_gpus[job] = fits[-1]
                free -= fits[-1]
        return Decision(lines=place(view, now_gpus))


def widest(view: View, job: int) -> int:
    """As many GPUs as its profile goes to, its batch has samples and its user allows."""
    row = int(view.jobs.row[job])
    measured = view.profile.widest(row, accelerator_of(view, row)) if hasattr(view.profile, "widest") else np.inf
    limits = np.array([view.jobs.table.batch_size[row], view.jobs.table.max_gpus[row], measured, view.nodes.gpus.sum()])
    return int(np.nanmin(limits))


# ------------------------------------------------------------------------------------------------- placement


def place(view: View, gpus: Ints) -> tuple[Line, ...]:
    """Lines for these numbers of GPUs: who keeps its size stays; if then a gang finds no buddies, everybody is placed anew."""
    jobs = view.jobs
    nodes = np.where(view.nodes.up, view.nodes.gpus, 0).astype(np.int64)
    stays = np.flatnonzero(jobs.running & (jobs.held_gpus == gpus) & (gpus > 0))
    held = {int(job): [(n, int(g)) for n, g in zip(*view.holdings(int(jobs.row[job])), strict=True)] for job in stays.tolist()}
    found = buddies(gpus, nodes, held) or buddies(gpus, nodes, {})
    if found is None:  # sizes or nodes that are no powers of two: as the engine finds room
        return tuple(Line(int(jobs.row[job]), float(gpus[job])) for job in np.flatnonzero(gpus).tolist())
    return tuple(Line(int(jobs.row[job]), float(count), node=node) for job, parts in found.items() for node, count in parts)


def buddies(gpus: Ints, nodes: Ints, held: dict[int, list[tuple[int, int]]]) -> dict[int, list[tuple[int, int]]] | None:
    """(node, GPUs) of every gang: the largest first, on whole nodes, or inside the fullest node that has room."""
    free, found = nodes.copy(), dict(held)
    for parts in held.values():
        for node, count in parts:
            free[node] -= count
    for job in np.argsort(-gpus, kind="stable").tolist():
        need = int(gpus[job])
        if not need:
            break
        if job in found:
            continue
        roomy = np.flatnonzero(free >= need)
        if len(roomy):
            parts = [(int(roomy[np.argmin(free[roomy])]), need)]
        else:
            parts = []
            for node in np.flatnonzero((free == nodes) & (nodes > 0)).tolist():
                if need:
                    parts.append((node, min(need, int(free[node]))))
                    need -= parts[-1][1]
            if need:
                return None
        for node, count in parts:
            free[node] -= count
        found[job] = parts
    return found
