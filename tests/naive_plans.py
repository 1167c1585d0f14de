"""What a Decision's lines do, once more, in plain Python: no kernels, no log of parts, the ledger built anew at every question.

The rules are those of the docstrings of `Line` and `engine/lines.py`, for untyped nodes without CPUs. Rates come from a function
of (GPUs, GPUs asked, config, neighbours), so that who shares with whom matters at every instant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from naive import Ledger
from schedules import Fate, Holding, Schedule
from trainmaster.cluster.cluster import Cluster
from trainmaster.policies.base import Line
from trainmaster.workload.jobs import JobTable

Rate = Callable[[float, float, int, int], float]
Plan = Callable[[Sequence[str]], Sequence[tuple[str, Sequence[Line]]]]  # ids of active jobs -> lines, in order
Parts = list[tuple[int, int, int, int, int]]  # node, milli, shared GPU or -1, CPUs, memory


@dataclass(slots=True, eq=False)
class Gang:
    """A job in flight."""

    row: int
    id: str
    submit_s: float
    asked: float
    max_nodes: int
    left: float
    state: str = "future"
    parts: Parts = field(default_factory=list)
    milli: int = 0  # GPUs of a placement being tried; the ledger reads it
    cpu_milli: int = 0
    memory_mib: int = 0
    share_milli: int = 1000
    nodes: int = 0
    config: int = -1
    rate: float = 0.0
    since_s: float = 0.0
    ready_s: float = 0.0
    held_since_s: float = 0.0
    attained_gpu_s: float = 0.0
    overhead_gpu_s: float = 0.0
    start_s: float = math.nan
    finish_s: float = math.nan
    preemptions: int = 0
    resizes: int = 0
    migrations: int = 0

    def counts(self) -> dict[int, float]:
        """GPUs by node."""
        found: dict[int, float] = {}
        for node, milli, *_ in self.parts:
            found[node] = found.get(node, 0.0) + milli / self.share_milli
        return found

    def slots(self) -> set[tuple[int, int]]:
        return {(node, gpu) for node, _, gpu, *_ in self.parts if gpu >= 0}

    def due_s(self) -> float:
        return max(self.since_s, self.ready_s) + self.left / self.rate

    def settle(self, now_s: float) -> None:
        self.left -= max(now_s - max(self.since_s, self.ready_s), 0.0) * self.rate
        self.since_s = now_s


@dataclass(slots=True)
class Wanted:
    job: Gang
    lines: Sequence[Line]

    @property
    def gpus(self) -> float:
        return sum(line.gpus for line in self.lines)

    @property
    def share(self) -> int:
        return round(self.lines[0].share * 1000)

    def named(self) -> dict[int, float] | None:
        """GPUs by node, if the lines name their nodes."""
        if any(line.node is None for line in self.lines):
            return None
        found: dict[int, float] = {}
        for line in self.lines:
            found[line.node] = found.get(line.node, 0.0) + line.gpus
        return found


class NaivePlans:
    def __init__(self, table: JobTable, cluster: Cluster, plan: Plan, rate: Rate, restart_cost_s: float, choose: Any) -> None:
        self.cluster, self.plan, self.rate, self.restart_cost_s, self.choose = cluster, plan, rate, restart_cost_s, choose
        columns = (table.id, table.submit_s.tolist(), table.gpus.tolist(), table.max_nodes.tolist(), table.work.tolist())
        self.jobs = [Gang(row, *values) for row, values in enumerate(zip(*columns, strict=True))]
        self.log: list[tuple[Gang, Holding]] = []
        self.nodes = list(range(len(cluster.nodes)))
        self.before: dict[Gang, Parts] = {}  # who gave its GPUs back in the present decision: what it had

    def of(self, *states: str) -> list[Gang]:
        return [job for job in self.jobs if job.state in states]

    def run(self) -> Schedule:
        while True:
            coming = [job.submit_s for job in self.of("future")] + [job.due_s() for job in self.of("running") if job.rate]
            if not coming:
                break
            now_s = min(coming)
            for job in self.of("running"):
                if job.rate and job.due_s() <= now_s:
                    self.end_holding(job, now_s)
                    job.state, job.finish_s, job.parts = "ended", now_s, []
            for job in self.of("future"):
                if job.submit_s <= now_s:
                    job.state = "waiting"
            self.decide(now_s)
            for job in self.of("running"):
                job.settle(now_s)
                job.rate = self.rate(sum(job.counts().values()), job.asked, job.config, len(self.neighbours(job)))
        for job in self.of("running"):
            raise AssertionError(f"{job.id} runs for ever")
        fates = [Fate(j.id, round(j.asked * 1000), j.submit_s, j.start_s, j.finish_s, j.preemptions, 0) for j in self.jobs]
        return Schedule(fates, [holding for _, holding in self.log], self.cluster, [])

    def neighbours(self, job: Gang) -> list[Gang]:
        return [other for other in self.of("running") if other is not job and other.slots() & job.slots()]

    # --------------------------------------------------------------------------------------------- one decision

    def decide(self, now_s: float) -> None:
        active = {job.id: job for job in self.of("waiting", "running")}
        wanted = [Wanted(active[id], lines) for id, lines in self.plan(list(active))]
        for job in self.of("running"):
            if job not in [want.job for want in wanted]:
                self.stop(job, now_s)
        groups: list[list[Wanted]] = []
        partners: dict[int, list[Wanted]] = {}
        for want in wanted:
            partner = want.lines[0].partner
            group = [] if partner is None else partners.setdefault(partner, [])
            if not group:
                groups.append(group)
            group.append(want)
        for group in groups:
            group.sort(key=lambda want: (-want.gpus, want.job.state != "running"))
        for group in groups:
            first_stays = False
            for want in group:
                job = want.job
                if job.state != "running":
                    continue
                if self.unchanged(want) and (not first_stays or (job.slots() and job.slots() <= group[0].job.slots())):
                    first_stays |= want is group[0]
                elif not self.grows(want):
                    self.before[job], job.parts = job.parts, []
        hosts = [self.stay(group, now_s) for group in groups]
        for group, host in zip(groups, hosts, strict=True):
            self.place(group, host, now_s)

    def unchanged(self, want: Wanted) -> bool:
        job, named = want.job, want.named()
        same = want.gpus == sum(job.counts().values()) if named is None else named == job.counts()
        return same and (want.share, want.lines[0].config) == (job.share_milli, job.config)

    def grows(self, want: Wanted) -> bool:
        job = want.job
        whole = job.share_milli == want.share == 1000
        return whole and want.lines[0].partner is None and want.named() is None and want.gpus > sum(job.counts().values())

    def stay(self, group: list[Wanted], now_s: float) -> Gang | None:
        host = None
        for want in group:
            job = want.job
            if job in self.before and (parts := self.in_place(want)) is not None:
                slots = {(node, gpu) for node, _, gpu, *_ in parts}
                if host is None or slots <= host.slots():
                    self.change(want, parts, now_s, moved=False)
            if host is None:
                if job in self.before or job.state != "running":
                    return None
                host = job
        return host

    def place(self, group: list[Wanted], host: Gang | None, now_s: float) -> None:
        for want in group:
            job = want.job
            if job.state == "running" and job not in self.before and self.grows(want):
                self.before[job], job.parts = job.parts, []
                parts = self.grown(want) or self.anew(want)
                if parts:
                    self.change(want, parts, now_s, moved=True)
                else:
                    job.parts = self.before.pop(job)
            elif job.state == "waiting":
                parts = self.anew(want) if host is None else self.inside(want, host)
                if parts:
                    self.start(want, parts, now_s)
            elif host is not None and job is not host and job not in self.before and not (job.slots() and job.slots() <= host.slots()):
                self.before[job], job.parts = job.parts, []
            if job in self.before:
                parts = self.in_place(want) if host is None else None
                moved = parts is None
                parts = (self.anew(want) if host is None else self.inside(want, host)) if parts is None else parts
                if parts:
                    self.change(want, parts, now_s, moved=moved)
                else:
                    self.stop(job, now_s)
            if host is None and job.state == "running":
                host = job

    # --------------------------------------------------------------------------------------------- where to

    def ledger(self) -> Ledger:
        return Ledger(self.cluster, set(self.nodes), self.of("running"))  # who gave its GPUs back has no parts

    def put(self, ledger: Ledger, node: int, gpus: float, share: int, known: Sequence[int] = ()) -> Parts | None:
        """So many GPUs of a node, of shared ones those that are known first."""
        parts: Parts = []
        each = round(min(gpus, 1) * share)
        for number in range(math.ceil(gpus)) if each < 1000 else [-1]:
            gpu, milli = -1, round(gpus * 1000)
            if each < 1000:
                unshared = [gpu for gpu, used in enumerate(ledger.shared[node]) if not used]
                gpu, milli = known[number] if number < len(known) else unshared[0] if unshared else -2, each
                if gpu == -2 or ledger.shared[node][gpu] + each > 1000 or (not ledger.shared[node][gpu] and ledger.milli[node] < 1000):
                    return None
            elif ledger.milli[node] < milli:
                return None
            ledger.take(node, milli, gpu, 0, 0)
            parts.append((node, milli, gpu, 0, 0))
        return parts

    def put_all(self, counts: dict[int, float], share: int, known: dict[int, list[int]]) -> Parts | None:
        ledger, parts = self.ledger(), Parts()
        for node, gpus in counts.items():
            if (more := self.put(ledger, node, gpus, share, known.get(node, ()))) is None:
                return None
            parts += more
        return parts

    def in_place(self, want: Wanted) -> Parts | None:
        job, had = want.job, self.before[want.job]
        job.parts, counts = had, {}
        counts, slots = job.counts(), [(node, gpu) for node, _, gpu, *_ in had if gpu >= 0]
        job.parts = []
        if (named := want.named()) is not None:
            if any(gpus > counts.get(node, 0) for node, gpus in named.items()):
                return None
            counts = named
        else:
            excess = sum(counts.values()) - want.gpus
            if excess < 0:
                return None
            order = list(counts)
            for node in sorted(order, key=lambda node: (counts[node], -order.index(node))):
                gone = min(excess, counts[node])
                counts[node] -= gone
                excess -= gone
            counts = {node: gpus for node, gpus in counts.items() if gpus}
        return self.put_all(counts, want.share, {node: [gpu for n, gpu in slots if n == node] for node in counts})

    def grown(self, want: Wanted) -> Parts | None:
        job, ledger = want.job, self.ledger()
        job.parts = self.before[job]
        counts = job.counts()
        job.parts = []
        missing = want.gpus - sum(counts.values())
        for node in counts:
            extra = min(missing, ledger.milli[node] // 1000 - counts[node])
            counts[node] += extra
            missing -= extra
        parts: Parts = []
        for node, gpus in counts.items():
            parts += self.put(ledger, node, gpus, 1000) or []
        if missing:
            if job.max_nodes and len(counts) >= job.max_nodes:
                return None
            rest = Gang(-1, "", 0, 0, max(job.max_nodes - len(counts), 0), 0, milli=round(missing * 1000))
            if not ledger.place(rest, self.nodes, self.choose):
                return None
            parts += rest.parts
        return parts

    def anew(self, want: Wanted) -> Parts | None:
        job, ledger, parts = want.job, self.ledger(), Parts()
        fraction = want.lines[0].partner is None and want.gpus <= 1 and min(want.gpus, want.share / 1000) < 1
        for line in want.lines:
            whole = Gang(-1, "", 0, 0, 0, 0, milli=round(line.gpus * want.share) if fraction else math.ceil(line.gpus) * 1000)
            used = len({part[0] for part in parts})
            if line.node is None and job.max_nodes:  # whoever names nodes knows what he does
                whole.max_nodes = job.max_nodes - used
                if used >= job.max_nodes:
                    return None
            if not ledger.place(whole, self.nodes if line.node is None else [line.node], self.choose):
                return None
            parts += whole.parts
        each = round(min(want.gpus, 1) * want.share)
        if fraction or each == 1000:
            return parts
        for part in parts:
            ledger.take(*part, sign=-1)
        shared: Parts = []
        for node, milli, *_ in parts:
            for _ in range(milli // 1000):
                shared += self.put(ledger, node, min(want.gpus, 1), want.share) or []
        return shared

    def inside(self, want: Wanted, host: Gang) -> Parts | None:
        ledger, each = self.ledger(), round(min(want.gpus, 1) * want.share)
        room: dict[int, list[int]] = {}
        for node, _, gpu, *_ in host.parts:
            if gpu >= 0:
                room.setdefault(node, [])
                if ledger.shared[node][gpu] + each <= 1000:
                    room[node].append(gpu)
        counts = want.named()
        if counts is None:
            enough = [node for node in room if len(room[node]) >= want.gpus]
            counts, missing = {}, want.gpus
            for node in [min(enough, key=lambda node: len(room[node]))] if enough else room:
                counts[node] = min(missing, len(room[node]))
                missing -= counts[node]
            if missing > 0:
                return None
        if any(math.ceil(gpus) > len(room.get(node, ())) for node, gpus in counts.items()):
            return None
        return self.put_all({node: gpus for node, gpus in counts.items() if gpus}, want.share, room)

    # --------------------------------------------------------------------------------------------- a job's life

    def start(self, want: Wanted, parts: Parts, now_s: float) -> None:
        job = want.job
        job.state, job.since_s, job.ready_s, job.rate = "running", now_s, now_s + self.restart_cost_s, 0.0
        job.start_s = now_s if math.isnan(job.start_s) else job.start_s
        self.hold(want, parts, now_s)

    def change(self, want: Wanted, parts: Parts, now_s: float, *, moved: bool) -> None:
        job = want.job
        job.parts = self.before.pop(job)
        gpus = sum(job.counts().values())
        self.end_holding(job, now_s)
        resized = gpus != want.gpus
        if resized or moved:
            job.ready_s = max(job.ready_s, now_s + self.restart_cost_s)
        job.resizes += resized
        job.migrations += moved and not resized
        self.hold(want, parts, now_s)

    def hold(self, want: Wanted, parts: Parts, now_s: float) -> None:
        job = want.job
        job.parts, job.share_milli, job.config, job.held_since_s = parts, want.share, want.lines[0].config, now_s
        by_node: dict[int, int] = {}
        for node, milli, *_ in parts:
            by_node[node] = by_node.get(node, 0) + milli
        self.log.append((job, Holding(job.id, now_s, math.nan, tuple(by_node.items()))))

    def stop(self, job: Gang, now_s: float) -> None:
        if job in self.before:
            job.parts = self.before.pop(job)
        self.end_holding(job, now_s)
        job.state, job.parts = "waiting", []
        job.preemptions += 1

    def end_holding(self, job: Gang, now_s: float) -> None:
        job.settle(now_s)
        gpus = sum(part[1] for part in job.parts) / 1000
        job.attained_gpu_s += gpus * (now_s - job.held_since_s)
        job.overhead_gpu_s += gpus * max(min(now_s, job.ready_s) - job.held_since_s, 0.0)
        at = max(i for i, (holder, _) in enumerate(self.log) if holder is job)
        self.log[at] = (job, Holding(job.id, job.held_since_s, now_s, self.log[at][1].parts))
