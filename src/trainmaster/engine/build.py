"""From a job table and a cluster to the engine's arrays: pools, classes of demand, the ledger, what can never run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainmaster.cluster.cluster import UNTYPED, Cluster
from trainmaster.engine.state import ARRAYS, State
from trainmaster.workload.jobs import GPU_MILLI, Floats, Ints, JobTable

NEVER = np.inf


@dataclass(frozen=True)
class Pool:
    """Nodes of one type that are open to the same queues."""

    type: str
    queues: tuple[str, ...]


def pools_of(cluster: Cluster) -> tuple[list[Pool], list[int]]:
    """The pools, those of a type together, and the pool of each node."""
    types = {node.type: None for node in cluster.nodes}
    found = {(node.type, tuple(sorted(node.queues))): None for node in cluster.nodes}
    order = sorted(found, key=lambda pool: (list(types).index(pool[0]), not pool[1]))  # a queue's own nodes before open ones
    number = {pool: i for i, pool in enumerate(order)}
    return [Pool(*pool) for pool in order], [number[node.type, tuple(sorted(node.queues))] for node in cluster.nodes]


def build_state(jobs: JobTable, cluster: Cluster, rates: Floats | None, types: Sequence[str]) -> State:
    """Everything at time zero: nobody has arrived, every node present is free. `rates` (jobs, types) where fixed."""
    n = len(jobs)
    pools, pool_of_node = pools_of(cluster)
    queue_names = list(dict.fromkeys([*jobs.queue.names, *cluster.queues, *(q for pool in pools for q in pool.queues)]))
    queue = np.where(jobs.queue.codes < 0, len(queue_names), jobs.queue.codes).astype(np.int32)
    cpu_milli = np.rint(jobs.cpus * 1000).astype(np.int64)
    memory_mib = np.rint(jobs.memory_gib * 1024).astype(np.int64)
    if not any(node.cpus is not None for node in cluster.nodes):
        cpu_milli[jobs.gpu_milli > 0] = 0
    if not any(node.memory_gib is not None for node in cluster.nodes):
        memory_mib[:] = 0
    runs_on = _types_with_a_rate(jobs, rates, len(types))
    owned = bool(cluster.queues) or any(pool.queues for pool in pools)
    klass, first_rows = _classes(
        jobs.gpu_milli, cpu_milli, memory_mib, jobs.max_nodes, jobs.nodes, queue if owned else np.zeros(n, np.int32), jobs.accept_set,
        runs_on,
    )  # fmt: skip

    top = max((node.gpus for node in cluster.nodes), default=0)
    words = (len(cluster.nodes) + 63) // 64
    gpus = sum(node.gpus for node in cluster.nodes)
    shapes: dict[str, tuple[int, ...]] = {
        "jobs": (n,), "keys": (n, 4), "history_of": (0, 4), "history": (0, 2), "rates": (1, max(len(types), 1)),
        "nodes": (len(cluster.nodes),), "slots": (gpus,), "slot_head": (gpus,), "touched": (gpus,),
        "pools": (len(pools),), "buckets": (len(pools), top + 1, words), "bucket_size": (len(pools), top + 1),
        "classes": (len(first_rows) + 1,), "class_pools": (len(first_rows) + 1, len(pools) + 1), "queues": (len(queue_names) + 1,),
        "arrivals": (0,), "heap_s": (2 * n + 64,), "heap_row": (2 * n + 64,), "out": (n, 3), "heads": (len(first_rows) + 1,),
        "cap": (len(pools),), "beside": (len(pools),), "used": (len(queue_names) + 1,), "blocked": (len(pools) + 1,),
        "usable": (len(cluster.nodes),), "counts": (top + 1,), "allocations": (0,), "parts": (0,), "acts": (2 * n + 64, 2),
    }  # fmt: skip
    S = State(**{name: np.zeros(shapes.get(name, (n,)), dtype) for name, (dtype, _) in ARRAYS.items()})
    grow_log(S, n + gpus + 1024, n + gpus + 1024)
    S.slot_head[:] = -1

    _fill_nodes(S.nodes, cluster, pool_of_node)
    all_types = list(dict.fromkeys(pool.type for pool in pools))
    for i, pool in enumerate(pools):
        # an accelerator type is a column of `rates`; nodes without GPUs have none, and no gang runs there
        S.pools[i]["type"] = types.index(pool.type) if pool.type in types else len(types) + all_types.index(pool.type)
    here = np.flatnonzero(cluster.present)
    node_gpus, node_pool = np.array([node.gpus for node in cluster.nodes], np.int64)[here], np.array(pool_of_node, np.int64)[here]
    S.nodes["up"][here] = 1
    np.bitwise_or.at(S.buckets, (node_pool, node_gpus, here >> 6), np.uint64(1) << (here & 63).astype(np.uint64))
    np.add.at(S.bucket_size, (node_pool, node_gpus), 1)
    for total in ("total_milli", "free_milli"):
        np.add.at(S.pools[total], node_pool, node_gpus * GPU_MILLI)

    _fill_jobs(S.jobs, jobs, klass, queue, cpu_milli, memory_mib)
    S.keys[:, 0] = -jobs.priority
    if rates is not None:
        table = rates if len(rates) and (rates != rates[0]).any() else rates[:1]
        S.replace("rates", np.hstack([table, np.ones((len(table), len(all_types)))]))  # types without GPUs: CPU jobs, in seconds
    _fill_classes(S, jobs, cluster, pools, klass, first_rows, runs_on, types, queue_names)
    _fill_queues(S, cluster, queue_names)
    clock = S.clock[0]
    clock["gpus"], clock["broken"], clock["until_s"], clock["decide_s"] = gpus, -1, NEVER, NEVER
    clock["fixed_rates"], clock["quotas"] = rates is not None, bool(cluster.queues)
    clock["pause_at"] = np.iinfo(np.int64).max
    return S


def keep_history(S: State, jobs: JobTable) -> None:
    """Let estimates come from ended jobs: of the same user and name, the user, the queue, everybody."""
    names = np.unique(jobs.name.astype(str), return_inverse=True)[1].astype(np.int64)
    user, queue = jobs.user.codes.astype(np.int64), jobs.queue.codes.astype(np.int64)
    named = np.where((jobs.name != "") & (user >= 0), user * (names.max(initial=0) + 1) + names, -1)
    history_of, groups = np.full((len(jobs), 4), -1, np.int32), 0
    for level, code in enumerate((named, user, queue, np.zeros(len(jobs), np.int64))):
        values, inverse = np.unique(code, return_inverse=True)
        history_of[:, level] = np.where(code >= 0, inverse + groups, -1)
        groups += len(values)
    S.replace("history_of", history_of)
    S.replace("history", np.zeros((groups, 2)))
    S.clock[0]["predicts"] = 1


def grow_log(S: State, allocations: int, parts: int) -> None:
    """Make the allocation log this long; what it holds stays."""
    for name, size in (("allocations", allocations + 1), ("parts", parts)):
        longer = np.empty(size, ARRAYS[name][0])
        longer[: len(S.arrays[name])] = S.arrays[name]
        S.replace(name, longer)


def _types_with_a_rate(jobs: JobTable, rates: Floats | None, types: int) -> Ints:
    """Which types each job can run on at all, as a number that is the same for the same types."""
    if rates is None or types > 62 or (rates > 0).all():
        return np.full(len(jobs), -1, np.int64)
    return ((rates > 0) << np.arange(types)).sum(axis=1).astype(np.int64)


def _classes(*columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number rows by equal demand: (class of each row, first row of each class)."""
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        if len(column) and (column != column[0]).any():
            values, inverse = np.unique(column, return_inverse=True)
            codes = np.unique(codes * len(values) + inverse, return_inverse=True)[1]
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return inverse.astype(np.int32), first


