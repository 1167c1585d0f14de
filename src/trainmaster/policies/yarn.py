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

from trainmaster.policies.base import Array, Floats, ListPolicy, Memory, View, check, policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    # Our choice: the paper says that locality is relaxed with retries, and gives no time that we could confirm.
    locality_wait_s: float = 300.0  # 0 = never wait; inf = never relax

    def __post_init__(self) -> None:
        check(self.locality_wait_s >= 0, f"locality_wait_s must be 0 or more, not {self.locality_wait_s:g}")


@policy(name="yarn-capacity", paper="Jeon et al., USENIX ATC 2019", params=Params)
class YarnCapacity(ListPolicy[Params]):
    preemptive = False

    def rank(self, view: View, memory: Memory) -> Array:
        return view.jobs.submit_s

    def max_nodes(self, view: View) -> NDArray[np.int32]:
        own = view.jobs.table.max_nodes[view.jobs.row]
        few = fewest_nodes(view)
        patient = self.patient_until_s(view) > view.now_s
        return np.where(patient, np.where(own > 0, np.minimum(own, few), few), own).astype(np.int32)

    def next_wakeup_s(self, view: View, memory: Memory) -> float:
        """The next waiting gang that would then take any nodes."""
        until_s = self.patient_until_s(view)
        return float(np.min(until_s[~view.jobs.running & (until_s > view.now_s)], initial=np.inf))

    def patient_until_s(self, view: View) -> Floats:
        """Gangs of one GPU or less have nothing to wait for."""
        return np.where(view.jobs.gpus > 1, view.jobs.eligible_s + self.params.locality_wait_s, -np.inf)


def fewest_nodes(view: View) -> NDArray[np.int64]:
    """How many of the largest nodes open to it each gang needs, by the nodes that are up."""
    pools, nodes = view.jobs.pools, view.nodes
    largest = np.zeros(int(nodes.pool.max()) + 1, np.int64)
    np.maximum.at(largest, nodes.pool, np.where(nodes.up, nodes.gpus, 0))
    per_node = np.where(pools >= 0, largest[pools], 0).max(axis=1)
    return np.ceil(view.jobs.gpus / np.maximum(per_node, 1)).astype(np.int64)
