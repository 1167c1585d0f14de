"""The engine on a wall clock: brought up to now, told what has happened, asked for one decision.

    catch_up(now)      wake-ups that were due before now happen at their own time
    engine.started(...), engine.ended(...), ...      what the backend reported, as of now
    decide(now, jobs)  with the jobs that are offered or hold GPUs now

Jobs, nodes and policies change by building the engine anew from a snapshot of the one before: one way for all of them, and for
the start after a crash. The twin runs the same engine; only who calls it, and when, is different.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.cluster.cluster import Cluster
from trainmaster.engine import kernels
from trainmaster.engine.core import Engine, Setup
from trainmaster.engine.handover import Executor, Parts
from trainmaster.engine.result import UNSCHEDULABLE
from trainmaster.engine.snapshot import Snapshot, resume, take
from trainmaster.engine.state import FUTURE
from trainmaster.errors import InputError, InvariantBroken, TrainmasterError
from trainmaster.live.jobs import LiveJob
from trainmaster.policies.base import DecisionRecord, EngineRules, Memory, Policy
from trainmaster.workload.jobs import JobTable

# What a job that is offered again has not lost meanwhile.
PAST = (
    "settled_gpu_s", "served_s", "held_s", "overhead_gpu_s", "lost_gpu_s", "start_s", "preemptions", "migrations", "resizes", "failures",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A decision that was made."""

    record: DecisionRecord
    order: NDArray[np.int64]  # waiting jobs by id, next first
    took_ms: float
    memory: Memory
    policy: Policy[Any]  # which made it


def bound_for(table: JobTable) -> int:
    """Room for seqs to come, so that memory by seq is seldom made longer."""
    return 1 << max(int(table.seq.max(initial=0)) + 1, 1_023).bit_length()


@dataclass(slots=True)
class Acts:
    """The engine's executor, live: what it is told waits here until it is written down."""

    starts: list[tuple[int, Parts]] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)

    def start(self, seq: int, parts: Parts) -> None:
        self.starts.append((seq, parts))

    def stop(self, seq: int) -> None:
        self.stops.append(seq)


