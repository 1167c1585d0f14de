"""Jobs in sacct's terms: its fields, its states, its two layouts. `acct` and the sacct look-alike print these.

What a job asked for beside GPUs (CPUs, memory, QOS, types) stands in its submission alone: it is fetched where a field wants it, for all
jobs in one request.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trainmaster.cli.references import INDEXED, members, one, pages, several
from trainmaster.cli.words import out_of_memory
from trainmaster.cluster.wording import printable
from trainmaster.errors import InputError, NotFound
from trainmaster.live.client import Client, Json
from trainmaster.live.states import State

DEFAULT = "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"
BRIEF = "JobID,State,ExitCode"
BY_SLURM = {
    State.PENDING: "PENDING", State.STARTING: "PENDING", State.RUNNING: "RUNNING", State.PREEMPTING: "RUNNING",
    State.SUSPENDED: "SUSPENDED", State.RESIZING: "RUNNING", State.RECOVERING: "REQUEUED", State.COMPLETING: "COMPLETING",
    State.SUCCEEDED: "COMPLETED", State.FAILED: "FAILED", State.CANCELLED: "CANCELLED", State.TIMEOUT: "TIMEOUT",
}  # fmt: skip
SHORT = {
    "PD": "PENDING", "R": "RUNNING", "S": "SUSPENDED", "RQ": "REQUEUED", "CG": "COMPLETING", "CD": "COMPLETED", "F": "FAILED",
    "CA": "CANCELLED", "TO": "TIMEOUT", "NF": "NODE_FAIL", "OOM": "OUT_OF_MEMORY", "PR": "PREEMPTED", "DL": "DEADLINE", "BF": "BOOT_FAIL",
    "RS": "RESIZING", "RV": "REVOKED",
}  # fmt: skip
NAMES = {*SHORT.values(), *map(str, State)}
FEW, MANY = 500, 10_000  # ids a request: in an address, in a body
NOT_SEEN = {"cpus": 0.0, "memory_gib": 0.0, "gpu_types": (), "qos": None, "workdir": ""}  # of a job that is another's


def rows(client: Client, args: Namespace, now_s: float) -> list[Json]:
    """The jobs that sacct's options ask for, by id."""
    from trainmaster.live.submission.moments import moment_s

    ids, users = listed(args.jobs), listed(args.user)
    if not (ids or users or args.allusers):
        users = [client.whoami()["user"]]
    start = args.starttime or ("00:00" if not ids else None)
    window: dict[str, Any] = {
        "since_s": moment_s(start, "--starttime", now_s, ahead=False) if start else None,
        "until_s": moment_s(args.endtime, "--endtime", now_s, ahead=False) if args.endtime else None,
    }
    names, queues, accounts, wanted = listed(args.name), listed(args.partition), set(listed(args.accounts)), slurm_states(args.states)
    spelled = {SHORT.get(word.upper(), word.upper()) for word in listed(args.states)}
    found = _by_id(client, ids) if ids else pages(client, all=True, users=users, names=names, queues=queues, **window)
    return [
        job
        for job in found
        if (not accounts or job["account"] in accounts)
        and (not wanted or job["state"] in wanted or slurm_state(job) in spelled)
        and (not ids or ((not users or job["user"] in users) and (not names or job["name"] in names)))
    ]


def with_requests(client: Client, jobs: Sequence[Json]) -> list[Json]:
    """Each with what it asked for, as `asked`."""
    asked: dict[int, Json] = {}
    for first in range(0, len(jobs), MANY):
        asked |= {each["id"]: each for each in client.asked([job["id"] for job in jobs[first : first + MANY]])}
    return [{**job, "asked": asked.get(job["id"], NOT_SEEN)} for job in jobs]


