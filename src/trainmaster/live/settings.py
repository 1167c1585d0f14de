"""What `trainmaster up` is told, by flags and by a configuration file; a flag wins over the file.

    port: 8462
    policy: tiresias-las
    set: {quantum_s: 600}
    rules: {min_run_s: 5m, most_preemptions: 20, fair_share_half_life_s: 7d}
    queues:
      research: {quota_gpus: 6, weight: 2, borrow: true, limit_s: 2d, nodes: [gpu-a, gpu-b]}
      scavenge: {preemptible: true, priority: -10}

Lengths of time take a unit; without one they are seconds. Every mistake names file, line and field. `reload` reads the same file again.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from trainmaster.cluster.cluster import QueueSpec
from trainmaster.cluster.wording import did_you_mean, quoted
from trainmaster.cluster.yaml_tree import Value, Wanted
from trainmaster.errors import InputError
from trainmaster.live.rules import QueueRules, Rules
from trainmaster.live.submission.durations import duration_s

Backend = Literal["local", "slurm", "ray"]

PORT = 8462
GIVE = "e.g. {policy: tiresias-las, queues: {research: {quota_gpus: 4}}}"
WANTED = Wanted(error=InputError, thing="a configuration", give=f"give settings of `trainmaster up`, {GIVE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    state: Path = Path("~/.trainmaster")
    config: Path | None = None
    host: str = "127.0.0.1"
    port: int = PORT  # 0: a free one
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False  # tokens in clear, beyond this machine
    open_queue: bool = False  # users see that others' jobs exist, and how large they are
    backend: Backend = "local"
    address: str | None = None  # of the system underneath
    shared: Path | None = None  # a folder that all nodes see: checkpoints, snapshots; None = the state folder
    as_user: Path | None = None  # slurm: the program that sudo lets this account run as each user; None = jobs of this user alone
    shadow: bool = False  # watch it, touch nothing
    since: str | None = None  # of a shadow: how far it looks back
    slots: int | None = None  # local, without GPUs: so many accelerators
    log_limit_gib: float = 1.0  # of the log of a rank in one attempt, its middle is dropped beyond; 0 = no limit
    cluster: str | None = None  # a spec, as `simulate --cluster` takes it
    store: str | None = None  # a URL; None = SQLite in the state folder
    policy: str = "tiresias-las"
    policy_settings: tuple[str, ...] = ()  # PARAM=VALUE
    placement: str = "packed"
    round_s: float | None = None  # None: the policy's own
    rules: Rules = field(default_factory=Rules)
    queues: Mapping[str, QueueSpec] = field(default_factory=dict)
    node_queues: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # node -> its queues; others take any job
    flags: Mapping[str, Any] = field(default_factory=dict)  # as given: a file that is read again does not undo them

    @property
    def log_limit(self) -> int:
        """In bytes."""
        return round(self.log_limit_gib * 2**30)


def settings_of(flags: Mapping[str, Any]) -> Settings:
    """`flags`: fields of Settings that were given on the command line, `config` among them."""
    given = {name: value for name, value in flags.items() if value is not None}
    file = Path(given["config"]) if "config" in given else None
    told = {} if file is None else read(file)
    settings = Settings(**{**told, **given, "config": file, "flags": given})
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise InputError("--tls-cert and --tls-key go together: a certificate and its key, in PEM")
    if not 0 <= settings.port <= 65_535:
        raise InputError(f"--port {settings.port}: ports go from 0 (a free one) to 65535")
    shared = None if settings.shared is None else settings.shared.expanduser()
    return replace(settings, state=settings.state.expanduser(), shared=shared)


def reread(settings: Settings) -> Settings:
    """The same with the file as it is now."""
    return settings_of(settings.flags)


def differences(old: Settings, new: Settings) -> list[str]:
    """What has changed, a line each: `queues: research: quota_gpus 4 -> 6`."""
    return _differences("", old, new)


def read(file: Path) -> dict[str, Any]:
    """Fields of Settings, from a configuration file."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--config {file}: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}") from None
    root = _Mapping(WANTED.parse(text, str(file)), str(file), "")
    found: dict[str, Any] = {}
    for key, entry in root.entries(_TOP).items():
        found |= _TOP[key](entry)
    queues: dict[str, QueueSpec] = found.pop("queue_specs", {})
    rules: Rules = replace(found.pop("rules", Rules()), queues=found.pop("queue_rules", {}))
    return {**found, "queues": queues, "rules": rules}


