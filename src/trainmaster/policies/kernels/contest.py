"""AFS's contest for the next GPU, compiled. Symbols as in `policies/afs.py`."""

import numpy as np
from numba import njit


@njit(cache=True)
def beats(a, b, held, speed, left, least):  # type: ignore[no-untyped-def]
    """Whether job b, after a in the scan, takes the next GPU from a."""
    if held[a] == 0 and held[b] == 0:
        return left[b] / speed[b, least[b]] < left[a] / speed[a, least[a]]
    length_a = left[a] / speed[a, held[a]] if held[a] else np.inf
    length_b = left[b] / speed[b, held[b]] if held[b] else np.inf
    short, long = (a, b) if length_a <= length_b else (b, a)
    more_short, more_long = held[short] + 1, held[long] + 1 if held[long] else least[long]
    now_long = speed[long, held[long]] if held[long] else 0.0
    gain_long = (speed[long, more_long] - now_long) / speed[long, more_long]
    gain_short = (speed[short, more_short] - speed[short, held[short]]) / speed[short, held[short]]
    return (long if gain_long > gain_short else short) == b


@njit(cache=True)
def share_out(total, speed, left, least, most):  # type: ignore[no-untyped-def]
    """GPUs of each job, one at a time to the winner of a scan over all who can use more."""
    jobs = len(left)
    held, free = np.zeros(jobs, np.int64), total
    while free > 0:
        winner = -1
        for j in range(jobs):
            step = 1 if held[j] else least[j]
            if step > free or held[j] + step > most[j] or speed[j, held[j] + step] <= speed[j, held[j]]:
                continue
            if winner < 0 or beats(winner, j, held, speed, left, least):
                winner = j
        if winner < 0:
            break
        step = 1 if held[winner] else least[winner]
        held[winner] += step
        free -= step
    return held
