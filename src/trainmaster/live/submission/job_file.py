"""A job as a YAML file: the names that SkyPilot, dstack, Kubernetes and Slurm have put into people's fingers, in one reader.

    name: resnet
    resources: {gpus: a100:4, cpus: 16, memory: 64G}     # of each node, as in SkyPilot and dstack; a bare `gpus: 8` is the whole gang
    nodes: 2
    queue: research
    max_duration: 2h
    setup: pip install -r requirements.txt
    run: |
      torchrun --nproc-per-node 4 train.py

Any long option of `trainmaster submit` is a field too, with `-` or `_`: `gpus_per_node: 4`, `dependency: afterok:12`. Every error and
note names file, line and field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trainmaster.cluster.wording import did_you_mean, quoted
from trainmaster.cluster.yaml_tree import Value, Wanted
from trainmaster.errors import InputError
from trainmaster.live.submission import arrays, dependencies, durations, gpus, memory, options
from trainmaster.live.submission.request import Asked
from trainmaster.live.submission.script import MARK

Field = tuple[Value, str]  # and the place: job.yaml:7: resources.gpus
Reader = Callable[[Asked, Value, str], None]

GIVE = "e.g. {run: python train.py, resources: {gpus: 2}}"
WANTED = Wanted(error=InputError, thing="a job", give=f"give the fields of a job, {GIVE}")
SHELL = "#!/bin/bash\n"
DEFAULT_RETRIES = 3
CHANGES = "is not known here, and the job would mean something else without it"
PASSES = "is not known here; the job runs without it"


def told_by(text: str, where: str) -> Asked:
    """What a file asks for."""
    asked, root = Asked(), WANTED.parse(text, where)
    _read(asked, root, where, "", _TOP, _option)
    if "command" not in asked and "script" not in asked:
        raise InputError(f"{where}:{root.line}: run: is missing; {GIVE}")
    return asked


# ------------------------------------------------------------------------------------------------ walking


def _read(asked: Asked, value: Value, where: str, path: str, readers: dict[str, Reader], otherwise: Reader | None = None) -> None:
    for name, (inner, at) in sorted(_entries(value, where, path).items(), key=lambda entry: entry[0] in _SHARES):
        reader = readers.get(name) or otherwise
        if reader is None:
            raise InputError(f"{at}: no such field; {did_you_mean(name, readers)}")
        if inner.content is not None:
            reader(asked, inner, at)


def _entries(value: Value, where: str, path: str) -> dict[str, Field]:
    if not isinstance(value.content, dict):
        place = f"{where}:{value.line}: {path}: " if path else f"{where}:{value.line}: "
        raise InputError(f"{place}is a {value.kind}, not a mapping; {GIVE}")
    return {name: (inner, f"{where}:{inner.line}: {f'{path}.' if path else ''}{_name(name)}") for name, inner in value.content.items()}


def _inner(value: Value, at: str) -> tuple[str, str]:
    """(where, path) again, of what lies in a field."""
    place, _, path = at.rpartition(": ")
    return place.rpartition(":")[0], path


def _name(name: str) -> str:
    return name if len(name) <= 60 and name.isprintable() and " " not in name else quoted(name)


def _text(value: Value, at: str) -> str:
    if not isinstance(value.content, str):
        raise InputError(f"{at}: is a {value.kind}; give a single value")
    return value.content


def _items(value: Value, at: str) -> Iterator[Field]:
    """Of a list, or of one value that stands for a list of one."""
    for item in value.content if isinstance(value.content, list) else [value]:
        place, _, path = at.rpartition(": ")
        yield item, f"{place.rpartition(':')[0]}:{item.line}: {path}"


def _flag(value: Value, at: str) -> bool:
    word = _text(value, at).lower()
    if word not in ("true", "yes", "on", "false", "no", "off"):
        raise InputError(f"{at}: {quoted(word)} is neither true nor false")
    return word in ("true", "yes", "on")


def _mapping(value: Value, at: str) -> dict[str, Field]:
    where, path = _inner(value, at)
    return _entries(value, where, path)


def _nested(readers: dict[str, Reader]) -> Reader:
    def read(asked: Asked, value: Value, at: str) -> None:
        where, path = _inner(value, at)
        _read(asked, value, where, path, readers)

    return read


# ------------------------------------------------------------------------------------------------ readers of one field


_BY_FIELD = {name.removeprefix("--"): option for option in options.OPTIONS for name in option.names if name.startswith("--")}


def _option(asked: Asked, value: Value, at: str) -> None:
    """A field that is a long option."""
    name = at.rpartition(": ")[2]
    option = _BY_FIELD.get(name.replace("_", "-"))
    if option is None:
        known = [*_TOP, *(field.replace("-", "_") for field, one in _BY_FIELD.items() if one.help)]
        raise InputError(f"{at}: no such field; {did_you_mean(name.strip(chr(34)), dict.fromkeys(known))}")
    if option.value is None:
        if _flag(value, at):
            option.apply(asked, "", at)
    else:
        option.apply(asked, _text(value, at), at)


def _passed(asked: Asked, value: Value, at: str) -> None:
    asked.note(f"{at}: {PASSES}")


def _refused(asked: Asked, value: Value, at: str) -> None:
    raise InputError(f"{at}: {CHANGES}")


def _run(asked: Asked, value: Value, at: str) -> None:
    """Shell text, or a list of commands of which each must succeed (dstack's)."""
    if "script" in asked or "command" in asked:
        raise InputError(f"{at}: there is a command already; keep one")
    if isinstance(value.content, list):
        lines = [_text(item, place) for item, place in _items(value, at)]
        asked.tell("script", f"{SHELL}set -e\n" + "\n".join(lines) + "\n", at)
    else:
        text = _text(value, at)
        if not text.strip():
            raise InputError(f"{at}: is empty; {GIVE}")
        if any(line.startswith(MARK) for line in text.splitlines()):
            asked.note(f"{at}: its {MARK} lines are not read; what it needs is said by fields of this file")
        asked.tell("script", text if text.startswith("#!") else f"{SHELL}{text}", at)


def _command(asked: Asked, value: Value, at: str) -> None:
    """A list is the words of a command; text is for a shell."""
    if not isinstance(value.content, list):
        _run(asked, value, at)
        return
    words = [_text(item, place) for item, place in _items(value, at)]
    if not words or not words[0] or "script" in asked or "command" in asked:
        raise InputError(f"{at}: {'there is a command already; keep one' if words and words[0] else f'is empty; {GIVE}'}")
    asked.tell("command", words, at)


def _setup(asked: Asked, value: Value, at: str) -> None:
    asked.tell("setup", _text(value, at), at)


def _env(asked: Asked, value: Value, at: str) -> None:
    """A mapping, or dstack's list of NAME=VALUE."""
    if isinstance(value.content, list):
        for item, place in _items(value, at):
            options.OPTIONS_BY_NAME["--env"].apply(asked, _text(item, place), place)
        return
    for name, (inner, place) in _mapping(value, at).items():
        options.OPTIONS_BY_NAME["--env"].apply(asked, f"{name}={'' if inner.content is None else _text(inner, place)}", place)


def _labels(asked: Asked, value: Value, at: str) -> None:
    for name, (inner, place) in _mapping(value, at).items():
        asked.tell("labels", {name: "" if inner.content is None else _text(inner, place)}, place)


def _nodes(asked: Asked, value: Value, at: str) -> None:
    """A number, or {min, max}."""
    if isinstance(value.content, dict):
        ends = _mapping(value, at)
        for name, (_, place) in ends.items():
            if name not in ("min", "max"):
                raise InputError(f"{place}: no such field; known: min, max")
        low = _text(*ends["min"]) if "min" in ends else "1"
        options.OPTIONS_BY_NAME["--nodes"].apply(asked, f"{low}-{_text(*ends['max'])}" if "max" in ends else low, at)
    else:
        options.OPTIONS_BY_NAME["--nodes"].apply(asked, _text(value, at).replace("..", "-"), at)


def _max_duration(asked: Asked, value: Value, at: str) -> None:
    limit_s = durations.limit_s(_text(value, at), at, bare_s=1.0)  # dstack: a bare number is seconds
    if limit_s:
        asked.tell("limit_s", limit_s, at)


def _preemptible(asked: Asked, value: Value, at: str) -> None:
    asked.tell("preemptible", _flag(value, at), at)


def _requeue(asked: Asked, value: Value, at: str) -> None:
    options.requeue(asked, _flag(value, at), at)


def _array(asked: Asked, value: Value, at: str) -> None:
    if isinstance(value.content, dict):
        fields = _mapping(value, at)
        for name, (_, place) in fields.items():
            if name not in ("indices", "limit"):
                raise InputError(f"{place}: no such field; known: indices, limit")
        if "indices" not in fields:
            raise InputError(f"{at}.indices: is missing; e.g. 0-99")
        limit = f"%{_text(*fields['limit'])}" if "limit" in fields else ""
        asked.tell("array", arrays.array(_listed(*fields["indices"]) + limit, at), at)
    else:
        asked.tell("array", arrays.array(_listed(value, at), at), at)


def _listed(value: Value, at: str) -> str:
    return ",".join(_text(item, place) for item, place in _items(value, at))


def _depends_on(asked: Asked, value: Value, at: str) -> None:
    """`12`, `prepare` (both: must have succeeded), `afterany:12`; one or a list."""
    found: list[dependencies.Awaited] = []
    for item, place in _items(value, at):
        word = _text(item, place)
        if word.partition(":")[0] in dependencies.KINDS and ":" in word:
            found.extend(dependencies.dependencies(word, place))
        else:
            found.append(dependencies.Awaited("afterok", dependencies.reference(word, place)))
    asked.tell("after", tuple(dict.fromkeys(found)), at)


def _retry(asked: Asked, value: Value, at: str) -> None:
    """A number; true; or {max, exit_codes} and dstack's {on_events, duration}."""
    if isinstance(value.content, dict):
        where, path = _inner(value, at)
        _read(asked, value, where, path, _RETRY)
    elif isinstance(value.content, str) and value.content.lower() in ("true", "false"):
        asked.tell("retry", {"max": DEFAULT_RETRIES if _flag(value, at) else 0}, at)
    else:
        options.OPTIONS_BY_NAME["--retry"].apply(asked, _text(value, at), at)


def _retries(asked: Asked, value: Value, at: str) -> None:
    options.OPTIONS_BY_NAME["--retry"].apply(asked, _text(value, at), at)


def _exit_codes(asked: Asked, value: Value, at: str) -> None:
    codes = options.exit_codes(_listed(value, at), at)
    asked.tell("retry", {"max": DEFAULT_RETRIES, **asked.get("retry", {}), "exit_codes": codes}, at)


def _retry_on(asked: Asked, value: Value, at: str) -> None:
    """dstack: no-capacity waits in any case here, interruption starts again in any case; error is the one that counts."""
    for item, place in _items(value, at):
        word = _text(item, place)
        if word not in ("no-capacity", "interruption", "error", "failure"):
            raise InputError(f"{place}: {quoted(word)}; known: no-capacity, interruption, error")
        if word in ("error", "failure"):
            asked.tell("retry", {"max": DEFAULT_RETRIES, **asked.get("retry", {})}, place)


def _type(asked: Asked, value: Value, at: str) -> None:
    if _text(value, at) not in ("task", "job"):
        raise InputError(f"{at}: {quoted(_text(value, at))}: only what runs to its end can be submitted here, a task")


# ------------------------------------------------------------------------------------------------ resources, of each node


def _gpu(asked: Asked, value: Value, at: str) -> None:
    """`a100:4`; [a100:4, h100:4] and {a100: 4, h100: 4}, any of them; dstack's {name, memory, count}."""
    asked.tell("gpus_per_node", _gpus(value, at), at)


def _gang(asked: Asked, value: Value, at: str) -> None:
    asked.tell("gpus", _gpus(value, at), at)


def _gpus(value: Value, at: str) -> gpus.Gpus:
    if isinstance(value.content, dict) and set(value.content) <= {"name", "type", "memory", "count", "vendor"}:
        fields = _mapping(value, at)
        words = [_listed(*fields[name]) for name in ("name", "type", "count") if name in fields]
        if "memory" in fields:
            words.append(_sized(_text(*fields["memory"])))
        return gpus.gpus(":".join(words), at) if words else gpus.Gpus(count=1.0)
    if isinstance(value.content, dict):
        counted = {
            name: ("1" if inner.content is None else _text(inner, place), place) for name, (inner, place) in _mapping(value, at).items()
        }
        return _any_of([(f"{name}:{count}", place) for name, (count, place) in counted.items()], at)
    return _any_of([(_text(item, place), place) for item, place in _items(value, at)], at)


def _any_of(choices: list[tuple[str, str]], at: str) -> gpus.Gpus:
    found = [gpus.gpus(text, place) for text, place in choices]
    if not found:
        raise InputError(f"{at}: is empty; e.g. a100:4")
    if len({(one.count or 1.0, one.most, one.memory_gib) for one in found}) > 1 or (len(found) > 1 and not all(one.types for one in found)):
        raise InputError(f"{at}: one job holds any of several types, but one number of them; e.g. a100,h100:4")
    first = found[0]
    kinds = tuple(dict.fromkeys(kind for one in found for kind in one.types))
    return gpus.Gpus(count=first.count if first.count is not None else 1.0, most=first.most, types=kinds, memory_gib=first.memory_gib)


def _sized(text: str) -> str:
    """Memory with its unit: a bare number is GB, as in SkyPilot and dstack."""
    return "..".join(end and (end if memory.is_memory(end) else f"{end.removesuffix('+')}GB") for end in text.split(".."))


def _gpu_type(asked: Asked, value: Value, at: str) -> None:
    asked.tell("gpu_types", gpus.types(_listed(value, at), at), at)


def _gpu_memory(asked: Asked, value: Value, at: str) -> None:
    asked.tell("gpu_memory_gib", memory.memory_gib(_sized(_text(value, at)), at), at)


def _fraction(asked: Asked, value: Value, at: str) -> None:
    share = gpus.count(_text(value, at), at)
    if not 0 < share <= 1:
        raise InputError(f"{at}: {share:g} is not a fraction of one GPU; e.g. 0.5")
    asked.tell("gpus_per_node", gpus.Gpus(count=share), at)


def _percent(asked: Asked, value: Value, at: str) -> None:
    percent = options.number(_text(value, at), at)
    if not 0 < percent <= 100:
        raise InputError(f"{at}: {percent:g} is not a part of 100")
    earlier: gpus.Gpus = asked.get("gpus_per_node", gpus.Gpus())
    if earlier.count is not None and earlier.count > 1:
        raise InputError(f"{at}: a share of each of {earlier.count:g} GPUs is not known here; a job holds whole GPUs, or a part of one")
    asked.tell("gpus_per_node", gpus.Gpus(count=percent / 100, types=earlier.types), at)


def _vgpu_memory(asked: Asked, value: Value, at: str) -> None:
    """HAMi's and KAI's MiB of one GPU: an amount of memory is not a share that can be kept here, so a whole GPU is taken."""
    asked.tell("gpu_memory_gib", memory.memory_gib(_text(value, at), at, bare="m"), at)
    asked.note(f"{at}: the job gets whole GPUs with at least so much memory; a share is asked for with gpu_fraction")


def _cpus(asked: Asked, value: Value, at: str) -> None:
    """8, 8+, 4..8 and Kubernetes' 500m: at least so many."""
    text = _text(value, at).partition("..")[0].removesuffix("+")
    cpus = options.number(text.removesuffix("m"), at) / (1_000 if text.endswith("m") else 1)
    if cpus <= 0:
        raise InputError(f"{at}: {quoted(text)} is no number of CPUs")
    asked.tell("cpus_per_node", cpus, at)


def _memory(asked: Asked, value: Value, at: str) -> None:
    asked.tell("memory_per_node_gib", memory.memory_gib(_sized(_text(value, at).partition("..")[0]), at), at)


def _alternatives(asked: Asked, value: Value, at: str) -> None:
    """SkyPilot's any_of and ordered: a list of resources, of which we hold the type alone."""
    words = []
    for item, place in _items(value, at):
        if not isinstance(item.content, dict):
            words.append((item, place))
            continue
        for name, field in _mapping(item, place).items():
            if name in ("accelerators", "gpu", "gpus"):
                words.append(field)
            elif name not in _ELSEWHERE:
                raise InputError(f"{field[1]}: one job holds any of several types, and nothing else of them may differ")
    named = [(_text(*word), word[1]) for word in words]
    if all(":" not in text and text[:1].isalpha() for text, _ in named) and named:  # types alone, beside a number
        asked.tell("gpu_types", gpus.types(",".join(text for text, _ in named), at), at)
    else:
        asked.tell("gpus_per_node", _any_of(named, at), at)


def _every(asked: Asked, value: Value, at: str) -> None:
    asked.note(f"{at}: how often is decided by the script, e.g. tm.checkpoint(every=...); the job runs without it")


def _signal(asked: Asked, value: Value, at: str) -> None:
    options.OPTIONS_BY_NAME["--signal"].apply(asked, _text(value, at), at)


def _checkpoint(asked: Asked, value: Value, at: str) -> None:
    """A folder, or {dir, signal, grace, every}."""
    if isinstance(value.content, dict):
        _nested(_CHECKPOINT)(asked, value, at)
    else:
        options.OPTIONS_BY_NAME["--checkpoint-dir"].apply(asked, _text(value, at), at)


def _by_option(name: str) -> Reader:
    return lambda asked, value, at: options.OPTIONS_BY_NAME[name].apply(asked, _text(value, at), at)


_ELSEWHERE = {"infra", "cloud", "region", "zone", "backends", "regions", "availability_zones"}
_RETRY: dict[str, Reader] = {
    "max": _retries, "max_restarts_on_errors": _retries, "exit_codes": _exit_codes, "recover_on_exit_codes": _exit_codes,
    "on": _retry_on, "on_events": _retry_on, "duration": _passed, "strategy": _passed,
}  # fmt: skip
_CHECKPOINT: dict[str, Reader] = {
    "dir": _by_option("--checkpoint-dir"), "signal": _signal, "grace": _by_option("--grace"), "every": _every,
}  # fmt: skip
_SHARE: dict[str, Reader] = {
    "gpu-fraction": _fraction, "gpu-memory": _vgpu_memory, "gpu_fraction": _fraction,
}  # fmt: skip
_SHARES = {"nvidia.com/gpumem-percentage", "nvidia.com/gpucores"}  # of so many GPUs as stand beside them, before or after
_KUBERNETES: dict[str, Reader] = {
    "nvidia.com/gpu": _gpu, "amd.com/gpu": _gpu, "nvidia.com/gpumem": _vgpu_memory, **dict.fromkeys(sorted(_SHARES), _percent),
    "cpu": _cpus, "memory": _memory, "ephemeral-storage": _passed,
}  # fmt: skip
_RESOURCES: dict[str, Reader] = {
    "gpus": _gpu, "gpu": _gpu, "accelerators": _gpu, "gpu_type": _gpu_type, "any_of": _alternatives, "ordered": _alternatives,
    "gpu_memory": _gpu_memory, "cpus": _cpus, **_SHARE, **_KUBERNETES, "limits": _nested(_KUBERNETES), "requests": _nested(_KUBERNETES),
    "priority": _by_option("--priority"), "job_recovery": _retry, "instance_type": _refused, "image_id": _refused,
    **dict.fromkeys(_ELSEWHERE, _passed),
    **dict.fromkeys("use_spot spot_recovery spot_policy disk disk_size disk_tier shm_size network_tier ports".split(), _passed),
    **dict.fromkeys("max_hourly_cost max_price labels autostop".split(), _passed),
}  # fmt: skip
_TOP: dict[str, Reader] = {
    "run": _run, "commands": _run, "command": _command, "setup": _setup, "env": _env, "envs": _env, "environment": _env,
    "gpus": _gang, "resources": _nested(_RESOURCES), "annotations": _nested(_SHARE), "nodes": _nodes, "num_nodes": _nodes,
    "working_dir": _by_option("--workdir"), "max_duration": _max_duration, "limit": _max_duration,
    "preemptible": _preemptible, "requeue": _requeue, "array": _array,
    "depends_on": _depends_on, "retry": _retry, "job_recovery": _retry, "checkpoint": _checkpoint, "labels": _labels,
    "type": _type,
    **dict.fromkeys("sweep secrets file_mounts volumes image schedule sharing python docker repos files".split(), _refused),
    **dict.fromkeys("fleets ports service config max_price spot_policy".split(), _passed),
    **dict.fromkeys("creation_policy utilization_policy backends regions startup_order stop_criteria".split(), _passed),
}  # fmt: skip
