"""The same jobs under the real Slurm and under the twin's `slurm`: who starts when.

Priority is made of partition and size: Slurm counts age and fair share only where it has a slurmdbd, and so a database.
A workload of sleep jobs with time limits is submitted to four nodes of eight fake GPUs; slurmctld's log says to the millisecond when each
was submitted, started and ended, and when it looked at its queue. The twin is given the submissions, the run times and the same slurm.conf,
and one of two clocks: an even one, of the mean lengths of Slurm's ticks and cycles in that run, or those of the run, look by look.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from live.scripts import script
from schedules import simulate
from trainmaster.engine.policy_files import READERS
from trainmaster.policies.registry import make_policy
from trainmaster.policies.slurm import Slurm
from trainmaster.policies.slurm_clock import Clock, EvenClock
from trainmaster.workload.jobs import Job

NODES, GPUS, RUNS = 4, 8, 3
MINUTE_S = 60.0
COMPLETING_S = 0.008  # from a job's end until its node takes others: the median of 200 jobs of one run (0.005 to 0.033), in slurmctld's log
SITE = """\
PriorityType=priority/multifactor
PriorityWeightJobSize=600
PriorityWeightPartition=400
ProctrackType=proctrack/linuxproc
SchedulerParameters=defer,batch_sched_delay=0,sched_min_interval=100000,bf_interval=3
MinJobAge=7200
SlurmctldDebug=debug
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityJobFactor=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityJobFactor=4
"""
REPLACED = ("SchedulerParameters=", "PartitionName=", "ProctrackType=")


@dataclass(frozen=True)
class Sleep:
    """One job of the workload."""

    at_s: float  # after the first
    nodes: int
    gpus: int  # on each node
    sleep_s: float
    limit_min: int
    partition: str


@dataclass(frozen=True)
class Ran:
    """What became of it, in Unix seconds."""

    submit_s: float
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Real:
    """A run of the real one: jobs in the order of the workload, and when its two schedulers looked."""

    ran: list[Ran]
    looks_s: list[float]
    cycles_s: list[float]


def workload(seed: int, jobs: int = 200, span_s: float = 90.0) -> list[Sleep]:
    """Gangs of one to sixteen GPUs that come faster than the cluster can serve them; limits are whole minutes, run times seconds."""
    rng = np.random.default_rng(seed)
    at_s = np.sort(rng.uniform(0, span_s, jobs))
    shapes = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 8)]
    shape = rng.choice(len(shapes), jobs, p=[0.42, 0.22, 0.2, 0.11, 0.05])
    sleep_s = np.clip(rng.lognormal(np.log(5), 0.6, jobs), 2, 30).round()
    limit_min = rng.choice([1, 2, 3, 5, 10, 20], jobs, p=[0.25, 0.25, 0.2, 0.15, 0.1, 0.05])
    partition = np.where(rng.random(jobs) < 0.15, "urgent", "main")
    return [Sleep(float(at_s[i]), *shapes[shape[i]], float(sleep_s[i]), int(limit_min[i]), str(partition[i])) for i in range(jobs)]


class Site:
    """The small cluster under this configuration."""

    def __init__(self, folder: Path, name: str) -> None:
        self.cluster = script("slurm_cluster").SmallCluster(folder, nodes=NODES, gpus=GPUS, prefix=f"o{os.getpid()}{name}")
        written = self.cluster._write

        def write() -> None:
            written()
            text = self.cluster.conf.read_text().replace(",cred_expire=5", "")  # on a busy machine a launch may take longer
            kept = [line for line in text.splitlines() if not line.startswith(REPLACED)]
            self.cluster.conf.write_text("\n".join(kept) + "\n" + SITE)

        self.cluster._write = write

    def run(self, jobs: Sequence[Sleep], within_s: float = 900.0) -> Real:
        """All of them, from the first submission to the last end."""
        self.cluster.start()
        try:
            self._submit("first", "--wrap=true")  # slurmctld reads SchedulerParameters when it first looks at a job, and looks late at that
            assert self._idle(30), "the first job is left"
            time.sleep(3)
            began_s, ids = time.monotonic(), list[int]()
            for number, job in enumerate(jobs):
                time.sleep(max(began_s + job.at_s - time.monotonic(), 0.0))
                ids.append(self._submit(
                    str(number), f"--nodes={job.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={job.gpus}", f"--gres=gpu:{job.gpus}",
                    f"--time={job.limit_min}", f"--partition={job.partition}", f"--wrap=exec sleep {job.sleep_s:g}",
                ))  # fmt: skip
            assert self._idle(within_s), "jobs are left"
            states = re.findall(r"JobState=(\S+)", self.cluster.run("scontrol", "show", "job", "-o"))
            assert states == ["COMPLETED"] * (1 + len(jobs))
            return parse_log((self.cluster.folder / "slurmctld.log").read_text(), ids)
        finally:
            self.cluster.stop()

    def _submit(self, name: str, *options: str) -> int:
        return int(self.cluster.run("sbatch", "--parsable", f"--job-name={name}", "--output=/dev/null", *options))

    def _idle(self, within_s: float) -> bool:
        return bool(self.cluster.wait(lambda: not self.cluster.run("squeue", "-h").strip(), within_s))


def parse_log(log: str, ids: Sequence[int]) -> Real:
    """What slurmctld's log (SlurmctldDebug=debug) says of these jobs, and of its schedulers since the first of them came."""
    times: dict[str, dict[int, float]] = {"submit": {}, "start": {}, "end": {}}
    looks_s, cycles_s = list[float](), list[float]()
    happened = {
        "submit": re.compile(r"_slurm_rpc_submit_batch_job: JobId=(\d+) "),
        "start": re.compile(r"(?:sched: Allocate|_start_job: Started) JobId=(\d+) "),
        "end": re.compile(r"_job_complete: JobId=(\d+) done"),
    }
    for at, said in re.findall(r"^\[(\S+)\] (.*)$", log, re.MULTILINE):
        at_s = datetime.fromisoformat(at).timestamp()
        for what, pattern in happened.items():
            if found := pattern.search(said):
                times[what][int(found[1])] = at_s
        if "sched: Running job scheduler" in said:
            looks_s.append(at_s)
        elif "_attempt_backfill: beginning" in said:
            cycles_s.append(at_s)
    ran = [Ran(*(times[what][id] for what in times)) for id in ids]
    return Real(ran, *([at_s for at_s in some if at_s >= ran[0].submit_s] for some in (looks_s, cycles_s)))


