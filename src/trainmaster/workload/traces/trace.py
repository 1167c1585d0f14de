"""What a reader hands over: the jobs of one file, and what was left out of it and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from trainmaster.cluster.cluster import Cluster
from trainmaster.workload.jobs import JobTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The jobs of a file. Rows read = len(jobs) + sum of skipped, always.

    Second 0 is the trace's own zero when its times are relative, else the earliest submission, whose date is `zero_unix_s`.
    """

    jobs: JobTable
    format: str
    path: str
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> rows
    cluster: Cluster | None = None  # where the file itself says what it ran on
    cluster_note: str = ""  # what to know of that cluster, if it is used
    zero_unix_s: float | None = None  # Unix time of second 0; times without a zone are read as UTC
