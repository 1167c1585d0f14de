"""Job arrays as sbatch has them: `0-99%8` (at most 8 at a time), `1,3,5-7`, `0-15:4` (every fourth)."""

from __future__ import annotations

import re

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError

MOST_JOBS = 100_000
LARGEST_INDEX = 4_000_000  # Slurm's own bound on MaxArraySize

_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")


def array(text: str, at: str) -> dict[str, object]:
    """The fields of `spec.Array`."""
    listed, percent, most = text.strip().partition("%")
    limit = None
    if percent:
        if not re.fullmatch(r"[0-9]{1,9}", most) or int(most) < 1:
            raise InputError(f"{at}: {quoted(text)}: after % comes how many may run at a time, e.g. 0-99%8")
        limit = int(most)
    found: set[int] = set()
    for piece in listed.removeprefix("[").removesuffix("]").split(","):
        match = _RANGE.fullmatch(piece.strip())
        if match is None:
            raise InputError(f"{at}: {quoted(text)} is not a list of indices; e.g. 0-99, 1,3,5-7, 0-15:4")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first or step < 1:
            raise InputError(f"{at}: {quoted(piece)} holds no index; e.g. 0-99, 0-15:4")
        if last > LARGEST_INDEX:
            raise InputError(f"{at}: index {last:,} is above {LARGEST_INDEX:,}")
        if (last - first) // step + 1 > MOST_JOBS:
            raise InputError(f"{at}: {quoted(text)} is more than {MOST_JOBS:,} jobs; submit several arrays")
        found.update(range(first, last + 1, step))
    if len(found) > MOST_JOBS:
        raise InputError(f"{at}: {quoted(text)} is more than {MOST_JOBS:,} jobs; submit several arrays")
    return {"indices": sorted(found), "limit": limit}
