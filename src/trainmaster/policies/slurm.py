"""Slurm as sites run it: multifactor priority, the main scheduler and backfill, no preemption. The baseline of an operator.

Jette, Yoo and Grondona, "SLURM: Simple Linux Utility for Resource Management", JSSPP 2003; https://slurm.schedmd.com/sched_config.html,
slurm.conf(5), sched/backfill and select/cons_tres of release 22.05.

    order      PriorityTier of the partition, priority (`slurm_priority.py`), submission
    main       when slurmctld looks at what has come and ended (`slurm_clock.py`): in order, as deep as default_queue_depth; a job that
               finds no room shuts its partition, and that partition's nodes for everybody, until the next time
    backfill   by its own clock, every bf_interval seconds: the first bf_max_job_test jobs in order; each starts now if its
               nodes are taken by no plan before its limit is over, or its nodes are reserved, whole, from the time at which it
               could start by the limits of those that run; nothing is planned more than bf_window minutes ahead

The partition is the job's queue, the QOS its service class, --nice its `priority` (with the sign turned); `slurm.conf` gives weights and
partitions. A job without a limit has DefaultTime, then MaxTime, then a year.

A gang takes the fewest nodes that can hold it, as many GPUs on each, as with --nodes and --gres: the last fewer, if it does not divide;
if the nodes differ so that this cannot be, GPUs wherever they are. CPUs count where nodes declare them; where jobs name none, the size of
a job in CPUs, and its usage, are its GPUs.
Not here: the time that a cycle itself takes, nodes that take nobody while a job on them clears up, reservations, licences, features, job
arrays' own limits, association and QOS limits, heterogeneous jobs, the association factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Array, Decision, DecisionRecord, Floats, Line, Memory, Policy, Reason, Verdict, View, check, policy
from trainmaster.policies.slurm_clock import SLACK, Clock, EvenClock, no_news
from trainmaster.policies.slurm_conf import DAY_S, FLAGS, MINUTE_S, TRES, Partition, SlurmConf, number, parse_partitions, time_s
from trainmaster.policies.slurm_priority import FACTORS, Sizes, age, decayed, fair_share, job_size, relative
from trainmaster.workload.jobs import GPU_MILLI, JobTable

Ints = NDArray[np.int64]

YEAR_S = 365 * DAY_S  # what Slurm takes an unlimited job to last
PLENTY = 1 << 50  # of what a node does not count
USAGE, FACTOR = 0, 1  # rows of memory["people"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Names, units and defaults are Slurm's."""

    conf: SlurmConf | None = None  # a slurm.conf, whose values stand for those not set by name
    PriorityType: str = "priority/multifactor"  # or priority/basic: in the order of submission
    PriorityWeightAge: float = 0
    PriorityWeightFairshare: float = 0
    PriorityWeightJobSize: float = 0
    PriorityWeightPartition: float = 0
    PriorityWeightQOS: float = 0
    PriorityWeightTRES: tuple[str, ...] = ()  # CPU=1000,Mem=2000,Node=10,GRES/gpu=3000
    PriorityMaxAge: str = "7-0"  # minutes, or days-hours
    PriorityDecayHalfLife: str = "7-0"
    PriorityCalcPeriod: float = 5  # minutes
    PriorityFavorSmall: bool = False
    PriorityFlags: tuple[str, ...] = ()  # NO_FAIR_TREE, SMALL_RELATIVE_TO_TIME
    FairShareDampeningFactor: float = 1
    partitions: tuple[str, ...] = ()  # PartitionName=NAME PriorityJobFactor=1 PriorityTier=1 DefaultTime=UNLIMITED MaxTime=UNLIMITED
    qos: tuple[str, ...] = ()  # NAME=PRIORITY, as `sacctmgr show qos` has them
    shares: tuple[str, ...] = ()  # ACCOUNT=SHARES, ACCOUNT/USER=SHARES, as `sshare` has them; 1 where not named
    SchedulerType: str = "sched/backfill"  # or sched/builtin: the main scheduler alone
    default_queue_depth: int = 100
    bf_interval: float = 30  # seconds; -1: no backfill
    bf_window: float = 1440  # minutes
    bf_max_job_test: int = 500
    bf_resolution: float = 60  # seconds
    batch_sched_delay: float = 3  # seconds, at least, from one look of the main scheduler at a tick to the next
    Epilog: str = ""  # a program that nodes run after a job: with one, a job that ends calls the main scheduler at once
    defer: bool = False  # it does not, all the same
    sched_min_interval: float = 2  # microseconds, at least, from any look of the main scheduler to the next
    tick_s: float = 1.0  # slurmctld asks itself whether something has come once in so long (Slurm's constant)
    second_s: float = 1.0  # in plans all times are whole ones (Slurm's constant)
    group_s: float = 30.0  # ends of running jobs so close are taken as one; doubles from group to group (Slurm's constant)
    estimate: str = "limit"  # limit | predicted | a column of the trace | oracle: the true run times; then it cheats

    def __post_init__(self) -> None:
        check(self.PriorityType in ("priority/multifactor", "priority/basic"), f"PriorityType: no {self.PriorityType!r}")
        check(self.SchedulerType in ("sched/backfill", "sched/builtin"), f"SchedulerType: no {self.SchedulerType!r}")
        for flag in self.PriorityFlags:
            check(flag.upper() in FLAGS, f"PriorityFlags: {flag} is not modelled (there are {', '.join(FLAGS)})")
        for name, least, most in (("bf_window", 1, 43_200), ("bf_max_job_test", 1, 1_000_000), ("bf_resolution", 1, 3_600),
                                  ("default_queue_depth", 1, 10**9), ("PriorityCalcPeriod", 1, 10**6),
                                  ("batch_sched_delay", 0, 3_600), ("sched_min_interval", 0, 3.6e9)):  # fmt: skip
            check(least <= getattr(self, name) <= most, f"{name}: {getattr(self, name):g} is not within {least:,} and {most:,}")
        check(self.bf_interval == -1 or 1 <= self.bf_interval <= 10_800, f"bf_interval: {self.bf_interval:g} is not within 1 and 10,800")
        for name in ("FairShareDampeningFactor", "group_s", "tick_s", "second_s"):
            check(getattr(self, name) > 0, f"{name} must be above 0")
        for name in ("PriorityMaxAge", "PriorityDecayHalfLife"):
            time_s(getattr(self, name), name)
        parse_partitions(self.partitions, "partitions")
        by_name(self.qos, "qos")
        by_name(self.shares, "shares")
        for tres in by_name(self.PriorityWeightTRES, "PriorityWeightTRES"):
            check(tres.lower() in TRES, f"PriorityWeightTRES: {tres} is not modelled (there are {', '.join(TRES)})")

    def has_flag(self, flag: str) -> bool:
        return flag in map(str.upper, self.PriorityFlags)