# ------------------------------------------------------------------------------------------------ reading values


@dataclass(frozen=True, slots=True)
class _Entry:
    """One field of the file: its value, and where it stands."""

    value: Value
    where: str
    path: str

    @property
    def at(self) -> str:
        return f"{self.where}:{self.value.line}: {self.path}"

    def text(self) -> str:
        if not isinstance(self.value.content, str) or not self.value.content.isprintable():
            raise InputError(f"{self.at}: is a {self.value.kind}; give a single value")
        return self.value.content

    def flag(self) -> bool:
        word = self.text().lower()
        if word not in ("true", "yes", "on", "false", "no", "off"):
            raise InputError(f"{self.at}: {quoted(word)} is neither true nor false")
        return word in ("true", "yes", "on")

    def whole(self) -> int:
        word = self.text()
        if not word.isascii() or not word.isdecimal() or len(word) > 9:
            raise InputError(f"{self.at}: {quoted(word)} is not a whole number")
        return int(word)

    def number(self) -> float:
        try:
            number = float(self.text())
        except ValueError:
            number = float("nan")
        if not abs(number) <= 1e9:
            raise InputError(f"{self.at}: {quoted(self.text())} is not a number")
        return number

    def amount(self) -> float:
        number = self.number()
        if number < 0:
            raise InputError(f"{self.at}: is below 0")
        return number

    def length_s(self) -> float:
        word = self.text()
        try:
            return duration_s(f"{float(word):f}s", self.at)
        except ValueError:
            return duration_s(word, self.at, bare_s=1.0)

    def texts(self) -> tuple[str, ...]:
        items = self.value.content if isinstance(self.value.content, list) else [self.value]
        return tuple(_Entry(item, self.where, self.path).text() for item in items)

    def mapping(self) -> _Mapping:
        return _Mapping(self.value, self.where, self.path)


class _Mapping:
    def __init__(self, value: Value, where: str, path: str) -> None:
        if not isinstance(value.content, dict):
            place = f"{where}:{value.line}: {path}: " if path else f"{where}:{value.line}: "
            raise InputError(f"{place}is a {value.kind}, not a mapping; {GIVE}")
        self._entries = {
            name: _Entry(inner, where, f"{path}.{name}" if path else (name if name.isprintable() else quoted(name)))
            for name, inner in value.content.items()
        }

    def entries(self, known: Mapping[str, Any] | None = None) -> dict[str, _Entry]:
        """Those that have a value; a name that is not `known` is a mistake."""
        for name, entry in self._entries.items():
            if known is not None and name not in known:
                raise InputError(f"{entry.at}: no such field; {did_you_mean(name, known)}")
        return {name: entry for name, entry in self._entries.items() if entry.value.content is not None}


Reader = Callable[[_Entry], dict[str, Any]]


def _as(name: str, convert: Callable[[_Entry], Any]) -> Reader:
    return lambda entry: {name: convert(entry)}


def _backend(entry: _Entry) -> str:
    if entry.text() not in get_args(Backend):
        raise InputError(f"{entry.at}: {quoted(entry.text())}; there are {', '.join(get_args(Backend))}")
    return entry.text()


def _tls(entry: _Entry) -> dict[str, Any]:
    names = {"cert": "tls_certificate", "key": "tls_key"}
    return {names[name]: Path(inner.text()) for name, inner in entry.mapping().entries(names).items()}


def _set(entry: _Entry) -> tuple[str, ...]:
    """{PARAM: VALUE}, or a list of PARAM=VALUE."""
    if isinstance(entry.value.content, dict):
        return tuple(f"{name}={','.join(inner.texts())}" for name, inner in entry.mapping().entries().items())
    for text in entry.texts():
        if "=" not in text:
            raise InputError(f"{entry.at}: {quoted(text)} is not PARAM=VALUE")
    return entry.texts()


