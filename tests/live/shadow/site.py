"""A Slurm that is none: commands on a PATH of their own, which print what a test has put into files and write down how they were called.

Whatever else is called by the name of a command of Slurm's fails, and is written down too.
"""

from __future__ import annotations

import json
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from trainmaster.live.backends.slurm_reading import QUEUE
from trainmaster.workload.traces.sacct import FIELDS

READING = ("squeue", "sinfo", "sacct", "scontrol")
CHANGING = ("sbatch", "srun", "salloc", "scancel", "sacctmgr", "strigger", "sattach", "sbcast", "scrontab", "slurmd", "slurmctld")
HOUR = 3_600

COMMAND = """#!{python}
import json, os, sys, time
folder, name, argv = {folder!r}, os.path.basename(sys.argv[0]), sys.argv[1:]
with open(folder + "/calls.jsonl", "a") as calls:
    calls.write(json.dumps([name, *argv]) + "\\n")
if name == "scontrol":
    name = "-".join(["scontrol", *argv[:2]])
if os.path.exists(f"{{folder}}/{{name}}.slow"):
    time.sleep(60)
if not os.path.exists(f"{{folder}}/{{name}}.out"):
    sys.exit(f"{{name}}: this must never be called")
sys.stdout.buffer.write(open(f"{{folder}}/{{name}}.out", "rb").read())
"""

CONFIG = """Configuration data as of 2026-11-25T12:00:00
AccountingStorageTRES   = {tres}
AccountingStorageType   = accounting_storage/{storage}
ClusterName             = theirs
MinJobAge               = 300 sec
PrivateData             = {private}
PriorityCalcPeriod      = 00:05:00
PriorityFlags           =
PriorityType            = priority/multifactor
PriorityWeightAge       = 1000
PriorityWeightTRES      = (null)
SchedulerParameters     = bf_interval=60,bf_window=2880
SLURM_VERSION           = 23.11.4
"""


@dataclass
class FakeSite:
    folder: Path
    now_s: int

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir(parents=True)
        for name in (*READING, *CHANGING):
            path = self.folder / "bin" / name
            path.write_text(COMMAND.format(python=sys.executable, folder=str(self.folder)))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.config()
        self.nodes(n1=4, n2=4)
        self._put("scontrol-show-partition", "PartitionName=main DefaultTime=NONE MaxTime=2-00:00:00 PriorityTier=3 TRES=PriorityTier=9\n")
        self.queue()
        self.history()

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def config(self, *, accounting: bool = True, gpus: bool = True, private: str = "none") -> None:
        tres = "cpu,mem,energy,node,billing" + (",gres/gpu" if gpus else "")
        self._put("scontrol-show-config", CONFIG.format(tres=tres, storage="slurmdbd" if accounting else "none", private=private))

    def nodes(self, used: int = 0, **gpus: int) -> None:
        """`used`: GPUs of each node."""
        self._put("scontrol-show-node", "".join(
            f"NodeName={name} CPUTot=64 Gres=gpu:a100:{count} GresUsed=gpu:a100:{used}(IDX:N/A) RealMemory=256000 State=MIXED "
            f"Partitions=main Comment=gres/gpu=4096\n"
            for name, count in gpus.items()
        ))  # fmt: skip

    def history(self, *rows: str, header: str = "|".join(FIELDS)) -> None:
        self._put("sacct", "".join(f"{line}\n" for line in (header, *rows)))

    def queue(self, *rows: str) -> None:
        self._put("squeue", "".join(f"{line}\n" for line in rows))

    def slow(self, name: str) -> None:
        (self.folder / f"{name}.slow").touch()

    def job(self, id: int, submit: float, start: float | None, end: float | None, gpus: int = 4, *, state: str = "", user: str = "ada",
            limit: str = "120", node: str = "n1") -> str:  # fmt: skip
        """A line of sacct; times in hours from now on (the past is below 0)."""
        at = ["Unknown" if hour is None else f"{self.now_s + hour * HOUR:.0f}" for hour in (start, end)]
        until = 0.0 if end is None else end
        elapsed = 0 if start is None else round((until - start) * HOUR)
        state = state or ("PENDING" if start is None else "RUNNING" if end is None else "COMPLETED")
        submitted = f"{self.now_s + submit * HOUR:.0f}"
        nodes = "None assigned" if start is None else node
        allocated = "" if start is None else f"cpu=4,gres/gpu={gpus},gres/gpu:a100={gpus},mem=16G"
        asked = f"cpu=4,gres/gpu={gpus}"
        told = (id, user, "lab", "main", "normal", submitted, submitted, *at, elapsed, limit, state, 1, nodes, asked, allocated)
        return "|".join(map(str, told))  # in the order of FIELDS

    def queued(self, id: int, submit: float, start: float | None, end: float | None = None, gpus: int = 4, *, state: str = "",
               user: str = "ada", **fields: str) -> str:  # fmt: skip
        """A line of squeue."""
        at = ["N/A" if hour is None else f"{self.now_s + hour * HOUR:.0f}" for hour in (start, end)]
        used = 0 if start is None else round(((end or 0.0) - start) * HOUR)
        state = state or ("PENDING" if start is None else "RUNNING" if end is None else "COMPLETED")
        told = {
            "JobID": str(id), "State": state, "UserName": user,
            "Account": "(null)", "Partition": "main", "QOS": "(null)", "SubmitTime": f"{self.now_s + submit * HOUR:.0f}",
            "EligibleTime": f"{self.now_s + submit * HOUR:.0f}", "StartTime": at[0], "EndTime": at[1],
            "TimeUsed": f"{used // 86_400}-{used % 86_400 // HOUR:02}:{used % HOUR // 60:02}:{used % 60:02}", "TimeLimit": "1-00:00:00",
            "NumNodes": "1", "NumCPUs": "4", "NumTasks": "1", "tres-alloc": "cpu=4,mem=16G,node=1,billing=4", "tres-per-job": "N/A",
            "tres-per-node": f"gres:gpu:{gpus}", "tres-per-task": "N/A", "NodeList": "" if start is None else "n1", **fields,
        }  # fmt: skip
        return "".join(f"{told[name]}|" for name in QUEUE)

    def _put(self, name: str, text: str) -> None:
        (self.folder / f"{name}.out").write_bytes(text.encode("utf-8", "surrogateescape"))
