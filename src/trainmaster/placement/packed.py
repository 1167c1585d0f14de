"""packed: the fewest nodes, best fit: the fullest node that holds the (rest of the) gang, else the emptiest."""

from trainmaster.placement.base import Placement


def pick(counts, need):
    for free in range(need, len(counts)):
        if counts[free] > 0:
            return free, free
    for free in range(len(counts) - 1, 0, -1):
        if counts[free] > 0:
            return free, free
    return 0, 0


PLACEMENT = Placement("packed", "fewest nodes, best fit", pick)
