"""Shadow mode against the real Slurm: what squeue and scontrol really print, and what an ordinary user really does not see."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from live.scripts import script
from live.slurm.cluster import why_not
from trainmaster.api.shadow.replay import Question
from trainmaster.api.shadow.run import Shadow
from trainmaster.cluster.seen import node_names

from .accounting import accounted, missing

SOURCE = Path(__file__).parents[3] / "src"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
SEEN = """
import json
from trainmaster.api.shadow.present import Present, visibility
from trainmaster.cluster.scontrol import nodes_listed
from trainmaster.live.backends.slurm_history import of_squeue
from trainmaster.live.backends.slurm_reading import Reading
reading = Reading()
present = Present.of(nodes_listed(reading.nodes(), "nodes"), of_squeue(reading.queue()))
print(json.dumps([present.used_gpus, present.seen_gpus, *visibility(reading.site(), present)]))
"""


def until(done, within_s=60):
    ends_s = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < ends_s
        time.sleep(0.2)


def submitted(slurm, *options, seconds):
    return int(slurm.run("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap=sleep {seconds}").strip())


def test_a_shadow_sees_what_slurm_does_and_reports_on_it(slurm, tmp_path):
    shadow = Shadow(tmp_path / "shadow", Question(policies=((None, "recorded"), (None, "fifo"))))
    shadow.begin()
    short = submitted(slurm, "--gres=gpu:2", "--job-name=a|b\tc", seconds=1)
    whole = submitted(slurm, "--gpus=8", "--nodes=2", "--time=5", seconds=120)
    try:
        until(lambda: slurm.run("squeue", "-h", "-j", str(whole), "-t", "RUNNING", "-o", "%M").strip() not in ("", "0:00"))
        typed = submitted(slurm, "--ntasks=2", "--gpus-per-task=v100:1", "--array=0-1", seconds=60)

        shadow.look()
        report = shadow.report()

        rows = {row.id: row for row in shadow.history.trace().rows}
        assert (rows[short].state, rows[short].gpus) == ("COMPLETED", 2)
        assert 1 <= rows[short].end_s - rows[short].start_s <= 4
        assert (rows[whole].state, rows[whole].gpus, node_names(rows[whole].node_list)) == ("SEEN", 8, slurm.names)
        assert (shadow.present.used_gpus, shadow.present.seen_gpus, shadow.present.hidden_gpus) == (8, 8, 0)
        assert (shadow.present.waiting, shadow.present.wanted_gpus, shadow.present.unreadable) == (2, 4, 0)
        assert typed not in rows
        assert {one["label"]: one["finished"] for one in report.summaries} == {"recorded": 2, "fifo": 2}
        assert any("nothing about jobs is hidden; every GPU in use" in note for note in report.notes)
    finally:
        slurm.run("scancel", f"--user={os.getuid()}")
        until(lambda: not slurm.run("squeue", "-h").strip())


@pytest.fixture
def private_slurm():
    """PrivateData=jobs, below a folder that everybody may read."""
    if reason := why_not():
        pytest.skip(reason)
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv, which runs a command as another user, is not installed")
    folder = Path(tempfile.mkdtemp(prefix="trainmaster-"))
    folder.chmod(0o755)
    conf, module = script("slurm_cluster").CONF, script("slurm_cluster")
    module.CONF = conf + "PrivateData=jobs\n"
    cluster = module.SmallCluster(folder / "slurm", nodes=1, gpus=4)
    try:
        cluster.start()
        yield cluster
    finally:
        module.CONF = conf
        cluster.stop()
        shutil.rmtree(folder)


def test_an_ordinary_user_is_told_what_private_data_hides_and_imports_what_is_left(private_slurm):
    environment = {**private_slurm.env, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}

    def as_nobody(*argv):
        return subprocess.run([*NOBODY, sys.executable, *argv], env=environment, cwd="/", capture_output=True, text=True, check=False)

    if as_nobody("-c", "import trainmaster.live.backends.slurm_reading").returncode:
        pytest.skip("an ordinary user cannot read this Python or this checkout")
    submitted(private_slurm, "--gres=gpu:3", seconds=60)
    until(lambda: private_slurm.run("squeue", "-h", "-o", "%T").strip() == "RUNNING")

    used, seen, said = json.loads(as_nobody("-c", SEEN).stdout)
    answer = as_nobody("-m", "trainmaster.cli.main", "import", "--from", "slurm")

    assert (used, seen) == (3, 0)
    assert said.startswith("PrivateData=jobs hides the jobs of others: 3 of 3 GPUs in use are held by jobs that you cannot see")
    assert (answer.returncode, answer.stdout) == (2, "") and "somebody who may see all jobs" in answer.stderr
    assert os.getuid() == 0  # who submitted it sees it
    assert json.loads(subprocess.run([sys.executable, "-c", SEEN], env=environment, capture_output=True, check=True).stdout)[1] == 3


@pytest.fixture
def accounted_slurm(tmp_path, monkeypatch):
    if reason := why_not():
        pytest.skip(reason)
    if absent := missing():
        pytest.skip(f"{', '.join(absent)} not installed: accounting needs slurmdbd and mariadb-server")
    cluster = accounted(tmp_path / "slurm")
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.mark.slow
def test_real_accounting_is_the_history(accounted_slurm, tmp_path):
    """`short` fails, `long` runs on, `held` waits for its GPUs."""
    short = submitted(accounted_slurm, "--gres=gpu:v100:4", "--time=2", seconds="1; exit 3")
    long = submitted(accounted_slurm, "--gpus=6", "--nodes=2", "--time=5", seconds=300)
    until(lambda: accounted_slurm.run("squeue", "-h", "-j", str(long), "-t", "RUNNING", "-o", "%M").strip() not in ("", "0:00"))
    submitted(accounted_slurm, "--gres=gpu:4", seconds=1)
    shadow = Shadow(tmp_path / "shadow", Question(policies=((None, "recorded"), (None, "easy-backfill"))))

    def accounts():
        shadow.look_back()
        shadow.look()
        rows = {row.id: row for row in shadow.history.trace().rows}
        return short in rows and long in rows and rows[short].state == "FAILED" and shadow.present.waiting == 1

    shadow.begin()
    until(accounts)
    report = shadow.report()

    rows = {row.id: row for row in shadow.history.trace().rows}
    assert (rows[short].gpus, rows[long].gpus, rows[long].state) == (4, 6, "SEEN")
    assert (shadow.present.used_gpus, shadow.present.hidden_gpus, shadow.present.unreadable, shadow.history.unreadable) == (6, 0, 0, 0)
    assert {one["label"]: one["finished"] for one in report.summaries} == {"recorded": 2, "easy-backfill": 2}
    assert report.notes[0].startswith("the last 14 d, by accounting")
