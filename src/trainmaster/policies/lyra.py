"""Lyra: training on loaned inference servers, and elastic jobs that take up what is left.

Li et al., "Lyra: Elastic Scheduling for Deep Learning Clusters", EuroSys 2023, sections 4 and 5 (arXiv 2202.07896: Aryl).

    reclaim    servers that are asked back are emptied: first elastic jobs give up workers beyond their minimum there, which is free;
               then, server by server, the one of least  sum over its jobs of 1 / (servers the job spans); its jobs are preempted,
               and count nowhere any more                                                                        [section 4]
    base       inelastic jobs whole, elastic ones their `min_gpus`: those that run stay, others start, the shortest first, on the
               training servers first                                                                          [section 5.1]
    flexible   workers beyond the minimum, up to `max_gpus`: a knapsack in which each job is a group, its item k is k more GPUs of weight
               k and value W / f(base) - W / f(base + k), the seconds they save; on loaned servers first           [section 5.2]

Loaned servers are nodes with a label that come and go by the `timeline` of the cluster file; one that is known to leave is asked
back (`leaves_s`, by `notice_s` there). `exact=true` empties the servers whose jobs are fewest, by an integer program, in place of
the greedy rule. A preempted job goes back to the queue with its work; losing it is a matter of `--faults`.
A job that accepts one type alone never spans both kinds of servers, if their types differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Decision, Floats, Line, Memory, Policy, View, policy
from trainmaster.policies.speeds import seconds_left

if TYPE_CHECKING:
    from trainmaster.workload.jobs import JobTable

Ints = NDArray[np.int64]
BIBTEX = """@inproceedings{lyra,
  author = {Li, Jiamin and Xu, Hong and Zhu, Yibo and Liu, Zherui and Guo, Chuanxiong and Wang, Cong},
  title = {Lyra: Elastic Scheduling for Deep Learning Clusters}, booktitle = {EuroSys}, year = {2023}}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    estimate: str = "oracle"  # of run times: oracle | limit | predicted | a column of the trace
    exact: bool = False  # reclaim so that the fewest jobs are preempted


@policy(name="lyra", paper="Li et al., EuroSys 2023", needs=("oracle", "profile"), params=Params, bibtex=BIBTEX)
class Lyra(Policy[Params]):
    def least_gpus(self, jobs: JobTable) -> Floats:
        return np.where(np.isnan(jobs.min_gpus), jobs.gpus, jobs.min_gpus)

    def decide(self, view: View, memory: Memory) -> Decision:
        jobs, nodes = view.jobs, view.nodes
        base = np.where(np.isnan(jobs.min_gpus), jobs.gpus, jobs.min_gpus).astype(np.int64)
        most = np.where(np.isnan(jobs.max_gpus), base, jobs.max_gpus).astype(np.int64)
        held = {job: dict(zip(*view.holdings(int(jobs.row[job])), strict=True)) for job in np.flatnonzero(jobs.running).tolist()}
        leaving = self.leaving(view, held, base)
        usable = nodes.up.copy()
        usable[leaving] = False
        room = Room(np.where(usable, nodes.gpus, 0).astype(np.int64), np.array([bool(name) for name in nodes.label]), nodes.type)
        parts = {job: room.keep(held[job], int(base[job])) for job in held}
        parts = {job: part for job, part in parts.items() if part}
        left = [self.left(view, job, int(most[job])) for job in range(len(jobs))]
        waiting = [job for job in range(len(jobs)) if job not in parts]
        shortest = [float(seconds[min(int(gpus), len(seconds) - 1)]) for seconds, gpus in zip(left, base, strict=True)]
        for job in sorted(waiting, key=lambda job: (shortest[job], job)):
            if part := room.take(int(base[job]), loaned_first=False):
                parts[job] = part
        running = sorted(parts)
        extra = flexible(room.total(), [left[job] for job in running], base[running], most[running])
        for job, more in zip(running, extra.tolist(), strict=True):
            room.grow(parts[job], more, held.get(job, {}))
        lines = [Line(int(jobs.row[job]), float(count), node=node) for job in running for node, count in sorted(parts[job].items())]
        return Decision(lines=tuple(lines), vacate=tuple(leaving))

    def left(self, view: View, job: int, most: int) -> Floats:
        """Seconds left on 0, 1, … GPUs, true or as estimated."""
        seconds = seconds_left(view, job, most)
        if self.params.estimate == "oracle":
            return seconds
        asked = min(int(view.jobs.gpus[job]), len(seconds) - 1)
        return seconds / seconds[asked] * float(view.jobs.remaining_s[job])

    def leaving(self, view: View, held: Mapping[int, Mapping[int, float]], base: Ints) -> list[int]:
        """Of each label, as many servers as are asked back: those it costs least to empty."""
        nodes, chosen = view.nodes, list[int]()
        asked = np.isfinite(nodes.leaves_s)
        for label in dict.fromkeys(nodes.label[asked].tolist()):
            servers = np.flatnonzero((nodes.label == label) & (nodes.up | nodes.vacating | asked)).tolist()
            tenants = {server: pinned_down(server, held, base) for server in servers}
            rule = fewest_preempted if self.params.exact else reclaim
            chosen += rule(tenants, int((asked & (nodes.label == label)).sum()))
        return sorted(chosen)


