"""Jobs of libraries that know Slurm and nothing of us: submitit, and Lightning's automatic requeue."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from .cluster import Cluster, needs

needs("submitit", "pytorch_lightning")
pytest.importorskip("cloudpickle").register_pickle_by_value(sys.modules[__name__])  # jobs do not have the tests on their path

LIGHTNING = Path(__file__).parent / "lit_job.py"


@pytest.fixture
def slurm(up: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell in which sbatch and its like are Trainmaster's."""
    folder = tmp_path / "slurm"
    up.call("slurm", "install", str(folder))
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TRAINMASTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{folder}:{up.env['PATH']}")
    monkeypatch.setenv("TRAINMASTER_STATE", str(up.state))
    monkeypatch.chdir(tmp_path)
    return folder


def counted(to: int, folder: str) -> dict[str, str]:
    """What a job of submitit sees."""
    Path(folder, "ran").touch()
    return {"sum": str(sum(range(to))), **{name: os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "CUDA_VISIBLE_DEVICES")}}


class Count:
    """Counts as long as it is let, and goes on where it was."""

    def __init__(self, folder: str) -> None:
        self.folder, self.begun = folder, 0

    def __call__(self) -> int:
        import time

        self.begun += 1
        Path(self.folder, f"begun.{self.begun}").touch()
        while not Path(self.folder, "go").exists():
            time.sleep(0.05)
        return self.begun

    def checkpoint(self):  # as submitit wants it
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def executor(folder: Path, **more: object):
    import submitit

    made = submitit.AutoExecutor(folder=folder / "jobs", cluster="slurm")
    made.update_parameters(timeout_min=10, slurm_gpus_per_node=1, tasks_per_node=1, name="from submitit", **more)
    return made


def test_a_submitit_job_returns_its_result_and_an_array_those_of_its_elements(up: Cluster, slurm: Path, tmp_path: Path) -> None:
    made = executor(tmp_path)
    job = made.submit(counted, 1_000, str(tmp_path))
    result = job.result()
    assert result == {"sum": "499500", "SLURM_JOB_ID": job.job_id, "SLURM_NTASKS": "1", "CUDA_VISIBLE_DEVICES": "0"}
    assert up.job(int(job.job_id))["name"] == "from submitit"
    jobs = made.map_array(counted, [10, 20, 30], [str(tmp_path)] * 3)
    assert [job.result()["sum"] for job in jobs] == ["45", "190", "435"]


def test_a_submitit_job_checkpoints_when_it_is_stopped_for_another_and_goes_on(up: Cluster, slurm: Path, tmp_path: Path) -> None:
    job = executor(tmp_path, slurm_additional_parameters={"requeue": True}).submit(Count(str(tmp_path)))
    id = int(job.job_id)
    up.until(lambda: (tmp_path / "begun.1").exists(), about=id)
    up.succeeded(up.submit("--gpus", "4", "--priority", "10", "--", "true"))
    up.until(lambda: (tmp_path / "begun.2").exists(), about=id)
    (tmp_path / "go").touch()
    assert job.result() == 2, up.tell(id)
    assert (up.job(id)["attempts"], up.job(id)["preemptions"]) == (2, 1), up.tell(id)


@pytest.mark.slow  # submitit reads over SIGTERM: it is killed at the end of its grace
def test_a_submitit_job_is_cancelled(up: Cluster, slurm: Path, tmp_path: Path) -> None:
    job = executor(tmp_path).submit(Count(str(tmp_path)))
    up.until(lambda: (tmp_path / "begun.1").exists(), about=int(job.job_id))
    job.cancel()
    assert up.ended(int(job.job_id))["state"] == "CANCELLED"


REQUEUED = """#!/bin/bash
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --time={limit}
#SBATCH --signal=SIGUSR1@15
#SBATCH --job-name=lit
srun python {script} {folder}
"""


def lightning(folder: Path, limit: str) -> str:
    (folder / "lit.sh").write_text(REQUEUED.format(limit=limit, script=LIGHTNING, folder=folder))
    return "lit.sh"


def went_on_from_its_own_checkpoint(up: Cluster, id: int) -> None:
    job = up.succeeded(id)
    written = up.outputs(id)
    assert job["attempts"] == 2 and job["preemptions"] == 0, up.tell(id)
    assert written.count("Handling auto-requeue signal") == 1 and "hpc_ckpt_1.ckpt" in written, up.tell(id)
    begins = [int(step) for step in re.findall(r"begins at step (\d+)", written)]
    saved, last = (int(re.findall(pattern, written)[-1]) for pattern in (r"saved at step (\d+)", r"ended at step (\d+)"))
    assert begins == [0, saved] and 0 < saved < last, up.tell(id)


def test_a_lightning_job_is_requeued_by_its_signal_and_resumes_from_its_own_checkpoint(up: Cluster, tmp_path: Path) -> None:
    id = up.submit(lightning(tmp_path, "1:00:00"), cwd=tmp_path)
    up.until(lambda: "begins at step 0" in up.output(id), about=id, every_s=0.2)
    up.client.signal(id, signal.SIGUSR1)
    went_on_from_its_own_checkpoint(up, id)


@pytest.mark.slow
def test_a_lightning_job_is_requeued_before_its_limit(up: Cluster, tmp_path: Path) -> None:
    id = up.submit(lightning(tmp_path, "0:40"), cwd=tmp_path)
    went_on_from_its_own_checkpoint(up, id)
    first = up.client.attempts(id)[0]
    assert 25 <= first["end_s"] - first["claimed_s"] < 40, up.tell(id)
