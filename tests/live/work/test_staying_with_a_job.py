"""Who stays with a job: `run`, `submit --wait`, `logs -f`, `shell`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .cluster import LONG_S, Cluster, interrupt


@pytest.mark.parametrize("end, status", [("exit 0", 0), ("exit 42", 42), ("kill -KILL $$", 137)])
def test_run_shows_what_a_job_writes_and_exits_as_it_does(up: Cluster, end: str, status: int) -> None:
    assert up.call("run", "--", "sh", "-c", f"echo hello; {end}", exits=status) == "hello\n"


def test_ctrl_c_cancels_the_job_that_run_stays_with(up: Cluster, tmp_path: Path) -> None:
    process = up.start("run", "--name", "stays", "--", "sh", "-c", "echo begun; touch begun; sleep 600", cwd=tmp_path)
    up.until((tmp_path / "begun").exists)
    (job,) = up.client.jobs(names=["stays"])
    interrupt(process)
    process.communicate(timeout=LONG_S)
    assert process.returncode == 130
    assert up.ended(job["id"])["state"] == "CANCELLED"


def test_run_stays_with_a_job_that_is_stopped_and_started_again(up: Cluster, tmp_path: Path) -> None:
    script = "if [ $TRAINMASTER_ATTEMPT = 1 ]; then echo first; sleep 600; else echo second; exit 5; fi"
    process = up.start("run", "--name", "again", "--requeue", "--", "sh", "-c", script, cwd=tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "first\n"  # it follows
    (job,) = up.client.jobs(names=["again"])
    up.client.requeue([job["id"]])
    out, err = process.communicate(timeout=LONG_S)
    assert (process.returncode, out) == (5, "second\n"), err


def test_a_job_that_cannot_be_started_says_why_where_it_would_have_written(up: Cluster) -> None:
    process = up.start("run", "--", "no-such-program")
    out, err = process.communicate(timeout=LONG_S)
    assert process.returncode == 127 and "no-such-program: No such file or directory" in out + err


@pytest.mark.parametrize("status", [0, 7])
def test_submit_waits_and_exits_as_the_job_does(up: Cluster, status: int) -> None:
    up.call("submit", "--wait", "--", "sh", "-c", f"exit {status}", exits=status)


def test_logs_are_followed_while_they_grow_through_a_requeue_to_the_end(up: Cluster, tmp_path: Path) -> None:
    script = 'echo attempt $TRAINMASTER_ATTEMPT; touch begun.$TRAINMASTER_ATTEMPT; while ! [ -e go ]; do sleep 0.05; done; echo over'
    id = up.submit("--", "sh", "-c", script, cwd=tmp_path)
    up.until((tmp_path / "begun.1").exists)
    follower = up.start("logs", "-f", str(id))
    assert follower.stdout is not None and follower.stdout.readline() == "attempt 1\n"  # while it runs
    up.client.requeue([id])
    assert follower.stdout.readline() == "attempt 2\n"
    (tmp_path / "go").touch()
    assert follower.communicate(timeout=LONG_S)[0] == "over\n"
    assert up.call("logs", str(id), "--attempt", "1") == "attempt 1\n"
    assert up.call("logs", str(id), "--tail", "1") == "over\n"


def test_a_shell_in_a_running_job_has_its_folder_and_environment_and_ends_with_it(up: Cluster, tmp_path: Path) -> None:
    id = up.submit("--", "sh", "-c", "touch begun; sleep 600", cwd=tmp_path)
    up.until((tmp_path / "begun").exists)
    out = up.call("shell", str(id), stdin="echo $TRAINMASTER_JOB_ID in $PWD with $CUDA_VISIBLE_DEVICES; exit 3\n", exits=3)
    assert out == f"{id} in {tmp_path} with 0\n"
    inside = up.start("shell", str(id), stdin=subprocess.PIPE)
    assert inside.stdin is not None and inside.stdout is not None
    inside.stdin.write("echo ready; sleep 600\n")
    inside.stdin.flush()
    assert inside.stdout.readline() == "ready\n"
    up.call("cancel", str(id))
    assert inside.wait(LONG_S) != 0
    assert up.ended(id)["state"] == "CANCELLED"
    up.call("shell", str(id), exits=1)
