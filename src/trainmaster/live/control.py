"""What the controller offers to whoever serves people: the HTTP API, the pages, tests. And the records it answers with.

Writes return a Future that is done once the change is committed to the store: what was accepted cannot be lost. Reads are quick
and never wait for a decision. Who may do what is decided by the caller (api/): here an `actor` is only written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainmaster.live.logs import Logs
from trainmaster.live.spec import JobSpec
from trainmaster.live.states import State


@dataclass(slots=True, kw_only=True)  # not frozen: ten thousand are made for one listing, and that takes four times as long
class JobRecord:
    """One job as it is now. Times are Unix seconds; None = not yet, or not known."""

    id: int
    name: str
    user: str
    queue: str | None
    account: str | None
    state: State
    reason: str  # one short word or phrase: held, capacity, dependency, ...; for ended jobs what ended them
    priority: float
    gpus: float
    gpu_type: str | None  # of what it holds or last held
    nodes: tuple[str, ...]  # that it holds or last held, rank order
    submit_s: float
    eligible_s: float
    start_s: float | None  # first start
    finish_s: float | None
    limit_s: float | None
    run_s: float  # seconds holding its GPUs, all attempts
    gpu_s: float  # GPU-seconds held
    exit_code: int | None
    attempts: int
    preemptions: int
    failures: int
    lost_steps: int
    step: int | None
    saved_step: int | None
    preemptible: bool
    array_job: int | None
    array_index: int | None
    after: tuple[str, ...]  # "afterok:12"
    eta_s: float | None  # when it is expected to start (PENDING) or end (RUNNING)
    place: int | None  # in the order of waiting jobs, 1 = next
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class AskedFor:
    """What a job asked for beside what its record says: for the accounts, of thousands at a time."""

    id: int
    cpus: float
    memory_gib: float
    gpu_types: tuple[str, ...]
    qos: str | None
    workdir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One try at a job."""

    job: int
    attempt: int
    state: str  # as backends.base.Seen, or "claimed": its GPUs are promised, others drain
    nodes: tuple[str, ...]
    gpus: tuple[float, ...]
    claimed_s: float
    start_s: float | None  # exec of its first process
    end_s: float | None
    exit_code: int | None
    reason: str  # why it was stopped or how it ended
    step: int | None
    saved_step: int | None
    lost_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """A row of the append-only events table."""

    id: int
    at_s: float
    job: int | None
    attempt: int | None
    kind: str  # submitted, state, decision, node, policy, alert, ...
    state: str | None  # the state it led to
    reason: str
    actor: str | None  # who, if a person did it
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    name: str
    type: str
    gpus: int
    free_gpus: float
    cpus: float | None
    memory_gib: float | None
    state: str  # idle, mixed, allocated, drained, draining, down
    reason: str
    queues: tuple[str, ...]
    jobs: tuple[int, ...]
    others_gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRecord:
    name: str
    quota_gpus: float | None
    weight: float
    borrow: bool
    used_gpus: float
    running: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord:
    name: str
    params: dict[str, Any]
    since_s: float
    decisions: int
    last_decision_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyAnswer:
    """Why a job is where it is, from the recorded decision; when it should start; what would start it now."""

    job: int
    state: State
    code: str
    text: str  # the binding constraint, one sentence
    numbers: dict[str, float]
    place: int | None
    of: int | None  # how many wait
    ahead: tuple[dict[str, Any], ...]  # the nearest few before it: {"id", "user", "gpus", "why"}
    expected_start_s: tuple[float, float] | None  # a range
    estimate_source: str  # of what that rests on, or "unknown"
    counterfactual: str | None  # "would start now with 2 GPUs"
    decision: int | None
    decided_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One column of a what-if: the live state with this changed. All None = as it is."""

    label: str
    policy: str | None = None
    settings: tuple[str, ...] = ()  # PARAM=VALUE of that policy
    add_nodes: str | None = None  # a cluster spec, e.g. 2x8:h100
    job: int | None = None  # with these changed:
    priority: float | None = None
    gpus: float | None = None
    queue: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    ids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    all: bool = False  # ended ones too
    since_s: float | None = None  # ended (or active) at or after
    until_s: float | None = None  # submitted before
    limit: int | None = None
    after_id: int | None = None  # paging: ids above this


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUpdate:
    """What may be changed of a job that has not ended; None = left as it is."""

    priority: float | None = None
    queue: str | None = None
    limit_s: float | None = None
    estimate_s: float | None = None
    gpus: float | None = None  # only while it waits
    name: str | None = None
    preemptible: bool | None = None


class ControlPlane(Protocol):
    """Raises (or fails the Future with) NotFound, Conflict or InputError, one line each."""

    def submit(self, specs: Sequence[JobSpec], actor: str, key: str | None = None) -> Future[list[int]]:
        """Ids in the order of specs (of an array: one an index). The same key and actor again: the same ids, nothing new."""

    def cancel(self, ids: Sequence[int], actor: str) -> Future[None]: ...
    def suspend(self, ids: Sequence[int], actor: str) -> Future[None]: ...
    def resume(self, ids: Sequence[int], actor: str) -> Future[None]: ...
    def hold(self, ids: Sequence[int], actor: str) -> Future[None]: ...
    def release(self, ids: Sequence[int], actor: str) -> Future[None]: ...
    def requeue(self, ids: Sequence[int], actor: str) -> Future[None]: ...
    def update(self, job: int, change: JobUpdate, actor: str) -> Future[None]: ...
    def signal(self, job: int, number: int, actor: str) -> Future[None]: ...
    def drain(self, node: str, reason: str, actor: str) -> Future[None]: ...
    def resume_node(self, node: str, actor: str) -> Future[None]: ...
    def set_policy(self, name: str, settings: Sequence[str], actor: str) -> Future[PolicyRecord]: ...
    def reload(self, actor: str) -> Future[list[str]]:
        """Read the configuration file again; what has changed, a line each."""

    def never_fit(self, specs: Sequence[JobSpec]) -> list[str]:
        """What to tell who submits these: a line for each demand that no state of this cluster could meet."""

    def job(self, job: int) -> JobRecord: ...
    def jobs(self, which: JobFilter) -> list[JobRecord]: ...
    def spec(self, job: int) -> JobSpec: ...
    def asked(self, ids: Sequence[int]) -> list[AskedFor]:
        """By id; what is not there is left out."""

    def attempts(self, job: int) -> list[AttemptRecord]: ...
    def events(self, *, job: int | None = None, after: int = 0, limit: int = 1_000) -> list[EventRecord]: ...
    def nodes(self) -> list[NodeRecord]: ...
    def queues(self) -> list[QueueRecord]: ...
    def policy(self) -> PolicyRecord: ...
    def why(self, job: int) -> WhyAnswer: ...
    def whatif(self, scenarios: Sequence[Scenario]) -> dict[str, Any]:
        """Run in a process of its own: {"runs": [...as simulate --json...], "conclusion": ...}"""

    def logs(self, job: int, attempt: int | None = None) -> Logs:
        """Of its newest attempt, unless another is named."""

    def shell(self, job: int) -> list[str]: ...
    def status(self) -> dict[str, Any]:
        """One look: version, since_s, policy, backend report, GPUs in all / used, jobs by state, alerts."""
