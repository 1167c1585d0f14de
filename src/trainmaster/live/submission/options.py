"""The options of a submission: sbatch's, and ours, in one table. Read from a command line and from `#SBATCH` lines alike.

An option that this cluster has no use for is noted; one that would change what the job means, and is not understood, is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trainmaster.cluster.accelerators import lookup
from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError
from trainmaster.live.submission import arrays, dependencies, durations, environment, gpus, memory, signals
from trainmaster.live.submission.request import Asked

Apply = Callable[[Asked, str, str], None]
Convert = Callable[[str, str], Any]
LONGEST = 4_096


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]
    apply: Apply
    value: str | None = None  # what its value is called; None = it has none
    help: str = ""  # none: it is not shown
    group: str = ""
    optional: bool = False  # a value may come after `=`, and only there


def split(words: Sequence[str], table: Sequence[Option]) -> tuple[list[tuple[Option, str, str]], list[str]]:
    """[(option, its value, as it was spelled)], and the words from the first that is no option. As getopt_long does it."""
    by_name = {name: option for option in table for name in option.names}
    found, rest = [], list(words)
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
        word = rest.pop(0)
        if word.startswith("--"):
            spelled, equals, value = word.partition("=")
            option = _long(spelled, by_name)
            if equals and option.value is None:
                raise InputError(f"{spelled}: takes no value")
        else:
            spelled, value = word[:2], word[2:]
            if spelled not in by_name:
                raise InputError(f"no option {quoted(word)}")
            option, equals = by_name[spelled], value
            if option.value is None and value:  # -Hq is -H -q
                rest.insert(0, f"-{value}")
                value = ""
        if option.value is not None and not equals and not option.optional:
            if not rest:
                raise InputError(f"{spelled}: takes a value, {option.value}")
            value = rest.pop(0)
        found.append((option, value, spelled))
    return found, rest


def tell(asked: Asked, found: Sequence[tuple[Option, str, str]], prefix: str = "") -> None:
    for option, value, spelled in found:
        option.apply(asked, value, f"{prefix}{spelled}")


def _long(spelled: str, by_name: dict[str, Option]) -> Option:
    if spelled in by_name:
        return by_name[spelled]
    options = {by_name[name] for name in by_name if name.startswith(spelled)}
    if len(options) == 1:
        return options.pop()
    if options:
        raise InputError(f"{spelled}: is short for {', '.join(sorted(name for name in by_name if name.startswith(spelled)))}")
    near = difflib.get_close_matches(spelled, by_name, 1, 0.6)
    raise InputError(f"no option {quoted(spelled)}" + (f"; did you mean {near[0]}?" if near else ""))


# ------------------------------------------------------------------------------------------------ what an option does


def put(key: str, convert: Convert) -> Apply:
    return lambda asked, text, at: asked.tell(key, convert(text, at), at)


def mark(key: str, value: Any = True) -> Apply:
    return lambda asked, _, at: asked.tell(key, value, at)


def ignored(why: str) -> Apply:
    return lambda asked, _, at: asked.note(f"{at}: {why}")


def silent(asked: Asked, text: str, at: str) -> None:
    """Of no meaning here, and nobody misses it."""


def refused(why: str) -> Apply:
    def refuse(_asked: Asked, _text: str, at: str) -> None:
        raise InputError(f"{at}: {why}")

    return refuse


def text(value: str, at: str) -> str:
    if not value or len(value) > LONGEST or any(character < " " for character in value):
        raise InputError(f"{at}: {quoted(value)} is not a word or a path")
    return value


def whole(value: str, at: str) -> int:
    """At least 1."""
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value[:12]) <= 1_000_000:
        raise InputError(f"{at}: {quoted(value)} is not a whole number of at least 1")
    return int(value)


def number(value: str, at: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = float("nan")
    if not abs(found) <= 1e6:
        raise InputError(f"{at}: {quoted(value)} is not a number that is good here")
    return found


def seconds(value: str, at: str) -> float:
    return durations.duration_s(value, at, bare_s=1.0)


def _one_of(*words: str) -> Convert:
    def convert(value: str, at: str) -> str:
        if value not in words:
            raise InputError(f"{at}: {quoted(value)}; give {' or '.join(words)}")
        return value

    return convert


def _gib(value: str, at: str) -> float:
    return memory.memory_gib(value, at, bare="g")


def _append(value: str, at: str) -> bool:
    return _one_of("append", "truncate")(value, at) == "append"


def _nodes(asked: Asked, value: str, at: str) -> None:
    low, dash, high = value.partition("-")
    least, most = whole(low, at), whole(high, at) if dash else None
    if most is not None and most < least:
        raise InputError(f"{at}: {quoted(value)} is a range whose end is below its beginning")
    asked.tell("min_nodes", least, at)
    if most is not None:
        asked.tell("max_nodes", most, at)


def _memory(key: str) -> Apply:
    def apply(asked: Asked, value: str, at: str) -> None:
        size_gib = memory.memory_gib(value, at)
        if size_gib == 0:
            asked.note(f"{at}: 0 asks for all memory of a node; here memory that is not asked for is not bounded")
        else:
            asked.tell(key, size_gib, at)

    return apply


def _limit(asked: Asked, value: str, at: str) -> None:
    limit_s = durations.limit_s(value, at)
    if limit_s:  # Slurm: 0 is no limit either
        asked.tell("limit_s", limit_s, at)


def _nice(asked: Asked, value: str, at: str) -> None:
    asked.tell("priority", -number(value or "100", at), at)


def _constraint(asked: Asked, value: str, at: str) -> None:
    """Sites name GPU types as features; other features are not known here."""
    words = value.strip("[]()").split("|")
    if not all(lookup(word) for word in words):
        raise InputError(f"{at}: {quoted(value)}: nodes have no features here; a GPU type can be asked for, e.g. --gpu-type a100")
    asked.tell("gpu_types", gpus.types(",".join(words), at), at)


def _labelled(name: str) -> Apply:
    return lambda asked, value, at: asked.tell("labels", {name: text(value, at)}, at)


def _env(asked: Asked, value: str, at: str) -> None:
    asked.tell("env", dict([environment.assignment(value, at)]), at)


def _label(asked: Asked, value: str, at: str) -> None:
    name, equals, told = value.partition("=")
    if not name or not equals:
        raise InputError(f"{at}: {quoted(value)} is not NAME=VALUE")
    asked.tell("labels", {name: told}, at)


def _retries(asked: Asked, value: str, at: str) -> None:
    if not value.isascii() or not value.isdecimal() or int(value[:6]) > 1_000:
        raise InputError(f"{at}: {quoted(value)} is not a number of tries; 0 to 1000")
    asked.tell("retry", {"max": int(value)}, at)


def exit_codes(value: str, at: str) -> list[int]:
    codes = value.split(",")
    if not all(code.strip().isascii() and code.strip().isdecimal() and 0 < int(code[:6]) < 256 for code in codes):
        raise InputError(f"{at}: {quoted(value)} is not a list of exit codes; e.g. 75,137")
    return [int(code) for code in codes]


def _retry_on(asked: Asked, value: str, at: str) -> None:
    asked.tell("retry", {"max": 3, **asked.get("retry", {}), "exit_codes": exit_codes(value, at)}, at)


def requeue(asked: Asked, may: bool, at: str) -> None:
    """Slurm's --requeue and --no-requeue: not for another job, nor after a lost node."""
    asked.tell("preemptible", may, at)
    asked.tell("requeue", may, at)


