"""What the processes of an attempt get: argv, environment, working directory, output files. The supervisor carries it out.

The environment is the one it was submitted with, and then ours: Trainmaster's own variables, the look-alikes of Slurm's, and with
`ranks: gpu` those of torchrun. Like sbatch's, a script runs in a copy, in the working directory of its submission.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from trainmaster.errors import InputError
from trainmaster.live.backends.base import Attempt
from trainmaster.live.node import folder as files
from trainmaster.live.node.lookalikes import blocks, tasks_per_node

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT_OF_SLURM = (  # what the front end read from options
    "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK",
)  # fmt: skip
NOT_PASSED_ON = ("TRAINMASTER_STATE", "TRAINMASTER_TOKEN")


def plan(
    attempt: Attempt, state: str, gpus: Sequence[Sequence[int]], *, port: int, cgroup: dict[str, str] | None, limits: list[dict[str, Any]],
    umask: int, log_limit: int,
) -> dict[str, Any]:  # fmt: skip
    """`gpus`: the indices picked on each node of `attempt.shares`; `log_limit`: bytes of each log, 0 = none.

    InputError: what cannot be run as it stands.
    """
    spec = attempt.spec
    path = files.attempt_folder(state, attempt.job, attempt.attempt)
    cwd = os.path.abspath(spec.snapshot or spec.workdir)
    counts = [len(indices) if spec.ranks == "gpu" and share.gpus >= 1 else 1 for share, indices in zip(attempt.shares, gpus, strict=True)]
    world = sum(counts)
    common = _common(attempt, state, path, cwd, world)
    nodes = [
        _of_node(node, share.node, indices, share.cpus, share.memory_gib)
        for node, (share, indices) in enumerate(zip(attempt.shares, gpus, strict=True))
    ]
    ranks: list[dict[str, Any]] = []
    setups: list[dict[str, Any]] = []
    for node, (share, here, count) in enumerate(zip(attempt.shares, nodes, counts, strict=True)):
        if spec.setup is not None:
            log = str(node if spec.ranks == "batch" else len(ranks))  # of its first rank; each node has its own
            setups.append({"argv": ["/bin/sh", "-c", spec.setup], "env": here, "cwd": cwd, "stdout": None, "stderr": None, "log": log})
        for local in range(0 if spec.ranks == "batch" and node else count):
            rank = len(ranks)
            env = {**here, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local)}
            if spec.ranks == "gpu":
                env |= _torchrun(rank, local, node, world, count, port)
            out, err = (_pattern(text, attempt, share.node, node, rank) for text in (spec.output, spec.error))
            ranks.append({
                "rank": rank, "argv": _argv(spec.command, spec.script, spec.script_args, path), "env": env, "cwd": cwd, "log": str(rank),
                "stdout": out if out is not None or err is None else f"{path}/{rank}.out", "stderr": err,
            })  # fmt: skip
    return {
        "job": attempt.job, "attempt": attempt.attempt, "script": spec.script is not None, "cwd": cwd, "env": common,
        "setups": setups, "ranks": ranks,
        "nodes": nodes if spec.ranks == "batch" else [],  # srun starts tasks on all of them
        "marker": f"TRAINMASTER_CONTROL={common['TRAINMASTER_CONTROL']}", "checkpoint_dir": common["TRAINMASTER_CHECKPOINT_DIR"],
        "append": spec.append, "grace_s": spec.grace_s, "signal": None if spec.signal is None else spec.signal.model_dump(),
        "cgroup": cgroup, "limits": limits, "umask": umask, "log_limit": log_limit, "port": port,
        "gpus": [
            {"node": share.node, "indices": list(indices), "each": share.gpus if share.gpus < 1 else 1.0}
            for share, indices in zip(attempt.shares, gpus, strict=True)
        ],
    }  # fmt: skip


def _argv(command: Sequence[str] | None, script: str | None, args: Sequence[str], path: str) -> list[str]:
    """A script goes to the interpreter of its #! line by name, as the kernel would do: no file open for writing is executed."""
    if script is None:
        assert command is not None, "JobSpec has either"
        return list(command)
    first = script.partition("\n")[0].rstrip("\r")
    interpreter = first[2:].strip().split(None, 1) if first.startswith("#!") else ["/bin/sh"]
    if not interpreter:
        raise InputError("the script's first line, #!, names no interpreter")
    return [*(part.strip() for part in interpreter), f"{path}/script", *args]


