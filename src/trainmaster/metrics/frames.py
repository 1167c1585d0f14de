"""Data frames with exactly the columns of `--jobs-out` and `--timeline-out`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from trainmaster.engine.result import RunResult
from trainmaster.metrics.series import allocated_milli
from trainmaster.workload.jobs import GPU_MILLI


def jobs_frame(results: Sequence[RunResult]) -> pl.DataFrame:
    """A row per job and run. What never happened or is not known is null; work_s is the run time alone on what was asked."""
    return pl.concat([_jobs(result) for result in results])


def timeline_frame(results: Sequence[RunResult]) -> pl.DataFrame:
    """A row per allocation; `nodes` are node numbers, "3;7", and `gpus` their GPUs together."""
    return pl.concat([_timeline(result) for result in results])


def _jobs(result: RunResult) -> pl.DataFrame:
    jobs = result.jobs
    frame = pl.DataFrame(
        {
            "job_id": pl.Series(jobs.id, dtype=pl.String),
            "label": pl.repeat(result.label, len(jobs), dtype=pl.String, eager=True),
            "user": pl.Series(jobs.user.text(), dtype=pl.String),
            "queue": pl.Series(jobs.queue.text(), dtype=pl.String),
            "model": pl.Series(jobs.model.text(), dtype=pl.String),
            "gpu_type": pl.Series(result.gpu_type, dtype=pl.String),
            "submit_s": jobs.submit_s,
            "eligible_s": jobs.eligible_s,
            "start_s": result.start_s,
            "finish_s": result.finish_s,
            "gpus": jobs.gpus,
            "nodes": result.nodes,
            "work_s": result.alone_s,
            "gpu_s": result.attained_gpu_s,
            "preemptions": result.preemptions,
            "state": pl.Series(result.state, dtype=pl.String),
            "reason": pl.Series(result.reason, dtype=pl.String),
        }
    )
    return frame.with_columns(
        pl.col("start_s", "finish_s", "work_s").fill_nan(None),
        pl.col("user", "queue", "model", "gpu_type", "reason").replace("", None),
    )


def _timeline(result: RunResult) -> pl.DataFrame:
    held, rows = result.allocations, len(result.allocations.job)
    lines = pl.DataFrame({"row": np.repeat(np.arange(rows), np.diff(held.offset)), "node": held.node})
    nodes = lines.group_by("row", maintain_order=True).agg(pl.col("node").cast(pl.String).str.join(";"))
    return pl.DataFrame(
        {
            "job_id": pl.Series(result.jobs.id[held.job], dtype=pl.String),
            "label": pl.repeat(result.label, rows, dtype=pl.String, eager=True),
            "start_s": held.start_s,
            "end_s": held.end_s,
            "nodes": nodes["node"],
            "gpus": allocated_milli(held) / GPU_MILLI,
        }
    )
