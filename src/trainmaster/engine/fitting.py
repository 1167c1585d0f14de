"""Where a job of a decision goes: nowhere else, grown where it is, onto its partners' GPUs, or placed anew.

Each of these takes room as further parts of the log and says whether it found all of it; what was taken is dropped otherwise.
In place, nothing is taken from where the job was not: the nodes with the fewest of its GPUs are given up first, so that
what is left is on as few as can be. Growing takes what is free on its own nodes before the placement is asked for more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import numpy as np

from trainmaster.engine import kernels
from trainmaster.engine.wants import Amount, Want, split
from trainmaster.workload.jobs import GPU_MILLI

if TYPE_CHECKING:
    from trainmaster.engine.core import Engine

Counts = dict[int, int]  # node -> thousandths of GPUs, before their share is taken
Where = ParamSpec("Where")


def all_or_nothing(fit: Callable[Concatenate[Engine, Where], bool]) -> Callable[Concatenate[Engine, Where], bool]:
    @wraps(fit)
    def attempt(engine: Engine, /, *args: Where.args, **kwargs: Where.kwargs) -> bool:
        begin = int(engine.clock["n_parts"])
        found = fit(engine, *args, **kwargs)
        if not found:
            kernels.drop_parts(engine.state.clock, begin)
        return found

    return attempt


# ------------------------------------------------------------------------------------------------- what it holds


def held(engine: Engine, row: int) -> Counts:
    allocation = engine.allocation(row)
    return {node: round(gpus * GPU_MILLI) for node, gpus in zip(allocation.nodes, allocation.gpus, strict=True)}


def slots(engine: Engine, row: int) -> dict[int, list[int]]:
    """The shared GPUs that it holds, by node."""
    parts, found = engine.parts(row), dict[int, list[int]]()
    for node, slot in zip(parts.node.tolist(), parts.slot.tolist(), strict=True):
        if slot >= 0:
            found.setdefault(node, []).append(slot)
    return found


def holds(engine: Engine, want: Want) -> bool:
    """What it holds is what it is given."""
    job, parts = engine.state.jobs[want.row], engine.parts(want.row)
    total = want.total
    return (
        job["share_milli"] == want.share_milli
        and job["config"] == want.config
        and parts.cpu_milli.sum() == total.cpu_milli
        and parts.memory_mib.sum() == total.memory_mib
        and kept(engine, want, have := held(engine, want.row)) == have
    )


def is_inside(engine: Engine, row: int, host: int) -> bool:
    """It runs on GPUs of its partner, and on no others."""
    mine = {slot for some in slots(engine, row).values() for slot in some}
    return bool(mine) and mine <= {slot for some in slots(engine, host).values() for slot in some}


def kept(engine: Engine, want: Want, have: Counts) -> Counts | None:
    """What a job keeps of what it holds, if that is all it is given; None if it needs anything else."""
    if want.named:
        wanted = {node: amount.gpu_milli for node, amount in want.by_node().items()}
        return wanted if all(milli <= have.get(node, -1) for node, milli in wanted.items()) else None
    types = {line.type for line in want.lines}
    if any(line.node is not None for line in want.lines) or (None in types and len(types) > 1):
        return None
    left = dict(have)
    for type_ in types:
        wanted_milli = sum(a.gpu_milli for line, a in zip(want.lines, want.amounts, strict=True) if line.type == type_)
        mine = [node for node in have if type_ is None or engine.cluster.nodes[node].type == type_]
        excess = sum(have[node] for node in mine) - wanted_milli
        if excess < 0:
            return None
        for node in sorted(mine, key=lambda node: (have[node], -mine.index(node))):
            gone = min(excess, have[node])
            left[node] -= gone
            excess -= gone
    if None not in types and any(engine.cluster.nodes[node].type not in types for node in have):
        return None
    return {node: milli for node, milli in left.items() if milli or not want.gpu_milli}


def only_grows(engine: Engine, want: Want) -> bool:
    """It is given more GPUs of the type it holds, wherever, all whole: it need not let go of any."""
    job, have = engine.state.jobs[want.row], held(engine, want.row)
    whole = job["share_milli"] == want.share_milli == GPU_MILLI and not want.gpu_milli % GPU_MILLI and not slots(engine, want.row)
    anywhere = want.partner is None and not any(line.node is not None for line in want.lines)
    of_one_type = {line.type for line in want.lines} <= {None, engine.allocation(want.row).type} and not engine.allocation(want.row).types
    return bool(whole and anywhere and of_one_type and want.gpu_milli > sum(have.values()))


# ------------------------------------------------------------------------------------------------- room


@all_or_nothing
def in_place(engine: Engine, want: Want) -> bool:
    """On (some of) what it has just given back."""
    counts = kept(engine, want, held(engine, want.row))
    return counts is not None and _put(engine, want, counts, slots(engine, want.row))


@all_or_nothing
def grown(engine: Engine, want: Want) -> bool:
    """On what it has given back, then what is free on those nodes, then where the placement says."""
    S, counts, need, total = engine.state, held(engine, want.row), want.gpu_milli, want.total
    missing = need - sum(counts.values())
    for node in counts:
        extra = min(missing, _free_gpus(engine, node, total) * GPU_MILLI - counts[node]) if S.nodes[node]["up"] else 0
        counts[node] += max(extra, 0)
        missing -= max(extra, 0)
    most_nodes = int(S.jobs[want.row]["max_nodes"])
    if missing and most_nodes and len(counts) >= most_nodes:
        return False
    weights = [*counts.values(), missing]
    cpus, memory = split(total.cpu_milli, weights), split(total.memory_mib, weights)
    for (node, milli), cpu, mib in zip(counts.items(), cpus[:-1], memory[:-1], strict=True):
        if not kernels.put_part(S.clock, node, milli, cpu, mib, -1):
            return False
    type_ = engine.allocation(want.row).type
    left = most_nodes - len(counts) if most_nodes else 0
    return not missing or _place(engine, want.row, Amount(missing, cpus[-1], memory[-1]), type_, left)


@all_or_nothing
def anew(engine: Engine, want: Want) -> bool:
    """Each line on its node, or where the placement says, on its type or any that the job accepts."""
    S, begin = engine.state, int(engine.clock["n_parts"])
    alone = want.shares and want.partner is None and want.gpu_milli <= GPU_MILLI  # a fraction: beside others where it fits
    share_milli = GPU_MILLI if want.shares and not alone else want.share_milli
    most_nodes = int(S.jobs[want.row]["max_nodes"])
    for line, amount in zip(want.lines, want.amounts, strict=True):
        whole_milli = -(-amount.gpu_milli // GPU_MILLI) * GPU_MILLI if want.shares and not alone else amount.gpu_milli
        amount = Amount(whole_milli * share_milli // GPU_MILLI, amount.cpu_milli, amount.memory_mib)
        if line.node is not None:
            found = kernels.place_on(S.clock, line.node, amount.gpu_milli, amount.cpu_milli, amount.memory_mib)
        else:
            left = most_nodes - len(set(S.parts["node"][begin : engine.clock["n_parts"]].tolist())) if most_nodes else 0
            found = (not most_nodes or left > 0) and _place(engine, want.row, amount, line.type, left)
        if not found:
            return False
    if want.shares and not alone:
        kernels.share_parts(S.clock, begin, want.each_milli)
    return True


@all_or_nothing
def inside(engine: Engine, want: Want, host: int) -> bool:
    """On GPUs of its partner that have room for its share: those of one node where that is enough, the tightest; else in its order."""
    S, need = engine.state, -(-want.gpu_milli // GPU_MILLI)
    room = {
        node: [slot for slot in there if S.slots[slot] + want.each_milli <= GPU_MILLI] for node, there in slots(engine, host).items()
    }
    if want.named:
        counts = {node: amount.gpu_milli for node, amount in want.by_node().items()}
        if any(-(-milli // GPU_MILLI) > len(room.get(node, ())) for node, milli in counts.items()):
            return False
        return _put(engine, want, counts, room)
    types = {line.type for line in want.lines}
    if sum(map(len, room.values())) < need or not types <= {None, engine.allocation(host).type}:
        return False
    enough = [node for node in room if len(room[node]) >= need]
    counts, missing = Counts(), want.gpu_milli
    for node in [min(enough, key=lambda node: len(room[node]))] if enough else room:
        counts[node] = min(missing, len(room[node]) * GPU_MILLI)
        missing -= counts[node]
    return _put(engine, want, {node: milli for node, milli in counts.items() if milli}, room)


def _put(engine: Engine, want: Want, counts: Counts, known: Mapping[int, list[int]]) -> bool:
    """Exactly these, of shared GPUs those that are `known` first."""
    S, total = engine.state, want.total
    if want.named:
        amounts = list(want.by_node().values())
        cpus, memory = [a.cpu_milli for a in amounts], [a.memory_mib for a in amounts]
    else:
        cpus, memory = split(total.cpu_milli, counts.values()), split(total.memory_mib, counts.values())
    for (node, milli), cpu, mib in zip(counts.items(), cpus, memory, strict=True):
        if not want.shares or (engine.cluster.nodes[node].pooled and want.share_milli == GPU_MILLI):
            if not kernels.put_part(S.clock, node, milli, cpu, mib, -1):
                return False
            continue
        gpus = -(-milli // GPU_MILLI)
        chosen = [*known.get(node, ())[:gpus], *[int(kernels.OWN_GPU)] * gpus][:gpus]
        for slot, cpu_share, mib_share in zip(chosen, split(cpu, [1] * gpus), split(mib, [1] * gpus), strict=True):
            if not kernels.put_part(S.clock, node, want.each_milli, cpu_share, mib_share, slot):
                return False
    return True


def _place(engine: Engine, row: int, amount: Amount, type_: str | None, most_nodes: int) -> bool:
    number = -1 if type_ is None or type_ not in engine.types else engine.types.index(type_)
    return bool(kernels.place_parts(engine.state.clock, np.int32(row), amount.gpu_milli, amount.cpu_milli, amount.memory_mib, number,
                                    np.int32(most_nodes), engine.pick))  # fmt: skip


def _free_gpus(engine: Engine, node: int, total: Amount) -> int:
    """Whole GPUs of a node that the job could use there, by GPUs, CPUs and memory."""
    n, gpus = engine.state.nodes[node], total.gpu_milli // GPU_MILLI
    free = int(n["free_milli"]) // GPU_MILLI
    if n["counts_cpu"] and total.cpu_milli:
        free = min(free, int(n["cpu_free_milli"]) * gpus // total.cpu_milli)
    if n["counts_memory"] and total.memory_mib:
        free = min(free, int(n["memory_free_mib"]) * gpus // total.memory_mib)
    return free
