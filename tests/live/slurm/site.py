"""`trainmaster up --backend slurm` over the small cluster, with everything in it killed at random; jobs write down what they did."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from live.faults.real import JOB, Cluster
from live.slurm.conftest import mend
from trainmaster.live.control import JobRecord

LONG_S = 300.0

# The other node of a gang: it is there as long as the first is, and says so in a file of its own.
OTHER = r"""
if [ "${SLURM_NODEID:-0}" != 0 ]; then
    file="$1.other"
    say() { echo "$1 $TRAINMASTER_ATTEMPT $$ $(date +%s.%N)" >> "$file"; }
    last=$(grep '^begin' "$file" 2>/dev/null | tail -1 | cut -d' ' -f3)
    if [ -n "$last" ] && [ -n "$(tr -d '\0' < "/proc/$last/cmdline" 2>/dev/null)" ]; then say overlap; fi
    say begin
    trap 'exit 143' TERM
    while ! grep -q -E "^(end|stopped) $TRAINMASTER_ATTEMPT " "$1" 2>/dev/null; do sleep 0.1; done
    exit 0
fi
"""


class Site(Cluster):
    """The controller, and Slurm below it."""

    def __init__(self, folder: Path, slurm: Any, *flags: str) -> None:
        super().__init__(folder, *flags)
        self.slurm = slurm

    def argv(self) -> list[str]:
        argv = super().argv()
        at = argv.index("--slots")
        return [*argv[:at], *argv[at + 2 :], "--backend", "slurm"]

    def job(self, name: str, *, steps: int, code: int, checkpoints: bool, gpus: int, nodes: int | None) -> dict[str, Any]:
        """137 is what a rank that was killed ends with: it is tried again."""
        spec = self.spec(name, steps=steps, gpus=gpus, code=code, checkpoints=checkpoints, nodes=nodes)
        spec["command"][2] = OTHER + JOB
        return {**spec, "retry": {"max": 1000, "exit_codes": [137]}}

    def ended(self, ids: list[int]) -> None:
        """A start takes Slurm a second or more, and each fault costs some: one job may wait long for its turn."""
        until_s = time.monotonic() + LONG_S
        while any(job["id"] in ids for job in self.insist(lambda client: client.jobs())):
            assert time.monotonic() < until_s, f"not ended after {LONG_S:g} s: {self.insist(lambda client: client.jobs())}\n{self.log()}"
            time.sleep(1.0)
            mend(self.slurm)  # a second life may begin, and drain its node, long after the last fault
        super().ended(ids)

    # ------------------------------------------------------------------------------------------------- faults

    def pids(self, what: str) -> list[int]:
        """Of all supervisors, or of all ranks, of this site."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    argv = (entry / "cmdline").read_bytes()
                    supervisor = f"\0{self.state}\0".encode() in argv and b"gang" in argv
                    rank = f"TRAINMASTER_CONTROL={self.state}/".encode() in (entry / "environ").read_bytes()
                    if (supervisor if what == "supervisor" else rank) and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                        found.append(int(entry.name))
        return found

    def fault(self, rng: random.Random) -> str:
        what = rng.choice(["rank", "supervisor", "slurmd", "slurmctld", "slurmctld", "controller"])
        if what == "controller":
            self.kill()
            self.spawn()
        elif what == "slurmctld":
            self.slurm.end(what, signal.SIGKILL)
            self.slurm.wait(lambda: not self.slurm.alive("slurmctld"), 5)
            time.sleep(rng.choice([0.0, 0.0, 2.0]))
            self.slurm.start_controller()
        elif what == "slurmd":
            name = rng.choice(self.slurm.names)
            self.slurm.end(f"slurmd.{name}", signal.SIGKILL)
            self.slurm.wait(lambda: not self.slurm.alive(f"slurmd.{name}"), 5)
            time.sleep(rng.choice([0.0, 1.0, 3.0]))
            self.slurm.start_node(name)
        elif pids := self.pids(what):
            with suppress(ProcessLookupError):
                os.kill(rng.choice(pids), signal.SIGKILL)
        return what


def kill_anything(site: Site, seed: int, faults: int, jobs: int = 20) -> dict[str, Any]:
    """So many faults while jobs run; all of these end once, with their own result, and nothing is left."""
    rng = random.Random(f"slurm {seed}")
    began_s = time.monotonic()
    site.spawn()
    site.until_it_answers()
    codes: dict[int, int] = {}
    steps: dict[int, int] = {}
    done: list[str] = []
    while len(codes) < jobs or len(done) < faults:
        if len(codes) < jobs:
            count = min(jobs - len(codes), rng.choice([1, 2, 4]))
            specs = []
            for number in range(len(codes), len(codes) + count):
                gpus, nodes = rng.choice([(1, None), (1, None), (2, None), (4, None), (2, 2), (6, None)])
                more = {"steps": rng.choice([3, 10, 30, 60]), "code": rng.choice([0, 0, 0, 3]), "checkpoints": rng.random() < 0.7}
                specs.append((site.job(f"j{number}", gpus=gpus, nodes=nodes, **more), more))
            key = f"{seed}-{len(codes)}"
            ids = site.insist(lambda client, specs=specs, key=key: client.submit_all([spec for spec, _ in specs], key=key))  # type: ignore[misc]
            codes |= {id: more["code"] for id, (_, more) in zip(ids, specs, strict=True)}
            steps |= {id: more["steps"] for id, (_, more) in zip(ids, specs, strict=True)}
        if len(done) < faults:
            time.sleep(rng.choice([rng.uniform(0.0, 1.0), rng.uniform(1.0, 5.0)]))
            done.append(site.fault(rng))
            print(f"{time.time():.2f} {done[-1]} killed", flush=True)
            if rng.random() < 0.5:
                mend(site.slurm)
    mend(site.slurm)
    site.until_it_answers()
    site.ended(list(codes))
    assert site.slurm.wait(lambda: not site.slurm.run("squeue", "-h", fails=True), 60), site.slurm.run("squeue", "-h", fails=True)
    assert site.stop() == 0, site.log()
    records: list[JobRecord] = site.check(lost=True)
    assert {record.id: record.exit_code for record in records} == codes
    for record in records:
        step = site.state / "jobs" / str(record.id) / "checkpoint" / "step"
        assert int(step.read_text()) == steps[record.id], record
        other = site.folder / "said" / f"{record.name}.other"
        assert not other.exists() or "overlap" not in other.read_text(), record
    return {"seed": seed, "faults": {what: done.count(what) for what in sorted(set(done))}, "jobs": len(records),
            "attempts": sum(record.attempts for record in records), "took_s": time.monotonic() - began_s}  # fmt: skip
