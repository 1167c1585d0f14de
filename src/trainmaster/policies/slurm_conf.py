"""What a site's slurm.conf says about order and backfill: slurm.conf(5), release 22.05.

Read: PriorityType, PriorityWeight*, PriorityMaxAge, PriorityDecayHalfLife, PriorityCalcPeriod, PriorityFavorSmall, PriorityFlags,
FairShareDampeningFactor, SchedulerType, of SchedulerParameters what the policy has a parameter for, and of each PartitionName line
PriorityJobFactor, PriorityTier, DefaultTime and MaxTime. All else says nothing about the order in which jobs start, or is not here:
it is counted. Names are read in any case; the last of two wins; a line that ends in a backslash goes on in the next.

A file is read as it lies there: `Include` would name another, and is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainmaster.errors import ParamError
from trainmaster.policies.base import ParamsFile

MOST_BYTES = 4 << 20
MOST_PARTITIONS = 10_000
MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0

# Names as the policy has them, by the name in lower case.
NUMBERS = {name.lower(): name for name in (
    "PriorityWeightAge", "PriorityWeightFairshare", "PriorityWeightJobSize", "PriorityWeightPartition", "PriorityWeightQOS",
    "FairShareDampeningFactor", "PriorityCalcPeriod",
)}  # fmt: skip
TIMES = {name.lower(): name for name in ("PriorityMaxAge", "PriorityDecayHalfLife")}
LISTS = {name.lower(): name for name in ("PriorityWeightTRES", "PriorityFlags")}  # of which FLAGS and TRES are known
WORDS = {name.lower(): name for name in ("PriorityType", "SchedulerType", "Epilog")}
SCHEDULER = (
    "bf_interval", "bf_window", "bf_max_job_test", "bf_resolution", "default_queue_depth", "batch_sched_delay", "sched_min_interval",
)  # fmt: skip
FLAGS = ("NO_FAIR_TREE", "SMALL_RELATIVE_TO_TIME")
TRES = ("cpu", "mem", "node", "gres/gpu")
PARTITION = {name.lower(): name for name in ("PriorityJobFactor", "PriorityTier", "DefaultTime", "MaxTime")}

TIME = re.compile(r"(?:(?P<days>\d{1,6})-)?(?P<first>\d{1,9})(?::(?P<second>\d{1,9}))?(?::(?P<third>\d{1,9}))?")


class SlurmConf(ParamsFile):
    """A parameter that is a slurm.conf."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One PartitionName line, or what such a line leaves out."""

    job_factor: float = 1.0
    tier: float = 1.0
    default_s: float = float("inf")  # limit of a job that names none; inf = the longest allowed
    most_s: float = float("inf")


def time_s(text: str, where: str) -> float:
    """Seconds of a time as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]], a word."""
    if text.upper() in ("INFINITE", "UNLIMITED"):
        return float("inf")
    match = TIME.fullmatch(text)
    if not match:
        raise ParamError(f"{where}: {text!r} is not a time as Slurm writes it (minutes, H:MM:SS, D-HH[:MM[:SS]], UNLIMITED)")
    days, *rest = match.groups()
    first, *others = [float(part) for part in rest if part is not None]
    hours_first = days is not None or len(others) == 2
    units = (HOUR_S, MINUTE_S, 1.0) if hours_first else (MINUTE_S, 1.0)
    return float(days or 0) * DAY_S + sum(part * unit for part, unit in zip((first, *others), units, strict=False))


def parse_partitions(lines: tuple[str, ...], where: str) -> dict[str, Partition]:
    """`PartitionName=NAME KEY=VALUE...`, in order: what DEFAULT says holds for those after it."""
    found: dict[str, Partition] = {}
    default = Partition()
    for line in lines:
        values = {key.lower(): value for key, value in _pairs(line)}
        name = values.pop("partitionname", "")
        if not name:
            raise ParamError(f"{where}: {line!r} has no PartitionName=")
        if unknown := next((key for key in values if key not in PARTITION), None):
            raise ParamError(f"{where}: {name}: no {unknown} here; there are {', '.join(PARTITION.values())}")
        partition = Partition(
            number(values.get("priorityjobfactor", str(default.job_factor)), f"{where}: {name}: PriorityJobFactor"),
            number(values.get("prioritytier", str(default.tier)), f"{where}: {name}: PriorityTier"),
            time_s(values["defaulttime"], f"{where}: {name}: DefaultTime") if "defaulttime" in values else default.default_s,
            time_s(values["maxtime"], f"{where}: {name}: MaxTime") if "maxtime" in values else default.most_s,
        )
        if name.upper() == "DEFAULT":
            default = partition
        else:
            found[name] = partition
    return found