@policy(name="slurm", paper="Jette et al., JSSPP 2003; slurm.conf(5) 22.05", params=Params)
class Slurm(Policy[Params]):
    memory_version = 2
    preemptive = False
    own_estimates = ("limit",)  # where a job names none, its partition's counts

    def __init__(self, params: Params | None = None, **values: Any) -> None:
        super().__init__(params, **values)
        p = self.params
        self.partitions = parse_partitions(p.partitions, "partitions")
        self.qos, self.shares = by_name(p.qos, "qos"), by_name(p.shares, "shares")
        self.tres = {name.lower(): weight for name, weight in by_name(p.PriorityWeightTRES, "PriorityWeightTRES").items()}
        self.multifactor = p.PriorityType == "priority/multifactor"
        self.counts_usage = self.multifactor and p.PriorityWeightFairshare != 0
        self.moves = self.multifactor and (p.PriorityWeightAge != 0 or self.counts_usage)  # priorities change while jobs wait
        backfills = p.SchedulerType == "sched/backfill" and p.bf_interval > 0
        self.clock: Clock = EvenClock(
            tick_s=p.tick_s, delay_s=p.batch_sched_delay, apart_s=p.sched_min_interval * 1e-6, at_once=bool(p.Epilog) and not p.defer,
            interval_s=p.bf_interval if backfills else np.inf,
        )  # fmt: skip

    def cheats(self) -> bool:
        return self.params.estimate == "oracle"

    def start_memory(self, jobs: int) -> Memory:
        return {
            "at_s": 0.0, "calculated_s": -np.inf, "planned_s": np.full(jobs, np.nan), "known": np.zeros(jobs, np.bool_),
            **no_news(),
            "verdict": np.full(jobs, Verdict.BLOCKED, np.int8), "short_gpus": np.zeros(jobs),  # since the last look
            "points": np.full((jobs, 1 + len(FACTORS)), np.nan),  # of those that wait: the priority, then by factor
            "parts": np.zeros((5, 0), np.int64),  # (seq, node, GPU milli, CPU milli, MiB) of all that run
            "who": np.full(jobs, -1), "names": [], "people": np.zeros((2, 0)),  # (usage, fair-share factor) by place in names
            "using": np.zeros((2, 0)),  # (who, amount) of those that hold something since at_s
            "asked": np.zeros((2, 0)),  # (seq, amount) of those that the last decision started
        }  # fmt: skip

    # --------------------------------------------------------------------------------------------- a decision

    def decide(self, view: View, memory: Memory) -> Decision:
        ended = self._remember(view, memory)
        jobs, now_s, clock = view.jobs, view.now_s, self.clock
        memory["points"][jobs.seq[jobs.running]] = np.nan
        memory["asked"] = np.zeros((2, 0))
        waiting = np.flatnonzero(~jobs.running)
        look_s, cycle_s = clock.look_s(memory, now_s, ended), clock.cycle_s(memory, now_s)
        memory["changed"] = True
        if not len(waiting):
            memory["called_s"] = np.inf  # it would find nobody
            return Decision()
        looks, plans, lines, left = clock.come(look_s, now_s), clock.come(cycle_s, now_s), tuple[Line, ...](), len(waiting)
        if looks or plans:
            lines, started = self._schedule(view, memory, waiting, looks, plans)
            left -= started
            look_s = np.inf if looks else look_s
            if plans:  # with nothing changed the next would find the same
                cycle_s = clock.cycle_s(memory, now_s) if started and left else np.inf
        next_s = min(look_s, cycle_s)
        if self.moves and left:
            next_s = min(next_s, memory["calculated_s"] + self.params.PriorityCalcPeriod * MINUTE_S)
        return Decision(lines=lines, verdict=memory["verdict"][jobs.seq], short_gpus=memory["short_gpus"][jobs.seq],
                        lease_s=next_s - now_s if np.isfinite(next_s) else None)  # fmt: skip

    def _schedule(self, view: View, memory: Memory, waiting: Array, looks: bool, plans: bool) -> tuple[tuple[Line, ...], int]:
        """Lines of those that start, and how many they are: by the main scheduler, by backfill, or both."""
        from trainmaster.policies.kernels.slurm import backfill, main_pass

        p, jobs = self.params, view.jobs
        limit_s = self._limits_s(view)
        priority, factors, tier = self._priorities(view, waiting, limit_s[waiting], memory)
        memory["points"][jobs.seq[waiting]] = np.column_stack([priority, factors])
        waiting = ordered(view, waiting, priority, tier)
        supply = Supply.of(view, memory["parts"])
        depth = min(len(waiting), p.default_queue_depth) if looks else 0
        demand = Demand.of(view, waiting[: max(depth, p.bf_max_job_test + depth)], supply)
        free = supply.free.copy()
        given, stuck = main_pass(free, supply.up, demand.open_to[:depth], demand.partition[:depth], demand.nodes_of_partition,
                                 demand.each[:depth], demand.count[:depth], demand.gang[:depth], depth)  # fmt: skip
        lines, started = demand.lines(view, waiting[:depth], given)
        if looks:
            self.clock.looked(memory, view.now_s)
            self._tell(view, memory, waiting, stuck, supply)
        if plans:
            memory["cycle_s"] = view.now_s
            left = np.setdiff1d(np.arange(len(demand.count)), started)[: p.bf_max_job_test]
            few = demand.take(left)
            holders, ends_s, seq = self._holders(view, memory, waiting, given, demand, limit_s)
            given, starts_s = backfill(
                float(self._whole(view.now_s)), p.bf_window * MINUTE_S, p.bf_resolution, p.group_s, p.bf_max_job_test, free, supply.up,
                few.open_to, holders, self._whole(ends_s), seq, few.each, few.count, few.gang, limit_s[waiting[left]],
                jobs.seq[waiting[left]].astype(np.int64),
            )  # fmt: skip
            memory["planned_s"][jobs.seq] = np.nan
            memory["planned_s"][jobs.seq[waiting[left]]] = starts_s
            more, some = few.lines(view, waiting[left], given)
            lines, started = lines + more, np.concatenate([started, left[some]])
            memory["queued"], memory["changed"] = len(started) < len(waiting), len(started) > 0
        memory["asked"] = np.stack([jobs.seq[waiting[started]].astype(np.float64), billed(view, waiting[started])])
        return lines, len(started)

    def _whole(self, times_s: Any) -> Any:
        """In whole seconds."""
        return np.floor(times_s / self.params.second_s + SLACK) * self.params.second_s

    def _tell(self, view: View, memory: Memory, waiting: Array, stuck: Array, supply: Supply) -> None:
        """What the main scheduler found: who has no room, and everybody else waits behind them."""
        seq = view.jobs.seq
        verdict, short_gpus = memory["verdict"], memory["short_gpus"]
        verdict[seq[waiting]], short_gpus[seq[waiting]] = Verdict.BLOCKED, 0.0
        head = waiting[: len(stuck)][stuck]
        short = np.maximum(view.jobs.gpus[head] - supply.free[supply.up, 0].sum() / GPU_MILLI, 0.0)
        verdict[seq[head]] = np.where(short > 0, Verdict.CAPACITY, Verdict.FRAGMENTED)
        short_gpus[seq[head]] = short

    def said(self, memory: Memory, seq: Array) -> Mapping[str, Floats]:
        """Priority and the points of each factor, while it waits; when backfill has planned it, nan = it has not."""
        return {**dict(zip(("priority", *FACTORS), memory["points"][seq].T, strict=True)), "planned_s": memory["planned_s"][seq]}

    def explain(self, record: DecisionRecord, seq: int) -> Reason:
        """The points that each factor gives, and what backfill has planned."""
        reason, row = super().explain(record, seq), record.row(seq)
        if "priority" not in record.columns or np.isnan(record.columns["priority"][row]):
            return reason
        points = {name: float(record.columns[name][row]) for name in ("priority", *FACTORS)}
        parts = ", ".join(f"{name} {points[name]:,.0f}" for name in FACTORS if points[name])
        text = f"{reason.text}; priority {points['priority']:,.0f}" + (f" ({parts})" if parts else "")
        planned_s = float(record.columns["planned_s"][row])
        if np.isfinite(planned_s) and planned_s > record.now_s:
            text += f"; backfill has planned it for {(planned_s - record.now_s) / MINUTE_S:,.0f} min from now"
            points["planned_s"] = planned_s
        return Reason(reason.code, text, {**reason.numbers, **points})

    def notes(self, jobs: JobTable, start_s: Floats) -> list[str]:
        said = []
        conf, p = self.params.conf, self.params
        if conf is not None and conf.ignored:
            scheduler = [name.split(" ")[1] for name in conf.ignored if name.startswith("SchedulerParameters ")]
            also = f", of SchedulerParameters {', '.join(sorted(scheduler))}" if scheduler else ""
            said.append(f"{conf.path}: {sum(conf.ignored.values()):,} settings that are not modelled were ignored{also}")
        if p.estimate == "limit":
            unlimited = np.isnan(jobs.limit_s) & ~np.isfinite(self._partition_limits_s(jobs.queue.text()))
            if unlimited.any():
                said.append(f"{int(unlimited.sum()):,} of {len(jobs):,} jobs have no time limit; Slurm takes each to last a year")
        return said

    # --------------------------------------------------------------------------------------------- limits

    def _partition(self, name: str) -> Partition:
        return self.partitions.get(name, Partition())

    def _partition_limits_s(self, queues: Array) -> Floats:
        """Of a job that names none; inf = unlimited."""
        found = {name: min(self._partition(name).default_s, self._partition(name).most_s) for name in set(queues.tolist())}
        return np.array([found[name] for name in queues.tolist()], np.float64)

    def _limits_s(self, view: View) -> Floats:
        """Seconds each active job may hold its nodes, by its estimate."""
        jobs = view.jobs
        if self.params.estimate == "oracle":
            return view.oracle.remaining_s + jobs.state["restart_s"]
        asked = jobs.limit_s if jobs.estimates is None else jobs.estimates
        queues = jobs.table.queue.text()[jobs.row]
        most_s = np.array([self._partition(name).most_s for name in queues.tolist()], np.float64) if self.partitions else np.inf
        limits = np.minimum(asked, most_s)
        if np.isnan(asked).any():
            limits = np.where(np.isnan(asked), self._partition_limits_s(queues), limits)
        return np.clip(limits, np.spacing(view.now_s), YEAR_S)

    def _holders(self, view: View, memory: Memory, waiting: Array, given: Ints, demand: Demand,
                 limit_s: Floats) -> tuple[Ints, Floats, Ints]:  # fmt: skip
        """(holder, node, amounts) of those that run or that the main scheduler has just started, and the ends and the seq of all."""
        jobs, parts = view.jobs, memory["parts"]
        running = np.flatnonzero(jobs.running)
        if self.params.estimate == "oracle":
            ends_s = np.maximum(jobs.state["ready_s"][running], view.now_s) + view.oracle.remaining_s[running]
        else:
            ends_s = jobs.held_since_s[running] + limit_s[running]
        place = np.zeros(int(jobs.seq.max()) + 1, np.int64)
        place[jobs.seq[running]] = np.arange(len(running))
        job, node = np.nonzero(given > 0)
        new = np.unique(job)
        amounts = np.stack([given[job, node], demand.each[job, 1], demand.each[job, 2]])
        held = np.concatenate([place[parts[0]], len(running) + np.searchsorted(new, job)])
        all_parts = np.concatenate([held[None, :], np.concatenate([parts[1:], np.concatenate([node[None, :], amounts])], axis=1)])
        in_order = np.argsort(all_parts[0], kind="stable")
        ends_s, holders = np.concatenate([ends_s, view.now_s + limit_s[waiting[new]]]), np.concatenate([running, waiting[new]])
        return np.ascontiguousarray(all_parts[:, in_order]), ends_s, jobs.seq[holders].astype(np.int64)

    # --------------------------------------------------------------------------------------------- priority

    def _priorities(self, view: View, waiting: Array, limit_s: Floats, memory: Memory) -> tuple[Floats, Floats, Floats]:
        """(priority, points by factor, tier of the partition) of the waiting jobs."""
        p, jobs, table = self.params, view.jobs, view.jobs.table
        points = np.zeros((len(waiting), len(FACTORS)))
        queues = table.queue.text()[jobs.row[waiting]].tolist() if self.partitions else []
        tier = np.array([self._partition(name).tier for name in queues]) if self.partitions else np.zeros(len(waiting))
        own = jobs.priority[waiting]
        if not self.multifactor:
            return own, points, tier
        if p.PriorityWeightAge:
            most_s = time_s(p.PriorityMaxAge, "PriorityMaxAge")
            points[:, 0] = p.PriorityWeightAge * age(memory["calculated_s"] - jobs.eligible_s[waiting], most_s)
        if self.counts_usage:
            points[:, 1] = p.PriorityWeightFairshare * memory["people"][FACTOR, memory["who"][jobs.seq[waiting]]]
        if p.PriorityWeightJobSize or self.tres:
            sizes = sizes_of(view, waiting, limit_s)
            small = job_size(sizes, p.PriorityFavorSmall, p.has_flag("SMALL_RELATIVE_TO_TIME"))
            points[:, 2] = p.PriorityWeightJobSize * small
            points[:, 5] = self._tres_points(view, waiting, sizes)
        if p.PriorityWeightPartition:
            factor = {name: partition.job_factor for name, partition in self.partitions.items()}
            points[:, 3] = p.PriorityWeightPartition * relative(factor, table.queue.text()[jobs.row[waiting]].tolist(), 1.0)
        if p.PriorityWeightQOS:
            points[:, 4] = p.PriorityWeightQOS * relative(self.qos, table.service_class.text()[jobs.row[waiting]].tolist(), 0.0)
        return np.maximum(np.floor(points.sum(axis=1) + own), 1.0), points, tier

    def _tres_points(self, view: View, waiting: Array, sizes: Sizes) -> Floats:
        jobs = view.jobs
        nodes, gpus = view.nodes, jobs.gpus[waiting]
        asked = {"cpu": sizes.cpus, "mem": jobs.table.memory_gib[jobs.row[waiting]], "node": sizes.nodes, "gres/gpu": gpus}
        memory_gib = float(nodes.memory_gib[np.isfinite(nodes.memory_gib)].sum())
        there = {"cpu": sizes.all_cpus, "mem": memory_gib, "node": sizes.all_nodes, "gres/gpu": float(nodes.gpus.sum())}
        total = np.zeros(len(waiting))
        for name, weight in self.tres.items():
            total += weight * asked[name] / there[name] if there[name] else 0.0
        return total

    # --------------------------------------------------------------------------------------------- memory

    def _remember(self, view: View, memory: Memory) -> bool:
        """Where everybody runs, and who has used how much; whether anybody has ended."""
        jobs, period_s = view.jobs, self.params.PriorityCalcPeriod * MINUTE_S
        running = np.flatnonzero(jobs.running)
        if self.counts_usage:
            self._count(view, memory, running)
        runs = np.zeros(len(memory["known"]), np.bool_)
        runs[jobs.seq[running]] = True
        ended = bool((memory["known"] & ~runs).any())
        parts = memory["parts"][:, runs[memory["parts"][0]]]
        memory["known"] &= runs
        new = running[~memory["known"][jobs.seq[running]]]
        memory["parts"] = np.concatenate([parts, parts_of(view, new)], axis=1) if len(new) else parts
        memory["known"][jobs.seq[new]] = True
        memory["at_s"] = view.now_s
        calculated_s = float(np.floor(view.now_s / period_s) * period_s)
        again = calculated_s != memory["calculated_s"]
        memory["calculated_s"] = calculated_s
        if self.counts_usage and (again or memory.pop("newcomer", False)):
            names = [(str(account), str(user)) for account, user in memory["names"]]
            tree, p = not self.params.has_flag("NO_FAIR_TREE"), self.params
            memory["people"][FACTOR] = fair_share(names, memory["people"][USAGE], self.shares, p.FairShareDampeningFactor, tree)
        return ended

    def _count(self, view: View, memory: Memory, running: Array) -> None:
        """Bring usage up to now."""
        jobs, p = view.jobs, self.params
        half_life_s, who = time_s(p.PriorityDecayHalfLife, "PriorityDecayHalfLife"), memory["who"]
        fresh = np.flatnonzero(who[jobs.seq] < 0)
        if len(fresh):
            place = {tuple(name): i for i, name in enumerate(memory["names"])}
            account, user = jobs.table.account.text()[jobs.row[fresh]], jobs.table.user.text()[jobs.row[fresh]]
            for i, name in zip(fresh.tolist(), zip(account.tolist(), user.tolist(), strict=True), strict=True):
                who[jobs.seq[i]] = place.setdefault(name, len(place))
            if len(place) > len(memory["names"]):
                memory["newcomer"] = True
            memory["names"] = [list(name) for name in place]
            memory["people"] = np.pad(memory["people"], ((0, 0), (0, len(place) - memory["people"].shape[1])))
        people, passed_s = memory["people"].shape[1], view.now_s - memory["at_s"]
        waits = np.zeros(len(who), np.bool_)
        waits[jobs.seq[~jobs.running]] = True
        asked = memory["asked"][:, ~waits[memory["asked"][0].astype(np.int64)]]  # one that waits found no room after all
        using = np.concatenate([memory["using"][0], who[asked[0].astype(np.int64)]]), np.concatenate([memory["using"][1], asked[1]])
        rate = np.bincount(using[0].astype(np.int64), using[1], people).astype(np.float64)
        memory["people"][USAGE] = decayed(memory["people"][USAGE], rate, passed_s, half_life_s)
        memory["using"] = np.stack([who[jobs.seq[running]].astype(np.float64), billed(view, running)])
        memory["asked"] = np.zeros((2, 0))


