"""Pollux's question answered as its artifact does: NSGA-II over allocation matrices (jobs x nodes).

Qiao et al., OSDI 2021, section 4.2.2; Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE
Transactions on Evolutionary Computation 6(2), 2002. Two objectives are minimised: cost, the sum over jobs, and -utility, the
speed-up a GPU summed over all GPUs held. The answer is the least cost of the last generation.

    crossover   one point over the jobs
    mutation    each row back to where the job is now (0.1); in a tenth of the rows, each element to 0 (0.1); on nodes with GPUs
                free, about one job and one that is there already get a random number between what they have and the node's GPUs
    repair      at most one gang across nodes a node, no job above its most GPUs or on more than `most_nodes` nodes, no node
                above its GPUs: earlier rows are served first
"""

import numpy as np
from numba import njit

RESET, ROWS, ZERO = 0.1, 0.1, 0.1


@njit(cache=True)
def evolve(population, base, cost, stay, speed, most, capacity, exclusive, most_nodes, size, generations, seed):  # type: ignore[no-untyped-def]
    """(population, its costs) after so many generations. `population` [k, jobs, nodes] seeds the first."""
    np.random.seed(seed)
    _, jobs, nodes = population.shape
    people = np.zeros((2 * size, jobs, nodes), np.int16)
    aims = np.zeros((2 * size, 2))
    count = min(len(population), size)
    people[:count] = population[:count]
    for i in range(count):
        repair(people[i], most, capacity, exclusive, most_nodes)
        judge(people[i], base, cost, stay, speed, aims[i])
    rank, crowd = np.zeros(2 * size, np.int64), np.zeros(2 * size)
    select(people, aims, count, size, rank, crowd)
    for _ in range(generations - 1):
        total = count
        for _ in range(2 * size):  # as many tries as would fill it twice; copies of others are dropped
            if total == count + size:
                break
            one, other = tournament(rank, crowd, count), tournament(rank, crowd, count)
            child, point = people[total], np.random.randint(0, jobs)
            child[:point] = people[one, :point]
            child[point:] = people[other, point:]
            mutate(child, base, capacity)
            repair(child, most, capacity, exclusive, most_nodes)
            judge(child, base, cost, stay, speed, aims[total])
            if not copied(people, aims, total):
                total += 1
        count = select(people, aims, total, size, rank, crowd)
    return people[:count].copy(), aims[:count, 0].copy()


@njit(cache=True)
def tournament(rank, crowd, count):  # type: ignore[no-untyped-def]
    a, b = np.random.randint(0, count), np.random.randint(0, count)
    if rank[a] != rank[b]:
        return a if rank[a] < rank[b] else b
    return a if crowd[a] >= crowd[b] else b


@njit(cache=True)
def copied(people, aims, index):  # type: ignore[no-untyped-def]
    _, jobs, nodes = people.shape
    for i in range(index):
        if aims[i, 0] != aims[index, 0] or aims[i, 1] != aims[index, 1]:
            continue
        same = True
        for j in range(jobs):
            for n in range(nodes):
                if people[i, j, n] != people[index, j, n]:
                    same = False
                    break
            if not same:
                break
        if same:
            return True
    return False


@njit(cache=True)
def mutate(child, base, capacity):  # type: ignore[no-untyped-def]
    jobs, nodes = child.shape
    for j in range(jobs):
        if np.random.random() < RESET:
            child[j] = base[j]
        if np.random.random() < ROWS:
            for n in range(nodes):
                if np.random.random() < ZERO:
                    child[j, n] = 0
    for n in range(nodes):
        used, there = 0, 0
        for j in range(jobs):
            used += child[j, n]
            there += child[j, n] > 0
        if used >= capacity[n]:
            continue
        at = np.random.geometric(1.0 / jobs) - 1  # each job by chance 1 in `jobs`
        while at < jobs:
            child[at, n] = np.random.randint(child[at, n], capacity[n] + 1) if child[at, n] < capacity[n] else capacity[n]
            at += np.random.geometric(1.0 / jobs)
        if there:
            for j in range(jobs):
                if 0 < child[j, n] < capacity[n] and np.random.random() * there < 1.0:
                    child[j, n] = np.random.randint(child[j, n], capacity[n] + 1)


