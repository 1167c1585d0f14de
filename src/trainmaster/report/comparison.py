"""The table of policies side by side: which figures, in which words, and which is best. Terminal and page show the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trainmaster.metrics.conclusion import baseline_label
from trainmaster.metrics.readable import NOTHING, change, number, percent, short_duration
from trainmaster.metrics.seeds import across_seeds
from trainmaster.metrics.summary import Summary


@dataclass(frozen=True, slots=True)
class Column:
    field: str
    head: str
    meaning: str
    words: Callable[[float], str]
    best: Callable[[list[float]], float] | None = None  # min or max; None where neither is better


COLUMNS = (
    Column("avg_jct_s", "avg JCT", "finish − submission, average", short_duration, min),
    Column("median_jct_s", "median JCT", "half of the jobs take no longer", short_duration, min),
    Column("p99_jct_s", "p99 JCT", "99 % of the jobs take no longer", short_duration, min),
    Column("avg_queue_s", "avg queue", "time without its GPUs, preemptions included, average", short_duration, min),
    Column("p99_queue_s", "p99 queue", "99 % of the jobs are without GPUs no longer", short_duration, min),
    Column("makespan_s", "makespan", "last finish − first submission", short_duration, min),
    Column("gpu_utilization", "GPU use", "GPU-time held of GPU-time there", percent, max),
    Column(
        "max_ftf",
        "max FTF",
        "worst finish-time fairness: JCT against alone on a fair share of the cluster",
        lambda value: number(value, 1),
        min,
    ),
    Column("preemptions", "preempt.", "times a running job lost its GPUs", number),
)


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    interval: str  # "± …" over several seeds, else ""
    value: float | None
    best: bool  # of the policies that do not cheat, where they differ


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    oracle: bool
    baseline: bool
    against_baseline: str  # change of the average JCT
    cells: tuple[Cell, ...]  # one a COLUMN


def compare(runs: Sequence[Summary]) -> list[Row]:
    """One row a label, in order of appearance; averages over its seeds."""
    averages = across_seeds(runs)
    oracle = {run["label"]: bool(run["oracle"]) for run in runs}
    baseline = baseline_label(runs)
    by_label = {average["label"]: average["figures"] for average in averages}
    means = {
        label: [None if figures[column.field] is None else figures[column.field]["mean"] for column in COLUMNS]
        for label, figures in by_label.items()
    }
    bests = [_best(column, [means[label][index] for label in means if not oracle[label]]) for index, column in enumerate(COLUMNS)]

    def cell(label: str, index: int) -> Cell:
        column, value = COLUMNS[index], means[label][index]
        is_best = value is not None and value == bests[index] and not oracle[label]
        return Cell(NOTHING if value is None else column.words(value), _interval(column, by_label[label][column.field]), value, is_best)

    def against(label: str) -> str:
        ours, theirs = means[label][0], means[baseline][0] if baseline else None
        return "" if ours is None or theirs is None or label == baseline else change(ours, theirs)

    return [
        Row(label, oracle[label], label == baseline, against(label), tuple(cell(label, index) for index in range(len(COLUMNS))))
        for label in by_label
    ]


def _best(column: Column, values: list[float | None]) -> float | None:
    """None where all are equal: then no policy stands out."""
    known = [value for value in values if value is not None]
    return column.best(known) if column.best and len(set(known)) > 1 else None


def _interval(column: Column, figure: dict[str, Any] | None) -> str:
    return "" if figure is None or figure["low"] is None else f"± {column.words(figure['mean'] - figure['low'])}"
