"""The scheduling loop: one for the twin and, a decision at a time, for the live cluster.

    events -> view -> policy -> walk or lines -> placement -> what changes

The compiled kernels carry whole stretches of it when the policy's key is compiled; otherwise they stop at each decision
and the policy is asked here. Either way the same walk, placement and ledger do the work, so both give the same schedule.
"""

from __future__ import annotations

import heapq
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
from numba import njit, types

from trainmaster.cluster.cluster import Cluster
from trainmaster.engine import kernels
from trainmaster.engine.build import build_state, grow_log, keep_history
from trainmaster.engine.faults import Faults
from trainmaster.engine.result import FINISHED, REJECTED, UNFINISHED, UNSCHEDULABLE, Allocations, RunResult
from trainmaster.engine.state import ENDED, RUNNING, STARTING, WAITING
from trainmaster.errors import InputError, InvariantBroken, ParamError
from trainmaster.placement.base import find_placement
from trainmaster.policies.base import (
    ActiveJobs,
    Compilable,
    Decision,
    DecisionRecord,
    EngineRules,
    Line,
    ListPolicy,
    Memory,
    Nodes,
    Policy,
    Verdict,
    View,
)
from trainmaster.workload.jobs import GPU_MILLI, Floats, JobTable
from trainmaster.workload.perf.base import Allocation, PerformanceModel
from trainmaster.workload.perf.constant import Constant

