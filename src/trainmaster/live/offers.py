"""Which waiting jobs are offered to the policy now, and what the others wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from trainmaster.live.control import JobRecord
from trainmaster.live.jobs import LiveJob
from trainmaster.live.states import ENDED, State
from trainmaster.live.store.rows import JobRow

SATISFIED = {
    "after": lambda state: state is not State.PENDING,
    "afterany": lambda state: state in ENDED,
    "afterok": lambda state: state is State.SUCCEEDED,
    "afternotok": lambda state: state in ENDED and state is not State.SUCCEEDED,
}
NEVER = {
    "afterok": lambda state: state in ENDED and state is not State.SUCCEEDED,
    "afternotok": lambda state: state is State.SUCCEEDED,
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a job is not offered; `until_s`: when that passes by itself, inf = not by itself; `never`: it cannot pass."""

    reason: str
    until_s: float = float("inf")
    never: bool = False


def standing(row: JobRow | JobRecord) -> State:
    """Of a job, to those who wait for it: PENDING until it has begun, whether it is suspended or not; and not again after that."""
    if row.state in (State.PENDING, State.SUSPENDED):
        return State.RECOVERING if row.attempts else State.PENDING
    return row.state


def obstacle(job: LiveJob, state_of: Mapping[int, State], array_running: Counter[int], now_s: float) -> Obstacle | None:
    """None = the job is offered. `state_of`: `standing` of those that others wait for; `array_running`: offered elements of each array."""
    row = job.row
    if row.held:
        return Obstacle("held")
    if row.suspended:
        return Obstacle("suspended")
    if row.begin_s is not None and row.begin_s > now_s:
        return Obstacle("begins later", row.begin_s)
    if job.retry_at_s > now_s:
        return Obstacle("backs off after a failed start", job.retry_at_s)
    for text in row.after:
        kind, _, number = text.partition(":")
        state = state_of.get(int(number))
        if state is None or SATISFIED[kind](state):  # a job that the store no longer has cannot hold anybody up
            continue
        return Obstacle(f"dependency {text}", never=kind in NEVER and NEVER[kind](state))
    limit = job.needs.array_limit
    if limit is not None and row.array_job is not None and array_running[row.array_job] >= limit:
        return Obstacle(f"array limit of {limit}")
    return None
