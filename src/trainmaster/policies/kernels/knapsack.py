"""The multiple-choice knapsack by dynamic programming over capacity, compiled."""

import numpy as np
from numba import njit


@njit("i8[::1](i8, i8[::1], i8[::1], f8[::1])", cache=True)
def choose(capacity, begins, weights, values):  # type: ignore[no-untyped-def]
    """The item of each group, -1 = none: items begins[g] .. begins[g + 1] - 1 are of group g, at most one of which is taken."""
    groups = len(begins) - 1
    best, taken = np.zeros(capacity + 1), np.full((groups, capacity + 1), -1, np.int32)
    for g in range(groups):
        for room in range(capacity, -1, -1):
            most, item = best[room], -1
            for i in range(begins[g], begins[g + 1]):
                if weights[i] <= room and best[room - weights[i]] + values[i] > most:
                    most, item = best[room - weights[i]] + values[i], i
            best[room], taken[g, room] = most, item
    chosen, room = np.full(groups, -1), capacity
    for g in range(groups - 1, -1, -1):
        item = taken[g, room]
        chosen[g] = item
        if item >= 0:
            room -= weights[item]
    return chosen
