"""Slurm's commands that only look: what an ordinary user may ask of a cluster without changing anything there.

    scontrol show config       what is accounted for, what is private, how jobs are ordered
    scontrol show partition    how partitions are
    scontrol show node         the nodes, and how many GPUs are given out on each
    squeue                     the jobs that can be seen, those that ended within the last minutes among them
    sacct                      those of the past, where there is accounting

Each is an argv with a time limit and a bound on what it may print; nothing goes through a shell. Times come as Unix seconds.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from trainmaster.cluster.wording import printable
from trainmaster.errors import BackendError, InputError
from trainmaster.live.backends.slurm_calling import PrintedTooMuch, pour
from trainmaster.live.backends.slurm_commands import KEPT
from trainmaster.live.submission.durations import duration_s
from trainmaster.live.submission.moments import moment_s
from trainmaster.workload.traces.sacct import FIELDS

LOOK_S = 15.0
MOST_BYTES = 512 << 20  # two million jobs of sacct's
# a suffix after each field: what is in none of them, so that they are neither padded nor cut; no field is text that a user chose
QUEUE = ("JobID", "State", "UserName", "Account", "Partition", "QOS", "SubmitTime", "EligibleTime", "StartTime", "EndTime", "TimeUsed",
         "TimeLimit", "NumNodes", "NumCPUs", "NumTasks", "tres-alloc", "tres-per-job", "tres-per-node", "tres-per-task",
         "NodeList")  # fmt: skip
QUEUE_FORMAT = ",".join(f"{name}:|" for name in QUEUE)

# of the order in which jobs start: what a slurm.conf would say of it
ORDER = re.compile(
    r"Priority(Type|Weight\w+|MaxAge|DecayHalfLife|CalcPeriod|FavorSmall|Flags)|FairShareDampeningFactor|Scheduler(Type|Parameters)|Epilog"
)
PARTITION = ("PartitionName", "PriorityJobFactor", "PriorityTier", "DefaultTime", "MaxTime")
NO_VALUE = ("", "(null)", "NONE", "N/A")

_SETTING = re.compile(r"^(\S+)\s*= ?(.*)$", re.MULTILINE)
_AGO = re.compile(r"[0-9]+(\.[0-9]+)?[smhdw]")


class TookTooLong(BackendError):
    """No end within the time limit: a narrower question may have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What `scontrol show config` says of what can be known here."""

    cluster: str
    version: str
    private: tuple[str, ...]  # of PrivateData, in lower case
    accounting: bool  # there is a slurmdbd
    accounts_gpus: bool  # and it counts GPUs
    job_age_s: float  # so long does squeue show a job that has ended
    order: Mapping[str, str]  # its settings that say in which order jobs start

    @classmethod
    def of(cls, text: str) -> Site:
        told: dict[str, str] = {}
        for name, value in _SETTING.findall(text):
            told.setdefault(name, value.strip())
        if "ClusterName" not in told:
            raise BackendError("scontrol show config: names no ClusterName; is it Slurm's?")
        private = tuple(word for word in told.get("PrivateData", "none").lower().split(",") if word not in ("none", "(null)", ""))
        age = re.match(r"[0-9]{1,9}", told.get("MinJobAge", ""))
        return cls(
            cluster=printable(told["ClusterName"])[:80], version=printable(told.get("SLURM_VERSION", "?"))[:40], private=private,
            accounting=told.get("AccountingStorageType", "").endswith("slurmdbd"),
            accounts_gpus="gres/gpu" in told.get("AccountingStorageTRES", "").split(","), job_age_s=float(age[0]) if age else 300.0,
            order={name: value for name, value in told.items() if ORDER.fullmatch(name) and value not in NO_VALUE and value.isprintable()},
        )  # fmt: skip


class Reading:
    def __init__(self) -> None:
        self._env = {name: os.environ[name] for name in KEPT if name in os.environ} | {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}

    def site(self) -> Site:
        return Site.of(self._text(["scontrol", "show", "config"]))

    def nodes(self) -> str:
        return self._text(["scontrol", "show", "node", "-d", "-o"])

    def partitions(self) -> str:
        return self._text(["scontrol", "show", "partition", "-o"])

    def queue(self) -> str:
        """A line a job, a pending array's elements each; the ended ones of the last minutes too."""
        return self._text(["squeue", "-h", "-a", "-r", "-t", "all", "-O", QUEUE_FORMAT])

    def accounting(self, since_s: float, into: IO[bytes], within_s: float) -> None:
        """Every job that was there at `since_s` or later."""
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since_s))
        self._pour(["sacct", "-a", "-X", "-P", "-S", since, "-o", ",".join(FIELDS)], into, within_s)

    def _text(self, argv: list[str]) -> str:
        into = io.BytesIO()
        self._pour(argv, into, LOOK_S)
        return into.getvalue().decode(errors="replace")

    def _pour(self, argv: Sequence[str], into: IO[bytes], within_s: float) -> None:
        what = shlex.join(argv[:3] if argv[0] == "scontrol" else argv[:1])
        try:
            status, said = pour(argv, self._env, into, within_s, MOST_BYTES)
        except PrintedTooMuch:
            raise BackendError(f"{what}: printed more than {MOST_BYTES >> 20} MiB; ask for less (--since)") from None
        except subprocess.TimeoutExpired:
            raise TookTooLong(f"{what}: no end within {within_s:g} s; is Slurm up (scontrol ping), is the question too large?") from None
        if status:
            raise BackendError(f"{what}: {printable(said)}")


def slurm_conf(site: Site, partitions: str) -> str:
    """What `scontrol show config` and `scontrol show partition -o` tell, as the slurm.conf that says the same of the order of jobs."""
    lines = []
    for name, value in site.order.items():
        minutes = name == "PriorityCalcPeriod" and ":" in value  # in the file they are bare
        lines.append(f"{name}={duration_s(value, name) / 60:.0f}" if minutes else f"{name}={value}")
    for line in partitions.splitlines():
        told: dict[str, str] = {}
        for word in line.split():
            key, _, value = word.partition("=")
            told.setdefault(key, value)
        kept = [f"{key}={told[key]}" for key in PARTITION if told.get(key, "") not in NO_VALUE and told[key].isprintable()]
        lines += [" ".join(kept)] if told.get("PartitionName") else []
    return "".join(f"{line}\n" for line in lines)


def since_s(text: str, now_s: float) -> float:
    """Unix seconds of `30d` (ago), or of a time as Slurm's commands take one (`2026-11-01`, `now-7days`)."""
    word = text.strip().lower()
    found_s = now_s - duration_s(word, "--since") if _AGO.fullmatch(word) else moment_s(text, "--since", now_s, ahead=False)
    if not 0 <= found_s < now_s:
        raise InputError(f"--since: {text!r} is not in the past; e.g. 30d, 2026-11-01, now-7days")
    return found_s