@njit(cache=True)
def repair(child, most, capacity, exclusive, most_nodes):  # type: ignore[no-untyped-def]
    jobs, nodes = child.shape
    free, taken = capacity.copy(), np.zeros(nodes, np.bool_)
    order = np.arange(nodes)
    for j in range(jobs):
        parts, wanted = 0, 0
        for n in range(nodes):
            parts += child[j, n] > 0
            wanted += child[j, n]
        if parts == 0:
            continue
        if wanted > most[j] or parts > most_nodes:  # which parts a cap cuts is chance
            for i in range(nodes - 1, 0, -1):
                k = np.random.randint(0, i + 1)
                order[i], order[k] = order[k], order[i]
        gang, kept = 0, 0
        spans = parts > 1
        for i in range(nodes):
            n = order[i]
            if child[j, n] == 0:
                continue
            if spans and exclusive and taken[n]:
                child[j, n] = 0
                continue
            child[j, n] = min(child[j, n], most[j] - gang, free[n])
            if kept == most_nodes:
                child[j, n] = 0
            gang += child[j, n]
            kept += child[j, n] > 0
        for n in range(nodes):
            free[n] -= child[j, n]
            if kept > 1 and child[j, n] > 0:
                taken[n] = True


@njit(cache=True)
def judge(child, base, cost, stay, speed, aims):  # type: ignore[no-untyped-def]
    jobs, nodes = child.shape
    total, utility = 0.0, 0.0
    for j in range(jobs):
        gang, parts, same = 0, 0, True
        for n in range(nodes):
            gang += child[j, n]
            parts += child[j, n] > 0
            same = same and child[j, n] == base[j, n]
        kind = 1 if parts > 1 else 0
        total += stay[j] if same else cost[j, kind, gang]
        utility += speed[j, kind, gang]
    aims[0], aims[1] = total, -utility


@njit(cache=True)
def select(people, aims, total, size, rank, crowd):  # type: ignore[no-untyped-def]
    """Keep the best by front, then by distance to their neighbours in it; they end up in front, with rank and crowding set."""
    order, front = np.argsort(aims[:total, 0]), np.zeros(total, np.int64)
    left, level, done = total, 0, np.zeros(total, np.bool_)
    kept = np.zeros(total, np.int64)
    n_kept = 0
    distance = np.zeros(total)
    while left > 0 and n_kept < size:
        n_front, best, seen = 0, np.inf, -np.inf
        for i in order:  # by the first aim, then whoever improves on the second
            if done[i]:
                continue
            if aims[i, 1] < best or (aims[i, 1] == best and aims[i, 0] == seen):
                front[n_front] = i
                n_front += 1
                best, seen = aims[i, 1], aims[i, 0]
        for k in range(n_front):
            done[front[k]] = True
            distance[front[k]] = np.inf
        left -= n_front
        first, last = front[0], front[n_front - 1]
        for k in range(1, n_front - 1):
            before, after = front[k - 1], front[k + 1]
            distance[front[k]] = (aims[after, 0] - aims[before, 0]) / max(aims[last, 0] - aims[first, 0], 1e-300) + (
                aims[before, 1] - aims[after, 1]
            ) / max(aims[first, 1] - aims[last, 1], 1e-300)
        chosen = front[:n_front]
        if n_kept + n_front > size:
            chosen = chosen[np.argsort(-distance[chosen])][: size - n_kept]
        for i in chosen:
            kept[n_kept], rank[n_kept], crowd[n_kept] = i, level, distance[i]
            n_kept += 1
        level += 1
    people[:n_kept] = people[kept[:n_kept]]
    aims[:n_kept] = aims[kept[:n_kept]]
    return n_kept
