"""Slurm's commands: the few that are used, each as an argv with a time limit, and what they print as data.

Nothing goes through a shell, and of the environment only what Slurm's clients need: an SBATCH_... of the operator's would change every
submission. What is read has a format of our own choosing (`squeue -o`, `sbatch --parsable`) or is KEY=VALUE (`scontrol -o`).
"""

from __future__ import annotations

import io
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from trainmaster.errors import BackendError
from trainmaster.live.backends import slurm_parsing as parsing
from trainmaster.live.backends.slurm_calling import PrintedTooMuch, pour

SUBMIT_S = 12.0  # sbatch itself gives up after 9 s without an answer
LOOK_S = 10.0
OUTPUT_BYTES = 256 << 20  # 5,000 jobs are 0.3 MB
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF", "TZ", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One Slurm job: so many nodes, all with the same amounts."""

    name: str
    partition: str
    nodes: tuple[str, ...]
    gpus: str  # of each node: `2`, `a100:2`, or nothing
    cpus: int  # 0: what the site gives
    memory_mib: int
    limit_min: int | None
    account: str | None
    qos: str | None
    folder: str  # where it starts
    output: str
    argv: tuple[str, ...]  # of the supervisor, on each node


AT_A_TERMINAL = 'test -t 0 && set -- --pty "$@"; exec srun "$@"'  # whether there is one, only who runs it knows


def step_into(id: int, node: str, argv: Sequence[str]) -> list[str]:
    """What somebody runs to run this inside a Slurm job, on one of its nodes."""
    step = [f"--jobid={id}", f"--nodelist={node}", "--nodes=1", "--ntasks=1", "--overlap", "--quiet", "--mpi=none", "--unbuffered"]
    return ["sh", "-c", AT_A_TERMINAL, "srun", *step, *argv]


class Slurm:
    """`launch`: the script that Slurm is given, which becomes the command that follows it."""

    def __init__(self, launch: str) -> None:
        self.launch = launch
        self.uid = os.getuid()
        self._env = {name: os.environ[name] for name in KEPT if name in os.environ} | {"LC_ALL": "C"}

    def submit(self, asked: Submission) -> int:
        """Its Slurm id. BackendError: it may have been taken all the same; only a look says."""
        count = len(asked.nodes)
        cpus = [f"--cpus-per-task={asked.cpus}"] if asked.cpus else []
        argv = asked.argv
        if count > 1:  # the script runs on the first node alone
            spread = [f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--mpi=none", "--kill-on-bad-exit=1", "--wait=0"]
            argv = ("srun", *spread, *cpus, *argv)
        options = {
            "job-name": asked.name, "partition": asked.partition, "nodelist": ",".join(asked.nodes), "nodes": count, "ntasks": count,
            "ntasks-per-node": 1, "gres": f"gpu:{asked.gpus}" if asked.gpus else None,
            "mem": f"{asked.memory_mib}M" if asked.memory_mib else None,
            "time": asked.limit_min, "account": asked.account, "qos": asked.qos, "chdir": asked.folder,
            "output": asked.output.replace("%", "%%"), "open-mode": "append",
        }  # fmt: skip
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        said = self._run(["sbatch", "--parsable", "--no-requeue", *given, *cpus, self.launch, *argv], SUBMIT_S)
        return parsing.submitted(said)

    def jobs(self) -> list[parsing.Row]:
        """All jobs of this user that have not ended, in one call."""
        return parsing.rows(self._run(["squeue", "-h", "-a", f"--user={self.uid}", "-o", parsing.FORMAT], LOOK_S))

    def cancel(self, ids: Sequence[int]) -> None:
        """Those that have ended are no mistake."""
        self._run(["scancel", "--quiet", *map(str, ids)], LOOK_S)

    def nodes(self) -> str:
        return self._run(["scontrol", "show", "node", "-d", "-o"], LOOK_S)

    def partitions(self) -> str:
        return self._run(["scontrol", "show", "partition", "-o"], LOOK_S)

    def how_it_ended(self, id: int, name: str) -> str:
        """In Slurm's words, while it still knows: `NODE_FAIL (None)`. For people. Nothing if the id is another job's by now."""
        try:
            return parsing.ending(self._run(["scontrol", "show", "job", "-o", str(id)], LOOK_S), name)
        except BackendError:
            return ""

    def _run(self, argv: list[str], within_s: float) -> str:
        into = io.BytesIO()
        try:
            status, said = pour(argv, self._env, into, within_s, OUTPUT_BYTES)
        except PrintedTooMuch:
            raise BackendError(f"{shlex.join(argv[:2])}: printed more than {OUTPUT_BYTES >> 20} MiB; is it Slurm's?") from None
        except subprocess.TimeoutExpired:
            raise BackendError(f"{argv[0]}: no answer within {within_s:g} s; is slurmctld up? (scontrol ping)") from None
        if status:
            raise BackendError(f"{shlex.join(argv[:2])}: {said}")
        return into.getvalue().decode(errors="replace")
