"""What a site decides about its live cluster, apart from the policy: against thrashing, for starts that fail, for stops that hang."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRules:
    """One queue, over what the engine knows of it (quota, borrowing, its own nodes)."""

    preemptible: bool = False  # its jobs may be stopped for others though they register no checkpoint
    limit_s: float | None = None  # of jobs that give none, and the most a job may ask for
    priority: float = 0.0  # added to that of its jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    min_run_s: float = 60.0  # a job that has held its GPUs for less is not stopped for another
    most_preemptions: int = 50  # nor is one that has been stopped so often; 0 = no bound
    start_timeout_s: float = 120.0  # an attempt whose first process does not run by then is given up
    backoff_s: float = 5.0  # before a job whose start failed is offered again; doubles each time
    most_backoff_s: float = 600.0
    most_start_failures: int = 8  # in a row; then the job is held for a person to look at
    stop_alert_s: float = 30.0  # past its grace, a stop that is not acknowledged raises an alert
    fair_share_half_life_s: float = 0.0  # decay of what users have used; 0 = no fair share over time
    default_limit_s: float = 7 * 86_400.0  # what a plan assumes of a job without a limit
    snapshot_retention_s: float = 7 * 86_400.0  # a copy made by --snapshot stays so long after the last of its jobs has ended
    poll_s: float = 1.0  # how often the backend is looked at though nothing was heard of it
    queues: Mapping[str, QueueRules] = field(default_factory=dict)
    preemptible: bool = False  # every job may be stopped for others

    def queue(self, name: str | None) -> QueueRules:
        return self.queues.get(name or "", QueueRules())
