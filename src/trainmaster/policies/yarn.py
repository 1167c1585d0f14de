"""YARN's capacity scheduler as deep-learning clusters ran it: queues with quotas, in order of submission, and a wait for locality.

Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training Workloads", USENIX ATC 2019, section 2: Philly,
a YARN scheduler that gives a gang its GPUs on few servers, and relaxes that as waiting goes on. The baseline YARN-CS of
Tiresias (Gu et al., NSDI 2019) is this policy.

    queues     the engine's: guaranteed quotas, borrowing, reclaim (the cluster file's `queues`); none declared = one queue
    order      submission; what does not fit or finds no nodes is passed over, as in Philly, where jobs start out of order
    locality   a gang runs on the fewest nodes that can hold it, until `locality_wait_s` after it was eligible; then on any

No preemption but the queues' reclaim. Not here: racks, and Philly's attempts, which hold some GPUs while they wait for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import ListPolicy, check, policy
from trainmaster.policies.fifo import by_submission
from trainmaster.workload.jobs import JobTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    # Our choice: the paper says that locality is relaxed with retries, and gives no time that we could confirm.
    locality_wait_s: float = 300.0  # 0 = never wait; inf = never relax
    blocking: bool = False  # stop at the first job that does not fit

    def __post_init__(self) -> None:
        check(self.locality_wait_s >= 0, f"locality_wait_s must be 0 or more, not {self.locality_wait_s:g}")


@policy(name="yarn-capacity", paper="Jeon et al., USENIX ATC 2019", params=Params)
class YarnCapacity(ListPolicy[Params]):
    preemptive = False
    key = by_submission

    def locality(self, jobs: JobTable, fewest_nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
        return fewest_nodes, self.params.locality_wait_s
