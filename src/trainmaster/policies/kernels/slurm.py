"""Slurm's two schedulers on nodes: which of the waiting jobs start now and where, and what is planned for the others.

What a node has and a job needs are three whole numbers each: thousandths of GPUs, thousandths of CPUs, MiB. A job runs on `count` nodes
with at least `each` free on every one (count 0: on the `gang` GPUs it finds, wherever they are). `parts[:, p]` is what a holder has on
one node: (holder, node, and the three), in the order of holders.

A plan is a row of spaces linked by time, as bf_window, bf_resolution and the tests of sched/backfill define them: from begin_s to end_s
of a space, the nodes that no planned job has taken, each node whole. Spaces are linked by `following`, -1 ends.
"""

import numpy as np
from numba import njit

GPU, CPU, MEMORY = range(3)
HOLDER, NODE, AMOUNT = 0, 1, 2  # rows of `parts`
MOST_TRIES = 100_000  # of one job in one cycle; every try is later than the one before, so that a plan's own size ends it long before


@njit(cache=True)
def fits(free, each):  # type: ignore[no-untyped-def]
    return free[GPU] >= each[GPU] and free[CPU] >= each[CPU] and free[MEMORY] >= each[MEMORY]


@njit(cache=True)
def pick(free, allowed, each, count, gang, chosen):  # type: ignore[no-untyped-def]
    """Mark the nodes on which the job fits; False = it does not.

    Of the runs of neighbouring nodes that could each take it, the shortest that is large enough, else the longest one after another;
    inside a run from its first node on: how select/cons_tres chooses among nodes of one weight, where a job says how many processes run
    on each (--ntasks-per-node). A node then counts for what the job would use of it, not for what is free there.
    """
    nodes = len(free)
    chosen[:] = False
    if count == 0:
        left = gang
        for n in range(nodes):
            if left > 0 and allowed[n] and free[n, GPU] >= 1000:
                chosen[n] = True
                left -= free[n, GPU] // 1000 * 1000
        return left <= 0
    left = count
    while left > 0:
        best, best_size, best_enough = -1, 0, False
        n = 0
        while n < nodes:
            if not allowed[n] or chosen[n] or not fits(free[n], each):
                n += 1
                continue
            begin = n
            while n < nodes and allowed[n] and not chosen[n] and fits(free[n], each):
                n += 1
            size, enough = n - begin, n - begin >= left
            if best < 0 or (enough and (not best_enough or size < best_size)) or (not enough and not best_enough and size > best_size):
                best, best_size, best_enough = begin, size, enough
        if best < 0:
            return False
        for n in range(best, best + min(best_size, left)):
            chosen[n] = True
        left -= min(best_size, left)
    return True


