"""A Slurm cluster as it is: the output of `scontrol show node -o` (the form without -o is read too).

becomes   NodeName -> name;  Gres gpu[:TYPE][:N] -> gpus, type;  CPUEfctv, else CPUTot -> cpus;
          RealMemory less MemSpecLimit (MiB) -> memory_gib, not declared where Slurm has its default of 1;
          Partitions -> queues, unless every node is in the same ones: then the cluster is one pool
left out  nodes that Slurm gives no job: down, draining, failing, in no partition. They are counted by reason in
          Cluster.left_out. Powered-down and reserved nodes are capacity, and stay
split     a node with two GPU types is a row a type (named NODE/TYPE), CPUs and memory in proportion to GPUs
absent    racks and NVLink islands: scontrol does not know them
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.cluster.limits import check_size, checked_text, checked_type
from trainmaster.cluster.wording import quoted
from trainmaster.errors import ClusterError

_GIVE = "give the output of one `scontrol show node -o`"
_RECORD = re.compile(r"^NodeName=", re.MULTILINE)
# State=DOWN*+DRAIN: a base state, a one-character mark (* = not responding), then flags
_UNUSABLE = {
    "down": {"DOWN", "ERROR", "FUTURE", "UNKNOWN", "INVAL", "INVALID_REG", "NO_RESPOND", "NOT_RESPONDING"},
    "draining": {"DRAIN", "DRAINED", "DRAINING"},
    "failing": {"FAIL", "FAILING"},
}


def is_scontrol(text: str) -> bool:
    return _RECORD.search(text) is not None


def cluster_from_scontrol(text: str, where: str) -> Cluster:
    names: set[str] = set()
    found: list[list[Node]] = []  # the rows of each usable node
    left_out: Counter[str] = Counter()
    for record in _records(text, where):
        name = checked_text(record.text("NodeName"), record.at("NodeName"))
        if name in names:
            raise ClusterError(f"{record.at('NodeName')}: {quoted(name)} is listed twice; {_GIVE}")
        names.add(name)
        check_size(len(names), 0, where)
        if reason := _unusable(record):
            left_out[reason] += 1
        else:
            found.append(_rows(record, name))
    placed = [rows for rows in found if rows[0].queues]
    if placed and len(placed) < len(found):  # a listing without any partition is one pool
        left_out["in no partition"] = len(found) - len(placed)
        found = placed
    nodes = [node for rows in found for node in rows]
    if not nodes:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ClusterError(f"{where}: no node can run a job ({reasons}); give a listing with nodes that are up")
    if len({frozenset(node.queues) for node in nodes}) == 1:
        nodes = [replace(node, queues=()) for node in nodes]
    cluster = Cluster.of(nodes)
    check_size(len(nodes), cluster.gpus, where)
    return replace(cluster, left_out=dict(left_out))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One node of a listing, usable or not."""

    name: str
    address: str
    rows: tuple[Node, ...]  # one a GPU type
    unusable: str | None  # why Slurm would start nothing on it
    state: str  # in Slurm's words
    used_gpus: Mapping[str, int]  # by type; of `scontrol show node -d`
    spelled: Mapping[str, str]  # GPU type here -> as Slurm wants it in a request
    partitions: tuple[str, ...]


def nodes_listed(text: str, where: str) -> list[Listed]:
    """Every node, for who watches a cluster that changes. Nodes that can hold no job at all (no CPUs, no GPUs) are left out."""
    found: list[Listed] = []
    for record in _records(text, where) if is_scontrol(text) else ():
        name = checked_text(record.text("NodeName"), record.at("NodeName"))
        check_size(len(found), 0, where)
        gpus = _gpus(record)
        if not gpus and not record.number("CPUTot"):
            continue
        rows = _rows(record, name)
        found.append(Listed(
            name=name, address=record.text("NodeAddr") or name, rows=tuple(replace(row, queues=()) for row in rows),
            unusable=_unusable(record), state=record.text("State"), used_gpus=_gpus(record, "GresUsed"),
            spelled=_spelled(record), partitions=rows[0].queues,
        ))  # fmt: skip
    return found


