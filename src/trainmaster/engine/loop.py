"""The twin's clock: events from the trace, the cluster's timeline and its failures drive the engine to the last job."""

from __future__ import annotations

import heapq
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import groupby
from typing import Any

import numpy as np

from trainmaster.cluster.cluster import Cluster
from trainmaster.engine import kernels
from trainmaster.engine.core import Engine, Setup
from trainmaster.engine.executor import SimulatedExecutor
from trainmaster.engine.result import FINISHED, Allocations, RunResult
from trainmaster.engine.state import ENDED
from trainmaster.errors import InvariantBroken
from trainmaster.policies.base import Policy
from trainmaster.workload.jobs import GPU_MILLI, Floats, JobTable

PROGRESS_EVERY = 2_000  # decisions

Progress = Callable[[int, int], None]  # (jobs ended, jobs)


class Simulation(Engine):
    """One policy on one workload, from time zero to the last job."""

    def __init__(self, jobs: JobTable, cluster: Cluster, policy: Policy[Any], setup: Setup, **options: Any) -> None:
        super().__init__(jobs, cluster, policy, setup, **options)
        self.present, self.healthy = cluster.present.copy(), np.ones(len(cluster.nodes), bool)
        self.capacity_log: list[tuple[float, float]] = [(0.0, float(sum(cluster.gpus_by_type().values())))]
        self.executor = SimulatedExecutor(lambda: float(self.clock["now_s"]), setup.start_delay_s, setup.stop_delay_s)
        if setup.start_delay_s > 0 or setup.stop_delay_s > 0:
            self.hand_to(self.executor)
        self.outside = self._outside()
        self._next_outside()

    # --------------------------------------------------------------------------------------------- the outside

    def _outside(self) -> Iterator[tuple[float, list[tuple[int, bool, bool]]]]:
        """(time, [(node, up, failed)]): the cluster's timeline and its failures, merged, grouped by instant."""
        planned = [(change.at_s, node, False, False) for change in self.cluster.timeline for node in change.remove]
        planned += [(change.at_s, node, True, False) for change in self.cluster.timeline for node in change.add]
        planned.sort(key=lambda event: event[0])
        failures = self.setup.faults.events(len(self.cluster.nodes), self.setup.seed) if self.setup.faults else iter(())
        merged = heapq.merge(planned, ((time_s, node, up, True) for time_s, node, up in failures), key=lambda event: event[0])
        for time_s, events in groupby(merged, key=lambda event: event[0]):
            yield time_s, [(node, up, failed) for _, node, up, failed in events]

    def _next_outside(self) -> None:
        self.coming = next(self.outside, (np.inf, []))
        planned = max((change.at_s for change in self.cluster.timeline), default=-np.inf)
        self.clock["endless"] = self.coming[0] > planned

    def _apply_outside(self) -> None:
        """What happens now: the executor's answers, then nodes that fail, are repaired, join and leave."""
        for seq, started in self.executor.due():
            (self.started if started else self.stopped)(seq)
        if self.coming[0] <= self.clock["now_s"]:
            self._change_nodes()

    def _change_nodes(self) -> None:
        """A node is up while it is in the cluster and not broken."""
        for node, up, failed in self.coming[1]:
            (self.healthy if failed else self.present)[node] = up
            should = bool(self.present[node] and self.healthy[node])
            if not should and self.state.nodes[node]["up"]:
                checkpoint_s = self.setup.faults.checkpoint_s if self.setup.faults else 0.0
                kernels.clear_node(self.state.clock, np.int32(node), failed, checkpoint_s)
                if self.state.nodes[node]["free_milli"] != self.state.nodes[node]["gpus"] * GPU_MILLI:
                    raise InvariantBroken(f"{self.label}: node {node} leaves while jobs hold it")
            kernels.set_node(self.state.clock, np.int32(node), should)
        up_gpus = float(self.state.nodes["gpus"][self.state.nodes["up"] == 1].sum())
        self.capacity_log.append((float(self.clock["now_s"]), up_gpus))
        self._next_outside()

    # --------------------------------------------------------------------------------------------- the loop

    def run(self, progress: Progress | None = None) -> RunResult:
        """Simulate to the end."""
        began, clock, S = time.perf_counter(), self.clock, self.state
        if progress:
            clock["pause_at"] = PROGRESS_EVERY
        while True:
            clock["until_s"] = min(self.coming[0], self.executor.next_s())
            clock["open"] = bool(self.executor.coming)
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
        capacity_s, capacity_gpus = map(np.array, zip(*self.capacity_log, strict=True))
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
        S, n, parts = self.state, int(self.clock["n_allocations"]), int(self.clock["n_parts"])
        kept = ~np.isnan(S.alloc_start_s[:n])  # the others were promises that were taken back
        sizes = np.diff(S.alloc_offset[: n + 1])
        of = np.repeat(np.arange(n), sizes)
        parts_of, node, milli = of[kept[of]], S.part_node[:parts][kept[of]], S.part_milli[:parts][kept[of]].astype(np.int64)
        first = np.ones(len(node), bool)  # shared GPUs are logged one by one: those of a node count together
        first[1:] = (node[1:] != node[:-1]) | (parts_of[1:] != parts_of[:-1])
        sizes = np.bincount(parts_of[first], minlength=n)[kept]
        return Allocations(
            job=S.alloc_job[:n][kept], start_s=S.alloc_start_s[:n][kept], end_s=S.alloc_end_s[:n][kept],
            offset=np.concatenate([[0], np.cumsum(sizes)]), node=node[first],
            gpu_milli=np.add.reduceat(milli, np.flatnonzero(first)) if len(milli) else milli,
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