@njit(cache=True)
def take(free, each, count, gang, chosen):  # type: ignore[no-untyped-def]
    """Take what the job gets on the nodes chosen, the last of which gives the rest of its GPUs; returns the GPUs by node."""
    got, left, nodes = np.zeros(len(free), np.int64), gang, 0
    for n in range(len(free)):
        if not chosen[n]:
            continue
        nodes += 1
        got[n] = min(left, free[n, GPU] // 1000 * 1000 if count == 0 else each[GPU])
        left -= got[n]
        free[n, GPU] -= got[n]
        if count > 0:
            free[n, CPU] -= each[CPU]
            free[n, MEMORY] -= each[MEMORY]
    return got


@njit(cache=True)
def main_pass(free, up, open_to, partition, nodes_of_partition, each, count, gang, depth):  # type: ignore[no-untyped-def]
    """The main scheduler: in order, as deep as `depth`; a job that finds no room shuts its partition, and the partition's nodes for all.

    Jobs are in order of priority; `open_to[job]`: the nodes it may use. Returns (jobs, nodes) thousandths of GPUs given, -1 in a job's
    first place where it was not started, and per job whether it was the one that found no room.
    """
    jobs, nodes = len(count), len(free)
    given = np.full((jobs, nodes), -1, np.int64)
    shut, closed, stuck = np.zeros(len(nodes_of_partition), np.bool_), np.zeros(nodes, np.bool_), np.zeros(jobs, np.bool_)
    chosen, allowed = np.zeros(nodes, np.bool_), np.zeros(nodes, np.bool_)
    for job in range(min(jobs, depth)):
        if shut[partition[job]]:
            continue
        for n in range(nodes):
            allowed[n] = up[n] and open_to[job, n] and not closed[n]
        if pick(free, allowed, each[job], count[job], gang[job], chosen):
            given[job] = take(free, each[job], count[job], gang[job], chosen)
        else:
            stuck[job] = True
            shut[partition[job]] = True
            for n in range(nodes):
                closed[n] |= nodes_of_partition[partition[job], n]
    return given, stuck


@njit(cache=True)
def earliest(now_s, grain_s, free, allowed, parts, ends_s, first_part, order, each, count, gang, chosen):  # type: ignore[no-untyped-def]
    """When the job could start on these nodes, if holders end as planned and nobody else comes; inf = never. Marks the nodes.

    Holders are let go in groups. The first to end sets a mark, on the next multiple of `grain_s`; groups end a grain, two, four, ... after
    that mark, all counted from it. Whoever has none of these nodes is passed over, but a group is only closed by the end of the next in
    the list after one that was let go.
    """
    if pick(free, allowed, each, count, gang, chosen):
        return now_s
    later, span_s, mark_s, i = free.copy(), grain_s, -np.inf, 0
    while i < len(order):
        last_s = -np.inf
        while i < len(order):
            holder = order[i]
            i += 1
            concerns = False
            for p in range(first_part[holder], first_part[holder + 1]):
                concerns |= allowed[parts[NODE, p]]
            if not concerns:
                continue
            for p in range(first_part[holder], first_part[holder + 1]):
                for k in range(3):
                    later[parts[NODE, p], k] += parts[AMOUNT + k, p]
            last_s = ends_s[holder]
            if mark_s == -np.inf:
                mark_s = (np.floor(last_s / grain_s) + 1.0) * grain_s
            if i < len(order) and ends_s[order[i]] > mark_s + span_s:
                break
        if last_s == -np.inf:
            break
        span_s *= 2.0
        while i < len(order) and ends_s[order[i]] > mark_s + span_s:
            span_s *= 2.0
        if pick(later, allowed, each, count, gang, chosen):
            return max(last_s, np.nextafter(now_s, np.inf))
    return np.inf


@njit(cache=True)
def ends_after(ends_s, seq, one, other):  # type: ignore[no-untyped-def]
    return ends_s[one] > ends_s[other] or (ends_s[one] == ends_s[other] and seq[one] > seq[other])


@njit(cache=True)
def overlaps(begin_s, end_s, vacant, following, chosen, from_s, until_s):  # type: ignore[no-untyped-def]
    """Whether a planned job has one of these nodes at some time between."""
    s = 0
    while s >= 0:
        if end_s[s] > from_s and begin_s[s] < until_s:
            for n in range(len(chosen)):
                if chosen[n] and not vacant[s, n]:
                    return True
        s = following[s]
    return False


@njit(cache=True)
def cut(begin_s, end_s, vacant, following, s, at_s, spaces):  # type: ignore[no-untyped-def]
    """Let a space end at this time, and another go on from there."""
    begin_s[spaces], end_s[spaces], following[spaces] = at_s, end_s[s], following[s]
    vacant[spaces] = vacant[s]
    end_s[s], following[s] = at_s, spaces
    return spaces + 1


@njit(cache=True)
def reserve(begin_s, end_s, vacant, following, chosen, from_s, until_s, spaces):  # type: ignore[no-untyped-def]
    """Take whole nodes out of the plan; returns how many spaces have been made. The first two neighbours that are equal now become one."""
    from_s = max(from_s, begin_s[0])
    s, before = 0, 0
    while end_s[s] < from_s:
        before, s = s, following[s]
        if s < 0:
            return spaces
    if end_s[s] > from_s:
        spaces = cut(begin_s, end_s, vacant, following, s, from_s, spaces)
    after = -1
    while following[s] >= 0:
        s = following[s]
        if end_s[s] > until_s:
            spaces = cut(begin_s, end_s, vacant, following, s, until_s, spaces)
        for n in range(len(chosen)):
            if chosen[n]:
                vacant[s, n] = False
        if end_s[s] == until_s:
            after = following[s]
            break
    s = before
    while s != after and following[s] >= 0:
        later = following[s]
        if (vacant[s] == vacant[later]).all():
            end_s[s], following[s] = end_s[later], following[later]
            break
        s = later
    return spaces


@njit(cache=True)
def backfill(now_s, window_s, resolution_s, grain_s, most_spaces, free, up, open_to, parts, ends_s, seq_of_holder,  # type: ignore[no-untyped-def]
             each, count, gang, limit_s, seq):  # fmt: skip
    """One cycle of the backfill scheduler over the jobs given, in order; who was submitted earlier (`seq`) ends first of two at one time.

    A job starts now if it fits, and no planned job has one of its nodes before its limit is over; else its nodes are reserved from
    when it is expected to start, rounded down to `resolution_s`. Returns as `main_pass`, and the time each job is planned for
    (NaN = none was).
    """
    jobs, nodes, holders = len(count), len(free), len(ends_s)
    given, planned_s = np.full((jobs, nodes), -1, np.int64), np.full(jobs, np.nan)
    # holders and their parts, with room for those who start now
    all_ends_s, first_part = np.empty(holders + jobs), np.zeros(holders + jobs + 1, np.int64)
    all_ends_s[:holders] = ends_s
    all_parts = np.empty((AMOUNT + 3, parts.shape[1] + jobs * 2 + nodes), np.int64)
    n_parts = parts.shape[1]
    all_parts[:, :n_parts] = parts[: AMOUNT + 3]
    for p in range(n_parts):
        first_part[parts[HOLDER, p] + 1] += 1
    for holder in range(holders):
        first_part[holder + 1] += first_part[holder]
    all_seq, order = np.concatenate((seq_of_holder, seq)), np.empty(holders + jobs, np.int64)
    submitted = np.argsort(seq_of_holder)
    order[:holders] = submitted[np.argsort(ends_s[submitted], kind="mergesort")]
    room = most_spaces + 3
    begin_s, end_s, vacant = np.zeros(room), np.zeros(room), np.zeros((room, nodes), np.bool_)
    following = np.full(room, -1)
    begin_s[0], end_s[0] = np.floor(now_s / resolution_s) * resolution_s, np.floor((now_s + window_s) / resolution_s) * resolution_s
    vacant[0], spaces = up, 1
    chosen, allowed = np.zeros(nodes, np.bool_), np.zeros(nodes, np.bool_)
    for job in range(jobs):
        later_s = -np.inf
        for _ in range(MOST_TRIES):
            from_s, later_s = later_s, -np.inf
            if from_s > now_s + window_s:
                break
            until_s = max(from_s, now_s) + limit_s[job]
            s = 0
            allowed[:] = up & open_to[job]
            while s >= 0:
                if end_s[s] > max(from_s, now_s):
                    if later_s == -np.inf and following[s] >= 0:  # it is worth trying again where a node is vacant that was not before
                        fresh = vacant[following[s]] & up & open_to[job] & ~(vacant[s] & allowed)
                        later_s = end_s[s] if fresh.any() else later_s
                    if begin_s[s] > until_s:
                        break
                    allowed &= vacant[s]
                s = following[s]
            if allowed.sum() < count[job]:
                if later_s > -np.inf:
                    continue
                break
            start_s = earliest(now_s, grain_s, free, allowed, all_parts, all_ends_s, first_part, order[:holders], each[job], count[job],
                               gang[job], chosen)  # fmt: skip
            if start_s == np.inf:
                if later_s > -np.inf:
                    continue
                break
            start_s = max(start_s, from_s)
            if start_s <= now_s:
                got = take(free, each[job], count[job], gang[job], chosen)
                given[job], planned_s[job] = got, now_s
                if n_parts + nodes > all_parts.shape[1]:
                    longer = np.empty((AMOUNT + 3, 2 * all_parts.shape[1] + nodes), np.int64)
                    longer[:, :n_parts] = all_parts[:, :n_parts]
                    all_parts = longer
                for n in range(nodes):
                    if chosen[n]:
                        all_parts[HOLDER, n_parts], all_parts[NODE, n_parts] = holders, n
                        all_parts[AMOUNT + GPU, n_parts] = got[n]
                        all_parts[AMOUNT + CPU, n_parts] = each[job, CPU] if count[job] > 0 else 0
                        all_parts[AMOUNT + MEMORY, n_parts] = each[job, MEMORY] if count[job] > 0 else 0
                        n_parts += 1
                all_ends_s[holders], all_seq[holders] = now_s + limit_s[job], seq[job]
                place = holders
                while place > 0 and ends_after(all_ends_s, all_seq, order[place - 1], holders):
                    order[place] = order[place - 1]
                    place -= 1
                order[place] = holders
                holders += 1
                first_part[holders] = n_parts
                break
            if later_s > -np.inf and start_s > later_s:
                continue
            if start_s > now_s + window_s:
                planned_s[job] = start_s
                break
            slot_s = np.floor(start_s / resolution_s) * resolution_s
            slot_end_s = np.floor((start_s + limit_s[job]) / resolution_s) * resolution_s
            if overlaps(begin_s, end_s, vacant, following, chosen, slot_s, slot_end_s):
                later_s = start_s + resolution_s if start_s == from_s else start_s
                continue
            planned_s[job] = start_s
            if spaces >= most_spaces:
                return given, planned_s
            slot_end_s = max(slot_end_s, slot_s + resolution_s)
            spaces = reserve(begin_s, end_s, vacant, following, chosen, slot_s, slot_end_s, spaces)
            break
    return given, planned_s
