"""Sizes of memory: `8G`, `512M`, `80GB`, `1.5TiB`; a range `40GB..80GB`; `16+` is at least 16. G, GB and GiB are the same: 2^30 bytes."""

from __future__ import annotations

import re

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError

MOST_GIB = 1e6
GIB = {"k": 2.0**-20, "m": 2.0**-10, "g": 1.0, "t": 2.0**10, "p": 2.0**20}

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?:([kmgtp])(?:i?b|i)?)?\+?", re.IGNORECASE)


def memory_gib(text: str, at: str, *, bare: str = "m") -> float:
    """GiB. `bare`: the unit of a number without one; Slurm's is MiB."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{at}: {quoted(text)} is not a size of memory; e.g. 8G, 512M, 80GB")
    found_gib = float(match[1]) * GIB[(match[2] or bare).lower()]
    if found_gib > MOST_GIB:
        raise InputError(f"{at}: {quoted(text)} is more than {MOST_GIB:,.0f} GiB")
    return found_gib


def is_memory(text: str) -> bool:
    """A size with its unit, or a range of them."""
    ends = [end for end in text.split("..") if end] if text.count("..") < 2 else []
    return bool(ends) and all((match := _SIZE.fullmatch(end)) is not None and match[2] is not None for end in ends)


def memory_range_gib(text: str, at: str, *, bare: str = "m") -> tuple[float | None, float | None]:
    """(at least, at most): `40GB..80GB`, `40GB..`, `..80GB`; of a single size, (it, None)."""
    if ".." not in text:
        return memory_gib(text, at, bare=bare), None
    low, _, high = text.partition("..")
    least = memory_gib(low, at, bare=bare) if low.strip() else None
    most = memory_gib(high, at, bare=bare) if high.strip() else None
    if (least is None and most is None) or (least is not None and most is not None and least > most):
        raise InputError(f"{at}: {quoted(text)} is not a range of memory; e.g. 40GB..80GB")
    return least, most
