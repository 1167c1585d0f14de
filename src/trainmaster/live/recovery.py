"""From what the store and the backend know to a snapshot that the engine goes on from: how a controller starts, the first time too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainmaster.engine.handover import Drain, Parts
from trainmaster.engine.snapshot import Snapshot
from trainmaster.engine.state import FUTURE, JOB, RUNNING, STARTING, WAITING
from trainmaster.live.backends.base import NodeShare
from trainmaster.live.jobs import LiveJob
from trainmaster.policies.base import Memory
from trainmaster.workload.jobs import GPU_MILLI


def snapshot_of(jobs: Sequence[LiveJob], node_row: Mapping[str, int], now_s: float, decisions: int, memory: Memory,
                seq_bound: int) -> Snapshot:  # fmt: skip
    """`jobs`: those that are offered or have a live attempt. Promises that were not handed over are made again by the next decision."""
    state = np.zeros(len(jobs), JOB)
    state["start_s"], state["work_left"] = np.nan, np.inf
    state["share_milli"], state["config"], state["as_asked"] = GPU_MILLI, -1, 1
    parts: dict[int, Parts] = {}
    drains: dict[int, Drain] = {}
    running: list[tuple[float, int]] = []
    for record, job in zip(state, jobs, strict=True):
        row, attempt = job.row, job.attempt
        record["seq"], record["settled_gpu_s"], record["served_s"], record["held_s"] = row.id, row.gpu_s, row.run_s, row.run_s
        record["preemptions"], record["failures"] = row.preemptions, row.failures
        record["start_s"] = np.nan if row.start_s is None else row.start_s
        record["served_mark_s"] = row.run_s
        record["phase"] = WAITING if job.wants_to_run else FUTURE
        if attempt is None:
            continue
        claimed_s = min(attempt.claimed_s, now_s)  # the clock may have been set back since
        held = parts_of(attempt.shares, slots_held(job), node_row)
        if attempt.asked_s is not None:
            asked_s = min(attempt.asked_s, now_s)
            drains[row.id] = Drain(held, asked_s)
            spent_s = asked_s - claimed_s
            record["settled_gpu_s"] += spent_s * float(held.milli.sum()) / GPU_MILLI
            record["served_s"], record["held_s"] = row.run_s + spent_s, row.run_s + spent_s
            continue
        parts[row.id] = held
        running.append((claimed_s, row.id))
        record["running"], record["held_milli"], record["held_since_s"] = 1, int(held.milli.sum()), claimed_s
        record["phase"] = STARTING if attempt.start_s is None else RUNNING
        record["since_s"] = claimed_s if attempt.start_s is None else min(attempt.start_s, now_s)
        record["ready_s"] = np.inf if attempt.start_s is None else min(attempt.start_s, now_s)
    return Snapshot(
        now_s=now_s, decisions=decisions, decide_s=np.inf, state=state, parts=parts, running=tuple(id for _, id in sorted(running)),
        drains=drains, memory=memory, seq_bound=seq_bound,
    )  # fmt: skip


def parts_of(shares: Sequence[NodeShare], slots: Sequence[int], node_row: Mapping[str, int]) -> Parts:
    """What an attempt holds, in a snapshot's words. `slots`: of fractions, the GPU of the node, -1 = whole ones."""
    return Parts(
        node=np.array([node_row[share.node] for share in shares], np.int32),
        milli=np.array([round(share.gpus * GPU_MILLI) for share in shares], np.int64),
        slot=np.array(slots, np.int32),
        cpu_milli=np.array([round(share.cpus * 1000) for share in shares], np.int64),
        memory_mib=np.array([round(share.memory_gib * 1024) for share in shares], np.int64),
    )


def slots_held(job: LiveJob) -> list[int]:
    """Of each share of its attempt, which GPU of the node it is a part of, -1 = whole ones: as the ledger has counted it; where its
    devices are known they are what counts, as whoever shares a device shares a slot."""
    assert job.attempt is not None
    shares = job.attempt.shares
    slots = job.row.engine.get("slots") or [-1] * len(shares)
    return [share.devices[0] if slot >= 0 and share.devices else slot for share, slot in zip(shares, slots, strict=True)]


def shares_of(parts: Parts, node_names: Sequence[str]) -> tuple[NodeShare, ...]:
    """The same, in the backend's words."""
    return tuple(
        NodeShare(node=node_names[node], gpus=milli / GPU_MILLI, cpus=cpu / 1000, memory_gib=memory / 1024)
        for node, milli, cpu, memory in zip(
            parts.node.tolist(), parts.milli.tolist(), parts.cpu_milli.tolist(), parts.memory_mib.tolist(), strict=True
        )
    )
