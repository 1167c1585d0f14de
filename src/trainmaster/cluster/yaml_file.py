"""A cluster as a YAML file: what `--cluster FILE.yaml` takes.

    nodes:
      - {count: 10, gpus: 8, type: v100, cpus: 64, memory_gib: 512, rack: r1, queues: [vc6YE]}
    queues:
      research: {quota_gpus: 64, weight: 2, borrow: true}
    timeline:
      - {at_s: 3600, add: {count: 4, gpus: 8, type: t4, label: loaned}}
      - {at_s: 7200, remove: {count: 2, label: loaned, notice_s: 600}}
    autoscale:
      - {max_nodes: 12, gpus: 8, type: v100, label: cloud, start_up_s: 300}

Rows are the nodes in the order of the file, then those that the timeline adds, in the order in which they join. A removal
takes nodes of that label that are present then, the last to join first (a loan goes back before what it was lent to); a
node that left does not come back, a later `add` makes a new row. Changes of one instant act in the order of the file,
an entry's removal before its addition. With `notice_s`, policies know of a removal so long before, and may choose others of the
label. `autoscale` is what a policy may ask for beyond that (pollux, say): up to `max_nodes` more, each there `start_up_s` later.

"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal, overload

import numpy as np

from trainmaster.cluster.cluster import Autoscale, CapacityChange, Cluster, Node, QueueSpec
from trainmaster.cluster.limits import MAX_GPUS, MAX_NODES, check_size, checked_text, checked_type
from trainmaster.cluster.wording import did_you_mean, quoted
from trainmaster.cluster.yaml_tree import Value, Wanted
from trainmaster.errors import ClusterError

_EITHER = "give a YAML file with `nodes:`, or the output of `scontrol show node -o`"
_WANTED = Wanted(
    error=ClusterError,
    thing="a cluster",
    give=_EITHER,
    too_large="say `count: N` for nodes that are alike",
    empty="give nodes, e.g. nodes: [{count: 16, gpus: 4, type: v100}]",
)
_FILE = ("nodes", "queues", "timeline", "autoscale")
_NODE = ("count", "gpus", "type", "cpus", "memory_gib", "rack", "queue", "queues", "pooled", "label", "name", "island_gpus")
_QUEUE = ("quota_gpus", "weight", "borrow")
_CHANGE = ("at_s", "add", "remove")
_REMOVAL = ("count", "label", "notice_s")
_AUTOSCALE = ("max_nodes", "start_up_s", *(field for field in _NODE if field not in ("count", "name")))


def cluster_from_yaml(text: str, where: str) -> Cluster:
    file = _Fields(_WANTED.parse(text, where), where, "", _FILE)
    rows = _Rows()
    for value, path in file.list_of("nodes"):
        rows.join(_Fields(value, where, path, _NODE))
    if not rows.nodes:
        raise ClusterError(f"{file.at('nodes')}: no nodes; e.g. nodes: [{{count: 16, gpus: 4, type: v100}}]")
    present = len(rows.nodes)
    changes = [_Fields(value, where, path, _CHANGE) for value, path in file.list_of("timeline")]
    timeline = tuple(_change(change, rows) for change in sorted(changes, key=lambda change: change.number("at_s", required=True)))
    queues = {name: _queue(_Fields(value, where, path, _QUEUE)) for name, value, path in file.mapping_of("queues")}
    autoscale = tuple(_autoscale(_Fields(value, where, path, _AUTOSCALE), rows) for value, path in file.list_of("autoscale"))
    names = [entry.name for entry in autoscale]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ClusterError(f"{file.at('autoscale')}: two entries {quoted(repeated[0])}; give each a label of its own")
    return Cluster(nodes=tuple(rows.nodes), present=np.arange(len(rows.nodes)) < present, queues=queues, timeline=timeline,
                   autoscale=autoscale)  # fmt: skip


@dataclass(slots=True)
class _Rows:
    """The rows made so far, and those that are present, by label, in the order in which they joined."""

    nodes: list[Node] = field(default_factory=list)
    gpus: int = 0
    names: set[str] = field(default_factory=set)
    present: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def join(self, group: _Fields) -> tuple[int, ...]:
        return self.add(group, group.whole("count", default=1, at_least=1, at_most=MAX_NODES), "count")

    def add(self, group: _Fields, count: int, counted_by: str) -> tuple[int, ...]:
        node = _node(group)
        if node.name is not None:
            if count > 1:
                raise ClusterError(f"{group.at('name')}: {count} nodes of one name; give each its own entry, or use `label`")
            if node.name in self.names:
                raise ClusterError(f"{group.at('name')}: {quoted(node.name)} is the name of an earlier node; names are unique")
            self.names.add(node.name)
        self.gpus += count * node.gpus
        check_size(len(self.nodes) + count, self.gpus, group.at(counted_by))
        joined = tuple(range(len(self.nodes), len(self.nodes) + count))
        self.nodes.extend([node] * count)
        if node.label is not None:
            self.present[node.label].extend(joined)
        return joined

    def leave(self, removal: _Fields, at_s: float) -> tuple[int, ...]:
        count, label = removal.whole("count", at_least=1, at_most=MAX_NODES), removal.text("label")
        if label is None:
            raise ClusterError(f"{removal.at('label')}: is missing; give the nodes that may leave a label, and name it here")
        here = self.present.get(label, [])
        if count > len(here):
            hint = "" if label in self.present else f"; {did_you_mean(label, self.present)}" if self.present else "; no node has a label"
            problem = f"to remove {count}, but nodes labelled {quoted(label)} present at {at_s:g} s: {len(here)}"
            raise ClusterError(f"{removal.at('count')}: {problem}{hint}")
        leaving, here[-count:] = tuple(reversed(here[-count:])), []
        return leaving


def _node(fields: _Fields) -> Node:
    gpus = fields.whole("gpus", at_least=0, at_most=MAX_GPUS)
    cpus, name = fields.number("cpus"), fields.text("type")
    if gpus == 0 and not cpus:
        raise ClusterError(f"{fields.at('gpus')}: a node of no GPUs and no CPUs; e.g. gpus: 8, or cpus: 64 for a CPU node")
    if fields.has("queue") and fields.has("queues"):
        raise ClusterError(f"{fields.at('queue')}: `queue: x` is short for `queues: [x]`; give one of them")
    queue = fields.text("queue")
    return Node(
        gpus=gpus,
        type="" if name is None else checked_type(name, fields.at("type")),
        cpus=cpus,
        memory_gib=fields.number("memory_gib"),
        name=fields.text("name"),
        rack=fields.text("rack"),
        island_gpus=fields.whole("island_gpus", at_least=1, at_most=gpus) if fields.has("island_gpus") else None,
        queues=fields.texts("queues") if queue is None else (queue,),
        pooled=fields.flag("pooled"),
        label=fields.text("label"),
    )


def _queue(fields: _Fields) -> QueueSpec:
    weight = fields.number("weight") if fields.has("weight") else 1.0
    if not weight:
        raise ClusterError(f"{fields.at('weight')}: a weight of 0 is no share; give a number above 0, e.g. weight: 1")
    return QueueSpec(quota_gpus=fields.number("quota_gpus"), weight=weight, borrow=fields.flag("borrow"))


def _change(fields: _Fields, rows: _Rows) -> CapacityChange:
    at_s = fields.number("at_s", required=True)
    if not fields.has("add") and not fields.has("remove"):
        raise ClusterError(f"{fields.at('at_s')}: neither `add` nor `remove`; e.g. add: {{count: 4, gpus: 8, label: loaned}}")
    removal = fields.inner("remove", _REMOVAL) if fields.has("remove") else None
    remove = rows.leave(removal, at_s) if removal else ()
    add = rows.join(fields.inner("add", _NODE)) if fields.has("add") else ()
    return CapacityChange(at_s=at_s, add=add, remove=remove, notice_s=removal.number("notice_s") or 0.0 if removal else 0.0)


def _autoscale(fields: _Fields, rows: _Rows) -> Autoscale:
    nodes = rows.add(fields, fields.whole("max_nodes", at_least=1, at_most=MAX_NODES), "max_nodes")
    node = rows.nodes[nodes[0]]
    return Autoscale(name=node.label or node.type, nodes=nodes, start_up_s=fields.number("start_up_s", required=True))


class _Fields:
    """One mapping of the file, asked for by field; a key that is not `known` is a typo."""

    def __init__(self, value: Value, where: str, path: str, known: tuple[str, ...]) -> None:
        self._where, self._path, self._line = where, path, value.line
        self._values = self._mapping(value, path, f"its fields are {', '.join(known)}" if path else _EITHER)
        for key in self._values:
            if key not in known:
                raise ClusterError(f"{self.at(key)}: no such field; {did_you_mean(key, known)}")

    def at(self, key: str) -> str:
        line = self._values[key].line if key in self._values else self._line
        return f"{self._where}:{line}: {self._join(key)}"

    def has(self, key: str) -> bool:
        return key in self._values and self._values[key].content is not None

    def text(self, key: str) -> str | None:
        if not self.has(key):
            return None
        content = self._values[key].content
        if not isinstance(content, str):
            raise ClusterError(f"{self.at(key)}: is a {self._values[key].kind}; give one name")
        return checked_text(content, self.at(key))

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.list_of(key)
        if self.has(key) and not values:
            raise ClusterError(f"{self.at(key)}: is empty; leave it out if any job may run here")
        for value, _ in values:
            if not isinstance(value.content, str):
                raise ClusterError(f"{self.at(key)}: holds a {value.kind}; give a list of names, e.g. [vc1, vc2]")
        return tuple(dict.fromkeys(checked_text(str(value.content), self.at(key)) for value, _ in values))

    def flag(self, key: str) -> bool:
        text = (self.text(key) or "false").lower()
        if text not in ("true", "yes", "on", "false", "no", "off"):
            raise ClusterError(f"{self.at(key)}: {quoted(text)} is neither true nor false")
        return text in ("true", "yes", "on")

    def whole(self, key: str, *, at_least: int, at_most: int, default: int | None = None) -> int:
        text = self.text(key)
        if text is None:
            if default is None:
                raise ClusterError(f"{self.at(key)}: is missing; e.g. {key}: 4")
            return default
        try:
            value = int(text)
        except ValueError:
            raise ClusterError(f"{self.at(key)}: {quoted(text)} is not a whole number; e.g. {key}: 4") from None
        if not at_least <= value <= at_most:
            raise ClusterError(f"{self.at(key)}: {quoted(text)} is out of range; give {at_least} to {at_most:,}")
        return value

    @overload
    def number(self, key: str, *, required: Literal[True]) -> float: ...
    @overload
    def number(self, key: str) -> float | None: ...
    def number(self, key: str, *, required: bool = False) -> float | None:
        text = self.text(key)
        if text is None:
            if required:
                raise ClusterError(f"{self.at(key)}: is missing; e.g. {key}: 3600")
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise ClusterError(f"{self.at(key)}: {quoted(text)} is not a number of at least 0; e.g. {key}: 64")
        return value

    def list_of(self, key: str) -> list[tuple[Value, str]]:
        """The items of a list, each with its path; none if the field is absent."""
        if not self.has(key):
            return []
        content = self._values[key].content
        if not isinstance(content, list):
            raise ClusterError(f"{self.at(key)}: is a {self._values[key].kind}; give a list: [...], or lines that begin with `- `")
        return [(value, f"{self._join(key)}[{index}]") for index, value in enumerate(content)]

    def mapping_of(self, key: str) -> list[tuple[str, Value, str]]:
        """The entries of a mapping whose keys are names, each with its path; an entry of nothing is an empty mapping."""
        if not self.has(key):
            return []
        entries = self._mapping(self._values[key], self._join(key), "e.g. queues: {research: {quota_gpus: 64}}")
        return [
            (checked_text(name, self.at(key)), Value({}, value.line) if value.content is None else value, f"{self._join(key)}.{name}")
            for name, value in entries.items()
        ]

    def inner(self, key: str, known: tuple[str, ...]) -> _Fields:
        return _Fields(self._values[key], self._where, self._join(key), known)

    def _join(self, key: str) -> str:
        name = key if key.isidentifier() else quoted(key)
        return f"{self._path}.{name}" if self._path else name

    def _mapping(self, value: Value, path: str, hint: str) -> dict[str, Value]:
        if not isinstance(value.content, dict):
            place = f"{self._where}:{value.line}: {path}: " if path else f"{self._where}:{value.line}: "
            raise ClusterError(f"{place}is a {value.kind}, not a mapping; {hint}")
        return value.content
