"""The states of a live job, and which may follow which: one table that the controller obeys and the tests read."""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """Where a job is. A held job is PENDING with the reason `held`."""

    PENDING = "PENDING"
    STARTING = "STARTING"  # it holds GPUs; its processes do not run yet
    RUNNING = "RUNNING"
    PREEMPTING = "PREEMPTING"  # asked to stop for another job; its GPUs are not free yet
    SUSPENDED = "SUSPENDED"  # stopped at a person's wish, until resumed
    RESIZING = "RESIZING"
    RECOVERING = "RECOVERING"  # its attempt was lost (node, supervisor); it will start again
    COMPLETING = "COMPLETING"  # ended or cancelled; its processes are being cleared away
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"

    @property
    def ended(self) -> bool:
        return self in ENDED

    @property
    def code(self) -> str:
        """Two letters, as `squeue` has them."""
        return CODES[self]


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMEOUT})

CODES = {
    State.PENDING: "PD", State.STARTING: "CF", State.RUNNING: "R", State.PREEMPTING: "PR", State.SUSPENDED: "S",
    State.RESIZING: "RS", State.RECOVERING: "RQ", State.COMPLETING: "CG", State.SUCCEEDED: "CD", State.FAILED: "F",
    State.CANCELLED: "CA", State.TIMEOUT: "TO",
}  # fmt: skip

P, S, R, C = State.PENDING, State.STARTING, State.RUNNING, State.COMPLETING
FOLLOWS: dict[State, frozenset[State]] = {
    P: frozenset({S, State.SUSPENDED, State.CANCELLED, State.FAILED}),
    S: frozenset({P, R, C, State.PREEMPTING, State.RECOVERING, *ENDED}),
    R: frozenset({C, State.PREEMPTING, State.RESIZING, State.RECOVERING, *ENDED}),
    State.PREEMPTING: frozenset({P, C, State.SUSPENDED, State.RECOVERING, *ENDED}),
    State.SUSPENDED: frozenset({P, State.CANCELLED}),
    State.RESIZING: frozenset({R, C, State.PREEMPTING, State.RECOVERING, *ENDED}),
    State.RECOVERING: frozenset({P, S, State.SUSPENDED, State.CANCELLED, State.FAILED}),
    C: frozenset({P, *ENDED}),  # P: at its limit it asked to be requeued
    **{state: frozenset() for state in ENDED},
}
