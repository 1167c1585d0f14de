"""Small workloads, and what became of them, in the words of a hand calculation: `held("a") == [(0, 50), (60, 110)]`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from trainmaster.cluster.cluster import Cluster
from trainmaster.cluster.spec import parse_cluster
from trainmaster.engine.core import Setup
from trainmaster.engine.loop import Simulation
from trainmaster.engine.result import RunResult
from trainmaster.policies.base import Policy
from trainmaster.policies.registry import find_policy
from trainmaster.workload.jobs import Job, JobTable


def job(id: str, submit_s: float, gpus: float, work_s: float, **more: Any) -> Job:
    return Job(id=id, submit_s=submit_s, gpus=gpus, work=work_s, **more)


def cluster(spec: str | Cluster) -> Cluster:
    return spec if isinstance(spec, Cluster) else parse_cluster(spec)


def policy(name: str, **params: Any) -> Policy[Any]:
    return find_policy(name)(**params)


@dataclass(frozen=True, slots=True)
class Fate:
    """One job at the end. NaN: it never happened."""

    id: str
    milli: int  # thousandths of a GPU asked
    submit_s: float
    start_s: float
    finish_s: float
    preemptions: int
    failures: int


@dataclass(frozen=True, slots=True)
class Holding:
    """One stretch in which a job held the same GPUs: thousandths by node, in the order in which they were taken."""

    id: str
    start_s: float
    end_s: float
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Instant:
    """Who holds what from `at_s` until the next change."""

    at_s: float
    holdings: Sequence[Holding]
    capacity_milli: dict[int, int]  # of the nodes that are up
    asked_milli: dict[str, int]

    def used_milli(self) -> dict[int, int]:
        used: dict[int, int] = defaultdict(int)
        for holding in self.holdings:
            for node, milli in holding.parts:
                used[node] += milli
        return used

    def gpus_overcommitted(self) -> list[int]:
        """Nodes that give more than they have now."""
        return [node for node, milli in self.used_milli().items() if milli > self.capacity_milli.get(node, 0)]

    def gangs_split(self) -> list[str]:
        """Jobs that hold anything but exactly what they asked for, in one holding."""
        held: dict[str, list[int]] = defaultdict(list)
        for holding in self.holdings:
            held[holding.id].append(sum(milli for _, milli in holding.parts))
        return [id for id, amounts in held.items() if amounts != [self.asked_milli[id]]]

    def free_gpus(self) -> int:
        used = self.used_milli()
        return sum((milli - used.get(node, 0)) // 1000 for node, milli in self.capacity_milli.items())


class Schedule:
    """What a run did, whichever engine ran it."""

    def __init__(self, fates: Iterable[Fate], holdings: Iterable[Holding], cluster: Cluster, changes: Sequence[tuple[float, int, bool]],
                 result: RunResult | None = None) -> None:
        """`changes`: (time, node, up) in order, from the nodes that are present at the start."""
        self.fates = {fate.id: fate for fate in fates}
        self.holdings = list(holdings)
        self.cluster, self.changes = cluster, changes
        self.result = result  # of the real engine

    def held(self, id: str) -> list[tuple[float, float]]:
        return [(holding.start_s, holding.end_s) for holding in self.holdings if holding.id == id]

    def nodes(self, id: str) -> list[tuple[int, ...]]:
        """The nodes of each holding, in the order in which they were taken."""
        return [tuple(node for node, _ in holding.parts) for holding in self.holdings if holding.id == id]

    def finish_s(self, id: str) -> float:
        return self.fates[id].finish_s

    def jct_s(self, id: str) -> float:
        return self.fates[id].finish_s - self.fates[id].submit_s

    def average_jct_s(self) -> float:
        return sum(map(self.jct_s, self.fates)) / len(self.fates)

    def jobs_csv(self) -> str:
        rows = [f"{f.id},{f.start_s!r},{f.finish_s!r},{f.preemptions}" for f in self.fates.values()]
        return "\n".join(["job_id,start_s,finish_s,preemptions", *rows]) + "\n"

    def allocations_csv(self) -> str:
        rows = [f"{h.id},{h.start_s!r},{h.end_s!r},{' '.join(f'{node}:{milli}' for node, milli in h.parts)}" for h in self.holdings]
        return "\n".join(["job_id,start_s,end_s,nodes", *rows]) + "\n"

    @property
    def allocations(self) -> Iterator[Instant]:
        """Every stretch of time between two changes of who holds what."""
        times = sorted({time for h in self.holdings for time in (h.start_s, h.end_s)} | {time for time, _, _ in self.changes})
        asked = {fate.id: fate.milli for fate in self.fates.values()}
        up = {node for node, here in enumerate(self.cluster.present) if here}
        changes, current = list(self.changes), list[Holding]()
        coming = sorted(self.holdings, key=lambda holding: holding.start_s, reverse=True)
        for at_s, _ in pairwise([*times, math.inf]):
            while changes and changes[0][0] <= at_s:
                _, node, is_up = changes.pop(0)
                (up.add if is_up else up.discard)(node)
            while coming and coming[-1].start_s <= at_s:
                current.append(coming.pop())
            current = [holding for holding in current if holding.end_s > at_s]
            yield Instant(at_s, current, {node: self.cluster.nodes[node].gpus * 1000 for node in up}, asked)


def simulate(jobs: Sequence[Job] | JobTable, on: str | Cluster, policy: Policy[Any], restart_cost_s: float | None = 0.0, *,
             interpreted: bool = False, rules: Any = None, model: Any = None, **setup: Any) -> Schedule:
    """The real engine."""
    simulation = prepare(jobs, on, policy, restart_cost_s, interpreted=interpreted, rules=rules, model=model, **setup)
    return schedule_of(simulation, simulation.run())


def prepare(jobs: Sequence[Job] | JobTable, on: str | Cluster, policy: Policy[Any], restart_cost_s: float | None = 0.0, *,
            interpreted: bool = False, rules: Any = None, model: Any = None, **setup: Any) -> Simulation:
    """A run that has not begun."""
    table = jobs if isinstance(jobs, JobTable) else JobTable.of(jobs)
    options = {name: value for name, value in (("rules", rules), ("model", model)) if value is not None}
    return Simulation(table, cluster(on), policy, Setup(restart_cost_s=restart_cost_s, **setup), interpreted=interpreted, **options)


def schedule_of(simulation: Simulation, result: RunResult) -> Schedule:
    jobs, a = result.jobs, result.allocations
    fates = [
        Fate(str(jobs.id[row]), int(jobs.gpu_milli[row]), float(jobs.submit_s[row]), float(result.start_s[row]),
             float(result.finish_s[row]), int(result.preemptions[row]), int(result.failures[row]))
        for row in range(len(jobs))
    ]  # fmt: skip
    holdings = []
    for i, row in enumerate(a.job):
        parts = zip(a.node[a.offset[i] : a.offset[i + 1]].tolist(), a.gpu_milli[a.offset[i] : a.offset[i + 1]].tolist(), strict=True)
        holdings.append(Holding(str(jobs.id[row]), float(a.start_s[i]), float(a.end_s[i]), tuple(parts)))
    end_s = max((holding.end_s for holding in holdings), default=0.0)
    return Schedule(fates, holdings, result.cluster, node_changes(result.cluster, simulation.setup, end_s), result)


def node_changes(on: Cluster, setup: Setup, end_s: float) -> list[tuple[float, int, bool]]:
    """(time, node, up): a node is up while the timeline has it and it is not broken."""
    events = [(c.at_s, node, "here", up) for c in on.timeline for up, nodes in ((False, c.remove), (True, c.add)) for node in nodes]
    if setup.faults:
        for time_s, node, up in setup.faults.events(len(on.nodes), setup.seed):
            if time_s > end_s:
                break
            events.append((time_s, node, "well", up))
    facts = {(node, "here"): bool(here) for node, here in enumerate(on.present)} | {(node, "well"): True for node in range(len(on.nodes))}
    changes = []
    for time_s, node, fact, value in sorted(events, key=lambda event: event[0]):
        facts[node, fact] = value
        changes.append((time_s, node, facts[node, "here"] and facts[node, "well"]))
    return changes
