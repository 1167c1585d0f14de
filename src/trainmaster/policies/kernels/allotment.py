"""Pollux's question, who gets how many GPUs on which nodes, answered by large neighbourhood search.

A few jobs are taken off the cluster and put back; what is no worse stays, and at first, now and then, what is worse (simulated
annealing: one gets out of local optima). The best seen is the answer. (Ropke and Pisinger, "An adaptive large neighborhood search
heuristic", Transportation Science 40(4), 2006, for the idea.) They are put back in one of two ways, by chance:

    one by one   each as it is best for itself at a price a GPU, about what the last GPU is worth
    together     their numbers of GPUs by dynamic programming, as is best for all of them: costs are not convex (to stay is cheap, and
                 on one GPU more everything moves), so there are answers that no price leads to

Over all jobs the same programme, in which only numbers count, is a bound that no placement can beat: who meets it is done.

    cost[j, kind, g]   what job j adds to the sum to be minimised on g GPUs: kind 0 on one node, 1 on several, if it has to move
    stay[j]            what it adds where it is now
    base[j]            (node, GPUs) of where it is now, -1 ends
    rows[j]            where the answer puts it, likewise

No node gives more than it has, and at most one job that spans nodes has GPUs on a node (`exclusive`).
"""

import numpy as np
from numba import njit

