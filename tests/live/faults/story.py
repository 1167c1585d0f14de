"""What must be true of a store whatever happened to its controllers: every job's story, as the events table tells it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from trainmaster.live.control import AttemptRecord, EventRecord, JobRecord
from trainmaster.live.states import FOLLOWS, State
from trainmaster.live.store import Store


def all_events(store: Store) -> list[EventRecord]:
    found: list[EventRecord] = []
    while more := store.events(after=found[-1].id if found else 0, limit=1_000):
        found += more
    return found


def check_story(job: JobRecord, events: Iterable[EventRecord], attempts: list[AttemptRecord], *, clock_went_back: bool = False) -> None:
    """`events`: all of this job, in the order of their ids, which is that of their commits whatever the clock said."""
    events = list(events)
    who = f"job {job.id}: {[(event.kind, event.state, event.attempt) for event in events]}"
    assert events[0].kind == "submitted", who
    assert [event.kind for event in events].count("submitted") == 1, who
    assert [event.id for event in events] == sorted({event.id for event in events}), who
    at = State.PENDING
    terminal = 0
    started = []
    for event in events:
        if event.kind != "state":
            continue
        state = State(event.state or "")
        assert state in FOLLOWS[at] or state is at, f"{who}: {at} -> {state}"
        if state is State.STARTING:
            started.append(event.attempt)
        terminal += state.ended
        at = state
    assert at is job.state, f"{who}; its row says {job.state}"
    assert terminal == job.state.ended, who
    assert not job.state.ended or State(events[-1].state or "") is job.state, who  # nothing after its end
    assert started == [attempt.attempt for attempt in attempts] == list(range(1, job.attempts + 1)), f"{who}; attempts {attempts}"
    for before, after in pairwise(attempts):
        assert before.end_s is not None, f"{who}; {before}"
        assert clock_went_back or before.end_s <= after.claimed_s, f"{who}; two attempts at once: {before} {after}"
    assert job.run_s >= 0 and job.gpu_s >= 0, f"{who}; {job}"
    if job.state.ended:
        assert all(attempt.end_s is not None for attempt in attempts), f"{who}; {attempts}"
        assert job.finish_s is not None
