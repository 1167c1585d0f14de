"""The compiled hot loops of the engine: events, the walk of a list policy, placement on nodes, the ledger.

Numba compiles them once; a new process loads them from disk. They read like the rules of the design because they are
the rules, with three facts that make them fast and change nothing:

- a waiting job's key does not change while it waits, so each class of equal demand keeps its jobs in a heap, and a walk
  looks at the heads only: where the head of a class does not fit, no job behind it does;
- running jobs carry (work left, since when, rate) and are touched only at decisions that rank them;
- when everything that is active fits at once, no order can matter, and running jobs are not ranked at all.

`run` goes on until it needs the caller: see the codes below. All times are seconds, GPUs are counted in thousandths.
"""

from __future__ import annotations

import numpy as np
from numba import from_dtype, njit, types

from trainmaster.engine.arrays import RECORD
from trainmaster.engine.late import late
from trainmaster.engine.state import CLAIM, DRAIN, ENDED, FREED, FUTURE, JOB, RESERVED, RUNNING, STARTING, WAITING
from trainmaster.policies.base import Verdict

# What `run` returns: why it stopped.
FINISHED, EXTERNAL, DECIDE, RATE, GROW, PAUSE, BROKEN, ACT = range(8)

KEPT, STARTED, CAPACITY = int(Verdict.KEPT), int(Verdict.STARTED), int(Verdict.CAPACITY)
FRAGMENTED, QUOTA, BLOCKED = int(Verdict.FRAGMENTED), int(Verdict.QUOTA), int(Verdict.BLOCKED)
POLICY_ZERO, PINNED = int(Verdict.POLICY_ZERO), int(Verdict.PINNED)
MIN_RUN, SPARED = int(Verdict.MIN_RUN), int(Verdict.SPARED)

# Constants handed to compiled functions are NumPy's: numba compiles a function anew for every literal it is handed.
ZERO, ONE, NOWHERE = np.int64(0), np.int64(1), np.int64(-1)
ANY, HELD_ONLY, WAITING_ONLY = np.int64(0), np.int64(1), np.int64(2)  # whom a stage of the walk looks at
EITHER, WITHIN, BEYOND = np.int64(0), np.int64(1), np.int64(2)  # and on which side of its queue's quota

_F, _F2 = types.float64[::1], types.float64[:, ::1]
_I, _L = types.int32[::1], types.int64[::1]

JOBS = types.Array(from_dtype(JOB), 1, "C")
STATE = types.Array(RECORD, 1, "C")  # the clock: one record that knows where all arrays lie

# Without Python's check of every divisor: none of them is 0.
kernel = njit(error_model="numpy")

# A key function writes one row of three floats a job, smaller first; a wake-up function says when ranks next change by
# themselves; a pick narrows down the node that takes (part of) a gang to those with lo..hi whole GPUs free.
KEY = types.void(JOBS, _I, types.int64, types.float64, _F, _F, _F2, _F2)
WAKEUP = types.float64(JOBS, _I, types.int64, types.float64, _F, _F, _F2)
PICK = types.UniTuple(types.int64, 2)(_L, types.int64)


# ---------------------------------------------------------------------------------------------- order


@kernel
def less(keys, a, b):
    for k in range(4):
        x, y = keys[a, k], keys[b, k]
        if x != y:
            return x < y
    return a < b


@kernel
def sort_rows(S, rows, n, scratch):
    """Natural merge sort: running jobs are nearly in order from the last walk, so most passes find long runs."""
    keys = S.keys
    while True:
        begin, runs = 0, 0
        while begin < n:
            middle = begin + 1
            while middle < n and not less(keys, rows[middle], rows[middle - 1]):
                middle += 1
            if middle == n and begin == 0:
                return
            end = min(middle + 1, n)
            while end < n and not less(keys, rows[end], rows[end - 1]):
                end += 1
            i, j, k = begin, middle, begin
            while k < end:
                if j >= end or (i < middle and not less(keys, rows[j], rows[i])):
                    scratch[k] = rows[i]
                    i += 1
                else:
                    scratch[k] = rows[j]
                    j += 1
                k += 1
            runs += 1
            begin = end
        rows[:n] = scratch[:n]
        if runs <= 1:
            return


@kernel
def wait(S, row):
    """Put a waiting job into the heap of its class."""
    keys = S.keys
    k = S.classes[S.jobs[row].klass]
    i = k.size
    k.size += 1
    heap = S.waiting[k.offset : k.offset + k.size]
    while i > 0:
        parent = (i - 1) // 2
        if not less(keys, row, heap[parent]):
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = row


