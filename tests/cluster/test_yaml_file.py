"""The YAML form of a cluster: every field, the timeline by hand, and one line for every slip."""

import os
from pathlib import Path

import pytest
import yaml

from trainmaster.cluster.cluster import CapacityChange, Node, QueueSpec
from trainmaster.cluster.spec import parse_cluster
from trainmaster.errors import ClusterError

REFERENCE_CLUSTERS = Path(os.environ.get("TRAINMASTER_DATA", "/nonexistent")).parent / "reference" / "clusters"


@pytest.mark.skipif(not REFERENCE_CLUSTERS.is_dir(), reason="TRAINMASTER_DATA has no ../reference/clusters")
@pytest.mark.parametrize(("name", "nodes", "gpus"), [("pai250", 1, 250), ("synergy128", 16, 128), ("venus", 135, 1080)])
def test_the_reference_clusters_have_their_published_size(name, nodes, gpus):
    cluster = parse_cluster(REFERENCE_CLUSTERS / f"{name}.yaml")

    assert (len(cluster.nodes), cluster.gpus) == (nodes, gpus)


def test_every_field_of_a_node():
    cluster = parse_cluster("""
nodes:
  - {gpus: 8, type: V100-SXM2-32GB, cpus: 64, memory_gib: 512, rack: r1, queues: [a, b], label: own, name: n1, island_gpus: 4}
  - {count: 2, gpus: 4, queue: a, pooled: true}
  - {gpus: 0, cpus: 2.5}
""")

    assert cluster.nodes == (
        Node(gpus=8, type="v100-32gb", cpus=64, memory_gib=512, rack="r1", queues=("a", "b"), label="own", name="n1", island_gpus=4),
        Node(gpus=4, queues=("a",), pooled=True),
        Node(gpus=4, queues=("a",), pooled=True),
        Node(gpus=0, cpus=2.5),
    )


def test_queues_have_quotas_weights_and_may_borrow():
    cluster = parse_cluster("""
nodes: [{count: 16, gpus: 8}]
queues:
  research: {quota_gpus: 64, weight: 2, borrow: true}
  students:
""")

    assert cluster.queues == {"research": QueueSpec(quota_gpus=64, weight=2, borrow=True), "students": QueueSpec()}


def test_names_that_yaml_would_turn_into_other_things_stay_names():
    cluster = parse_cluster("nodes: [{gpus: 1, queues: [no, 012, 1e3, '~'], rack: 7}]")

    assert cluster.nodes[0].queues == ("no", "012", "1e3", "~")
    assert cluster.nodes[0].rack == "7"


def test_loaned_nodes_leave_last_first():
    cluster = parse_cluster("""
nodes:
  - {gpus: 8, label: loaned}
  - {gpus: 8}
timeline:
  - {at_s: 7200, remove: {count: 2, label: loaned}}
  - {at_s: 3600, add: {count: 2, gpus: 4, type: t4, label: loaned}}
  - {at_s: 9000, remove: {count: 1, label: loaned}, add: {gpus: 2, label: loaned}}
  - {at_s: 9000, remove: {count: 1, label: loaned}}
""")

    assert [node.gpus for node in cluster.nodes] == [8, 8, 4, 4, 2]
    assert cluster.present.tolist() == [True, True, False, False, False]
    assert cluster.timeline == (
        CapacityChange(at_s=3600, add=(2, 3)),
        CapacityChange(at_s=7200, remove=(3, 2)),
        CapacityChange(at_s=9000, remove=(0,), add=(4,)),
        CapacityChange(at_s=9000, remove=(4,)),
    )
    assert cluster.gpus == 16  # at the start


