"""Who may be stopped for another, how long the other waits for it, and how the steps that were lost are told."""

from __future__ import annotations

import re
from pathlib import Path

from .cluster import Cluster, write

COUNTS = Path(__file__).parent / "counting.py"
URGENT = ("--gpus", "4", "--priority", "10", "--", "true")


def test_a_job_that_registers_no_checkpoint_is_not_stopped_and_why_says_so(up: Cluster, tmp_path: Path) -> None:
    waits = "touch begun; while ! [ -e go ]; do sleep 0.05; done"
    pinned = up.submit("--gpus", "4", "--name", "pinned", "--", "sh", "-c", waits, cwd=tmp_path)
    up.until((tmp_path / "begun").exists)
    urgent = up.submit(*URGENT)
    up.until(lambda: up.client.why(urgent)["decision"] is not None and up.job(urgent)["reason"])
    assert "jobs that have registered no checkpoint, and so are not stopped, hold 4" in up.call("why", str(urgent))
    assert "is not stopped for others" in up.call("why", str(pinned))
    assert up.job(pinned)["state"] == "RUNNING" and not up.job(pinned)["preemptible"]
    (tmp_path / "go").touch()
    assert up.succeeded(urgent)["start_s"] >= up.succeeded(pinned)["finish_s"]


def test_a_job_is_stopped_once_it_has_registered_and_the_other_starts_when_it_is_gone(up: Cluster, tmp_path: Path) -> None:
    id = up.submit("--gpus", "4", "--", "python", str(COUNTS), str(tmp_path), "60", "0.02")
    up.until(lambda: up.job(id)["preemptible"], about=id)
    urgent = up.submit(*URGENT)
    up.succeeded(urgent)
    job = up.succeeded(id)
    assert (job["preemptions"], job["lost_steps"], job["step"]) == (1, 0, 60), up.tell(id)
    first, second = up.client.attempts(id)
    assert first["end_s"] <= up.client.attempts(urgent)[0]["claimed_s"] <= up.job(urgent)["finish_s"] <= second["claimed_s"]
    assert [line.split()[1] for line in (tmp_path / "steps").read_text().splitlines()] == [str(step) for step in range(1, 61)]


def test_steps_that_a_failure_cost_are_counted_and_shown(up: Cluster, tmp_path: Path) -> None:
    write(tmp_path / "fails.yaml", [f"run: python {COUNTS} {tmp_path} 40 0.001 dies", "retry: {max: 1}"])
    id = up.submit("fails.yaml", cwd=tmp_path)
    job = up.succeeded(id)
    first, second = up.client.attempts(id)
    assert (first["step"], first["saved_step"], first["lost_steps"]) == (25, 20, 5), up.tell(id)
    assert (job["lost_steps"], second["lost_steps"], job["step"]) == (5, 0, 40)
    shown = up.call("show", str(id))
    assert "5 steps lost" in shown and re.search(r"137 +25 +20 +5 ", shown), shown
    assert up.call("acct", "-j", str(id), "-o", "LostSteps,Steps", "-P", "-n") == "5|40\n"


def test_steps_lost_to_a_stop_that_came_too_late_are_counted(up: Cluster, tmp_path: Path) -> None:
    write(tmp_path / "late.yaml", [f"run: python {COUNTS} {tmp_path} 40 0.001 hangs", "checkpoint: {grace: 1s}"])
    id = up.submit("late.yaml", cwd=tmp_path)
    up.until(lambda: (tmp_path / "hangs").exists(), about=id)
    up.client.requeue([id])
    job = up.succeeded(id)
    assert job["lost_steps"] == 5 and job["attempts"] == 2, up.tell(id)
