"""Split, gang-aware stride: a stride on every node, and a central one for gangs that no node can hold.

Chaudhary et al., "Balancing Efficiency and Fairness in Heterogeneous GPU Clusters for Deep Learning", EuroSys 2020, section 3.

    pass      of a job on a type: GPUs x quanta that it had there / its tickets
    node      the jobs at home there run in turn, all that fit; one that does not fit keeps its pass, so it comes first next time
    in turn   the order of (pass + 1 / tickets, pass, submission): of where a pass would be after a turn on one GPU; who is a whole
              quantum ahead of the node's mean pass comes after all others
    central   gangs wider than a node, and the jobs of each node as one, which has their tickets together and so their mean pass
    balance   tickets per GPU are to be equal on all nodes of a type: jobs move from the fullest node to the emptiest

Tickets are counted in GPUs, so a pass advances by one a quantum for who has exactly its share, and passes on different nodes compare.
On one GPU the paper's order, by pass, is fair within a quantum between any two; on several at once who has few tickets gets its first
turns too early, and two can be almost two quanta apart. This order is that of Pfair's earliest pseudo-deadline first (Baruah et al.,
"Proportionate progress", Algorithmica 15, 1996); ADR 0015 says what is proven of it.
Where nodes cannot be made equal (three jobs for two GPUs), the job that is most behind changes places with the one most ahead once
they are `BEHIND` quanta apart: the paper leaves open what happens there, and somebody would be short for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Floats

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NOWHERE = -1
EQUAL = 0.05  # tickets per GPU: a smaller gain is not worth a move
BEHIND = 10.0  # quanta between two jobs' passes from which on they change places
ROUNDING = 9  # digits of a pass, so that equal ones compare so
Parts = dict[int, float]  # node -> GPUs


@dataclass(frozen=True)
class Local:
    """Jobs at home on the nodes of one type: a row a job."""

    job: Ints
    home: Ints  # node
    gang: Floats
    tickets: Floats
    passes: Floats

    def of_nodes(self, values: Floats, nodes: int) -> Floats:
        return np.bincount(self.home, values, nodes).astype(np.float64)


def node_passes(local: Local, nodes: int) -> Floats:
    """Of the jobs of each node as one; NaN where there are none."""
    tickets = local.of_nodes(local.tickets, nodes)
    with np.errstate(invalid="ignore"):
        return local.of_nodes(local.tickets * local.passes, nodes) / tickets


def in_turn(local: Local, nodes: int) -> Ints:
    """Who comes first on its node: rows of `local`."""
    turn = np.round(local.passes + 1.0 / local.tickets, ROUNDING)
    ahead = local.passes > node_passes(local, nodes)[local.home] + 1.0 - 10.0**-ROUNDING
    return np.lexsort((np.round(local.passes, ROUNDING), turn, ahead))


def central(local: Local, wide: Ints, passes: Floats, gang: Floats, open_to: Bools, most_nodes: Ints, free: Floats) -> dict[int, Parts]:
    """Which wide gangs run, and where: (wide, nodes) says which nodes each may use. Takes their GPUs from `free`."""
    nodes = len(free)
    wanted, of_node = local.of_nodes(local.gang, nodes), node_passes(local, nodes)
    there = np.flatnonzero(wanted > 0)
    order = np.argsort(np.concatenate([of_node[there], passes]), kind="stable").tolist()
    unclaimed, given = free.copy(), dict[int, Parts]()
    for entry in order:
        if entry < len(there):
            unclaimed[there[entry]] -= min(unclaimed[there[entry]], wanted[there[entry]])
            continue
        i = entry - len(there)
        if parts := spread(float(gang[i]), np.where(open_to[i], unclaimed, 0.0), int(most_nodes[i])):
            given[int(wide[i])] = parts
            for node, gpus in parts.items():
                unclaimed[node] -= gpus
                free[node] -= gpus
    return given


def spread(gang: float, room: Floats, most_nodes: int) -> Parts:
    """A gang on the fewest nodes; {} if there is no room. `most_nodes` 0 = as many as it takes."""
    parts: Parts = {}
    for node in np.argsort(-np.floor(room), kind="stable")[: most_nodes or None].tolist():
        gpus = min(gang, float(np.floor(room[node])))
        if gpus < 1:
            break
        parts[node] = gpus
        gang -= gpus
        if gang <= 0:
            return parts
    return {}


# ------------------------------------------------------------------------------------------------- balance


def emptiest(tickets: float, load: Floats, gpus: Floats, may: Bools) -> int:
    """The node that has the fewest tickets per GPU with a newcomer's."""
    return int(np.argmin(np.where(may, (load + tickets) / np.maximum(gpus, 1.0), np.inf)))


def balance(local: Local, open_to: Bools, gpus: Floats) -> Ints:
    """New homes: (jobs, nodes) says which nodes each job may use and fits on."""
    home, load = local.home.copy(), local.of_nodes(local.tickets, len(gpus))
    used = np.flatnonzero(open_to.any(axis=0))
    for _ in range(len(home)):
        level = load[used] / gpus[used]
        full, empty = used[np.argmax(level)], used[np.argmin(level)]
        movable = np.flatnonzero((home == full) & open_to[:, empty])
        if not len(movable):
            break
        after = np.maximum((load[full] - local.tickets[movable]) / gpus[full], (load[empty] + local.tickets[movable]) / gpus[empty])
        best = int(np.argmin(after))
        if after[best] > level.max() - EQUAL:
            break
        _move(int(movable[best]), int(empty), home, load, local.tickets)
    _change_places(local, open_to, gpus, home, load)
    return home


def _change_places(local: Local, open_to: Bools, gpus: Floats, home: Ints, load: Floats) -> None:
    """Who is most behind goes where somebody is most ahead: without exchange if that node is then no fuller than its own was."""
    behind = int(np.argmin(local.passes))
    here = home[behind]
    ahead = (local.passes - local.passes[behind] > BEHIND) & (home != here) & open_to[behind, home] & open_to[:, here]
    ahead &= local.gang == local.gang[behind]
    if not ahead.any():
        return
    other = int(np.argmax(np.where(ahead, local.passes, -np.inf)))
    there, more = home[other], local.tickets[behind] - local.tickets[other]
    before = max(load[here] / gpus[here], load[there] / gpus[there]) + EQUAL
    if (load[there] + local.tickets[behind]) / gpus[there] <= before:
        _move(behind, int(there), home, load, local.tickets)
    elif max((load[there] + more) / gpus[there], (load[here] - more) / gpus[here]) <= before:
        _move(behind, int(there), home, load, local.tickets)
        _move(other, int(here), home, load, local.tickets)


def _move(job: int, node: int, home: Ints, load: Floats, tickets: Floats) -> None:
    load[home[job]] -= tickets[job]
    load[node] += tickets[job]
    home[job] = node
