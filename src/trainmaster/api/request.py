"""What is asked for, checked as far as that goes without reading a file. Messages name the flag, in Python too."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from trainmaster.cluster.cluster import Cluster
from trainmaster.engine.core import Setup
from trainmaster.engine.faults import UNITS_S, Faults
from trainmaster.errors import ParamError
from trainmaster.placement.base import find_placement
from trainmaster.policies.base import Policy
from trainmaster.workload.jobs import Job, JobTable

SYNTHETIC = "synthetic"
MOST_SEED = 2**63 - 1  # a counter-based generator takes 64 bits

Path = str | PathLike[str]
Contestant = tuple[str | None, str | Policy[Any]]  # (label, or None for its own name; name or instance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    trace: Path | JobTable | Sequence[Job] = SYNTHETIC
    format: str = "auto"
    profiles: Path | None = None
    cluster: Path | Cluster | None = None
    policies: tuple[Contestant, ...] = ()  # () = the default ones
    settings: tuple[str, ...] = ()  # LABEL.PARAM=VALUE
    placement: str = "packed"
    round_s: float | None = None
    restart_cost_s: float | None = None  # None = by model where it is known, else 30
    start_delay_s: float = 0.0
    stop_delay_s: float = 0.0
    seed: int = 0
    seeds: int = 1
    jobs: int | None = None
    load: float = 1.0
    window: tuple[float, float] | None = None
    faults: Faults | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        for flag, count in (("--jobs", self.jobs), ("--seeds", self.seeds), ("--workers", self.workers)):
            if count is not None and count < 1:
                raise ParamError(f"{flag}: must be at least 1, not {count}")
        if not (math.isfinite(self.load) and self.load > 0):
            raise ParamError(f"--load: must be a positive number, not {self.load:g}")
        for flag, seconds in (("--round", self.round_s), ("--restart-cost", self.restart_cost_s), ("--start-delay", self.start_delay_s),
                              ("--stop-delay", self.stop_delay_s)):  # fmt: skip
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise ParamError(f"{flag}: must be 0 seconds or more, not {seconds:g}")
        if self.seed < 0 or self.seed + self.seeds > MOST_SEED:
            raise ParamError(f"--seed: must be from 0 to 2^63 - 1, not {self.seed}")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ParamError(f"--window: must end after it begins, not {self.window[0]:g}:{self.window[1]:g}")
        find_placement(self.placement)

    @property
    def synthetic(self) -> str | None:
        """The kind of generated workload, None for any other: `synthetic:philly` -> "philly", `synthetic` -> ""."""
        if not isinstance(self.trace, str):
            return None
        word, _, kind = self.trace.partition(":")
        return kind if word == SYNTHETIC else None

    def setup(self, seed: int) -> Setup:
        return Setup(placement=self.placement, round_s=self.round_s, restart_cost_s=self.restart_cost_s, seed=seed, load=self.load,
                     window=self.window, faults=self.faults, start_delay_s=self.start_delay_s, stop_delay_s=self.stop_delay_s)  # fmt: skip


def parse_window(text: str) -> tuple[float, float]:
    """`A:B`, seconds or with a unit (`1d:8d`); an end left out is open."""
    start, colon, end = text.partition(":")
    if not colon:
        raise ParamError(f"--window: {text!r} is not A:B; e.g. 86400:691200, or 1d:8d")
    return _instant(start, -math.inf), _instant(end, math.inf)


def _instant(text: str, default: float) -> float:
    if not text.strip():
        return default
    match = re.fullmatch(r"\s*(-?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([smhd]?)\s*", text)
    try:
        seconds = float(match[1]) * UNITS_S[match[2] or "s"] if match else math.nan
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ParamError(f"--window: {text!r} is not a time; give seconds, or e.g. 12h or 1d")
    return seconds


def parse_policies(text: str) -> list[Contestant]:
    """`[LABEL=]A,[LABEL=]B`"""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ParamError(f"--policy: {text!r} has an empty name")
    split = [word.rpartition("=") for word in words]
    if any(equals and not (label and name) for label, equals, name in split):
        raise ParamError(f"--policy: {text!r} is not [LABEL=]NAME,[LABEL=]NAME,...")
    return [(label or None, name) for label, _, name in split]
