"""Philly, the log itself: cluster_job_log of msr-fiddle/philly-traces (Jeon et al., USENIX ATC 2019), a JSON list of jobs.

becomes   submitted_time -> submit_s (dated);  GPUs of the last attempt that lists any -> gpus;  seconds of all its attempts
          together (Philly started failed jobs anew) -> work;  vc -> queue;  user -> user;  jobid -> id
          start of the first attempt, end of the last -> recorded_start_s, recorded_end_s
skipped   never ran (no attempt with a start);  still running (the last attempt has no end);  ends before it starts (local
          time, set back in November 2017);  zero-length;  asks for nothing (no attempt lists a GPU)
absent    CPUs, model, GPU type; status is not read. An attempt without start or end counts no time: a logging error.
"""

import json
from typing import Any

import numpy as np
import polars as pl

from trainmaster.errors import TraceError
from trainmaster.workload.traces.columns import Columns
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "philly-json"
KEYS = ('"attempts"', '"submitted_time"')
UNKNOWN = ("None", "")


def sniff(head: Head) -> bool:
    return head.text.lstrip().startswith("[") and all(key in head.text for key in KEYS)


def read(source: Source) -> Trace:
    entries = _entries(source)
    jobs = _columns(source, [_job(source, number, entry) for number, entry in enumerate(entries, 1)], range(1, len(entries) + 1))
    attempts = _columns(source, *_attempts(source, entries))
    start_s = attempts.timestamps("start_time", default=np.nan, absent=UNKNOWN)
    end_s = attempts.timestamps("end_time", default=np.nan, absent=UNKNOWN)
    ran_s = np.where(np.isnan(end_s - start_s), 0, end_s - start_s)
    gpus = np.asarray(attempts.frame["gpus"], np.float64)

    job = attempts.lines - 1
    count = len(entries)
    work_s, backwards = np.bincount(job, ran_s, count), np.bincount(job, ran_s < 0, count) > 0
    last_with_gpus, last = np.full(count, -1), np.full(count, -1)
    last[job] = np.arange(len(job))  # the last assignment wins, and attempts are in order
    last_with_gpus[job[gpus > 0]] = np.flatnonzero(gpus > 0)
    first_start_s = np.full(count, np.inf)
    np.fmin.at(first_start_s, job, start_s)

    jobs.skip(np.isinf(first_start_s), "never ran")
    jobs.skip((last >= 0) & np.isnan(np.append(end_s, 0)[last]), "still running")
    jobs.skip(backwards, "ends before it starts")
    jobs.skip(work_s == 0, "zero-length")
    jobs.skip(last_with_gpus < 0, "asks for nothing")
    return jobs.trace(
        FORMAT,
        ids="jobid",
        dated=True,
        submit_s=jobs.timestamps("submitted_time"),
        gpus=np.append(gpus, 0)[last_with_gpus],
        work=work_s,
        user=jobs.labels("user"),
        queue=jobs.labels("vc"),
        recorded_start_s=first_start_s,
        recorded_end_s=np.append(end_s, np.nan)[last],
    )


def _entries(source: Source) -> list[Any]:
    try:
        entries = json.loads(source.text_data)
    except json.JSONDecodeError as error:
        raise source.error(f"is not JSON ({error.msg})", line=error.lineno) from None
    except (RecursionError, ValueError):  # nested a thousand deep, or a number of thousands of digits
        raise source.error("is not JSON that can be read") from None
    if not isinstance(entries, list) or not entries:
        raise source.error("is not a list of jobs")
    return entries


def _job(source: Source, number: int, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("attempts"), list):
        raise _error(source, number, "attempts", "a job is an object with a list of attempts")
    return {name: _text(source, number, name, entry.get(name)) for name in ("jobid", "submitted_time", "user", "vc")}


def _attempts(source: Source, entries: list[Any]) -> tuple[list[dict[str, Any]], list[int]]:
    """Every attempt of every job, and the number of its job."""
    attempts, numbers = [], []
    for number, entry in enumerate(entries, 1):
        for attempt in entry["attempts"]:
            try:
                gpus = sum(len(node["gpus"]) for node in attempt["detail"] or ())
                times = {name: _text(source, number, name, attempt.get(name)) for name in ("start_time", "end_time")}
            except (TypeError, KeyError, AttributeError):
                raise _error(source, number, "attempts", "an attempt is an object with `detail`, a list of nodes with `gpus`") from None
            attempts.append({**times, "gpus": gpus})
            numbers.append(number)
    return attempts, numbers


def _columns(source: Source, rows: list[dict[str, Any]], numbers: Any) -> Columns:
    schema = {name: pl.Int64 if name == "gpus" else pl.String for name in (rows[0] if rows else ("start_time", "end_time", "gpus"))}
    return Columns(pl.DataFrame(rows, schema=schema), source.path, np.asarray(numbers, np.int64), unit="job")


def _text(source: Source, number: int, name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise _error(source, number, name, "is not text")


def _error(source: Source, number: int, field: str, problem: str) -> TraceError:
    return TraceError(f"{source.path}: job {number}: {field}: {problem}")
