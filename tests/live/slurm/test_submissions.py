"""What an attempt becomes before sbatch is called: which Slurm jobs, on which nodes, with which amounts, in which partition."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest

from trainmaster.errors import InputError
from trainmaster.live.backends.base import Attempt, NodeShare
from trainmaster.live.backends.slurm import SlurmBackend
from trainmaster.live.settings import Settings
from trainmaster.live.spec import JobSpec
from trainmaster.live.up import backend_of

NODES = """\
NodeName=a1 CPUTot=16 Gres=gpu:A100:4 NodeAddr=10.0.0.1 State=IDLE Partitions=main,big
NodeName=a2 CPUTot=16 Gres=gpu:A100:4 NodeAddr=10.0.0.2 State=IDLE Partitions=main
NodeName=b1 CPUTot=16 Gres=gpu:A100:2,gpu:V100:2 State=IDLE Partitions=old
NodeName=c1 CPUTot=16 Gres=gpu:A100:4 State=IDLE Partitions=old
"""
PARTITIONS = """\
PartitionName=big Default=NO State=UP
PartitionName=main Default=YES State=UP
PartitionName=old Default=NO State=UP
PartitionName=down Default=NO State=DOWN
"""


@pytest.fixture
def backend(tmp_path: Path) -> SlurmBackend:
    made = SlurmBackend(tmp_path)
    made._site = "0123abcd"
    made._take({"nodes": NODES, "partitions": PARTITIONS})
    return made


def submissions(backend: SlurmBackend, *shares: NodeShare, queue: str | None = None, **spec: Any) -> list[Any]:
    whole = JobSpec(command=("true",), gpus=sum(share.gpus for share in shares), cpus=1, **spec)
    attempt = Attempt(job=7, attempt=2, name="net", user=getpass.getuser(), spec=whole, shares=shares, queue=queue)
    return backend._submissions(attempt)[1]


def on(node: str, gpus: float, **more: float) -> NodeShare:
    return NodeShare(node=node, gpus=gpus, **more)


def test_an_even_gang_is_one_slurm_job_and_an_uneven_one_is_one_for_each_amount(backend: SlurmBackend) -> None:
    (even,) = submissions(backend, on("a1", 4), on("a2", 4))
    assert (even.name, even.nodes, even.gpus) == ("tm-0123abcd-7.2.0-net", ("a1", "a2"), "4")
    four, two = submissions(backend, on("a2", 4), on("a1", 2))
    assert [(one.name, one.nodes, one.gpus) for one in (four, two)] == [
        ("tm-0123abcd-7.2.0-net", ("a2",), "4"), ("tm-0123abcd-7.2.1-net", ("a1",), "2"),
    ]  # fmt: skip


def test_cpus_memory_and_limit_are_passed_on_where_a_job_gives_them(backend: SlurmBackend) -> None:
    (bare,) = submissions(backend, on("a1", 1))
    assert (bare.cpus, bare.memory_mib, bare.limit_min) == (0, 0, None)
    (full,) = submissions(backend, on("a1", 1, cpus=2.5, memory_gib=1.5), limit_s=90, grace_s=31)
    assert (full.cpus, full.memory_mib, full.limit_min) == (3, 1536, 4)  # 121 s, so 3 minutes, and one as a net


def test_a_node_of_two_gpu_types_is_asked_for_by_type_as_slurm_spells_it(backend: SlurmBackend) -> None:
    (one,) = submissions(backend, on("b1/v100", 2))
    assert (one.nodes, one.gpus) == (("b1",), "V100:2")


def test_the_partition_is_that_of_the_queues_name_else_the_default_else_one_that_holds_the_nodes(backend: SlurmBackend) -> None:
    assert submissions(backend, on("a1", 1), queue="big")[0].partition == "big"
    assert submissions(backend, on("a1", 1), queue="research")[0].partition == "main"
    assert submissions(backend, on("a1", 1), on("a2", 1), queue="big")[0].partition == "main"  # a2 is not in big
    assert submissions(backend, on("b1/a100", 1))[0].partition == "old"


def test_what_slurm_cannot_give_is_said(backend: SlurmBackend) -> None:
    for shares, words in (((on("a1", 5),), "4 GPUs free"), ((on("a1", 0.5),), "whole GPUs"), ((on("c9", 1),), "no node c9")):
        with pytest.raises(InputError, match=words):
            submissions(backend, *shares)
    with pytest.raises(InputError, match="no partition"):
        submissions(backend, on("a1", 1), on("c1", 1))


def test_a_node_that_waits_for_its_registration_after_a_restart_of_slurmctld_is_what_it_was(backend: SlurmBackend) -> None:
    unknown = NODES.replace("NodeAddr=10.0.0.1 State=IDLE", "NodeAddr=10.0.0.1 State=UNKNOWN")
    backend._take({"nodes": unknown, "partitions": PARTITIONS})
    assert backend._inventory["a1"].up
    backend._take({"nodes": unknown.replace("UNKNOWN", "DOWN*"), "partitions": PARTITIONS})
    assert (backend._inventory["a1"].up, backend._inventory["a1"].reason) == (False, "Slurm: DOWN*")


def test_others_are_believed_when_seen_twice(backend: SlurmBackend) -> None:
    used = NODES.replace("NodeAddr=10.0.0.2", "GresUsed=gpu:A100:3(IDX:0-2)")
    seen = []
    for text in (used, used, NODES, NODES):
        backend._take({"nodes": text, "partitions": PARTITIONS})
        seen.append(backend._inventory["a2"].others_gpus)
    assert seen == [0, 3, 3, 0]


def test_gpus_that_slurm_counts_as_used_on_an_idle_node_are_nobodys_and_the_node_says_what_helps(backend: SlurmBackend) -> None:
    reasons = []
    for state in ("IDLE", "IDLE", "MIXED", "MIXED"):
        used = NODES.replace("NodeAddr=10.0.0.1 State=IDLE", f"NodeAddr=10.0.0.1 GresUsed=gpu:A100:3(IDX:0-2) State={state}")
        backend._take({"nodes": used, "partitions": PARTITIONS})
        reasons.append(backend._inventory["a1"].reason)
    assert ["scontrol reconfigure" in reason for reason in reasons] == [False, True, False, False]


def test_a_look_that_hung_does_not_put_off_the_next_one_for_long(backend: SlurmBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]

    def hangs() -> list[Any]:
        now_s[0] += 60.0
        return []

    monkeypatch.setattr("trainmaster.live.backends.slurm.time.monotonic", lambda: now_s[0])
    monkeypatch.setattr(backend.slurm, "jobs", hangs)
    monkeypatch.setattr(backend, "_look_at_nodes", lambda: None)
    backend._look()
    assert 160.0 < backend._look_s <= 170.0


def test_flags_of_other_backends_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SLURM_CONF"):
        backend_of(Settings(state=tmp_path, backend="slurm", slots=4))


def test_a_limit_as_long_as_its_partition_allows_is_not_made_longer(backend: SlurmBackend) -> None:
    """Who asks for just that much would be refused by sbatch, or wait for ever."""
    backend._take({"nodes": NODES, "partitions": PARTITIONS.replace("PartitionName=main", "PartitionName=main MaxTime=1-00:00:00")})
    day_s = 24 * 3_600.0
    assert [submissions(backend, on("a2", 1), limit_s=limit_s)[0].limit_min for limit_s in (3_600.0, day_s, 2 * day_s)] == [62, 1440, 2880]
    assert submissions(backend, on("a2", 1))[0].limit_min is None


def test_a_node_that_slurm_names_no_more_is_refused(backend: SlurmBackend) -> None:
    """It may have been chosen a moment before it went."""
    backend._take({"nodes": NODES.partition("NodeName=a2")[0], "partitions": PARTITIONS})
    with pytest.raises(InputError, match="Slurm has no node a2"):
        submissions(backend, on("a2", 1))