def _common(attempt: Attempt, state: str, path: str, cwd: str, world: int) -> dict[str, str]:
    spec = attempt.spec
    for name, value in spec.env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InputError(f"the environment: {name[:40]!r} cannot be a variable")
    for text in (*(spec.command or ()), *spec.script_args, cwd, spec.setup or ""):
        if "\0" in text:
            raise InputError("a NUL byte in the command, its arguments, its folder or its setup")
    asked = {name: spec.env[name] for name in KEPT_OF_SLURM if name in spec.env}
    tasks = asked.get("SLURM_NTASKS", str(world))
    nodes = [share.node for share in attempt.shares]
    job, user = str(attempt.job), attempt.user
    array = {}
    if attempt.array_job is not None and attempt.array_index is not None:
        indices = spec.array.indices if spec.array is not None else (attempt.array_index,)
        array = {
            "SLURM_ARRAY_JOB_ID": str(attempt.array_job), "SLURM_ARRAY_TASK_ID": str(attempt.array_index),
            "SLURM_ARRAY_TASK_COUNT": str(len(indices)),
            "SLURM_ARRAY_TASK_MIN": str(min(indices)), "SLURM_ARRAY_TASK_MAX": str(max(indices)),
        }  # fmt: skip
    return {
        **{name: value for name, value in spec.env.items() if not name.startswith("SLURM_") and name not in NOT_PASSED_ON},
        "PATH": f"{state}/bin:{spec.env.get('PATH') or DEFAULT_PATH}",
        "PWD": cwd,
        "TRAINMASTER_JOB_ID": job,
        "TRAINMASTER_ATTEMPT": str(attempt.attempt),
        "TRAINMASTER_CONTROL": f"{path}/{files.CONTROL}",
        "TRAINMASTER_CHECKPOINT_DIR": os.path.join(spec.workdir, spec.checkpoint_dir or files.checkpoint_folder(state, attempt.job)),
        "TRAINMASTER_RESUMES": str(int(attempt.resumes)),
        "SLURM_JOB_ID": job, "SLURM_JOBID": job, "SLURM_JOB_NAME": attempt.name, "SLURM_JOB_USER": user,
        "SLURM_JOB_NUM_NODES": str(len(nodes)), "SLURM_NNODES": str(len(nodes)),
        "SLURM_JOB_NODELIST": ",".join(nodes), "SLURM_NODELIST": ",".join(nodes),
        "SLURM_NTASKS": tasks, "SLURM_NPROCS": tasks,
        "SLURM_TASKS_PER_NODE": tasks_per_node(blocks(int(tasks) if tasks.isdecimal() else world, len(nodes))),
        "SLURM_SUBMIT_DIR": spec.workdir, "SLURM_CLUSTER_NAME": "trainmaster",
        **asked,
        **array,
        **({"SLURM_JOB_PARTITION": attempt.queue} if attempt.queue is not None else {}),
        **({"SLURM_JOB_ACCOUNT": spec.account} if spec.account is not None else {}),
        **({"SLURM_JOB_QOS": spec.qos} if spec.qos is not None else {}),
        **({"SLURM_RESTART_COUNT": str(attempt.attempt - 1)} if attempt.resumes else {}),
    }  # fmt: skip


def _of_node(node: int, name: str, indices: Sequence[int], cpus: float, memory_gib: float) -> dict[str, str]:
    listed = ",".join(map(str, indices))
    return {
        "SLURM_NODEID": str(node),
        "SLURMD_NODENAME": name,
        "SLURM_GPUS_ON_NODE": str(len(indices)),
        "SLURM_JOB_GPUS": listed,
        "CUDA_VISIBLE_DEVICES": listed,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's order, in which the indices are meant
        **({"SLURM_CPUS_ON_NODE": str(max(1, int(cpus)))} if cpus else {}),
        **({"SLURM_MEM_PER_NODE": str(int(memory_gib * 1024))} if memory_gib else {}),
    }


def _torchrun(rank: int, local: int, node: int, world: int, local_world: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(local_world),
        "GROUP_RANK": str(node), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def _pattern(text: str | None, attempt: Attempt, node_name: str, node: int, rank: int) -> str | None:
    """sbatch's file patterns, in the folder of the submission (a snapshot may go). A value never brings a folder with it."""
    if text is None:
        return None
    values = {
        "%": "%",
        "j": str(attempt.job), "J": str(attempt.job),
        "x": attempt.name,
        "A": str(attempt.array_job if attempt.array_job is not None else attempt.job),
        "a": str(attempt.array_index if attempt.array_index is not None else 4294967294),  # Slurm's NO_VAL
        "N": node_name, "n": str(node), "t": str(rank), "s": "batch", "u": attempt.user,
    }  # fmt: skip

    def value(found: re.Match[str]) -> str:
        known = values.get(found[2])
        if known is None:
            return found[0]
        known = known.rjust(min(int(found[1]), 10), "0") if found[1] and known.isdecimal() else known
        return "_" if known in (".", "..") else re.sub(r"[/\0]", "_", known)

    named = re.sub(r"%(\d*)(.)", value, text)
    if "\0" in named:
        raise InputError("a NUL byte in the name of an output file")
    return os.path.join(os.path.abspath(attempt.spec.workdir), named)
