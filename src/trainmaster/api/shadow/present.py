"""The cluster as it is now, and what whoever looks cannot see of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainmaster.cluster.scontrol import Listed
from trainmaster.live.backends.slurm_history import Rows
from trainmaster.live.backends.slurm_reading import Site

PRIVATE_JOBS = "jobs"


@dataclass(frozen=True, slots=True)
class Present:
    nodes: int
    gpus: int
    used_gpus: int  # as the nodes say
    running: int
    seen_gpus: int  # of the jobs that are seen
    waiting: int
    wanted_gpus: int
    unreadable: int

    @classmethod
    def of(cls, listed: Sequence[Listed], queue: Rows) -> Present:
        running = [row for row in queue.by_id.values() if row.holds]
        waiting = [row for row in queue.by_id.values() if row.waits and not row.ended]
        return cls(
            nodes=len(listed), gpus=sum(row.gpus for one in listed for row in one.rows),
            used_gpus=sum(count for one in listed for count in one.used_gpus.values()), running=len(running),
            seen_gpus=sum(row.gpus for row in running), waiting=len(waiting), wanted_gpus=sum(row.gpus for row in waiting),
            unreadable=queue.unreadable,
        )  # fmt: skip

    @property
    def hidden_gpus(self) -> int:
        return max(0, self.used_gpus - self.seen_gpus)

    def __str__(self) -> str:
        return (
            f"{self.gpus:,} GPUs on {self.nodes:,} nodes, {self.used_gpus:,} in use; "
            f"jobs: {self.running:,} running, {self.waiting:,} waiting for {self.wanted_gpus:,} GPUs"
        )


def visibility(site: Site, present: Present) -> list[str]:
    """What PrivateData hides, told by what the nodes hold and no visible job accounts for."""
    private = f"PrivateData={','.join(site.private)}" if site.private else ""
    share = f"{present.hidden_gpus:,} of {present.used_gpus:,} GPUs in use"
    if present.hidden_gpus and PRIVATE_JOBS in site.private:
        return [
            f"{private} hides the jobs of others: {share} are held by jobs that you cannot see. What follows replays the visible jobs "
            "alone, on nodes that seem free: have an operator run this, or let him write the history by `trainmaster import --from slurm`"
        ]
    if present.hidden_gpus:
        return [f"{share} are held by no job that is seen (it came or went between two looks, or holds whole nodes)"]
    if PRIVATE_JOBS in site.private:
        return [f"{private} hides the jobs of others from ordinary users; at this moment no GPU is held by a job that you cannot see"]
    seen = "every GPU in use is held by a job that is seen" if present.used_gpus else "no GPU is in use"
    return [f"{private or 'PrivateData=none'}: nothing about jobs is hidden; {seen}"]
