"""What an attempt's processes have said in their control folder, in Observation's names; none of it is taken on trust."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from trainmaster.live.node import folder as files

CONTROL_BYTES = 64 << 10  # of one file that a job writes
METRICS = 100
METRIC_NAME = 100  # characters


def speakers(ranks: Sequence[Mapping[str, Any]]) -> list[int]:
    """Of a plan's ranks, those that acknowledge a stop: all of a gang; else rank 0 speaks for it."""
    return [rank["rank"] for rank in ranks if "RANK" in rank["env"]] or [0]


def said(control: str, ranks: Sequence[int]) -> dict[str, Any]:
    """The job's own words, none of them taken on trust. It has stopped when all these ranks have said so."""
    words: dict[str, Any] = {"checkpointed": os.path.exists(f"{control}/registered"), "requeue": os.path.exists(f"{control}/requeue")}
    progress = files.read_json(f"{control}/progress", CONTROL_BYTES) or {}
    words["acknowledged"] = acknowledged(control, ranks)
    for one in (progress, _ack(control, 0) or {}):
        for name in ("step", "saved_step"):
            if isinstance(value := one.get(name), int) and 0 <= value < 1 << 62:
                words[name] = value
    if (rate := _number(progress.get("rate"))) is not None:
        words["rate"] = rate
    metrics = progress.get("metrics")
    if isinstance(metrics, dict):
        numbers = {str(name)[:METRIC_NAME]: _number(value) for name, value in list(metrics.items())[:METRICS]}
        words["metrics"] = {name: value for name, value in numbers.items() if value is not None}
    return words


def acknowledged(control: str, ranks: Sequence[int]) -> bool:
    return all(_ack(control, rank) is not None for rank in ranks)


def _ack(control: str, rank: int) -> dict[str, Any] | None:
    return files.read_json(f"{control}/ack.{rank}", CONTROL_BYTES)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