# ------------------------------------------------------------------------------------------------- what there is, and what is wanted


@dataclass(frozen=True, slots=True)
class Supply:
    """By node: thousandths of GPUs and CPUs and MiB that are free, and whether newcomers may use it."""

    free: Ints
    up: Array
    total: Ints

    @classmethod
    def of(cls, view: View, parts: Ints) -> Supply:
        nodes = view.nodes
        total = np.full((len(nodes.gpus), 3), PLENTY)
        total[:, 0] = nodes.gpus.astype(np.int64) * GPU_MILLI
        for k, amount, unit in ((1, nodes.cpus, 1000), (2, nodes.memory_gib, 1024)):
            counted = np.isfinite(amount)
            total[counted, k] = np.rint(amount[counted] * unit)
        free = total.copy()
        for k in range(3):
            free[:, k] -= np.bincount(parts[1], parts[2 + k], len(total)).astype(np.int64)
        return cls(free, nodes.up.copy(), total)


@dataclass(frozen=True, slots=True)
class Demand:
    """Waiting jobs in their order: what they need on how many nodes, and which nodes they may use."""

    gang: Ints
    count: Ints
    each: Ints
    open_to: Array
    partition: Ints
    nodes_of_partition: Array

    @classmethod
    def of(cls, view: View, waiting: Array, supply: Supply) -> Demand:
        jobs, nodes, pools = view.jobs, view.nodes, int(view.nodes.pool.max()) + 1
        usable = np.zeros((len(waiting), pools + 1), np.bool_)  # the last: no pool
        usable[np.arange(len(waiting))[:, None], jobs.pools[waiting]] = True
        open_to = usable[:, :pools][:, nodes.pool]
        _, partition = np.unique(jobs.queue[waiting], return_inverse=True)
        of_partition = np.zeros((int(partition.max()) + 1, len(nodes.pool)), np.bool_)
        np.logical_or.at(of_partition, partition, open_to)
        gang, state = jobs.state["milli"][waiting].astype(np.int64), jobs.state
        count, each_gpus = split_over_nodes(gang, open_to, supply.total[:, 0])
        per = np.maximum(count, 1)
        more = [-(-state[name][waiting].astype(np.int64) // per) for name in ("cpu_milli", "memory_mib")]
        return cls(gang, count, np.stack([each_gpus, *more], axis=1), open_to, partition.reshape(-1).astype(np.int64), of_partition)

    def take(self, which: Array) -> Demand:
        return Demand(self.gang[which], self.count[which], self.each[which], self.open_to[which], self.partition[which],
                      self.nodes_of_partition)  # fmt: skip

    def lines(self, view: View, waiting: Array, given: Ints) -> tuple[tuple[Line, ...], Array]:
        """Lines of the jobs that start, and their places."""
        found, places = list[Line](), np.flatnonzero(given[:, 0] >= 0)
        for place in places.tolist():
            row = int(view.jobs.row[waiting[place]])
            nodes = np.flatnonzero(given[place])
            if self.count[place] == 0 or not len(nodes):
                found.append(Line(row, float(self.gang[place]) / GPU_MILLI))
            else:
                found += [Line(row, float(given[place, node]) / GPU_MILLI, node=int(node)) for node in nodes.tolist()]
        return tuple(found), places


def split_over_nodes(gang: Ints, open_to: Array, node_milli: Ints) -> tuple[Ints, Ints]:
    """(nodes, thousandths on each) of every gang: the fewest nodes that can hold it in equal parts; (0, 1 GPU) where none can."""
    largest = np.where(open_to, node_milli, 0).max(axis=1, initial=1)
    count = np.maximum(-(-gang // largest), 1)
    each = whole_gpus(gang, count)
    enough = (open_to & (node_milli >= each[:, None])).sum(axis=1) >= count
    for job in np.flatnonzero(~enough).tolist():
        for more in range(int(count[job]) + 1, int(open_to[job].sum()) + 1):
            part = int(whole_gpus(gang[job : job + 1], np.array([more]))[0])
            if (open_to[job] & (node_milli >= part)).sum() >= more and (more - 1) * part < gang[job]:
                count[job], each[job] = more, part
                break
        else:
            count[job], each[job] = 0, GPU_MILLI
    return count, each


def whole_gpus(gang: Ints, count: Ints) -> Ints:
    return np.where(gang > GPU_MILLI, -(-gang // (count * GPU_MILLI)) * GPU_MILLI, gang)


def ordered(view: View, waiting: Array, priority: Floats, tier: Floats) -> Array:
    """Higher tier, then higher priority, then earlier submission."""
    return waiting[np.lexsort((view.jobs.seq[waiting], view.jobs.submit_s[waiting], -priority, -tier))]


def sizes_of(view: View, waiting: Array, limit_s: Floats) -> Sizes:
    jobs, nodes = view.jobs, view.nodes
    gpus, cpus, counted = jobs.gpus[waiting], jobs.table.cpus[jobs.row[waiting]], np.isfinite(nodes.cpus)
    in_cpus = bool(counted.all() and len(counted)) and bool((cpus > 0).any())
    each = max(float(nodes.gpus.max(initial=1)), 1.0)
    return Sizes(
        nodes=np.maximum(np.ceil(gpus / each), 1.0), cpus=cpus if in_cpus else np.where(gpus > 0, gpus, cpus), limit_min=limit_s / MINUTE_S,
        all_nodes=float(len(nodes.gpus)), all_cpus=float(nodes.cpus.sum()) if in_cpus else max(float(nodes.gpus.sum()), 1.0),
    )  # fmt: skip


def billed(view: View, rows: Array) -> Floats:
    """What a job's use counts a second: its GPUs; its CPUs, if it has none."""
    gpus = view.jobs.gpus[rows]
    return np.where(gpus > 0, gpus, view.jobs.table.cpus[view.jobs.row[rows]])


def parts_of(view: View, running: Array) -> Ints:
    """(seq, node, GPU milli, CPU milli, MiB) of what these jobs hold; CPUs and memory go with the GPUs."""
    found = list[tuple[int, ...]]()
    state = view.jobs.state
    for job in running.tolist():
        nodes, gpus = view.holdings(int(view.jobs.row[job]))
        seq, cpu, mib = int(state["seq"][job]), int(state["cpu_milli"][job]), int(state["memory_mib"][job])
        total = sum(gpus)
        for node, amount in zip(nodes, gpus, strict=True):
            part = amount / total if total else 1 / len(nodes)
            found.append((seq, node, round(amount * GPU_MILLI), round(cpu * part), round(mib * part)))
    return np.array(found, np.int64).reshape(-1, 5).T


def by_name(pairs: tuple[str, ...], where: str) -> dict[str, float]:
    """NAME=NUMBER each."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.rpartition("=")
        check(bool(equals and name), f"{where}: {pair!r} is not NAME=NUMBER")
        found[name] = number(value, f"{where}: {name}")
    return found

