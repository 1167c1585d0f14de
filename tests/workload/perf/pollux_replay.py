"""The Pollux artifact's Tiresias as a plain loop over 60 s ticks: an oracle for the performance model, and for the engine.

Written from a description of the artifact (OSDI 2021, 16 nodes of 4 GPUs); it shares nothing with the engine. A tick, in order:

 1. jobs that hold GPUs advance 60 s; an epoch's end falls on a whole second, and progress goes on from exactly there;
 2. jobs submitted by now join list 0, complete ones leave;
 3. running jobs of list 0 that have reached 57,600 GPU-seconds (restart delay included) go to the end of list 1;
 4. list 0, then list 1: who fits in the number of free GPUs runs, others are passed over;
 5. who does not run releases; newcomers take from the node with most free GPUs, the lowest number first, until whole;
 6. newcomers are delayed by 30 s.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.base import Allocation, PerformanceModel

TICK_S, RESTART_S, NODES, GPUS_A_NODE, LIMIT_GPU_S = 60, 30, 16, 4, 57_600
CLUSTER = Cluster.of([Node(gpus=GPUS_A_NODE)] * NODES)


def read_workload(path: Path) -> JobTable:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return JobTable.build(
        id=[row["name"] for row in rows],
        submit_s=[float(row["time"]) for row in rows],
        gpus=[float(row["num_replicas"]) for row in rows],
        model=[row["application"] for row in rows],
        batch_size=[float(row["batch_size"]) for row in rows],
        work=np.full(len(rows), np.nan),
    )


@dataclass
class Replayed:
    row: int
    submit_s: float
    gpus: int
    held: dict[int, int] = field(default_factory=dict)  # node -> GPUs, in the order taken
    delay_s: int = 0
    held_s: int = 0
    done: float = 0.0
    finish_s: float | None = None

    def advance(self, model: PerformanceModel, work: float, now_s: int) -> None:
        left_s = TICK_S - min(self.delay_s, TICK_S)
        self.delay_s -= TICK_S - left_s
        self.held_s += TICK_S
        allocation = Allocation(tuple(self.held), tuple(map(float, self.held.values())), "")
        while left_s and self.finish_s is None:
            rate, until = model.rate(self.row, allocation, self.done, ())
            if self.done + rate * left_s < until:
                self.done += rate * left_s
                return
            left_s -= round((until - self.done) / rate)
            self.done = until
            if self.done >= work:
                self.finish_s = now_s + TICK_S - left_s


def average_jct_s(jobs: JobTable, model: PerformanceModel) -> float:
    everyone = [Replayed(row, jobs.submit_s[row], int(jobs.gpus[row])) for row in range(len(jobs))]
    lists: tuple[list[Replayed], list[Replayed]] = ([], [])
    waiting, now_s = list(everyone), 0
    while waiting or any(lists):
        for job in (*lists[0], *lists[1]):
            if job.held:
                job.advance(model, jobs.work[job.row], now_s)
        now_s += TICK_S

        lists[0].extend(job for job in waiting if job.submit_s <= now_s)
        waiting = [job for job in waiting if job.submit_s > now_s]
        demoted = [job for job in lists[0] if job.held and job.held_s * job.gpus >= LIMIT_GPU_S]
        lists[0][:] = [job for job in lists[0] if job.finish_s is None and job not in demoted]
        lists[1][:] = [job for job in (*lists[1], *demoted) if job.finish_s is None]
        decide(lists)
    return sum(job.finish_s - job.submit_s for job in everyone if job.finish_s is not None) / len(everyone)


def decide(lists: tuple[list[Replayed], list[Replayed]]) -> None:
    free, chosen = NODES * GPUS_A_NODE, []
    for job in (*lists[0], *lists[1]):
        if job.gpus <= free:
            free -= job.gpus
            chosen.append(job)
        else:
            job.held = {}
    on_node = [GPUS_A_NODE] * NODES
    for job in chosen:
        for node, gpus in job.held.items():
            on_node[node] -= gpus
    for job in chosen:
        if not job.held:
            job.delay_s, missing = RESTART_S, job.gpus
            while missing:
                node = on_node.index(max(on_node))
                taken = job.held[node] = min(on_node[node], missing)
                on_node[node] -= taken
                missing -= taken
