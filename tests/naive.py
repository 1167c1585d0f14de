"""The engine once more, in plain Python: no kernels, no shortcuts, easy to believe.

At every event the order is made from scratch, capacity is counted from scratch, and the ledger is built anew from what
is held. The text of DESIGN sections 4 and 5 is the specification; keys are written here, not asked of the policies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from schedules import Fate, Holding, Schedule
from trainmaster.cluster.cluster import Cluster
from trainmaster.policies.base import Policy
from trainmaster.workload.jobs import JobTable


@dataclass(slots=True, eq=False)
class Record:
    """A job in flight."""

    row: int  # in the order of (submission, seq)
    id: str
    submit_s: float
    arrive_s: float
    milli: int
    cpu_milli: int
    memory_mib: int
    accepts: tuple[str, ...]
    queue: str | None
    max_nodes: int
    priority: float
    pinned: bool
    left_s: float  # at held_since_s
    nodes: int = 0  # exactly so many; 0 = wherever
    counted_on: str = ""  # the type, in the present walk
    state: str = "future"
    new: bool = True
    parts: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # node, milli, shared GPU or -1, CPUs, memory
    held_since_s: float = 0.0
    ready_s: float = 0.0
    settled_gpu_s: float = 0.0
    served_s: float = 0.0
    checkpoint_s: float = 0.0  # served_s at the last start
    start_s: float = math.nan
    finish_s: float = math.nan
    preemptions: int = 0
    failures: int = 0

    @property
    def running(self) -> bool:
        return self.state == "running"

    def due_s(self) -> float:
        return self.ready_s + self.left_s if self.running else math.inf

    def worked_s(self, now_s: float) -> float:
        return max(now_s - self.ready_s, 0.0) if self.running else 0.0

    def remaining_s(self, now_s: float) -> float:
        return max(self.left_s - self.worked_s(now_s), 0.0)

    def attained_gpu_s(self, now_s: float) -> float:
        return self.settled_gpu_s + (now_s - self.held_since_s) * (self.milli / 1000) if self.running else self.settled_gpu_s


# ------------------------------------------------------------------------------------------------- orders


class Order:
    """What a list policy says: a key by job, smaller first, and when ranks next change by themselves."""

    preemptive = blocking = False

    def __init__(self, params: Any) -> None:
        self.params = params
        self.blocking = getattr(params, "blocking", self.blocking)

    def begin(self, active: list[Record], now_s: float) -> None: ...

    def key(self, job: Record, now_s: float) -> tuple[float, ...]:
        return (job.submit_s,)

    def wakeup_s(self, active: list[Record], now_s: float) -> float:
        return math.inf


class ShortestFirst(Order):
    def key(self, job: Record, now_s: float) -> tuple[float, ...]:
        return job.remaining_s(now_s), not job.running


class ShortestRemainingFirst(ShortestFirst):
    preemptive = True


class LeastServiceLeftFirst(Order):
    preemptive = True

    def key(self, job: Record, now_s: float) -> tuple[float, ...]:
        return job.remaining_s(now_s) * (job.milli / 1000), not job.running


class LeastAttained(Order):
    """Between two quanta the jobs that waited already come last: a running job is displaced only by arrivals with less."""

    preemptive = True
    next_quantum_s = 0.0

    def key(self, job: Record, now_s: float) -> tuple[float, ...]:
        waited_already = not job.running and not job.new and now_s < self.next_quantum_s
        return waited_already, job.attained_gpu_s(now_s), not job.running

    def wakeup_s(self, active: list[Record], now_s: float) -> float:
        if all(job.running for job in active):
            return math.inf
        self.next_quantum_s = (math.floor(now_s / self.params.quantum_s) + 1) * self.params.quantum_s
        return self.next_quantum_s


class ByLevel(Order):
    preemptive = True

    def level(self, job: Record, now_s: float) -> int:
        return sum(job.attained_gpu_s(now_s) >= limit * (1 - 1e-9) for limit in self.params.limits_gpu_s)

    def key(self, job: Record, now_s: float) -> tuple[float, ...]:
        return self.level(job, now_s), not job.running, job.submit_s

    def wakeup_s(self, active: list[Record], now_s: float) -> float:
        limits, wake_s = [*self.params.limits_gpu_s, math.inf], math.inf
        if all(job.running for job in active):
            return wake_s
        for job in active:
            if job.running and job.milli:
                wake_s = min(wake_s, now_s + (limits[self.level(job, now_s)] - job.attained_gpu_s(now_s)) / (job.milli / 1000))
        return wake_s


class ByLists(Order):
    """Levels as lists (the artifact's): after each walk running jobs move ahead in their list and stay so."""

    preemptive = True

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.lists: list[list[Record]] = [[] for _ in range(len(params.limits_gpu_s) + 1)]

    def begin(self, active: list[Record], now_s: float) -> None:
        for jobs in self.lists:
            jobs[:] = [job for job in jobs if job.running] + [job for job in jobs if job.state == "waiting"]
        for level in reversed(range(len(self.lists) - 1)):
            demoted = [job for job in self.lists[level] if job.running and self.crossed(job, level, now_s)]
            self.lists[level] = [job for job in self.lists[level] if job not in demoted]
            self.lists[level + 1] += demoted
        self.lists[0] += [job for job in active if not any(job in jobs for jobs in self.lists)]

    def crossed(self, job: Record, level: int, now_s: float) -> bool:
        return job.attained_gpu_s(now_s) >= self.params.limits_gpu_s[level] * (1 - 1e-9)

    def key(self, job: Record, now_s: float) -> tuple[float, ...]:
        level = next(level for level, jobs in enumerate(self.lists) if job in jobs)
        return level, self.lists[level].index(job)

    def wakeup_s(self, active: list[Record], now_s: float) -> float:
        wake_s = math.inf
        for level, limit in enumerate(self.params.limits_gpu_s):
            for job in self.lists[level]:
                if job.running and job.milli:
                    crossing_s = now_s + (limit - job.attained_gpu_s(now_s)) / (job.milli / 1000)
                    wake_s = min(wake_s, max(crossing_s, math.nextafter(now_s, math.inf)))  # two limits crossed: one list a decision
        return wake_s


ORDERS: dict[str, type[Order]] = {
    "fifo": Order, "fifo-greedy": Order, "sjf": ShortestFirst, "srtf": ShortestRemainingFirst, "srsf": LeastServiceLeftFirst,
    "las": LeastAttained, "tiresias-las": ByLevel,
}  # fmt: skip

# ------------------------------------------------------------------------------------------------- placements: the node of the next part


def packed(usable: dict[int, int], need: int) -> int:
    """The fullest node that holds the rest, else the emptiest."""
    enough = [node for node, gpus in usable.items() if gpus >= need]
    return min(enough, key=lambda node: (usable[node], node)) if enough else spread(usable, need)


def spread(usable: dict[int, int], need: int) -> int:
    return min(usable, key=lambda node: (-usable[node], node))


def first_fit(usable: dict[int, int], need: int) -> int:
    return min(usable, key=lambda node: (usable[node] < need, node))


PLACEMENTS: dict[str, Callable[[dict[int, int], int], int]] = {"packed": packed, "spread": spread, "first-fit": first_fit}


class Ledger:
    """What is free on every node that is up, counted from what is held."""

    def __init__(self, cluster: Cluster, up: set[int], holders: Iterable[Record]) -> None:
        self.cluster = cluster
        nodes = {node: cluster.nodes[node] for node in sorted(up)}
        self.milli = {node: n.gpus * 1000 for node, n in nodes.items()}  # of GPUs that nobody shares
        self.shared = {node: [0] * n.gpus for node, n in nodes.items()}
        self.cpus = {node: math.inf if n.cpus is None else round(n.cpus * 1000) for node, n in nodes.items()}
        self.memory = {node: math.inf if n.memory_gib is None else round(n.memory_gib * 1024) for node, n in nodes.items()}
        for job in holders:
            for part in job.parts:
                self.take(*part)

    def take(self, node: int, milli: int, gpu: int, cpus: int, memory: int, sign: int = 1) -> None:
        if gpu < 0:
            self.milli[node] -= sign * milli
        else:
            before = self.shared[node][gpu]
            self.shared[node][gpu] += sign * milli
            self.milli[node] -= 1000 * ((self.shared[node][gpu] > 0) - (before > 0))
        self.cpus[node] -= sign * cpus
        self.memory[node] -= sign * memory
        assert self.milli[node] >= 0 and self.cpus[node] >= 0 and self.memory[node] >= 0 and max(self.shared[node], default=0) <= 1000

    def place(self, job: Record, nodes: list[int], choose: Callable[[dict[int, int], int], int]) -> bool:
        """Take room for the whole job on these nodes, or nothing."""
        job.parts = []
        if job.nodes > 1:
            return self.evenly(job, nodes, choose)
        if job.milli == 0:
            room = [n for n in nodes if job.cpu_milli <= self.cpus[n] < math.inf and self.memory[n] >= job.memory_mib]
            part = (min(room, key=lambda n: (self.cpus[n], n)), 0, -1, job.cpu_milli, job.memory_mib) if room else None
        elif job.milli % 1000:
            part = self.share(job, nodes, choose)
        else:
            return self.gang(job, nodes, choose)
        if part:
            self.take(*part)
            job.parts = [part]
        return part is not None

    def evenly(self, job: Record, nodes: list[int], choose: Callable[[dict[int, int], int], int]) -> bool:
        gpus = job.milli // 1000 // job.nodes
        cpus, memory = -(-job.cpu_milli // job.nodes), -(-job.memory_mib // job.nodes)
        free = {node: self.milli[node] // 1000 for node in nodes if self.cpus[node] >= cpus and self.memory[node] >= memory}
        free = {node: room for node, room in free.items() if room >= gpus and (gpus or self.cpus[node] < math.inf)}
        if len(free) < job.nodes:
            return False
        for i in range(job.nodes):
            node = choose(free, gpus) if gpus else min(free, key=lambda node: (self.cpus[node], node))
            del free[node]
            cpus, memory = (total * (i + 1) // job.nodes - total * i // job.nodes for total in (job.cpu_milli, job.memory_mib))
            job.parts.append((node, gpus * 1000, -1, cpus, memory))
            self.take(*job.parts[-1])
        return True

    def gang(self, job: Record, nodes: list[int], choose: Callable[[dict[int, int], int], int]) -> bool:
        whole, taken = job.milli // 1000, 0
        while taken < whole:
            usable = {node: self.usable(job, node, whole) for node in nodes if node not in [part[0] for part in job.parts]}
            usable = {node: gpus for node, gpus in usable.items() if gpus > 0}
            part = None
            if usable and not (job.max_nodes and len(job.parts) >= job.max_nodes):
                node = choose(usable, whole - taken)
                gpus = min(usable[node], whole - taken)
                cpus, memory = (total * (taken + gpus) // whole - total * taken // whole for total in (job.cpu_milli, job.memory_mib))
                part = (node, gpus * 1000, -1, cpus, memory) if cpus <= self.cpus[node] and memory <= self.memory[node] else None
            if part is None:
                for taken_part in job.parts:
                    self.take(*taken_part, sign=-1)
                job.parts = []
                return False
            self.take(*part)
            job.parts.append(part)
            taken += part[1] // 1000
        return True

    def usable(self, job: Record, node: int, whole: int) -> int:
        by_cpus = self.cpus[node] * whole // job.cpu_milli if job.cpu_milli else math.inf
        by_memory = self.memory[node] * whole // job.memory_mib if job.memory_mib else math.inf
        return int(min(self.milli[node] // 1000, by_cpus, by_memory))

    def share(self, job: Record, nodes: list[int], choose: Callable[[dict[int, int], int], int]) -> tuple[int, int, int, int, int] | None:
        """A fraction: where it leaves least, on a pooled node or beside others on one GPU; else on a GPU of its own."""
        nodes = [node for node in nodes if self.cpus[node] >= job.cpu_milli and self.memory[node] >= job.memory_mib]
        room = []
        for node in nodes:
            if self.cluster.nodes[node].pooled:
                room.append((self.milli[node] - job.milli, node, -1))
            else:
                room += [(1000 - used - job.milli, node, gpu) for gpu, used in enumerate(self.shared[node]) if used]
        room = [found for found in room if found[0] >= 0]
        if room:
            _, node, gpu = min(room)
            return node, job.milli, gpu, job.cpu_milli, job.memory_mib
        own = {node: self.milli[node] // 1000 for node in nodes if not self.cluster.nodes[node].pooled and self.milli[node] >= 1000}
        if not own or job.milli > 1000:
            return None
        node = choose(own, 1)
        return node, job.milli, self.shared[node].index(0), job.cpu_milli, job.memory_mib


# ------------------------------------------------------------------------------------------------- the engine


def naive_simulate(jobs: JobTable, cluster: Cluster, policy: Policy[Any], restart_cost_s: float = 0.0, *, placement: str = "packed",
                   round_s: float = 0.0, outside: Sequence[tuple[float, int, str, bool]] = (), checkpoint_s: float = 0.0) -> Schedule:
    """`outside`: (time, node, "here" | "well", is it), in order: nodes join and leave, fail and are repaired."""
    order = ByLists if getattr(policy.params, "lists", False) else ORDERS[policy.name]
    return Naive(jobs, cluster, order(policy.params), restart_cost_s, PLACEMENTS[placement], round_s, list(outside), checkpoint_s).run()


class Naive:
    def __init__(self, table: JobTable, cluster: Cluster, order: Order, restart_cost_s: float, choose: Callable[[dict[int, int], int], int],
                 round_s: float, outside: list[tuple[float, int, str, bool]], checkpoint_s: float) -> None:
        self.cluster, self.order, self.restart_cost_s, self.choose = cluster, order, restart_cost_s, choose
        self.round_s, self.outside, self.checkpoint_s = float(round_s), outside, checkpoint_s
        self.jobs = [
            Record(
                row=row, id=str(table.id[row]), submit_s=float(table.submit_s[row]), arrive_s=float(table.eligible_s[row]),
                milli=int(table.gpu_milli[row]), cpu_milli=round(float(table.cpus[row]) * 1000),
                memory_mib=round(float(table.memory_gib[row]) * 1024), accepts=table.accept_sets[table.accept_set[row]],
                queue=table.queue[row], max_nodes=1 if table.nodes[row] == 1 else int(table.max_nodes[row]),
                priority=float(table.priority[row]),
                pinned=not table.preemptible[row], left_s=float(table.work[row]), nodes=int(table.nodes[row]),
            )
            for row in range(len(table))
        ]  # fmt: skip
        self.here = {node for node, here in enumerate(cluster.present) if here}
        self.well = set(range(len(cluster.nodes)))
        self.changes: list[tuple[float, int, bool]] = []
        self.log: list[tuple[Record, Holding]] = []
        self.decide_s = math.inf
        self.stuck = False  # the last decision left nobody running

    @property
    def up(self) -> set[int]:
        return self.here & self.well

    def active(self, *states: str) -> list[Record]:
        return [job for job in self.jobs if job.state in (states or ("waiting", "running"))]

    def run(self) -> Schedule:
        for job in self.jobs:  # what the whole cluster, empty, cannot hold
            all_nodes = set(range(len(self.cluster.nodes)))
            everything = Ledger(self.cluster, all_nodes, ())
            fits = any(everything.place(job, nodes, packed) for nodes in self.nodes_by_type(job, all_nodes).values())
            queue = self.cluster.queues.get(job.queue or "")
            guaranteed = queue is None or queue.quota_gpus is None or queue.borrow or job.milli <= queue.quota_gpus * 1000
            job.parts, job.state = [], "future" if fits and guaranteed else "unschedulable"
        while self.active("future", "waiting", "running"):
            now_s = min(self.decide_s, *(job.arrive_s for job in self.active("future")), *(job.due_s() for job in self.active("running")),
                        *(event[0] for event in self.outside[:1]), math.inf)  # fmt: skip
            if now_s == math.inf or (self.stuck and not self.active("future", "running") and not self.outside):
                break
            self.advance(now_s)
        fates = [Fate(j.id, j.milli, j.submit_s, j.start_s, j.finish_s, j.preemptions, j.failures) for j in self.jobs]
        return Schedule(fates, [holding for _, holding in self.log], self.cluster, self.changes)

    def advance(self, now_s: float) -> None:
        """Completions, failures and node changes, arrivals, then one decision."""
        for job in self.active("running"):
            if job.due_s() <= now_s:
                self.stop(job, now_s, "ended")
                job.finish_s = now_s
                self.stir(now_s)
        while self.outside and self.outside[0][0] <= now_s:
            self.change_node(*self.outside.pop(0))
        for job in self.active("future"):
            if job.arrive_s <= now_s:
                job.state = "waiting"
                self.stir(now_s)
        if self.decide_s <= now_s:
            self.decide_s = math.inf
            self.decide(now_s)
            self.stuck = not self.active("running")

    def stir(self, now_s: float) -> None:
        """Decide at once, or at the first kR from here on, k >= 1."""
        if self.round_s:
            now_s = self.round_s * max(1, math.ceil(now_s / self.round_s))
        self.stuck = False
        self.decide_s = min(self.decide_s, now_s)

    def change_node(self, now_s: float, node: int, fact: str, value: bool) -> None:
        was_up = node in self.up
        facts = self.here if fact == "here" else self.well
        (facts.add if value else facts.discard)(node)
        if (node in self.up) == was_up:
            return
        self.changes.append((now_s, node, not was_up))
        for job in self.active("running") if was_up else ():
            if node in [part[0] for part in job.parts]:
                self.stop(job, now_s, "waiting")
                if fact == "here":
                    job.preemptions += 1
                else:
                    lost_s = job.served_s - job.checkpoint_s
                    lost_s = lost_s % self.checkpoint_s if self.checkpoint_s else lost_s
                    job.left_s += lost_s
                    job.served_s -= lost_s
                    job.failures += 1
        self.stir(now_s)

    def stop(self, job: Record, now_s: float, state: str) -> None:
        job.left_s, job.served_s = job.remaining_s(now_s), job.served_s + job.worked_s(now_s)
        job.settled_gpu_s = job.attained_gpu_s(now_s)
        job.state, job.parts = state, []
        at = max(i for i, (holder, _) in enumerate(self.log) if holder is job)
        self.log[at] = (job, Holding(job.id, job.held_since_s, now_s, self.log[at][1].parts))

    def start(self, job: Record, now_s: float) -> None:
        job.state, job.held_since_s, job.ready_s, job.checkpoint_s = "running", now_s, now_s + self.restart_cost_s, job.served_s
        job.start_s = now_s if math.isnan(job.start_s) else job.start_s
        self.log.append((job, Holding(job.id, now_s, math.nan, tuple((node, milli) for node, milli, *_ in job.parts))))

    # --------------------------------------------------------------------------------------------- one decision

    def decide(self, now_s: float) -> None:
        active = self.active()
        self.order.begin(active, now_s)
        order = sorted(active, key=lambda job: (-job.priority, *self.order.key(job, now_s), job.row))
        if self.order.preemptive or self.cluster.queues:
            self.rearrange(order, now_s)
        else:
            self.fill(order, now_s)
        for job in active:
            job.new = False
        if (wake_s := self.order.wakeup_s(self.active(), now_s)) < math.inf:
            self.stir(wake_s)

    def fill(self, order: list[Record], now_s: float) -> None:
        """Running jobs stay; waiting ones start in order where there is room."""
        ledger = Ledger(self.cluster, self.up, self.active("running"))
        self.blocked = []
        for job in order:
            mine = set(self.usable_pools(job, self.pools(self.up)))
            if job.running or any(mine & pools for pools, _ in self.blocked):
                continue
            if any(ledger.place(job, nodes, self.choose) for nodes in self.nodes_by_type(job, self.up).values()):
                self.start(job, now_s)
            elif self.order.blocking:
                self.blocked.append((self.competing(mine), False))

    def rearrange(self, order: list[Record], now_s: float) -> None:
        """As if nothing ran: choose by count, keep what stays, place the newcomers; who finds no nodes is passed over."""
        passed_over: set[Record] = set()  # and with it those behind it that ask the same
        while (failed := self.carry_out(self.choose_jobs(order, passed_over), now_s)) is not None:
            passed_over |= {job for job in order[order.index(failed) :] if not job.running and self.demand(job) == self.demand(failed)}

    def demand(self, job: Record) -> Any:
        return job.milli, job.cpu_milli, job.memory_mib, job.accepts, job.queue, job.max_nodes, job.nodes

    def choose_jobs(self, order: list[Record], passed_over: set[Record]) -> list[Record]:
        """Who shall run: one walk, or one a stage where there are quotas."""
        self.capacity = {pool: sum(self.cluster.nodes[node].gpus * 1000 for node in nodes) for pool, nodes in self.pools(self.up).items()}
        self.used: dict[str | None, int] = {}
        self.blocked: list[tuple[set[Any], bool]] = []  # by a job that does not fit: (pools, it was running)
        chosen = [job for job in order if job.running and job.pinned]
        if not self.order.preemptive:  # running jobs stay; of borrowers, those that nobody within quota needs
            held, waiting = [job for job in order if job.running], [job for job in order if not job.running]
            stages = [(held, True), (waiting, True), (held, False), (waiting, False)]
        else:
            stages = [(order, True), (order, False)] if self.cluster.queues else [(order, None)]
        for job in chosen:
            self.count(job)
        for jobs, within in stages:
            for job in jobs:
                if job not in chosen and (within is None or self.side(job) is within) and self.accept(job, passed_over):
                    chosen.append(job)
        return chosen

    def side(self, job: Record) -> bool | None:
        """True: within its queue's quota; False: it would borrow; None: it may not."""
        queue = self.cluster.queues.get(job.queue or "")
        quota_milli = 0 if queue is None or queue.quota_gpus is None else queue.quota_gpus * 1000
        if self.used.get(job.queue, 0) + job.milli <= quota_milli:
            return True
        return False if queue is None or queue.quota_gpus is None or queue.borrow else None

    def accept(self, job: Record, passed_over: set[Record]) -> bool:
        """Count a job in if it fits; under a blocking order, one that does not stops all behind it."""
        mine = set(self.usable_pools(job, self.pools(self.up)))
        spared = job.running and not self.order.preemptive  # blocked by nobody but a borrower before it that had to stop
        if any(mine & pools for pools, by_running in self.blocked if by_running or not spared):
            return False
        if job not in passed_over and self.count(job):
            return True
        if self.order.blocking:
            self.blocked.append((self.competing(mine), job.running))
        return False

    def competing(self, pools: set[Any]) -> set[Any]:
        """All pools that jobs compete for, directly or through others: a queue's own nodes have their own head of line."""
        reached = set(pools)
        everybodys = [set(self.usable_pools(job, self.pools(self.up))) for job in self.jobs]
        while more := {pool for mine in everybodys if mine & reached for pool in mine} - reached:
            reached |= more
        return reached

    def count(self, job: Record) -> bool:
        """Take a job's GPUs off the capacity: where it runs, else on the first type that has room for all of them."""
        if job.running:
            need: dict[Any, int] = {}
            for node, milli, *_ in job.parts:
                need[self.pool_of(node)] = need.get(self.pool_of(node), 0) + milli
        else:
            need = {}
            for pools in self.pools_by_type(job):
                if sum(self.capacity[pool] for pool in pools) >= job.milli:
                    job.counted_on = pools[0][0]
                    left = job.milli
                    for pool in pools:
                        need[pool] = min(left, self.capacity[pool])
                        left -= need[pool]
                    break
            else:
                return False
        if any(self.capacity[pool] < milli for pool, milli in need.items()):
            return False
        for pool, milli in need.items():
            self.capacity[pool] -= milli
        self.used[job.queue] = self.used.get(job.queue, 0) + job.milli
        return True

    def carry_out(self, chosen: list[Record], now_s: float) -> Record | None:
        """Place the newcomers in order beside those that keep their GPUs, then stop and start; or the first without room."""
        newcomers = [job for job in chosen if not job.running]
        ledger = Ledger(self.cluster, self.up, [job for job in chosen if job.running])
        for job in newcomers:
            nodes_by_type = sorted(self.nodes_by_type(job, self.up).items(), key=lambda group: group[0] != job.counted_on)
            if not any(ledger.place(job, nodes, self.choose) for _, nodes in nodes_by_type):
                for other in newcomers:
                    other.parts = []
                return job
        for job in self.active("running"):
            if job not in chosen:
                self.stop(job, now_s, "waiting")
                job.preemptions += 1
        for job in newcomers:
            self.start(job, now_s)
        return None

    # --------------------------------------------------------------------------------------------- pools: (type, queues)

    def pool_of(self, node: int) -> tuple[str, tuple[str, ...]]:
        return self.cluster.nodes[node].type, tuple(sorted(self.cluster.nodes[node].queues))

    def pools(self, up: set[int]) -> dict[tuple[str, tuple[str, ...]], list[int]]:
        pools: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for node in range(len(self.cluster.nodes)):
            pools.setdefault(self.pool_of(node), []).extend([node] if node in up else [])
        return pools

    def usable_pools(self, job: Record, pools: Iterable[tuple[str, tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
        """Own nodes of its queue before open ones; types in the order it accepts them."""
        mine = [pool for pool in pools if (not job.accepts or pool[0] in ("", *job.accepts)) and (not pool[1] or job.queue in pool[1])]
        types = ["", *job.accepts] if job.accepts else [node.type for node in self.cluster.nodes]
        return sorted(mine, key=lambda pool: (types.index(pool[0]), not pool[1]))

    def pools_by_type(self, job: Record) -> list[list[tuple[str, tuple[str, ...]]]]:
        mine = self.usable_pools(job, self.pools(self.up))
        return [[pool for pool in mine if pool[0] == type] for type in dict.fromkeys(pool[0] for pool in mine)]

    def nodes_by_type(self, job: Record, up: set[int]) -> dict[str, list[int]]:
        pools = self.pools(up)
        return {group[0][0]: sorted(node for pool in group for node in pools[pool]) for group in self.pools_by_type(job)}