@kernel
def leave_heap(S, row):
    """Take a waiting job out of the heap of its class, wherever it stands there; false if it is not in it."""
    keys = S.keys
    k = S.classes[S.jobs[row].klass]
    heap = S.waiting[k.offset : k.offset + k.size]
    at = 0
    while at < k.size and heap[at] != row:
        at += 1
    if at == k.size:
        return False
    k.size -= 1
    n, last = k.size, heap[k.size]
    if at == n:
        return True
    while at > 0 and less(keys, last, heap[(at - 1) // 2]):
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and less(keys, heap[child + 1], heap[child]):
            child += 1
        if not less(keys, heap[child], last):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = last
    return True


@kernel
def pop_head(S, klass):
    keys, k = S.keys, S.classes[klass]
    heap = S.waiting[k.offset : k.offset + k.size]
    top, last = heap[0], heap[k.size - 1]
    k.size -= 1
    n, hole, child = k.size, 0, 1
    while child < n:  # the smaller children move up all the way: what was last nearly always belongs at the bottom
        if child + 1 < n and less(keys, heap[child + 1], heap[child]):
            child += 1
        heap[hole] = heap[child]
        hole, child = child, 2 * child + 1
    while hole > 0 and less(keys, last, heap[(hole - 1) // 2]):
        heap[hole] = heap[(hole - 1) // 2]
        hole = (hole - 1) // 2
    heap[hole] = last
    return top


# ---------------------------------------------------------------------------------------------- due times


@kernel
def is_due_before(time_s, row, S, i):
    return time_s < S.heap_s[i] or (time_s == S.heap_s[i] and row < S.heap_row[i])


@kernel
def rise_due(S, time_s, row, hole, top):
    """Put what is due into the heap, at the hole or between it and `top`."""
    while hole > top and is_due_before(time_s, row, S, (hole - 1) // 2):
        S.heap_s[hole], S.heap_row[hole] = S.heap_s[(hole - 1) // 2], S.heap_row[(hole - 1) // 2]
        hole = (hole - 1) // 2
    S.heap_s[hole], S.heap_row[hole] = time_s, row


@kernel
def sink_due(S, hole):
    """Order the heap below the hole and what stands there."""
    time_s, row, top, child = S.heap_s[hole], S.heap_row[hole], hole, 2 * hole + 1
    while child < S.heap:  # the earlier children move up all the way: what is moved down was nearly always last
        if child + 1 < S.heap and is_due_before(S.heap_s[child + 1], S.heap_row[child + 1], S, child):
            child += 1
        S.heap_s[hole], S.heap_row[hole] = S.heap_s[child], S.heap_row[child]
        hole, child = child, 2 * child + 1
    rise_due(S, time_s, row, hole, top)


@kernel
def is_stale(S, i):
    j = S.jobs[S.heap_row[i]]
    return j.running == 0 or j.due_s != S.heap_s[i]


@kernel
def push_due(S, row):
    c = S
    if c.heap == len(S.heap_s) or c.heap > 2 * c.n_holding + 64:  # drop what is stale; at most one a holding job is not
        n = 0
        for i in range(c.heap):
            if not is_stale(S, i):
                S.heap_s[n], S.heap_row[n] = S.heap_s[i], S.heap_row[i]
                n += 1
        c.heap = n
        for i in range(n // 2, -1, -1):
            sink_due(S, np.int64(i))
    c.heap += 1
    rise_due(S, S.jobs[row].due_s, row, c.heap - 1, ZERO)


@kernel
def pop_due(S):
    S.heap -= 1
    S.heap_s[0], S.heap_row[0] = S.heap_s[S.heap], S.heap_row[S.heap]
    sink_due(S, ZERO)


@kernel
def next_due(S):
    c = S
    while c.heap > 0 and is_stale(S, ZERO):
        pop_due(S)
    return S.heap_s[0] if c.heap > 0 else np.inf


# ---------------------------------------------------------------------------------------------- ledger


@kernel
def count_node(S, node, by):
    """Move a node into (+1) or out of (-1) the bucket of its free whole GPUs."""
    n = S.nodes[node]
    free = n.free_milli // 1000
    bit = np.uint64(1) << np.uint64(node & 63)
    S.buckets[n.pool, free, node >> 6] ^= bit
    S.bucket_size[n.pool, free] += by


@kernel
def move_free(S, node, milli):
    """Change how much of a node's unshared GPUs is free. Below zero is a bug: the caller has looked."""
    n = S.nodes[node]
    before = n.free_milli // 1000
    n.free_milli += milli
    if n.free_milli < 0:
        S.broken = node
        n.free_milli = 0
    after = n.free_milli // 1000
    if n.up and before != after:
        bit, buckets, sizes = np.uint64(1) << np.uint64(node & 63), S.buckets[n.pool], S.bucket_size[n.pool]
        buckets[before, node >> 6] ^= bit
        buckets[after, node >> 6] ^= bit
        sizes[before] -= 1
        sizes[after] += 1


@kernel
def count_pool(S, node, milli):
    """Change what a pool has free by what one of its nodes has; of one that is closed, what is held there."""
    n = S.nodes[node]
    if n.up:
        S.pools[n.pool].free_milli += milli
    else:
        S.closed_milli -= milli


@kernel
def take(S, node, milli, cpu_milli, memory_mib, slot):
    """Give (part of) a node away; `slot` is the shared GPU of a fraction, else -1."""
    n = S.nodes[node]
    if slot >= 0:
        if S.slots[slot] == 0:
            move_free(S, node, np.int64(-1000))
        S.slots[slot] += milli
        if S.slots[slot] > 1000:
            S.broken = node
    elif milli > 0:
        move_free(S, node, -milli)
    count_pool(S, node, -milli)
    if n.counts_cpu:
        n.cpu_free_milli -= cpu_milli
    if n.counts_memory:
        n.memory_free_mib -= memory_mib


@kernel
def give(S, node, milli, cpu_milli, memory_mib, slot):
    """Take back what `take` gave."""
    n = S.nodes[node]
    if slot >= 0:
        S.slots[slot] -= milli
        if S.slots[slot] == 0:
            move_free(S, node, np.int64(1000))
    elif milli > 0:
        move_free(S, node, milli)
    count_pool(S, node, milli)
    if n.counts_cpu:
        n.cpu_free_milli += cpu_milli
    if n.counts_memory:
        n.memory_free_mib += memory_mib


@kernel
def touch(S, slot):
    """Who holds a shared GPU has changed: the others there may run faster or slower now."""
    if S.by_neighbours and not S.touched[slot]:
        S.touched[slot] = 1
        S.n_touched += 1


@kernel
def take_part(S, p):
    slot = np.int64(S.parts[p].slot)
    take(S, np.int64(S.parts[p].node), np.int64(S.parts[p].milli), S.parts[p].cpu_milli, S.parts[p].memory_mib, slot)
    if slot >= 0:
        S.parts[p].next, S.slot_head[slot] = S.slot_head[slot], p
        touch(S, slot)


@kernel
def give_part(S, p):
    slot = np.int64(S.parts[p].slot)
    give(S, np.int64(S.parts[p].node), np.int64(S.parts[p].milli), S.parts[p].cpu_milli, S.parts[p].memory_mib, slot)
    if slot >= 0:
        if S.slot_head[slot] == p:
            S.slot_head[slot] = S.parts[p].next
        else:
            before = S.slot_head[slot]
            while S.parts[before].next != p:
                before = S.parts[before].next
            S.parts[before].next = S.parts[p].next
        touch(S, slot)


@kernel
def give_all(S, allocation):
    for p in range(S.allocations[allocation].first_part, S.allocations[allocation + 1].first_part):
        give_part(S, p)


@kernel
def take_all(S, allocation):
    for p in range(S.allocations[allocation].first_part, S.allocations[allocation + 1].first_part):
        take_part(S, p)


# ---------------------------------------------------------------------------------------------- placement


@kernel
def mix(x):
    """SplitMix64: chance from a counter, so that a restart repeats it."""
    x = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@kernel
def nth_node(S, klass, first, last, lo, hi, nth):
    """The nth node (by number) of the pools class_pools[klass, first:last] with lo..hi whole GPUs free; -1 if none."""
    for word in range(S.buckets.shape[2]):
        bits = np.uint64(0)
        for p in range(first, last):
            pool = S.class_pools[klass, p]
            for free in range(lo, hi + 1):
                bits |= S.buckets[pool, free, word]
        while bits:
            if nth == 0:
                bit = 0
                while not (bits >> np.uint64(bit)) & np.uint64(0xFF):
                    bit += 8
                while not (bits >> np.uint64(bit)) & np.uint64(1):
                    bit += 1
                return word * 64 + bit
            bits &= bits - np.uint64(1)
            nth -= 1
    return -1


@kernel
def usable_gpus(S, k, node):
    """Whole GPUs of a node that one job of this class could use, by GPUs, CPUs and memory."""
    n = S.nodes[node]
    gpus = n.free_milli // 1000
    whole = max(k.milli // 1000, 1)
    if n.counts_cpu and k.cpu_milli > 0:
        gpus = min(gpus, n.cpu_free_milli * whole // k.cpu_milli)
    if n.counts_memory and k.memory_mib > 0:
        gpus = min(gpus, n.memory_free_mib * whole // k.memory_mib)
    return gpus


@kernel
def has_room(S, k, node):
    """CPUs and memory for the whole job on this node."""
    n = S.nodes[node]
    return (not n.counts_cpu or n.cpu_free_milli >= k.cpu_milli) and (not n.counts_memory or n.memory_free_mib >= k.memory_mib)


@kernel
def in_group(S, klass, first, last, node):
    n = S.nodes[node]
    if not n.up:
        return False
    for p in range(first, last):
        if S.class_pools[klass, p] == n.pool:
            return True
    return False


@kernel
def put(S, node, milli, cpu_milli, memory_mib, slot):
    """Take, and write it down as the next part of the allocation being made."""
    c = S
    p = c.n_parts
    S.parts[p].node, S.parts[p].milli, S.parts[p].slot = node, milli, slot
    S.parts[p].cpu_milli, S.parts[p].memory_mib = cpu_milli, memory_mib
    take_part(S, p)
    c.n_parts += 1


@kernel
def place_gang(S, row, klass, first, last, pick, most_nodes):
    """Whole GPUs, node by node as `pick` says; true if the whole gang found room (else nothing is taken)."""
    c, k = S, S.classes[klass]
    begin, need = c.n_parts, k.milli // 1000
    whole, taken = need, np.int64(0)
    top = S.buckets.shape[1] - 1
    if not k.plain:
        for node in range(len(S.nodes)):
            S.usable[node] = usable_gpus(S, k, node) if in_group(S, klass, first, last, node) else 0
    while need > 0:
        for free in range(top + 1):
            S.counts[free] = 0
        if k.plain:
            for p in range(first, last):
                for free in range(1, top + 1):
                    S.counts[free] += S.bucket_size[S.class_pools[klass, p], free]
        else:
            for node in range(len(S.nodes)):
                S.counts[S.usable[node]] += 1
            S.counts[0] = 0
        lo, hi = pick(S.counts, need)
        candidates = np.int64(0)
        for free in range(lo, hi + 1):
            candidates += S.counts[free]
        if lo < 1 or candidates == 0 or (most_nodes > 0 and c.n_parts - begin >= most_nodes):
            undo_parts(S, begin)
            return False
        nth = np.int64(0)
        if c.random:
            nth = chosen_by_chance(S, row, candidates)
        if k.plain:
            node = nth_node(S, klass, first, last, lo, hi, nth)
            gpus = S.nodes[node].free_milli // 1000
        else:
            node = 0
            while True:
                if lo <= S.usable[node] <= hi:
                    if nth == 0:
                        break
                    nth -= 1
                node += 1
            gpus = S.usable[node]
        gpus = min(gpus, need)
        # CPUs and memory go with the GPUs, without losing a thousandth to rounding
        cpu = k.cpu_milli * (taken + gpus) // whole - k.cpu_milli * taken // whole
        memory = k.memory_mib * (taken + gpus) // whole - k.memory_mib * taken // whole
        n = S.nodes[node]
        if (n.counts_cpu and cpu > n.cpu_free_milli) or (n.counts_memory and memory > n.memory_free_mib):
            undo_parts(S, begin)
            return False
        put(S, np.int64(node), gpus * 1000, cpu, memory, NOWHERE)
        S.usable[node] = 0
        taken += gpus
        need -= gpus
    return True


@kernel
def undo_parts(S, begin):
    c = S
    for p in range(begin, c.n_parts):
        give_part(S, p)
    c.n_parts = begin


@kernel
def place_share(S, row, klass, first, last, pick):
    """A fraction: on a pooled node, else beside others on the fullest shared GPU that has room, else on a GPU of its own."""
    k = S.classes[klass]
    best, best_slot, best_left = -1, -1, np.int64(1) << np.int64(60)
    for node in range(len(S.nodes)):
        n = S.nodes[node]
        if not in_group(S, klass, first, last, node) or not has_room(S, k, node):
            continue
        if n.pooled:
            left = n.free_milli - k.milli
            if 0 <= left < best_left:
                best, best_slot, best_left = node, -1, left
        elif k.milli < 1000:
            for slot in range(n.slot, n.slot + n.gpus):
                left = 1000 - S.slots[slot] - k.milli
                if S.slots[slot] > 0 and 0 <= left < best_left:
                    best, best_slot, best_left = node, slot, left
    if best < 0 and k.milli < 1000:
        for free in range(len(S.counts)):
            S.counts[free] = 0
        for node in range(len(S.nodes)):
            fits = in_group(S, klass, first, last, node) and has_room(S, k, node) and not S.nodes[node].pooled
            S.usable[node] = S.nodes[node].free_milli // 1000 if fits else 0
            S.counts[S.usable[node]] += 1
        S.counts[0] = 0
        lo, hi = pick(S.counts, ONE)
        if lo >= 1:
            for node in range(len(S.nodes)):
                if lo <= S.usable[node] <= hi:
                    best = node
                    break
            if best >= 0:
                best_slot = S.nodes[best].slot
                while S.slots[best_slot] > 0:
                    best_slot += 1
    if best < 0:
        return False
    put(S, np.int64(best), k.milli, k.cpu_milli, k.memory_mib, np.int64(best_slot))
    return True


@kernel
def place_evenly(S, row, klass, first, last, pick):
    """As many GPUs, CPUs and GiB on each of exactly so many nodes; all of them or nothing."""
    c, k = S, S.classes[klass]
    begin, nodes = c.n_parts, np.int64(k.even_nodes)
    gpus = k.milli // 1000 // nodes
    if k.milli % (1000 * nodes):
        return False
    most_cpu, most_memory = -(-k.cpu_milli // nodes), -(-k.memory_mib // nodes)
    for node in range(len(S.nodes)):
        n = S.nodes[node]
        fits = in_group(S, klass, first, last, node) and n.free_milli >= gpus * 1000 and (gpus > 0 or n.counts_cpu == 1)
        fits &= (not n.counts_cpu or n.cpu_free_milli >= most_cpu) and (not n.counts_memory or n.memory_free_mib >= most_memory)
        S.usable[node] = 1 + n.free_milli // 1000 if fits else 0
    for i in range(nodes):
        best = -1
        if gpus > 0:
            for free in range(len(S.counts)):
                S.counts[free] = 0
            candidates = np.int64(0)
            for node in range(len(S.nodes)):
                if S.usable[node] > 0:
                    S.counts[S.usable[node] - 1] += 1
            lo, hi = pick(S.counts, gpus)
            for node in range(len(S.nodes)):
                candidates += lo < S.usable[node] <= hi + 1
            nth = chosen_by_chance(S, row, candidates) if c.random and candidates > 0 else ZERO
            for node in range(len(S.nodes)):
                if lo < S.usable[node] <= hi + 1:
                    if nth == 0:
                        best = node
                        break
                    nth -= 1
        else:
            for node in range(len(S.nodes)):
                if S.usable[node] > 0 and (best < 0 or S.nodes[node].cpu_free_milli < S.nodes[best].cpu_free_milli):
                    best = node
        if best < 0:
            undo_parts(S, begin)
            return False
        cpu = k.cpu_milli * (i + 1) // nodes - k.cpu_milli * i // nodes
        memory = k.memory_mib * (i + 1) // nodes - k.memory_mib * i // nodes
        put(S, np.int64(best), gpus * 1000, cpu, memory, NOWHERE)
        S.usable[best] = 0
    return True


@kernel
def chosen_by_chance(S, row, candidates):
    return np.int64(mix(mix(mix(S.seed) ^ np.uint64(S.decisions)) ^ np.uint64(S.jobs[row].seq)) % np.uint64(candidates))


@kernel
def place_cpus(S, klass, first, last):
    """CPUs alone: the node with the fewest free CPUs that has room."""
    k, best = S.classes[klass], -1
    for node in range(len(S.nodes)):
        if in_group(S, klass, first, last, node) and S.nodes[node].counts_cpu and has_room(S, k, node):
            if best < 0 or S.nodes[node].cpu_free_milli < S.nodes[best].cpu_free_milli:
                best = node
    if best < 0:
        return False
    put(S, np.int64(best), ZERO, k.cpu_milli, k.memory_mib, NOWHERE)
    return True


@kernel
def place_group(S, row, klass, first, last, pick, most_nodes):
    k = S.classes[klass]
    if k.even_nodes > 1:
        return place_evenly(S, row, klass, first, last, pick)
    if k.milli == 0:
        return place_cpus(S, klass, first, last)
    if k.milli % 1000:
        return place_share(S, row, klass, first, last, pick)
    return place_gang(S, row, klass, first, last, pick, most_nodes)


@kernel
def group_end(S, klass, first):
    """Pools of one accelerator type stand together: the end of the group that begins at `first`."""
    last, width = first, S.class_pools.shape[1]
    while last < width and S.class_pools[klass, last] >= 0:
        if S.pools[S.class_pools[klass, last]].type != S.pools[S.class_pools[klass, first]].type:
            break
        last += 1
    return last


@kernel
def place(S, row, pick):
    """Find room for a job and take it; a node on which it failed to start is not looked at."""
    node = S.jobs[row].avoid
    if node < 0 or not S.nodes[node].up:
        return find_room(S, row, pick)
    count_node(S, node, NOWHERE)
    S.nodes[node].up = 0
    found = find_room(S, row, pick)
    S.nodes[node].up = 1
    count_node(S, node, ONE)
    return found


@kernel
def find_room(S, row, pick):
    """On the type it was counted on, else on any it accepts; true if room was found and taken."""
    j = S.jobs[row]
    klass, most_nodes = np.int64(j.klass), np.int64(j.near_nodes if S.now_s < j.near_until_s else j.max_nodes)
    counted = np.int64(S.group[row])
    if counted >= 0 and place_group(S, row, klass, counted, group_end(S, klass, counted), pick, most_nodes):
        return True
    first = ZERO
    while first < S.class_pools.shape[1] and S.class_pools[klass, first] >= 0:
        last = group_end(S, klass, first)
        if first != counted and place_group(S, row, klass, first, last, pick, most_nodes):
            return True
        first = last
    return False


# ---------------------------------------------------------------------------------------------- a job's life


@kernel
def settle(S, row, now_s):
    """Bring a holding job's work up to now."""
    j = S.jobs[row]
    begin_s = max(j.since_s, j.ready_s)
    if now_s > begin_s:
        j.work_left = max(j.work_left - (now_s - begin_s) * j.rate, 0.0)
        j.served_s += now_s - begin_s
    j.since_s = max(j.since_s, now_s)


@kernel
def refresh(jobs, row, now_s):
    """What a key may read of a job, as of now."""
    j = jobs[row]
    work_left, served_s = j.work_left, j.served_s
    if j.running:
        j.attained_gpu_s = j.settled_gpu_s + max(now_s - j.held_since_s, 0.0) * (j.held_milli / 1000.0)
        working_s = now_s - max(j.since_s, j.ready_s)
        if working_s > 0:
            work_left = max(work_left - working_s * j.rate, 0.0)
            served_s += working_s
    else:
        j.attained_gpu_s = j.settled_gpu_s
    if np.isnan(j.estimate_s):
        j.remaining_s = work_left / j.alone_rate
    else:
        j.remaining_s = max(j.estimate_s - served_s, 0.0)


@kernel
def set_rate(S, row, rate, mark_left):
    """From now on `rate` units a second, until `mark_left` of the work is left."""
    c, j = S, S.jobs[row]
    j.rate, j.mark_left = rate, mark_left
    if rate > 0 and j.work_left < np.inf:
        due_s = max(j.since_s, j.ready_s) + (j.work_left - mark_left) / rate
        if c.due_grid_s > 0:
            due_s = max(np.rint(due_s / c.due_grid_s) * c.due_grid_s, c.now_s)
        if due_s != j.due_s:  # else it is in the heap
            j.due_s = due_s
            push_due(S, row)
    else:
        j.due_s = np.inf


@kernel
def start(S, row, begin, end, milli):
    """The job is given the parts begin..end, `milli` thousandths in all; it holds them once the executor is done with who was there."""
    c, j = S, S.jobs[row]
    a = c.n_allocations
    S.allocations[a].job, S.allocations[a].start_s, S.allocations[a].end_s = row, c.now_s, np.nan
    S.allocations[a].first_part, S.allocations[a + 1].first_part = begin, end
    c.n_allocations += 1
    j.allocation, j.running = a, 1
    j.held_milli = milli
    j.served_mark_s = j.served_s
    j.verdict, j.short_milli = STARTED, 0
    S.queues[j.queue].used_milli += j.held_milli
    c.n_waiting -= 1
    c.n_holding += 1
    c.changed += 1
    if j.work_left < np.inf:
        c.finite_holding += 1
    j.due_s = np.inf
    if c.delays:
        j.phase, j.held_since_s, j.since_s, j.ready_s = RESERVED, np.inf, np.inf, np.inf
        act(S, row, CLAIM)
    else:
        hold(S, row)
        run_on(S, row)


@kernel
def act(S, row, what):
    """The executor is to be told."""
    S.acts[S.n_acts, 0], S.acts[S.n_acts, 1] = row, what
    S.n_acts += 1


@kernel
def hold(S, row):
    """The job has its GPUs from now on; they are idle until it runs."""
    c, j = S, S.jobs[row]
    j.phase = STARTING
    j.held_since_s = j.since_s = c.now_s
    j.ready_s = np.inf
    S.allocations[j.allocation].start_s = c.now_s
    if np.isnan(j.start_s):
        j.start_s = c.now_s


@kernel
def run_on(S, row):
    """Its processes run; the restart cost is paid first."""
    c, j = S, S.jobs[row]
    j.phase = RUNNING
    j.since_s = c.now_s
    j.ready_s = c.now_s + j.restart_s
    find_rate(S, row)


@kernel
def find_rate(S, row):
    """How fast a job runs where it is: known here, or asked of the model by the caller."""
    c, j = S, S.jobs[row]
    if c.fixed_rates and j.as_asked:
        node = S.parts[S.allocations[j.allocation].first_part].node
        set_rate(S, row, S.rates[row if len(S.rates) > 1 else 0, S.pools[S.nodes[node].pool].type], 0.0)
    else:
        S.rated[c.n_rated] = row
        c.n_rated += 1


@kernel
def let_go(S, row):
    """The job holds nothing from now on; its accounts are brought up to date. The ledger is the caller's."""
    c, j = S, S.jobs[row]
    settle(S, row, c.now_s)
    gpus, held_s = j.held_milli / 1000.0, max(c.now_s - j.held_since_s, 0.0)
    j.held_s += held_s
    j.settled_gpu_s += gpus * held_s
    j.attained_gpu_s = j.settled_gpu_s
    j.overhead_gpu_s += gpus * max(min(c.now_s, j.ready_s) - j.held_since_s, 0.0)
    S.allocations[j.allocation].end_s = c.now_s
    if j.phase == RESERVED:  # a promise that was never kept is no holding
        S.allocations[j.allocation].start_s = np.nan
    S.queues[j.queue].used_milli -= j.held_milli
    j.allocation, j.running, j.held_milli, j.due_s = -1, 0, 0, np.inf
    c.n_holding -= 1
    c.changed += 1
    if j.work_left < np.inf:
        c.finite_holding -= 1


@kernel
def predict(S, row):
    """A run time from the mean of the nearest group of ended jobs: same user and name, user, queue, everybody; else 0."""
    S.jobs[row].estimate_s = 0.0
    for level in range(S.history_of.shape[1]):
        group = S.history_of[row, level]
        if group >= 0 and S.history[group, 0] > 0:
            S.jobs[row].estimate_s = S.history[group, 1] / S.history[group, 0]
            return


@kernel
def remember(S, row):
    """An ended job joins the history of its groups."""
    for level in range(S.history_of.shape[1]):
        group = S.history_of[row, level]
        if group >= 0:
            S.history[group, 0] += 1.0
            S.history[group, 1] += S.jobs[row].served_s


@kernel
def finish(S, row):
    c, j = S, S.jobs[row]
    if c.delays:
        act(S, row, FREED)
    give_all(S, j.allocation)
    let_go(S, row)
    if c.predicts:
        remember(S, row)
    j.work_left, j.finish_s, j.phase = 0.0, c.now_s, ENDED
    c.active_milli -= j.milli
    c.finite_left -= 1


@kernel
def requeue(S, row):
    """A holding job waits again; its GPUs are already given back, to be used by others once the executor has stopped it."""
    c = S
    if c.delays:
        act(S, row, DRAIN)
    let_go(S, row)
    S.jobs[row].phase = WAITING
    c.n_waiting += 1


# ---------------------------------------------------------------------------------------------- the walk


@kernel
def capacity_left(S, klass, first, last):
    left = np.int64(0)
    for p in range(first, last):
        left += S.cap[S.class_pools[klass, p]]
    return left


@kernel
def has_capacity(S, row):
    """Find the first type that has room for a newcomer's gang, by number; false, with what is missing, if none has."""
    klass = np.int64(S.jobs[row].klass)
    k = S.classes[klass]
    first, most = ZERO, ZERO
    while first < S.class_pools.shape[1] and S.class_pools[klass, first] >= 0:
        last = group_end(S, klass, first)
        left = capacity_left(S, klass, first, last)
        if left >= k.milli:
            S.group[row] = first
            return True
        most = max(most, left)
        first = last
    k.short_milli = k.milli - most
    return False


@kernel
def count_in(S, row):
    """Count a newcomer on the first type that has room for its gang; false, with what is missing, if none has."""
    if not has_capacity(S, row):
        return False
    klass, first = np.int64(S.jobs[row].klass), np.int64(S.group[row])
    need = S.classes[klass].milli
    for p in range(first, group_end(S, klass, first)):
        got = min(need, S.cap[S.class_pools[klass, p]])
        S.cap[S.class_pools[klass, p]] -= got
        need -= got
    return True


@kernel
def count_held(S, row):
    """Count a holding job where it is; false if its GPUs are already promised to others. On a closed node they are promised to nobody."""
    if len(S.pools) == 1 and S.closed_milli == 0:
        fits = S.cap[0] >= S.jobs[row].held_milli
        if fits:
            S.cap[0] -= S.jobs[row].held_milli
        return fits
    a = S.jobs[row].allocation
    fits = True
    for p in range(S.allocations[a].first_part, S.allocations[a + 1].first_part):
        n = S.nodes[S.parts[p].node]
        S.cap[n.pool] -= S.parts[p].milli if n.up else 0
        fits &= S.cap[n.pool] >= 0
    if not fits:
        for p in range(S.allocations[a].first_part, S.allocations[a + 1].first_part):
            n = S.nodes[S.parts[p].node]
            S.cap[n.pool] += S.parts[p].milli if n.up else 0
    return fits


@kernel
def count_free(S):
    for p in range(len(S.pools)):
        S.cap[p] = S.pools[p].free_milli


@kernel
def quota_side(S, queue, milli):
    """On which side of its quota a job of this queue would be; -1 = beyond it, and the queue does not borrow."""
    q = S.queues[queue]
    if S.used[queue] + milli <= q.quota_milli:
        return WITHIN
    return BEYOND if q.borrow else -1


@kernel
def refuse(S, row, verdict, short_milli):
    j = S.jobs[row]
    j.verdict, j.short_milli = verdict, short_milli


@kernel
def better_head(S, a, b):
    return less(S.keys, S.waiting[S.classes[a].offset], S.waiting[S.classes[b].offset])


@kernel
def sift_head(S, n, i):
    while True:
        child = 2 * i + 1
        if child >= n:
            return
        if child + 1 < n and better_head(S, S.heads[child + 1], S.heads[child]):
            child += 1
        if not better_head(S, S.heads[child], S.heads[i]):
            return
        S.heads[i], S.heads[child] = S.heads[child], S.heads[i]
        i = child


@kernel
def first_head(S):
    return np.int64(S.waiting[S.classes[S.heads[0]].offset])


@kernel
def stage(S, n, n_chosen, n_popped, who, side, at_once, pick):
    """One pass over the order: rows S.walk[S.n_ahead:n] merged with the heads of the waiting classes.

    Chooses into S.chosen; what it takes from heaps is also noted in S.spare, so that the walk can be taken back.
    `at_once`: nobody will be stopped, so each newcomer is placed as it is reached. Returns (chosen, popped).
    """
    c, keys, jobs, classes, walk, mark = S, S.keys, S.jobs, S.classes, S.walk, S.mark
    this_walk, n_newcomers, n_heads = S.walks, S.n_newcomers, ZERO
    if c.heaps and who != HELD_ONLY:
        for klass in range(len(classes)):
            k = classes[klass]
            if k.size > 0 and k.refused != c.decisions:
                S.heads[n_heads] = klass
                n_heads += 1
        for i in range(n_heads // 2 - 1, -1, -1):
            sift_head(S, n_heads, np.int64(i))
    head = first_head(S) if n_heads > 0 else NOWHERE
    i = c.n_ahead
    while True:
        while i < n:  # rows that are not of this stage, or already chosen
            row = walk[i]
            if mark[row] == this_walk or (who == HELD_ONLY and not jobs[row].running) or (who == WAITING_ONLY and jobs[row].running):
                i += 1
            else:
                break
        from_heap = n_heads > 0 and (i >= n or less(keys, head, walk[i]))
        if not from_heap and i >= n:
            S.n_newcomers = n_newcomers
            return n_chosen, n_popped
        row = head if from_heap else np.int64(walk[i])
        j = jobs[row]
        k = classes[j.klass]
        verdict, heard = 0, True
        if keys[row, 1] == np.inf:
            verdict = POLICY_ZERO
        elif side != EITHER and quota_side(S, j.queue, k.milli) != side:
            # a borrower is looked at again in the second stage, a job within quota was told in the first
            verdict, heard = QUOTA, side == WITHIN and quota_side(S, j.queue, k.milli) < 0
        elif c.blocking and S.blocked[k.component]:
            verdict = BLOCKED
        elif j.running:
            if not count_held(S, row):
                verdict = CAPACITY
                k.short_milli = 0
        elif k.excluded == c.decisions and not less(keys, row, k.excluded_from):
            verdict = FRAGMENTED
        elif not count_in(S, row):
            verdict = CAPACITY
        elif at_once == 1:
            begin = c.n_parts
            if place(S, row, pick):
                start(S, row, begin, c.n_parts, k.milli)
                count_free(S)
            else:
                verdict = FRAGMENTED
                exclude(S, row)
                if not c.keeps_count:
                    count_free(S)
        else:
            S.newcomers[n_newcomers] = row
            n_newcomers += 1
        if verdict == 0:
            j.verdict = KEPT if j.running and at_once == 0 else STARTED
            mark[row] = this_walk
            if side != EITHER:
                S.used[j.queue] += k.milli
            S.chosen[n_chosen] = row
            n_chosen += 1
        else:
            if heard:
                j.verdict, j.short_milli = verdict, k.short_milli if verdict == CAPACITY else 0
                if not j.running and (k.told != c.decisions or k.told_row == row):
                    tell(k, c.decisions, row, verdict)
            if c.blocking and (verdict == CAPACITY or verdict == FRAGMENTED):
                S.blocked[k.component] = 1
        if from_heap:
            if verdict == 0:
                S.spare[n_popped] = pop_head(S, np.int64(S.heads[0]))
                n_popped += 1
            if verdict != 0 or k.size == 0:  # nobody behind it in its class can do better
                n_heads -= 1
                S.heads[0] = S.heads[n_heads]
            sift_head(S, n_heads, ZERO)
            head = first_head(S) if n_heads > 0 else NOWHERE
        else:
            i += 1


@kernel
def tell(k, decision, row, verdict):
    """What a decision says of all of a class that wait: the first it refused speaks for those behind."""
    k.told, k.told_row, k.verdict = decision, row, verdict
    k.told_milli = k.short_milli if verdict == CAPACITY else 0


@kernel
def exclude(S, row):
    """No room was found for this job: in this decision there is none for those behind it that ask the same."""
    k = S.classes[S.jobs[row].klass]
    if k.excluded != S.decisions or less(S.keys, row, k.excluded_from):
        k.excluded, k.excluded_from = S.decisions, row
    tell(k, S.decisions, row, FRAGMENTED)


@kernel
def begin_walk(S, empty):
    """Capacity to give out: all of the open nodes (`empty`: as if nothing ran), or what is free."""
    for p in range(len(S.pools)):
        if S.n_ahead > 0:
            S.cap[p] = S.beside[p]
        else:
            S.cap[p] = S.pools[p].total_milli if empty else S.pools[p].free_milli
    for q in range(len(S.queues)):
        S.used[q] = 0 if empty else S.queues[q].used_milli
    S.blocked[:] = 0
    S.walks += 1
    S.n_newcomers = 0


@kernel
def walk_free(S, n, pick):
    """Nobody is stopped: newcomers get what is free, each placed as it is reached."""
    begin_walk(S, False)
    if S.quotas:
        n_chosen, n_popped = stage(S, n, ZERO, ZERO, ANY, WITHIN, ONE, pick)
        n_chosen, n_popped = stage(S, n, n_chosen, n_popped, ANY, BEYOND, ONE, pick)
    else:
        n_chosen, n_popped = stage(S, n, ZERO, ZERO, ANY, EITHER, ONE, pick)
    for i in range(n_chosen):
        add_running(S, S.chosen[i])
    S.n_chosen = n_chosen
    S.n_popped = n_popped


@kernel
def stays(S, row):
    """Why a holding job may not be stopped for another, as a verdict; 0 = it may."""
    j = S.jobs[row]
    if j.pinned:
        return PINNED
    if S.most_preemptions > 0 and j.preemptions >= S.most_preemptions:
        return SPARED
    if S.min_run_s > 0 and j.phase != RESERVED and S.now_s < j.held_since_s + S.min_run_s:
        return MIN_RUN
    return 0


@kernel
def next_stoppable(S):
    """When the next holding job has run for the least time it is granted."""
    least_s = np.inf
    for i in range(S.n_running):
        j = S.jobs[S.running_list[i]]
        end_s = j.held_since_s + S.min_run_s
        if j.running and end_s > S.now_s:
            least_s = min(least_s, end_s)
    return least_s


@kernel
def walk_all(S, n, pick):
    """Running jobs are in the order: begin with all capacity, pinned jobs first, then as queues and policy say."""
    c = S
    begin_walk(S, True)
    jobs, walk = S.jobs, S.walk
    n_chosen, n_popped = c.n_ahead, ZERO
    S.chosen[:n_chosen] = walk[:n_chosen]
    for i in range(n_chosen, n if n_chosen == 0 else n_chosen):  # those ahead are all who may not be stopped
        row = walk[i]
        spared = stays(S, row) if jobs[row].running else 0
        if spared:
            count_held(S, row)
            S.mark[row] = S.walks
            S.used[S.jobs[row].queue] += S.jobs[row].held_milli
            S.jobs[row].verdict = spared
            S.chosen[n_chosen] = row
            n_chosen += 1
    if not c.quotas:
        n_chosen, n_popped = stage(S, n, n_chosen, n_popped, ANY, EITHER, ZERO, pick)
    elif c.preemptive:
        n_chosen, n_popped = stage(S, n, n_chosen, n_popped, ANY, WITHIN, ZERO, pick)
        n_chosen, n_popped = stage(S, n, n_chosen, n_popped, ANY, BEYOND, ZERO, pick)
    else:  # only borrowers are stopped, for a job within its quota, last in order first
        n_chosen, n_popped = stage(S, n, n_chosen, n_popped, HELD_ONLY, WITHIN, ZERO, pick)
        n_chosen, n_popped = stage(S, n, n_chosen, n_popped, WAITING_ONLY, WITHIN, ZERO, pick)
        blocked = S.blocked.copy()  # who waits within its quota does not stop a borrower that it could not follow
        S.blocked[:] = 0
        n_chosen, n_popped = stage(S, n, n_chosen, n_popped, HELD_ONLY, BEYOND, ZERO, pick)
        S.blocked[:] |= blocked
        n_chosen, n_popped = stage(S, n, n_chosen, n_popped, WAITING_ONLY, BEYOND, ZERO, pick)
    c.n_chosen = n_chosen
    c.n_popped = n_popped


@kernel
def realize(S, n, pick):
    """Stop the unchosen, place the newcomers in order, start them. Returns -1, or the first that found no room: then
    everything is as it was."""
    c, jobs, mark, walk = S, S.jobs, S.mark, S.walk
    n_stopped = 0
    if c.n_chosen - c.n_newcomers < c.n_holding:  # somebody who holds was not chosen
        for i in range(c.n_ahead, n):
            row = walk[i]
            if mark[row] != c.walks and jobs[row].running:
                give_all(S, jobs[row].allocation)
                S.fresh[n_stopped] = row
                n_stopped += 1
    first_part, failed, unplaced = c.n_parts, -1, 0
    for i in range(c.n_newcomers):
        if place(S, S.newcomers[i], pick):
            S.ends[i] = c.n_parts
        elif c.keeps_count:
            S.ends[i] = -1
            unplaced += 1
        else:
            failed = S.newcomers[i]
            break
    if failed >= 0:
        undo_parts(S, first_part)
        for i in range(n_stopped):
            take_all(S, jobs[S.fresh[i]].allocation)
        return failed
    for i in range(n_stopped):
        row = S.fresh[i]
        jobs[row].preemptions += jobs[row].phase != RESERVED  # a promise taken back stops nobody
        requeue(S, row)
        if S.classes[jobs[row].klass].told != c.decisions:
            tell(S.classes[jobs[row].klass], c.decisions, row, jobs[row].verdict)
    begin = first_part
    for i in range(c.n_newcomers):
        row = S.newcomers[i]
        if S.ends[i] < 0:
            jobs[row].verdict = FRAGMENTED
        else:
            start(S, row, begin, S.ends[i], jobs[row].milli)
            begin = S.ends[i]
    c.n_running = c.n_chosen
    S.running_list[: c.n_chosen] = S.chosen[: c.n_chosen]
    if unplaced > 0:
        compact_running(S)
    return -1


@kernel
def carry_out(S, n, with_held, pick):
    """Walk the order S.walk[:n] (and the heaps) and make it so: stop, keep, place, start."""
    c = S
    if not with_held:
        walk_free(S, n, pick)
        return
    while True:
        walk_all(S, n, pick)
        failed = realize(S, n, pick)
        if failed < 0:
            break
        exclude(S, failed)  # walk again as if it were not there: its count goes to the jobs below
        for i in range(c.n_popped):
            wait(S, S.spare[i])
    for i in range(c.n_popped):
        if not S.jobs[S.spare[i]].running:
            wait(S, S.spare[i])
    if c.quotas:  # chosen stage by stage, but listed in the policy's order
        sort_rows(S, S.running_list, c.n_running, S.spare)


# ---------------------------------------------------------------------------------------------- decisions


@kernel
def compact_running(S):
    """Drop ended jobs from the list of running ones, order kept."""
    c = S
    kept = 0
    for i in range(c.n_running):
        if S.jobs[S.running_list[i]].running:
            S.running_list[kept] = S.running_list[i]
            kept += 1
    c.n_running = kept


@kernel
def add_running(S, row):
    c = S
    if c.n_running == len(S.running_list):
        compact_running(S)
    S.running_list[c.n_running] = row
    c.n_running += 1


@kernel
def evaluate(S, rows, n, key, params, shared, per_job):
    jobs, now_s = S.jobs, S.now_s
    for i in range(n):
        refresh(jobs, rows[i], now_s)
    key(jobs, rows, n, now_s, params, shared, per_job, S.out)
    for i in range(n):
        keep_key(S, rows[i], i)


@kernel
def keep_key(S, row, i):
    """A row's key is the ith that was written."""
    for k in range(3):
        S.keys[row, k + 1] = S.out[i, k]


@kernel
def evaluate_held(S, n_held, n, key, params, shared, per_job):
    """Evaluate S.walk[:n], of which n_held hold, and put first those who stay whatever the walk will choose.

    These are who may not be stopped, and who rank before the first that waits and finds room: those between the heads that find
    none lose nothing to them. Their order cannot matter; the others' keys are kept. S.n_ahead: how many stay; S.beside: what is
    left beside them.
    """
    jobs, out, walk, behind, now_s = S.jobs, S.out, S.walk, S.spare, S.now_s
    for i in range(n):
        refresh(jobs, walk[i], now_s)
    key(jobs, walk, n, now_s, params, shared, per_job, out)
    fresh = NOWHERE  # the first of those that came since the last decision
    for i in range(n_held, n):
        keep_key(S, walk[i], i)
        if fresh < 0 or less(S.keys, walk[i], fresh):
            fresh = np.int64(walk[i])
    begin_walk(S, True)
    first = first_waiting(S, fresh)
    n_ahead, n_behind = ZERO, ZERO
    for i in range(n_held):
        row = walk[i]
        spared = stays(S, row)
        if spared or (out[i, 0] < np.inf and (first < 0 or ranks_before(S.keys, row, out, i, first))):
            jobs[row].verdict = spared if spared else KEPT
            count_held(S, row)
            walk[n_ahead] = row
            n_ahead += 1
        else:
            keep_key(S, row, i)
            behind[n_behind] = row
            n_behind += 1
    while n_behind > 0 and first != fresh and not S.blocking and S.keys[first, 1] < np.inf and not has_capacity(S, first):
        k = S.classes[jobs[first].klass]
        k.refused = S.decisions
        refuse(S, first, CAPACITY, k.short_milli)
        tell(k, S.decisions, first, CAPACITY)
        first = first_waiting(S, fresh)
        kept, n_behind = n_behind, ZERO
        for i in range(kept):
            row = behind[i]
            if S.keys[row, 1] < np.inf and (first < 0 or less(S.keys, row, first)):
                jobs[row].verdict = KEPT
                count_held(S, row)
                walk[n_ahead] = row
                n_ahead += 1
            else:
                behind[n_behind] = row
                n_behind += 1
    walk[n_ahead:n_held] = behind[:n_behind]
    S.beside[:] = S.cap
    S.n_ahead = n_ahead


@kernel
def first_waiting(S, fresh):
    """The first in order of `fresh` (-1 = nobody) and the heads of the classes that this decision has not refused; -1 if nobody waits."""
    first = fresh
    for klass in range(len(S.classes)):
        k = S.classes[klass]
        if k.size > 0 and k.refused != S.decisions:
            head = np.int64(S.waiting[k.offset])
            if first < 0 or less(S.keys, head, first):
                first = head
    return first


@kernel
def ranks_before(keys, row, out, i, other):
    """Whether the row, whose key is the ith that was written, ranks before another whose key is kept."""
    if keys[row, 0] != keys[other, 0]:
        return keys[row, 0] < keys[other, 0]
    for k in range(3):
        if out[i, k] != keys[other, k + 1]:
            return out[i, k] < keys[other, k + 1]
    return row < other


@kernel
def decide(S, key, wakeup, pick, params, shared, per_job):
    """One decision of a list policy with a compiled key."""
    c = S
    n = 0
    all_fit = c.simple and not c.stateful and c.active_milli - c.closed_milli <= S.pools[0].total_milli
    with_held = (c.preemptive or c.quotas) and not all_fit
    if with_held:
        compact_running(S)
        S.walk[: c.n_running] = S.running_list[: c.n_running]
        n = c.n_running
    n_held = n
    for i in range(c.n_fresh):
        S.walk[n] = S.fresh[i]
        n += 1
    c.n_fresh = c.n_ahead = 0
    if with_held and not c.quotas and not c.stateful:  # a stateful key wants the whole order of the last walk
        evaluate_held(S, n_held, n, key, params, shared, per_job)
    else:
        evaluate(S, S.walk, n, key, params, shared, per_job)
    sort_rows(S, S.walk[c.n_ahead :], n - c.n_ahead, S.spare)
    carry_out(S, n, with_held, pick)
    waiting = 0
    for i in range(c.n_ahead, n):
        row = S.walk[i]
        S.jobs[row].new = 0
        if not S.jobs[row].running:
            S.fresh[waiting] = row
            waiting += 1
    evaluate(S, S.fresh, waiting, key, params, shared, per_job)
    for i in range(waiting):
        wait(S, S.fresh[i])
    if c.wakes and (c.n_waiting > 0 or c.stateful):
        if not with_held:  # else all who hold are listed and were refreshed above
            compact_running(S)
            for i in range(c.n_running):
                refresh(S.jobs, S.running_list[i], c.now_s)
        wake_s = wakeup(S.jobs, S.running_list, c.n_running, c.now_s, params, shared, per_job)
        if not wake_s > c.now_s:
            c.broken = -2
        wake_at(S, wake_s)


@kernel
def wake_at(S, wake_s):
    """Decide again when ranks change by themselves, on the grids that apply."""
    c = S
    if wake_s < np.inf:
        if c.wake_grid_s > 0:
            wake_s = np.ceil(wake_s / c.wake_grid_s) * c.wake_grid_s
        c.decide_s = min(c.decide_s, next_round(c, wake_s))


@kernel
def next_round(c, time_s):
    """The decision that sees something that happens at `time_s`: at once, or at the first k * round, k >= 1, not before it."""
    if c.round_s <= 0:
        return time_s
    k = np.ceil(time_s / c.round_s)
    while (k - 1) * c.round_s >= time_s:
        k -= 1
    while k * c.round_s < time_s:
        k += 1
    return max(k, 1.0) * c.round_s


@kernel
def stir(S):
    """Something happened that a decision may use."""
    c = S
    c.decide_s = min(c.decide_s, next_round(c, c.now_s))


@kernel
def queue_up(S, row):
    """The job waits from now on; the next decision places it in the order."""
    S.jobs[row].phase = WAITING
    S.fresh[S.n_fresh] = row
    S.n_fresh += 1
    S.n_waiting += 1
    S.active_milli += S.jobs[row].milli
    stir(S)


@kernel
def next_relaxed(S):
    """When a waiting gang next gives up on locality. Patience is the same for all, so they give up as they arrived."""
    while S.relaxed < S.arrived:
        j = S.jobs[S.arrivals[S.relaxed]]
        if j.phase == WAITING and j.near_until_s > S.now_s:
            return j.near_until_s
        S.relaxed += 1
    return np.inf


@kernel
def watch(S):
    """Count decisions while only services run: a finite job that still waits then may never get its turn."""
    S.serving = S.serving + 1 if S.finite_holding == 0 else 0
    S.idle = S.idle + 1 if S.finite_holding == 0 and S.changed == 0 else 0


@kernel
def room_to_log(S):
    c = S
    allocations = c.n_allocations + c.n_waiting + 2
    return allocations < len(S.allocations) and c.n_parts + c.gpus + c.n_waiting + 2 < len(S.parts)


@late(
    types.int64(STATE, types.FunctionType(KEY), types.FunctionType(WAKEUP), types.FunctionType(PICK), _F, _F, _F2),
)
def run(clock, key, wakeup, pick, params, shared, per_job):
    """Go on until the caller is needed; within one instant: work that ends, the outside, arrivals, then one decision."""
    S = clock[0]
    c = S
    while True:
        if c.broken != -1:
            return BROKEN
        if c.n_acts > 0:
            return ACT
        if c.n_rated > 0 or c.n_touched > 0:
            return RATE
        due_s = next_due(S)
        arrive_s = S.jobs[S.arrivals[c.arrived]].arrive_s if c.arrived < len(S.arrivals) else np.inf
        ripe_s = next_relaxed(S) if c.local else np.inf
        if c.min_run_s > 0 and c.n_waiting > 0:
            ripe_s = min(ripe_s, next_stoppable(S))
        time_s = min(min(min(due_s, arrive_s), min(c.until_s, c.decide_s)), ripe_s)
        nothing_comes = arrive_s == np.inf and (c.until_s == np.inf or c.endless == 1)
        done = (c.finite_left == 0 and due_s == np.inf) or (nothing_comes and (c.idle > 64 or c.serving > 10_000))
        if time_s == np.inf or (done and not c.open):
            return FINISHED
        if time_s < c.now_s:
            c.broken = -3
            return BROKEN
        c.now_s = time_s
        while next_due(S) <= time_s:
            row = S.heap_row[0]
            pop_due(S)
            if S.jobs[row].mark_left > 0:
                settle(S, row, time_s)
                S.jobs[row].work_left = S.jobs[row].mark_left
                S.jobs[row].due_s = np.inf
                S.rated[c.n_rated] = row
                c.n_rated += 1
            else:
                finish(S, row)
                stir(S)
        if c.n_rated > 0 or c.n_touched > 0:
            return RATE
        if c.until_s <= time_s:
            return EXTERNAL
        while c.arrived < len(S.arrivals) and S.jobs[S.arrivals[c.arrived]].arrive_s <= time_s:
            row = S.arrivals[c.arrived]
            c.arrived += 1
            S.jobs[row].new = 1
            if c.predicts:
                predict(S, row)
            queue_up(S, row)
        if ripe_s <= time_s:
            stir(S)
        if c.decide_s <= time_s:
            if not room_to_log(S):
                return GROW
            if c.decisions >= c.pause_at:
                return PAUSE
            c.decide_s = np.inf
            c.decisions += 1
            c.decided_s = time_s
            c.changed = 0
            if not c.heaps:
                return DECIDE
            decide(S, key, wakeup, pick, params, shared, per_job)
            watch(S)


# ---------------------------------------------------------------------------------------------- for the Python loop


@late(types.void(STATE, types.int64, types.boolean, types.FunctionType(PICK)))
def carry_out_order(clock, n, with_held, pick):
    """The walk of a list policy whose order S.walk[:n] was ranked in Python: every active job is in it."""
    S = clock[0]
    c = S
    if with_held:
        compact_running(S)
    c.n_ahead = 0
    carry_out(S, n, with_held, pick)
    for i in range(n):
        S.jobs[S.walk[i]].new = 0
    c.n_fresh = 0


@late(types.boolean(STATE, types.int32, types.FunctionType(PICK)))
def could_run(clock, row, pick):
    """Whether there is room for the job now; nothing is taken."""
    S = clock[0]
    begin = S.n_parts
    S.group[row] = -1
    found = place(S, row, pick)
    undo_parts(S, begin)
    return found


@late(types.void(STATE, types.int32))
def stop_job(clock, row):
    """A decision takes a job's GPUs back."""
    S = clock[0]
    give_all(S, S.jobs[row].allocation)
    requeue(S, row)


@late(types.int64(STATE, types.int32))
def must_stay(clock, row):
    """Why a holding job may not be stopped for another, as a verdict; 0 = it may."""
    return stays(clock[0], row)


@late(types.void(STATE))
def compact(clock):
    """Drop those that hold nothing any more from the list of running jobs."""
    compact_running(clock[0])


@late(types.void(STATE, types.int32))
def give_back(clock, row):
    """What a job holds is free for others; it is about to be given something else, or stopped."""
    S = clock[0]
    give_all(S, S.jobs[row].allocation)


@late(types.void(STATE, types.int32))
def take_again(clock, row):
    """What a job gave back is its own again."""
    S = clock[0]
    take_all(S, S.jobs[row].allocation)


@late(types.void(STATE, types.int64))
def drop_parts(clock, begin):
    """The parts taken since are free again."""
    undo_parts(clock[0], begin)


@late(types.void(STATE, types.int32))
def stop_empty(clock, row):
    """A job that gave back what it held was given nothing else."""
    requeue(clock[0], row)


_L4 = (types.int64,) * 4


@late(types.boolean(STATE, types.int32, *_L4, types.int32, types.FunctionType(PICK)))
def place_parts(clock, row, milli, cpu_milli, memory_mib, type_, most_nodes, pick):
    """Take room for `milli` thousandths on this type (-1 = any the job accepts) as further parts; false, and nothing taken, if none is."""
    S = clock[0]
    j = S.jobs[row]
    own, own_nodes, scratch = j.klass, j.max_nodes, len(S.classes) - 1
    k, s = S.classes[own], S.classes[scratch]
    s.milli, s.cpu_milli, s.memory_mib, s.plain = milli, cpu_milli, memory_mib, k.plain and milli > 0 and milli % 1000 == 0
    s.even_nodes = k.even_nodes if milli == k.milli else 0  # the gang as it was asked for lies evenly; in pieces, on at most so many nodes
    kept = 0
    S.class_pools[scratch] = -1
    for p in range(S.class_pools.shape[1]):
        pool = S.class_pools[own, p]
        if pool >= 0 and (type_ < 0 or S.pools[pool].type == type_):
            S.class_pools[scratch, kept] = pool
            kept += 1
    S.group[row] = -1
    j.klass, j.max_nodes = scratch, most_nodes
    found = place(S, row, pick)
    j.klass, j.max_nodes = own, own_nodes
    return found


@late(types.boolean(STATE, types.int64, types.int64, types.int64, types.int64))
def place_on(clock, node, milli, cpu_milli, memory_mib):
    """Take room on this node: whole GPUs, or a fraction beside others where it fits, else on a GPU of its own; false if there is none."""
    S = clock[0]
    n = S.nodes[node]
    slot, fits = -1, n.up == 1
    if milli % 1000 and not n.pooled:
        fits &= milli < 1000
        least = 1001
        for s in range(n.slot, n.slot + n.gpus):
            left = 1000 - S.slots[s] - milli
            if S.slots[s] > 0 and 0 <= left < least:
                slot, least = s, left
        if slot < 0 and n.free_milli >= 1000:
            slot = n.slot
            while S.slots[slot] > 0:
                slot += 1
        fits &= slot >= 0
    else:
        fits &= n.free_milli >= milli
    fits &= (not n.counts_cpu or n.cpu_free_milli >= cpu_milli) and (not n.counts_memory or n.memory_free_mib >= memory_mib)
    if fits:
        put(S, node, milli, cpu_milli, memory_mib, np.int64(slot))
    return fits


OWN_GPU = np.int64(-2)  # for `slot`: a GPU of the node that nobody shares yet


@late(types.boolean(STATE, types.int64, types.int64, types.int64, types.int64, types.int64))
def put_part(clock, node, milli, cpu_milli, memory_mib, slot):
    """Take exactly this: of a shared GPU (`slot`), or whole ones (-1); false if it is not free. The node may be closed to newcomers."""
    S = clock[0]
    n = S.nodes[node]
    if slot == OWN_GPU:
        slot = np.int64(n.slot)
        while slot < n.slot + n.gpus and S.slots[slot] > 0:
            slot += 1
        if slot == n.slot + n.gpus:
            return False
    if slot < 0:
        fits = n.free_milli >= milli
    else:
        fits = S.slots[slot] + milli <= 1000 and (S.slots[slot] > 0 or n.free_milli >= 1000)
    fits &= (not n.counts_cpu or n.cpu_free_milli >= cpu_milli) and (not n.counts_memory or n.memory_free_mib >= memory_mib)
    if fits:
        put(S, node, milli, cpu_milli, memory_mib, slot)
    return fits


@late(types.void(STATE, types.int64, types.int64))
def share_parts(clock, begin, share_milli):
    """The whole GPUs taken since `begin` are held one by one, `share_milli` thousandths of each."""
    S = clock[0]
    n = S.n_parts - begin
    nodes, gpus = S.parts[begin : begin + n].node.copy(), S.parts[begin : begin + n].milli // 1000
    cpu, memory = S.parts[begin : begin + n].cpu_milli.copy(), S.parts[begin : begin + n].memory_mib.copy()
    undo_parts(S, begin)
    for i in range(n):
        slot = np.int64(S.nodes[nodes[i]].slot)
        for g in range(gpus[i]):
            while S.slots[slot] > 0:
                slot += 1
            cpu_share = cpu[i] * (g + 1) // gpus[i] - cpu[i] * g // gpus[i]
            memory_share = memory[i] * (g + 1) // gpus[i] - memory[i] * g // gpus[i]
            put(S, np.int64(nodes[i]), share_milli, cpu_share, memory_share, slot)


@kernel
def parts_milli(S, begin):
    total = np.int64(0)
    for p in range(begin, S.n_parts):
        total += S.parts[p].milli
    return total


@late(types.void(STATE, types.int32, types.int64))
def start_parts(clock, row, begin):
    """Start a waiting job on the parts taken since `begin`."""
    S = clock[0]
    start(S, row, begin, S.n_parts, parts_milli(S, begin))
    add_running(S, row)


@late(types.void(STATE, types.int32, types.int64, types.float64, types.boolean))
def change_parts(clock, row, begin, cost_s, restarts):
    """A holding job that gave back what it held has the parts taken since `begin` instead, and idles for `cost_s`.

    Where stopping takes time, `restarts` makes it a stop and a start.
    """
    S = clock[0]
    c, j = S, S.jobs[row]
    milli = parts_milli(S, begin)
    if j.phase == RESERVED or (c.delays and restarts):
        requeue(S, row)
        start(S, row, begin, c.n_parts, milli)
        return
    settle(S, row, c.now_s)
    gpus, held_s = j.held_milli / 1000.0, c.now_s - j.held_since_s
    j.held_s += held_s
    j.settled_gpu_s += gpus * held_s
    j.attained_gpu_s = j.settled_gpu_s
    j.overhead_gpu_s += gpus * max(min(c.now_s, j.ready_s) - j.held_since_s, 0.0)
    S.allocations[j.allocation].end_s = c.now_s
    S.queues[j.queue].used_milli += milli - j.held_milli
    a = c.n_allocations
    S.allocations[a].job, S.allocations[a].start_s, S.allocations[a].end_s = row, c.now_s, np.nan
    S.allocations[a].first_part, S.allocations[a + 1].first_part = begin, c.n_parts
    c.n_allocations += 1
    c.changed += 1
    j.allocation, j.held_milli, j.held_since_s, j.due_s = a, milli, c.now_s, np.inf
    if cost_s > 0:
        j.ready_s = max(j.ready_s, c.now_s + cost_s)
        j.served_mark_s = j.served_s  # it restarts from a checkpoint made now
    j.verdict, j.short_milli = KEPT, 0
    if j.phase == RUNNING:
        find_rate(S, row)


@late(types.void(STATE, types.int32))
def settle_job(clock, row):
    """Bring a holding job's work up to now."""
    S = clock[0]
    settle(S, row, S.now_s)


@late(types.void(STATE, types.int32, types.float64, types.float64))
def rate_job(clock, row, rate, mark_left):
    """What the model says of a job that has just started or reached its mark."""
    S = clock[0]
    set_rate(S, row, rate, mark_left)


@late(types.void(STATE, types.int32, types.boolean, types.float64))
def clear_node(clock, node, failed, checkpoint_s):
    """Stop every gang with a part on this node. `failed`: each goes back to its last checkpoint; else nothing is lost."""
    S = clock[0]
    compact_running(S)
    n = S.n_running
    for i in range(n):
        row = S.running_list[i]
        j = S.jobs[row]
        there = False
        for p in range(S.allocations[j.allocation].first_part, S.allocations[j.allocation + 1].first_part):
            there |= S.parts[p].node == node
        if not there:
            continue
        settle(S, row, S.now_s)
        if j.phase == RESERVED:
            pass  # nothing of it was there yet
        elif failed:
            lost_s = j.served_s - j.served_mark_s
            if checkpoint_s > 0:
                lost_s = lost_s % checkpoint_s
            j.work_left += lost_s * j.rate
            j.served_s -= lost_s
            j.lost_gpu_s += lost_s * (j.held_milli / 1000.0)
            j.failures += 1
        else:
            j.preemptions += 1
        give_all(S, j.allocation)
        requeue(S, row)
        S.fresh[S.n_fresh] = row
        S.n_fresh += 1
    compact_running(S)


@late(types.void(STATE, types.int32, types.boolean))
def set_node(clock, node, up):
    """A node opens or closes. A closed one takes nobody new; who is there may stay until somebody stops it."""
    S = clock[0]
    n = S.nodes[node]
    if bool(n.up) == up:
        return
    free = n.free_milli
    for slot in range(n.slot, n.slot + n.gpus):
        if S.slots[slot] > 0:
            free += 1000 - S.slots[slot]
    if not up:
        count_node(S, node, NOWHERE)
    n.up = 1 if up else 0
    if up:
        count_node(S, node, ONE)
    sign, all_milli = 1 if up else -1, n.gpus * np.int64(1000)
    S.pools[n.pool].total_milli += sign * all_milli
    S.pools[n.pool].free_milli += sign * free
    S.closed_milli -= sign * (all_milli - free)
    stir(S)


@late(types.void(STATE, types.int32))
def close_job(clock, row):
    """The run is over and the job still holds: its accounts end here."""
    S = clock[0]
    let_go(S, row)


@late(types.void(STATE, types.int64, types.float64))
def refresh_all(clock, n, at_s):
    """Bring what keys, views and records read of the rows S.walk[:n] up to `at_s`."""
    S = clock[0]
    for i in range(n):
        refresh(S.jobs, S.walk[i], at_s)


@late(types.void(STATE, types.float64))
def wake_later(clock, wake_s):
    """Decide again at `wake_s`, on the grids that apply."""
    wake_at(clock[0], wake_s)


# ---------------------------------------------------------------------------------------------- what the outside reports


@late(types.void(STATE, types.int32))
def hand_over(clock, row):
    """The GPUs promised to a job are its own: those who held them have gone."""
    hold(clock[0], row)


@late(types.void(STATE, types.int32))
def began(clock, row):
    """The processes of a job that holds its GPUs run."""
    run_on(clock[0], row)


@late(types.void(STATE, types.int32))
def end_job(clock, row):
    """A holding job is over, whatever its work."""
    S = clock[0]
    finite = S.jobs[row].work_left < np.inf
    finish(S, row)
    S.finite_left += 0 if finite else 1
    stir(S)


@late(types.void(STATE, types.int32, types.boolean))
def give_up(clock, row, again):
    """A holding job lost its processes, or never got them: nothing of it is left. It waits again, at once or when offered again."""
    S = clock[0]
    give_all(S, S.jobs[row].allocation)
    let_go(S, row)
    compact_running(S)  # it may start again before a walk would drop it: nobody is listed twice
    S.active_milli -= S.jobs[row].milli
    S.jobs[row].phase = FUTURE
    if again:
        queue_up(S, row)
    stir(S)


@late(types.void(STATE, types.int32))
def rank_anew(clock, row):
    """What a waiting job's key is made of has changed."""
    S = clock[0]
    if leave_heap(S, row):
        S.fresh[S.n_fresh] = row
        S.n_fresh += 1


@late(types.void(STATE, types.int32))
def take_back(clock, row):
    """A holding job is stopped, and does not wait again until it is offered."""
    S = clock[0]
    give_all(S, S.jobs[row].allocation)
    requeue(S, row)
    compact_running(S)
    S.jobs[row].phase = FUTURE
    S.n_waiting -= 1
    S.active_milli -= S.jobs[row].milli
    stir(S)


@late(types.void(STATE, types.int32))
def withdraw(clock, row):
    """A waiting job is not offered any more."""
    S = clock[0]
    if not leave_heap(S, row):
        kept = 0
        for i in range(S.n_fresh):
            if S.fresh[i] != row:
                S.fresh[kept] = S.fresh[i]
                kept += 1
        S.n_fresh = kept
    S.jobs[row].phase = FUTURE
    S.n_waiting -= 1
    S.active_milli -= S.jobs[row].milli
    stir(S)


@late(types.void(STATE, types.int32))
def offer(clock, row):
    """A job that was withdrawn, or never offered, waits from now on."""
    queue_up(clock[0], row)


@late(types.void(STATE))
def decide_soon(clock):
    """Something that a decision may use has changed."""
    stir(clock[0])


@late(types.void(STATE, _I, _L, _I, _L, _I, _L, _L))
def hold_again(clock, rows, begins, nodes, milli, slots, cpu_milli, memory_mib):
    """Enter what jobs hold into the ledger of an engine that has just been built; their records are as they were.

    The parts of the k-th job are those from begins[k] to begins[k + 1], its entry in the log is the k-th from now.
    """
    S = clock[0]
    for k in range(len(rows)):
        row, begin = rows[k], S.n_parts
        for i in range(begins[k], begins[k + 1]):
            put(S, np.int64(nodes[i]), milli[i], cpu_milli[i], memory_mib[i], np.int64(slots[i]))
        j, a = S.jobs[row], S.n_allocations
        S.allocations[a].job, S.allocations[a].start_s, S.allocations[a].end_s = row, j.held_since_s, np.nan
        S.allocations[a].first_part, S.allocations[a + 1].first_part = begin, S.n_parts
        S.n_allocations += 1
        j.allocation = a
        S.queues[j.queue].used_milli += j.held_milli
        S.n_holding += 1
        S.active_milli += j.milli
        if j.work_left < np.inf:
            S.finite_holding += 1
        add_running(S, row)
        if j.phase == RUNNING:
            find_rate(S, row)
