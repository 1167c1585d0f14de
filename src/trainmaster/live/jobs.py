"""A live job in the controller's memory: its row as the store has it, what was asked for, and its live attempt."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from trainmaster.cluster.accelerators import with_memory
from trainmaster.live.backends.base import Observation
from trainmaster.live.control import JobRecord
from trainmaster.live.spec import JobSpec, Retry, StopSignal
from trainmaster.live.states import State
from trainmaster.live.store.rows import AttemptRow, JobRow

TOLD_PREEMPTIBLE = "preemptible"  # somebody has said so, or not so: a checkpoint says nothing then
WAITING = frozenset({State.PENDING, State.RECOVERING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What scheduling must know of a submission, all else stays in the store until the job starts; alike ones are one object."""

    gpu_types: tuple[str, ...]  # that will do: with the memory that was asked for
    nodes: int | None
    min_gpus: float | None
    max_gpus: float | None
    cpus: float
    memory_gib: float
    preemptible: bool | None
    requeue: bool
    grace_s: float
    signal: StopSignal | None
    retry: Retry
    array_limit: int | None

    @classmethod
    def of(cls, spec: JobSpec) -> Needs:
        return _shared(
            cls(
                gpu_types=with_memory(spec.gpu_types, spec.gpu_memory_gib) if spec.gpu_memory_gib else spec.gpu_types,
                nodes=spec.nodes, min_gpus=spec.min_gpus, max_gpus=spec.max_gpus, cpus=spec.cpus,
                memory_gib=spec.memory_gib, preemptible=spec.preemptible, requeue=spec.requeue, grace_s=spec.grace_s,
                signal=spec.signal, retry=spec.retry,
                array_limit=spec.array.limit if spec.array is not None else None,
            )
        )  # fmt: skip


@lru_cache(maxsize=4_096)
def _shared(needs: Needs) -> Needs:
    return needs


@dataclass(slots=True, eq=False)
class LiveJob:
    row: JobRow
    needs: Needs
    attempt: AttemptRow | None = None
    seen: Observation | None = None  # the newest of its live attempt
    named_s: float = -math.inf  # when that was
    retry_at_s: float = 0.0  # not offered before
    start_failures: int = 0  # in a row
    failed_on: list[str] = field(default_factory=list)  # the nodes of each of them
    avoid: str | None = None  # the one among those of the last that was there most often
    warned: bool = False  # of its limit, or of a stop that nobody acknowledges
    overuse: float = 0.0  # in [0, 1): taken off its priority while its user has had more than a fair share
    place: int | None = None  # in the order of waiting jobs at the last decision
    eta_s: float | None = None
    depends_on: set[int] = field(default_factory=set)  # jobs it still waits for

    @property
    def id(self) -> int:
        return self.row.id

    @property
    def waits(self) -> bool:
        return self.row.state in WAITING

    @property
    def runs(self) -> bool:
        """It holds GPUs and has not been asked to give them back."""
        return self.attempt is not None and self.attempt.asked_s is None and not self.attempt.reason

    @property
    def stop_reason(self) -> str | None:
        """Why its attempt was asked to stop: preempt, suspend, cancel, limit, requeue, hang; None = it was not."""
        return self.attempt.reason or None if self.attempt is not None else None

    @property
    def wants_to_run(self) -> bool:
        """It waits, or will wait again once it is gone from where it was."""
        return not (self.row.held or self.row.suspended) and (self.waits or self.stop_reason in ("preempt", "requeue"))

    @property
    def told(self) -> dict[str, Any]:
        """Of what is kept for the engine, what people have said: it outlives an attempt."""
        return {name: value for name, value in self.row.engine.items() if name == TOLD_PREEMPTIBLE}

    def run_s(self, now_s: float) -> float:
        """Seconds holding its GPUs, all attempts."""
        return self.row.run_s + (max(now_s - self.attempt.claimed_s, 0.0) if self.attempt else 0.0)  # the clock may have been set back

    def record(self, now_s: float) -> JobRecord:
        row, seen = self.row, self.seen
        run_s = self.run_s(now_s)
        gpus_now = sum(share.gpus for share in self.attempt.shares) if self.attempt else 0.0
        return JobRecord(
            id=row.id, name=row.name, user=row.user, queue=row.queue, account=row.account, state=row.state, reason=row.reason,
            priority=row.priority, gpus=row.gpus, gpu_type=row.gpu_type, nodes=row.nodes, submit_s=row.submit_s,
            eligible_s=row.eligible_s, start_s=row.start_s, finish_s=row.finish_s, limit_s=row.limit_s, run_s=run_s,
            gpu_s=row.gpu_s + (run_s - row.run_s) * gpus_now, exit_code=row.exit_code, attempts=row.attempts,
            preemptions=row.preemptions, failures=row.failures, lost_steps=row.lost_steps,
            step=seen.step if seen and seen.step is not None else row.step,
            saved_step=seen.saved_step if seen and seen.saved_step is not None else row.saved_step,
            preemptible=row.preemptible, array_job=row.array_job, array_index=row.array_index, after=row.after, eta_s=self.eta_s,
            place=self.place, labels=row.labels,
        )  # fmt: skip