class Scheduling:
    def __init__(self, policy: Policy[Any], rules: EngineRules | None, setup: Setup, executor: Executor) -> None:
        self.policy, self.rules, self.setup, self.executor = policy, rules, setup, executor
        self.engine: Engine | None = None
        self.problem = ""  # why the policy cannot decide about these jobs and nodes; "" = it can
        self.past: dict[int, np.void] = {}  # records of jobs that are not offered now, but were
        self.memory_is_ours = True  # the snapshot's memory is that of the policy

    def begin(self, snapshot: Snapshot, table: JobTable, jobs: Sequence[LiveJob], cluster: Cluster) -> dict[int, str]:
        """An engine for these jobs and nodes that goes on from the snapshot; why some can never run there."""
        engine = self._engine(self.policy, self.rules, snapshot, table, cluster, self.executor, memory=self.memory_is_ours)
        self.memory_is_ours = True
        known = set(snapshot.state["seq"].tolist())
        rows = {node.name: row for row, node in enumerate(cluster.nodes)}
        for job in [job for job in jobs if job.row.attempts]:  # a job that is offered again has a past
            if job.avoid in rows:
                engine.state.jobs[engine.row(job.id)]["avoid"] = rows[job.avoid]
            if job.id not in known:
                record = engine.state.jobs[engine.row(job.id)]
                if (before := self.past.pop(job.id, None)) is not None:
                    for name in PAST:
                        record[name] = before[name]
                    continue
                record["settled_gpu_s"], record["served_s"], record["held_s"] = job.row.gpu_s, job.row.run_s, job.row.run_s
                record["preemptions"], record["failures"] = job.row.preemptions, job.row.failures
                record["start_s"] = np.nan if job.row.start_s is None else job.row.start_s
        kernels.decide_soon(engine.state.clock)
        self.engine = engine
        return {int(table.seq[row]): str(engine.reason[row]) for row in np.flatnonzero(engine.outcome == UNSCHEDULABLE)}

    def _engine(self, policy: Policy[Any], rules: EngineRules | None, snapshot: Snapshot, table: JobTable, cluster: Cluster,
                executor: Executor, *, memory: bool) -> Engine:  # fmt: skip
        engine = Engine(table, cluster, policy, self.setup, rules=rules, seq_bound=max(bound_for(table), snapshot.seq_bound))
        engine.hand_to(executor)
        engine.clock["open"] = 1
        resume(engine, snapshot, memory=memory)
        return engine

    def renew(self, table: JobTable, jobs: Sequence[LiveJob], cluster: Cluster) -> dict[int, str]:
        """Other jobs, nodes or another policy from now on."""
        assert self.engine is not None
        jobs_then = self.engine.state.jobs
        for row in np.flatnonzero((jobs_then["phase"] == FUTURE) & ~np.isnan(jobs_then["start_s"])):
            self.past[int(jobs_then["seq"][row])] = jobs_then[row].copy()
        return self.begin(take(self.engine), table, jobs, cluster)

    def try_out(self, policy: Policy[Any], rules: EngineRules | None, cluster: Cluster) -> None:
        """InputError = this policy cannot decide about these jobs and this cluster: a decision that nobody carries out."""
        assert self.engine is not None
        engine = self._engine(policy, rules, take(self.engine), self.engine.jobs, cluster, Acts(), memory=False)
        engine.clock["decide_s"] = engine.clock["now_s"]  # whatever its rounds
        engine.clock["until_s"] = np.nextafter(float(engine.clock["now_s"]), np.inf)
        while self._advance(engine) != kernels.EXTERNAL:
            pass

    def close(self, nodes: Sequence[int]) -> None:
        """These nodes take nobody new from this instant on, whoever was promised something there."""
        engine = self.engine
        if engine is None or engine.handover is None:
            return
        for node in nodes:
            if node < len(engine.state.nodes):
                kernels.set_node(engine.state.clock, np.int32(node), False)
        for row, parts in list(engine.handover.claims.items()):
            if np.isin(parts.node, nodes).any() and row in engine.handover.claims:  # those before may have made it its own
                seq = int(engine.jobs.seq[row])
                engine.take_back(seq)
                engine.offer(seq)

    def change_policy(self, policy: Policy[Any], rules: EngineRules | None) -> None:
        """From the next `renew` on; it begins with a memory of its own."""
        self.policy, self.rules, self.memory_is_ours = policy, rules, False

    def catch_up(self, now_s: float) -> Made | None:
        """What was due by itself before now has happened at its own time; the engine's time is now."""
        return self._run_to(now_s)

    def decide(self, now_s: float) -> Made | None:
        """The decision that is due now, if one is."""
        return self._run_to(float(np.nextafter(max(now_s, self.now_s), np.inf)))

    @property
    def now_s(self) -> float:
        assert self.engine is not None
        return float(self.engine.clock["now_s"])

    @property
    def seq_bound(self) -> int:
        assert self.engine is not None
        return self.engine.seq_bound

    def next_s(self) -> float:
        """When a decision is due by itself; inf = not before something happens."""
        assert self.engine is not None
        return float(self.engine.clock["decide_s"])

    def _advance(self, engine: Engine) -> int:
        """InputError = the policy cannot decide, or has failed: a site's own may do so in any way, and must not end the controller."""
        try:
            return engine.advance()
        except (TrainmasterError, InvariantBroken):
            raise
        except Exception as error:
            if not any(frame.f_locals.get("self") is engine.policy for frame, _ in traceback.walk_tb(error.__traceback__)):
                raise
            raise InputError(f"--policy: {engine.policy.name} has failed: {type(error).__name__}: {error}") from error

    def _run_to(self, until_s: float) -> Made | None:
        engine = self.engine
        assert engine is not None
        before, began = int(engine.clock["decisions"]), time.perf_counter()
        engine.clock["until_s"] = max(until_s, float(engine.clock["now_s"]))
        while True:
            decided = int(engine.clock["decisions"])
            try:
                code = self._advance(engine)
            except InputError as problem:  # of this decision: nobody is started, and time goes on
                self.problem = str(problem)
                continue
            if engine.clock["decisions"] > decided:
                self.problem = ""
            if code == kernels.EXTERNAL:
                break
        if engine.clock["decisions"] == before or self.problem:
            return None
        record, order = engine.record(), engine.waiting_in_order()
        return Made(record=record, order=order, took_ms=(time.perf_counter() - began) * 1e3, memory=engine.memory, policy=engine.policy)