SLIPS = [  # content, then the message after its `--cluster:`
    ("nodes: [{count: 2, gpu: 4}]", '1: nodes[0].gpu: no such field; did you mean "gpus"?'),
    ("node: [{count: 2, gpus: 4}]\n", '1: node: no such field; did you mean "nodes"?'),
    ("nodes:\n - {gpus: 4}\n - {gpus: four}", '3: nodes[1].gpus: "four" is not a whole number; e.g. gpus: 4'),
    ("nodes: [{count: 2}]", "1: nodes[0].gpus: is missing; e.g. gpus: 4"),
    ("nodes: [{gpus: -1}]", '1: nodes[0].gpus: "-1" is out of range; give 0 to 10,000,000'),
    ("nodes: [{gpus: 4, count: 0}]", '1: nodes[0].count: "0" is out of range; give 1 to 1,000,000'),
    ("nodes: [{gpus: 0}]", "1: nodes[0].gpus: a node of no GPUs and no CPUs; e.g. gpus: 8, or cpus: 64 for a CPU node"),
    ("nodes: [{gpus: 4, cpus: .nan}]", '1: nodes[0].cpus: ".nan" is not a number of at least 0; e.g. cpus: 64'),
    ("nodes: [{gpus: 4, island_gpus: 8}]", '1: nodes[0].island_gpus: "8" is out of range; give 1 to 4'),
    ("nodes: [{gpus: 4, pooled: maybe}]", '1: nodes[0].pooled: "maybe" is neither true nor false'),
    ("nodes: [{gpus: 4, queue: a, queues: [b]}]", "1: nodes[0].queue: `queue: x` is short for `queues: [x]`; give one of them"),
    ("nodes: [{gpus: 4, queues: a}]", "1: nodes[0].queues: is a single value; give a list: [...], or lines that begin with `- `"),
    ("nodes: [{gpus: 4, queues: []}]", "1: nodes[0].queues: is empty; leave it out if any job may run here"),
    ("nodes: [{gpus: [4]}]", "1: nodes[0].gpus: is a list; give one name"),
    ("nodes: [{gpus: 4, count: 2, name: n}]", "1: nodes[0].name: 2 nodes of one name; give each its own entry, or use `label`"),
    ("nodes: [{gpus: 4, name: n}, {gpus: 4, name: n}]", '1: nodes[1].name: "n" is the name of an earlier node; names are unique'),
    ("nodes: [{gpus: 4, gpus: 8}]", '1: "gpus" is given twice; keep one'),
    ("nodes: []", "1: nodes: no nodes; e.g. nodes: [{count: 16, gpus: 4, type: v100}]"),
    (
        "nodes: [4x8]",
        "1: nodes[0]: is a single value, not a mapping; its fields are count, gpus, type, cpus, memory_gib, rack, queue, queues"
        ", pooled, label, name, island_gpus",
    ),
    (
        "nodes: [{gpus: 9, count: 900000}, {gpus: 9, count: 900000}]",
        "1: nodes[1].count: 1,800,000 nodes; at most 1,000,000 can be simulated",
    ),
    (
        "nodes: [{gpus: 4}]\nqueues: {a: {weight: 0}}",
        "2: queues.a.weight: a weight of 0 is no share; give a number above 0, e.g. weight: 1",
    ),
    ("nodes: [{gpus: 4}]\ntimeline: [{add: {gpus: 4}}]", "2: timeline[0].at_s: is missing; e.g. at_s: 3600"),
    (
        "nodes: [{gpus: 4}]\ntimeline: [{at_s: 1}]",
        "2: timeline[0].at_s: neither `add` nor `remove`; e.g. add: {count: 4, gpus: 8, label: loaned}",
    ),
    (
        "nodes: [{gpus: 4, label: x}]\ntimeline: [{at_s: 60, remove: {count: 2, label: x}}]",
        '2: timeline[0].remove.count: to remove 2, but nodes labelled "x" present at 60 s: 1',
    ),
    (
        "nodes: [{gpus: 4, label: loaned}]\ntimeline: [{at_s: 60, remove: {count: 1, label: loand}}]",
        '2: timeline[0].remove.count: to remove 1, but nodes labelled "loand" present at 60 s: 0; did you mean "loaned"?',
    ),
    (
        "nodes: [{gpus: 4}]\ntimeline: [{at_s: 60, remove: {count: 1}}]",
        "2: timeline[0].remove.label: is missing; give the nodes that may leave a label, and name it here",
    ),
    ("nodes: &all [*all]", "1: anchors, aliases and tags are not read here; write the value out"),
    ("nodes: !!python/object:os.system x", "1: anchors, aliases and tags are not read here; write the value out"),
    ("nodes: [{gpus: 4}]\n---\nnodes: []", "2: a second document; a cluster is one"),
]


@pytest.mark.parametrize(("text", "message"), SLIPS)
def test_a_slip_is_named_with_its_line_and_field(text, message):
    with pytest.raises(ClusterError) as refused:
        parse_cluster(text)

    assert str(refused.value) == f"--cluster:{message}"


def test_a_file_that_is_no_cluster_says_what_one_is(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text("job_id,gpus\n1,4\n")

    with pytest.raises(ClusterError, match=r"jobs\.csv:1: is a single value, not a mapping; give a YAML file with `nodes:`"):
        parse_cluster(path)


def test_the_pure_python_parser_reads_the_same(monkeypatch):
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)

    assert parse_cluster("nodes: [{gpus: 4, queues: [a, no]}]\nqueues: {a: }").queues == {"a": QueueSpec()}
    with pytest.raises(ClusterError, match="nested deeper than a cluster is"):
        parse_cluster("nodes: " + "[" * 50_000)
