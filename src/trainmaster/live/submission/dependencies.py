"""What a job waits for: `afterok:12`, `afterok:12:13,afterany:14`, `after:12`. A job may be named by id, by ARRAY_INDEX or by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError

KINDS = ("after", "afterany", "afterok", "afternotok")
MOST = 1_000
HERE = f"here there are {', '.join(KINDS)}"


@dataclass(frozen=True, slots=True)
class Awaited:
    kind: str
    job: str  # as it was written: whoever submits finds its id


def dependencies(text: str, at: str) -> tuple[Awaited, ...]:
    if not text.strip():
        return ()
    if "?" in text:
        raise InputError(f"{at}: {quoted(text)}: `?` (any of them) is not known here; with a comma all of them are waited for")
    found = []
    for piece in text.split(","):
        kind, *jobs = piece.strip().split(":")
        if kind not in KINDS:
            raise InputError(f"{at}: {quoted(kind)} is not a kind of dependency that is known; {HERE}, e.g. afterok:12")
        if not jobs or not all(jobs):
            raise InputError(f"{at}: {quoted(piece)} names no job; e.g. {kind}:12")
        for job in jobs:
            bare, plus, delay = job.partition("+")
            if plus and (not delay.isdecimal() or int(delay)):
                raise InputError(f"{at}: {quoted(job)}: a delay after a job is not known here; --begin is, for a time of day")
            found.append(Awaited(kind, reference(bare, at)))
    if len(found) > MOST:
        raise InputError(f"{at}: waits for {len(found):,} jobs; at most {MOST:,}")
    return tuple(dict.fromkeys(found))


def reference(text: str, at: str) -> str:
    """A job as it was named; what it is called is checked by who knows the jobs."""
    word = text.strip()
    if not word or len(word) > 200 or re.search(r"[\x00-\x1f/\\]", word):
        raise InputError(f"{at}: {quoted(text)} is not the id or name of a job")
    return word
