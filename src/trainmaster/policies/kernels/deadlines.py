"""ElasticFlow's plans: who gets how many GPUs until when, so that every deadline is met with as few as possible.

Free GPUs are a step function of time: from at_s[i] to at_s[i + 1] free[i], the last step without end. Jobs are planned one
after another, in the order given. `sizes` ascend; speed[j, k] is job j's on sizes[k], 0 where it does not run.
"""

import numpy as np
from numba import njit

FLAT = 1e-9  # of a job's work: less is rounding


@njit(cache=True)
def split(at_s, free, steps, time_s):  # type: ignore[no-untyped-def]
    """Let a step begin at this time; returns (which, how many steps there are now)."""
    i = steps - 1
    while at_s[i] > time_s:
        i -= 1
    if at_s[i] == time_s:
        return i, steps
    for k in range(steps, i + 1, -1):
        at_s[k], free[k] = at_s[k - 1], free[k - 1]
    at_s[i + 1], free[i + 1] = time_s, free[i]
    return i + 1, steps + 1


@njit(cache=True)
def size_within(speed, sizes, most, room):  # type: ignore[no-untyped-def]
    """The largest size up to the index `most` that fits; -1 = none."""
    k = most
    while k >= 0 and (sizes[k] > room or speed[k] == 0.0):
        k -= 1
    return k


@njit(cache=True)
def aligned(now_s, time_s, slot_s):  # type: ignore[no-untyped-def]
    return now_s + np.ceil((time_s - now_s) / slot_s - 1e-9) * slot_s if slot_s > 0 else time_s


@njit(cache=True)
def share(at_s, free, steps, left, deadline_s, speed, sizes, top):  # type: ignore[no-untyped-def]
    """(index of the minimum satisfactory share, the step from which it is needed), (-1, 0) where there is none."""
    last = steps - 1
    while last > 0 and at_s[last] >= deadline_s:
        last -= 1
    for q in range(top + 1):
        done = 0.0
        for i in range(last, -1, -1):
            end_s = min(at_s[i + 1], deadline_s) if i + 1 < steps else deadline_s
            k = size_within(speed, sizes, q, free[i])
            if k >= 0:
                done += speed[k] * max(end_s - at_s[i], 0.0)
            if done >= left * (1 - FLAT):
                return q, i
    return -1, 0


@njit(cache=True)
def plan(now_s, slot_s, total, deadline_s, left, speed, sizes, top, held):  # type: ignore[no-untyped-def]
    """(met, pieces): whether each job ends in time, and (job, from_s, until_s, GPUs) in order of time for each job.

    `held` are pieces that are given already. `top` is the index of each job's largest useful size.
    """
    jobs = len(left)
    most = 4 * (jobs + len(held)) + 4
    at_s, free = np.empty(most), np.empty(most, np.int64)
    at_s[0], free[0], steps = now_s, total, 1
    for h in range(len(held)):
        begin_s, end_s = max(held[h, 1], now_s), held[h, 2]
        if end_s <= begin_s:
            continue
        first, steps = split(at_s, free, steps, begin_s)
        after, steps = split(at_s, free, steps, end_s)
        for i in range(first, after):
            free[i] -= int(held[h, 3])
    met, pieces, n = np.zeros(jobs, np.bool_), np.empty((64, 4)), 0
    for j in range(jobs):
        if steps + 4 >= most:
            most *= 2
            at_s, free = longer(at_s, most), longer_ints(free, most)
        q, needed_from = share(at_s, free, steps, left[j], deadline_s[j], speed[j], sizes, top[j])
        met[j] = q >= 0
        late = q < 0
        if late:
            q, needed_from = top[j], 0
        needed_s, done, i = at_s[needed_from], 0.0, 0
        while done < left[j] * (1 - FLAT):
            end_s = at_s[i + 1] if i + 1 < steps else np.inf
            k = size_within(speed[j], sizes, q if at_s[i] >= needed_s else q - 1, free[i])
            if k < 0:
                if i + 1 == steps:
                    break  # it never fits
                i += 1
                continue
            finish_s = at_s[i] + (left[j] - done) / speed[j, k]
            planned_s = aligned(now_s, finish_s, slot_s)
            if finish_s < end_s and planned_s < end_s:
                _, steps = split(at_s, free, steps, planned_s)
                end_s = planned_s
            done = left[j] if finish_s <= end_s else done + speed[j, k] * (end_s - at_s[i])
            free[i] -= sizes[k]
            if n == len(pieces):
                pieces = np.concatenate((pieces, np.empty((len(pieces), 4))))
            pieces[n, 0], pieces[n, 1], pieces[n, 2], pieces[n, 3] = j, at_s[i], end_s, sizes[k]
            n += 1
            i += 1
    return met, pieces[:n].copy()


@njit(cache=True)
def longer(values, size):  # type: ignore[no-untyped-def]
    grown = np.empty(size)
    grown[: len(values)] = values
    return grown


@njit(cache=True)
def longer_ints(values, size):  # type: ignore[no-untyped-def]
    grown = np.empty(size, np.int64)
    grown[: len(values)] = values
    return grown
