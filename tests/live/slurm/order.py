"""The same jobs under the real Slurm and under the twin's `slurm`: who starts when.

Priority is made of partition and size: Slurm counts age and fair share only where it has a slurmdbd, and so a database.
A workload of sleep jobs with time limits is submitted to four nodes of eight fake GPUs; afterwards Slurm says when each was submitted,
started and ended. The twin is given what Slurm recorded of submissions and run times, as `sacct` would give it, and the same slurm.conf.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from live.scripts import script
from schedules import simulate
from trainmaster.api.entrants import read_slurm_conf
from trainmaster.policies.registry import make_policy
from trainmaster.policies.slurm import Slurm
from trainmaster.policies.slurm_conf import SlurmConf
from trainmaster.workload.jobs import Job

NODES, GPUS = 4, 8
MINUTE_S = 60.0
SITE = """\
PriorityType=priority/multifactor
PriorityWeightJobSize=600
PriorityWeightPartition=400
ProctrackType=proctrack/linuxproc
SchedulerParameters=defer,batch_sched_delay=0,sched_min_interval=100000,bf_interval=3
MinJobAge=7200
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityJobFactor=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityJobFactor=4
"""
# Two clusters side by side name their nodes and number their jobs alike, so their cgroups would be the same ones.
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
    """What became of it, in Unix seconds; Slurm counts whole ones."""

    submit_s: float
    start_s: float
    end_s: float
    nodes: tuple[str, ...] = ()
    by: str = ""  # Main or Backfill


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

    def __init__(self, folder: Path) -> None:
        self.cluster = script("slurm_cluster").SmallCluster(folder, nodes=NODES, gpus=GPUS)
        written = self.cluster._write

        def write() -> None:
            written()
            text = self.cluster.conf.read_text().replace(",cred_expire=5", "")  # on a busy machine a launch may take longer
            kept = [line for line in text.splitlines() if not line.startswith(REPLACED)]
            self.cluster.conf.write_text("\n".join(kept) + "\n" + SITE)

        self.cluster._write = write

    def run(self, jobs: Sequence[Sleep], within_s: float = 900.0) -> list[Ran]:
        """All of them, from the first submission to the last end."""
        self.cluster.start()
        try:
            began_s = time.monotonic()
            for number, job in enumerate(jobs):
                time.sleep(max(began_s + job.at_s - time.monotonic(), 0.0))
                self.cluster.run(
                    "sbatch", "--parsable", f"--job-name={number}", f"--nodes={job.nodes}", "--ntasks-per-node=1",
                    f"--cpus-per-task={job.gpus}", f"--gres=gpu:{job.gpus}", f"--time={job.limit_min}",
                    f"--partition={job.partition}", "--output=/dev/null", f"--wrap=exec sleep {job.sleep_s:g}",
                )  # fmt: skip
            assert self.cluster.wait(lambda: not self.cluster.run("squeue", "-h").strip(), within_s), "jobs are left"
            return self._ran(len(jobs))
        finally:
            self.cluster.stop()

    def _ran(self, jobs: int) -> list[Ran]:
        found: dict[int, Ran] = {}
        for line in self.cluster.run("scontrol", "show", "job", "-o").splitlines():
            told = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
            assert told["JobState"] == "COMPLETED", line
            if told["JobName"] == "warm":
                continue
            times = [time.mktime(time.strptime(told[name], "%Y-%m-%dT%H:%M:%S")) for name in ("SubmitTime", "StartTime", "EndTime")]
            nodes = self.cluster.run("scontrol", "show", "hostnames", told["NodeList"]).split()
            found[int(told["JobName"])] = Ran(*times, tuple(nodes), told["Scheduler"])
        assert sorted(found) == list(range(jobs))
        return [found[number] for number in range(jobs)]


def twin(jobs: Sequence[Sleep], ran: Sequence[Ran], conf: Path) -> list[Ran]:
    """The same jobs in the twin: submitted when they were, as long as they ran and Slurm needed to clear up."""
    turnaround_s = cleared_s(jobs, ran)
    zero_s = min(one.submit_s for one in ran) // MINUTE_S * MINUTE_S  # plans are rounded to the minute of the clock
    rows = [
        Job(id=str(number), submit_s=one.submit_s - zero_s, gpus=job.nodes * job.gpus, work=one.end_s - one.start_s + turnaround_s,
            limit_s=job.limit_min * MINUTE_S, queue=job.partition, max_nodes=job.nodes)
        for number, (job, one) in enumerate(zip(jobs, ran, strict=True))
    ]  # fmt: skip
    policy, _ = make_policy(Slurm, {"conf": str(conf)}, "slurm", {SlurmConf: read_slurm_conf})
    run = simulate(rows, f"{NODES}x{GPUS}", policy)
    return [Ran(row.submit_s + zero_s, *(time + zero_s for time in run.held(row.id)[0])) for row in rows]


def cleared_s(jobs: Sequence[Sleep], ran: Sequence[Ran]) -> float:
    """Between the end of a job and the start of the next on its node: read off those that waited for whole nodes and that the main
    scheduler, which comes at every end, started. A second or so, next to nothing but where jobs run for seconds."""
    gaps_s = []
    for job, one in zip(jobs, ran, strict=True):
        if job.gpus == GPUS and one.by == "Main":
            ends_s = [other.end_s for other in ran if other.start_s < one.start_s and set(other.nodes) & set(one.nodes)]
            if ends_s and one.submit_s < max(ends_s):
                gaps_s.append(one.start_s - max(ends_s))
    return float(np.mean(gaps_s)) if gaps_s else 0.0


def waits_apart(some: Sequence[Ran], others: Sequence[Ran]) -> float:
    """By how much the mean wait of the second differs, as a part of the first's."""
    first, second = (np.mean([one.start_s - one.submit_s for one in runs]) for runs in (some, others))
    return float(abs(second - first) / first)


def order_apart(some: Sequence[Ran], others: Sequence[Ran]) -> float:
    """Of the pairs that both started at different times, the part that they started in the opposite order (Kendall)."""
    first, second = (np.array([one.start_s for one in runs]) for runs in (some, others))
    before, also = (np.sign(starts[:, None] - starts[None, :]) for starts in (first, second))
    told = (before != 0) & (also != 0)
    return float((before != also)[told].mean())


def measured(seed: int, folder: Path) -> dict[str, Any]:
    """Two runs of the real one side by side, each on a cluster of its own, and the twin beside each."""
    jobs, conf = workload(seed), folder / "slurm.conf"
    folder.mkdir(parents=True, exist_ok=True)
    conf.write_text(SITE)
    sites = [Site(folder / f"run{number}") for number in range(2)]
    with ThreadPoolExecutor(len(sites)) as pool:
        real = list(pool.map(lambda site: site.run(jobs), sites))
    return {"seed": seed, **compared(jobs, real, conf)}


def compared(jobs: Sequence[Sleep], real: Sequence[Sequence[Ran]], conf: Path) -> dict[str, Any]:
    twins = [twin(jobs, one, conf) for one in real]
    pairs = list(zip(real, twins, strict=True))
    return {
        "cleared_s": [cleared_s(jobs, one) for one in real],
        "mean_wait_s": [float(np.mean([one.start_s - one.submit_s for one in run])) for run in (*real, *twins)],
        "waits_itself": waits_apart(*real),
        "order_itself": order_apart(*real),
        "waits_twin": float(np.mean([waits_apart(*pair) for pair in pairs])),
        "order_twin": float(np.mean([order_apart(*pair) for pair in pairs])),
    }
