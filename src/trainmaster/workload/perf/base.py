"""How fast a job runs on what it holds: the interface between the engine and every performance model.

    rate(row, allocation, done, neighbours) -> (rate, until_work)

`rate` is work units a second; it holds until the job has done `until_work` units in all (an epoch ends) or an allocation
it depends on changes. Reaching `until_work` is an internal event that calls no policy.

A model may say more; what it leaves out has the default of `Traits`:

    by_neighbours = True                      rates depend on who shares the GPUs: `rate` is asked again of all who share one when
                                              that changes; True too where `rates_by_type` gives the rates alone
    beside(row, other, type) -> rate          with it: the rate at the requested gang with another's on the same GPUs; 0 = cannot
    rate_cards = True                         `Allocation.config` names an entry of the job's rate card
    restart_s(jobs) -> seconds by row         its own cost of a start, where `--restart-cost` is not given; NaN = the default
    change_s(row, before, after) -> seconds   its own cost of a resize, a migration or another configuration
    metrics(row, allocation, done) -> dict    what a running job would report of itself besides its rate: gradient noise, epoch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainmaster.cluster.cluster import Cluster
from trainmaster.workload.jobs import JobTable


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a job holds: `gpus[i]` on node `nodes[i]`, in the order in which they were taken. Fractions are below 1."""

    nodes: tuple[int, ...]
    gpus: tuple[float, ...]
    type: str  # accelerator type, "" if untyped; of the first node where they differ
    config: int = -1  # entry of the job's rate card (batch size, parallel plan); -1 = the job's own
    share: float = 1.0  # of each of these GPUs; below 1 where a decision packs several jobs on them
    types: tuple[str, ...] = ()  # of each node, where they differ

    @property
    def total_gpus(self) -> float:
        return sum(self.gpus)


class PerformanceModel(Protocol):
    def rates_by_type(self, jobs: JobTable, types: Sequence[str]) -> NDArray[np.float64] | None:
        """(jobs, types) rates at the requested gang, unshared, on one type, where they depend on nothing else and never change
        by themselves; None if they depend on more. 0 = cannot run on that type. For any other allocation `rate` is asked."""

    def rate(self, row: int, allocation: Allocation, done: float, neighbours: Sequence[int]) -> tuple[float, float]:
        """(rate, until_work) of one job that has done `done` units of work; `neighbours` are rows sharing its GPUs."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model says beyond its rates."""

    by_neighbours: bool
    beside: Callable[[int, int, str], float] | None
    rate_cards: bool
    restart_s: Callable[[JobTable], NDArray[np.float64]] | None
    change_s: Callable[[int, Allocation, Allocation], float] | None
    metrics: Callable[[int, Allocation, float], Mapping[str, float]] | None

    @classmethod
    def of(cls, model: Any) -> Traits:
        return cls(
            by_neighbours=getattr(model, "by_neighbours", False),
            beside=getattr(model, "beside", None),
            rate_cards=getattr(model, "rate_cards", False),
            restart_s=getattr(model, "restart_s", None),
            change_s=getattr(model, "change_s", None),
            metrics=getattr(model, "metrics", None),
        )


class Profiles(Protocol):
    """Measured performance data, read from where `--profiles` says, before it knows the jobs."""

    name: str

    def bind(self, jobs: JobTable, cluster: Cluster) -> tuple[JobTable, PerformanceModel]:
        """The table with `work` filled in where the profile tells it, and the model for these rows.

        Raises InputError, one line, for a model or accelerator type the profile does not have.
        """
