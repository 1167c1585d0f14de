"""A real cluster whose store fails: the disk is full, the database is locked, or gone. Nothing that was accepted is lost, what cannot be
written is refused in one line, jobs run on, and the controller goes on by itself."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from live.faults.real import PATIENCE_S, Cluster, as_seen_by
from trainmaster.live.client import Client

REFUSED_WITHIN_S = 25.0  # the server gives up waiting for the controller after 30


def submit(c: Cluster, name: str, steps: int, **more: object) -> int:
    return c.insist(lambda client: client.submit(c.spec(name, steps=steps, **more), key=name))[0]


def have_started(c: Cluster, ids: list[int]) -> None:
    c.until(lambda client: all(client.job(id)["state"] in ("RUNNING", "SUCCEEDED") for id in ids), f"{ids} have started")


def wait(c: Cluster, job: int) -> dict[str, Any]:
    """As `submit --wait` does."""
    with Client.of_state(c.state) as client:
        return client.wait(job)


def refused(c: Cluster, name: str) -> str:
    """What a submission is told, which must be at once, 503 and one line."""
    with Client.of_state(c.state) as client:
        began_s = time.monotonic()
        status, message = as_seen_by(client, "POST", "/jobs", c.spec(name, steps=1))
        assert time.monotonic() - began_s < REFUSED_WITHIN_S
    assert status == 503, (status, message)
    assert message and len(message.splitlines()) == 1
    return message


def refused_for(c: Cluster, length_s: float, jobs: int) -> None:
    """So long at least, and until so many of the first jobs have come to their end, which nobody can write down."""
    until_s, count = time.monotonic() + length_s, 0
    while time.monotonic() < until_s or not all("end 1 " in said(c, f"j{i}") for i in range(jobs)):
        assert time.monotonic() < until_s + PATIENCE_S, [said(c, f"j{i}") for i in range(jobs)]
        refused(c, f"refused-{count}")
        count += 1
        time.sleep(0.5)


def said(c: Cluster, name: str) -> str:
    return (c.folder / "said" / name).read_text()


def goes_on(c: Cluster, ids: list[int]) -> None:
    """All that was accepted before ends once and by its first attempt, what was refused never was, and new jobs run."""
    ids.append(submit(c, "later", 1))
    c.ended(ids)
    assert c.insist(lambda client: client.status())["alerts"] == []
    assert c.stop() == 0
    records = c.check()
    assert [record.id for record in records] == ids  # the refused are not among them
    assert [(record.state, record.attempts) for record in records] == [("SUCCEEDED", 1)] * len(ids)


# ------------------------------------------------------------------------------------------------- the disk is full


@contextmanager
def no_file_may_grow(c: Cluster) -> Iterator[None]:
    """`ulimit -f` of the controller alone, while it runs."""
    assert c.process is not None
    before = resource.prlimit(c.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(c.process.pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.sample
def test_a_controller_whose_files_cannot_grow_refuses_what_it_cannot_write_and_goes_on_when_they_can(cluster) -> None:
    c = cluster()
    ids = [submit(c, f"j{i}", 30) for i in range(6)]
    have_started(c, ids[:4])
    with no_file_may_grow(c):
        refused_for(c, 5, jobs=4)
        assert c.insist(lambda client: client.job(ids[0]))["name"] == "j0"  # reading goes on
    goes_on(c, ids)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the state folder, 24 MiB."""
    folder = tmp_path / "state"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    try:
        yield
    finally:
        ballast.unlink()


def test_a_full_disk_loses_nothing_and_the_cluster_goes_on_when_there_is_room(small_disk: Path, cluster) -> None:
    c = cluster()
    ids = [submit(c, f"j{i}", 30) for i in range(6)]
    have_started(c, ids[:4])
    with full(small_disk):
        refused_for(c, 5, jobs=4)
        c.kill()
        done = subprocess.run(c.argv(), capture_output=True, text=True, env=c.environment(), timeout=120)  # nor can another begin
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "full" in done.stderr or "No space" in done.stderr, done.stderr
    c.spawn()
    goes_on(c, ids)


@pytest.mark.slow
@pytest.mark.sample
def test_a_job_that_finds_no_room_on_its_node_is_tried_again_until_there_is(small_disk: Path, cluster, tmp_path: Path) -> None:
    c = cluster(store=f"sqlite:///{tmp_path}/elsewhere.db", rules={"start_timeout_s": 3})
    with full(small_disk):
        job = submit(c, "patient", 3)
        c.until(lambda client: client.attempts(job) and client.attempts(job)[0]["end_s"] is not None, "a first start is given up")
        alerts = c.until(lambda client: client.status()["alerts"], "the operator is told")
        assert "No space left" in alerts[0]
    c.ended([job])
    assert c.stop() == 0
    (record,) = c.check(lost=True)
    assert record.state == "SUCCEEDED" and record.attempts > 1 and record.failures == 0


# ------------------------------------------------------------------------------------------------- the database is locked, or away


def test_while_another_program_holds_the_database_submissions_are_refused_and_jobs_run_on(cluster) -> None:
    c = cluster()
    ids = [submit(c, f"j{i}", 30) for i in range(6)]
    have_started(c, ids[:4])
    other = sqlite3.connect(c.state / "store.db", isolation_level=None, timeout=60)
    other.execute("BEGIN IMMEDIATE")
    refused_for(c, 6, jobs=4)  # longer than the store waits for a lock
    assert c.insist(lambda client: client.job(ids[0]))["name"] == "j0"
    other.execute("ROLLBACK")
    other.close()
    goes_on(c, ids)


@pytest.mark.parametrize("away_s", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_jobs_run_on_while_the_database_is_away_and_nothing_is_lost(cluster, postgres, away_s: int) -> None:
    c = cluster(store=postgres.database(f"away_{away_s}"))
    ids = [submit(c, f"j{i}", 30) for i in range(4)] + [submit(c, f"k{i}", 1) for i in range(2)]
    have_started(c, ids[:4])
    waited_for: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: waited_for.append(wait(c, ids[5])))
    waiting.start()
    postgres.stop()
    try:
        refused_for(c, away_s, jobs=4)
    finally:
        postgres.start()
    waiting.join(PATIENCE_S)
    assert [job["state"] for job in waited_for] == ["SUCCEEDED"]
    goes_on(c, ids)
