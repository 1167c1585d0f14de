"""What goes into the store and comes out of it, where live/control.py has no record for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainmaster.live.backends.base import NodeShare
from trainmaster.live.states import State


@dataclass(slots=True, kw_only=True)
class NewJob:
    """Columns of a job. Times are Unix seconds; None = not yet, or not known."""

    spec: int  # from Transaction.add_specs
    name: str
    user: str
    gpus: float
    submit_s: float
    eligible_s: float
    state: State = State.PENDING
    reason: str = ""
    queue: str | None = None
    account: str | None = None
    priority: float = 0.0
    held: bool = False
    suspended: bool = False
    preemptible: bool = False
    limit_s: float | None = None
    estimate_s: float | None = None
    begin_s: float | None = None
    deadline_s: float | None = None
    array_job: int | None = None  # Transaction.next_job is the id that the first added job will get
    array_index: int | None = None
    after: tuple[str, ...] = ()
    start_s: float | None = None
    finish_s: float | None = None
    run_s: float = 0.0
    gpu_s: float = 0.0
    exit_code: int | None = None
    attempts: int = 0
    preemptions: int = 0
    failures: int = 0
    tries: int = 0  # retries used
    lost_steps: int = 0
    step: int | None = None
    saved_step: int | None = None
    gpu_type: str | None = None
    nodes: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)  # what the engine must know again after a restart


@dataclass(slots=True, kw_only=True)
class JobRow(NewJob):
    """A job as the store has it."""

    id: int


@dataclass(slots=True, kw_only=True)
class AttemptRow:
    """One try at a job; it is live until it has an end."""

    job: int
    attempt: int
    state: str
    shares: tuple[NodeShare, ...]
    claimed_s: float
    start_s: float | None = None
    asked_s: float | None = None  # when it was asked to stop
    end_s: float | None = None
    exit_code: int | None = None
    reason: str = ""
    step: int | None = None
    saved_step: int | None = None
    lost_steps: int = 0


@dataclass(slots=True, kw_only=True)
class NewEvent:
    """An `EventRecord` that has no id yet."""

    at_s: float
    kind: str
    job: int | None = None
    attempt: int | None = None
    state: str | None = None
    reason: str = ""
    actor: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveJobs:
    """Every job that has not ended, as of one instant: what a controller starts from."""

    jobs: tuple[JobRow, ...]  # by id
    attempts: dict[int, tuple[AttemptRow, ...]]  # live ones, by job
    bodies: dict[int, tuple[str, str | None]]  # spec id -> JSON without env, digest of env
    environments: dict[str, str]  # digest -> JSON

    def spec(self, spec: int) -> str:
        """JSON of a spec, put together when asked for: thousands of jobs may share an environment of many KiB."""
        body, digest = self.bodies[spec]
        return whole_spec(body, self.environments[digest] if digest is not None else None)


def whole_spec(body: str, env: str | None) -> str:
    """A spec's JSON with its environment back in."""
    if env is None:
        return body
    return f'{body[:-1]}{"," if len(body) > 2 else ""}"env":{env}}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    id: int
    at_s: float
    policy: str
    took_ms: float
    record: bytes | None  # decision_record.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyMemory:
    """The memory that was committed with the last decision."""

    decision: int
    policy: str
    version: int
    body: bytes  # memory.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMark:
    """What people have said about a node."""

    name: str
    drained: bool
    reason: str
    actor: str | None
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A folder that jobs run in instead of the one they were submitted from."""

    place: str
    active: bool  # some job of it has not ended
    last_s: float  # when the last of its jobs ended; 0 = none has


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    id: int
    user: str
    role: str
    name: str
    created_s: float
    expires_s: float | None
    revoked_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the jobs of a (user, queue, account) have held."""

    user: str
    queue: str | None
    account: str | None
    jobs: int
    run_s: float
    gpu_s: float