def pinned_down(server: int, held: Mapping[int, Mapping[int, float]], base: Ints) -> list[tuple[int, int]]:
    """(job, servers it spans) of the jobs that need this server for their minimum: others give up the workers they have there."""
    return [
        (job, len(parts)) for job, parts in held.items()
        if server in parts and sum(parts.values()) - parts[server] < base[job]
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- reclaiming


def reclaim(tenants: Mapping[int, Sequence[tuple[int, int]]], wanted: int) -> list[int]:
    """Servers to give back, the cheapest one by one. `tenants`: the (job, servers it spans) of each server."""
    gone, chosen = set[int](), list[int]()
    while len(chosen) < min(wanted, len(tenants)):
        cost = {s: sum(1 / spans for job, spans in jobs if job not in gone) for s, jobs in tenants.items() if s not in chosen}
        server = min(cost, key=lambda s: (round(cost[s], 12), s))
        chosen.append(server)
        gone |= {job for job, _ in tenants[server]}
    return chosen


def fewest_preempted(tenants: Mapping[int, Sequence[tuple[int, int]]], wanted: int) -> list[int]:
    """Servers to give back with the fewest jobs preempted: an integer program, x a server, y a job, y >= x where it runs."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    servers, jobs = sorted(tenants), sorted({job for some in tenants.values() for job, _ in some})
    n, wanted = len(servers), min(wanted, len(tenants))
    pairs = [(i, n + jobs.index(job)) for i, server in enumerate(servers) for job, _ in tenants[server]]
    rows = np.repeat(np.arange(len(pairs)), 2)
    spread = csr_array((np.tile([1.0, -1.0], len(pairs)), (rows, np.array(pairs, int).ravel())), shape=(len(pairs), n + len(jobs)))
    count = np.concatenate([np.ones(n), np.zeros(len(jobs))])
    limits: list[Any] = [LinearConstraint(count[None], wanted, wanted)]
    if pairs:
        limits.append(LinearConstraint(spread, -np.inf, 0))
    cost = np.concatenate([np.arange(n) * 1e-6 / max(n, 1), np.ones(len(jobs))])  # of equals, the first servers
    found = milp(cost, constraints=limits, integrality=np.ones(n + len(jobs)), bounds=Bounds(0, 1))
    return [server for server, x in zip(servers, found.x, strict=False) if x > 0.5]


# ------------------------------------------------------------------------------------------------- growing


def flexible(capacity: int, left: Sequence[Floats], base: Ints, most: Ints) -> Ints:
    """GPUs beyond its base for each job: the knapsack whose items save the most seconds in all."""
    from trainmaster.policies.kernels.knapsack import choose

    groups = [
        [(k, seconds[low] - seconds[low + k]) for k in range(1, min(high, len(seconds) - 1) - low + 1)]
        for seconds, low, high in zip(left, base.tolist(), most.tolist(), strict=True)
    ]
    groups = [[(k, value) for k, value in group if value > 0] for group in groups]
    weights = np.array([k for group in groups for k, _ in group], np.int64)
    values = np.array([value for group in groups for _, value in group], np.float64)
    begins = np.concatenate([[0], np.cumsum([len(group) for group in groups])]).astype(np.int64)
    chosen = choose(capacity, begins, weights, values)
    return np.array([weights[i] if i >= 0 else 0 for i in chosen.tolist()], np.int64)


@dataclass(slots=True)
class Room:
    """Free GPUs by node while a decision is made."""

    free: Ints
    loaned: NDArray[np.bool_]
    type: NDArray[np.object_]

    def total(self) -> int:
        return int(self.free.sum())

    def keep(self, held: Mapping[int, float], base: int) -> dict[int, int]:
        """A running job's base, where it is: on training servers first; nothing if too little of it is left there."""
        found: dict[int, int] = {}
        for node in sorted(held, key=lambda n: (bool(self.loaned[n]), -held[n], n)):
            count = min(int(held[node]), int(self.free[node]), base - sum(found.values()))
            if count > 0:
                found[node] = count
        if sum(found.values()) < base:
            return {}
        for node, count in found.items():
            self.free[node] -= count
        return found

    def take(self, gpus: int, *, loaned_first: bool) -> dict[int, int]:
        """A gang on nodes of one type: the tightest node that holds it, else the freest ones; {} where there is no room."""
        for loaned in (loaned_first, not loaned_first):
            for type_ in dict.fromkeys(self.type[self.loaned == loaned].tolist()):
                mine = np.flatnonzero((self.loaned == loaned) & (self.type == type_) & (self.free > 0))
                if self.free[mine].sum() < gpus:
                    continue
                fits = mine[self.free[mine] >= gpus]
                order = [int(fits[np.argmin(self.free[fits])])] if len(fits) else mine[np.argsort(-self.free[mine], kind="stable")].tolist()
                return self._fill(order, gpus)
        return {}

    def grow(self, part: dict[int, int], more: int, held: Mapping[int, float]) -> None:
        """Workers beyond the base: where it has them already, then on loaned servers, then on others, of the job's type."""
        type_ = self.type[next(iter(part))]
        there = [n for n in held if self.free[n] > 0]
        mine = np.flatnonzero((self.type == type_) & (self.free > 0))
        rest = sorted(mine.tolist(), key=lambda n: (not self.loaned[n], n not in part, self.free[n], n))
        order = [*sorted(there, key=lambda n: (-held[n], n)), *(n for n in rest if n not in there)]
        for node, count in self._fill(order, more).items():
            part[node] = part.get(node, 0) + count

    def _fill(self, order: Sequence[int], gpus: int) -> dict[int, int]:
        found: dict[int, int] = {}
        for node in order:
            count = min(gpus - sum(found.values()), int(self.free[node]))
            if count > 0:
                found[node] = count
                self.free[node] -= count
        return found
