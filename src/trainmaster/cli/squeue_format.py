"""squeue's format strings: `%i %T`, `%.18i`, `%8j`. Of jobs that are or were here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from trainmaster.cli.accounting import elapsed_of_slurm, job_id
from trainmaster.cli.words import amount, elapsed, ran_s
from trainmaster.cluster.wording import printable
from trainmaster.errors import InputError
from trainmaster.live.client import Json

DEFAULT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
STATES = {
    "PENDING": ("PD", "PENDING"), "STARTING": ("CF", "CONFIGURING"), "RUNNING": ("R", "RUNNING"), "PREEMPTING": ("CG", "COMPLETING"),
    "SUSPENDED": ("S", "SUSPENDED"), "RESIZING": ("R", "RUNNING"), "RECOVERING": ("PD", "PENDING"), "COMPLETING": ("CG", "COMPLETING"),
    "SUCCEEDED": ("CD", "COMPLETED"), "FAILED": ("F", "FAILED"), "CANCELLED": ("CA", "CANCELLED"), "TIMEOUT": ("TO", "TIMEOUT"),
}  # fmt: skip
ITEM = re.compile(r"%(?:(\.)?([0-9]{1,4}))?([A-Za-z%])")


def _stamp(moment_s: float | None) -> str:
    return "N/A" if moment_s is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment_s))


def _where(job: Json, _: float) -> str:
    """The nodes, or in brackets why there are none."""
    return ",".join(job["nodes"]) if job["state"] not in ("PENDING", "RECOVERING") and job["nodes"] else f"({job['reason'] or 'None'})"


FIELDS: dict[str, tuple[str, Callable[[Json, float], str]]] = {
    "i": ("JOBID", lambda job, _: job_id(job)),
    "A": ("JOBID", lambda job, _: str(job["id"])),
    "F": ("ARRAY_JOB_ID", lambda job, _: str(job["array_job"] or job["id"])),
    "K": ("ARRAY_TASK_ID", lambda job, _: "N/A" if job["array_index"] is None else str(job["array_index"])),
    "P": ("PARTITION", lambda job, _: job["queue"] or "default"),
    "j": ("NAME", lambda job, _: job["name"]),
    "u": ("USER", lambda job, _: job["user"]),
    "a": ("ACCOUNT", lambda job, _: job["account"] or "(null)"),
    "t": ("ST", lambda job, _: STATES[job["state"]][0]),
    "T": ("STATE", lambda job, _: STATES[job["state"]][1]),
    "M": ("TIME", lambda job, now_s: elapsed(ran_s(job, now_s) or 0.0)),
    "l": ("TIME_LIMIT", lambda job, _: "UNLIMITED" if job["limit_s"] is None else elapsed_of_slurm(job["limit_s"])),
    "L": ("TIME_LEFT", lambda job, _: "UNLIMITED" if job["limit_s"] is None else elapsed_of_slurm(max(0.0, job["limit_s"] - job["run_s"]))),
    "D": ("NODES", lambda job, _: str(max(1, len(job["nodes"])))),
    "R": ("NODELIST(REASON)", _where),
    "N": ("NODELIST", lambda job, _: ",".join(job["nodes"])),
    "r": ("REASON", lambda job, _: job["reason"] or "None"),
    "b": ("TRES_PER_NODE", lambda job, _: f"gres/gpu:{amount(job['gpus'])}" if job["gpus"] else "N/A"),
    "Q": ("PRIORITY", lambda job, _: f"{job['priority']:g}"),
    "p": ("PRIORITY", lambda job, _: f"{job['priority']:g}"),
    "V": ("SUBMIT_TIME", lambda job, _: _stamp(job["submit_s"])),
    "S": ("START_TIME", lambda job, _: _stamp(job["start_s"] if job["start_s"] is not None else job["eta_s"])),
    "e": ("END_TIME", lambda job, _: _stamp(job["finish_s"])),
    "k": ("COMMENT", lambda job, _: job["labels"].get("comment", "(null)")),
    "E": ("DEPENDENCY", lambda job, _: ",".join(job["after"]) or "(null)"),
    "%": ("%", lambda *_: "%"),
}


def listing(jobs: Sequence[Json], form: str, now_s: float, *, head: bool) -> str:
    if "%" in ITEM.sub("", form):
        raise InputError(f"--format: {form!r}: after % come a width and a letter, e.g. %.18i")
    for match in ITEM.finditer(form):
        if match[3] not in FIELDS:
            raise InputError(f"--format: %{match[3]} is not known here; {' '.join(f'%{letter}' for letter in FIELDS)} are")
    lines = [ITEM.sub(lambda match: _fitted(FIELDS[match[3]][0], match), form)] if head else []
    lines += [ITEM.sub(lambda match, job=job: _fitted(printable(FIELDS[match[3]][1](job, now_s)), match), form) for job in jobs]  # type: ignore[misc]
    return "".join(f"{line}\n" for line in lines)


def _fitted(text: str, match: re.Match[str]) -> str:
    """%.5x: to the right in 5 columns; %5x: to the left; cut where it is longer."""
    if match[2] is None:
        return text
    width = int(match[2])
    return text[:width].rjust(width) if match[1] else text[:width].ljust(width)
