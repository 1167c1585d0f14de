"""The cluster that a log's own jobs were seen on: its nodes by name, each with the most GPUs its jobs held at once.

A lower bound: a node that was never full is larger than it looks, and one that no job used is not there at all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from trainmaster.cluster.accelerators import canonical
from trainmaster.cluster.cluster import UNTYPED, Cluster, Node

MOST_NAMES = 100_000  # of one list: more is no list of nodes
NAME = r"(?:[^,\[\]]|\[[0-9,-]*\])*"
LIST = re.compile(rf"{NAME}(?:,{NAME})*")


def node_names(text: str) -> list[str]:
    """Slurm's host list `gpu[01-03,7],login,rack[1-2]n[1-4]`; [] for text that is no such list."""
    if not LIST.fullmatch(text):
        return []
    names: list[str] = []
    for name in re.findall(NAME, text):
        found = [""]
        for plain, ranges in re.findall(r"([^\[\]]+)|\[([0-9,-]*)\]", name):
            pieces = [plain] if plain else _numbers(ranges)
            if not pieces or len(found) * len(pieces) > MOST_NAMES:
                return []
            found = [f"{before}{piece}" for before in found for piece in pieces]
        names += [one for one in found if one]
        if len(names) > MOST_NAMES:
            return []
    return names


def _numbers(ranges: str) -> list[str]:
    """Of `01-03,7`; [] for what is no list of numbers, or too long a one."""
    found: list[str] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        if len(part) > 40 or not first.isdigit() or not (last or first).isdigit() or int(last or first) - int(first) > MOST_NAMES:
            return []
        found += [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]
        if len(found) > MOST_NAMES:
            return []
    return found


def cluster_seen(node_lists: Iterable[str], gpus: ArrayLike, types: Iterable[str | None], start_s: ArrayLike,
                 end_s: ArrayLike) -> Cluster | None:
    """One row a job that ran: where, on how many GPUs in all, of which type, from when to when. None if no node had a GPU."""
    number: dict[str, int] = {}
    kinds: list[Counter[str]] = []
    known: dict[str, list[int]] = {}
    at_node: list[int] = []
    times: list[float] = []
    deltas: list[int] = []
    columns = (np.asarray(column, float).tolist() for column in (gpus, start_s, end_s))
    for text, kind, job_gpus, start, end in zip(node_lists, types, *columns, strict=True):
        if not (job_gpus > 0 and start < end):
            continue
        if text not in known:
            known[text] = [number.setdefault(name, len(number)) for name in node_names(text)]
        for node in known[text]:
            if node == len(kinds):
                kinds.append(Counter())
            kinds[node][canonical(kind) if kind else UNTYPED] += 1
            share = -(-int(job_gpus) // len(known[text]))
            at_node += [node, node]
            times += [start, end]
            deltas += [share, -share]
    if not at_node:
        return None
    at, time_s, delta = np.array(at_node), np.array(times), np.array(deltas)
    order = np.lexsort((delta, time_s, at))  # what ends at an instant ends before what starts
    held = np.cumsum(delta[order])
    most = np.zeros(len(number), np.int64)
    np.maximum.at(most, at[order], held)  # every node's changes add up to nothing, so the next node starts at zero
    nodes = [Node(gpus=int(most[i]), type=kinds[i].most_common(1)[0][0], name=name) for name, i in sorted(number.items())]
    return Cluster.of([node for node in nodes if node.gpus > 0])
