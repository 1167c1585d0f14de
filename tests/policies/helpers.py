"""Workloads of backfill: jobs with limits, drawn at random or by hand."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from schedules import job
from trainmaster.workload.jobs import Job


def limited(id: str, submit_s: float, gpus: float, limit_s: float, work_s: float | None = None, **more: Any) -> Job:
    """A job that runs to its limit, unless its work says otherwise."""
    return job(id, submit_s, gpus, limit_s if work_s is None else work_s, limit_s=limit_s, **more)


@st.composite
def workloads(draw: st.DrawFn, gpus: int, overruns: bool = False, priorities: bool = False) -> list[Job]:
    """Up to 24 gangs in whole seconds, so that ends coincide; `overruns`: some work on beyond their limit."""
    jobs, submit_s = [], 0
    for number in range(draw(st.integers(1, 24))):
        submit_s += draw(st.integers(0, 6))
        work_s = draw(st.integers(1, 20))
        limit_s = draw(st.integers(1 if overruns else work_s, 30))
        priority = draw(st.integers(0, 1)) if priorities else 0
        jobs.append(limited(f"j{number}", submit_s, draw(st.integers(1, gpus)), limit_s, work_s, priority=priority))
    return jobs
