"""Accelerators as people ask for them, in one reader.

    4   0.5   2..8                      a number, a fraction of one, a range
    a100   H100:8   A10G,A100:2         a type, any of several
    A100:80GB:4   40GB..80GB:2          with so much memory each
    gpu:4   gpu:a100:4   gres/gpu:1     Slurm's --gres, of which there may be several, comma between

A memory size that the catalogue sells a type with is a type of its own (A100:80GB is a100-80gb). An upper bound on memory, which no
field of a job holds, becomes the list of the catalogue's types between the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainmaster.cluster.accelerators import CATALOGUE, canonical, lookup
from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError
from trainmaster.live.submission.memory import is_memory, memory_range_gib

MOST_GPUS = 1_000_000
EXAMPLES = "e.g. 4, 0.5, a100:2, A100:80GB:4, 2..8"

_COUNT = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?|\.[0-9]{1,6}")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.@+ -]{0,99}|[0-9]{3,4}[A-Za-z][A-Za-z0-9]{0,20}")  # and 1080ti
_VENDORS = {"nvidia", "amd", "gpu"}  # dstack's nvidia:A100


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """What was said; None or () where nothing was."""

    count: float | None = None
    most: float | None = None  # of a range
    types: tuple[str, ...] = ()
    memory_gib: float | None = None  # at least, on each


def gpus(text: str, at: str) -> Gpus:
    """Any of the forms above but Slurm's lists of --gres."""
    parts = [part.strip() for part in text.split(":")]
    count: tuple[float, float | None] | None = None
    memory: tuple[float | None, float | None] | None = None
    types: tuple[str, ...] | None = None
    for position, part in enumerate(parts):
        if is_memory(part):
            repeated, memory = memory is not None, memory_range_gib(part, at)
        elif _is_count(part):
            repeated, count = count is not None, _count(part, text, at)
        elif part.lower() in _VENDORS and len(parts) > 1 and position == 0:
            repeated = False
        else:
            repeated, types = types is not None, _types(part, text, at)
        if repeated:
            raise InputError(f"{at}: {quoted(text)} says one thing twice; {EXAMPLES}")
    least, most = count or (None, None)
    return _with_memory(Gpus(count=least, most=most, types=types or ()), memory, text, at)


def gres(text: str, at: str) -> Gpus:
    """Slurm's `--gres`: what it asks for on each node."""
    if text.strip().lower() in ("none", ""):
        return Gpus(count=0.0)
    found: Gpus | None = None
    for entry in text.split(","):
        name, _, rest = entry.strip().removeprefix("gres/").removeprefix("gres:").partition(":")
        if name != "gpu":
            raise InputError(f"{at}: {quoted(name)} is not a resource here; gpu is, and gpu alone")
        if found is not None:
            raise InputError(f"{at}: {quoted(text)} asks for several at once; one job holds one type (--gpu-type a100,h100: any)")
        asked = gpus(rest, at) if rest else Gpus(count=1.0)
        found = asked if asked.count is not None else Gpus(count=1.0, types=asked.types, memory_gib=asked.memory_gib)
    assert found is not None
    return found


def types(text: str, at: str) -> tuple[str, ...]:
    """`a100,H100`: any of these."""
    return _types(text, text, at)


def count(text: str, at: str) -> float:
    """One number of GPUs."""
    word = text.strip()
    if not _COUNT.fullmatch(word):
        raise InputError(f"{at}: {quoted(text)} is not a number of GPUs; e.g. 4, or 0.5")
    return _count(word, text, at)[0]


def _is_count(part: str) -> bool:
    low, dots, high = part.removesuffix("+").partition("..")
    ends = [end for end in (low, high) if end] if dots else [low]
    return bool(ends) and all(_COUNT.fullmatch(end) for end in ends)


def _count(part: str, text: str, at: str) -> tuple[float, float | None]:
    low, dots, high = part.removesuffix("+").partition("..")
    least = float(low) if low else 1.0
    most = (float(high) if high else None) if dots else None
    for number in (least, most):
        if number is not None and number > 1 and number != int(number):
            raise InputError(f"{at}: {quoted(text)}: a gang takes whole GPUs, not {number:g}")
        if number is not None and number > MOST_GPUS:
            raise InputError(f"{at}: {quoted(text)} is more than {MOST_GPUS:,} GPUs")
    if most is not None and most < least:
        raise InputError(f"{at}: {quoted(text)} is a range whose end is below its beginning")
    return least, most


def _types(part: str, text: str, at: str) -> tuple[str, ...]:
    names = [name.strip() for name in part.split(",")]
    for name in names:
        if not _TYPE.fullmatch(name):
            counted = "," in part and ":" in text
            hint = "any of several types is a100,h100:4, with one count for all" if counted else EXAMPLES
            raise InputError(f"{at}: {quoted(text)} is not understood at {quoted(name)}; {hint}")
    return tuple(dict.fromkeys(re.sub(r"\s+", "-", canonical(name)) for name in names))


def _with_memory(asked: Gpus, memory: tuple[float | None, float | None] | None, text: str, at: str) -> Gpus:
    if memory is None:
        return asked
    least, most = memory
    names, least_left = asked.types, least
    if least is not None and most is None and names:
        sold = [lookup(f"{name}-{least:g}gb") for name in names]
        if all(sold):
            names, least_left = tuple(known.name for known in sold if known), None
    if most is not None:
        known = [card for card in CATALOGUE if (least or 0) <= card.memory_gib <= most and (not names or card.name in names)]
        if not known:
            raise InputError(f"{at}: {quoted(text)}: the catalogue has no such accelerator; name its type")
        names = tuple(card.name for card in known)
    return Gpus(count=asked.count, most=asked.most, types=names, memory_gib=least_left)
