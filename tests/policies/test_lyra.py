"""Lyra: reclaiming, the knapsack, and loaned servers in whole runs."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules import job, schedule_of
from trainmaster.cluster.yaml_file import cluster_from_yaml
from trainmaster.engine.core import Setup
from trainmaster.engine.loop import Simulation
from trainmaster.policies.lyra import Lyra, fewest_preempted, flexible, reclaim
from trainmaster.workload.jobs import JobTable

A, B, C, D = range(4)


def tenants(**servers: str) -> dict[int, list[tuple[int, int]]]:
    """`s1="AB"`: jobs A and B run on server 1."""
    spans = {name: sum(name in jobs for jobs in servers.values()) for jobs in servers.values() for name in jobs}
    return {int(server[1:]): [("ABCD".index(name), spans[name]) for name in jobs] for server, jobs in servers.items()}


def preempted(servers: list[int], where: dict[int, list[tuple[int, int]]]) -> int:
    return len({job_ for server in servers for job_, _ in where[server]})


def test_the_server_whose_jobs_lose_least_is_reclaimed_first():
    where = tenants(s1="A", s2="A", s3="AB", s4="CD")

    assert reclaim(where, 2) == [1, 2]
    assert reclaim(where, 3) == [1, 2, 3]
    assert preempted([1, 2], where) == 1


def test_the_greedy_rule_is_not_optimal_and_the_exact_one_is():
    where = tenants(s1="ABC", s2="AC", s3="AC", s4="B")

    assert reclaim(where, 2) == [4, 1]
    assert preempted(reclaim(where, 2), where) == 3
    assert fewest_preempted(where, 2) == [2, 3]


@given(st.lists(st.sets(st.integers(0, 5), max_size=4), min_size=1, max_size=6), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_the_exact_reclaim_is_the_best_of_all(servers, wanted):
    where = {s: [(j, sum(j in other for other in servers)) for j in jobs] for s, jobs in enumerate(servers)}
    wanted = min(wanted, len(servers))
    found = fewest_preempted(where, wanted)

    assert len(found) == len(reclaim(where, wanted)) == wanted
    assert preempted(found, where) == min(preempted(list(some), where) for some in combinations(where, wanted))
    assert preempted(found, where) <= preempted(reclaim(where, wanted), where)


def linear(work: float, most: int, base: int = 1) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return work / np.arange(most + 1)


@pytest.mark.parametrize(("capacity", "extra"), [(1, [1, 0]), (2, [1, 1]), (3, [2, 1])])
def test_flexible_gpus_go_where_they_save_most_seconds(capacity, extra):
    assert flexible(capacity, [linear(100, 4), linear(40, 4)], np.array([1, 1]), np.array([4, 4])).tolist() == extra


def test_workers_of_two_gpus_compete_with_workers_of_one():
    """J1 100 s and J3 40 s on one GPU a worker, J2 60 s on two; with four GPUs each gets a worker: 50 + 30 + 20 seconds saved."""
    from trainmaster.policies.kernels.knapsack import choose

    weights, values = np.array([1, 2, 3, 2, 1, 2, 3]), np.array([50, 200 / 3, 75, 30, 20, 80 / 3, 30])
    begins = np.array([0, 3, 4, 7])
    worth = [float(sum(values[i] for i in choose(capacity, begins, weights, values) if i >= 0)) for capacity in (1, 2, 3, 4)]

    assert worth == pytest.approx([50, 70, 86.6667, 100], abs=1e-3)
    assert choose(4, begins, weights, values).tolist() == [0, 3, 4]


def test_the_knapsack_beats_the_best_ratio_first():
    from trainmaster.policies.kernels.knapsack import choose

    chosen = choose(4, np.array([0, 1, 2, 3]), np.array([3, 2, 2]), np.array([70.0, 46, 46]))

    assert chosen.tolist() == [-1, 1, 2]


@given(st.lists(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 50)), max_size=3), min_size=1, max_size=4), st.integers(0, 10))
def test_the_knapsack_is_the_best_of_all_choices(groups, capacity):
    from trainmaster.policies.kernels.knapsack import choose

    items = [item for group in groups for item in group]
    begins = np.concatenate([[0], np.cumsum([len(group) for group in groups])]).astype(np.int64)
    weights, values = np.array([w for w, _ in items], np.int64), np.array([v for _, v in items], np.float64)
    chosen = [int(i) for i in choose(capacity, begins, weights, values) if i >= 0]

    best = max(
        sum(v for _, v in some) for some in product(*([(0, 0), *group] for group in groups)) if sum(w for w, _ in some) <= capacity
    )  # fmt: skip
    assert sum(weights[chosen]) <= capacity
    assert sum(values[chosen]) == best


LOANED = """
nodes:
  - {count: 1, gpus: 4}
timeline:
  - {at_s: 10, add: {count: 2, gpus: 4, label: loaned}}
  - {at_s: 100, remove: {count: 1, label: loaned, notice_s: 20}}
"""


def test_elastic_jobs_spread_to_loaned_servers_and_shrink_before_anybody_is_preempted():
    on = cluster_from_yaml(LOANED, "cluster.yaml")
    jobs = [job("elastic", 0, 2, 2000, min_gpus=2, max_gpus=12), job("rigid", 0, 2, 300)]
    simulation = Simulation(JobTable.of(jobs), on, Lyra(), Setup(restart_cost_s=0))
    done = schedule_of(simulation, simulation.run())

    held = {h.start_s: sum(milli for _, milli in h.parts) // 1000 for h in done.holdings if h.id == "elastic"}
    assert held[0] == 2
    assert held[10] == 10  # both loaned servers
    assert held[80] == 6  # one is asked back
    assert all(fate.preemptions == 0 for fate in done.fates.values())
    assert min(held.values()) >= 2
