"""One engine's dynamic state as plain data, to be taken up by another: after a restart, with other jobs, nodes or another policy.

    take(engine) -> Snapshot           nothing of the engine is shared with it
    resume(engine, snapshot)           an engine that was built from a job table and has decided nothing goes on from there

The live cluster adds jobs, changes policies and starts again after a crash this way, and forks itself into the twin. Jobs are
known by seq. Those of the snapshot that the new engine's table lacks are gone; those of the table that the snapshot lacks arrive. One
that waited and can never run on the cluster of now waits no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.engine import kernels
from trainmaster.engine.core import Engine
from trainmaster.engine.handover import Drain, Parts
from trainmaster.engine.result import UNSCHEDULABLE
from trainmaster.engine.state import RESERVED, WAITING
from trainmaster.policies.base import Memory

# What a job's record carries over; the rest follows from the job table, the cluster and the policy.
CARRIED = (
    "running", "new", "phase", "verdict", "short_milli", "held_milli", "settled_gpu_s", "held_since_s", "since_s", "ready_s", "rate",
    "work_left", "served_s", "attained_gpu_s", "mark_left", "held_s", "overhead_gpu_s", "lost_gpu_s", "served_mark_s", "start_s",
    "preemptions", "migrations", "resizes", "failures", "share_milli", "config", "as_asked",
)  # fmt: skip

PART_COLUMNS = ("node", "milli", "slot", "cpu_milli", "memory_mib")
BOUND = "jobs"  # where a policy that makes its arrays later keeps how long they are to be


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    now_s: float
    decisions: int
    decide_s: float  # the next decision that is due by itself, inf = none
    state: NDArray[Any]  # records (`engine.state.JOB`) of the jobs that wait, hold or drain
    parts: Mapping[int, Parts] = field(default_factory=dict)  # what each holding job was given, by seq; a slot is a GPU of its node, from 0
    running: tuple[int, ...] = ()  # seqs of holding jobs, in the order of the last walk
    claims: tuple[int, ...] = ()  # of these, those that others still drain for, in order of promise
    drains: Mapping[int, Drain] = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)
    seq_bound: int = 0  # length of the memory's arrays by seq


def take(engine: Engine) -> Snapshot:
    """The engine as it is between two decisions."""
    S, clock, handover = engine.state, engine.clock, engine.handover
    jobs = S.jobs
    drains = {} if handover is None else handover.drains
    rows = np.flatnonzero((jobs["phase"] == WAITING) | (jobs["running"] == 1) | np.isin(np.arange(len(jobs)), list(drains)))
    order = S.running_list[: clock["n_running"]]
    order = np.array(list(dict.fromkeys(order[jobs["running"][order] == 1].tolist())), np.int64)
    seq = jobs["seq"]
    return Snapshot(
        now_s=float(clock["now_s"]),
        decisions=int(clock["decisions"]),
        decide_s=float(clock["decide_s"]),
        state=jobs.take(rows),  # jobs[rows] copies records field by field
        parts={id: on_its_node(engine, given(engine, row)) for id, row in zip(seq[order].tolist(), order.tolist(), strict=True)},
        running=tuple(seq[order].tolist()),
        claims=() if handover is None else tuple(int(seq[row]) for row in handover.claims),
        drains={int(seq[row]): replace(drain, parts=on_its_node(engine, drain.parts)) for row, drain in drains.items()},
        memory={name: value.copy() if isinstance(value, np.ndarray) else value for name, value in engine.memory.items()},
        seq_bound=engine.seq_bound,
    )


def resume(engine: Engine, snapshot: Snapshot, *, memory: bool = True) -> None:
    """Go on from a snapshot. `memory`: the policy is the one whose memory the snapshot holds."""
    S, clock = engine.state, engine.clock
    clock["now_s"], clock["decisions"], clock["decide_s"] = snapshot.now_s, snapshot.decisions, snapshot.decide_s
    order = np.argsort(engine.jobs.seq)
    place = np.searchsorted(engine.jobs.seq, snapshot.state["seq"], sorter=order)
    candidate = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(place), np.int64)
    here = engine.jobs.seq[candidate] == snapshot.state["seq"] if len(order) else np.zeros(len(place), bool)
    if here.any():
        never = (engine.outcome[candidate] == UNSCHEDULABLE) & (snapshot.state["phase"] == WAITING)
        here &= ~never | np.isin(snapshot.state["seq"], list(snapshot.drains))
    state, rows = snapshot.state.compress(here), candidate[here]
    known = dict(zip(state["seq"].tolist(), rows.tolist(), strict=True))
    for name in CARRIED:
        S.jobs[name][rows] = state[name]
    held = [seq for seq in snapshot.running if seq in known]
    draining = {seq: drain.parts for seq, drain in snapshot.drains.items() if seq in known}
    slot_of = slots_here(engine, [snapshot.parts[seq] for seq in held], draining.values())
    first = int(clock["n_allocations"])
    holds = {known[seq]: here_now(snapshot.parts[seq], slot_of, first + number) for number, seq in enumerate(held)}
    if holds:
        begins = np.cumsum([0, *(len(parts.node) for parts in holds.values())])
        columns = (np.concatenate([getattr(parts, name) for parts in holds.values()]) for name in PART_COLUMNS)
        kernels.hold_again(S.clock, np.array(list(holds), np.int32), begins, *columns)
    waiting = rows[state["phase"] == WAITING]
    S.fresh[: len(waiting)] = waiting
    clock["n_fresh"] = clock["n_waiting"] = len(waiting)
    clock["active_milli"] += int(S.jobs["milli"][waiting].sum())
    engine.active = np.sort(rows[(state["phase"] == WAITING) | (state["running"] == 1)])
    S.jobs["arrive_s"] = np.maximum(S.jobs["arrive_s"], snapshot.now_s)
    S.replace("arrivals", np.ascontiguousarray(S.arrivals[~np.isin(S.arrivals, rows)]))
    if engine.handover is not None:
        claims = {row: holds.pop(row) for row in (known[seq] for seq in snapshot.claims if seq in known)}
        assert all(S.jobs[row]["phase"] == RESERVED for row in claims)
        drains = {known[seq]: Drain(here_now(parts, slot_of), snapshot.drains[seq].since_s) for seq, parts in draining.items()}
        engine.handover.resume(claims, holds, drains)
    if memory:
        engine.memory = grown(snapshot.memory, snapshot.seq_bound, engine.seq_bound)


def given(engine: Engine, row: int) -> Parts:
    """What a job has in fact or was promised: kept by whoever hands it over."""
    handover = engine.handover
    kept = None if handover is None else handover.claims.get(row) or handover.held.get(row)
    return kept or engine.parts(row)


def on_its_node(engine: Engine, parts: Parts) -> Parts:
    """Slots counted on each node from 0: what they are for any engine."""
    return replace(parts, slot=np.array(slots_of(engine, parts), np.int32)) if parts.shares else parts


def slots_of(engine: Engine, parts: Parts) -> list[int]:
    """For each part, which GPU of its node is shared, from 0; -1 = whole ones."""
    if not parts.shares:
        return [-1] * len(parts.slot)
    slots: list[int] = np.where(parts.slot >= 0, parts.slot - engine.state.nodes["slot"][parts.node], -1).tolist()
    return slots


def slots_here(engine: Engine, *holdings: Iterable[Parts]) -> dict[tuple[int, int], int]:
    """The engine's slot of each shared GPU (node, slot from 0). A node may have become smaller: then of some GPU that nobody shares.

    First come the GPUs of the ledger, for which there is room; to those that drain none may be left that is not given away already.
    """
    found: dict[tuple[int, int], int] = {}
    for some in holdings:
        sharing = [zip(parts.node.tolist(), parts.slot.tolist(), strict=True) for parts in some if parts.shares]
        used = {(node, slot) for places in sharing for node, slot in places if slot >= 0}
        for node, slot in sorted(used - found.keys()):
            gpus, first = int(engine.state.nodes["gpus"][node]), int(engine.state.nodes["slot"][node])
            free = (i for i in range(gpus) if (node, i) not in used and first + i not in found.values())
            found[node, slot] = first + (slot if slot < gpus else next(free, 0))
    return found


def here_now(parts: Parts, slot_of: Mapping[tuple[int, int], int], allocation: int = -1) -> Parts:
    """The same in another engine, as an entry of its log."""
    slot = parts.slot
    if parts.shares:
        slot = np.array([slot_of.get(place, -1) for place in zip(parts.node.tolist(), slot.tolist(), strict=True)], np.int32)
    return Parts(parts.node, parts.milli, slot, parts.cpu_milli, parts.memory_mib, allocation)


def grown(memory: Memory, bound: int, longer: int) -> Memory:
    """Memory with room for seqs below `longer` instead of `bound`: arrays by seq go on with their last row, which no job has had."""
    more: Memory = {}
    for name, value in memory.items():
        if isinstance(value, np.ndarray) and value.ndim and len(value) == bound < longer:
            more[name] = np.concatenate([value, np.repeat(value[-1:], longer - bound, axis=0)])
        else:
            more[name] = longer if name == BOUND and value == bound else value
    return more
