"""Between a decision and the GPUs: who was promised what, who must go first, who has it.

The engine's ledger is intent: what a decision takes from one job it gives to another in the same instant. Where stopping and
starting take time, the promise is kept here until those who must go have gone:

    claim     promised to a job, not yet its own: others still drain there (phase RESERVED)
    held      handed to the executor, which starts it (STARTING), or runs it (RUNNING)
    drain     stopped by a decision, not yet gone: its GPUs are still its own, idle

A claim is handed over, in order of promise, as soon as its nodes have room for it in fact (whole GPUs that nobody shares, and of a
shared one enough), and no earlier attempt of the job itself still drains. It may be taken back until then, and nobody was disturbed
for it. A drain that never ends keeps its GPUs. Claims are looked at when they are made and when one of their nodes has more room than
before: thousands may wait while jobs end one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainmaster.engine import kernels
from trainmaster.engine.state import CLAIM, DRAIN, STARTING, WAITING
from trainmaster.workload.jobs import GPU_MILLI

if TYPE_CHECKING:
    from trainmaster.engine.core import Engine

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Parts:
    """What an allocation is made of: a row a part."""

    node: NDArray[np.int32]
    milli: Ints
    slot: NDArray[np.int32]  # the shared GPU of a fraction, -1 = whole ones
    cpu_milli: Ints
    memory_mib: Ints
    allocation: int = -1  # its row in the log, -1 = of an engine before this one
    shares: bool = field(init=False)  # some part is of a shared GPU

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", bool((self.slot >= 0).any()))


@dataclass(slots=True)
class Drain:
    """A stopped job that is not gone yet."""

    parts: Parts
    since_s: float


class Executor(Protocol):
    """Who carries it out: told by seq, answers later by `Engine.started`, `stopped`, `failed_to_start`, `ended`, `lost`."""

    def start(self, seq: int, parts: Parts) -> None: ...

    def stop(self, seq: int) -> None: ...


@dataclass(slots=True)
class Handover:
    """Holdings in fact, by row of the engine's job table."""

    engine: Engine
    executor: Executor
    claims: dict[int, Parts] = field(default_factory=dict)  # in order of promise
    promised: dict[int, int] = field(default_factory=dict)  # the number of each promise: they ascend
    claimants: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))  # of each node
    roomier: set[int] = field(default_factory=set)  # nodes with more room than when their claimants were last looked at
    unlooked: set[int] = field(default_factory=set)  # claims to be looked at whatever their nodes
    promises: int = 0
    held: dict[int, Parts] = field(default_factory=dict)
    drains: dict[int, Drain] = field(default_factory=dict)
    free: NDArray[Any] = field(init=False)  # [nodes, 3]: thousandths of unshared GPUs and of CPUs, MiB, that nobody has in fact
    shared: dict[int, int] = field(default_factory=dict)  # thousandths of each shared GPU that somebody has in fact, by slot

    def __post_init__(self) -> None:
        nodes = self.engine.cluster.nodes
        endless = np.iinfo(np.int64).max // 2
        self.free = np.array(
            [
                (
                    node.gpus * GPU_MILLI,
                    endless if node.cpus is None else round(node.cpus * 1000),
                    endless if node.memory_gib is None else round(node.memory_gib * 1024),
                )
                for node in nodes
            ],
            np.int64,
        ).reshape(-1, 3)

    def carry_out(self) -> None:
        """Pass on what decisions changed."""
        S, clock = self.engine.state, self.engine.clock
        acts = S.acts[: clock["n_acts"]].tolist()
        clock["n_acts"] = 0
        for row, what in acts:
            if what == CLAIM:
                self._promise(row, self.engine.parts(row))
            elif not self._unpromise(row):  # else it was a promise, and nobody was disturbed
                parts = self.held.pop(row)
                if what == DRAIN:
                    self.drains[row] = Drain(parts, float(clock["now_s"]))
                    self.executor.stop(int(S.jobs[row]["seq"]))
                else:
                    self._give(parts)
        self.hand_over()

    def hand_over(self) -> None:
        """Give claims what is free in fact, in order of promise."""
        S = self.engine.state
        rows = self.unlooked.union(*(self.claimants.get(node, ()) for node in self.roomier))
        self.unlooked.clear()
        self.roomier.clear()
        for row in sorted(rows, key=self.promised.__getitem__):
            parts = self.claims[row]
            if row in self.drains or not self._take_if_free(parts):
                continue
            self._unpromise(row)
            self.held[row] = parts
            kernels.hand_over(S.clock, np.int32(row))
            self.executor.start(int(S.jobs[row]["seq"]), parts)

    def gone(self, row: int) -> None:
        """A stopped job has left its GPUs: they were its own until now."""
        drain = self.drains.pop(row)
        S, job = self.engine.state, self.engine.state.jobs[row]
        tail_s = float(self.engine.clock["now_s"]) - drain.since_s
        gpu_s = tail_s * float(drain.parts.milli.sum()) / GPU_MILLI
        job["held_s"] += tail_s
        job["settled_gpu_s"] += gpu_s
        job["overhead_gpu_s"] += gpu_s
        if job["phase"] == WAITING:
            kernels.rank_anew(S.clock, np.int32(row))
        if drain.parts.allocation >= 0:
            S.allocations["end_s"][drain.parts.allocation] = self.engine.clock["now_s"]
        self._give(drain.parts)
        if row in self.claims:
            self.unlooked.add(row)

    def release(self, row: int) -> None:
        """A job that held its GPUs in fact holds nothing any more."""
        self._give(self.held.pop(row))

    def reshape(self, row: int) -> None:
        """A job holds another share of the same GPUs; its processes run on."""
        self._give(self.held.pop(row))
        self.held[row] = self.engine.parts(row)
        self._take(self.held[row])

    def resume(self, claims: dict[int, Parts], held: dict[int, Parts], drains: dict[int, Drain]) -> None:
        """Who holds what in fact, in an engine that has just been built; `claims` in order of promise."""
        for row, parts in claims.items():
            self._promise(row, parts)
        self.held, self.drains = dict(held), dict(drains)
        there = [*self.held.values(), *(drain.parts for drain in drains.values())]
        whole = [parts for parts in there if not parts.shares]
        if whole:
            amounts = np.stack([np.concatenate([getattr(parts, name) for parts in whole]) for name in ("milli", "cpu_milli", "memory_mib")])
            np.subtract.at(self.free, np.concatenate([parts.node for parts in whole]), amounts.T)
        for parts in there:
            if parts.shares:
                self._take(parts)

    def of(self, row: int) -> Parts | None:
        """What a job has in fact."""
        return self.drains[row].parts if row in self.drains else self.held.get(row)

    def starting(self, row: int) -> bool:
        return row in self.held and self.engine.state.jobs[row]["phase"] == STARTING

    def _promise(self, row: int, parts: Parts) -> None:
        self.promises += 1
        self.claims[row], self.promised[row] = parts, self.promises
        self.unlooked.add(row)
        for node in parts.node.tolist():
            self.claimants[node].add(row)

    def _unpromise(self, row: int) -> bool:
        """Whether there was such a claim."""
        parts = self.claims.pop(row, None)
        if parts is None:
            return False
        del self.promised[row]
        self.unlooked.discard(row)
        for node in parts.node.tolist():
            self.claimants[node].discard(row)
        return True

    def _take_if_free(self, parts: Parts) -> bool:
        self._take(parts)
        fits = bool((self.free[parts.node] >= 0).all()) and all(self.shared[slot] <= GPU_MILLI for slot in parts.slot.tolist() if slot >= 0)
        if not fits:
            self._put_back(parts)
        return fits

    def _take(self, parts: Parts) -> None:
        for node, milli, slot, cpu_milli, memory_mib in rows_of(parts):
            if slot >= 0:  # the first who shares a GPU takes all of it from those who do not
                held, self.shared[slot] = self.shared.get(slot, 0), self.shared.get(slot, 0) + milli
                milli = 0 if held else GPU_MILLI
            self.free[node] -= (milli, cpu_milli, memory_mib)

    def _give(self, parts: Parts) -> None:
        self._put_back(parts)
        self.roomier.update(parts.node.tolist())

    def _put_back(self, parts: Parts) -> None:
        for node, milli, slot, cpu_milli, memory_mib in rows_of(parts):
            if slot >= 0:
                left = self.shared.pop(slot) - milli
                if left:
                    self.shared[slot] = left
                milli = 0 if left else GPU_MILLI
            self.free[node] += (milli, cpu_milli, memory_mib)


def rows_of(parts: Parts) -> Iterator[tuple[int, int, int, int, int]]:
    columns = (parts.node, parts.milli, parts.slot, parts.cpu_milli, parts.memory_mib)
    return zip(*(column.tolist() for column in columns), strict=True)
