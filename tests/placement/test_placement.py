"""Placements: which node takes (the next part of) a gang, on nodes few enough to draw."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import job, policy, simulate
from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.errors import ParamError
from trainmaster.placement.base import find_placement, placements
from trainmaster.placement.skew import is_skewed

NAMES = sorted(placements())


def pick(name: str, free: list[int], need: int) -> tuple[int, int]:
    """What the placement says of nodes with so many GPUs free."""
    return find_placement(name).pick([free.count(gpus) for gpus in range(9)], need)


def placed(name: str, nodes: list[int], *gangs: float, **more: object) -> list[tuple[tuple[int, int], ...]]:
    """(node, GPUs) of each gang, started in order on an empty cluster."""
    jobs = [job(f"j{i}", 0, gpus, 10, **more) for i, gpus in enumerate(gangs)]
    run = simulate(jobs, Cluster.of([Node(gpus=gpus) for gpus in nodes]), policy("fifo-greedy"), placement=name)
    return [tuple((node, milli // 1000) for node, milli in holding.parts) for holding in run.holdings if holding.start_s == 0]


def test_the_placements_are_those_of_the_design():
    assert NAMES == ["first-fit", "packed", "random", "skew", "spread"]


def test_an_unknown_placement_suggests_the_nearest():
    with pytest.raises(ParamError, match=r'no placement "pakced"; did you mean .packed.\? \(one of '):
        find_placement("pakced")


ONE_NODE_HOLDS_IT = {"packed": (3, 3), "spread": (8, 8), "first-fit": (2, 8), "random": (2, 8), "skew": (2, 8)}
NO_NODE_HOLDS_IT = {"packed": (3, 3), "spread": (3, 3), "first-fit": (1, 8), "random": (1, 8), "skew": (1, 8)}


@pytest.mark.parametrize("name", NAMES)
def test_which_nodes_may_take_a_part(name):
    assert pick(name, [1, 3, 8, 0], need=2) == ONE_NODE_HOLDS_IT[name]
    assert pick(name, [1, 3, 0], need=4) == NO_NODE_HOLDS_IT[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_full_cluster_takes_nothing(name):
    assert pick(name, [0, 0], need=1) == (0, 0)


@given(st.sampled_from(NAMES), st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 16))
def test_a_pick_is_nowhere_or_some_node_that_has_a_gpu(name, free, need):
    lo, hi = pick(name, free, need)

    assert ((lo, hi) == (0, 0)) == (max(free) == 0)
    if lo:
        assert any(lo <= gpus <= hi for gpus in free)


# ------------------------------------------------------------------------------------------------- on nodes


def test_packed_takes_the_fullest_node_that_holds_the_gang():
    assert placed("packed", [8, 4, 2], 2, 3, 1) == [((2, 2),), ((1, 3),), ((1, 1),)]


def test_packed_takes_the_lowest_number_among_equals():
    assert placed("packed", [4, 4, 4], 4, 4) == [((0, 4),), ((1, 4),)]


def test_packed_fills_the_emptiest_nodes_and_puts_the_rest_where_it_fits_best():
    assert placed("packed", [4, 2, 1, 4], 9) == [((0, 4), (3, 4), (2, 1))]


@given(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.data())
def test_packed_uses_the_fewest_nodes(nodes, data):
    gang = data.draw(st.integers(1, sum(nodes)))

    [parts] = placed("packed", nodes, gang)

    largest_first, fewest = sorted(nodes, reverse=True), 0
    while sum(largest_first[:fewest]) < gang:
        fewest += 1
    assert len(parts) == fewest


def test_spread_takes_the_emptiest_node_first():
    assert placed("spread", [4, 3, 2], 1, 1, 1) == [((0, 1),), ((0, 1),), ((1, 1),)]
    assert placed("spread", [2, 4, 3], 5) == [((1, 4), (2, 1))]


def test_first_fit_takes_nodes_by_number():
    assert placed("first-fit", [2, 4, 4], 3, 2, 1) == [((1, 3),), ((0, 2),), ((1, 1),)]
    assert placed("first-fit", [2, 4, 4], 7) == [((0, 2), (1, 4), (2, 1))]


def test_random_depends_on_the_seed_alone():
    jobs = [job(f"j{i}", i, 1, 100) for i in range(12)]
    by_seed = [simulate(jobs, "12x2", policy("fifo"), placement="random", seed=seed).allocations_csv() for seed in (1, 1, 2)]

    assert by_seed[0] == by_seed[1] != by_seed[2]


def test_random_reaches_every_node():
    run = simulate([job(f"j{i}", i, 1, 1000) for i in range(32)], "8x4", policy("fifo"), placement="random")

    assert {node for holding in run.holdings for node, _ in holding.parts} == set(range(8))


@pytest.mark.parametrize("model, skewed", [("vgg16", True), ("VGG19", True), ("alexnet", True), ("resnet50", False), ("", False)])
def test_models_with_one_dominant_tensor_are_skewed(model, skewed):
    assert is_skewed(model) is skewed


def test_skew_consolidates_only_skewed_models():
    keepers = [job("k1", 0, 2, 50), job("k2", 0, 2, 50)]  # leave 1 + 1 GPUs

    def nodes(model: str) -> tuple[float, list[tuple[int, ...]]]:
        run = simulate([*keepers, job("gang", 1, 2, 10, model=model)], "2x3", policy("fifo"), placement="skew")
        return run.held("gang")[0][0], run.nodes("gang")

    assert nodes("resnet50") == (1, [(0, 1)])
    assert nodes("vgg16") == (50, [(0,)])


def test_a_gang_larger_than_any_node_is_consolidated_on_the_fewest():
    run = simulate([job("gang", 0, 5, 10, model="vgg16")], "4x2", policy("fifo"), placement="skew")

    assert run.nodes("gang") == [(0, 1, 2)]


@pytest.mark.parametrize("name", NAMES)
def test_a_gang_that_may_not_span_takes_one_node_under_any_placement(name):
    assert all(len(parts) == 1 for parts in placed(name, [4, 4], 3, 3, max_nodes=1))
