"""The cluster that a log's jobs were seen on."""

import pytest

from trainmaster.cluster.seen import cluster_seen, node_names
from trainmaster.workload.traces import load_trace


@pytest.mark.parametrize(("text", "names"), [
    ("gpu1", ["gpu1"]),
    ("gpu[08-10]", ["gpu08", "gpu09", "gpu10"]),
    ("gpu[1,3-4]-ib,login", ["gpu1-ib", "gpu3-ib", "gpu4-ib", "login"]),
    ("rack[1-2]n[1-2],a[01]b", ["rack1n1", "rack1n2", "rack2n1", "rack2n2", "a01b"]),
    ("", []),
    ("gpu[1-", []),
    ("gpu[" + "9" * 5_000 + "-1]", []),
    ("a[0-9999]b[0-9999]", []),
    ("gpu[1-x]", []),
    ("gpu[1-999999999]", []),
])  # fmt: skip
def test_host_lists_are_expanded(text, names):
    assert node_names(text) == names


def test_a_node_has_as_many_gpus_as_its_jobs_held_at_once():
    """Two jobs of 2 GPUs overlap on a; the gang of 8 takes 4 on each of two nodes; what ends at 10 is gone at 10."""
    seen = cluster_seen(["a", "a", "b[1-2]", "a"], [2, 2, 8, 3], ["a100", None, "a100", None], [0, 5, 0, 10], [10, 10, 7, 20])

    assert seen is not None
    assert [(node.name, node.gpus) for node in seen.nodes] == [("a", 4), ("b1", 4), ("b2", 4)]


def test_nothing_seen_is_no_cluster():
    assert cluster_seen([""], [0], [None], [0], [1]) is None


def test_a_slurm_log_brings_its_cluster(tmp_path):
    log = tmp_path / "sacct.txt"
    log.write_text(
        "JobIDRaw|Submit|Start|End|State|NodeList|AllocTRES\n"
        "1|2024-03-01T00:00:00|2024-03-01T00:00:10|2024-03-01T01:00:00|COMPLETED|gpu[01-02]|cpu=64,gres/gpu=16,gres/gpu:a100=16\n"
        "2|2024-03-01T00:05:00|2024-03-01T02:00:00|2024-03-01T03:00:00|COMPLETED|gpu01|cpu=4,gres/gpu=1,gres/gpu:a100=1\n"
    )

    trace = load_trace(log)

    assert trace.cluster is not None
    assert [(node.name, node.gpus, node.type) for node in trace.cluster.nodes] == [("gpu01", 8, "a100"), ("gpu02", 8, "a100")]
    assert "2 nodes, 16 GPUs" in trace.cluster_note
