"""Nodes that come and go: the cluster's timeline, failures and repairs, what a policy gives back and what it asks for.

A node is there while it is in the cluster, and open while it is there, not broken and not being given back.

    vacate      a policy's nodes to give back: closed to newcomers as long as every decision names them, gone once nothing runs there
    want        nodes of one kind that a policy wants in all: what is missing is started, and joins `start_up_s` later; starts that
                are no longer wanted are called off, the last first. Nodes that are there leave only by `vacate`.
    notice      a removal of the timeline is known so long before: `leaves_s` of the nodes that will go. A policy that gives
                back others of the same label chooses them in their stead; of those still there, its choice goes first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from trainmaster.engine import kernels
from trainmaster.errors import InputError, InvariantBroken
from trainmaster.workload.jobs import GPU_MILLI, Floats

if TYPE_CHECKING:
    from trainmaster.engine.core import Engine


class Kind(Enum):
    JOINS = auto()
    LEAVES = auto()
    NOTICE = auto()  # that it will leave
    FAILS = auto()
    REPAIRED = auto()


Event = tuple[float, int, Kind]


class Capacity:
    """The nodes of one run."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.cluster = engine, engine.cluster
        nodes = len(self.cluster.nodes)
        self.present, self.healthy = self.cluster.present.copy(), np.ones(nodes, bool)
        self.closing: set[int] = set()  # a policy gives them back
        self.starting: dict[int, float] = {}  # it wants them: node -> when it joins
        # a removal of the timeline is known by the node that the file says; it takes that one, or another in its stead
        self.goes_at_s = {node: change.at_s for change in self.cluster.timeline for node in change.remove}
        self.takes = {node: node for node in self.goes_at_s}
        self.announced: set[int] = set()  # removals that policies know of
        self.settled: set[int] = set()  # removals whose node has gone
        self.log: list[tuple[float, float]] = [(0.0, float(self.cluster.gpus))]
        self.outside = self._outside()
        self.coming: tuple[float, list[tuple[int, Kind]]] = (np.inf, [])
        self._next_outside()

    # ------------------------------------------------------------------------------------------ what happens by itself

    def next_s(self) -> float:
        return min(self.coming[0], min(self.starting.values(), default=np.inf))

    def apply(self) -> None:
        """All that happens now."""
        now_s = float(self.engine.clock["now_s"])
        events = [(node, Kind.JOINS) for node, at_s in self.starting.items() if at_s <= now_s]
        if self.coming[0] <= now_s:
            events += self.coming[1]
            self._next_outside()
        for node, kind in events:
            self._happen(node, kind)
        self._note()

    def _outside(self) -> Iterator[tuple[float, list[tuple[int, Kind]]]]:
        """The timeline, its announcements and the failures, merged, grouped by instant."""
        planned: list[Event] = []
        for change in self.cluster.timeline:
            planned += [(change.at_s, node, Kind.LEAVES) for node in change.remove]
            if change.notice_s > 0:
                planned += [(max(change.at_s - change.notice_s, 0.0), node, Kind.NOTICE) for node in change.remove]
        planned += [(change.at_s, node, Kind.JOINS) for change in self.cluster.timeline for node in change.add]
        planned.sort(key=lambda event: event[0])
        self.planned_until_s = planned[-1][0] if planned else -np.inf
        faults = self.engine.setup.faults
        failures = faults.events(len(self.cluster.nodes), self.engine.setup.seed) if faults else iter(())
        broken = ((time_s, node, Kind.REPAIRED if up else Kind.FAILS) for time_s, node, up in failures)
        for time_s, events in groupby(heapq.merge(planned, broken, key=lambda event: event[0]), key=lambda event: event[0]):
            yield time_s, [(node, kind) for _, node, kind in events]

    def _next_outside(self) -> None:
        self.coming = next(self.outside, (np.inf, []))
        self.engine.clock["endless"] = self.coming[0] > self.planned_until_s

    def _happen(self, node: int, kind: Kind) -> None:
        if kind is Kind.NOTICE:
            self.announced.add(node)
            kernels.decide_soon(self.engine.state.clock)
            return
        if kind is Kind.LEAVES:
            if node in self.settled:
                return
            self.settled.add(node)
            node = self._who_leaves(node)
        if kind in (Kind.JOINS, Kind.LEAVES):
            self.starting.pop(node, None)
            self.present[node] = kind is Kind.JOINS
        else:
            self.healthy[node] = kind is Kind.REPAIRED
        self._open_or_close(node, failed=kind is Kind.FAILS)

    def _who_leaves(self, removal: int) -> int:
        """The timeline's node, or one of its label that a policy is giving back."""
        leaving = {self.takes[other] for other in self.announced - self.settled}
        if self.takes[removal] not in self.closing and (chosen := sorted((self._alike(removal) & self.closing) - leaving)):
            self._take_instead(removal, chosen[0])
        return self.takes[removal]

    def _alike(self, node: int) -> set[int]:
        label = self.cluster.nodes[node].label
        return {i for i, other in enumerate(self.cluster.nodes) if label is not None and other.label == label}

    def _take_instead(self, removal: int, node: int) -> None:
        """The removal takes this node; a later one that would have, takes the other."""
        later = next((other for other, taken in self.takes.items() if taken == node and other not in self.settled), None)
        if later is not None:
            self.takes[later] = self.takes[removal]
        self.takes[removal] = node

    def _open_or_close(self, node: int, *, failed: bool) -> None:
        S, engine = self.engine.state, self.engine
        there = bool(self.present[node] and self.healthy[node])
        if not there:
            self.closing.discard(node)
            if S.nodes[node]["free_milli"] != S.nodes[node]["gpus"] * GPU_MILLI or S.nodes[node]["up"]:
                checkpoint_s = engine.setup.faults.checkpoint_s if engine.setup.faults else 0.0
                kernels.clear_node(S.clock, np.int32(node), failed, checkpoint_s)
            if S.nodes[node]["free_milli"] != S.nodes[node]["gpus"] * GPU_MILLI:
                raise InvariantBroken(f"{engine.label}: node {node} leaves while jobs hold it")
        kernels.set_node(S.clock, np.int32(node), there and node not in self.closing)

    def _note(self) -> None:
        gpus = float(self.engine.state.nodes["gpus"][self.present & self.healthy].sum())
        self.log.append((float(self.engine.clock["now_s"]), gpus))

    # ------------------------------------------------------------------------------------------ what a policy says

    def close(self, vacate: Iterable[int]) -> None:
        """From now on these and no others are being given back."""
        wanted, there = set(vacate), self.present & self.healthy
        if not wanted and not self.closing:
            return
        if wrong := [node for node in wanted if not 0 <= node < len(there)]:
            raise InputError(f"--policy: {self.engine.policy.name} gives back node {wrong[0]}; there are {len(there)}")
        S, due_s = self.engine.state, float(self.engine.clock["decide_s"])
        for node in self.closing - wanted:
            kernels.set_node(S.clock, np.int32(node), bool(there[node]))
        self.closing = {node for node in wanted if there[node]}
        for node in self.closing:
            kernels.set_node(S.clock, np.int32(node), False)
        self.engine.clock["decide_s"] = due_s  # the policy knows

    def give_back(self) -> None:
        """Those that nobody holds any more are gone."""
        nodes, due_s = self.engine.state.nodes, float(self.engine.clock["decide_s"])
        empty = sorted(node for node in self.closing if nodes[node]["free_milli"] == nodes[node]["gpus"] * GPU_MILLI and self._idle(node))
        for node in empty:
            known = sorted(self.announced - self.settled, key=lambda removal: (self.takes[removal] != node, removal))
            removal = next((removal for removal in known if node in self._alike(removal)), None)
            if removal is not None:
                self._take_instead(removal, node)
                self.settled.add(removal)
            self.present[node] = False
            self._open_or_close(node, failed=False)
        if empty:
            self._note()
            self.engine.clock["decide_s"] = due_s

    def _idle(self, node: int) -> bool:
        """No job of CPUs alone runs there either."""
        running = np.flatnonzero(self.engine.state.jobs["running"])
        return not any(node in self.engine.allocation(row).nodes for row in running.tolist())

    def want(self, want: Mapping[str, int]) -> None:
        """Start nodes that are missing, call off starts that are not wanted any more."""
        clock = self.engine.clock
        for name, count in want.items():
            group = next((group for group in self.cluster.autoscale if group.name == name), None)
            if group is None:
                known = ", ".join(group.name or "untyped" for group in self.cluster.autoscale) or "no such entry"
                said = f"{self.engine.policy.name} wants nodes of {name!r}"
                raise InputError(f"--policy: {said}; `autoscale` of the cluster file has {known}")
            rows = [row for row, node in enumerate(self.cluster.nodes) if name in (node.label, node.type)]
            there = sum(bool(self.present[row]) and row not in self.closing for row in rows)
            starting = [row for row in self.starting if row in rows]
            for row in starting[max(count - there, 0) :]:
                del self.starting[row]
            free = [row for row in group.nodes if not self.present[row] and row not in self.starting]
            for row in free[: max(count - there - len(starting), 0)] if clock["finite_left"] > 0 else ():
                self.starting[row] = float(clock["now_s"]) + group.start_up_s
        if self.starting:
            clock["until_s"] = min(float(clock["until_s"]), min(self.starting.values()))
            clock["open"] = True

    def leaves_s(self) -> Floats:
        """When nodes will be taken away, by node; inf = nothing is known."""
        leaves_s = np.full(len(self.present), np.inf)
        for removal in self.announced - self.settled:
            leaves_s[self.takes[removal]] = self.goes_at_s[removal]
        return leaves_s

    def arrives_s(self) -> Floats:
        """When nodes that are being started join, by node; inf = not on its way."""
        arrives_s = np.full(len(self.present), np.inf)
        arrives_s[list(self.starting)] = list(self.starting.values())
        return arrives_s
