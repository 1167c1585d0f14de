"""The engine: what the twin and the live cluster have in common, which is all but where time and events come from.

    view -> policy -> walk or lines -> placement -> what changes

The compiled kernels carry whole stretches of it when the policy's key is compiled; otherwise they stop at each decision
and the policy is asked here. Either way the same walk, placement and ledger do the work, so both give the same schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import proxy

import numpy as np

from trainmaster.cluster.cluster import Cluster
from trainmaster.engine import kernels
from trainmaster.engine.build import build_state, grow_log, keep_history
from trainmaster.engine.capacity import Capacity
from trainmaster.engine.compiled import compiled, never, no_key
from trainmaster.engine.faults import Faults
from trainmaster.engine.handover import Executor, Handover, Parts
from trainmaster.engine.lines import carry_out
from trainmaster.engine.result import UNFINISHED, UNSCHEDULABLE
from trainmaster.engine.state import ENDED, FUTURE, RUNNING, STARTING, WAITING
from trainmaster.errors import InputError, InvariantBroken, ParamError
from trainmaster.placement.base import find_placement
from trainmaster.policies.base import (
    ActiveJobs,
    Compilable,
    DecisionRecord,
    EngineRules,
    Line,
    ListPolicy,
    Memory,
    Nodes,
    Observed,
    Policy,
    Verdict,
    View,
    counted,
)
from trainmaster.workload.jobs import GPU_MILLI, Floats, JobTable
from trainmaster.workload.perf.base import Allocation, PerformanceModel, Traits
from trainmaster.workload.perf.constant import Constant

RESTART_COST_S = 30.0
LARGE_LOG = 1 << 19  # rows more for a run that has filled its log: NumPy asks for large pages from 4 MiB on, and each page costs
TYPES_NAMED = 4  # in the reason why a job can never run


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a run is made, apart from the policy: what the flags of `simulate` say."""

    placement: str = "packed"
    round_s: float | None = None  # None = the policy's own
    restart_cost_s: float | None = None  # None = what the performance model says of a job, else 30
    seed: int = 0
    load: float = 1.0
    window: tuple[float, float] | None = None
    faults: Faults | None = None
    start_delay_s: float = 0.0  # between handing GPUs to a job and its first step, before any restart cost
    stop_delay_s: float = 0.0  # between asking a job to stop and its GPUs being free
    min_run_s: float = 0.0  # a job that has held its GPUs for less is not stopped for another
    most_preemptions: int = 0  # nor is one that has been stopped so often; 0 = no bound


