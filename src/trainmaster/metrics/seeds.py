"""Several seeds: each figure's mean and 95 % confidence interval (Student's t)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FIGURES = (
    "finished", "avg_jct_s", "median_jct_s", "p95_jct_s", "p99_jct_s", "makespan_s", "avg_wait_s", "avg_queue_s", "p99_queue_s",
    "avg_bounded_slowdown", "gpu_utilization", "productive_utilization", "avg_ftf", "max_ftf", "deadlines_met", "preemptions",
    "migrations", "resizes", "failures", "lost_gpu_s", "overhead_gpu_s", "decisions",
)  # fmt: skip


def across_seeds(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One object a label, in order of appearance: {"label", "seeds": how many, "figures": {name: {"mean", "low", "high"}}}.

    A figure that some seed does not have is None; a single seed has no interval (low and high are None).
    """
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_label.setdefault(run["label"], []).append(run)
    return [
        {"label": label, "seeds": len(same), "figures": {name: _interval([run[name] for run in same]) for name in FIGURES}}
        for label, same in by_label.items()
    ]


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of two values or more."""
    return student_t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def student_t(degrees: int, confidence: float = 0.95) -> float:
    """t with P(|T| <= t) = confidence: bisection on the closed form for whole degrees (Abramowitz and Stegun, 26.7.3-4)."""

    def probability(angle: float) -> float:
        cosine, even = math.cos(angle), degrees % 2 == 0
        term = total = 1.0 if even else cosine if degrees > 1 else 0.0
        for k in range(2 if even else 3, degrees, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        return math.sin(angle) * total if even else 2 / math.pi * (angle + math.sin(angle) * total)

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _interval(values: list[float | None]) -> dict[str, float | None] | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    mean = float(np.mean(known))
    half = half_width(known) if len(known) > 1 else None
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}