def _fields_of(kind: type[Any], given: Mapping[str, _Entry]) -> dict[str, Any]:
    """Of a dataclass of flags, numbers and seconds: what is given, converted by the field's type and unit."""
    types = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for name, entry in given.items():
        is_flag, is_whole = types[name] is bool, types[name] is int
        found[name] = entry.flag() if is_flag else entry.whole() if is_whole else entry.length_s() if _in_seconds(name) else entry.number()
        if not is_flag and name != "priority" and found[name] < 0:
            raise InputError(f"{entry.at}: is below 0")
    return found


def _in_seconds(name: str) -> bool:
    return name.endswith("_s")


def _rules(entry: _Entry) -> dict[str, Any]:
    known = {one.name: one for one in fields(Rules) if one.name != "queues"}
    return {"rules": Rules(**_fields_of(Rules, entry.mapping().entries(known)))}


def _queues(entry: _Entry) -> dict[str, Any]:
    of_spec, of_rules = ({one.name for one in fields(kind)} for kind in (QueueSpec, QueueRules))
    specs: dict[str, QueueSpec] = {}
    rules: dict[str, QueueRules] = {}
    nodes: dict[str, tuple[str, ...]] = {}
    for queue, inner in entry.mapping()._entries.items():
        given = (
            inner.mapping().entries(dict.fromkeys([*sorted(of_spec), *sorted(of_rules), "nodes"]))
            if inner.value.content is not None
            else {}
        )
        specs[queue] = QueueSpec(**_fields_of(QueueSpec, {name: one for name, one in given.items() if name in of_spec}))
        rules[queue] = QueueRules(**_fields_of(QueueRules, {name: one for name, one in given.items() if name in of_rules}))
        if "weight" in given and specs[queue].weight == 0:
            raise InputError(f"{given['weight'].at}: a weight of 0 is no share; give a number above 0")
        for node in given["nodes"].texts() if "nodes" in given else ():
            nodes[node] = (*nodes.get(node, ()), queue)
    return {"queue_specs": specs, "queue_rules": rules, "node_queues": nodes}


def _differences(path: str, old: Any, new: Any) -> list[str]:
    lines: list[str] = []
    for one in fields(old):
        before, after = getattr(old, one.name), getattr(new, one.name)
        name = f"{path}{one.name}"
        if before == after or one.name in ("flags", "config"):
            continue
        if isinstance(before, Mapping):
            for key in [*before, *(key for key in after if key not in before)]:
                if key not in after or key not in before:
                    lines.append(f"{name}: {key} {'added' if key in after else 'removed'}")
                elif before[key] != after[key]:
                    inner = (
                        _differences(f"{name}: {key}: ", before[key], after[key]) if hasattr(before[key], "__dataclass_fields__") else None
                    )
                    lines += inner if inner is not None else [f"{name}: {key}: {before[key]} -> {after[key]}"]
        elif hasattr(before, "__dataclass_fields__"):
            lines += _differences(f"{name}: ", before, after)
        else:
            lines.append(f"{name} {before} -> {after}")
    return lines


_TOP: dict[str, Reader] = {
    **{name: _as(name, _Entry.text) for name in ("host", "address", "cluster", "store", "policy", "placement")},
    **{name: _as(name, _Entry.flag) for name in ("insecure", "open_queue", "shadow")},
    "state": _as("state", lambda entry: Path(entry.text())),
    "shared": _as("shared", lambda entry: Path(entry.text())),
    "as_user": _as("as_user", lambda entry: Path(entry.text())),
    "port": _as("port", _Entry.whole),
    "slots": _as("slots", _Entry.whole),
    "log_limit_gib": _as("log_limit_gib", _Entry.amount),
    "round": _as("round_s", _Entry.length_s),
    "backend": _as("backend", _backend),
    "set": _as("policy_settings", _set),
    "tls": _tls,
    "rules": _rules,
    "queues": _queues,
}
