"""What becomes of a job when its attempt is gone: one table, by why it was stopped and how it looked at its end.

asked to stop for    ended by itself, exit 0     ended otherwise                     lost
preempt, requeue     SUCCEEDED                   PENDING, preempted                  RECOVERING
suspend              SUCCEEDED                   SUSPENDED                           SUSPENDED
cancel               CANCELLED                   CANCELLED                           CANCELLED
limit                SUCCEEDED                   TIMEOUT                             TIMEOUT
hang                 SUCCEEDED                   PENDING, a failed start             PENDING, a failed start
(nothing)            SUCCEEDED                   FAILED, or PENDING to try again     RECOVERING; before it ran: a failed start

A job that has asked to be requeued (`scontrol requeue`) waits again, unless a person cancels or suspends it. One that said --no-requeue
runs only once: lost, it has FAILED.

"By itself" means that the ranks did not acknowledge the stop: an attempt that has, ends with 0 and is preempted all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainmaster.live.backends.base import Observation, Seen
from trainmaster.live.jobs import LiveJob
from trainmaster.live.states import State


@dataclass(frozen=True, slots=True)
class Outcome:
    """The job's next state, why, and what it costs."""

    state: State
    reason: str
    preempted: bool = False
    failed_start: bool = False
    retried: bool = False
    failure: bool = False  # of the cluster, not of the job


def outcome_of(job: LiveJob, seen: Observation) -> Outcome:
    """`seen` is ENDED, LOST or REFUSED."""
    asked = job.stop_reason
    if asked == "cancel":
        return Outcome(State.CANCELLED, "cancelled")
    if seen.seen is Seen.REFUSED and asked in (None, "hang"):  # one that was asked to stop before it began has been stopped
        return Outcome(State.PENDING, f"start refused: {seen.message}" if seen.message else "start refused", failed_start=True)
    lost = seen.seen is Seen.LOST
    if seen.requeue and job.needs.requeue and not lost and asked in (None, "limit", "requeue"):
        return Outcome(State.PENDING, "requeued at its own wish")
    by_itself = not lost and seen.exit_code == 0 and not seen.acknowledged
    if by_itself:
        return Outcome(State.SUCCEEDED, "exit 0")
    if asked in ("preempt", "requeue") and not lost:
        return Outcome(State.PENDING, "preempted" if asked == "preempt" else "requeued", preempted=asked == "preempt")
    if asked == "suspend":
        return Outcome(State.SUSPENDED, "suspended", failure=lost)
    if asked == "limit":
        return Outcome(State.TIMEOUT, "time limit")
    if asked == "hang":
        return Outcome(State.PENDING, "its start hung", failed_start=True)
    if lost and seen.started_s is None and job.attempt is not None and job.attempt.start_s is None:
        return Outcome(State.PENDING, f"its start was lost: {seen.message}", failed_start=True)  # with back-off: it may happen every time
    if lost and not job.needs.requeue:
        return Outcome(State.FAILED, f"node failure: {seen.message or 'its processes were lost'}; it is not to be requeued", failure=True)
    if lost:
        return Outcome(State.RECOVERING, seen.message or "its processes were lost", failure=True)
    code, why = seen.exit_code, seen.message if seen.out_of_memory else f"exit {seen.exit_code}"
    retry = job.needs.retry
    if job.row.tries < retry.max and (not retry.exit_codes or code in retry.exit_codes):
        return Outcome(State.PENDING, f"try {job.row.tries + 2} of {retry.max + 1} after {why}", retried=True)
    return Outcome(State.FAILED, why)