def listed(texts: Sequence[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def slurm_states(texts: Sequence[str]) -> set[str]:
    """Our states, from Slurm's names, its two letters, or ours."""
    found = set()
    for word in listed(texts):
        name = SHORT.get(word.upper(), word.upper())
        if name not in NAMES:
            raise InputError(f"--states: {word!r} is no state; e.g. CD, FAILED, RUNNING")
        found |= {str(state) for state, theirs in BY_SLURM.items() if name in (theirs, str(state))}
        found |= {""} if name not in BY_SLURM.values() and name not in State.__members__ else set()  # Slurm's, which no job has here
    return found


def slurm_state(job: Json) -> str:
    """As Slurm would call it."""
    if job["state"] == "FAILED" and job["reason"].startswith("node failure"):
        return "NODE_FAIL"
    return "OUT_OF_MEMORY" if out_of_memory(job) else BY_SLURM[State(job["state"])]


def job_id(job: Json) -> str:
    """12, or 12_3 of an array."""
    return str(job["id"]) if job["array_job"] is None else f"{job['array_job']}_{job['array_index']}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which fields, and how wide each is at most (None: as wide as it needs; negative: to the left)."""

    columns: tuple[tuple[str, int | None], ...]

    @classmethod
    def of(cls, text: str) -> Layout:
        columns = []
        for piece in text.split(","):
            match = re.fullmatch(r"([A-Za-z]+)(?:%(-?[1-9][0-9]{0,3}))?", piece.strip())
            name = _CANONICAL.get(match[1].lower()) if match else None
            if match is None or name is None:
                near = difflib.get_close_matches(piece.strip().lower(), _CANONICAL, 1)
                hint = f"did you mean {_CANONICAL[near[0]]}?" if near else "trainmaster acct -e lists them"
                raise InputError(f"--format: no field {printable(piece.strip())!r}; {hint}")
            columns.append((name, int(match[2]) if match[2] else None))
        return cls(tuple(columns))

    @property
    def wants_requests(self) -> bool:
        return any(name in OF_THE_REQUEST for name, _ in self.columns)

    def cells(self, job: Json) -> list[str]:
        return [printable(FIELDS[name](job)) for name, _ in self.columns]

    def separated(self, jobs: Sequence[Json], delimiter: str, *, closed: bool, head: bool) -> str:
        heads = [[name for name, _ in self.columns]] if head else []
        rows = [*heads, *map(self.cells, jobs)]
        if delimiter:
            rows = [[cell.replace(delimiter, " ") for cell in row] for row in rows]
        lines = map(delimiter.join, rows)
        return "".join(f"{line}{delimiter if closed else ''}\n" for line in lines)

    def aligned(self, jobs: Sequence[Json], *, head: bool) -> str:
        heads = [[name for name, _ in self.columns]] if head else []
        cells = [self.cells(job) for job in jobs]
        widths = [
            abs(width) if width is not None else max((len(row[index]) for row in [*heads, *cells]), default=0)
            for index, (_, width) in enumerate(self.columns)
        ]
        rules = [["-" * width for width in widths]] if head else []
        return "".join(f"{self._line(row, widths)}\n" for row in [*heads, *rules, *cells])

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        padded = []
        for cell, width, (_, asked) in zip(row, widths, self.columns, strict=True):
            short = cell if len(cell) <= width else f"{cell[: width - 1]}+"  # as sacct marks what it cuts
            padded.append(short.ljust(width) if asked is not None and asked < 0 else short.rjust(width))
        return " ".join(padded)


def _by_id(client: Client, words: Sequence[str]) -> Iterator[Json]:
    """Of an array all jobs; what is not there is left out, as sacct does."""
    found: dict[int, Json] = {}
    plain = [int(word) for word in words if word.isascii() and word.isdecimal() and len(word) < 16]
    for first in range(0, len(plain), FEW):
        for job in client.jobs(ids=plain[first : first + FEW], all=True):
            found |= {other["id"]: other for other in members(client, job)}
    for word in words:
        if not word.isdecimal():
            with suppress(NotFound):
                ids = several(client, word) if INDEXED.fullmatch(word) else [one(client, word)]
                found |= {id: client.job(id) for id in ids}
    return iter(found[id] for id in sorted(found))


def _stamp(moment_s: float | None) -> str:
    """As SLURM_TIME_FORMAT says, if it does."""
    if moment_s is None:
        return "Unknown"
    return time.strftime(os.environ.get("SLURM_TIME_FORMAT") or "%Y-%m-%dT%H:%M:%S", time.localtime(moment_s))


def _limit_minutes(job: Json) -> str:
    return "UNLIMITED" if job["limit_s"] is None else str(math.ceil(job["limit_s"] / 60))


def _exit(job: Json) -> str:
    """code:signal; a shell's 128 + n is a signal n."""
    code = job["exit_code"] or 0
    return f"0:{code - 128}" if 128 < code <= 128 + 64 else f"{code}:0"


def _tres(job: Json, types: Sequence[str]) -> str:
    asked, gpus = job["asked"], f"{job['gpus']:g}"
    parts = [f"cpu={asked['cpus']:g}"] if asked["cpus"] else []
    parts += [f"gres/gpu={gpus}", *(f"gres/gpu:{kind}={gpus}" for kind in types)] if job["gpus"] else []
    parts += [f"mem={asked['memory_gib'] * 1024:.0f}M"] if asked["memory_gib"] else []
    return ",".join([*parts, f"node={max(1, len(job['nodes']))}"])


def elapsed_of_slurm(seconds: float) -> str:
    """[D-]HH:MM:SS"""
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3_600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


FIELDS: dict[str, Callable[[Json], str]] = {
    "JobID": job_id,
    "JobIDRaw": lambda job: str(job["id"]),
    "JobName": lambda job: job["name"],
    "User": lambda job: job["user"],
    "Account": lambda job: job["account"] or "",
    "Partition": lambda job: job["queue"] or "default",
    "QOS": lambda job: job["asked"]["qos"] or "",
    "Submit": lambda job: _stamp(job["submit_s"]),
    "Eligible": lambda job: _stamp(job["eligible_s"]),
    "Start": lambda job: _stamp(job["start_s"]),
    "End": lambda job: _stamp(job["finish_s"]),
    "Elapsed": lambda job: elapsed_of_slurm(job["run_s"]),
    "ElapsedRaw": lambda job: f"{job['run_s']:.0f}",
    "Timelimit": lambda job: "UNLIMITED" if job["limit_s"] is None else elapsed_of_slurm(job["limit_s"]),
    "TimelimitRaw": _limit_minutes,
    "State": slurm_state,
    "ExitCode": _exit,
    "NNodes": lambda job: str(max(1, len(job["nodes"]))),
    "NodeList": lambda job: ",".join(job["nodes"]) or "None assigned",
    "ReqTRES": lambda job: _tres(job, job["asked"]["gpu_types"]),
    "AllocTRES": lambda job: _tres(job, [job["gpu_type"]] if job["gpu_type"] else []) if job["start_s"] is not None else "",
    "AllocCPUS": lambda job: f"{math.ceil(job['asked']['cpus'])}",
    "NCPUS": lambda job: f"{math.ceil(job['asked']['cpus'])}",
    "ReqCPUS": lambda job: f"{math.ceil(job['asked']['cpus'])}",
    "ReqMem": lambda job: f"{job['asked']['memory_gib'] * 1024:.0f}M",
    "WorkDir": lambda job: job["asked"]["workdir"],
    "Priority": lambda job: f"{job['priority']:g}",
    "Reason": lambda job: job["reason"] or "None",
    "Comment": lambda job: job["labels"].get("comment", ""),
    "Restarts": lambda job: str(max(0, job["attempts"] - 1)),
    "GPUs": lambda job: f"{job['gpus']:g}",  # from here on ours
    "GPUTimeRaw": lambda job: f"{job['gpu_s']:.0f}",
    "Attempts": lambda job: str(job["attempts"]),
    "Preemptions": lambda job: str(job["preemptions"]),
    "LostSteps": lambda job: str(job["lost_steps"]),
    "Steps": lambda job: "" if job["step"] is None else str(job["step"]),
}
OF_THE_REQUEST = {"QOS", "ReqTRES", "AllocTRES", "AllocCPUS", "NCPUS", "ReqCPUS", "ReqMem", "WorkDir"}
_CANONICAL = {name.lower(): name for name in FIELDS}