FLAT = 1e-12  # differences below are rounding
WARMTH = 0.12  # of what a job costs on average: about so much worse is put up with at first
TAKEN = 8  # jobs at once, at most
BOUNDED = 4_000_000  # jobs x GPUs: beyond that the bound costs more than it saves


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
def options(j, room, largest, across, unit, cost, most, sizes, uses, values):  # type: ignore[no-untyped-def]
    """What a job can have, each taking more room and better than the one before: (GPUs, room, cost). Returns how many.

    A gang that spans nodes takes whole units of room: 1, or a node, as no other such gang may have the rest.
    """
    count, least = 0, cost[j, 0, 0]
    for g in range(1, min(room, most[j]) + 1):
        value, use = cost[j, 0, g] if g <= largest else np.inf, g
        if 1 < g <= across and cost[j, 1, g] < value:
            value, use = cost[j, 1, g], min((g + unit - 1) // unit * unit, across)
        if value < least - FLAT:
            while count > 0 and uses[count - 1] >= use:
                count -= 1
            sizes[count], uses[count], values[count] = g, use, value
            count, least = count + 1, value
    return count


@njit(cache=True)
def divide(taken, room, largest, across, unit, may_stay, cost, stay, base_gpus, most, best, chosen, used, sizes, uses, values):  # type: ignore[no-untyped-def]
    """How many GPUs each of these jobs gets if only numbers count: `chosen[i, 0]`, -1 = it stays where it was. Returns their cost.

    On the way `best[i, t]` is of the first i jobs in room t, `chosen[i, t]` and `used[i, t]` are of job i there.
    """
    best[0, : room + 1] = 0.0
    for i, j in enumerate(taken):
        for t in range(room + 1):
            best[i + 1, t], chosen[i, t], used[i, t] = best[i, t] + cost[j, 0, 0], 0, 0
        for k in range(options(j, room, largest, across, unit, cost, most, sizes, uses, values)):
            g, use, value = sizes[k], uses[k], values[k]
            for t in range(use, room + 1):
                if best[i, t - use] + value < best[i + 1, t]:
                    best[i + 1, t], chosen[i, t], used[i, t] = best[i, t - use] + value, g, use
        if may_stay[i]:
            use, value = base_gpus[j], stay[j]
            for t in range(use, room + 1):
                if best[i, t - use] + value <= best[i + 1, t] + FLAT:
                    best[i + 1, t], chosen[i, t], used[i, t] = best[i, t - use] + value, -1, use
    left = room
    for i in range(len(taken) - 1, -1, -1):
        use = used[i, left]
        chosen[i, 0] = chosen[i, left]
        left -= use
    return best[len(taken), room]


@njit(cache=True)
def place(j, gpus, cost, rows, free, spanning, exclusive):  # type: ignore[no-untyped-def]
    """Put a job on so many GPUs, where it costs least; returns what it then costs, -1 = there is no room."""
    chosen = -1
    for n in range(len(free)):
        if free[n] >= gpus and (chosen < 0 or free[n] < free[chosen] or (free[n] == free[chosen] and spanning[n] > spanning[chosen])):
            chosen = n
    if chosen >= 0 and (gpus == 1 or cost[j, 0, gpus] <= cost[j, 1, gpus]):
        free[chosen] -= gpus
        rows[j, 0, 0], rows[j, 0, 1] = chosen, gpus
        return cost[j, 0, gpus]
    if gpus > 1 and spread(j, gpus, rows, free, spanning, exclusive):
        return cost[j, 1, gpus]
    return -1.0


@njit(cache=True)
def together(taken, unit, cost, stay, base, base_gpus, most, rows, free, spanning, exclusive, levels, now, may_stay, best, chosen, used,
             sizes, uses, values):  # type: ignore[no-untyped-def]
    """Put these jobs back as is best for all of them; returns what they then cost."""
    room, largest, across, wanted = 0, 0, 0, 0
    for n in range(len(free)):
        room += free[n]
        largest = max(largest, free[n])
        if not (exclusive and spanning[n] > 0):
            across += free[n]
    for i, j in enumerate(taken):
        may_stay[i] = base_gpus[j] > 0 and fits(base[j], free, spanning, exclusive)
        wanted += max((most[j] + unit - 1) // unit * unit, base_gpus[j])
    room = min(room, wanted)
    divide(taken, room, largest, across, unit, may_stay, cost, stay, base_gpus, most, best, chosen, used, sizes, uses, values)
    for i, j in enumerate(taken):
        now[j] = -1.0
        if chosen[i, 0] < 0 and fits(base[j], free, spanning, exclusive):
            put(j, base[j], rows, free, spanning)
            now[j] = stay[j]
    for i, j in enumerate(taken):
        if chosen[i, 0] == 0:
            now[j] = cost[j, 0, 0]
        elif now[j] < 0:
            now[j] = place(j, chosen[i, 0] if chosen[i, 0] > 0 else base_gpus[j], cost, rows, free, spanning, exclusive)
    after = 0.0
    for j in taken:
        if now[j] < 0:  # where numbers fit and nodes do not
            now[j] = insert(j, 0.0, cost, stay, base, base_gpus, most, rows, free, spanning, exclusive, levels)
        after += now[j]
    return after


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

    total_gpus, top, whole = capacity.sum(), cost.shape[2], capacity.max()
    sizes, uses, values = np.zeros(top, np.int64), np.zeros(top, np.int64), np.zeros(top)
    bound, size = -np.inf, min(jobs, TAKEN)
    if jobs * total_gpus <= BOUNDED:
        bound = divide(np.arange(jobs), total_gpus, whole, total_gpus, 1, base_gpus > 0, cost, stay, base_gpus, most,
                       np.zeros((jobs + 1, total_gpus + 1)), np.zeros((jobs, total_gpus + 1), np.int64),
                       np.zeros((jobs, total_gpus + 1), np.int64), sizes, uses, values)  # fmt: skip
    table, chosen = np.zeros((size + 1, total_gpus + 1)), np.zeros((size, total_gpus + 1), np.int64)
    used, may_stay, picked = np.zeros_like(chosen), np.zeros(size, np.bool_), np.zeros(jobs, np.bool_)
    buffer, kept_rows, kept = np.zeros(size, np.int64), np.zeros((size, parts_most, 2), np.int64), np.zeros(size)
    total, scale = now.sum(), WARMTH * now.sum() / max(jobs, 1)
    best, best_rows = total, rows.copy()
    for step in range(steps):
        if best <= bound + FLAT * jobs:
            break
        warmth = scale * (1.0 - step / steps) ** 2
        taken = buffer[: pick(jobs, nodes, base, rows, buffer, picked)]
        np.random.shuffle(taken)
        before, after = 0.0, 0.0
        for i, j in enumerate(taken):
            kept_rows[i], kept[i] = rows[j], now[j]
            before += now[j]
            lift(j, rows, free, spanning, now)
        way = np.random.random()
        if way < 0.5:
            after = together(taken, whole if way < 0.125 else 1, cost, stay, base, base_gpus, most, rows, free, spanning, exclusive, levels,
                             now, may_stay, table, chosen, used, sizes, uses, values)  # fmt: skip
        else:
            rate = charge * np.exp(2.0 * np.random.random() - 1.0) if way < 0.875 else 0.0
            for j in taken:
                now[j] = insert(j, rate, cost, stay, base, base_gpus, most, rows, free, spanning, exclusive, levels)
                after += now[j]
        worse = after - before
        if worse > FLAT and np.random.random() >= np.exp(-worse / max(warmth, FLAT)):
            for j in taken:
                lift(j, rows, free, spanning, now)
            for i, j in enumerate(taken):
                put(j, kept_rows[i], rows, free, spanning)
                now[j] = kept[i]
        else:
            total += worse
            if total < best - FLAT:
                best, best_rows[:] = total, rows
        for j in taken:
            picked[j] = False
    return best_rows, best


@njit(cache=True)
def pick(jobs, nodes, base, rows, taken, picked):  # type: ignore[no-untyped-def]
    """Jobs to take off: any; those of a node, or of two; or one and those who have the nodes it was on. And up to four more."""
    count, kind = 0, np.random.randint(0, 4)
    if kind == 0:
        for _ in range(np.random.randint(1, 3)):
            count = add(np.random.randint(0, jobs), taken, count, picked)
    elif kind == 3:
        j = np.random.randint(0, jobs)
        count = add(j, taken, count, picked)
        for i in range(base.shape[1]):
            if base[j, i, 0] < 0:
                break
            count = add_those_on(base[j, i, 0], rows, taken, count, picked)
    else:
        for _ in range(kind):
            count = add_those_on(np.random.randint(0, nodes), rows, taken, count, picked)
    for _ in range(np.random.randint(1, 5)):
        count = add(np.random.randint(0, jobs), taken, count, picked)
    return count


@njit(cache=True)
def add_those_on(node, rows, taken, count, picked):  # type: ignore[no-untyped-def]
    for j in range(len(rows)):
        for i in range(rows.shape[1]):
            if rows[j, i, 0] < 0:
                break
            if rows[j, i, 0] == node:
                count = add(j, taken, count, picked)
                break
    return count


@njit(cache=True)
def add(j, taken, count, picked):  # type: ignore[no-untyped-def]
    if picked[j] or count == len(taken):
        return count
    taken[count], picked[j] = j, True
    return count + 1
