"""Which accelerators of a node an attempt holds, by index: the ledger counts whole ones and tells shared ones apart; programs need to
be told which.

A share of a GPU that others hold too is of the same device as theirs; everything else is of devices that nobody holds, lowest first.
The engine hands over only what is free in fact, so there are always enough: no backend has to refuse what was decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from trainmaster.live.backends.base import NodeSeen, NodeShare

Held = tuple[Sequence[NodeShare], Sequence[int]]  # and for each share the GPU of its node that the ledger shares out, -1 = whole ones


def pinned(new: Held, holding: Iterable[Held], nodes: Mapping[str, NodeSeen]) -> tuple[NodeShare, ...]:
    """The new shares with their devices. `holding`: of everyone who has some, or still has."""
    taken = {name: set(seen.others_devices) for name, seen in nodes.items()}
    shared: dict[tuple[str, int], int] = {}

    def note(share: NodeShare, slot: int) -> None:
        taken[share.node].update(share.devices)
        if slot >= 0 and share.devices:
            shared[share.node, slot] = share.devices[0]

    for shares, slots in holding:
        for share, slot in zip(shares, slots, strict=True):
            note(share, slot)
    found = []
    for share, slot in zip(*new, strict=True):
        if (share.node, slot) in shared:
            devices: tuple[int, ...] = (shared[share.node, slot],)
        else:
            count = 1 if slot >= 0 else int(share.gpus)
            free = [device for device in range(nodes[share.node].node.gpus) if device not in taken[share.node]]
            devices = tuple(free[:count]) if len(free) >= count else ()  # others use one since: the backend sees which
        found.append(replace(share, devices=devices))
        note(found[-1], slot)
    return tuple(found)