def _fill_nodes(nodes: np.ndarray, cluster: Cluster, pool_of_node: list[int]) -> None:
    gpus = np.array([node.gpus for node in cluster.nodes], np.int64)
    nodes["gpus"], nodes["free_milli"], nodes["slot"] = gpus, gpus * GPU_MILLI, np.cumsum(gpus) - gpus
    nodes["pooled"] = [node.pooled for node in cluster.nodes]
    nodes["counts_cpu"] = [node.cpus is not None for node in cluster.nodes]
    nodes["cpu_free_milli"] = [round((node.cpus or 0.0) * 1000) for node in cluster.nodes]
    nodes["counts_memory"] = [node.memory_gib is not None for node in cluster.nodes]
    nodes["memory_free_mib"] = [round((node.memory_gib or 0.0) * 1024) for node in cluster.nodes]
    nodes["pool"] = pool_of_node


def _fill_jobs(state: np.ndarray, jobs: JobTable, klass: np.ndarray, queue: np.ndarray, cpu_milli: Ints, memory_mib: Ints) -> None:
    state["seq"], state["milli"], state["cpu_milli"], state["memory_mib"] = jobs.seq, jobs.gpu_milli, cpu_milli, memory_mib
    state["submit_s"], state["eligible_s"], state["arrive_s"] = jobs.submit_s, jobs.eligible_s, jobs.eligible_s
    state["limit_s"], state["estimate_s"] = jobs.limit_s, np.nan
    state["work_left"], state["alone_rate"] = jobs.work, 1.0
    state["start_s"] = state["finish_s"] = np.nan
    state["due_s"], state["allocation"], state["near_until_s"], state["avoid"] = NEVER, -1, -NEVER, -1
    bounds = np.where(jobs.nodes > 0, np.where(jobs.max_nodes > 0, np.minimum(jobs.nodes, jobs.max_nodes), jobs.nodes), jobs.max_nodes)
    state["klass"], state["queue"], state["max_nodes"] = klass, queue, bounds
    state["pinned"] = ~jobs.preemptible
    state["share_milli"], state["config"], state["as_asked"] = GPU_MILLI, -1, 1


