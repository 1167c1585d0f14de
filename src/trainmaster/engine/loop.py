"""The twin's clock: events from the trace, the cluster's timeline and its failures drive the engine to the last job."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any
from weakref import proxy

import numpy as np

from trainmaster.cluster.cluster import Cluster
from trainmaster.engine import kernels
from trainmaster.engine.capacity import Capacity
from trainmaster.engine.core import Engine, Setup
from trainmaster.engine.executor import SimulatedExecutor
from trainmaster.engine.result import FINISHED, Allocations, RunResult
from trainmaster.engine.state import ENDED
from trainmaster.policies.base import Policy
from trainmaster.workload.jobs import Floats, JobTable

PROGRESS_EVERY = 2_000  # decisions

Progress = Callable[[int, int], None]  # (jobs ended, jobs)


class Simulation(Engine):
    """One policy on one workload, from time zero to the last job."""

    capacity: Capacity

    def __init__(self, jobs: JobTable, cluster: Cluster, policy: Policy[Any], setup: Setup, **options: Any) -> None:
        super().__init__(jobs, cluster, policy, setup, **options)
        clock = self.clock  # neither of these two keeps the run itself: a cycle would hold all its arrays long after it
        self.executor = SimulatedExecutor(lambda: float(clock["now_s"]), setup.start_delay_s, setup.stop_delay_s)
        if setup.start_delay_s > 0 or setup.stop_delay_s > 0:
            self.hand_to(self.executor)
        self.capacity = Capacity(proxy(self))

    # --------------------------------------------------------------------------------------------- the outside

    def _apply_outside(self) -> None:
        """What happens now: the executor's answers, then nodes that fail, are repaired, join and leave."""
        for seq, started in self.executor.due():
            (self.started if started else self.stopped)(seq)
        if self.capacity.next_s() <= self.clock["now_s"]:
            self.capacity.apply()

    # --------------------------------------------------------------------------------------------- the loop

    def run(self, progress: Progress | None = None) -> RunResult:
        """Simulate to the end."""
        began, clock, S = time.perf_counter(), self.clock, self.state
        if progress:
            clock["pause_at"] = PROGRESS_EVERY
        while True:
            clock["until_s"] = min(self.capacity.next_s(), self.executor.next_s())
            clock["open"] = bool(self.executor.coming or self.capacity.starting)
            code = self.advance()
            if code == kernels.FINISHED:
                break
            if code == kernels.EXTERNAL:
                self._apply_outside()
            elif code == kernels.PAUSE and progress:
                clock["pause_at"] += PROGRESS_EVERY
                progress(int((S.jobs["phase"] == ENDED).sum()), len(self.jobs))
        return self._result(time.perf_counter() - began)

    # --------------------------------------------------------------------------------------------- the end

    def _result(self, wall_s: float) -> RunResult:
        S, clock, jobs = self.state, self.clock, self.jobs
        record = self.record()
        for holder in np.flatnonzero(S.jobs["running"]):
            kernels.close_job(S.clock, np.int32(holder))
        state = S.jobs
        self.outcome[~np.isnan(state["finish_s"])] = FINISHED
        for seq in record.seq.tolist():
            row = self.row(seq)
            served = not np.isfinite(jobs.work[row]) and state[row]["held_s"] > 0
            self.reason[row] = "a service: it has no end" if served else self.policy.explain(record, seq).text
        allocations = self._allocations()
        last = np.full(len(jobs), -1, np.int64)
        last[allocations.job] = np.arange(len(allocations.job))
        ran = last >= 0
        gpu_type, nodes = np.full(len(jobs), "", object), np.zeros(len(jobs), np.int32)
        gpu_type[ran] = self.node_types[allocations.node[allocations.offset[last[ran]]]]
        nodes[ran] = (allocations.offset[1:] - allocations.offset[:-1])[last[ran]]
        capacity_s, capacity_gpus = map(np.array, zip(*self.capacity.log, strict=True))
        with np.errstate(invalid="ignore"):
            alone_s = jobs.work / state["alone_rate"]
        return RunResult(
            label=self.label, policy=self.policy.name, params=self._params(), oracle=self.policy.cheats(), placement=self.placement.name,
            round_s=self.round_s, restart_cost_s=self.restart_cost_s, seed=self.setup.seed, load=self.setup.load,
            window=self.setup.window, jobs=jobs, cluster=self.cluster, start_s=state["start_s"].copy(), finish_s=state["finish_s"].copy(),
            state=self.outcome, reason=self.reason, held_s=state["held_s"].copy(), attained_gpu_s=state["settled_gpu_s"].copy(),
            overhead_gpu_s=state["overhead_gpu_s"].copy(), lost_gpu_s=state["lost_gpu_s"].copy(), alone_s=alone_s, nodes=nodes,
            gpu_type=gpu_type, preemptions=state["preemptions"].copy(), migrations=state["migrations"].copy(),
            resizes=state["resizes"].copy(), failures=state["failures"].copy(), allocations=allocations, capacity_s=capacity_s,
            capacity_gpus=capacity_gpus, decisions=int(clock["decisions"]), wall_s=wall_s, peak_rss_mib=peak_rss_mib(),
            notes=self._notes(state["start_s"]),
        )  # fmt: skip

    def _allocations(self) -> Allocations:
        S, n = self.state, int(self.clock["n_allocations"])
        log, parts = S.allocations[:n], S.parts[: self.clock["n_parts"]]
        kept = ~np.isnan(log["start_s"])  # the others were promises that were taken back
        of = np.repeat(np.arange(n), np.diff(log["first_part"], append=len(parts)))
        of, node, milli = of[kept[of]], parts["node"][kept[of]], parts["milli"][kept[of]].astype(np.int64)
        # shared GPUs and lines are logged one by one: those of a node count together, where it comes first
        _, first, same = np.unique(of * len(S.nodes) + node, return_index=True, return_inverse=True)
        total = np.bincount(same, milli, len(first)).astype(np.int64)
        first, total = np.sort(first), total[np.argsort(first)]
        sizes = np.bincount(of[first], minlength=n)[kept]
        return Allocations(
            job=log["job"][kept], start_s=log["start_s"][kept], end_s=log["end_s"][kept],
            offset=np.concatenate([[0], np.cumsum(sizes)]), node=node[first], gpu_milli=total,
        )  # fmt: skip

    def _params(self) -> Mapping[str, Any]:
        params = {f.name: getattr(self.policy.params, f.name) for f in fields(self.policy.params)}
        rules = asdict(self.rules) | {"round_s": self.round_s, "restart_cost_s": self.restart_cost_s, "placement": self.placement.name}
        return {**params, "rules": rules}

    def _notes(self, start_s: Floats) -> tuple[str, ...]:
        return (*self.policy.notes(self.jobs, start_s), *getattr(self.model, "notes", list)())


def simulate_policy(jobs: JobTable, cluster: Cluster, policy: Policy[Any], setup: Setup, *, progress: Progress | None = None,
                    **options: Any) -> RunResult:
    """One policy on one workload; options as `Simulation`."""
    return Simulation(jobs, cluster, policy, setup, **options).run(progress)


def peak_rss_mib() -> float:
    """Most memory this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


