"""What goodput policies remember of each job: its measurements, the fit to them, its gradient's statistics.

    memory["measured"][seq]   [nodes, GPUs, atomic batch, pass_s, step_s] of every configuration a job has run, once each
    memory["params"][seq]     throughput parameters fitted to them, NaN until there is one
    memory["stats"][seq]      squared norm and variance of the gradient, as last reported
    memory["seen_gpus"][seq]  the most GPUs among them

A job is refitted when it runs in a configuration it has not run in before, as its own trainer would do.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainmaster.errors import ParamError
from trainmaster.policies.base import Array, Floats, Memory, View
from trainmaster.workload.perf.goodput import BatchLimits, Measured, best_batch, fit, goodput_table
from trainmaster.workload.perf.placements import PlacementModel, pack, rigid_batch

Ints = NDArray[np.int64]
Parts = list[tuple[int, int]]  # (node, GPUs)


def tunable(view: View) -> PlacementModel:
    """The profiles, if they say how a job's speed depends on its batch."""
    if not isinstance(view.profile, PlacementModel):
        raise ParamError(f"--policy: {view.policy_name} chooses batch sizes; give measurements of them with --profiles (Pollux's or Sia's)")
    return view.profile


class Fits:
    """The memory of one decision, read by index into the view."""

    def __init__(self, memory: Memory, view: View, accelerator: str | None = None) -> None:
        """`accelerator`: the type these fits are of; None = types are not told apart."""
        self.memory, self.view, self.profile, self.accelerator = memory, view, tunable(view), accelerator
        types = list(view.capacity_gpus)
        self.limits = [self.profile.limits(int(row), types[0] if accelerator is None else accelerator) for row in view.jobs.row]
        self.fixed = [self.profile.fixed_batch(int(row)) for row in view.jobs.row]

    @staticmethod
    def start(jobs: int) -> Memory:
        return {"measured": {}, "params": np.full((jobs, 7), np.nan), "stats": np.zeros((jobs, 2)), "seen_gpus": np.zeros(jobs, np.int64)}

    def observe(self) -> None:
        """Take in what running jobs report, and forget those that have ended."""
        measured, jobs = self.memory["measured"], self.view.jobs
        known = {str(seq) for seq in jobs.seq.tolist()}
        for ended in [seq for seq in measured if seq not in known]:
            del measured[ended]
        observed = self.view.observed
        for seq, row in zip(observed.seq.tolist(), observed.row.tolist(), strict=True):
            seen, held = observed.metrics(row), observed.allocation(row)
            self.memory["stats"][seq] = seen["grad_sqr"], seen["grad_var"]
            if self.accelerator in (None, held.type):
                self.add(seq, Measured(len(held.nodes), int(held.total_gpus), int(seen["atomic_batch"]), seen["pass_s"], seen["step_s"]))

    def add(self, seq: int, new: Measured) -> None:
        points = self.memory["measured"].setdefault(str(seq), [])
        if any((new.nodes, new.gpus, new.atomic) == tuple(point[:3]) for point in points):
            return
        points.append([new.nodes, new.gpus, new.atomic, new.pass_s, new.step_s])
        self.memory["params"][seq] = fitted(tuple(map(tuple, points)))
        self.memory["seen_gpus"][seq] = max(self.memory["seen_gpus"][seq], new.gpus)

    def known(self, jobs: Array) -> Array:
        """Which of these jobs have a fit."""
        return ~np.isnan(self.memory["params"][self.view.jobs.seq[jobs], 0])

    def most_gpus(self, jobs: Array) -> Ints:
        """Twice what a job has been seen on, at least one; no more than its batch or its user allows, no less than its minimum."""
        table, rows = self.view.jobs.table, self.view.jobs.row[jobs]
        seen = np.maximum(2 * self.memory["seen_gpus"][self.view.jobs.seq[jobs]], 1)
        batch = np.array([1 if self.fixed[job] else self.limits[job].most_gpus() for job in jobs.tolist()], np.int64)
        asked = np.where(np.isnan(table.max_gpus[rows]), np.inf, table.max_gpus[rows])
        least = np.nan_to_num(table.min_gpus[rows], nan=1.0)
        return np.maximum(np.minimum(np.minimum(seen, batch), asked), np.maximum(least, 1)).astype(np.int64)

    def columns(self, jobs: Array) -> tuple[Floats, Floats, Ints]:
        """(params, stats, limits), a row a job."""
        seq = self.view.jobs.seq[jobs]
        limits = np.array([tuple(self.limits[job]) for job in jobs.tolist()], np.int64).reshape(len(jobs), 4)
        return self.memory["params"][seq], self.memory["stats"][seq], limits

    def table(self, jobs: Array, most: Ints, asked: Iterable[tuple[bool, int]] | None = None) -> Floats:
        """[job, spans nodes, GPUs], as `goodput_table`; 0 of jobs without a fit. A minimum beyond what the batch can be split over is
        worth no more than that."""
        known, (params, stats, limits) = self.known(jobs), self.columns(jobs)
        table = np.zeros((len(jobs), 2, int(most.max(initial=0)) + 1))
        found = goodput_table(params[known], stats[known], limits[known], most[known], asked)
        table[known, :, : found.shape[2]] = found
        for i, job in enumerate(jobs.tolist()):
            if not known[i]:
                continue
            batch = 1 if self.fixed[job] else self.limits[job].most_gpus()
            if most[i] > batch:
                best = best_batch(params[i], float(stats[i, 0]), float(stats[i, 1]), self.limits[job], 1, batch)
                table[i, :, most[i]] = best.goodput
        return table

    def goodputs(self, jobs: Array, gpus: Array) -> Floats:
        """Each job's best goodput on so many GPUs of one node."""
        params, stats, _ = self.columns(jobs)
        chosen = [
            best_batch(params[i], float(stats[i, 0]), float(stats[i, 1]), self.limits[job], 1, n)
            for i, (job, n) in enumerate(zip(jobs.tolist(), gpus.tolist(), strict=True))
        ]
        return np.array([choice.goodput for choice in chosen])

    def config(self, job: int, nodes: int, gpus: int) -> int:
        """The batch a job runs at there: its best one; before it has reported, its initial one."""
        if self.fixed[job] is not None:
            return -1
        limits, seq = self.limits[job], self.view.jobs.seq[job]
        params = self.memory["params"][seq]
        if np.isnan(params[0]):
            return pack(*first_batch(limits, gpus))
        grad_sqr, grad_var = self.memory["stats"][seq].tolist()
        choice = best_batch(params, grad_sqr, grad_var, limits, nodes, gpus)
        if not choice.goodput:
            return pack(*first_batch(limits, gpus))
        return pack(min(choice.atomic, limits.largest // (gpus * (choice.steps + 1))), choice.steps)


def count_moves(view: View, memory: Memory, job: int, before: Parts, after: Parts) -> None:
    """`memory["restarts"]`: how often a job has been given other GPUs than before, its first start left out."""
    seq = view.jobs.seq[job]
    if after and sorted(after) != sorted(before):
        memory["restarts"][seq] += memory["started"][seq]
        memory["started"][seq] = 1


def worth_if_moved(view: View, memory: Memory, jobs: Array) -> Floats:
    """What is left of a speed-up if the job has to restart for it: young and often restarted jobs are dear to move."""
    age_s, cost_s = view.now_s - view.jobs.submit_s[jobs], view.jobs.state["restart_s"][jobs]
    return np.maximum(age_s - memory["restarts"][view.jobs.seq[jobs]] * cost_s, 0.0) / np.maximum(age_s + cost_s, 1e-9)


def first_batch(limits: BatchLimits, gpus: int) -> tuple[int, int]:
    batch = max(limits.initial, limits.smallest_local * gpus)
    return rigid_batch(gpus, batch, initial=limits.initial, largest=limits.largest, largest_local=limits.largest_local)


@lru_cache(maxsize=4096)
def fitted(points: tuple[tuple[float, ...], ...]) -> Floats:
    """Jobs of one application that have run alike have one fit."""
    return fit([Measured(int(nodes), int(gpus), int(atomic), pass_s, step_s) for nodes, gpus, atomic, pass_s, step_s in points])
