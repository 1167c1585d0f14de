"""Times and amounts as the verbs of the live cluster say them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trainmaster.live.client import Json

DAY_S = 86_400
SOON_S = 20 * 3_600  # within it a clock time says the day


def elapsed(seconds: float | None) -> str:
    """As squeue: 5:07, 1:02:03, 2-03:04:05."""
    if seconds is None:
        return ""
    minutes, second = divmod(int(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def clock(moment_s: float | None, now_s: float) -> str:
    """18:04 where that says enough, else 11-26 18:04."""
    if moment_s is None:
        return ""
    away_s = abs(moment_s - now_s)
    form = "%H:%M" if away_s < SOON_S else "%m-%d %H:%M" if away_s < 300 * DAY_S else "%Y-%m-%d"
    return time.strftime(form, time.localtime(moment_s))


def stamp(moment_s: float | None) -> str:
    """2026-11-25 18:04:11"""
    return "" if moment_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment_s))


def amount(gpus: float) -> str:
    return f"{gpus:g}"


def nodes(names: Sequence[str]) -> str:
    """One by name, more as node-1+3."""
    return "" if not names else names[0] if len(names) == 1 else f"{names[0]}+{len(names) - 1}"


def plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def ran_s(job: Json, now_s: float) -> float | None:
    """Seconds since it started, or that it held its GPUs."""
    if job["start_s"] is None:
        return None
    return (job["finish_s"] or now_s) - job["start_s"] if job["attempts"] < 2 else job["run_s"]


def out_of_memory(job: Json) -> bool:
    """It failed because it used more memory than it asked for: a state of its own with Slurm."""
    return job["state"] == "FAILED" and job["reason"].startswith("out of memory")


def exit_status(job: Json) -> int:
    """What a shell would see of a job that has ended: its own exit code; 124 as of timeout(1), 130 as of an interrupt."""
    if job["state"] == "SUCCEEDED":
        return 0
    if job["exit_code"]:
        return int(job["exit_code"])
    return {"TIMEOUT": 124, "CANCELLED": 130}.get(job["state"], 1)


def ending(job: Json) -> str:
    """One line about a job that has ended."""
    told = f"job {job['id']} ({job['name']}) {job['state'].lower()}"
    code = job["exit_code"]
    reason = f": {job['reason']}" if job["reason"] and job["reason"].upper() != job["state"] else ""
    return told + (f", exit code {code}" if code else "") + reason