class _Record:
    """The KEY=VALUE pairs of one node. Only a key's first appearance counts: free text (Comment, Reason) comes last."""

    def __init__(self, content: str, where: str) -> None:
        self._content, self._where = content, where

    def at(self, key: str) -> str:
        return f"{self._where}: {key}"

    def text(self, key: str) -> str:
        found = re.search(rf"(?<!\S){key}=(\S*)", self._content)
        return "" if found is None or found[1] in ("(null)", "N/A") else found[1]

    def number(self, key: str) -> float | None:
        value = self.text(key)
        if not value:
            return None
        if not re.fullmatch(r"[0-9]{1,15}", value):
            raise ClusterError(f"{self.at(key)}: {quoted(value)} is not a whole number; {_GIVE}")
        return float(value)


def _records(text: str, where: str) -> Iterator[_Record]:
    starts = [match.start() for match in _RECORD.finditer(text)]
    line, counted_to = 1, 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        line, counted_to = line + text.count("\n", counted_to, start), start
        yield _Record(text[start:end], f"{where}:{line}")


def _unusable(record: _Record) -> str | None:
    """Why Slurm would start nothing on this node; None if it would."""
    state = record.text("State").upper()
    flags = {flag.rstrip("*~#!%$@^-") for flag in state.split("+")} | ({"NOT_RESPONDING"} if "*" in state else set())
    return next((reason for reason, names in _UNUSABLE.items() if flags & names), None)


def _rows(record: _Record, name: str) -> list[Node]:
    gpus = _gpus(record)
    total_gpus = sum(gpus.values())
    effective = record.number("CPUEfctv")
    cpus = record.number("CPUTot") if effective is None else effective
    memory_mib = record.number("RealMemory")
    memory_gib = None
    if memory_mib is not None and memory_mib > 1:
        memory_gib = max(0.0, memory_mib - (record.number("MemSpecLimit") or 0)) / 1024
    queues = tuple(checked_text(queue, record.at("Partitions")) for queue in record.text("Partitions").split(",") if queue.strip())
    if not total_gpus and not cpus:
        raise ClusterError(f"{record.at('NodeName')}: {quoted(name)} has neither CPUs nor GPUs; {_GIVE}")
    whole = Node(gpus=total_gpus, type=next(iter(gpus), ""), cpus=cpus, memory_gib=memory_gib, name=name, queues=queues)
    if len(gpus) < 2:
        return [whole]
    return [
        replace(
            whole,
            gpus=count,
            type=type_name,
            name=f"{name}/{type_name or 'untyped'}",
            cpus=None if cpus is None else cpus * count / total_gpus,
            memory_gib=None if memory_gib is None else memory_gib * count / total_gpus,
        )
        for type_name, count in gpus.items()
    ]


def _gpus(record: _Record, key: str = "Gres") -> dict[str, int]:
    """GPUs by type: Gres=gpu:a100:4(S:0-1),gpu:v100:4(S:1),mps:400."""
    counts: dict[str, int] = {}
    for spelled, count in _gpu_entries(record, key):
        type_name = checked_type(spelled, record.at(key)) if spelled else ""
        if count:
            counts[type_name] = counts.get(type_name, 0) + count
    return counts


def _spelled(record: _Record) -> dict[str, str]:
    return {checked_type(spelled, record.at("Gres")) if spelled else "": spelled for spelled, _ in _gpu_entries(record, "Gres")}


def _gpu_entries(record: _Record, key: str) -> Iterator[tuple[str, int]]:
    """(type as Slurm spells it, count). GresUsed writes a type that is none as `(null)`."""
    for entry in re.sub(r"\([^)]*\)", "", record.text(key)).split(","):
        resource, *parts = entry.split(":")
        if resource != "gpu":
            continue  # mps, shard, craynetwork...
        parts = [part for part in parts if part not in ("", "no_consume")]
        count = int(parts.pop()) if parts and re.fullmatch(r"[0-9]{1,9}", parts[-1]) else 1
        spelled = parts.pop() if parts else ""
        if parts:
            raise ClusterError(f"{record.at(key)}: {quoted(entry)} is not gpu[:TYPE]:COUNT; {_GIVE}")
        yield spelled, count
