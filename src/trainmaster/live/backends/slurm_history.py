"""Jobs as Slurm tells of them, one a row of `sacct -P`: from sacct itself, or from squeue where there is no accounting.

What the replay needs to know of a job that still runs is that it holds its GPUs: its row is closed at the moment of the last look, with the
state SEEN, which is none of Slurm's. A job that waits has no duration yet, and is only counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from trainmaster.errors import InputError
from trainmaster.live.backends.slurm_reading import QUEUE
from trainmaster.live.submission.durations import NO_LIMIT, duration_s
from trainmaster.workload.traces.sacct import FIELDS

MOST_ROWS = 2_000_000
SEEN = "SEEN"
WAITS = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
HOLDS = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "RESIZING"})
YEAR_MIN = 365 * 24 * 60  # what Slurm's own backfill takes a job without a limit for

_STATE, _USER, _LIMIT, _NODES = (FIELDS.index(name) for name in ("State", "User", "TimelimitRaw", "NodeList"))
_SUBMIT, _ELIGIBLE, _START, _END = _TIMES = tuple(FIELDS.index(name) for name in ("Submit", "Eligible", "Start", "End"))
_TIME = re.compile(r"[0-9]{1,12}")
_ABSENT = frozenset({"", "Unknown", "None", "NONE", "N/A", "(null)"})
_GPUS = re.compile(r"gres[:/]gpu(?::([A-Za-z0-9_.+-]+))?(?:[:=]([0-9]{1,9}))?")  # gres:gpu:a100:4, gres/gpu:a100=4, gres/gpu=4


@dataclass(frozen=True, slots=True)
class Row:
    """One job; `fields` are FIELDS."""

    id: int
    fields: tuple[str, ...]

    @property
    def state(self) -> str:
        return self.fields[_STATE].partition(" ")[0]

    @property
    def user(self) -> str:
        return self.fields[_USER]

    @property
    def start_s(self) -> float | None:
        return _time(self.fields[_START])

    @property
    def end_s(self) -> float | None:
        return _time(self.fields[_END])

    @property
    def waits(self) -> bool:
        return self.state in WAITS or self.start_s is None

    @property
    def holds(self) -> bool:
        return self.state in HOLDS

    @property
    def gpus(self) -> int:
        """Held, or asked for by a job that waits."""
        allocated, asked = (_counts(self.fields[FIELDS.index(name)]) for name in ("AllocTRES", "ReqTRES"))
        counts = allocated or asked
        return counts.get("", sum(counts.values()))

    @property
    def node_list(self) -> str:
        return self.fields[_NODES]

    @property
    def ended(self) -> bool:
        """Cancelled before it ran, say."""
        return self.state not in WAITS | HOLDS

    def submitted_no_earlier(self, since_s: float) -> Row:
        """Of a job that was there before: when it started, or, if it waited, just before."""
        submit_s, start_s = _time(self.fields[_SUBMIT]), self.start_s
        if submit_s is None or start_s is None or submit_s >= since_s:
            return self
        return self._with(dict.fromkeys((_SUBMIT, _ELIGIBLE), f"{min(start_s, since_s - 1):.0f}"))

    def closed(self, now_s: float) -> Row:
        """As if it had ended now."""
        return self._with({_STATE: SEEN, _END: f"{now_s:.0f}"})

    def limited(self) -> Row:
        """A job that may run for ever is planned with a year."""
        return self._with({_LIMIT: str(YEAR_MIN)}) if self.fields[_LIMIT].lower() in (*NO_LIMIT, "partition_limit") else self

    def _with(self, changes: Mapping[int, str]) -> Row:
        return replace(self, fields=tuple(changes.get(place, text) for place, text in enumerate(self.fields)))


@dataclass(slots=True)
class Rows:
    """Of one command's output, by Slurm's id; lines that are no job of the form asked for are counted."""

    by_id: dict[int, Row]
    unreadable: int = 0


def of_sacct(lines: Iterable[str]) -> Rows:
    """Lines of `sacct -P -o FIELDS`, with their header. Of an id that was used again the last submission counts, as sacct does it."""
    found, lines = Rows({}), iter(lines)
    header = next(lines, "").rstrip("\n")
    if tuple(header.split("|")) != FIELDS:
        raise InputError(f"sacct: its header is {header[:100]!r}, not the fields asked for ({'|'.join(FIELDS)})")
    for line in lines:
        _add(found, tuple(line.rstrip("\n").split("|")))
    return found


def of_squeue(text: str) -> Rows:
    """Lines of `squeue -O QUEUE`. Elements of an array that wait share their id: each gets a place of its own below zero."""
    found = Rows({})
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != len(QUEUE) + 1 or parts[-1]:
            found.unreadable += 1
            continue
        try:
            fields = _sacct_fields(dict(zip(QUEUE, parts, strict=False)))
        except (InputError, ValueError):
            found.unreadable += 1
            continue
        _add(found, fields)
    return found


def write(rows: Iterable[Row]) -> Iterable[str]:
    """The lines of a file that `simulate --format sacct` reads."""
    yield "|".join(FIELDS) + "\n"
    for row in rows:
        yield "|".join(row.fields) + "\n"


def _add(found: Rows, fields: tuple[str, ...]) -> None:
    whole = len(fields) == len(FIELDS) and all(text.isprintable() for text in fields)
    if not whole or not _TIME.fullmatch(fields[0]) or any(_bad_time(fields[place]) for place in _TIMES):
        found.unreadable += 1
        return
    if len(found.by_id) >= MOST_ROWS:
        raise InputError(f"Slurm tells of more than {MOST_ROWS:,} jobs; ask for less (--since)")
    row = Row(int(fields[0]), fields)
    key = row.id
    if row.waits and row.id in found.by_id:
        key = -len(found.by_id) - 1
    found.by_id[key] = row


def _sacct_fields(told: Mapping[str, str]) -> tuple[str, ...]:
    """A line of squeue as sacct would say it. ValueError, InputError: it is none."""
    known = {name: "" if value in _ABSENT else value for name, value in told.items()}
    state, nodes = known["State"], int(known["NumNodes"] or 0)
    waits = state in WAITS
    limit = known["TimeLimit"].lower()
    limit_min = "UNLIMITED" if limit in NO_LIMIT else f"{duration_s(limit, 'TimeLimit') / 60:.0f}" if limit else ""
    asked = _asked(known, nodes, int(known["NumTasks"] or 1))
    gpus = ",".join(f"gres/gpu{f':{kind}' if kind else ''}={count}" for kind, count in asked.items())
    allocated = known["tres-alloc"] or f"cpu={int(known['NumCPUs'] or 0)}"
    if asked and not _counts(allocated):
        allocated += f",gres/gpu={sum(asked.values())}"
    told = {
        "JobIDRaw": known["JobID"], "User": known["UserName"], "Account": known["Account"], "Partition": known["Partition"],
        "QOS": known["QOS"], "Submit": known["SubmitTime"], "Eligible": known["EligibleTime"], "Start": "" if waits else known["StartTime"],
        "End": "" if waits or state in HOLDS else known["EndTime"],
        "ElapsedRaw": "" if waits else f"{duration_s(known['TimeUsed'], 'TimeUsed'):.0f}", "TimelimitRaw": limit_min, "State": state,
        "NNodes": str(nodes), "NodeList": known["NodeList"], "ReqTRES": gpus, "AllocTRES": "" if waits else allocated,
    }  # fmt: skip
    return tuple(told[name] for name in FIELDS)


def _asked(known: Mapping[str, str], nodes: int, tasks: int) -> dict[str, int]:
    """GPUs by type, from what the user asked for: of a job, a node or a task."""
    for name, times in (("tres-per-job", 1), ("tres-per-node", max(1, nodes)), ("tres-per-task", max(1, tasks))):
        if counts := _counts(known[name]):
            return {kind: count * times for kind, count in counts.items()}
    return {}


def _counts(tres: str) -> dict[str, int]:
    """GPUs by type; "" is the total, or an untyped one."""
    found: dict[str, int] = {}
    for match in filter(None, map(_GPUS.fullmatch, tres.split(","))):
        kind, count = match.groups()
        if count is None and kind is not None and kind.isdecimal():  # gres:gpu:4
            kind, count = None, kind
        found[kind or ""] = found.get(kind or "", 0) + int(count or 1)  # gres:gpu, gres:gpu:a100: one
    return found


def _time(text: str) -> float | None:
    return float(text) if _TIME.fullmatch(text) else None


def _bad_time(text: str) -> bool:
    return text not in _ABSENT and not _TIME.fullmatch(text)