@dataclass(frozen=True)
class RecordedClock:
    """The looks and cycles of one run."""

    looks_s: list[float]
    cycles_s: list[float]

    def look_s(self, memory: dict[str, Any], now_s: float, ended: bool) -> float:
        return next((at_s for at_s in self.looks_s if at_s >= max(now_s, memory["looked_s"])), np.inf)

    def cycle_s(self, memory: dict[str, Any], now_s: float) -> float:
        return next((at_s for at_s in self.cycles_s if at_s >= now_s and at_s > memory["cycle_s"]), np.inf)

    def come(self, at_s: float, now_s: float) -> bool:
        return at_s <= now_s

    def looked(self, memory: dict[str, Any], now_s: float) -> None:
        memory["looked_s"] = now_s


def recorded(even: EvenClock, real: Real, zero_s: float) -> Clock:
    return RecordedClock(*([at_s - zero_s for at_s in some] for some in (real.looks_s, real.cycles_s)))


def measured(even: EvenClock, real: Real, zero_s: float) -> Clock:
    """The mean tick, which is ten naps of a tenth of a second and what they take longer, and the usual time from cycle to cycle."""
    gaps_s = np.diff(real.looks_s)
    ticks = np.rint(gaps_s)
    whole = (ticks > 0) & (abs(gaps_s - ticks) < 0.05)  # not those between two ticks, at a job's end
    tick_s = float(gaps_s[whole].sum() / ticks[whole].sum())
    interval_s = float(np.median(np.diff(real.cycles_s)))
    return replace(even, tick_s=tick_s, interval_s=interval_s, from_s=real.looks_s[0] - zero_s, cycles_from_s=real.cycles_s[0] - zero_s)


def twin(jobs: Sequence[Sleep], real: Real, conf: Path, clock: Any) -> list[Ran]:
    """The same jobs in the twin: submitted when they were, as long as they ran; by `recorded` or by `measured`."""
    zero_s = real.ran[0].submit_s // MINUTE_S * MINUTE_S  # plans are rounded to the minute of the clock
    rows = [
        Job(id=str(number), submit_s=one.submit_s - zero_s, gpus=job.nodes * job.gpus, work=one.end_s - one.start_s + COMPLETING_S,
            limit_s=job.limit_min * MINUTE_S, queue=job.partition, max_nodes=job.nodes)
        for number, (job, one) in enumerate(zip(jobs, real.ran, strict=True))
    ]  # fmt: skip
    policy, _ = make_policy(Slurm, {"conf": str(conf)}, "slurm", READERS)
    policy.clock = clock(policy.clock, real, zero_s)
    run = simulate(rows, f"{NODES}x{GPUS}", policy)
    return [Ran(one.submit_s, *(time + zero_s for time in run.held(row.id)[0])) for row, one in zip(rows, real.ran, strict=True)]


def waits_apart(some: Sequence[Ran], others: Sequence[Ran]) -> float:
    """By how much the mean wait of the second differs, as a part of the first's."""
    first, second = (mean_wait_s(runs) for runs in (some, others))
    return abs(second - first) / first


def mean_wait_s(runs: Sequence[Ran]) -> float:
    return float(np.mean([one.start_s - one.submit_s for one in runs]))


def order_apart(some: Sequence[Ran], others: Sequence[Ran]) -> float:
    """Of the pairs that started in different seconds, the part that they started in the opposite order (Kendall)."""
    first, second = (np.floor([one.start_s for one in runs]) for runs in (some, others))
    before, also = (np.sign(starts[:, None] - starts[None, :]) for starts in (first, second))
    told = (before != 0) & (also != 0)
    return float((before != also)[told].mean())


def ran_side_by_side(seed: int, folder: Path) -> list[Real]:
    """The workload of this seed on clusters of their own."""
    sites = [Site(folder / f"{seed}{name}", name) for name in "abcdef"[:RUNS]]
    with ThreadPoolExecutor(len(sites)) as pool:
        return list(pool.map(lambda site: site.run(workload(seed)), sites))


def compared(seed: int, real: Sequence[Real], conf: Path) -> dict[str, Any]:
    """Means over pairs: two runs of the real one, or a run and the twin of it by either clock."""
    conf.write_text(SITE)
    said: dict[str, Any] = {"seed": seed, "mean_wait_s": {"slurm": [mean_wait_s(one.ran) for one in real]}}
    pairs = {"itself": list(combinations([one.ran for one in real], 2))}
    for clock in (measured, recorded):
        twins = [twin(workload(seed), one, conf, clock) for one in real]
        said["mean_wait_s"][clock.__name__] = [mean_wait_s(one) for one in twins]
        pairs[clock.__name__] = list(zip([one.ran for one in real], twins, strict=True))
    for name, some in pairs.items():
        said[f"waits_{name}"] = float(np.mean([waits_apart(*pair) for pair in some]))
        said[f"order_{name}"] = float(np.mean([order_apart(*pair) for pair in some]))
    return said
