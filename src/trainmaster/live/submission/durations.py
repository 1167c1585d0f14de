"""Lengths of time as people write them: `2h`, `1d12h`, and Slurm's `90`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`."""

from __future__ import annotations

import re

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError

MOST_S = 10 * 366 * 86_400.0
UNIT_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
NO_LIMIT = ("unlimited", "infinite", "off", "-1")

_UNITS = re.compile(r"(?:(?:[0-9]{1,12})(?:\.[0-9]{1,6})?(?:s|sec|m|min|h|hr|d|w))+")
_PIECE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-z])[a-z]*")
_SLURM = re.compile(r"(?:(?P<days>[0-9]{1,9})-)?(?P<parts>[0-9]{1,12}(?::[0-9]{1,12}){0,2})")


def duration_s(text: str, at: str, *, bare_s: float = 60.0) -> float:
    """Seconds. `bare_s`: what a number without a unit counts; Slurm's are minutes."""
    word = text.strip().lower()
    if _UNITS.fullmatch(word):
        found_s = sum(float(number) * UNIT_S[unit] for number, unit in _PIECE.findall(word))
    elif match := _SLURM.fullmatch(word):
        found_s = _slurm_s(match["days"], [int(part) for part in match["parts"].split(":")], bare_s)
    else:
        raise InputError(f"{at}: {quoted(text)} is not a length of time; e.g. 2h, 1d12h, 1-12:00:00 (days-hours:minutes:seconds)")
    if found_s > MOST_S:
        raise InputError(f"{at}: {quoted(text)} is more than ten years")
    return found_s


def limit_s(text: str, at: str, *, bare_s: float = 60.0) -> float | None:
    """A limit: None if it says that there is none."""
    return None if text.strip().lower() in NO_LIMIT else duration_s(text, at, bare_s=bare_s)


def _slurm_s(days: str | None, parts: list[int], bare_s: float) -> float:
    if days is not None:  # D-HH, D-HH:MM, D-HH:MM:SS
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return int(days) * 86_400.0 + hours * 3_600 + minutes * 60 + seconds
    if len(parts) == 1:
        return parts[0] * bare_s
    hours, minutes, seconds = [0, *parts][-3:]  # MM:SS, HH:MM:SS
    return hours * 3_600.0 + minutes * 60 + seconds
