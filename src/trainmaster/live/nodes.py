"""The engine's cluster, from the nodes that a backend sees, what people have said of them, and the site's queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from trainmaster.cluster.cluster import Cluster, QueueSpec
from trainmaster.live.backends.base import NodeSeen


def cluster_of(nodes: Sequence[NodeSeen], drained: Mapping[str, str], queues: Mapping[str, QueueSpec],
               node_queues: Mapping[str, tuple[str, ...]], held: Mapping[str, float]) -> Cluster:
    """Rows in the order given. A node that is down or drained takes nobody new; GPUs that others use are not there.

    But no node has fewer GPUs than our jobs `held` there: others may have come first to one that we have given away meanwhile.
    """
    rows = tuple(
        replace(seen.node, name=seen.name, gpus=max(without_others(seen), int(np.ceil(held.get(seen.name, 0.0)))),
                queues=node_queues.get(seen.name, seen.node.queues))
        for seen in nodes
    )  # fmt: skip
    open_ = np.array([seen.up and seen.name not in drained for seen in nodes], bool)
    quotas = {name: spec for name, spec in queues.items() if spec.quota_gpus is not None}
    return Cluster(nodes=rows, present=open_, queues=dict(queues) if quotas else {})


def without_others(seen: NodeSeen) -> int:
    return max(seen.node.gpus - int(np.ceil(seen.others_gpus)), 0)


def as_down(seen: NodeSeen) -> NodeSeen:
    """A node that its backend names no more."""
    return replace(seen, up=False, reason=seen.reason or "not seen")
