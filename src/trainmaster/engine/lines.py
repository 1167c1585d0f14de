"""From a whole-cluster policy's Decision to what changes: reject, stop, start, in the order of its lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainmaster.engine import kernels
from trainmaster.engine.result import REJECTED
from trainmaster.engine.state import ENDED, RESERVED, WAITING
from trainmaster.errors import InputError, InvariantBroken
from trainmaster.policies.base import Decision, Line, Verdict
from trainmaster.workload.jobs import GPU_MILLI

if TYPE_CHECKING:
    from trainmaster.engine.core import Engine


def carry_out(engine: Engine, decision: Decision) -> None:
    """Make the cluster what a whole-cluster policy wants: reject, stop, start, in the order of its lines."""
    S, clock = engine.state, engine.clock
    wanted: dict[int, list[Line]] = {}
    for line in decision.lines:
        wanted.setdefault(line.row, []).append(line)
    for row in decision.reject:
        reject(engine, row)
    active = engine.active
    held = active[S.jobs["running"][active] == 1]
    if not engine.policy.preemptive:  # running jobs without a line stay
        held = held[np.isin(held, np.fromiter(wanted, np.int64, len(wanted)))]
    moved = []
    for row in held.tolist():
        if kernels.must_stay(S.clock, np.int32(row)) or (row in wanted and keeps(engine, row, wanted[row])):
            continue
        before, promised = engine.allocation(row), S.jobs[row]["phase"] == RESERVED
        kernels.stop_job(S.clock, np.int32(row))
        if row in wanted:
            moved.append(row)
            resized = sum(line.gpus * line.share for line in wanted[row]) != before.total_gpus
            S.jobs[row]["resizes" if resized else "migrations"] += not promised  # a promise changed disturbs nobody
        else:
            S.jobs[row]["preemptions"] += not promised
    running = S.jobs["running"][active] == 1
    S.jobs["verdict"][active] = np.where(running, Verdict.KEPT, Verdict.POLICY_ZERO if decision.verdict is None else decision.verdict)
    short_gpus = np.zeros(len(active)) if decision.short_gpus is None else decision.short_gpus
    S.jobs["short_milli"][active] = np.where(running, 0.0, np.rint(short_gpus * GPU_MILLI))
    for row, lines in wanted.items():
        if S.jobs[row]["phase"] == WAITING and not start(engine, row, lines):
            S.jobs[row]["verdict"], S.jobs[row]["short_milli"] = Verdict.FRAGMENTED, 0
            S.jobs[row]["preemptions"] += row in moved
    S.jobs["new"][active] = 0
    clock["n_fresh"] = 0
    if decision.lease_s is not None:
        if not decision.lease_s > 0:
            raise InvariantBroken(f"{engine.label}: a lease of {decision.lease_s} s")
        kernels.wake_later(S.clock, clock["now_s"] + decision.lease_s)


def keeps(engine: Engine, row: int, lines: list[Line]) -> bool:
    """What it holds is what it is given: same amount, and the same nodes and type where the lines name them."""
    held = engine.allocation(row)
    if abs(sum(line.gpus * line.share for line in lines) - held.total_gpus) > 1e-9:
        return False
    if any(line.type is not None and line.type != held.type for line in lines):
        return False
    if any(line.node is None for line in lines):
        return True
    on_nodes: dict[int, float] = {}
    for line in lines:
        on_nodes[int(line.node or 0)] = on_nodes.get(int(line.node or 0), 0.0) + line.gpus * line.share
    return on_nodes == dict(zip(held.nodes, held.gpus, strict=True))


def start(engine: Engine, row: int, lines: list[Line]) -> bool:
    S = engine.state
    if any(line.partner is not None or line.config >= 0 for line in lines):
        raise InputError(f"--policy: {engine.policy.name} uses partner groups or rate cards, which the engine does not carry out yet")
    if all(line.node is None for line in lines):
        milli = round(sum(line.gpus * line.share for line in lines) * GPU_MILLI)
        named = lines[0].type
        type_ = -1 if named is None else engine.types.index(named)
        return bool(kernels.start_job(S.clock, np.int32(row), milli, type_, engine.pick))
    if any(line.node is None for line in lines):
        raise InputError(f"--policy: {engine.policy.name} names a node for a part of job {engine.jobs.id[row]} only")
    nodes = np.array([line.node for line in lines], np.int32)
    parts = np.array([round(line.gpus * line.share * GPU_MILLI) for line in lines], np.int64)
    job = S.jobs[row]
    return bool(kernels.start_on(S.clock, np.int32(row), nodes, parts, int(job["cpu_milli"]), int(job["memory_mib"])))


def reject(engine: Engine, row: int) -> None:
    S = engine.state
    if S.jobs[row]["phase"] != WAITING:
        raise InvariantBroken(f"{engine.label}: job {engine.jobs.id[row]} is rejected but not waiting")
    S.jobs[row]["phase"], S.jobs[row]["verdict"] = ENDED, Verdict.REJECTED
    engine.outcome[row], engine.reason[row] = REJECTED, f"not admitted by {engine.policy.name}"
    engine.clock["n_waiting"] -= 1
    engine.clock["active_milli"] -= S.jobs[row]["milli"]
    engine.clock["finite_left"] -= bool(np.isfinite(engine.jobs.work[row]))
