"""How long a live job takes: its user's word, its limit, what like jobs have taken. Every figure has a source.

    user       the submission says so
    history    the mean of ended jobs of the same user and name; else the median of its queue
    limit      nothing better is known
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from trainmaster.live.jobs import LiveJob

REMEMBERED = 50  # ended jobs a group


@dataclass(slots=True)
class Estimates:
    """Run times of ended jobs, by (user, name) and by queue."""

    of_name: dict[tuple[str, str], deque[float]] = field(default_factory=dict)
    of_queue: dict[str | None, deque[float]] = field(default_factory=dict)

    def learn(self, user: str, name: str, queue: str | None, run_s: float) -> None:
        self.of_name.setdefault((user, name), deque(maxlen=REMEMBERED)).append(run_s)
        self.of_queue.setdefault(queue, deque(maxlen=REMEMBERED)).append(run_s)

    def run_time(self, job: LiveJob) -> tuple[float, str] | None:
        """(seconds in all, source); None = nothing is known."""
        row = job.row
        if row.estimate_s is not None:
            return row.estimate_s, "its user's estimate"
        if past := self.of_name.get((row.user, row.name)):
            return self._within(job, sum(past) / len(past)), f"{len(past)} ended jobs of {row.user} named {row.name}"
        if row.limit_s is not None:
            return row.limit_s, "its time limit"
        if past := self.of_queue.get(row.queue):
            return median(past), f"the median of {len(past)} ended jobs of its queue"
        return None

    def _within(self, job: LiveJob, run_s: float) -> float:
        return run_s if job.row.limit_s is None else min(run_s, job.row.limit_s)
