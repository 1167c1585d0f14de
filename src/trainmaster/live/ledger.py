"""What one turn of the controller changes, until it is committed: all of it, in one transaction, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from trainmaster.live.jobs import LiveJob, Needs
from trainmaster.live.spec import JobSpec
from trainmaster.live.states import FOLLOWS, State
from trainmaster.live.store.rows import AttemptRow, JobRow, NewEvent, NewJob
from trainmaster.live.store.transaction import Transaction


@dataclass(slots=True)
class Submission:
    """One request, and the jobs it makes: one a spec, or one an index of its array."""

    actor: str
    key: str | None
    specs: Sequence[JobSpec]
    answer: Future[list[int]] = field(default_factory=Future)
    rows: list[tuple[JobSpec, NewJob]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    repeated: bool = False  # it was made before: `ids` are those of then

    def write(self, tx: Transaction, now_s: float) -> None:
        if self.key is not None:
            made = list(range(tx.next_job, tx.next_job + len(self.rows)))
            self.ids = tx.remember_key(self.actor, self.key, made)
            if self.ids != made:
                self.repeated = True
                return
        spec_ids = tx.add_specs([spec.model_dump_json() for spec in self.specs])
        spec_id = {id(spec): number for spec, number in zip(self.specs, spec_ids, strict=True)}
        first: dict[int, int] = {}
        for offset, (spec, row) in enumerate(self.rows):
            row.spec = spec_id[id(spec)]
            if spec.array is not None:
                row.array_job = first.setdefault(id(spec), tx.next_job + offset)
        self.ids = tx.add_jobs([row for _, row in self.rows])
        tx.add_events([NewEvent(at_s=now_s, kind="submitted", job=job, state=State.PENDING, reason=row.reason, actor=self.actor)
                       for job, (_, row) in zip(self.ids, self.rows, strict=True)])  # fmt: skip

    def jobs(self) -> list[LiveJob]:
        if self.repeated:
            return []
        needs = {id(spec): Needs.of(spec) for spec in self.specs}
        return [LiveJob(JobRow(id=job, **{f: getattr(row, f) for f in ROW_FIELDS}), needs[id(spec)])
                for job, (spec, row) in zip(self.ids, self.rows, strict=True)]  # fmt: skip


ROW_FIELDS = tuple(NewJob.__dataclass_fields__)


@dataclass(slots=True)
class Changes:
    """Rows to write. Memory is changed in the same breath: a turn is committed, or the process ends."""

    now_s: float
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    new_attempts: list[AttemptRow] = field(default_factory=list)
    attempts: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    events: list[NewEvent] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)
    nodes: list[tuple[str, bool, str, str]] = field(default_factory=list)  # name, drained, reason, actor
    meta: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.jobs or self.new_attempts or self.attempts or self.events or self.submissions or self.nodes or self.meta)

    def job(self, job: LiveJob, **columns: Any) -> None:
        for name, value in columns.items():
            setattr(job.row, name, value)
        self.jobs.setdefault(job.id, {}).update(columns)

    def attempt(self, attempt: AttemptRow, **columns: Any) -> None:
        for name, value in columns.items():
            setattr(attempt, name, value)
        if attempt not in self.new_attempts:
            self.attempts.setdefault((attempt.job, attempt.attempt), {}).update(columns)

    def state(self, job: LiveJob, state: State, reason: str, actor: str | None = None, **data: Any) -> None:
        """A transition: the table of states allows it, the row and an event say so."""
        assert state in FOLLOWS[job.row.state] or state is job.row.state, f"job {job.id}: {job.row.state} -> {state}"
        self.job(job, state=state, reason=reason)
        self.event("state", job, state=state, reason=reason, actor=actor, **data)

    def event(self, kind: str, job: LiveJob | None = None, *, state: State | None = None, reason: str = "", actor: str | None = None,
              **data: Any) -> None:
        attempt = job.attempt.attempt if job is not None and job.attempt is not None else None
        self.events.append(NewEvent(at_s=self.now_s, kind=kind, job=job.id if job else None, attempt=attempt, state=state,
                                    reason=reason, actor=actor, data=data))  # fmt: skip

    def write(self, tx: Transaction) -> None:
        for submission in self.submissions:
            submission.write(tx, self.now_s)
        for node in self.nodes:
            tx.set_node(*node)
        for key, value in self.meta.items():
            tx.put_meta(key, value)
        tx.add_attempts(self.new_attempts)
        tx.update_jobs(list(self.jobs.items()))
        tx.update_attempts([(job, attempt, columns) for (job, attempt), columns in self.attempts.items()])
        tx.add_events(self.events)
