"""Thirty-two nodes of the real Slurm: all are seen, a gang lies over many, and a crowd of jobs comes to its end."""

import getpass
from dataclasses import replace
from pathlib import Path

import pytest

from live.backends.harness import Harness
from live.scripts import script
from trainmaster.live.backends.base import NodeShare, Seen
from trainmaster.live.backends.slurm import SlurmBackend

from .cluster import why_not


@pytest.mark.slow
def test_thirty_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := why_not():
        pytest.skip(reason)
    slurm = script("slurm_cluster").SmallCluster(tmp_path / "slurm", nodes=32, gpus=8, prefix="many")
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    (tmp_path / "work").mkdir()
    slurm.start()
    try:
        cluster = Harness(lambda: SlurmBackend(tmp_path / "state"), tmp_path / "work", user=getpass.getuser())
        nodes = cluster.backend.inventory()
        assert [(node.node.gpus, node.up) for node in nodes] == [(8, True)] * 32
        gang = cluster.start(["sh", "-c", "echo $SLURM_NODEID"], gpus=[8] * 12)
        jobs = [
            replace(cluster.attempt(["sh", "-c", f"exit {number % 5}"]), shares=(NodeShare(node=nodes[12 + number % 20].name, gpus=1),))
            for number in range(64)
        ]
        for attempt in jobs:
            cluster.backend.start(attempt)
        assert cluster.wait_some(lambda: all(one.ended_s is not None for one in cluster.backend.observe()))
        seen = {(one.job, one.attempt): one for one in cluster.backend.observe()}
        assert [(seen[one.job, 1].seen, seen[one.job, 1].exit_code) for one in jobs] == [(Seen.ENDED, number % 5) for number in range(64)]
        assert [cluster.log(gang, str(rank)) for rank in range(12)] == [f"{rank}\n" for rank in range(12)]
        cluster.backend.close()
    finally:
        slurm.stop()
