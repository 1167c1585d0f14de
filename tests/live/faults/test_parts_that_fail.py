"""A real cluster of which one part fails: its supervisors, its fork server, its database, or there is one controller too many."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from live.faults.real import Cluster
from trainmaster.errors import TrainmasterError
from trainmaster.live.client import Client


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(*flags: str, **more: str) -> Cluster:
        made.append(Cluster(tmp_path, *flags, **more))
        made[-1].spawn()
        made[-1].until_it_answers()
        return made[-1]

    yield make
    for each in made:
        each.close()


def running(cluster: Cluster, job: int) -> None:
    for _ in range(200):
        if cluster.insist(lambda client: client.job(job))["state"] == "RUNNING":
            return
        time.sleep(0.1)
    raise AssertionError(cluster.insist(lambda client: client.job(job)))


def pid_named(cluster: Cluster, name: str) -> int:
    """Of a process of this cluster, by the name it gives itself; supervisors are children of the fork server at their birth."""
    server = cluster.insist(lambda client: client.status())["backend"]["fork_server"]
    if name == "fork server":
        return int(server)
    job, attempt = name.split(".")
    return int(json.loads((cluster.state / "jobs" / job / attempt / "supervisor.json").read_text())["pid"])


def test_an_attempt_whose_supervisor_is_killed_starts_again_and_a_killed_fork_server_is_replaced(cluster) -> None:
    c = cluster()
    (job,) = c.insist(lambda client: client.submit(c.spec("long", steps=30)))
    running(c, job)
    os.kill(pid_named(c, f"{job}.1"), signal.SIGKILL)
    os.kill(pid_named(c, "fork server"), signal.SIGKILL)
    (other,) = c.insist(lambda client: client.submit(c.spec("other", steps=2)))
    c.ended([job, other])
    assert c.stop() == 0
    lost, fine = c.check(lost=True)
    assert (lost.state, lost.attempts, lost.failures) == ("SUCCEEDED", 2, 1)
    assert (fine.state, fine.attempts) == ("SUCCEEDED", 1)


def test_a_second_controller_on_the_same_store_refuses_in_one_line(cluster) -> None:
    c = cluster()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    second = subprocess.run([*c.argv(), "--port", "0"], capture_output=True, text=True, env=environment, timeout=120)
    assert second.returncode == 1
    (line,) = second.stderr.splitlines()
    assert "is held by the controller" in line
    (job,) = c.insist(lambda client: client.submit(c.spec("after", steps=1)))
    c.ended([job])
    assert c.stop() == 0
    c.check()


@pytest.mark.slow
def test_jobs_run_on_while_the_database_is_away_and_nothing_is_lost(cluster, postgres) -> None:
    c = cluster(store=postgres.database("away"))
    ids = [c.insist(lambda client, i=i: client.submit(c.spec(f"j{i}", steps=20), key=f"k{i}"))[0] for i in range(6)]
    running(c, ids[0])
    postgres.stop()
    try:
        with pytest.raises(TrainmasterError), Client.of_state(c.state) as client:
            client.jobs(all=True)
        time.sleep(6.0)  # the first four end meanwhile
    finally:
        postgres.start()
    ids += c.insist(lambda client: client.submit(c.spec("later", steps=1)))
    c.ended(ids)
    assert c.stop() == 0
    records = c.check()
    assert [(record.state, record.attempts) for record in records] == [("SUCCEEDED", 1)] * 7
