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
def share(at_s, free, steps, left, deadline_s, speed, sizes, least, top, holds, idle_s, restart_s):  # type: ignore[no-untyped-def]
    """(index of the minimum satisfactory share, from `least` on; the step from which it is needed), (-1, 0) where there is none.

    A change of size costs `restart_s` without progress, which is known only once the step before is looked at.
    """
    last = steps - 1
    while last > 0 and at_s[last] >= deadline_s:
        last -= 1
    for q in range(least, top + 1):
        done, run_s, run = 0.0, 0.0, -1  # of the steps after these; seconds on one size; which
        for i in range(last, -1, -1):
            end_s = min(at_s[i + 1], deadline_s) if i + 1 < steps else deadline_s
            k = size_within(speed, sizes, q, free[i])
            if k != run:
                if run >= 0:
                    done += speed[run] * max(run_s - restart_s, 0.0)
                run_s, run = 0.0, k
            if k >= 0:
                run_s += max(end_s - at_s[i], 0.0)
                lost_s = idle_s if i == 0 and k == holds else restart_s
                if done + speed[k] * max(run_s - lost_s, 0.0) >= left * (1 - FLAT):
                    return q, i
    return -1, 0


@njit(cache=True)
def fill(now_s, slot_s, at_s, free, steps, left, speed, sizes, q, needed_from, holds, idle_s, restart_s, out):  # type: ignore[no-untyped-def]
    """(pieces, when it ends, inf = never): the share `q` from a step on, and the size below it before. `out`: (from_s, until_s, size)."""
    done, i, n, size, finish_s = 0.0, 0, 0, holds, now_s
    while done < left * (1 - FLAT):
        end_s = at_s[i + 1] if i + 1 < steps else np.inf
        k = size_within(speed, sizes, q if i >= needed_from else q - 1, free[i])
        if 0 <= size < k and restart_s > 0 and sizes[size] <= free[i]:  # is it worth a restart before it has to shrink again?
            r = i + 1
            while r < steps and free[r] >= sizes[k]:
                r += 1
            if r < steps and speed[k] * (at_s[r] - at_s[i] - restart_s) <= speed[size] * (at_s[r] - at_s[i]):
                k = size
        if k < 0:
            if i + 1 == steps:
                return n, np.inf  # it never fits
            i, size = i + 1, -1
            continue
        if k != size:
            size, idle_s = k, restart_s
        finish_s = at_s[i] + idle_s + (left - done) / speed[k]
        planned_s = aligned(now_s, finish_s, slot_s)
        if finish_s < end_s and planned_s < end_s:
            end_s = planned_s
        seconds = end_s - at_s[i]
        done = left if finish_s <= end_s else done + speed[k] * max(seconds - idle_s, 0.0)
        idle_s = max(idle_s - seconds, 0.0)
        out[n, 0], out[n, 1], out[n, 2] = at_s[i], end_s, k
        n, i = n + 1, i + 1
    return n, finish_s


@njit(cache=True)
def plan(now_s, slot_s, total, deadline_s, left, speed, sizes, top, held, holds, idle_s, restart_s):  # type: ignore[no-untyped-def]
    """(met, pieces): whether each job ends in time, and (job, from_s, until_s, GPUs) in order of time for each job.

    `held` are pieces that are given already. `top` is the index of each job's largest useful size, `holds` that of the size it
    runs on now (-1: none) and `idle_s` how long it makes no progress yet if it stays on it; another size costs `restart_s`.
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
    mine = np.empty((most, 3))
    for j in range(jobs):
        if steps + 4 >= most:
            most *= 2
            at_s, free, mine = longer(at_s, most), longer_ints(free, most), np.empty((most, 3))
        least, count, in_time_s = 0, 0, deadline_s[j] + FLAT * max(abs(deadline_s[j]), 1.0)
        while not met[j]:
            q, needed_from = share(at_s, free, steps, left[j], deadline_s[j], speed[j], sizes, least, top[j], holds[j], idle_s[j],
                                   restart_s[j])  # fmt: skip
            late = q < 0
            if late:
                q, needed_from = top[j], 0
            count, ends_s = fill(now_s, slot_s, at_s, free, steps, left[j], speed[j], sizes, q, needed_from, holds[j], idle_s[j],
                                 restart_s[j], mine)  # fmt: skip
            if not late and ends_s > in_time_s:  # restarts on the way there: the share at once
                count, ends_s = fill(now_s, slot_s, at_s, free, steps, left[j], speed[j], sizes, q, 0, holds[j], idle_s[j], restart_s[j],
                                     mine)  # fmt: skip
            met[j] = not late and ends_s <= in_time_s
            if late:
                break
            least = q + 1
        for i in range(count):
            if n == len(pieces):
                pieces = np.concatenate((pieces, np.empty((len(pieces), 4))))
            gpus = sizes[int(mine[i, 2])]
            if i > 0 and mine[i, 2] == mine[i - 1, 2] and mine[i, 0] == mine[i - 1, 1]:
                pieces[n - 1, 2] = mine[i, 1]
            else:
                pieces[n, 0], pieces[n, 1], pieces[n, 2], pieces[n, 3] = j, mine[i, 0], mine[i, 1], gpus
                n += 1
            first, steps = split(at_s, free, steps, mine[i, 0])
            after = steps
            if mine[i, 1] < np.inf:
                after, steps = split(at_s, free, steps, mine[i, 1])
            for step in range(first, after):
                free[step] -= gpus
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
