"""Shares received against shares owed, by hand."""

import numpy as np
import pytest

from metrics.build import run
from schedules import cluster, job
from trainmaster.cluster.cluster import Cluster, Node, QueueSpec
from trainmaster.metrics.summary import summarize
from trainmaster.metrics.tenants import Tenants, jain_index, max_min_shares

TWO_USERS = [job("a", 0, 2, 100, user="ann"), job("b", 0, 2, 100, user="bob")]


def test_one_gpu_each_is_owed_to_two_who_ask_for_two():
    held = {"a": [(0.0, 100.0, {0: 2.0})], "b": [(100.0, 200.0, {0: 2.0})]}

    figures = summarize(run(TWO_USERS, held, cluster("1x2")))

    assert figures["by_tenant"]["ann"]["received_gpu_s"] == pytest.approx(200)
    assert figures["by_tenant"]["ann"]["owed_gpu_s"] == pytest.approx(100)  # then it is gone
    assert figures["by_tenant"]["bob"]["owed_gpu_s"] == pytest.approx(100 + 200)
    assert figures["by_tenant"]["bob"]["ratio"] == pytest.approx(200 / 300)
    assert figures["jain_index"] == pytest.approx(jain_index(np.array([2.0, 2 / 3])))


def test_a_trace_of_one_tenant_has_no_figure():
    figures = summarize(run([job("a", 0, 1, 10)], {"a": [(0.0, 10.0, {0: 1.0})]}, cluster("1x1")))

    assert figures["jain_index"] is None
    assert figures["by_tenant"] == {}


def test_queues_are_owed_by_the_weights_of_the_cluster_file():
    jobs = [job("a", 0, 4, 10, queue="a"), job("b", 0, 4, 10, queue="b")]
    on = Cluster.of([Node(gpus=4)], queues={"a": QueueSpec(weight=3), "b": QueueSpec()})

    tenants = Tenants.of(run(jobs, {"a": [(0.0, 10.0, {0: 4.0})], "b": [(10.0, 20.0, {0: 4.0})]}, on), np.array([0.0, 10.0]))

    assert tenants.owed[:, 0].tolist() == [3.0, 1.0]
    assert tenants.received[:, 0].tolist() == [4.0, 0.0]
    assert tenants.jain_over_time().tolist() == [0.5]


def test_what_one_does_not_ask_for_goes_to_the_others():
    shares = max_min_shares(np.array([[1.0], [10.0], [10.0]]), np.array([1.0, 1.0, 2.0]), np.array([10.0]))

    assert shares[:, 0].tolist() == [1.0, 3.0, 6.0]


def test_nobody_is_owed_more_than_it_asks_for():
    shares = max_min_shares(np.array([[1.0, 0.0], [2.0, 0.0]]), np.ones(2), np.array([10.0, 10.0]))

    assert shares.T.tolist() == [[1.0, 2.0], [0.0, 0.0]]


def test_jains_index_is_one_of_equals_and_an_nth_of_one_who_has_all():
    assert jain_index(np.array([0.3, 0.3, 0.3])) == pytest.approx(1.0)
    assert jain_index(np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert jain_index(np.array([np.nan, 0.5, 0.5])) == pytest.approx(1.0)
