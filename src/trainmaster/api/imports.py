"""A trace from a system that runs: what `trainmaster import` writes."""

from __future__ import annotations

import io
import tempfile
import time
from dataclasses import dataclass

from trainmaster.errors import TraceError
from trainmaster.live.backends.slurm_history import Rows, of_sacct, of_squeue, write
from trainmaster.live.backends.slurm_reading import Reading, since_s
from trainmaster.metrics.readable import duration

UNCOUNTED = (
    "accounting does not count GPUs: the jobs are in the trace with their CPUs alone; AccountingStorageTRES=gres/gpu in slurm.conf "
    "counts them from then on"
)
NO_ACCOUNTING = (
    "accounting is off on {cluster} (no slurmdbd): the trace holds what squeue shows, the jobs that run and those that ended within {age}; "
    "`trainmaster up --backend slurm --shadow` collects more as time goes by"
)


@dataclass(frozen=True, slots=True)
class Imported:
    text: str  # of the file
    notes: list[str]


def slurm_trace(reading: Reading, since: str, within_s: float) -> Imported:
    """Of format `sacct`: rows as sacct prints them, times as Unix seconds; the reader leaves out, counted, what is no replayable job."""
    now_s = time.time()
    from_s = since_s(since, now_s)
    site = reading.site()
    notes = []
    if site.accounting:
        with tempfile.TemporaryFile() as file:
            reading.accounting(from_s, file, within_s)
            file.seek(0)
            rows = of_sacct(io.TextIOWrapper(file, "utf-8", "replace"))
        kept = list(rows.by_id.values())
        if not site.accounts_gpus:
            notes.append(UNCOUNTED)
    else:
        rows = of_squeue(reading.queue())
        kept = [row.closed(now_s) if row.holds else row for row in rows.by_id.values() if not row.waits]
        notes.append(NO_ACCOUNTING.format(cluster=site.cluster, age=duration(site.job_age_s)))
    return Imported("".join(write(kept)), [*notes, *_counts(rows, len(kept), since), *_private(site.private)])


def _counts(rows: Rows, kept: int, since: str) -> list[str]:
    if not kept:
        raise TraceError(f"Slurm shows no job that ran since {since}; ask for more with --since, or ask as somebody who may see all jobs")
    unreadable = f"; {rows.unreadable:,} lines were no jobs of the form asked for, and are left out" if rows.unreadable else ""
    return [f"{kept:,} jobs{unreadable}"]


def _private(words: tuple[str, ...]) -> list[str]:
    if "jobs" not in words:
        return []
    return [f"PrivateData={','.join(words)}: an ordinary user sees his own jobs alone, and so does the trace; an operator sees all"]