PROGRESS_EVERY = 2_000  # decisions


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a run is made, apart from the policy: what the flags of `simulate` say."""

    placement: str = "packed"
    round_s: float | None = None  # None = the policy's own
    restart_cost_s: float = 30.0
    seed: int = 0
    load: float = 1.0
    window: tuple[float, float] | None = None
    faults: Faults | None = None


Progress = Callable[[int, int], None]  # (jobs ended, jobs)


def _no_key(jobs, rows, n, now_s, params, shared, per_job, out):  # type: ignore[no-untyped-def]
    return


def _never(jobs, rows, n, now_s, params, shared, per_job):  # type: ignore[no-untyped-def]
    return np.inf


@cache
def _compiled(function: Callable[..., Any], signature: Any) -> Any:
    return Handle(njit(signature, cache=True)(function), signature)


class Handle(types.WrapperAddressProtocol):
    """A compiled function whose address is looked up once, not at each of the thousand calls that hand it over."""

    def __init__(self, dispatcher: Any, signature: Any) -> None:
        compiled = dispatcher.get_compile_result(signature)
        self.address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
        self.of, self.kind = dispatcher, signature

    def __wrapper_address__(self) -> int:
        return int(self.address)

    def signature(self) -> Any:
        return self.kind


class Simulation:
    """One policy on one workload, from time zero to the last job."""

    def __init__(self, jobs: JobTable, cluster: Cluster, policy: Policy[Any], setup: Setup, *, model: PerformanceModel | None = None,
                 rules: EngineRules | None = None, label: str | None = None, interpreted: bool = False) -> None:
        """`interpreted`: ask the policy at every decision even if its key could be compiled (tests compare the two)."""
        if model is None:
            jobs, model = Constant().bind(jobs, cluster)
        self.cluster, self.policy, self.setup, self.model = cluster, policy, setup, model
        self.rules = rules = policy.rules if rules is None else rules
        self.label = label or policy.name
        self.round_s = _first(rules.round_s, setup.round_s, policy.round_s)
        self.restart_cost_s = _first(rules.restart_cost_s, setup.restart_cost_s)
        policy.validate(self.restart_cost_s)
        self.placement = find_placement(_first(rules.placement, setup.placement))
        if cluster.queues and not isinstance(policy, ListPolicy) and "queues" not in policy.needs:
            raise ParamError(f"--policy: {policy.name} plans the whole cluster and knows no quotas; leave `queues` out of the cluster file")
        self.jobs = jobs = self._consolidate(jobs)
        self.types = cluster.types
        self.node_types = np.array([node.type for node in cluster.nodes], object)
        rates = model.rates_by_type(jobs, self.types)
        self.state = build_state(jobs, cluster, rates, self.types)
        self.clock = self.state.clock[0]
        self.pick = _compiled(self.placement.pick, kernels.PICK)
        self.estimates = self._estimates()
        self.reason = np.full(len(jobs), "", object)
        self.outcome = np.full(len(jobs), UNFINISHED, object)
        self._prepare_rows(rates)
        self._prepare_clock()
        self.memory: Memory = policy.start_memory(int(jobs.seq.max(initial=-1)) + 1)
        self.active = np.zeros(0, np.int64)
        self.until = [0.0] * len(jobs)  # work at which the model's present rate ends
        self.capacity_log: list[tuple[float, float]] = [(0.0, float(sum(cluster.gpus_by_type().values())))]
        key = policy.key if isinstance(policy, ListPolicy) else None
        self.key: Compilable | None = key
        self.compiled = key is not None and not interpreted
        self.clock["heaps"] = self.compiled
        self.present, self.healthy = cluster.present.copy(), np.ones(len(cluster.nodes), bool)
        self.outside = self._outside()
        self._next_outside()

    # --------------------------------------------------------------------------------------------- set-up

    def _estimates(self) -> Floats | None:
        """Run times the policy may believe; None where it takes no estimate or the true ones."""
        source = getattr(self.policy.params, "estimate", "oracle")
        if source == "oracle":
            return None
        if source == "predicted":
            keep_history(self.state, self.jobs)
            return self.state.jobs["estimate_s"]
        if source == "limit":
            values, fix = self.jobs.limit_s, "the trace has no time limits"
        elif source in self.jobs.estimates:
            values, fix = self.jobs.estimates[source], f"column {source} has gaps"
        else:
            values, fix = None, f"the trace has no column {source!r}"
        if values is None or np.isnan(values).any():
            choices = [*(["limit"] if not np.isnan(self.jobs.limit_s).any() else []), *self.jobs.estimates, "predicted", "oracle"]
            raise ParamError(f"{self.policy.name}.estimate={source}: {fix}; choose one of {', '.join(choices)}")
        return values

    def _prepare_rows(self, rates: Floats | None) -> None:
        S, jobs = self.state, self.jobs
        S.jobs["restart_s"] = self.restart_cost_s
        if self.estimates is not None and not self.clock["predicts"]:
            S.jobs["estimate_s"] = self.estimates
        if rates is None:
            for row in range(len(jobs)):
                S.jobs[row]["alone_rate"] = self._alone_rate(row)
        elif len(rates) and rates.shape[1]:
            S.jobs["alone_rate"] = np.maximum(rates.max(axis=1), 1e-300)
        if isinstance(self.policy, ListPolicy) and (offered := self.policy.not_before_s(jobs)) is not None:
            S.jobs["arrive_s"] = np.maximum(jobs.eligible_s, offered)
        if isinstance(self.policy, ListPolicy) and (wanted := self.policy.locality(jobs, fewest_nodes(jobs, self.cluster))) is not None:
            near, patience_s = wanted
            waits = (jobs.gpu_milli > GPU_MILLI) & (near > 0)
            S.jobs["near_nodes"] = np.where(jobs.max_nodes > 0, np.minimum(near, jobs.max_nodes), near)
            S.jobs["near_until_s"] = np.where(waits, S.jobs["arrive_s"] + patience_s, -np.inf)
            self.clock["local"], self.clock["simple"] = 1, 0
        self._find_unschedulable()
        rows = np.flatnonzero(self.outcome == UNFINISHED).astype(np.int32)
        arrivals = rows[np.argsort(S.jobs["arrive_s"][rows], kind="stable")]
        S.replace("arrivals", np.ascontiguousarray(arrivals))
        self.clock["finite_left"] = int(np.isfinite(jobs.work[rows]).sum())

    def _alone_rate(self, row: int) -> float:
        """Rate on as few nodes of the first type as can hold the gang."""
        gpus, node_gpus = int(self.jobs.gpu_milli[row] // GPU_MILLI), max(node.gpus for node in self.cluster.nodes)
        parts = [float(node_gpus)] * (gpus // node_gpus) + ([float(gpus % node_gpus)] if gpus % node_gpus else [])
        rate, _ = self.model.rate(row, Allocation(tuple(range(len(parts))), tuple(parts), self.types[0]), 0.0, ())
        return max(rate, 1e-300)

    def _consolidate(self, jobs: JobTable) -> JobTable:
        """Gangs that must not spread: no more nodes than the fewest that could hold them."""
        if self.rules.span_nodes and not self.placement.consolidates:
            return jobs
        must = np.ones(len(jobs), bool)
        if self.rules.span_nodes:
            must = np.array([*map(self.placement.consolidated, jobs.model.names), False])[jobs.model.codes]
        fewest = fewest_nodes(jobs, self.cluster)
        limited = np.where(jobs.max_nodes > 0, np.minimum(jobs.max_nodes, fewest), fewest)
        return jobs.replace(max_nodes=np.where(must & (jobs.gpu_milli >= GPU_MILLI), limited, jobs.max_nodes).astype(np.int32))

    def _find_unschedulable(self) -> None:
        """What would not fit the empty cluster with all its nodes there can never run."""
        S = self.state
        grown = [i for i, here in enumerate(self.cluster.present) if not here]
        for node in grown:
            kernels.set_node(S.clock, np.int32(node), True)
        packed = _compiled(find_placement("packed").pick, kernels.PICK)
        _, first = np.unique(S.jobs["klass"], return_index=True)
        for row in first:
            queue = S.queues[S.jobs[row]["queue"]]
            over_quota = self.cluster.queues and not queue["borrow"] and S.jobs[row]["milli"] > queue["quota_milli"]
            if over_quota or not kernels.could_run(S.clock, np.int32(row), packed):
                same = S.jobs["klass"] == S.jobs[row]["klass"]
                self.outcome[same] = UNSCHEDULABLE
                self.reason[same] = self._why_never(int(row), bool(over_quota))
                S.jobs["phase"][same] = ENDED
        for node in grown:
            kernels.set_node(S.clock, np.int32(node), False)
        self.clock["decide_s"] = np.inf

    def _why_never(self, row: int, over_quota: bool) -> str:
        gpus = self.jobs.gpu_milli[row] / GPU_MILLI
        asked = f"a gang of {gpus:g}" if gpus > 1 else f"{gpus:g} GPU" if gpus else f"{self.jobs.cpus[row]:g} CPUs"
        if over_quota:
            return f"{asked} is more than the quota of queue {self.jobs.queue[row]}, which does not borrow"
        accepted = self.jobs.accept_sets[self.jobs.accept_set[row]]
        pools = [int(p) for p in self.state.class_pools[self.state.jobs[row]["klass"]] if p >= 0]
        if not pools:
            wanted = f"type {' or '.join(accepted)}" if accepted else f"queue {self.jobs.queue[row]}"
            return f"no node of this cluster is for {wanted}"
        nodes = [node for node, p in zip(self.cluster.nodes, self.state.nodes["pool"], strict=True) if p in pools]
        each = max(node.gpus for node in nodes)
        more = f" with {self.jobs.cpus[row]:g} CPUs" if gpus and self.jobs.cpus[row] else ""
        return f"{asked}{more} on {len(nodes)} nodes of {each} ({sum(node.gpus for node in nodes)} GPUs)"

    def _prepare_clock(self) -> None:
        clock, policy = self.clock, self.policy
        clock["round_s"], clock["wake_grid_s"], clock["due_grid_s"] = self.round_s, self.rules.wake_grid_s, self.rules.due_grid_s
        clock["preemptive"], clock["keeps_count"] = policy.preemptive, self.rules.unplaced_keeps_count
        clock["random"], clock["seed"] = self.placement.random, self.setup.seed
        if isinstance(policy, ListPolicy):
            clock["blocking"], clock["stateful"], clock["wakes"] = policy.blocks(), policy.is_stateful(), policy.wakeup is not None

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
        self.clock["until_s"] = self.coming[0]
        planned = max((change.at_s for change in self.cluster.timeline), default=-np.inf)
        self.clock["endless"] = self.coming[0] > planned

    def _apply_outside(self) -> None:
        """Nodes fail, are repaired, join and leave. A node is up while it is in the cluster and not broken."""
        for node, up, failed in self.coming[1]:
            (self.healthy if failed else self.present)[node] = up
            should = bool(self.present[node] and self.healthy[node])
            if not should and self.state.nodes[node]["up"]:
                checkpoint_s = self.setup.faults.checkpoint_s if self.setup.faults else 0.0
                kernels.clear_node(self.state.clock, np.int32(node), failed, checkpoint_s)
            kernels.set_node(self.state.clock, np.int32(node), should)
        up_gpus = float(self.state.nodes["gpus"][self.state.nodes["up"] == 1].sum())
        self.capacity_log.append((float(self.clock["now_s"]), up_gpus))
        self._next_outside()

    # --------------------------------------------------------------------------------------------- the loop

    def run(self, progress: Progress | None = None) -> RunResult:
        """Simulate to the end."""
        began, clock, S = time.perf_counter(), self.clock, self.state
        policy = self.policy
        params = policy.key_params() if isinstance(policy, ListPolicy) else np.zeros(1)
        shared, per_job = self._compiled_memory()
        key = _compiled(self.key.python if self.key and self.compiled else _no_key, kernels.KEY)
        wakeup = policy.wakeup if isinstance(policy, ListPolicy) and self.compiled else None
        wake = _compiled(wakeup.python if wakeup else _never, kernels.WAKEUP)
        if progress:
            clock["pause_at"] = PROGRESS_EVERY
        while True:
            code = kernels.run(S.clock, key, wake, self.pick, params, shared, per_job)
            if code == kernels.FINISHED:
                break
            if code == kernels.DECIDE:
                self._decide()
            elif code == kernels.RATE:
                self._rate()
            elif code == kernels.EXTERNAL:
                self._apply_outside()
            elif code == kernels.GROW:
                grow_log(S, 2 * len(S.alloc_job) + int(clock["n_waiting"]), 2 * len(S.part_node) + int(clock["gpus"] + clock["n_waiting"]))
            elif code == kernels.PAUSE:
                clock["pause_at"] += PROGRESS_EVERY
                if progress:
                    progress(int((S.jobs["phase"] == ENDED).sum()), len(self.jobs))
            else:
                self._break()
        return self._result(time.perf_counter() - began)

    def _compiled_memory(self) -> tuple[Floats, Floats]:
        """The arrays that a key function reads and writes: `memory["shared"]` and `memory["per_job"]`."""
        return self.memory.setdefault("shared", np.zeros(1)), self.memory.setdefault("per_job", np.zeros((1, 1)))

    def _rate(self) -> None:
        S = self.state
        for row in S.rated[: self.clock["n_rated"]].tolist():
            job = S.jobs[row]
            work = float(self.jobs.work[row])
            work_left, until = float(job["work_left"]), self.until[row]
            done = until if work_left == work - until else work - work_left  # a mark that was reached is reached exactly
            rate, self.until[row] = self.model.rate(row, self.allocation(row), done, ())
            kernels.rate_job(S.clock, np.int32(row), rate, max(work - self.until[row], 0.0))
        self.clock["n_rated"] = 0

    def _break(self) -> None:
        broken, now_s = int(self.clock["broken"]), float(self.clock["now_s"])
        if broken == -2:
            raise InvariantBroken(f"{self.label}: the next wake-up is not after {now_s} s")
        if broken == -3:
            raise InvariantBroken(f"{self.label}: an event lies before {now_s} s")
        holders = [self.jobs.id[row] for row in np.flatnonzero(self.state.jobs["running"]) if broken in self.allocation(int(row)).nodes]
        raise InvariantBroken(f"{self.label}: node {broken} gave more than it has at {now_s} s; its jobs: {', '.join(holders)}")

    # --------------------------------------------------------------------------------------------- decisions in Python

    def _decide(self) -> None:
        self._update_active()
        if isinstance(self.policy, ListPolicy):
            self._walk(self.policy)
        else:
            self._carry_out(self.policy.decide(self.view(), self.memory))
        serving = self.clock["finite_holding"] == 0
        self.clock["serving"] = self.clock["serving"] + 1 if serving else 0
        self.clock["idle"] = self.clock["idle"] + 1 if serving and self.clock["changed"] == 0 else 0

    def _update_active(self) -> None:
        S = self.state
        fresh = S.fresh[: self.clock["n_fresh"]].astype(np.int64)
        active = self.active[S.jobs["phase"][self.active] != ENDED]
        self.active = np.unique(np.concatenate([active, fresh]))

    def _walk(self, policy: ListPolicy[Any]) -> None:
        S, clock = self.state, self.clock
        rows = self.active
        if self.key is not None and type(policy).rank is ListPolicy.rank:
            rows, keys = self._rank_by_key(policy)
        else:
            keys = np.asarray(policy.rank(self.view(), self.memory), np.float64)
        keys = keys[:, None] if keys.ndim == 1 else keys
        if len(keys) and np.isnan(keys).any():
            raise InputError(f"--policy: {policy.name} ranked job {self.jobs.id[rows[int(np.isnan(keys).any(axis=1).argmax())]]} as NaN")
        with_held = bool(policy.preemptive or clock["quotas"])
        order = np.lexsort((rows, *keys.T[::-1], S.keys[rows, 0]))
        S.keys[rows[order], 1] = np.where(keys[order, 0] == np.inf, np.inf, np.arange(len(order)))
        if not with_held:
            order = order[S.jobs["running"][rows[order]] == 0]
        S.walk[: len(order)] = rows[order]
        kernels.carry_out_order(S.clock, len(order), with_held, self.pick)
        wake_s = self._wakeup(policy)
        if wake_s < np.inf:
            if not wake_s > clock["now_s"]:
                clock["broken"] = -2
            kernels.wake_later(S.clock, wake_s)

    def _rank_by_key(self, policy: ListPolicy[Any]) -> tuple[np.ndarray, Floats]:
        """The policy's compiled key, run as plain Python on every active job."""
        S = self.state
        held = S.running_list[: self.clock["n_running"]]
        held = held[S.jobs["running"][held] == 1]
        others = self.active[S.jobs["running"][self.active] == 0]
        rows = np.concatenate([held, others]).astype(np.int32)
        self._refresh(rows)
        out = np.zeros((len(rows), 3))
        shared, per_job = self._compiled_memory()
        assert self.key is not None
        jobs = S.jobs.view(np.recarray)
        self.key.python(jobs, rows, len(rows), float(self.clock["now_s"]), policy.key_params(), shared, per_job, out)
        return rows.astype(np.int64), out

    def _wakeup(self, policy: ListPolicy[Any]) -> float:
        S, clock = self.state, self.clock
        if policy.wakeup is None and type(policy).next_wakeup_s is ListPolicy.next_wakeup_s:
            return np.inf
        if policy.wakeup is None:
            return float(policy.next_wakeup_s(self.view(), self.memory))
        if not (clock["n_waiting"] > 0 or clock["stateful"]):
            return np.inf
        held = S.running_list[: clock["n_running"]]
        held = held[S.jobs["running"][held] == 1]
        self._refresh(held)
        shared, per_job = self._compiled_memory()
        jobs = S.jobs.view(np.recarray)
        return float(policy.wakeup.python(jobs, held, len(held), float(clock["now_s"]), policy.key_params(), shared, per_job))

    def _refresh(self, rows: np.ndarray) -> None:
        self.state.walk[: len(rows)] = rows
        kernels.refresh_all(self.state.clock, len(rows))

    def view(self) -> View:
        """What the policy sees now."""
        S, clock, rows = self.state, self.clock, self.active
        self._refresh(rows)
        state = S.jobs[rows]
        state["phase"][(state["running"] == 1) & (state["ready_s"] > clock["now_s"])] = STARTING  # its restart cost is not paid yet
        state.flags.writeable = False
        types, up = self.node_types, S.nodes["up"] == 1
        free = S.nodes["free_milli"] / GPU_MILLI
        estimates = None if self.estimates is None else self.estimates[rows]
        jobs = ActiveJobs(rows, self.jobs, state, estimates, S.class_pools[state["klass"], :-1])

        def true_remaining_s() -> Floats:
            running_s = np.maximum(clock["now_s"] - np.maximum(state["since_s"], state["ready_s"]), 0.0) * (state["running"] == 1)
            return np.maximum(state["work_left"] - running_s * state["rate"], 0.0) / state["alone_rate"]

        return View(
            now_s=float(clock["now_s"]),
            jobs=jobs,
            nodes=Nodes(free, S.nodes["pool"].copy(), S.nodes["gpus"].copy(), up, types),
            capacity_gpus={name: float(S.nodes["gpus"][up & (types == name)].sum()) for name in self.types},
            free_gpus={name: float(free[up & (types == name)].sum()) for name in self.types},
            queues=self.cluster.queues,
            decision=int(clock["decisions"]),
            seed=self.setup.seed,
            policy_name=self.policy.name,
            true_remaining_s=true_remaining_s,
            holdings=lambda row: (self.allocation(row).nodes, self.allocation(row).gpus),
        )

    def allocation(self, row: int) -> Allocation:
        """What a running job holds, parts in the order they were taken."""
        S = self.state
        a = int(S.jobs[row]["allocation"])
        begin, end = S.alloc_offset[a], S.alloc_offset[a + 1]
        nodes = S.part_node[begin:end].tolist()
        milli = S.part_milli[begin:end].tolist()
        return Allocation(tuple(nodes), tuple(m / GPU_MILLI for m in milli), self.cluster.nodes[nodes[0]].type)

    def _carry_out(self, decision: Decision) -> None:
        """Make the cluster what a whole-cluster policy wants: reject, stop, start, in the order of its lines."""
        S, clock = self.state, self.clock
        wanted: dict[int, list[Line]] = {}
        for line in decision.lines:
            wanted.setdefault(line.row, []).append(line)
        for row in decision.reject:
            self._reject(row)
        active = self.active
        held = active[S.jobs["running"][active] == 1]
        if not self.policy.preemptive:  # running jobs without a line stay
            held = held[np.isin(held, np.fromiter(wanted, np.int64, len(wanted)))]
        moved = []
        for row in held.tolist():
            if S.jobs[row]["pinned"] or (row in wanted and self._keeps(row, wanted[row])):
                continue
            before = self.allocation(row)
            kernels.stop_job(S.clock, np.int32(row))
            if row in wanted:
                moved.append(row)
                resized = sum(line.gpus * line.share for line in wanted[row]) != before.total_gpus
                S.jobs[row]["resizes" if resized else "migrations"] += 1
            else:
                S.jobs[row]["preemptions"] += 1
        running = S.jobs["running"][active] == 1
        S.jobs["verdict"][active] = np.where(running, Verdict.KEPT, Verdict.POLICY_ZERO if decision.verdict is None else decision.verdict)
        short_gpus = np.zeros(len(active)) if decision.short_gpus is None else decision.short_gpus
        S.jobs["short_milli"][active] = np.where(running, 0.0, np.rint(short_gpus * GPU_MILLI))
        for row, lines in wanted.items():
            if S.jobs[row]["phase"] == WAITING and not self._start(row, lines):
                S.jobs[row]["verdict"], S.jobs[row]["short_milli"] = Verdict.FRAGMENTED, 0
                S.jobs[row]["preemptions"] += row in moved
        S.jobs["new"][active] = 0
        clock["n_fresh"] = 0
        if decision.lease_s is not None:
            if not decision.lease_s > 0:
                raise InvariantBroken(f"{self.label}: a lease of {decision.lease_s} s")
            kernels.wake_later(S.clock, clock["now_s"] + decision.lease_s)

    def _keeps(self, row: int, lines: list[Line]) -> bool:
        """What it holds is what it is given: same amount, and the same nodes and type where the lines name them."""
        held = self.allocation(row)
        if abs(sum(line.gpus * line.share for line in lines) - held.total_gpus) > 1e-9:
            return False
        if any(line.type is not None and line.type != held.type for line in lines):
            return False
        if any(line.node is None for line in lines):
            return True
        on_nodes: dict[int, float] = {}
        for line in lines:
            on_nodes[int(line.node or 0)] = on_nodes.get(int(line.node or 0), 0.0) + line.gpus * line.share
        return on_nodes == dict(zip(held.nodes, held.gpus, strict=True))

    def _start(self, row: int, lines: list[Line]) -> bool:
        S = self.state
        if any(line.partner is not None or line.config >= 0 for line in lines):
            raise InputError(f"--policy: {self.policy.name} uses partner groups or rate cards, which the engine does not carry out yet")
        if all(line.node is None for line in lines):
            milli = round(sum(line.gpus * line.share for line in lines) * GPU_MILLI)
            named = lines[0].type
            type_ = -1 if named is None else self.types.index(named)
            return bool(kernels.start_job(S.clock, np.int32(row), milli, type_, self.pick))
        if any(line.node is None for line in lines):
            raise InputError(f"--policy: {self.policy.name} names a node for a part of job {self.jobs.id[row]} only")
        nodes = np.array([line.node for line in lines], np.int32)
        parts = np.array([round(line.gpus * line.share * GPU_MILLI) for line in lines], np.int64)
        job = S.jobs[row]
        return bool(kernels.start_on(S.clock, np.int32(row), nodes, parts, int(job["cpu_milli"]), int(job["memory_mib"])))

    def _reject(self, row: int) -> None:
        S = self.state
        if S.jobs[row]["phase"] != WAITING:
            raise InvariantBroken(f"{self.label}: job {self.jobs.id[row]} is rejected but not waiting")
        S.jobs[row]["phase"], S.jobs[row]["verdict"] = ENDED, Verdict.REJECTED
        self.outcome[row], self.reason[row] = REJECTED, f"not admitted by {self.policy.name}"
        self.clock["n_waiting"] -= 1
        self.clock["active_milli"] -= S.jobs[row]["milli"]
        self.clock["finite_left"] -= bool(np.isfinite(self.jobs.work[row]))

    def record(self) -> DecisionRecord:
        """What the last decision wrote about every active job; `policy.explain` reads it."""
        S = self.state
        rows = np.flatnonzero((S.jobs["phase"] == WAITING) | (S.jobs["phase"] == RUNNING))
        verdict, short = S.jobs["verdict"][rows], S.jobs["short_milli"][rows]
        if self.compiled:  # a walk over heaps speaks of a whole class at once
            klass = S.classes[S.jobs["klass"][rows]]
            behind = (S.jobs["phase"][rows] == WAITING) & (klass["size"] > 0)
            said = klass["verdict"]
            if self.clock["blocking"]:
                said = np.where(np.isin(said, (Verdict.CAPACITY, Verdict.FRAGMENTED)) & (klass["told_row"] != rows), Verdict.BLOCKED, said)
            verdict = np.where(behind, said, verdict)
            short = np.where(behind, np.where(said == Verdict.CAPACITY, klass["told_milli"], 0), short)
        columns = {name: S.jobs[name][rows] for name in ("attained_gpu_s", "remaining_s", "submit_s", "running")}
        return DecisionRecord(decision=int(self.clock["decisions"]), now_s=float(self.clock["now_s"]), seq=S.jobs["seq"][rows],
                              verdict=verdict.astype(np.int8), short_gpus=short / GPU_MILLI, columns=columns)  # fmt: skip

    # --------------------------------------------------------------------------------------------- the end

    def _result(self, wall_s: float) -> RunResult:
        S, clock, jobs = self.state, self.clock, self.jobs
        for row in np.flatnonzero(S.jobs["running"]):
            kernels.close_job(S.clock, np.int32(row))
        state = S.jobs
        self.outcome[~np.isnan(state["finish_s"])] = FINISHED
        record = self.record()
        for seq, row in zip(record.seq, np.flatnonzero((state["phase"] == WAITING) | (state["phase"] == RUNNING)), strict=True):
            served = not np.isfinite(jobs.work[row]) and state[row]["held_s"] > 0
            self.reason[row] = "a service: it has no end" if served else self.policy.explain(record, int(seq)).text
        n, parts = int(clock["n_allocations"]), int(clock["n_parts"])
        allocations = Allocations(job=S.alloc_job[:n].copy(), start_s=S.alloc_start_s[:n].copy(), end_s=S.alloc_end_s[:n].copy(),
                                  offset=S.alloc_offset[: n + 1].copy(), node=S.part_node[:parts].copy(),
                                  gpu_milli=S.part_milli[:parts].astype(np.int64))  # fmt: skip
        last = np.full(len(jobs), -1, np.int64)
        last[allocations.job] = np.arange(n)
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


def fewest_nodes(jobs: JobTable, cluster: Cluster) -> np.ndarray:
    """The fewest nodes that could hold each gang, on the largest nodes open to it."""
    largest: dict[tuple[int, int], int] = {}
    pairs = np.stack([jobs.accept_set, jobs.queue.codes])
    kinds, kind = np.unique(pairs, axis=1, return_inverse=True)
    for accept, queue in kinds.T.tolist():
        accepted, name = jobs.accept_sets[accept], jobs.queue.names[queue] if queue >= 0 else None
        open_to = [n.gpus for n in cluster.nodes if (not accepted or n.type in ("", *accepted)) and (not n.queues or name in n.queues)]
        largest[accept, queue] = max(open_to, default=1) or 1
    per_node = np.array([largest[accept, queue] for accept, queue in kinds.T.tolist()])[kind.reshape(-1)]
    return -(-jobs.gpu_milli // (per_node * GPU_MILLI))


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
