"""Pollux's question, who gets how many GPUs on which nodes, answered by large neighbourhood search.

A few jobs are taken off the cluster and put back, each as it is best for itself at a price a GPU; what is no worse stays, and at
first, now and then, what is a little worse (simulated annealing: one gets out of local optima). The best seen is the answer.
The price is about what the last GPU is worth: that of the relaxation in which only the number of GPUs counts. (Ropke and
Pisinger, "An adaptive large neighborhood search heuristic", Transportation Science 40(4), 2006, for the idea.)

    cost[j, kind, g]   what job j adds to the sum to be minimised on g GPUs: kind 0 on one node, 1 on several, if it has to move
    stay[j]            what it adds where it is now
    base[j]            (node, GPUs) of where it is now, -1 ends
    rows[j]            where the answer puts it, likewise

No node gives more than it has, and at most one job that spans nodes has GPUs on a node (`exclusive`).
"""

import numpy as np
from numba import njit

FLAT = 1e-12  # differences below are rounding
WARMTH = 0.02  # of what a job costs on average: about so much worse is put up with at first


@njit(cache=True)
def price(cost, stay, base_gpus, total):  # type: ignore[no-untyped-def]
    """The price a GPU at which jobs, each choosing for itself, ask for about as many GPUs as there are."""
    jobs, _, sizes = cost.shape
    low, high = 0.0, 0.0
    for j in range(jobs):
        high = max(high, cost[j, 0, 0])
    for _ in range(40):
        middle, asked = (low + high) / 2, 0
        for j in range(jobs):
            best, least = 0, cost[j, 0, 0]
            if base_gpus[j] > 0 and stay[j] + middle * base_gpus[j] < least:
                best, least = base_gpus[j], stay[j] + middle * base_gpus[j]
            for g in range(1, sizes):
                value = min(cost[j, 0, g], cost[j, 1, g]) + middle * g
                if value < least:
                    best, least = g, value
            asked += best
        if asked > total:
            low = middle
        else:
            high = middle
    return high


@njit(cache=True)
def lift(j, rows, free, spanning, now):  # type: ignore[no-untyped-def]
    """Take a job off the cluster."""
    parts = 0
    while parts < rows.shape[1] and rows[j, parts, 0] >= 0:
        free[rows[j, parts, 0]] += rows[j, parts, 1]
        parts += 1
    if parts > 1:
        for i in range(parts):
            spanning[rows[j, i, 0]] -= 1
    rows[j, :, 0] = -1
    now[j] = 0.0


@njit(cache=True)
def put(j, row, rows, free, spanning):  # type: ignore[no-untyped-def]
    parts = 0
    while parts < row.shape[0] and row[parts, 0] >= 0:
        free[row[parts, 0]] -= row[parts, 1]
        rows[j, parts, 0], rows[j, parts, 1] = row[parts, 0], row[parts, 1]
        parts += 1
    if parts > 1:
        for i in range(parts):
            spanning[row[i, 0]] += 1


@njit(cache=True)
def fits(row, free, spanning, exclusive):  # type: ignore[no-untyped-def]
    parts = 0
    while parts < row.shape[0] and row[parts, 0] >= 0:
        if row[parts, 1] > free[row[parts, 0]]:
            return False
        parts += 1
    if parts > 1 and exclusive:
        for i in range(parts):
            if spanning[row[i, 0]] > 0:
                return False
    return parts > 0


@njit(cache=True)
def insert(j, charge, cost, stay, base, base_gpus, most, rows, free, spanning, exclusive, levels):  # type: ignore[no-untyped-def]
    """Put a job where cost + charge x GPUs is least; returns what it then costs. `levels` is scratch: GPUs free -> nodes."""
    nodes, parts_most, top = len(free), rows.shape[1], len(levels) - 1
    best, gpus, kind = cost[j, 0, 0], 0, 0
    if base_gpus[j] > 0 and fits(base[j], free, spanning, exclusive):
        value = stay[j] + charge * base_gpus[j]
        if value < best - FLAT:
            best, gpus, kind = value, base_gpus[j], 2
    levels[:] = 0
    largest = 0
    for n in range(nodes):
        largest = max(largest, free[n])
        if not (exclusive and spanning[n] > 0):
            levels[free[n]] += 1
    for g in range(1, min(largest, most[j]) + 1):
        value = cost[j, 0, g] + charge * g
        if value < best - FLAT:
            best, gpus, kind = value, g, 0
    room, left = 0, parts_most
    for level in range(top, 0, -1):
        taken = min(levels[level], left)
        room += taken * level
        left -= taken
    for g in range(2, min(room, most[j]) + 1):
        value = cost[j, 1, g] + charge * g
        if value < best - FLAT:
            best, gpus, kind = value, g, 1
    if gpus == 0:
        return cost[j, 0, 0]
    if kind == 2:
        put(j, base[j], rows, free, spanning)
        return stay[j]
    if kind == 0:
        chosen = -1
        for n in range(nodes):
            if free[n] >= gpus and (chosen < 0 or free[n] < free[chosen]):
                chosen = n
        free[chosen] -= gpus
        rows[j, 0, 0], rows[j, 0, 1] = chosen, gpus
        return cost[j, 0, gpus]
    parts = spread(j, gpus, rows, free, spanning, exclusive)
    if parts == 0:
        return cost[j, 0, 0]
    return cost[j, 1, gpus]


