"""What a job finds on its PATH that is named as Slurm's: `srun` and `scontrol`, as far as an ordinary batch script goes; and `enter`.

    srun OPTIONS CMD               one process a task: of all nodes where the script runs on the first alone, as sbatch has it;
                                   where every node runs the script, each starts its share
    scontrol show hostnames LIST   one a line
    scontrol requeue ID            the job runs again when this attempt has ended
    scontrol show job              what this process knows of it
An option of srun that asks for what the attempt has anyway is read over; one that nobody here understands ends it, with its name.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

from trainmaster.live.node import cgroups, limits, linux
from trainmaster.live.node import folder as files
from trainmaster.live.node.steps import Elsewhere

ROOT = Path(__file__).parents[3]
MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from trainmaster.live.node.lookalikes import main; sys.exit(main(sys.argv[1:]))"
HOSTS = 100_000  # of a bracket expression


def python(verb: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", MAIN, str(ROOT), verb]


def install(folder: str) -> None:
    """Written anew each time, so that they are of this version and this interpreter."""
    for verb in ("srun", "scontrol"):
        draft = f"{folder}/.{verb}.{os.getpid()}"
        files.write_bytes(draft, f'#!/bin/sh\nexec {shlex.join(python(verb))} "$@"\n'.encode())
        os.chmod(draft, 0o700)
        os.replace(draft, f"{folder}/{verb}")


def main(argv: list[str]) -> int:
    verbs: dict[str, Callable[[list[str]], int]] = {"srun": srun, "scontrol": scontrol, "enter": enter, "enter_own": enter_own}
    return verbs[argv[0]](argv[1:])


# -- srun ------------------------------------------------------------------------------------------------------------------------------

WITH_VALUE = {
    "-n": "ntasks", "--ntasks": "ntasks", "-N": "nodes", "--nodes": "nodes",
    "--ntasks-per-node": "per_node", "--tasks-per-node": "per_node",
    "-o": "output", "--output": "output", "-e": "error", "--error": "error", "-i": "input", "--input": "input",
    "--gpus-per-task": "gpus_per_task", "-D": "chdir", "--chdir": "chdir", "--export": "export", "-w": "nodelist", "--nodelist": "nodelist",
    "-K": "kill", "--kill-on-bad-exit": "kill",
}  # fmt: skip
READ_OVER_WITH_VALUE = frozenset(
    "-c --cpus-per-task -G --gpus --gpus-per-node --gres --mem --mem-per-cpu --mem-per-gpu -t --time -J --job-name"
    " -p --partition -A --account --cpu-bind --gpu-bind --mem-bind --distribution -m --mpi --jobid --open-mode --threads-per-core"
    " --wait -W --ntasks-per-socket --hint --signal --network --comment".split()
)
FLAGS = {"-l": "label", "--label": "label", "-u": "unbuffered", "--unbuffered": "unbuffered"}
READ_OVER = frozenset("--exclusive --exact --overlap -O --overcommit -s --oversubscribe --pty -Q --quiet -v --verbose -X".split())
BARE_OR_EQUALS = frozenset("-K --kill-on-bad-exit".split())  # their value only ever comes after "="
KILL_WAIT_S = 30.0  # between SIGTERM and SIGKILL for the other tasks when one has failed and -K is given
KEPT = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


Task = tuple[subprocess.Popen[bytes] | Elsewhere, list[threading.Thread]]  # a process, and who labels its lines


class Usage(Exception):
    """The command line is not understood."""


def srun(argv: list[str]) -> int:
    try:
        asked, command = _read_options(argv)
        tasks, world = _tasks(asked)
    except Usage as error:
        print(f"srun: {error}", file=sys.stderr)
        return 1
    for number in signal.valid_signals() - KEPT:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, lambda *_: None)  # the tasks get them too, and decide; a handler, unlike "ignore", ends with exec
    nodes = _nodes_of_the_plan()
    running = [_start(command, asked, task, nodes.get(node, {}), local, world) for task, node, local in tasks]
    return _wait(running, kill=asked.get("kill", os.environ.get("SLURM_KILL_BAD_EXIT", "0")) != "0")


def _read_options(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    asked: dict[str, str] = {}
    at = 0
    while at < len(argv) and argv[at].startswith("-") and argv[at] != "--":
        word = argv[at]
        name, equals, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:].removeprefix("="))
        at += 1
        if name in FLAGS:
            asked[FLAGS[name]] = "1"
            if not name.startswith("--") and equals:  # -lu
                at -= 1
                argv = [*argv[:at], f"-{value}", *argv[at + 1 :]]
        elif name in WITH_VALUE or name in READ_OVER_WITH_VALUE:
            if not equals and name not in BARE_OR_EQUALS:
                if at == len(argv):
                    raise Usage(f"{name} needs a value")
                value = argv[at]
                at += 1
            if name in WITH_VALUE:
                asked[WITH_VALUE[name]] = value
        elif name not in READ_OVER:
            raise Usage(f"{name} is not understood inside a Trainmaster job")
    command = argv[at + 1 :] if argv[at : at + 1] == ["--"] else argv[at:]
    if not command:
        raise Usage("no command")
    return asked, command


def _tasks(asked: dict[str, str]) -> tuple[list[tuple[int, int, int]], dict[str, str]]:
    """(task, node, task of its node) of what is to be started here, and what all are told of the whole. Tasks in blocks, as by default."""
    listed = _expand(os.environ.get("SLURM_JOB_NODELIST", "")) or [""]
    chosen = _chosen(asked, listed)
    nodes = min(_count(asked, "nodes", str(len(chosen))), len(chosen))
    per_node = _count(asked, "per_node", os.environ.get("SLURM_NTASKS_PER_NODE", "0"))
    if "ntasks" in asked:
        total = _count(asked, "ntasks", "")
        nodes = min(nodes, total)
    elif "per_node" in asked or ("nodes" in asked and per_node):
        total = nodes * per_node
    elif "nodes" in asked:
        total = nodes
    else:
        total = _count(asked, "ntasks", os.environ.get("SLURM_NTASKS", str(nodes)))
    counts = blocks(total, nodes)
    everywhere, here = bool(_nodes_of_the_plan()), int(os.environ.get("SLURM_NODEID", "0"))
    tasks = [
        (sum(counts[:place]) + local, node, local)
        for place, node in enumerate(chosen[:nodes])
        if everywhere or node == here
        for local in range(counts[place])
    ]
    names = ",".join(listed[node] for node in chosen[:nodes])
    world = {
        "SLURM_NTASKS": str(total), "SLURM_NPROCS": str(total), "SLURM_STEP_NUM_TASKS": str(total), "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_NNODES": str(nodes), "SLURM_STEP_NODELIST": names, "SLURM_STEP_ID": "0", "SLURM_STEPID": "0",
        "SLURM_STEP_TASKS_PER_NODE": tasks_per_node(counts), "SLURM_TASKS_PER_NODE": tasks_per_node(counts),
    }  # fmt: skip
    return tasks, world


def blocks(tasks: int, nodes: int) -> list[int]:
    """How many of the tasks are each node's."""
    more, rest = divmod(tasks, nodes)
    return [more + (node < rest) for node in range(nodes)]


