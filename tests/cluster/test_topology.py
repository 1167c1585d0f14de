"""The narrowest level that holds an allocation, on nodes small enough to see."""

from trainmaster.cluster.cluster import Node
from trainmaster.cluster.topology import Level, span

NODE = Node(gpus=8, rack="r1", island_gpus=4)


def test_one_node_is_a_gpu_an_island_or_the_node():
    assert [span([NODE], gpus) for gpus in (0.5, 1, 2, 4, 5, 8)] == [
        *(Level.GPU, Level.GPU, Level.ISLAND, Level.ISLAND),
        *(Level.NODE, Level.NODE),
    ]


def test_a_node_without_islands_is_one_island():
    assert span([Node(gpus=8)], 8) == Level.ISLAND


def test_nodes_of_one_rack_span_the_rack_and_others_the_cluster():
    assert span([NODE, NODE], 16) == Level.RACK
    assert span([NODE, Node(gpus=8, rack="r2")], 16) == Level.CLUSTER


def test_nodes_without_a_rack_share_none():
    assert span([Node(gpus=8), Node(gpus=8)], 2) == Level.CLUSTER


def test_levels_are_ordered_from_near_to_far():
    assert Level.GPU < Level.ISLAND < Level.NODE < Level.RACK < Level.CLUSTER
