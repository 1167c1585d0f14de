"""The cluster as columns: nodes, their queues, and capacity that comes and goes.

A node is a row; its number is its index here for the whole run. Nodes that a timeline adds later are rows too, absent
until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

UNTYPED = ""  # a node without a type accepts every job and takes a profile's unsuffixed table


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node as described. CPUs and memory of None are not declared, and so not counted."""

    gpus: int
    type: str = UNTYPED
    cpus: float | None = None
    memory_gib: float | None = None
    name: str | None = None
    rack: str | None = None
    island_gpus: int | None = None  # GPUs an NVLink island; None = all of the node
    queues: tuple[str, ...] = ()  # only jobs of these queues run here; () = of any
    pooled: bool = False  # fractions may span the GPUs of this node
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A queue's guaranteed share: `quota_gpus` (None = none declared), and whether it may borrow idle GPUs beyond it."""

    quota_gpus: float | None = None
    weight: float = 1.0
    borrow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityChange:
    """At `at_s` these nodes join (`add`) or leave (`remove`), by row; that they leave is known `notice_s` before."""

    at_s: float
    add: tuple[int, ...] = ()
    remove: tuple[int, ...] = ()
    notice_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscale:
    """Nodes (rows) that a policy may ask for by this name; each joins `start_up_s` after it was asked for."""

    name: str  # their label, else their type
    nodes: tuple[int, ...]
    start_up_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes (rows), queues, and how nodes come and go. `present[row]` is false for nodes that join later."""

    nodes: tuple[Node, ...]
    present: NDArray[np.bool_]
    queues: Mapping[str, QueueSpec] = field(default_factory=dict)
    timeline: tuple[CapacityChange, ...] = ()
    autoscale: tuple[Autoscale, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)  # nodes of the source that are no rows, by reason

    @classmethod
    def of(cls, nodes: list[Node] | tuple[Node, ...], queues: Mapping[str, QueueSpec] | None = None) -> Cluster:
        return cls(nodes=tuple(nodes), present=np.ones(len(nodes), bool), queues=dict(queues or {}))

    @property
    def types(self) -> tuple[str, ...]:
        """Distinct accelerator types of nodes with GPUs, in order of appearance."""
        return tuple(dict.fromkeys(node.type for node in self.nodes if node.gpus))

    def gpus_by_type(self) -> dict[str, int]:
        """GPUs present at the start, by type."""
        counts: dict[str, int] = {}
        for node, here in zip(self.nodes, self.present, strict=True):
            if here and node.gpus:
                counts[node.type] = counts.get(node.type, 0) + node.gpus
        return counts

    @property
    def gpus(self) -> int:
        return sum(self.gpus_by_type().values())

    @property
    def declares_cpus(self) -> bool:
        return any(node.cpus is not None for node in self.nodes)
