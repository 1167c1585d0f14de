"""What was asked for, from wherever it was told, and the fields of a `JobSpec` that follow: the totals of the gang.

A request is told by key. Most keys are fields of `JobSpec` and pass as they are; SHAPE holds those that say the same per node, per
process, per CPU or per GPU, as Slurm does. Each value keeps the place where it was told, for messages.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainmaster.errors import InputError
from trainmaster.live.submission.dependencies import Awaited
from trainmaster.live.submission.environment import Export, captured
from trainmaster.live.submission.gpus import Gpus
from trainmaster.live.submission.moments import moment_s

if TYPE_CHECKING:
    from trainmaster.live.spec import JobSpec

SHAPE = frozenset(
    "gpus gpus_per_node gpus_per_task min_nodes max_nodes tasks tasks_per_node cpus_per_task cpus_per_gpu cpus_per_node "
    "memory_per_node_gib memory_per_cpu_gib memory_per_gpu_gib export begin deadline".split()
)
CALL = frozenset("json state user dry_run parsable wait help wrap".split())  # of the command itself, not of the job
# Different ways to say one thing: whoever comes later says it anew.
ALTERNATIVES = (
    frozenset({"gpus", "gpus_per_node", "gpus_per_task", "min_gpus", "max_gpus"}),
    frozenset({"cpus", "cpus_per_task", "cpus_per_gpu", "cpus_per_node"}),
    frozenset({"memory_gib", "memory_per_node_gib", "memory_per_cpu_gib", "memory_per_gpu_gib"}),
    frozenset({"command", "script"}),
)
GATHERED = ("env", "labels", "retry")  # of these the entries count, not the whole


@dataclass(frozen=True, slots=True)
class Told:
    value: Any
    at: str  # `--gres`, `train.sh:3: --gres`, `job.yaml:7: resources.gpus`


class Asked:
    """Values by key, each once, and what should be said about the rest."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}
        self.notes: list[str] = []

    def tell(self, key: str, value: Any, at: str) -> None:
        if key in GATHERED and key in self._told:
            value = {**self._told[key].value, **value}
        self._told[key] = Told(value, at)

    def note(self, line: str) -> None:
        self.notes.append(line)

    def __contains__(self, key: str) -> bool:
        return key in self._told

    def get(self, key: str, default: Any = None) -> Any:
        return self._told[key].value if key in self._told else default

    def at(self, key: str) -> str:
        return self._told[key].at

    def items(self) -> Mapping[str, Told]:
        return self._told

    def over(self, earlier: Asked) -> Asked:
        """Both; where they speak of one thing, this one."""
        both = Asked()
        replaced = {other for key in self._told for group in ALTERNATIVES if key in group for other in group}
        for key, told in earlier._told.items():
            if key not in replaced:
                both.tell(key, told.value, told.at)
        for key, told in self._told.items():
            both.tell(key, told.value, told.at)
        both.notes = [*earlier.notes, *self.notes]
        return both


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where and by whom a job is submitted: sbatch takes the folder and the environment along, and so do we."""

    workdir: str
    environ: Mapping[str, str]
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The fields of a `JobSpec` as plain data, where each came from, and what to tell who submits."""

    fields: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    awaits: tuple[Awaited, ...] = ()  # dependencies whose jobs must still be looked up
    call: dict[str, Any] = field(default_factory=dict)

    def check(self) -> JobSpec:
        """As the controller will; with pydantic, so not on the way of an ordinary submission."""
        from pydantic import ValidationError

        from trainmaster.live.spec import JobSpec

        try:
            return JobSpec(**self.fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "the job"
            raise InputError(self.located(f"{name}: {first['msg'].removeprefix('Value error, ')}")) from None

    def located(self, complaint: str) -> str:
        """A complaint about a field, as the controller words it, with the place that told the field."""
        field, _, problem = complaint.partition(": ")
        at = self.origins.get(field.partition(".")[0])
        return f"{at}: {problem}" if at and problem else complaint


def draft(asked: Asked, context: Context) -> Draft:
    told = asked.items()
    fields = {key: one.value for key, one in told.items() if key not in SHAPE | CALL and key != "after"}
    call = {key: one.value for key, one in told.items() if key in CALL}
    origins = {key: one.at for key, one in told.items()}
    fields |= _shape(asked)
    for key, name in (("begin", "begin_s"), ("deadline", "deadline_s")):
        if key in asked:
            fields[name] = moment_s(asked.get(key), asked.at(key), context.now_s, ahead=True)
    fields["workdir"] = os.path.join(context.workdir, fields["workdir"]) if "workdir" in fields else context.workdir
    if asked.get("snapshot"):
        fields["snapshot"] = fields["workdir"]  # what is to be copied; the copy is made where the job is kept
    export: Export = asked.get("export", Export())
    fields["env"] = captured(context.environ, export) | _of_slurm(asked) | fields.get("env", {})
    return Draft(fields=fields, origins=origins, notes=tuple(asked.notes), awaits=asked.get("after", ()), call=call)


def _shape(asked: Asked) -> dict[str, Any]:
    nodes, most_nodes = _nodes(asked)
    tasks = asked.get("tasks") or (nodes or 1) * asked.get("tasks_per_node", 1)
    shape = _gpus(asked, nodes, most_nodes, tasks)
    gang = shape["gpus"]
    cpus = _one_of(
        asked,
        {
            "cpus": lambda each: each,
            "cpus_per_node": lambda each: each * (nodes or 1),
            "cpus_per_task": lambda each: each * tasks,
            "cpus_per_gpu": lambda each: each * gang,
        },
        "CPUs",
    )
    if cpus is None:  # Slurm's CPU a process, of a job that is nothing but CPUs; beside GPUs, CPUs are asked for by who needs them
        cpus = float(tasks) if gang == 0 else 0.0
    memory_gib = _one_of(
        asked,
        {
            "memory_gib": lambda each: each,
            "memory_per_node_gib": lambda each: each * (nodes or 1),
            "memory_per_cpu_gib": lambda each: each * (cpus or tasks),  # a process has a CPU with Slurm, asked for or not
            "memory_per_gpu_gib": lambda each: each * gang,
        },
        "GiB of memory",
    )
    return {**shape, "cpus": cpus, "memory_gib": memory_gib or 0.0}


def _nodes(asked: Asked) -> tuple[int | None, int | None]:
    """(nodes, most of a range of nodes)"""
    nodes, most = asked.get("min_nodes"), asked.get("max_nodes")
    tasks, tasks_per_node = asked.get("tasks"), asked.get("tasks_per_node")
    if nodes is None and tasks and tasks_per_node:
        nodes = math.ceil(tasks / tasks_per_node)
    if nodes is None and ("gpus_per_node" in asked or "memory_per_node_gib" in asked):
        nodes = 1
    if most is not None and most != nodes and "gpus_per_node" not in asked:
        raise InputError(f"{asked.at('max_nodes')}: a range of nodes takes --gpus-per-node, or give one number of nodes")
    return nodes, most


def _gpus(asked: Asked, nodes: int | None, most_nodes: int | None, tasks: int) -> dict[str, Any]:
    factors = {"gpus": 1, "gpus_per_node": nodes or 1, "gpus_per_task": tasks}
    shape: dict[str, Any] = {}
    if nodes is not None and (most_nodes is None or most_nodes == nodes):
        shape["nodes"] = nodes
    counts: dict[str, float] = {}
    for key, factor in factors.items():
        if key not in asked:
            continue
        said: Gpus = asked.get(key)
        if said.types:
            _agree(shape, "gpu_types", said.types, asked.at(key))
        if said.memory_gib is not None:
            _agree(shape, "gpu_memory_gib", said.memory_gib, asked.at(key))
        if said.count is not None:
            counts[key] = said.count * factor
        if said.most is not None:
            shape |= {"min_gpus": counts[key], "max_gpus": said.most * factor}
    if len(set(counts.values())) > 1:
        (first, one), (second, other) = list(counts.items())[:2]
        raise InputError(f"{asked.at(first)} asks for {one:g} GPUs in all and {asked.at(second)} for {other:g}; give one of them")
    shape["gpus"] = next(iter(counts.values()), float(nodes or 1) if "min_gpus" not in asked else asked.get("min_gpus"))
    if most_nodes is not None and nodes is not None and most_nodes > nodes:
        shape |= {"min_gpus": shape["gpus"], "max_gpus": shape["gpus"] / nodes * most_nodes}
    if "gpu_types" in asked:  # --gpu-type beside a count
        shape.pop("gpu_types", None)
    if "gpu_memory_gib" in asked:
        shape.pop("gpu_memory_gib", None)
    return shape


def _agree(shape: dict[str, Any], key: str, value: Any, at: str) -> None:
    if shape.setdefault(key, value) != value:
        raise InputError(f"{at}: asks for other accelerators than an earlier option; give one of them")


def _one_of(asked: Asked, ways: Mapping[str, Any], what: str) -> float | None:
    totals = {key: float(total(asked.get(key))) for key, total in ways.items() if key in asked}
    if len({round(value, 6) for value in totals.values()}) > 1:
        (first, one), (second, other) = list(totals.items())[:2]
        raise InputError(f"{asked.at(first)} asks for {one:g} {what} in all and {asked.at(second)} for {other:g}; give one of them")
    return next(iter(totals.values()), None)


def _of_slurm(asked: Asked) -> dict[str, str]:
    """What sbatch itself puts into a job's environment, of what was asked: `srun` in the script goes by it."""
    env = {}
    tasks, tasks_per_node = asked.get("tasks"), asked.get("tasks_per_node")
    nodes, _ = _nodes(asked)
    if tasks or tasks_per_node:
        env["SLURM_NTASKS"] = env["SLURM_NPROCS"] = str(tasks or (nodes or 1) * tasks_per_node)
    if tasks_per_node:
        env["SLURM_NTASKS_PER_NODE"] = str(tasks_per_node)
    if "cpus_per_task" in asked:
        env["SLURM_CPUS_PER_TASK"] = f"{asked.get('cpus_per_task'):g}"
    for key, name in (("gpus_per_node", "SLURM_GPUS_PER_NODE"), ("gpus_per_task", "SLURM_GPUS_PER_TASK")):
        if key in asked and asked.get(key).count is not None:
            env[name] = f"{asked.get(key).count:g}"
    return env
