"""scripts/slurm_cluster.py: what it starts works, what it stops is gone, and it removes nothing that is not its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from live.scripts import SCRIPTS, script

from .cluster import why_not


def run(*argv: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPTS / "slurm_cluster.py"), *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_folder_that_is_no_cluster_is_neither_used_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    for verb in ("start", "stop") if why_not() is None else ("stop",):
        refused = run(verb, str(tmp_path))
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and str(tmp_path) in refused.stderr
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_cluster_is_up_with_one_command_and_gone_with_another(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    where = tmp_path / "cluster"
    started = run("start", str(where), "--nodes", "2", "--gpus", "1", "--prefix", "script")
    assert started.stdout == f"export SLURM_CONF={where}/slurm.conf\n", started.stderr
    cluster = script("slurm_cluster").SmallCluster(where, nodes=2, prefix="script")
    try:
        assert cluster.run("sinfo", "-h", "-N", "-o", "%N %T %G").splitlines() == ["script1 idle gpu:v100:1", "script2 idle gpu:v100:1"]
        cluster.run("sbatch", "--output=/dev/null", "--wrap=sleep 100")
        assert run("start", str(where)).returncode == 1
    finally:
        assert run("stop", str(where)).returncode == 0
    assert not where.exists() and not cluster.left()
