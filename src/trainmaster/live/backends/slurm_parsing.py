"""What Slurm's commands print, as data; and the names by which our jobs are known there.

    tm-SITE-JOB.ATTEMPT.PART-NAME    --job-name: which controller's, our job and attempt, which of its Slurm jobs; NAME is for people

Slurm's own id is no identity: after a crash of slurmctld it is given again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainmaster.cluster.seen import node_names
from trainmaster.errors import BackendError, InputError
from trainmaster.live.backends.accepting import Key
from trainmaster.live.submission.durations import limit_s

FORMAT = "%i|%T|%N|%r|%j"  # a name may hold a bar: it comes last
NAME = re.compile(r"tm-([0-9a-f]{8})-([0-9]{1,18})\.([0-9]{1,9})\.([0-9]{1,6})(?:-.*)?", re.DOTALL)
# without an allocation; CONFIGURING has one
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One job as squeue shows it."""

    id: int
    state: str
    nodes: tuple[str, ...]
    reason: str
    name: str

    @property
    def waits(self) -> bool:
        return self.state in WAITING


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    name: str
    default: bool
    up: bool
    most_min: int | None  # a longer limit is refused, or waits for ever; None: there is no bound


def job_name(site: str, key: Key, part: int, name: str) -> str:
    return f"tm-{site}-{key[0]:d}.{key[1]:d}.{part:d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:40]}"


def known(name: str, site: str) -> tuple[Key, int] | None:
    """The attempt and part of a job name; None: not one of this controller's."""
    match = NAME.fullmatch(name)
    if match is None or match[1] != site:
        return None
    return (int(match[2]), int(match[3])), int(match[4])


def rows(text: str) -> list[Row]:
    """Of `squeue -h -o FORMAT`. Array elements and components of heterogeneous jobs are none of ours, and left out."""
    found = []
    for line in text.splitlines():
        parts = line.split("|", 4)
        if len(parts) == 5 and parts[0].isdecimal():
            id, state, nodes, reason, name = parts
            found.append(Row(id=int(id), state=state, nodes=tuple(node_names(nodes)), reason=reason, name=name))
    return found


def submitted(text: str) -> int:
    """Of `sbatch --parsable`: `ID` or `ID;CLUSTER`."""
    id = text.strip().partition(";")[0]
    if not id.isdecimal():
        raise BackendError(f"sbatch: it answered {text.strip()[:100]!r}, which is no job id")
    return int(id)


def partitions(text: str) -> list[Partition]:
    """Of `scontrol show partition -o`."""
    found = []
    for line in text.splitlines():
        words = _words(line)
        if "PartitionName" in words:
            found.append(Partition(
                name=words["PartitionName"], default=words.get("Default") == "YES", up=words.get("State") == "UP",
                most_min=_minutes(words.get("MaxTime", "")),
            ))  # fmt: skip
    return found


def _minutes(text: str) -> int | None:
    """Whole ones of `1-00:00:00`."""
    try:
        most_s = limit_s(text, "MaxTime")
    except InputError:
        return None
    return None if most_s is None else int(most_s // 60)


def ending(text: str, name: str) -> str:
    """Of `scontrol show job -o`, if it is of that job."""
    words = _words(text)
    reason = words.get("Reason", "None")
    return words.get("JobState", "") + (f" ({reason})" if reason != "None" else "") if words.get("JobName") == name else ""


def _words(line: str) -> dict[str, str]:
    """KEY=VALUE pairs; of a key that comes twice the first counts, since free text comes last."""
    found: dict[str, str] = {}
    for word in line.split():
        key, equals, value = word.partition("=")
        if equals:
            found.setdefault(key, value)
    return found