def number(text: str, where: str) -> float:
    if not re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", text):
        raise ParamError(f"{where}: {text!r} is not a number")
    return float(text)


def parse_conf(data: bytes, path: str, where: str) -> SlurmConf:
    """`where` is the flag, for the messages of what cannot be told by its line."""
    if len(data) > MOST_BYTES:
        raise ParamError(f"{where}: {path}: more than {MOST_BYTES >> 20} MiB; is this a slurm.conf?")
    params: dict[str, Any] = {}
    partitions: list[str] = []
    ignored: Counter[str] = Counter()
    pairs = 0
    for at, line in _lines(data.decode("utf-8", "replace")):
        here = f"{path}:{at}"
        if line.split(None, 1)[0].lower() == "include":
            raise ParamError(f"{here}: Include: only one file is read; write what it includes into it")
        found = list(_pairs(line))
        pairs += len(found)
        if found and found[0][0].lower() == "partitionname":
            kept = [f"PartitionName={found[0][1]}"]
            kept += [f"{PARTITION[key.lower()]}={value}" for key, value in found[1:] if key.lower() in PARTITION]
            ignored.update(f"PartitionName {key}" for key, _ in found[1:] if key.lower() not in PARTITION)
            partitions.append(" ".join(kept))
            parse_partitions((partitions[-1],), here)  # refused where it stands
            continue
        for key, value in found:
            _read(key.lower(), value, here, params, ignored, key)
    if not pairs:
        raise ParamError(f"{where}: {path}: not one KEY=VALUE; is this a slurm.conf?")
    if len(partitions) > MOST_PARTITIONS:
        raise ParamError(f"{where}: {path}: more than {MOST_PARTITIONS:,} partitions")
    if partitions:
        params["partitions"] = tuple(partitions)
    return SlurmConf(params=params, ignored=dict(ignored), path=path, sha256=hashlib.sha256(data).hexdigest())


def _read(key: str, value: str, here: str, params: dict[str, Any], ignored: Counter[str], as_written: str) -> None:
    if key in NUMBERS:
        params[NUMBERS[key]] = number(value, f"{here}: {as_written}")
    elif key in TIMES:
        time_s(value, f"{here}: {as_written}")
        params[TIMES[key]] = value
    elif key in LISTS:
        parts = [part for part in value.split(",") if part]
        known = [part for part in parts if part.upper() in FLAGS or part.partition("=")[0].lower() in TRES]
        params[LISTS[key]] = tuple(known)
        ignored.update(f"{LISTS[key]} {part.partition('=')[0]}" for part in parts if part not in known)
    elif key in WORDS:
        params[WORDS[key]] = value
    elif key == "priorityfavorsmall":
        if value.upper() not in ("YES", "NO"):
            raise ParamError(f"{here}: {as_written}: {value!r} is not YES or NO")
        params["PriorityFavorSmall"] = value.upper() == "YES"
    elif key == "schedulerparameters":
        for part in filter(None, value.split(",")):
            name, _, amount = part.partition("=")
            if name == "defer":
                params["defer"] = True
            elif name in SCHEDULER:
                params[name] = int(number(amount, f"{here}: {name}"))
            else:
                ignored[f"SchedulerParameters {name}"] += 1
    else:
        ignored[as_written] += 1


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, text without comment) of every line that says something."""
    begun, before = 0, ""
    for at, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(?<!\\)#.*", "", raw).rstrip()
        begun = begun if before else at
        if line.endswith("\\"):
            before += line[:-1]
            continue
        whole, before = (before + line).strip(), ""
        if whole:
            yield begun, whole
    if before.strip():
        yield begun, before.strip()


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """KEY=VALUE, a value perhaps in quotes."""
    for match in re.finditer(r"""([A-Za-z_][\w/.:-]*)\s*=\s*("[^"]*"|\S+)""", line):
        yield match[1], match[2].strip('"')