def _fill_classes(S: State, jobs: JobTable, cluster: Cluster, pools: list[Pool], klass: np.ndarray, first_rows: np.ndarray, runs_on: Ints,
                  types: Sequence[str], queue_names: list[str]) -> None:
    classes = S.classes
    state = S.jobs[first_rows]
    for name in ("milli", "cpu_milli", "memory_mib", "queue"):
        classes[name][:-1] = state[name]
    classes["even_nodes"][:-1] = jobs.nodes[first_rows]
    classes["excluded"] = classes["refused"] = -1
    sizes = np.bincount(klass, minlength=len(first_rows))
    classes["offset"][:-1] = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    has_pooled = [any(node.pooled for node, p in zip(cluster.nodes, S.nodes["pool"], strict=True) if p == i) for i in range(len(pools))]
    has_cpus = [bool((S.nodes["counts_cpu"][S.nodes["pool"] == i]).any()) for i in range(len(pools))]
    has_memory = [bool((S.nodes["counts_memory"][S.nodes["pool"] == i]).any()) for i in range(len(pools))]
    S.class_pools[:] = -1
    component = list(range(len(pools)))

    def root(pool: int) -> int:
        while component[pool] != pool:
            pool = component[pool]
        return pool

    for c, row in enumerate(first_rows):
        accepted = jobs.accept_sets[jobs.accept_set[row]]
        queue = queue_names[state["queue"][c]] if state["queue"][c] < len(queue_names) else None
        usable = [
            i for i, pool in enumerate(pools)
            if (not accepted or pool.type == UNTYPED or pool.type in accepted)
            and (not pool.queues or queue in pool.queues)
            and (pool.type not in types or runs_on[row] >> types.index(pool.type) & 1)
        ]  # fmt: skip
        if accepted:
            rank = {name: i for i, name in enumerate(accepted)}
            usable.sort(key=lambda i: (rank.get(pools[i].type, -1), S.pools[i]["type"]))
        S.class_pools[c, : len(usable)] = usable
        for pool in usable[1:]:
            component[root(pool)] = root(usable[0])
        whole = state["milli"][c] > 0 and state["milli"][c] % GPU_MILLI == 0
        counts_more = any((state["cpu_milli"][c] and has_cpus[i]) or (state["memory_mib"][c] and has_memory[i]) for i in usable)
        classes[c]["plain"] = whole and not counts_more and not any(has_pooled[i] for i in usable)
    for c in range(len(first_rows)):
        pool = S.class_pools[c, 0]
        classes[c]["component"] = root(int(pool)) if pool >= 0 else len(pools)
    S.clock[0]["simple"] = len(pools) == 1 and bool(classes["plain"][:-1].all())
    S.clock[0]["simple"] &= not jobs.max_nodes.any() and not jobs.nodes.any() and not cluster.queues


def _fill_queues(S: State, cluster: Cluster, queue_names: list[str]) -> None:
    """Where any queue has a quota, one without has none guaranteed and borrows."""
    S.queues["borrow"] = 1
    for i, name in enumerate(queue_names):
        spec = cluster.queues.get(name)
        if spec is not None:
            S.queues[i]["quota_milli"] = round((spec.quota_gpus or 0) * GPU_MILLI)
            S.queues[i]["borrow"] = spec.borrow or spec.quota_gpus is None