def _exclusive(asked: Asked, value: str, at: str) -> None:
    asked.note(f"{at}: its GPUs are the job's alone, as always; CPUs and memory of a node may be shared")


RUN, SIZE, ORDER, STOP, FILES = "what runs", "how much", "when", "how it is stopped", "files and notes"
_CHANGES = "is not known here, and the job would mean something else without it"
_OF_NODES = "which nodes is decided here; a GPU type can be asked for, e.g. --gpu-type a100"

OPTIONS: tuple[Option, ...] = (
    Option(("-J", "--name", "--job-name"), put("name", text), "NAME", "its name (default: that of the program or file)", RUN),
    Option(("-D", "--workdir", "--chdir"), put("workdir", text), "DIR", "where it runs (default: here)", RUN),
    Option(("--env",), _env, "NAME=VALUE", "a variable of its environment; repeatable", RUN),
    Option(("--export",), put("export", environment.export), "WHAT", "of the environment: ALL (default), NONE, or NAMES; ALL,A=1", RUN),
    Option(("--setup",), put("setup", text), "SHELL", "runs first, on every node", RUN),
    Option(("--snapshot",), mark("snapshot"), None, "run in a copy of the files that git knows, as they are now", RUN),
    Option(("--ray-driver",), mark("ray_driver"), None, "a program of Ray: it places its own tasks (`up --backend ray`)", RUN),
    Option(("--ranks",), put("ranks", _one_of("node", "gpu", "batch")), "node|gpu|batch",
           "one process a node, one a GPU (torchrun), or one, whose srun starts the others (default of scripts)", RUN),

    Option(("-G", "--gpus"), put("gpus", gpus.gpus), "[TYPE:]N", "GPUs in all (default 1): 4, 0.5, a100:2, 2..8; 0: CPUs", SIZE),
    Option(("--gpus-per-node",), put("gpus_per_node", gpus.gpus), "[TYPE:]N", "GPUs on each node", SIZE),
    Option(("--gpus-per-task",), put("gpus_per_task", gpus.gpus), "[TYPE:]N", "GPUs for each of -n processes", SIZE),
    Option(("--gres",), put("gpus_per_node", gpus.gres), "gpu[:TYPE]:N", "the same as --gpus-per-node", SIZE),
    Option(("--gpu-type",), put("gpu_types", gpus.types), "TYPE,...", "any of these types", SIZE),
    Option(("--gpu-memory",), put("gpu_memory_gib", _gib), "SIZE", "at least so much on each GPU", SIZE),
    Option(("--min-gpus",), put("min_gpus", gpus.count), "N", "elastic: as few as N", SIZE),
    Option(("--max-gpus",), put("max_gpus", gpus.count), "N", "elastic: as many as N", SIZE),
    Option(("-N", "--nodes"), _nodes, "N", "on exactly N nodes, evenly", SIZE),
    Option(("-n", "--ntasks"), put("tasks", whole), "N", "processes that srun starts", SIZE),
    Option(("--ntasks-per-node", "--tasks-per-node"), put("tasks_per_node", whole), "N", "the same, on each node", SIZE),
    Option(("-c", "--cpus-per-task"), put("cpus_per_task", whole), "N", "CPUs for each process", SIZE),
    Option(("--cpus-per-gpu",), put("cpus_per_gpu", whole), "N", "CPUs for each GPU", SIZE),
    Option(("--cpus",), put("cpus", number), "N", "CPUs in all", SIZE),
    Option(("--mem",), _memory("memory_per_node_gib"), "SIZE", "memory on each node: 8G, 512M", SIZE),
    Option(("--mem-per-cpu",), _memory("memory_per_cpu_gib"), "SIZE", "memory for each CPU", SIZE),
    Option(("--mem-per-gpu",), _memory("memory_per_gpu_gib"), "SIZE", "memory for each GPU", SIZE),
    Option(("--memory",), _memory("memory_gib"), "SIZE", "memory in all", SIZE),

    Option(("-p", "--queue", "--partition"), put("queue", text), "NAME", "the queue", ORDER),
    Option(("-A", "--account"), put("account", text), "NAME", "who is charged", ORDER),
    Option(("--qos",), put("qos", text), "NAME", "quality of service", ORDER),
    Option(("--priority",), put("priority", number), "X", "larger goes first, where the policy looks at it", ORDER),
    Option(("--nice",), _nice, "N", "the same the other way round", ORDER, optional=True),
    Option(("-H", "--hold"), mark("hold"), None, "wait until it is released", ORDER),
    Option(("-b", "--begin"), put("begin", text), "TIME", "not before: now+2hours, 18:00, 2026-11-25T08:00", ORDER),
    Option(("-d", "--dependency"), put("after", dependencies.dependencies), "afterok:ID", "after, afterany, afternotok; or a name", ORDER),
    Option(("-a", "--array"), put("array", arrays.array), "0-99", "one job an index; 0-99%8: at most 8 at a time", ORDER),
    Option(("-t", "--time"), _limit, "TIME", "wall-clock limit: 2h, 1-12:00:00, 90 (minutes)", ORDER),
    Option(("--estimate",), put("estimate_s", durations.duration_s), "TIME", "how long you think that it takes", ORDER),
    Option(("--deadline",), put("deadline", text), "TIME", "when it must have ended", ORDER),

    Option(("--preemptible",), mark("preemptible", True), None, "may be stopped for another job, and starts again", STOP),
    Option(("--not-preemptible",), mark("preemptible", False), None, "is never stopped for another job", STOP),
    Option(("--requeue",), lambda asked, _, at: requeue(asked, True, at), None, "the same as --preemptible", STOP),
    Option(("--no-requeue",), lambda asked, _, at: requeue(asked, False, at), None, "and never runs again after a lost node either", STOP),
    Option(("--signal",), put("signal", signals.stop_signal), "[B:]SIG[@S]", "sent S seconds before it is stopped: B:USR1@120", STOP),
    Option(("--grace",), put("grace_s", seconds), "TIME", "from asking it to stop until it is killed (default: 30s)", STOP),
    Option(("--retry",), _retries, "N", "start it again after a failure, N times at most", STOP),
    Option(("--retry-on",), _retry_on, "CODE,...", "only after these exit codes", STOP),
    Option(("--checkpoint-dir",), put("checkpoint_dir", text), "DIR", "where its checkpoints lie (default: a folder of its own)", STOP),

    Option(("-o", "--output"), put("output", text), "FILE", "its output there too: %j id, %x name, %A_%a array and index", FILES),
    Option(("-e", "--error"), put("error", text), "FILE", "standard error there", FILES),
    Option(("--open-mode",), put("append", _append), "append|truncate", "what a later attempt does with them", FILES),
    Option(("--label",), _label, "NAME=VALUE", "a label; repeatable", FILES),
    Option(("--comment",), _labelled("comment"), "TEXT", "a label of that name", FILES),

    Option(("--wckey",), _labelled("wckey"), "KEY"),
    Option(("-C", "--constraint"), _constraint, "FEATURES"),
    Option(("--exclusive",), _exclusive, "WHAT", optional=True),
    Option(("--mail-type", "--mail-user"), ignored("no mail is sent; `trainmaster events` and the API tell what happens"), "X"),
    *(Option(names, ignored("processes are not bound to cores or sockets here; the job runs without it"), "X") for names in (
        ("-m", "--distribution"), ("--cpu-bind",), ("--mem-bind",), ("--gpu-bind",), ("--accel-bind",), ("--gres-flags",), ("--hint",),
        ("-B", "--extra-node-info"),        ("--cores-per-socket",), ("--sockets-per-node",), ("--threads-per-core",),
        ("--ntasks-per-core",), ("--ntasks-per-socket",),
        ("--mem-per-socket",), ("--network",),
    )),
    *(Option(names, ignored("is not known here; the job runs without it"), "X") for names in (
        ("--switches",), ("--time-min",), ("--profile",), ("--acctg-freq",), ("--gpu-freq",), ("--cpu-freq",),
        ("--delay-boot",), ("--power",),        ("--priority-tier",), ("--wait-all-nodes",),
        ("--mincpus",), ("--tmp",), ("--kill-on-invalid-dep",),
    )),
    *(Option(names, ignored("is not known here; the job runs without it"), "X", optional=True) for names in (
        ("-k", "--no-kill"), ("--get-user-env",), ("--propagate",), ("--resv-ports",),
    )),
    *(Option(names, ignored("is not known here; the job runs without it")) for names in (
        ("-O", "--overcommit"), ("-s", "--oversubscribe"), ("--contiguous",), ("--spread-job",), ("--use-min-nodes",),
    )),
    *(Option(names, silent) for names in (("-v", "--verbose"), ("-Q", "--quiet"), ("--ignore-pbs",), ("-I", "--immediate"))),
    *(Option(names, refused(_OF_NODES), "NODES") for names in (
        ("-w", "--nodelist"), ("-x", "--exclude"), ("-F", "--nodefile"), ("--prefer",),
    )),
    *(Option(names, refused(_CHANGES), "X") for names in (
        ("-i", "--input"), ("-L", "--licenses"), ("-M", "--cluster", "--clusters"), ("--reservation",), ("--bb",), ("--bbf",),
        ("--container",), ("--uid",), ("--gid",), ("-S", "--core-spec"), ("--thread-spec",),
        ("--gpus-per-socket",), ("--ntasks-per-gpu",), ("--tres-per-task",),
        ("--mcs-label",), ("--export-file",), ("--batch",), ("--cluster-constraint",),
    )),
    Option(("--reboot",), refused(_CHANGES)),
)  # fmt: skip

OPTIONS_BY_NAME = {name: option for option in OPTIONS for name in option.names}

# -q is `--qos` to sbatch; to `submit` it is "print the id alone", so only a script and the shim read it so.
AS_SBATCH: tuple[Option, ...] = (
    *(Option((*option.names, "-q"), option.apply, option.value) if "--qos" in option.names else option for option in OPTIONS),
    Option(("--parsable",), mark("parsable")),
    Option(("-W", "--wait"), mark("wait")),
    Option(("--test-only",), mark("dry_run")),
    Option(("--wrap",), put("wrap", lambda value, at: value), "COMMAND"),
)


def shown(table: Sequence[Option]) -> Iterator[Option]:
    """Those that help lists."""
    return (option for option in table if option.help)
