"""YARN's capacity scheduler: gangs wait a while for few nodes, then take any."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import job, simulate
from trainmaster.cluster.cluster import Cluster, Node, QueueSpec
from trainmaster.errors import ParamError
from trainmaster.policies.yarn import YarnCapacity

# Three GPUs of each of two nodes are held, until 1000 and 2000: one is free on each.
HELD = [job("left", 0, 3, 1000), job("right", 0, 3, 2000)]


def test_a_gang_waits_for_one_node_then_takes_any():
    run = simulate([*HELD, job("pair", 10, 2, 50)], "2x4", YarnCapacity(locality_wait_s=100))

    assert run.held("pair") == [(110, 160)]  # waited since 10
    assert run.nodes("pair") == [(0, 1)]


def test_a_gang_that_finds_one_node_in_time_does_not_spread():
    run = simulate([*HELD, job("pair", 10, 2, 50)], "2x4", YarnCapacity(locality_wait_s=2000))

    assert run.held("pair") == [(1000, 1050)]
    assert len(run.nodes("pair")[0]) == 1


def test_the_wait_begins_when_the_job_is_eligible():
    run = simulate([*HELD, job("pair", 10, 2, 50, eligible_s=30)], "2x4", YarnCapacity(locality_wait_s=100))

    assert run.held("pair") == [(130, 180)]


def test_without_a_wait_a_gang_takes_any_nodes_at_once_and_with_an_endless_one_never():
    never, endless = (simulate([*HELD, job("pair", 10, 2, 50)], "2x4", YarnCapacity(locality_wait_s=wait_s)) for wait_s in (0, math.inf))

    assert never.held("pair") == [(10, 60)]
    assert endless.held("pair") == [(1000, 1050)]


def test_a_gang_larger_than_a_node_waits_for_the_fewest_that_hold_it():
    jobs = [job("a", 0, 3, 100), job("b", 0, 3, 200), job("gang", 1, 6, 50)]

    run = simulate(jobs, "3x4", YarnCapacity(locality_wait_s=1000))

    assert run.held("gang") == [(100, 150)]  # six were free at 1, on three nodes
    assert run.nodes("gang") == [(0, 2)]


def test_others_pass_a_gang_that_waits_for_locality():
    run = simulate([*HELD, job("pair", 10, 2, 50), job("single", 11, 1, 5)], "2x4", YarnCapacity(locality_wait_s=100))

    assert run.held("single") == [(11, 16)]
    assert run.held("pair") == [(110, 160)]


def test_a_job_that_limits_its_nodes_itself_never_takes_more():
    run = simulate([*HELD, job("pair", 10, 2, 50, max_nodes=1)], "2x4", YarnCapacity(locality_wait_s=100))

    assert run.held("pair") == [(1000, 1050)]


def test_the_fewest_nodes_are_counted_on_the_largest_that_the_job_accepts():
    on = Cluster.of([Node(gpus=8, type="a100"), Node(gpus=4, type="k80"), Node(gpus=4, type="k80")])

    run = simulate([job("gang", 0, 8, 10, accepts=("k80",)), job("any", 0, 8, 10)], on, YarnCapacity())

    assert run.nodes("gang") == [(1, 2)]
    assert run.nodes("any") == [(0,)]


def test_a_queue_within_its_quota_gets_its_gpus_back_from_borrowers():
    on = Cluster.of([Node(gpus=4)], {"p": QueueSpec(quota_gpus=2, borrow=True), "q": QueueSpec(quota_gpus=2, borrow=True)})
    jobs = [job("p1", 0, 2, 100, queue="p"), job("p2", 1, 2, 100, queue="p"), job("q1", 10, 2, 20, queue="q")]

    run = simulate(jobs, on, YarnCapacity())

    assert run.held("p1") == [(0, 100)]
    assert run.held("p2") == [(1, 10), (30, 121)]  # borrowed, and given back
    assert run.held("q1") == [(10, 30)]


def test_a_negative_wait_is_refused():
    with pytest.raises(ParamError, match="locality_wait_s must be 0 or more, not -1"):
        YarnCapacity(locality_wait_s=-1)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8), st.integers(1, 60), st.integers(0, 1)), min_size=1, max_size=20))
def test_the_compiled_walk_waits_as_the_interpreted_one_does(drawn):
    jobs = [job(f"j{i}", submit_s, gpus, work_s, priority=priority) for i, (submit_s, gpus, work_s, priority) in enumerate(drawn)]

    compiled, interpreted = (simulate(jobs, "3x4", YarnCapacity(locality_wait_s=25), interpreted=which) for which in (False, True))

    assert compiled.allocations_csv() == interpreted.allocations_csv()