def tasks_per_node(counts: list[int]) -> str:
    """As Slurm writes it: `2(x3)`, or `2,1`."""
    runs = [(count, len(list(same))) for count, same in itertools.groupby(counts)]
    return ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in runs)


def _chosen(asked: dict[str, str], listed: list[str]) -> list[int]:
    """The nodes of the job, or those of --nodelist, by number."""
    if "nodelist" not in asked:
        return list(range(len(listed)))
    wanted = _expand(asked["nodelist"])
    if not wanted or not set(wanted) <= set(listed):
        raise Usage(f"--nodelist: {asked['nodelist']} is not among the nodes of this job, {','.join(listed)}")
    return [node for node, name in enumerate(listed) if name in wanted]


def _nodes_of_the_plan() -> dict[int, dict[str, str]]:
    """By number, the environment of each node where this process may start tasks on all; else nothing."""
    control = os.environ.get("TRAINMASTER_CONTROL")
    plan = files.read_json(f"{os.path.dirname(control)}/{files.PLAN}") if control else None
    return dict(enumerate(plan["nodes"])) if plan is not None else {}


def _count(asked: dict[str, str], name: str, default: str) -> int:
    text = asked.get(name, default).partition("-")[0]  # -N 2-4
    if not text.isdecimal() or (name in asked and not 1 <= int(text) <= 10_000):
        raise Usage(f"{name}: {text!r} is not a number of {'nodes' if name == 'nodes' else 'tasks'}")
    return int(text)