@njit(cache=True)
def spread(j, gpus, rows, free, spanning, exclusive):  # type: ignore[no-untyped-def]
    """On several nodes: the freest whole, then the tightest that holds the rest. Returns how many, 0 = it cannot be done."""
    need, parts = gpus, 0
    while need > 0:
        chosen = -1
        for n in range(len(free)):
            if free[n] <= 0 or (exclusive and spanning[n] > 0):
                continue
            mine = False
            for i in range(parts):
                mine = mine or rows[j, i, 0] == n
            if mine:
                continue
            if chosen < 0 or (free[n] > free[chosen] and free[chosen] < need) or need <= free[n] < free[chosen]:
                chosen = n
        if chosen < 0 or parts == rows.shape[1]:
            break
        taken = min(need, free[chosen], gpus - 1)  # all of it on one node would be another kind
        rows[j, parts, 0], rows[j, parts, 1] = chosen, taken
        need -= taken
        parts += 1
    if need > 0:
        rows[j, :, 0] = -1
        return 0
    for i in range(parts):
        free[rows[j, i, 0]] -= rows[j, i, 1]
        spanning[rows[j, i, 0]] += 1
    return parts


@njit(cache=True)
def search(cost, stay, base, most, capacity, exclusive, steps, seed):  # type: ignore[no-untyped-def]
    """(rows, cost): the best placement found in so many steps. Starts from where the jobs are."""
    np.random.seed(seed)
    jobs, nodes, parts_most = len(stay), len(capacity), base.shape[1]
    free, spanning = capacity.copy(), np.zeros(nodes, np.int64)
    rows = np.zeros((jobs, parts_most, 2), np.int64)
    rows[:, :, 0] = -1
    now, base_gpus = np.zeros(jobs), np.zeros(jobs, np.int64)
    levels = np.zeros(capacity.max() + 1, np.int64)
    for j in range(jobs):
        for i in range(parts_most):
            if base[j, i, 0] < 0:
                break
            base_gpus[j] += base[j, i, 1]
    charge = price(cost, stay, base_gpus, capacity.sum())
    for j in range(jobs):
        if base_gpus[j] > 0 and fits(base[j], free, spanning, exclusive):
            put(j, base[j], rows, free, spanning)
            now[j] = stay[j]
        else:
            now[j] = cost[j, 0, 0]
    for j in range(jobs):  # newcomers at the price, then everybody without one
        if rows[j, 0, 0] < 0:
            now[j] = insert(j, charge, cost, stay, base, base_gpus, most, rows, free, spanning, exclusive, levels)

    taken, kept_rows, kept = np.zeros(jobs, np.int64), np.zeros((jobs, parts_most, 2), np.int64), np.zeros(jobs)
    picked = np.zeros(jobs, np.bool_)
    total, scale = now.sum(), WARMTH * now.sum() / max(jobs, 1)
    best, best_rows = total, rows.copy()
    for step in range(steps):
        warmth = scale * (1.0 - step / steps) ** 2
        n_taken = pick(step, jobs, nodes, rows, taken, picked)
        before, after = 0.0, 0.0
        for i in range(n_taken):
            j = taken[i]
            kept_rows[i], kept[i] = rows[j], now[j]
            before += now[j]
            lift(j, rows, free, spanning, now)
        rate = charge * np.exp(2.0 * np.random.random() - 1.0) if step % 4 else 0.0
        for i in range(n_taken - 1, 0, -1):
            k = np.random.randint(0, i + 1)
            taken[i], taken[k] = taken[k], taken[i]
            kept[i], kept[k] = kept[k], kept[i]
            for part in range(parts_most):
                for side in range(2):
                    kept_rows[i, part, side], kept_rows[k, part, side] = kept_rows[k, part, side], kept_rows[i, part, side]
        for i in range(n_taken):
            j = taken[i]
            now[j] = insert(j, rate, cost, stay, base, base_gpus, most, rows, free, spanning, exclusive, levels)
            after += now[j]
        worse = after - before
        if worse > FLAT and np.random.random() >= np.exp(-worse / max(warmth, FLAT)):
            for i in range(n_taken):
                lift(taken[i], rows, free, spanning, now)
            for i in range(n_taken):
                put(taken[i], kept_rows[i], rows, free, spanning)
                now[taken[i]] = kept[i]
        else:
            total += worse
            if total < best - FLAT:
                best, best_rows[:] = total, rows
        for i in range(n_taken):
            picked[taken[i]] = False
    return best_rows, best


@njit(cache=True)
def pick(step, jobs, nodes, rows, taken, picked):  # type: ignore[no-untyped-def]
    """Jobs to take off: those of one node, or of two, or any; and now and then one more that may hold nothing."""
    n_taken, limit = 0, min(jobs, 8)
    if step % 3:
        for _ in range(1 + step % 2):
            node = np.random.randint(0, nodes)
            for j in range(jobs):
                if picked[j] or n_taken == limit:
                    continue
                for i in range(rows.shape[1]):
                    if rows[j, i, 0] < 0:
                        break
                    if rows[j, i, 0] == node:
                        taken[n_taken], picked[j] = j, True
                        n_taken += 1
                        break
    more = 1 + np.random.randint(0, 3)
    for _ in range(more):
        j = np.random.randint(0, jobs)
        if not picked[j] and n_taken < limit:
            taken[n_taken], picked[j] = j, True
            n_taken += 1
    return n_taken
