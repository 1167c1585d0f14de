"""`--cluster`: spec strings, which of the three forms a text is, and what bad input gets."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainmaster.cluster.cluster import Node
from trainmaster.cluster.spec import describe, parse_cluster
from trainmaster.errors import ClusterError


def test_a_spec_string_is_nodes_times_gpus_of_a_type():
    cluster = parse_cluster("16x4:v100")

    assert cluster.nodes == (Node(gpus=4, type="v100"),) * 16
    assert cluster.present.all()
    assert cluster.gpus_by_type() == {"v100": 64}


def test_the_type_may_be_left_out():
    assert parse_cluster("64x8").nodes == (Node(gpus=8),) * 64


def test_a_mixed_cluster_keeps_the_order_of_its_parts():
    cluster = parse_cluster("9x4:v100 + 9x4:P100+9x4:k80")

    assert cluster.types == ("v100", "p100", "k80")
    assert [node.type for node in cluster.nodes] == ["v100"] * 9 + ["p100"] * 9 + ["k80"] * 9


def test_types_the_catalogue_knows_are_renamed_and_others_are_not():
    assert parse_cluster("2x8:Tesla V100-SXM2-32GB+3x8:dgx-ext").types == ("v100-32gb", "dgx-ext")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("16y4", '--cluster: "16y4" is not NODESxGPUS[:TYPE], nor a file; e.g. 16x4:v100'),
        ("9x4:v100+9z4", '--cluster: "9z4" is not NODESxGPUS[:TYPE], nor a file; e.g. 16x4:v100'),
        ("", '--cluster: "" is not NODESxGPUS[:TYPE], nor a file; e.g. 16x4:v100'),
        ("0x4", '--cluster: "0x4" has no nodes; e.g. 16x4:v100'),
        ("4x0:t4", '--cluster: "4x0:t4" has no GPUs; e.g. 16x4:v100'),
        ("9999999x8", '--cluster: "9999999x8": 9,999,999 nodes; at most 1,000,000 can be simulated'),
        ("1000x99999", '--cluster: "1000x99999": 99,999,000 GPUs; at most 10,000,000 can be simulated'),
        ("2x4:", '--cluster: "2x4:": an empty name; give a plain one'),
        ("venus.yaml", '--cluster: "venus.yaml": no such file; give its path, or a spec such as 16x4:v100'),
        ("64x8\0", '--cluster: "64x8\\u0000" is not NODESxGPUS[:TYPE], nor a file; e.g. 16x4:v100'),
    ],
)
def test_a_spec_with_a_slip_is_refused_in_one_line(spec, message):
    with pytest.raises(ClusterError) as refused:
        parse_cluster(spec)

    assert str(refused.value) == message


TYPES = st.sampled_from(["", "v100", "a100-80gb", "dgx-ext", "MISC"])


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 64), TYPES), min_size=1))
def test_spec_strings_round_trip(parts):
    cluster = parse_cluster("+".join(f"{count}x{gpus}{':' if name else ''}{name}" for count, gpus, name in parts))

    assert cluster.nodes == tuple(Node(gpus=gpus, type=name) for count, gpus, name in parts for _ in range(count))


NEARLY = st.text(alphabet="0123456789xX:+v\n \t[]{}-,'\"#&*!|>%@=~.nodesgpuqtimlcrk", max_size=80)
NOISE = st.one_of(st.text(), NEARLY, NEARLY.map("nodes: ".__add__), NEARLY.map("NodeName=n1 Gres=gpu:".__add__))


@given(NOISE)
@example("\ud800\n")
@example("\n" + "[" * 100_000)
@example("nodes: &a [*a, *a]")
def test_any_text_gives_a_cluster_or_one_line(text):
    try:
        cluster = parse_cluster(text)
    except ClusterError as refused:
        assert str(refused).isprintable()
    else:
        assert len(cluster.nodes) == len(cluster.present) > 0


@given(st.binary())
def test_any_file_gives_a_cluster_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("noise") / "cluster"
    path.write_bytes(content)
    try:
        parse_cluster(path)
    except ClusterError as refused:
        assert str(refused).isprintable()


def test_a_path_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(ClusterError, match=r"is a directory; give a spec such as 16x4:v100 or a readable file$"):
        parse_cluster(str(tmp_path))


def test_a_file_of_bytes_is_no_text(tmp_path):
    path = tmp_path / "noise.yaml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ClusterError, match=r"noise\.yaml: not UTF-8 text"):
        parse_cluster(path)


def test_the_form_of_a_file_is_told_by_its_content(tmp_path):
    listing, description = tmp_path / "one", tmp_path / "two"
    listing.write_text("NodeName=n1 CPUTot=8 Gres=gpu:a100:4 State=IDLE\n")
    description.write_text("nodes: [{gpus: 4, type: a100}]\n")

    assert parse_cluster(listing).gpus_by_type() == parse_cluster(str(description)).gpus_by_type() == {"a100": 4}


def test_a_cluster_describes_itself_in_a_line():
    assert describe(parse_cluster("64x8:v100")) == "64 nodes, 512 GPUs (v100: 512)"
    assert describe(parse_cluster("1x1")) == "1 node, 1 GPU"
    assert describe(parse_cluster("250x8:t4+1x4")) == "251 nodes, 2,004 GPUs (t4: 2,000, untyped: 4)"
    loaned = parse_cluster("nodes: [{gpus: 8, count: 2}]\ntimeline: [{at_s: 60, add: {gpus: 8}}]")
    assert describe(loaned) == "2 nodes, 16 GPUs, 1 node joining later"
    np.testing.assert_array_equal(loaned.present, [True, True, False])
