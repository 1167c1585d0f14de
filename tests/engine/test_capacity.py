"""Nodes that a policy gives back, nodes that it asks for, and removals that it is told of, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.scripts import Scripted, on
from schedules import job, prepare, schedule_of
from trainmaster.cluster.cluster import Autoscale, CapacityChange, Cluster, Node
from trainmaster.cluster.yaml_file import cluster_from_yaml
from trainmaster.errors import ClusterError, InputError
from trainmaster.metrics.summary import summarize


class Scaling(Scripted):
    """And from some time on gives back these nodes, and wants so many."""

    def __init__(self, script, *, vacate=None, want=None, watch=lambda view: None):
        super().__init__(script, watch)
        self.vacate, self.want = vacate or {}, want or {}

    def decide(self, view, memory):
        self.decision = {}
        for name, said in (("vacate", self.vacate), ("want_nodes", self.want)):
            if begun := [time_s for time_s in said if time_s <= view.now_s]:
                self.decision[name] = said[max(begun)]
        return super().decide(view, memory)


def run_of(jobs, cluster, script, **more):
    simulation = prepare(jobs, cluster, script, **more)
    return schedule_of(simulation, simulation.run())


def capacity(run):
    """What is there from when on, changes only."""
    log = list(zip(run.result.capacity_s.tolist(), run.result.capacity_gpus.tolist(), strict=True))
    return [entry for i, entry in enumerate(log) if i == 0 or entry[1] != log[i - 1][1]]


# ------------------------------------------------------------------------------------------------- giving back


def test_a_node_that_is_given_back_takes_nobody_new_and_is_gone_when_it_is_empty():
    jobs = [job("a", 0, 2, 50), job("b", 10, 2, 20), job("c", 60, 2, 10)]
    script = Scaling({0: {"a": on(2, node=0)}, 5: {"a": on(2, node=0), "b": 2, "c": 2}}, vacate={5: (0,)})

    run = run_of(jobs, "2x4", script)

    assert run.nodes("b") == run.nodes("c") == [(1,)]
    assert run.held("a") == [(0, 50)]
    assert capacity(run) == [(0, 8), (50, 4)]
    assert summarize(run.result)["gpu_utilization"] == (2 * 50 + 2 * 20 + 2 * 10) / (8 * 50 + 4 * 20)


def test_an_empty_node_is_gone_at_once():
    assert capacity(run_of([job("a", 0, 2, 50)], "3x4", Scaling({0: {"a": 2}}, vacate={0: (1, 2)}))) == [(0, 12), (0, 4)]


def test_a_node_that_is_named_no_more_stays():
    jobs = [job("a", 0, 4, 50), job("b", 20, 4, 10)]
    there, elsewhere = on(4, node=0), on(4, node=1)
    script = Scaling({0: {"a": there}, 5: {"a": there}, 20: {"b": there, "a": elsewhere}}, vacate={5: (0,), 20: ()})

    run = run_of(jobs, "2x4", script)

    assert run.nodes("b") == [(0,)]
    assert capacity(run) == [(0, 8)]


def test_a_job_may_shrink_onto_a_node_that_is_given_back():
    run = run_of([job("a", 0, 6, 60)], "2x4", Scaling({0: {"a": 6}, 10: {"a": 4}}, vacate={10: (0,)}))

    assert [holding.parts for holding in run.holdings] == [((0, 4000), (1, 2000)), ((0, 4000),)]
    assert run.finish_s("a") == 10 + 50 * 6 / 4


# ------------------------------------------------------------------------------------------------- asking for more


def on_demand(count=2, start_up_s=30.0):
    nodes = (Node(gpus=4), *[Node(gpus=4, label="cloud")] * count)
    cloud = Autoscale(name="cloud", nodes=tuple(range(1, count + 1)), start_up_s=start_up_s)
    return Cluster(nodes=nodes, present=np.array([True, *[False] * count]), autoscale=(cloud,))


def test_nodes_that_are_wanted_join_after_their_start_up():
    jobs = [job("a", 0, 4, 100), job("b", 0, 4, 10)]
    script = Scaling({0: {"a": 4, "b": 4}}, want={0: {"cloud": 1}}, watch=lambda view: (view.now_s, view.nodes.arrives_s.tolist()))

    run = run_of(jobs, on_demand(), script)

    assert run.held("b") == [(30, 40)]
    assert capacity(run) == [(0, 4), (30, 8)]
    assert script.seen[1][0] == 30  # a node that joins is a reason to decide


def test_a_start_that_is_wanted_no_more_is_called_off_and_a_node_given_back_can_be_asked_for_again():
    jobs = [job("a", 0, 4, 200)]
    script = Scaling({0: {"a": 4}, 10: {"a": 4}, 60: {"a": 4}, 100: {"a": 4}, 101: {"a": 4}}, want={0: {"cloud": 2}, 10: {"cloud": 1},
                     60: {"cloud": 0}, 100: {"cloud": 1}}, vacate={60: (1,), 100: ()})  # fmt: skip

    assert capacity(run_of(jobs, on_demand(), script)) == [(0, 4), (30, 8), (60, 4), (130, 8)]


def test_no_more_nodes_than_there_can_be():
    assert capacity(run_of([job("a", 0, 4, 100)], on_demand(), Scaling({0: {"a": 4}}, want={0: {"cloud": 99}}))) == [(0, 4), (30, 12)]


def test_nodes_of_an_unknown_kind_are_refused():
    with pytest.raises(InputError, match=r"wants nodes of 'h100'; `autoscale` of the cluster file has cloud"):
        run_of([job("a", 0, 4, 100)], on_demand(), Scaling({0: {"a": 4}}, want={0: {"h100": 1}}))


def test_a_job_that_needs_nodes_yet_to_come_is_schedulable():
    script = Scaling({0: {"a": 12}}, want={0: {"cloud": 2}})

    assert run_of([job("a", 0, 12, 10)], on_demand(), script).held("a") == [(30, 40)]


# ------------------------------------------------------------------------------------------------- removals that are known before


def lent(*removals):
    """Three nodes of two on loan, and removals: (at, nodes, notice)."""
    nodes = (Node(gpus=2, label="loaned"),) * 3
    timeline = tuple(CapacityChange(at_s=at_s, remove=rows, notice_s=notice_s) for at_s, rows, notice_s in removals)
    return Cluster(nodes=nodes, present=Cluster.of(nodes).present, timeline=timeline)


def test_a_removal_that_is_announced_is_seen_before_it_happens():
    script = Scaling({0: {"a": on(2, node=2)}}, watch=lambda view: (view.now_s, view.nodes.leaves_s.tolist()))

    run = run_of([job("a", 0, 2, 100)], lent((50, (2,), 20)), script)

    never = float("inf")
    assert script.seen[:2] == [(0, [never] * 3), (30, [never, never, 50])]
    assert run.fates["a"].preemptions == 1


def test_a_policy_chooses_which_of_the_nodes_alike_goes():
    """The timeline would take node 2, and node 0 later; the policy gives back node 0, which is empty, so node 2 goes later."""
    script = Scaling({0: {"a": on(2, node=2)}, 30: {"a": on(2, node=2)}}, vacate={30: (0,)})

    run = run_of([job("a", 0, 2, 100)], lent((50, (2,), 20), (80, (0,), 0)), script)

    assert run.held("a")[0] == (0, 80)
    assert capacity(run)[:3] == [(0, 6), (30, 4), (80, 2)]


def test_of_nodes_that_are_still_there_when_a_removal_is_due_the_policys_choice_goes():
    jobs = [job("a", 0, 2, 100), job("b", 0, 2, 100)]
    script = Scaling({0: {"a": on(2, node=2), "b": on(2, node=0)}}, vacate={30: (0,)})

    run = run_of(jobs, lent((50, (2,), 20)), script)

    assert run.held("a") == [(0, 100)]
    assert run.fates["b"].preemptions == 1


# ------------------------------------------------------------------------------------------------- in the cluster file


FILE = """
nodes: [{count: 2, gpus: 4, type: v100, label: loaned}]
timeline: [{at_s: 100, remove: {count: 1, label: loaned, notice_s: 60}}]
autoscale: [{max_nodes: 3, gpus: 8, type: v100, label: cloud, start_up_s: 90}]
"""


def test_the_cluster_file_says_what_can_be_asked_for_and_what_is_announced():
    cluster = cluster_from_yaml(FILE, "c.yaml")

    assert cluster.autoscale == (Autoscale(name="cloud", nodes=(2, 3, 4), start_up_s=90),)
    assert cluster.timeline == (CapacityChange(at_s=100, remove=(1,), notice_s=60),)
    assert cluster.present.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("autoscale: [{gpus: 8, start_up_s: 1}]", "max_nodes: is missing"),
        ("autoscale: [{max_nodes: 1, gpus: 8}]", "start_up_s"),
        ("autoscale: [{max_nodes: 1, gpus: 8, start_up_s: 1}, {max_nodes: 1, gpus: 4, start_up_s: 1}]", "two entries"),
        ("autoscale: [{count: 1, gpus: 8, start_up_s: 1}]", "no such field"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line(text, problem):
    with pytest.raises(ClusterError, match=problem) as refused:
        cluster_from_yaml(f"nodes: [{{gpus: 4}}]\n{text}", "c.yaml")
    assert "\n" not in str(refused.value)
