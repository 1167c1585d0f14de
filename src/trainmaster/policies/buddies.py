"""Gangs on nodes without fragments: powers of two on buddies (ElasticFlow, section 4.4; Sia, section 3.3), and others as they fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Parts = list[tuple[int, int]]  # (node, GPUs)


def buddies(gpus: Ints, nodes: Ints, held: dict[int, list[tuple[int, int]]]) -> dict[int, list[tuple[int, int]]] | None:
    """(node, GPUs) of every gang: the largest first, on whole nodes, or inside the fullest node that has room."""
    free, found = nodes.copy(), dict(held)
    for parts in held.values():
        for node, count in parts:
            free[node] -= count
    for job in np.argsort(-gpus, kind="stable").tolist():
        need = int(gpus[job])
        if not need:
            break
        if job in found:
            continue
        roomy = np.flatnonzero(free >= need)
        if len(roomy):
            parts = [(int(roomy[np.argmin(free[roomy])]), need)]
        else:
            parts = []
            for node in np.flatnonzero((free == nodes) & (nodes > 0)).tolist():
                if need:
                    parts.append((node, min(need, int(free[node]))))
                    need -= parts[-1][1]
            if need:
                return None
        for node, count in parts:
            free[node] -= count
        found[job] = parts
    return found


def anyhow(gpus: Ints, nodes: Ints, held: Mapping[int, Parts]) -> dict[int, Parts]:
    """(node, GPUs) of every gang, of any size: who holds something stays; the tightest node that has room, else the freest ones."""
    free, found = nodes.copy(), dict(held)
    for parts in held.values():
        for node, count in parts:
            free[node] -= count
    for job in np.argsort(-gpus, kind="stable").tolist():
        need = 0 if job in found else int(gpus[job])
        if need:
            roomy, parts = np.flatnonzero(free >= need), Parts()
            for node in [int(roomy[np.argmin(free[roomy])])] if len(roomy) else np.argsort(-free, kind="stable").tolist():
                count = min(need, int(free[node]))
                if count:
                    parts.append((node, count))
                    free[node] -= count
                    need -= count
            assert not need, "more GPUs than there are"
            found[job] = parts
    return found
