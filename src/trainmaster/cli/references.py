"""Jobs as people name them: an id, ARRAY_INDEX as Slurm has it, or a name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from trainmaster.errors import InputError, NotFound
from trainmaster.live.client import Client, Json

INDEXED = re.compile(r"([0-9]{1,15})_\[?([0-9,-]{1,1000})\]?")
PAGE = 10_000


def one(client: Client, word: str) -> int:
    """The job that is meant; of several with one name the newest that has not ended, else the newest."""
    if _is_id(word):
        return int(word)
    if INDEXED.fullmatch(word):
        found = several(client, word)
        if len(found) != 1:
            raise InputError(f"{word}: names {len(found)} jobs; give one of them")
        return found[0]
    named = client.jobs(names=[word], all=True)
    if not named:
        raise NotFound(f'no job is called "{word}" (trainmaster queue --all)')
    return max(named, key=lambda job: (job["finish_s"] is None, job["id"]))["id"]


def several(client: Client, word: str) -> list[int]:
    """What a verb that changes jobs acts on: the id of an array means all of it; a name must be that of one job."""
    if _is_id(word):
        record = client.job(int(word))
        return [job["id"] for job in members(client, record) if job["finish_s"] is None] or [int(word)]
    if match := INDEXED.fullmatch(word):
        wanted = set(_indices(match[2]))
        found = [job["id"] for job in members(client, client.job(int(match[1]))) if job["array_index"] in wanted]
        if not found:
            raise NotFound(f"no job {word}")
        return found
    running = client.jobs(names=[word])
    if len(running) > 1:
        ids = ", ".join(str(job["id"]) for job in running[:10])
        raise InputError(f'{len(running)} jobs are called "{word}": {ids}; give an id, or -n {word} for all of them')
    return [running[0]["id"] if running else one(client, word)]


def all_of(client: Client, words: Iterable[str]) -> list[int]:
    return list(dict.fromkeys(job for word in words for job in several(client, word)))


def members(client: Client, record: Json) -> list[Json]:
    """All jobs of the array that this one heads; itself, if it heads none."""
    if record["array_job"] != record["id"]:
        return [record]
    count = len(client.spec(record["id"])["array"]["indices"])
    found: list[Json] = []
    for job in pages(client, all=True, after_id=record["id"] - 1):
        if job["array_job"] == record["id"]:
            found.append(job)
        if len(found) == count:
            break
    return found


def pages(client: Client, *, after_id: int = 0, **which: Any) -> Iterator[Json]:
    """Jobs by id, so many at a time."""
    while True:
        jobs = client.jobs(limit=PAGE, after_id=after_id, **which)
        yield from jobs
        if len(jobs) < PAGE:
            return
        after_id = jobs[-1]["id"]


def indexed(word: str) -> tuple[int, set[int] | None]:
    """12 or 12_[1-3] as (id, indices)."""
    if _is_id(word):
        return int(word), None
    if match := INDEXED.fullmatch(word):
        return int(match[1]), set(_indices(match[2]))
    raise InputError(f"{word!r} is no id of a job; e.g. 12, 12_3")


def _is_id(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 16


def _indices(text: str) -> list[int]:
    from trainmaster.live.submission.arrays import array

    indices = array(text, text)["indices"]
    assert isinstance(indices, list)
    return indices