class Engine:
    """One policy, the jobs it decides about, and the cluster they run on, at one instant."""

    def __init__(self, jobs: JobTable, cluster: Cluster, policy: Policy[Any], setup: Setup, *, model: PerformanceModel | None = None,
                 rules: EngineRules | None = None, label: str | None = None, interpreted: bool = False,
                 seq_bound: int | None = None) -> None:  # fmt: skip
        """`interpreted`: ask the policy at every decision even if its key could be compiled (tests compare the two). `seq_bound`: above
        every seq; where jobs are added later, more than that, as memory by seq is made longer with copies of its last row."""
        if model is None:
            jobs, model = Constant().bind(jobs, cluster)
        self.cluster, self.policy, self.setup, self.model, self.traits = cluster, policy, setup, model, Traits.of(model)
        self.rules = rules = policy.rules if rules is None else rules
        self.label = label or policy.name
        self.round_s = _first(rules.round_s, setup.round_s, policy.round_s)
        self.restart_cost_s = _first(rules.restart_cost_s, setup.restart_cost_s, RESTART_COST_S)
        policy.validate(self.restart_cost_s)
        self.placement = find_placement(_first(rules.placement, setup.placement))
        has_quotas = any(spec.quota_gpus is not None for spec in cluster.queues.values())
        if has_quotas and not isinstance(policy, ListPolicy) and "queues" not in policy.needs:
            fix = "leave `quota_gpus` out of the cluster file"
            raise ParamError(f"--policy: {policy.name} plans the whole cluster and knows no quotas; {fix}")
        self.jobs = jobs = self._consolidate(jobs)
        self.types = cluster.types
        self.node_types = np.array([node.type for node in cluster.nodes], object)
        self.node_labels = np.array([node.label or "" for node in cluster.nodes], object)
        self.node_cpus = np.array([np.inf if node.cpus is None else node.cpus for node in cluster.nodes], np.float64)
        self.node_memory_gib = np.array([np.inf if node.memory_gib is None else node.memory_gib for node in cluster.nodes], np.float64)
        self.type_of_node = np.array([self.types.index(name) if name in self.types else -1 for name in self.node_types], np.int64)
        self.slowdown = of_model(jobs, rules.slowdown, 1.0)
        rates = model.rates_by_type(jobs, self.types)
        if rates is not None and rules.slowdown:
            rates = rates / self.slowdown[:, None]
        self.state = build_state(jobs, cluster, rates, self.types)
        self.clock = self.state.clock[0]
        self.pick = compiled(self.placement.pick, kernels.PICK)
        self.estimates = self._estimates()
        self.reason = np.full(len(jobs), "", object)
        self.outcome = np.full(len(jobs), UNFINISHED, object)
        self._prepare_rows(rates)
        self._prepare_clock()
        self.seq_bound = int(jobs.seq.max(initial=-1)) + 1 if seq_bound is None else seq_bound
        self.memory: Memory = policy.start_memory(self.seq_bound)
        self.active = np.zeros(0, np.int64)
        self.until = [0.0] * len(jobs)  # work at which the model's present rate ends
        self.given: dict[int, tuple[Line, ...]] = {}  # lines that a holding job was given, by row
        self.known_allocations: dict[int, tuple[tuple[int, int, int], Allocation]] = {}  # by row: which entry of the log, read once
        key = policy.key if isinstance(policy, ListPolicy) else None
        self.key: Compilable | None = key
        self.handover: Handover | None = None  # None = starting and stopping take no time
        self.capacity: Capacity | None = None  # None = nodes are not a policy's to give back or ask for
        self.compiled = key is not None and not interpreted
        self.clock["heaps"] = self.compiled
        wakeup = policy.wakeup if isinstance(policy, ListPolicy) and self.compiled else None
        self.run_key = compiled(key.python if key and self.compiled else no_key, kernels.KEY)
        self.run_wakeup = compiled(wakeup.python if wakeup else never, kernels.WAKEUP)

    # --------------------------------------------------------------------------------------------- set-up

    def _estimates(self) -> Floats | None:
        """Run times the policy may believe; None where it takes no estimate or the true ones."""
        source = getattr(self.policy.params, "estimate", "oracle")
        if source in ("oracle", *self.policy.own_estimates):
            return None
        if source == "predicted" and source not in self.jobs.estimates:
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
        if self.traits.restart_s is not None and self.rules.restart_cost_s is None and self.setup.restart_cost_s is None:
            own_s = self.traits.restart_s(jobs)
            S.jobs["restart_s"] = np.where(np.isnan(own_s), self.restart_cost_s, own_s)
        if self.rules.restart_s:
            S.jobs["restart_s"] = of_model(jobs, self.rules.restart_s, S.jobs["restart_s"])
        if self.estimates is not None and not self.clock["predicts"]:
            S.jobs["estimate_s"] = self.estimates
        if rates is None:
            for row in range(len(jobs)):
                S.jobs[row]["alone_rate"] = self._alone_rate(row)
        elif len(rates) and rates.shape[1]:
            S.jobs["alone_rate"] = np.maximum(rates.max(axis=1), 1e-300)
        if isinstance(self.policy, ListPolicy) and (offered := self.policy.not_before_s(jobs)) is not None:
            S.jobs["arrive_s"] = np.maximum(jobs.eligible_s, offered)
        if isinstance(self.policy, ListPolicy) and type(self.policy).locality is not ListPolicy.locality:
            self._wait_for_locality(self.policy)
        self._find_unschedulable()
        rows = np.flatnonzero(self.outcome == UNFINISHED).astype(np.int32)
        arrivals = rows[np.argsort(S.jobs["arrive_s"][rows], kind="stable")]
        S.replace("arrivals", np.ascontiguousarray(arrivals))
        self.clock["finite_left"] = int(np.isfinite(jobs.work[rows]).sum())

    def _wait_for_locality(self, policy: ListPolicy[Any]) -> None:
        S, jobs = self.state, self.jobs
        wanted = policy.locality(jobs, fewest_nodes(jobs, self.cluster))
        if wanted is None:
            return
        near, patience_s = wanted
        waits = (jobs.gpu_milli > GPU_MILLI) & (near > 0)
        S.jobs["near_nodes"] = np.where(jobs.max_nodes > 0, np.minimum(near, jobs.max_nodes), near)
        S.jobs["near_until_s"] = np.where(waits, S.jobs["arrive_s"] + patience_s, -np.inf)
        self.clock["local"], self.clock["simple"] = 1, 0

    def _alone_rate(self, row: int, type_: int = 0) -> float:
        """Rate on as few nodes of a type as can hold the gang."""
        gpus, node_gpus = int(self.jobs.gpu_milli[row] // GPU_MILLI), max(node.gpus for node in self.cluster.nodes)
        parts = [float(node_gpus)] * (gpus // node_gpus) + ([float(gpus % node_gpus)] if gpus % node_gpus else [])
        rate, _ = self.model.rate(row, Allocation(tuple(range(len(parts))), tuple(parts), self.types[type_]), 0.0, ())
        return max(rate / float(self.slowdown[row]), 1e-300)

    def _rates_of(self, rows: np.ndarray) -> Floats:
        """(rows, types) rates alone on the gang asked for; 0 where the job does not run."""
        S = self.state
        if self.clock["fixed_rates"]:
            rates = S.rates[rows if len(S.rates) > 1 else np.zeros(len(rows), np.int64), : len(self.types)]
        else:
            rates = np.array([[self._alone_rate(row, t) for t in range(len(self.types))] for row in rows.tolist()])
        pools = S.class_pools[S.jobs["klass"][rows]]
        type_of = np.append(S.pools["type"], -1)[pools]  # -1, no pool, is the last
        accepted = (type_of[:, :, None] == np.arange(len(self.types))).any(axis=1)
        return np.where(accepted, rates.reshape(len(rows), len(self.types)), 0.0)

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
        packed = compiled(find_placement("packed").pick, kernels.PICK)
        least_milli = np.rint(self.policy.least_gpus(self.jobs) * GPU_MILLI).astype(np.int64)
        demand = S.jobs["klass"].astype(np.int64) * (least_milli.max(initial=0) + 1) + least_milli
        _, first, kind = np.unique(demand, return_index=True, return_inverse=True)
        for number, row in enumerate(first.tolist()):
            queue, milli = S.queues[S.jobs[row]["queue"]], int(least_milli[row])
            over_quota = self.cluster.queues and not queue["borrow"] and milli > queue["quota_milli"]
            if over_quota or not self._could_run(row, milli, packed):
                same = kind == number
                self.outcome[same] = UNSCHEDULABLE
                self.reason[same] = self._why_never(row, milli, bool(over_quota))
                S.jobs["phase"][same] = ENDED
        for node in grown:
            kernels.set_node(S.clock, np.int32(node), False)
        self.clock["decide_s"] = np.inf

    def _could_run(self, row: int, milli: int, pick: Any) -> bool:
        """On so much of what it asked for, now."""
        S, job = self.state, self.state.jobs[row]
        if milli == job["milli"]:
            return bool(kernels.could_run(S.clock, np.int32(row), pick))
        begin = int(self.clock["n_parts"])
        cpu_milli, memory_mib = int(job["cpu_milli"]) * milli // int(job["milli"]), int(job["memory_mib"]) * milli // int(job["milli"])
        self.make_room([milli // GPU_MILLI + 1])
        found = kernels.place_parts(S.clock, np.int32(row), milli, cpu_milli, memory_mib, -1, job["max_nodes"], pick)
        kernels.drop_parts(S.clock, begin)
        return bool(found)

    def _why_never(self, row: int, milli: int, over_quota: bool) -> str:
        gpus = milli / GPU_MILLI
        elastic = "at least " if milli < self.jobs.gpu_milli[row] else ""
        asked = f"a gang of {elastic}{gpus:g}" if gpus > 1 else f"{gpus:g} GPU" if gpus else f"{self.jobs.cpus[row]:g} CPUs"
        if over_quota:
            return f"{asked} is more than the quota of queue {self.jobs.queue[row]}, which does not borrow"
        accepted = self.jobs.accept_sets[self.jobs.accept_set[row]]
        pools = [int(p) for p in self.state.class_pools[self.state.jobs[row]["klass"]] if p >= 0]
        if not pools:
            others = len(accepted) - TYPES_NAMED + 1
            named = accepted if others < 2 else (*accepted[: TYPES_NAMED - 1], f"{others} others")
            wanted = f"type {' or '.join(named)}" if accepted else f"queue {self.jobs.queue[row]}"
            return f"no node of this cluster is for {wanted}"
        nodes = [node for node, p in zip(self.cluster.nodes, self.state.nodes["pool"], strict=True) if p in pools]
        each = max(node.gpus for node in nodes)
        more = f" with {self.jobs.cpus[row]:g} CPUs" if gpus and self.jobs.cpus[row] else ""
        evenly = f", {gpus / self.jobs.nodes[row]:g} on each of {self.jobs.nodes[row]} nodes," if self.jobs.nodes[row] > 1 and gpus else ""
        return f"{asked}{evenly}{more} on {counted(len(nodes), 'node')} of {each} ({counted(sum(node.gpus for node in nodes), 'GPU')})"

    def _prepare_clock(self) -> None:
        clock, policy = self.clock, self.policy
        clock["round_s"] = 0.0 if self.rules.own_rounds else self.round_s
        clock["wake_grid_s"], clock["due_grid_s"] = self.rules.wake_grid_s, self.rules.due_grid_s
        clock["preemptive"], clock["keeps_count"] = policy.preemptive, self.rules.unplaced_keeps_count
        clock["min_run_s"], clock["most_preemptions"] = self.setup.min_run_s, self.setup.most_preemptions
        clock["random"], clock["seed"] = self.placement.random, self.setup.seed
        clock["by_neighbours"] = self.traits.by_neighbours
        if isinstance(policy, ListPolicy):
            clock["blocking"], clock["stateful"], clock["wakes"] = policy.blocks(), policy.is_stateful(), policy.wakeup is not None

    # --------------------------------------------------------------------------------------------- decisions in Python

    def _decide(self) -> None:
        self._update_active()
        if isinstance(self.policy, ListPolicy):
            self._walk(self.policy)
        else:
            carry_out(self, self.policy.decide(self.view(), self.memory))
        serving = self.clock["finite_holding"] == 0
        self.clock["serving"] = self.clock["serving"] + 1 if serving else 0
        self.clock["idle"] = self.clock["idle"] + 1 if serving and self.clock["changed"] == 0 else 0

    def _update_active(self) -> None:
        S = self.state
        fresh = S.fresh[: self.clock["n_fresh"]].astype(np.int64)
        active = self.active[(S.jobs["phase"][self.active] == WAITING) | (S.jobs["running"][self.active] == 1)]
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

    def _refresh(self, rows: np.ndarray, at_s: float | None = None) -> None:
        self.state.walk[: len(rows)] = rows
        kernels.refresh_all(self.state.clock, len(rows), float(self.clock["now_s"]) if at_s is None else at_s)

    def view(self) -> View:
        """What the policy sees now."""
        S, clock, rows = self.state, self.clock, self.active
        self._refresh(rows)
        state = S.jobs[rows]
        state["phase"][(state["phase"] == RUNNING) & (state["ready_s"] > clock["now_s"])] = STARTING  # its restart cost is not paid yet
        state["held_s"] += np.where(state["running"] == 1, np.maximum(clock["now_s"] - state["held_since_s"], 0.0), 0.0)
        state.flags.writeable = False
        types, up = self.node_types, S.nodes["up"] == 1
        free = S.nodes["free_milli"] / GPU_MILLI
        estimates = None if self.estimates is None else self.estimates[rows]
        jobs = ActiveJobs(rows, self.jobs, state, estimates, S.class_pools[state["klass"], :-1])

        def true_remaining_s() -> Floats:
            running_s = np.maximum(clock["now_s"] - np.maximum(state["since_s"], state["ready_s"]), 0.0) * (state["running"] == 1)
            return np.maximum(state["work_left"] - running_s * state["rate"], 0.0) / state["alone_rate"]

        now_s = float(clock["now_s"])
        def types_held() -> np.ndarray:
            held, holds = np.full(len(rows), -1, self.type_of_node.dtype), state["running"] == 1
            held[holds] = self.type_of_node[S.parts["node"][S.allocations["first_part"][state["allocation"][holds]]]]
            return held

        return View(
            now_s=now_s,
            jobs=jobs,
            nodes=self._nodes(free, up),
            capacity_gpus={name: float(S.nodes["gpus"][up & (types == name)].sum()) for name in self.types},
            free_gpus={name: float(free[up & (types == name)].sum()) for name in self.types},
            queues=self.cluster.queues,
            decision=int(clock["decisions"]),
            seed=self.setup.seed,
            policy_name=self.policy.name,
            true_remaining_s=true_remaining_s,
            round_s=self.round_s,
            profile=self.model,
            done=self.done,
            holdings=self._holdings,
            beside=self.traits.beside,
            observe=lambda: self._observed(rows, state, now_s),
            rates_of=self._rates_of,
            types_held=types_held,
        )

    def done(self, row: int) -> float:
        """Work that a job has done by now."""
        job, now_s = self.state.jobs[row], float(self.clock["now_s"])
        working_s = max(now_s - max(job["since_s"], job["ready_s"]), 0.0) if job["running"] else 0.0
        if np.isinf(self.jobs.work[row]):  # nobody knows how much there is: what it was served
            return float(job["served_s"] + working_s)
        left = max(float(job["work_left"] - working_s * job["rate"]), 0.0)
        return float(self.jobs.work[row]) - left

    def _nodes(self, free: Floats, up: np.ndarray) -> Nodes:
        S, capacity, nodes = self.state, self.capacity, len(self.cluster.nodes)
        vacating = np.zeros(nodes, bool)
        if capacity is not None:
            vacating[list(capacity.closing)] = True
        unknown = np.full(nodes, np.inf)
        return Nodes(
            free, S.nodes["pool"].copy(), S.nodes["gpus"].copy(), up, self.node_types, self.node_labels, vacating,
            leaves_s=unknown if capacity is None else capacity.leaves_s(), arrives_s=unknown if capacity is None else capacity.arrives_s(),
            cpus=self.node_cpus, memory_gib=self.node_memory_gib,
        )  # fmt: skip

    def _observed(self, rows: np.ndarray, state: np.ndarray, now_s: float) -> Observed:
        work = self.jobs.work
        worked = np.flatnonzero((state["running"] == 1) & (state["ready_s"] < now_s))
        rows, state = rows[worked], state[worked]
        since_s = now_s - np.maximum(state["since_s"], state["ready_s"])
        with np.errstate(invalid="ignore"):
            done = work[rows] - np.maximum(state["work_left"] - since_s * state["rate"], 0.0)
        done_of = dict(zip(rows.tolist(), done.tolist(), strict=True))

        def metrics(row: int) -> Mapping[str, float]:
            return {} if self.traits.metrics is None else self.traits.metrics(row, self.allocation(row), done_of[row])

        return Observed(state["seq"], rows, state["rate"], done, self.allocation, metrics)

    def parts(self, row: int) -> Parts:
        """What a job is given, as the ledger has it."""
        a = int(self.state.jobs[row]["allocation"])
        parts = self.state.parts_of(a).copy()
        return Parts(parts["node"], parts["milli"].astype(np.int64), parts["slot"], parts["cpu_milli"], parts["memory_mib"], a)

    def _holdings(self, row: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        held = self.allocation(row)
        return held.nodes, held.gpus

    def allocation(self, row: int, begin: int | None = None) -> Allocation:
        """What a running job holds, parts in the order they were taken; or what it is about to, the parts taken since `begin`."""
        job = self.state.jobs[row]
        share_milli, config = int(job["share_milli"]), int(job["config"])
        if begin is not None:
            return self._allocation(self.state.parts[begin : self.clock["n_parts"]], share_milli, config)
        key = (int(job["allocation"]), share_milli, config)  # the log only grows: what an entry says stays true
        known = self.known_allocations.get(row)
        if known is None or known[0] != key:
            known = self.known_allocations[row] = (key, self._allocation(self.state.parts_of(key[0]), share_milli, config))
        return known[1]

    def _allocation(self, parts: np.ndarray[Any, Any], share_milli: int, config: int) -> Allocation:
        held = dict[int, int]()
        for node, milli in zip(parts["node"].tolist(), parts["milli"].tolist(), strict=True):
            held[node] = held.get(node, 0) + milli
        types = tuple(self.cluster.nodes[node].type for node in held)
        gpus = tuple(milli / share_milli for milli in held.values())
        mixed = types if len(set(types)) > 1 else ()
        return Allocation(tuple(held), gpus, types[0], config, share_milli / GPU_MILLI, mixed)

    def neighbours(self, row: int) -> tuple[int, ...]:
        """Rows of the other jobs on its GPUs."""
        slots = self.state.parts_of(int(self.state.jobs[row]["allocation"]))["slot"]
        rows = {other for slot in slots[slots >= 0].tolist() for other in self._sharers(slot)}
        return tuple(sorted(rows - {row}))

    def _sharers(self, slot: int) -> list[int]:
        S, rows, part = self.state, [], int(self.state.slot_head[slot])
        while part >= 0:
            a = int(np.searchsorted(S.allocations["first_part"][: self.clock["n_allocations"] + 1], part, side="right")) - 1
            rows.append(int(S.allocations["job"][a]))
            part = int(S.parts["next"][part])
        return rows

    def record(self) -> DecisionRecord:
        """What the last decision wrote about every active job; `policy.explain` reads it."""
        S = self.state
        rows = np.flatnonzero(np.isin(S.jobs["phase"], (WAITING, RUNNING)) | (S.jobs["running"] == 1))  # at a run's end nobody holds
        self._refresh(rows, float(self.clock["decided_s"]))
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
        columns |= {"gpus": S.jobs["milli"][rows] / GPU_MILLI, "held_gpus": S.jobs["held_milli"][rows] / GPU_MILLI}
        columns |= self.policy.said(self.memory, S.jobs["seq"][rows])
        return DecisionRecord(decision=int(self.clock["decisions"]), now_s=float(self.clock["decided_s"]), seq=S.jobs["seq"][rows],
                              verdict=verdict.astype(np.int8), short_gpus=short / GPU_MILLI, columns=columns)  # fmt: skip

    def waiting_in_order(self) -> np.ndarray:
        """seqs of the waiting jobs as the last decision ordered them: what a list policy ranked, else priority and submission."""
        S = self.state
        rows = np.flatnonzero(S.jobs["phase"] == WAITING)
        keys = S.keys[rows] if isinstance(self.policy, ListPolicy) else S.keys[rows, :1]
        return S.jobs["seq"][rows[np.lexsort((rows, *keys.T[::-1]))]]

    # --------------------------------------------------------------------------------------------- the loop

    def advance(self) -> int:
        """Go on until the caller is needed: returns `kernels.EXTERNAL`, `ACT` (the executor was told something), `PAUSE` or `FINISHED`."""
        S, policy = self.state, self.policy
        params = policy.key_params() if isinstance(policy, ListPolicy) else np.zeros(1)
        while True:
            shared, per_job = self._compiled_memory()
            code = kernels.run(S.clock, self.run_key, self.run_wakeup, self.pick, params, shared, per_job)
            if code == kernels.DECIDE:
                self._decide()
            elif code == kernels.ACT:
                self._handover.carry_out()
                return kernels.ACT
            elif code == kernels.RATE:
                self._rate()
            elif code == kernels.GROW:
                self._grow_log(LARGE_LOG, LARGE_LOG)
            elif code == kernels.BROKEN:
                self._break()
            else:
                return int(code)

    def _grow_log(self, allocations: int, parts: int) -> None:
        S, clock = self.state, self.clock
        grow_log(S, 2 * len(S.allocations) + int(clock["n_waiting"]) + allocations,
                 2 * len(S.parts) + int(clock["gpus"] + clock["n_waiting"]) + parts)  # fmt: skip

    def make_room(self, gangs: list[int]) -> None:
        """Room in the log for jobs that are given so many parts each, and as many again while another place is tried."""
        S, clock = self.state, self.clock
        parts = 2 * sum(min(parts, int(clock["gpus"])) + 1 for parts in gangs)
        if clock["n_allocations"] + len(gangs) + 2 > len(S.allocations) or clock["n_parts"] + parts > len(S.parts):
            self._grow_log(len(gangs) + 2, parts)

    # --------------------------------------------------------------------------------------------- what an executor reports

    def hand_to(self, executor: Executor) -> None:
        """From now on starting and stopping take time, and are the executor's."""
        self.handover = Handover(proxy(self), executor)  # no cycle: it would hold all arrays of a run long after it
        self.clock["delays"] = 1

    def started(self, seq: int) -> None:
        """The processes of a job run."""
        row = self.row(seq)
        if self._handover.starting(row):
            kernels.began(self.state.clock, np.int32(row))

    def stopped(self, seq: int) -> None:
        """A job that a decision stopped has gone."""
        self._handover.gone(self.row(seq))
        self._handover.hand_over()

    def ended(self, seq: int) -> None:
        """A job is over by itself, wherever the engine thought it was."""
        row, S, handover = self.row(seq), self.state, self._handover
        if row in handover.drains:
            handover.gone(row)  # what it was promised meanwhile is not its own: it ends first
        if S.jobs[row]["running"]:
            kernels.end_job(S.clock, np.int32(row))
        elif S.jobs[row]["phase"] == WAITING:
            kernels.withdraw(S.clock, np.int32(row))
            self.clock["finite_left"] -= bool(np.isfinite(self.jobs.work[row]))
        S.jobs[row]["phase"], S.jobs[row]["finish_s"] = ENDED, self.clock["now_s"]
        handover.carry_out()  # one that ended while it drained has left room for a claim

    def lost(self, seq: int) -> None:
        """The processes of a job are gone without an end: it waits again, at once."""
        row, S, handover = self.row(seq), self.state, self._handover
        S.jobs[row]["failures"] += 1
        if row in handover.drains:
            handover.gone(row)
        elif row in handover.held:
            handover.release(row)
            kernels.give_up(S.clock, np.int32(row), True)
        handover.hand_over()

    def failed_to_start(self, seq: int) -> None:
        """A start was refused: the promise is dropped. The job is not offered again by itself."""
        row, S, handover = self.row(seq), self.state, self._handover
        if row in handover.drains:
            handover.gone(row)
        elif row in handover.held:
            handover.release(row)
            kernels.give_up(S.clock, np.int32(row), False)
        handover.hand_over()

    def offer(self, seq: int) -> None:
        """A job that is not offered waits from now on; one that waits or holds GPUs already goes on so."""
        row = self.row(seq)
        if self.state.jobs[row]["phase"] == FUTURE:
            kernels.offer(self.state.clock, np.int32(row))

    def take_back(self, seq: int) -> None:
        """A job is stopped at a person's wish, or waits no more; it is not offered until `offer`."""
        row, S = self.row(seq), self.state
        if S.jobs[row]["running"]:
            kernels.take_back(S.clock, np.int32(row))
            self._handover.carry_out()
        elif S.jobs[row]["phase"] == WAITING:
            kernels.withdraw(S.clock, np.int32(row))

    def set_pinned(self, seq: int, pinned: bool) -> None:
        """Whether a job may be stopped for others."""
        job = self.state.jobs[self.row(seq)]
        if bool(job["pinned"]) != pinned:
            job["pinned"] = pinned
            kernels.decide_soon(self.state.clock)

    def row(self, seq: int) -> int:
        """Where a job stands in the table; KeyError if it does not."""
        return self.row_of[seq]

    @cached_property
    def row_of(self) -> dict[int, int]:
        """Row by seq."""
        return {seq: row for row, seq in enumerate(self.jobs.seq.tolist())}

    @property
    def _handover(self) -> Handover:
        assert self.handover is not None, "no executor"
        return self.handover

    def _compiled_memory(self) -> tuple[Floats, Floats]:
        """The arrays that a key function reads and writes: `memory["shared"]` and `memory["per_job"]`."""
        return self.memory.setdefault("shared", np.zeros(1)), self.memory.setdefault("per_job", np.zeros((1, 1)))

    def _rate(self) -> None:
        """Ask the model about jobs that were given GPUs, came to the end of an epoch, or have other neighbours now."""
        S, clock = self.state, self.clock
        rows = dict.fromkeys(S.rated[: clock["n_rated"]].tolist())
        if clock["n_touched"]:
            touched = np.flatnonzero(S.touched)
            rows |= dict.fromkeys(sorted({row for slot in touched.tolist() for row in self._sharers(slot)}))
            S.touched[touched] = 0
        clock["n_rated"] = clock["n_touched"] = 0
        for row in rows:
            job = S.jobs[row]
            if job["phase"] != RUNNING:
                continue  # promised, or starting: it is asked about when it runs
            kernels.settle_job(S.clock, np.int32(row))
            work = float(self.jobs.work[row])
            work_left, until = float(job["work_left"]), self.until[row]
            done = until if work_left == work - until else work - work_left  # a mark that was reached is reached exactly
            neighbours = self.neighbours(row) if clock["by_neighbours"] else ()
            rate, self.until[row] = self.model.rate(row, self.allocation(row), done, neighbours)
            kernels.rate_job(S.clock, np.int32(row), rate / float(self.slowdown[row]), max(work - self.until[row], 0.0))

    def _break(self) -> None:
        broken, now_s = int(self.clock["broken"]), float(self.clock["now_s"])
        if broken == -2:
            raise InvariantBroken(f"{self.label}: the next wake-up is not after {now_s} s")
        if broken == -3:
            raise InvariantBroken(f"{self.label}: an event lies before {now_s} s")
        holders = [self.jobs.id[row] for row in np.flatnonzero(self.state.jobs["running"]) if broken in self.allocation(int(row)).nodes]
        raise InvariantBroken(f"{self.label}: node {broken} gave more than it has at {now_s} s; its jobs: {', '.join(holders)}")

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


def of_model(jobs: JobTable, known: Mapping[str, float], otherwise: float | Floats) -> Floats:
    """A figure of each job by its model."""
    values = np.array([*(known.get(name, np.nan) for name in jobs.model.names), np.nan])[jobs.model.codes]
    return np.where(np.isnan(values), otherwise, values)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
