"""`scontrol show node -o`, as Slurm 22.05 printed it (shortened where three dots stand), and what becomes of it."""

import pytest

from trainmaster.cluster.spec import describe, parse_cluster
from trainmaster.errors import ClusterError

DRAINED = (
    "NodeName=n1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=8 CPUTot=8 CPULoad=0.21 AvailableFeatures=(null) ActiveFeatures=(null) "
    "Gres=gpu:v100:8 NodeAddr=127.0.0.1 NodeHostName=localhost Port=27001 Version=22.05.8 OS=Linux 6.1.0 #1 SMP PREEMPT_DYNAMIC @0  "
    "RealMemory=4000 AllocMem=0 FreeMem=23423 Sockets=8 Boards=1 State=IDLE+DRAIN ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A "
    "MCS_label=N/A Partitions=main,gpu  BootTime=2026-11-24T00:08:18 SlurmdStartTime=2026-11-24T00:28:58 "
    "LastBusyTime=2026-11-24T00:28:58 CfgTRES=cpu=8,mem=4000M,billing=8 AllocTRES= CapWatts=n/a CurrentWatts=0 AveWatts=0 "
    'ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s Reason=bad GPU Gres=gpu:9 it\'s "hot [root@2026-11-24T00:29:01]\n'
)
MIXED_TYPES = DRAINED.replace("n1", "n2").replace("gpu:v100:8", "gpu:v100:6(S:0,2),gpu:k80:2(S:1),mps:800").replace("IDLE+DRAIN", "MIXED")
UNTYPED = DRAINED.replace("n1", "n3").replace("gpu:v100:8", "gpu:8").replace("RealMemory=4000", "RealMemory=1").replace("+DRAIN", "")
UNKNOWN = DRAINED.replace("n1", "n4").replace("Gres=gpu:v100:8", "Gres=(null)").replace("IDLE+DRAIN", "UNKNOWN")
UP = DRAINED.replace("+DRAIN", "")

GIVE = "give the output of one `scontrol show node -o`"


def test_nodes_that_slurm_gives_no_job_are_left_out_and_counted():
    cluster = parse_cluster(DRAINED + UNTYPED + UNKNOWN + UP.replace("n1", "n5").replace("IDLE", "DOWN*+DRAIN"))

    assert [node.name for node in cluster.nodes] == ["n3"]
    assert cluster.left_out == {"draining": 1, "down": 2}
    assert describe(cluster) == "1 node, 8 GPUs; left out: 1 node draining, 2 nodes down"


@pytest.mark.parametrize("state", ["IDLE", "MIXED", "ALLOCATED+CLOUD", "IDLE+CLOUD+POWERED_DOWN", "IDLE~", "MIXED+PLANNED", "RESERVED"])
def test_nodes_that_could_run_a_job_stay(state):
    assert len(parse_cluster(UP.replace("State=IDLE", f"State={state}")).nodes) == 1


@pytest.mark.parametrize("state", ["DOWN", "DOWN*", "IDLE*", "MIXED+DRAIN", "IDLE+DRAIN+NOT_RESPONDING", "FAIL", "FUTURE", "UNKNOWN*"])
def test_nodes_that_could_not_do_not(state):
    with pytest.raises(ClusterError, match=r"--cluster: no node can run a job \(1 \w+\)"):
        parse_cluster(UP.replace("State=IDLE", f"State={state}"))


def test_a_node_of_two_types_is_a_row_a_type_with_its_share():
    cluster = parse_cluster(MIXED_TYPES)

    assert [(node.name, node.type, node.gpus, node.cpus) for node in cluster.nodes] == [("n2/v100", "v100", 6, 6), ("n2/k80", "k80", 2, 2)]
    assert sum(node.memory_gib for node in cluster.nodes) == 4000 / 1024


def test_memory_that_was_never_configured_is_not_declared():
    assert parse_cluster(UNTYPED).nodes[0].memory_gib is None
    assert parse_cluster(UP).nodes[0].memory_gib == 4000 / 1024
    assert parse_cluster(UP.replace("Boards=1", "Boards=1 MemSpecLimit=928")).nodes[0].memory_gib == 3


def test_cpus_kept_for_the_system_are_not_counted():
    assert parse_cluster(UP.replace("CPUEfctv=8", "CPUEfctv=6")).nodes[0].cpus == 6
    assert parse_cluster(UP.replace("CPUEfctv=8 ", "")).nodes[0].cpus == 8


@pytest.mark.parametrize(
    ("gres", "type_name", "gpus"),
    [
        ("gpu:a100:4(S:0-1)", "a100", 4),
        ("gpu:nvidia_a100-sxm4-80gb:8(S:0-1)", "a100-80gb", 8),
        ("gpu:4", "", 4),
        ("gpu", "", 1),
        ("gpu:h100", "h100", 1),
        ("gpu:v100:no_consume:4", "v100", 4),
        ("craynetwork:4,gpu:rtx:2,shard:16", "rtx", 2),
        ("(null)", "", 0),
    ],
)
def test_gres_gives_type_and_count(gres, type_name, gpus):
    node = parse_cluster(UP.replace("gpu:v100:8", gres)).nodes[0]

    assert (node.type, node.gpus) == (type_name, gpus)


def test_partitions_that_all_nodes_share_are_one_pool():
    assert {node.queues for node in parse_cluster(UP + UNTYPED).nodes} == {()}


def test_partitions_that_differ_become_queues_and_a_node_in_none_is_left_out():
    debug, nowhere = UNTYPED.replace("Partitions=main,gpu", "Partitions=main"), MIXED_TYPES.replace("Partitions=main,gpu ", "")

    cluster = parse_cluster(UP + debug + nowhere)

    assert [node.queues for node in cluster.nodes] == [("main", "gpu"), ("main",)]
    assert cluster.left_out == {"in no partition": 1}


def test_the_listing_without_o_is_the_same():
    spread = UP.replace(" RealMemory", "\n   RealMemory").replace(" Partitions", "\n   Partitions") + "\n"

    assert parse_cluster(spread).nodes == parse_cluster(UP).nodes


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (UP + UP, '--cluster:2: NodeName: "n1" is listed twice; ' + GIVE),
        (UP.replace("v100:8", "v100:x"), '--cluster:1: Gres: "gpu:v100:x" is not gpu[:TYPE]:COUNT; ' + GIVE),
        (UP.replace("CPUEfctv=8", "CPUEfctv=-8"), '--cluster:1: CPUEfctv: "-8" is not a whole number; ' + GIVE),
        ("NodeName=n1", '--cluster:1: NodeName: "n1" has neither CPUs nor GPUs; ' + GIVE),
        ("NodeName=\n", "--cluster:1: NodeName: an empty name; give a plain one"),
    ],
)
def test_a_listing_that_cannot_be_read_is_refused_in_one_line(listing, message):
    with pytest.raises(ClusterError) as refused:
        parse_cluster(listing)

    assert str(refused.value) == message
