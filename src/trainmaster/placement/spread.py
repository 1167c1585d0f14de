"""spread: the emptiest node first, so that load and heat are even; the rest of a gang on the next emptiest."""

from trainmaster.placement.base import Placement


def pick(counts, need):
    for free in range(len(counts) - 1, 0, -1):
        if counts[free] > 0:
            return free, free
    return 0, 0


PLACEMENT = Placement("spread", "emptiest node first", pick)
