"""Service tiers by GPU fraction, and what time-slicing costs: the arithmetic of Singularity.

Shukla et al., "Singularity: Planet-Scale, Preemptive and Elastic Scheduling of AI Workloads", arXiv 2202.07848, 2022.

    GPU fraction   GPU time received / GPU time asked, while the job wanted to run; Premium 0.95, Standard 0.70, Basic none
    floor          ceil(fraction x demand): what a tier is guaranteed now
    slicing        W ranks on W / k GPUs: k of them in turn on each, so a step takes k times as long

The paper leaves the order open. Here: every floor first, from the top tier down; then what is left, from the top tier down, up to demand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

PREMIUM, STANDARD, BASIC = 0.95, 0.70, 0.0


def share_by_tier(demand: Sequence[int], fraction: Sequence[float], capacity: int) -> list[int]:
    """GPUs of each job, given in the order of their tiers, the top one first."""
    given = [0] * len(demand)
    for wanted in ([math.ceil(f * d - 1e-9) for d, f in zip(demand, fraction, strict=True)], demand):
        for job, gpus in enumerate(wanted):
            more = min(max(gpus - given[job], 0), capacity)
            given[job] += more
            capacity -= more
    return given


def gpu_fraction(held: Sequence[tuple[float, float]], demand: float) -> float:
    """Of a job that asked for `demand` GPUs all along, and held so many for so long: (seconds, GPUs)."""
    return sum(seconds * gpus for seconds, gpus in held) / (demand * sum(seconds for seconds, _ in held))


def owed_gpu_s(held: Sequence[tuple[float, float]], demand: float, fraction: float) -> float:
    """GPU-seconds short of its tier's fraction; below 0: it has had more."""
    seconds = sum(seconds for seconds, _ in held)
    return (fraction - gpu_fraction(held, demand)) * demand * seconds


def repaid_after_s(held: Sequence[tuple[float, float]], demand: float, fraction: float) -> float:
    """How long on all that it asks for until its fraction is reached."""
    return max(owed_gpu_s(held, demand, fraction), 0.0) / (demand * (1 - fraction))


def sliced_step(ranks: int, gpus: int, overhead: float = 0.0) -> float:
    """Of a step on as many GPUs as ranks; `overhead`: what switching adds, as a part."""
    return ranks / gpus * (1 + overhead)
