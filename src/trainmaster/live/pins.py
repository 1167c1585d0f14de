"""Which accelerators of a node an attempt holds, by index: the ledger counts whole ones and tells shared ones apart; programs need to
be told which.

A share of a GPU that others hold too is of the same device as theirs; everything else is of devices that nobody holds, lowest first.
The engine hands over only what is free in fact, so there are always enough: no backend has to refuse what was decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from trainmaster.live.backends.base import NodeSeen, NodeShare

Held = tuple[Sequence[NodeShare], Sequence[int]]  # and for each share the GPU of its node that the ledger shares out, -1 = whole ones


class Pins:
    """The devices of everyone who has some, or still has; those who come are given theirs one after the other."""

    def __init__(self, holding: Iterable[Held], nodes: Iterable[NodeSeen]) -> None:
        self._nodes = {seen.name: seen for seen in nodes}
        self._taken: dict[str, set[int]] = {}
        self._shared: dict[tuple[str, int], int] = {}
        for shares, slots in holding:
            for share, slot in zip(shares, slots, strict=True):
                self._note(share, slot)

    def pin(self, shares: Sequence[NodeShare], slots: Sequence[int]) -> tuple[NodeShare, ...]:
        """New shares with their devices."""
        found = []
        for share, slot in zip(shares, slots, strict=True):
            if (share.node, slot) in self._shared:
                devices: tuple[int, ...] = (self._shared[share.node, slot],)
            else:
                count, taken = 1 if slot >= 0 else int(share.gpus), self._taken_on(share.node)
                free = [device for device in range(self._nodes[share.node].node.gpus) if device not in taken]
                devices = tuple(free[:count]) if len(free) >= count else ()  # others use one since: the backend sees which
            found.append(replace(share, devices=devices))
            self._note(found[-1], slot)
        return tuple(found)

    def _note(self, share: NodeShare, slot: int) -> None:
        self._taken_on(share.node).update(share.devices)
        if slot >= 0 and share.devices:
            self._shared[share.node, slot] = share.devices[0]

    def _taken_on(self, node: str) -> set[int]:
        if (taken := self._taken.get(node)) is None:
            taken = self._taken[node] = set(self._nodes[node].others_devices)
        return taken