def _start(command: list[str], asked: dict[str, str], task: int, node: dict[str, str], local: int, world: dict[str, str]) -> Task:
    """`node`: what is different there."""
    env = os.environ | node | world | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(local)}
    each = asked.get("gpus_per_task", os.environ.get("SLURM_GPUS_PER_TASK", "")).rpartition(":")[2]
    if each.isdecimal():  # binds them, as Slurm does
        gpus = [gpu for gpu in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[local * int(each) : (local + 1) * int(each)])
    chosen = asked.get("export", "ALL").split(",")
    if "ALL" not in chosen:
        kept = {name for name in env if name.startswith(("SLURM_", "TRAINMASTER_")) or name in (*chosen, "PATH", "CUDA_VISIBLE_DEVICES")}
        env = {name: value for name, value in env.items() if name in kept}
    env |= dict(pair.split("=", 1) for pair in chosen if "=" in pair)
    label = f"{task}: ".encode() if "label" in asked else b""
    out, err = (_file(asked, name, env) for name in ("output", "error"))
    standard_in = _input(asked, task, env)
    there = _elsewhere(env)
    process: subprocess.Popen[bytes] | Elsewhere
    try:
        if "socket" in there:
            task_there = {"argv": command, "env": env, "cwd": os.path.abspath(asked.get("chdir", "."))}
            name = env.get("SLURMD_NODENAME", "")
            process = Elsewhere(there["socket"], int(env["SLURM_NODEID"]), name, task_there, out, err, piped=bool(label))
        else:
            command, env, cwd, detached = _sent_there(there, command, env, asked.get("chdir"))
            process = subprocess.Popen(
                command, env=env, cwd=cwd, stdin=standard_in, start_new_session=detached,
                stdout=out if out is not None else subprocess.PIPE if label else None,
                stderr=err if err is not None else subprocess.STDOUT if out is not None else subprocess.PIPE if label else None,
            )  # fmt: skip
            for descriptor in (standard_in, out, err):
                if descriptor is not None and descriptor != subprocess.DEVNULL:
                    os.close(descriptor)  # it is the task's
    except OSError as error:
        print(f"srun: error: {error.filename or command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    labelled = []
    for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
        if source is not None:
            labelled.append(threading.Thread(target=_label, args=(source, target.fileno(), label), daemon=True))
            labelled[-1].start()
    return process, labelled


def _elsewhere(env: Mapping[str, str]) -> dict[str, Any]:
    """How a task comes to its node, where that is another machine: {"argv", "env"} of a launcher, or the "socket" of `steps`."""
    control = os.environ.get("TRAINMASTER_CONTROL")
    plan = files.read_json(f"{os.path.dirname(control)}/{files.PLAN}") if control else None
    found: dict[str, Any] = (plan or {}).get("elsewhere", {}).get(env.get("SLURM_NODEID"), {})
    return found


def _sent_there(
    launcher: Mapping[str, Any], command: list[str], env: dict[str, str], cwd: str | None
) -> tuple[list[str], dict[str, str], str | None, bool]:
    """With a launcher that, which finds the task in a file and hears none of the job's signals; else the task itself."""
    if not launcher:
        return command, env, cwd, False
    path = f"{os.environ['TRAINMASTER_CONTROL']}/task.{os.getpid()}.{env['SLURM_PROCID']}"
    files.write_json(path, {"argv": command, "env": env, "cwd": os.path.abspath(cwd or ".")})
    return [*launcher["argv"], path], launcher["env"], None, True


def _input(asked: dict[str, str], task: int, env: Mapping[str, str]) -> int | None:
    """None: that of srun. It is read by one task: the first, or the one that is named."""
    what = asked.get("input", "all")
    if what == "all" or what.isdecimal():
        return None if task == (int(what) if what != "all" else 0) else subprocess.DEVNULL
    return subprocess.DEVNULL if what == "none" else _open(_path(what, env), os.O_RDONLY)


def _file(asked: dict[str, str], name: str, env: Mapping[str, str]) -> int | None:
    pattern = asked.get(name)
    if pattern is None or pattern in ("all", "none"):
        return None
    return _open(_path(pattern, env), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _path(pattern: str, env: Mapping[str, str]) -> str:
    job = os.environ.get("SLURM_JOB_ID", "")
    values = {
        "%": "%", "j": job, "J": f"{job}.0", "t": env["SLURM_PROCID"], "n": env.get("SLURM_NODEID", "0"),
        "N": env.get("SLURMD_NODENAME", ""), "s": "0",
        "x": os.environ.get("SLURM_JOB_NAME", ""), "u": os.environ.get("SLURM_JOB_USER", ""),
        "A": os.environ.get("SLURM_ARRAY_JOB_ID", job), "a": os.environ.get("SLURM_ARRAY_TASK_ID", "4294967294"),
    }  # fmt: skip
    return re.sub(r"%(\d*)(.)", lambda found: values.get(found[2], found[0]).replace("/", "_").rjust(int(found[1] or 0) % 11, "0"), pattern)


def _open(path: str, how: int) -> int:
    try:
        return os.open(path, how | os.O_CLOEXEC, 0o666)
    except OSError as error:
        print(f"srun: error: {path}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


def _label(source: IO[bytes], target: int, label: bytes) -> None:
    """Where nobody reads on, the task finds that out as it would alone."""
    with contextlib.suppress(OSError), source:
        for line in source:
            view = memoryview(label + line)
            while view:
                view = view[os.write(target, view) :]


def _wait(running: list[Task], *, kill: bool) -> int:
    """The largest of their exit codes, as srun has it. `kill`: one that fails ends the others."""
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()

    def tell(process: subprocess.Popen[bytes] | Elsewhere) -> None:
        codes.put(process.wait())

    for process, _ in running:
        threading.Thread(target=tell, args=(process,), daemon=True).start()
    worst, left = 0, len(running)
    until_s = math.inf
    while left:
        try:
            code = codes.get(timeout=None if until_s == math.inf else max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            _signal(running, signal.SIGKILL)
            break
        worst, left = max(worst, 128 - code if code < 0 else code), left - 1
        if code and kill and until_s == math.inf:
            _signal(running, signal.SIGTERM)
            until_s = time.monotonic() + KILL_WAIT_S
    for _, labelled in running if until_s == math.inf else ():
        for thread in labelled:
            thread.join()
    return worst


def _signal(running: list[Task], number: int) -> None:
    """Those of other nodes go when srun does."""
    here = [process.pid for process, _ in running if isinstance(process, subprocess.Popen) and process.returncode is None]
    linux.kill([one for pid in here for one in (pid, *linux.descendants(pid))], number)


# -- scontrol --------------------------------------------------------------------------------------------------------------------------


def scontrol(argv: list[str]) -> int:
    words = [word for word in argv if not word.startswith("-")]  # -o, --oneliner and their like change only how much is printed
    if words[:2] in (["show", "hostnames"], ["show", "hostname"]):
        listed = words[2] if len(words) > 2 else os.environ.get("SLURM_JOB_NODELIST", "")
        print(*_expand(listed), sep="\n")
        return 0
    if words[:1] == ["requeue"] and len(words) > 1:
        return _requeue(words[1])
    if words[:2] == ["show", "job"] or words[:2] == ["show", "jobid"]:
        return _show_job(words[2:])
    print(f"scontrol: {shlex.join(argv)} is not understood inside a Trainmaster job", file=sys.stderr)
    return 1


def _expand(listed: str) -> list[str]:
    """`n[1-3,07],x` -> n1 n2 n3 n07 x."""
    hosts: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", listed):
        expanded = [""]
        for text, inside in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", part):
            ends = [text] if text else [number for piece in inside.split(",") for number in _range(piece)]
            expanded = list(itertools.islice((start + end for start in expanded for end in ends), HOSTS))
        hosts += expanded
    return hosts[:HOSTS]


def _range(piece: str) -> list[str]:
    low, dash, high = piece.partition("-")
    if not dash or not (low.isdecimal() and high.isdecimal()):
        return [piece]
    return [str(number).rjust(len(low), "0") for number in range(int(low), min(int(high), int(low) + HOSTS) + 1)]


def _own_names() -> set[str]:
    array = f"{os.environ.get('SLURM_ARRAY_JOB_ID', '')}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return {os.environ.get("SLURM_JOB_ID", ""), array} - {"", "_"}


def _requeue(which: str) -> int:
    control = os.environ.get("TRAINMASTER_CONTROL")
    if control is None or which not in _own_names():
        print(f"scontrol: job {which} is not the one that this process belongs to: `trainmaster requeue {which}`", file=sys.stderr)
        return 1
    try:
        files.write_json(f"{control}/requeue", {"at_s": time.time()})
    except OSError as error:
        print(f"scontrol: {error}", file=sys.stderr)
        return 1
    files.poke(f"{os.path.dirname(control)}/{files.COMMANDS}", '{"changed": 1}')
    return 0


def _show_job(words: list[str]) -> int:
    if words and words[0] not in _own_names():
        print(f"scontrol: job {words[0]} is not the one that this process belongs to: `trainmaster show {words[0]}`", file=sys.stderr)
        return 1
    env = os.environ
    print(f"JobId={env.get('SLURM_JOB_ID', '')} JobName={env.get('SLURM_JOB_NAME', '')}")
    print(f"   JobState=RUNNING Restarts={env.get('SLURM_RESTART_COUNT', '0')} Partition={env.get('SLURM_JOB_PARTITION', '(null)')}")
    print(f"   NodeList={env.get('SLURM_JOB_NODELIST', '')} NumNodes={env.get('SLURM_NNODES', '')} NumTasks={env.get('SLURM_NTASKS', '')}")
    print(f"   WorkDir={env.get('SLURM_SUBMIT_DIR', '')}")
    return 0


# -- enter -----------------------------------------------------------------------------------------------------------------------------


def enter(argv: list[str]) -> NoReturn:
    """A shell among the processes of a running attempt: its cgroup, environment, folder. It ends with them."""
    folder = argv[0]
    plan = files.read_json(f"{folder}/{files.PLAN}")
    if plan is None or os.path.exists(f"{folder}/{files.END}"):
        sys.exit("this attempt does not run any more")
    rank = plan["ranks"][0]
    if plan["cgroup"] is not None:
        cgroups.enter(plan["cgroup"]["folder"])
        limits.enter(plan["limits"])
    else:
        files.write_bytes(f"{folder}/entered", b"")  # its supervisor looks for us by our environment
    os.chdir(rank["cwd"])
    os.umask(plan["umask"])
    env = {"TERM": os.environ.get("TERM", "dumb"), **plan["env"], **rank["env"]}
    shell = env.get("SHELL", "/bin/sh")
    os.execve(shell if os.access(shell, os.X_OK) else "/bin/sh", [shell, *(argv[1:] and ["-c", argv[1]])], env)


def enter_own(argv: list[str]) -> NoReturn:
    """The same where folders are their users': what another's says, the environment and the shell, is not obeyed, not by root either."""
    try:
        folder = os.open(argv[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        sys.exit(f"{argv[0]}: {error.strerror}; only the job's own user can enter it")
    if os.fstat(folder).st_uid != os.getuid():
        sys.exit(f"{argv[0]}: only the job's own user can enter it")
    enter([f"/proc/self/fd/{folder}", *argv[1:]])
