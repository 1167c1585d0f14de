"""How far apart the GPUs of an allocation are: GPU < NVLink island < node < rack < cluster."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from trainmaster.cluster.cluster import Node


class Level(IntEnum):
    """Ordered: a larger level is a slower way between two GPUs of the gang."""

    GPU = 0
    ISLAND = 1
    NODE = 2
    RACK = 3
    CLUSTER = 4


def span(nodes: Sequence[Node], gpus: float) -> Level:
    """The narrowest level that holds `gpus` GPUs taken on these nodes.

    The ledger counts GPUs of a node without saying which island, so a gang no larger than an island is taken to be on
    one. Nodes without a rack are nobody's neighbours: two of them span the cluster.
    """
    first = nodes[0]
    if len(nodes) == 1:
        island_gpus = first.gpus if first.island_gpus is None else first.island_gpus
        return Level.GPU if gpus <= 1 else Level.ISLAND if gpus <= island_gpus else Level.NODE
    return Level.RACK if first.rack is not None and all(node.rack == first.rack for node in nodes) else Level.CLUSTER
