"""first-fit: the first node, by number, that holds the (rest of the) gang; if none does, the first with a free GPU."""

from trainmaster.placement.base import Placement


def pick(counts, need):
    for free in range(need, len(counts)):
        if counts[free] > 0:
            return need, len(counts) - 1
    for free in range(1, len(counts)):
        if counts[free] > 0:
            return 1, len(counts) - 1
    return 0, 0


PLACEMENT = Placement("first-fit", "first node by number that holds the gang", pick)
