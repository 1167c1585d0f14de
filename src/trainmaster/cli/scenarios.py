"""What the twin says of the live cluster, side by side: the cluster as it is, then a column a scenario."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainmaster.cli.output import Output
from trainmaster.cli.table import Column, table
from trainmaster.cluster.wording import printable
from trainmaster.live.client import Json
from trainmaster.metrics.readable import duration, number, percent

FIGURES = (
    ("avg_jct_s", "average JCT", duration),
    ("p99_jct_s", "99 % end within", duration),
    ("avg_wait_s", "average wait", duration),
    ("p99_queue_s", "99 % queue at most", duration),
    ("makespan_s", "all done after", duration),
    ("gpu_utilization", "GPUs in use", percent),
    ("preemptions", "preemptions", number),
    ("finished", "jobs ended", number),
)


def side_by_side(answer: Json, out: Output) -> str:
    runs: Sequence[Json] = answer["runs"]
    columns = [Column(""), *(Column(printable(run["label"]), right=True) for run in runs)]
    rows = [[head, *(_cell(run.get(field), show) for run in runs)] for field, head, show in FIGURES if _known(runs, field)]
    return f"{table(columns, rows, out)}\n{printable(answer['conclusion'])}\n"


def _known(runs: Sequence[Json], field: str) -> bool:
    return any(run.get(field) is not None for run in runs)


def _cell(value: float | None, show: Any) -> str:
    return str(show(value))
