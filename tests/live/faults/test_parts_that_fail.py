"""A real cluster of which one part fails: its supervisors, its fork server, a start, a stop, or there is one controller too many."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from live.faults.real import SLOTS, Cluster
from trainmaster.live.node.linux import marked


def reasons(c: Cluster, job: int) -> list[str]:
    """Of its attempts, why each was over."""
    return [attempt["reason"] for attempt in c.insist(lambda client: client.attempts(job))]


def of_attempt(c: Cluster, job: int, attempt: int) -> list[int]:
    """Its processes: each has this in the environment it was started with."""
    return marked(f"TRAINMASTER_CONTROL={c.state}/jobs/{job}/{attempt}/control")


def test_an_attempt_whose_supervisor_is_killed_starts_again_and_a_killed_fork_server_is_replaced(cluster) -> None:
    c = cluster()
    (job,) = c.insist(lambda client: client.submit(c.spec("long", steps=50)))
    c.runs(job)
    os.kill(c.supervisor(job), signal.SIGKILL)
    os.kill(c.fork_server(), signal.SIGKILL)
    (other,) = c.insist(lambda client: client.submit(c.spec("other", steps=2)))
    c.ended([job, other])
    assert c.stop() == 0
    lost, fine = c.check(lost=True)
    assert (lost.state, lost.attempts, lost.failures) == ("SUCCEEDED", 2, 1)
    assert (fine.state, fine.attempts) == ("SUCCEEDED", 1)


def test_a_second_controller_on_the_same_store_and_one_whose_store_is_not_there_refuse_in_one_line(cluster) -> None:
    c = cluster()
    second = subprocess.run([*c.argv(), "--port", "0"], capture_output=True, text=True, env=c.environment(), timeout=120)
    assert second.returncode == 1
    (line,) = second.stderr.splitlines()
    assert "is held by the controller" in line
    nowhere = [*c.argv(), "--port", "0", "--store", "postgresql://trainmaster@127.0.0.1:1/none"]
    third = subprocess.run(nowhere, capture_output=True, text=True, env=c.environment(), timeout=120)
    assert third.returncode == 1 and len(third.stderr.splitlines()) == 1 and "postgresql" in third.stderr, third.stderr
    (job,) = c.insist(lambda client: client.submit(c.spec("after", steps=1)))
    c.ended([job])
    assert c.stop() == 0
    c.check()


def test_a_start_that_never_comes_to_its_processes_is_given_up_and_tried_again(cluster) -> None:
    c = cluster(rules={"start_timeout_s": 5})
    once = c.folder / "once"
    hangs = f"if [ ! -e {once} ]; then touch {once}; (trap '' TERM; sleep 1000) & wait; fi"  # no SIGTERM ends that
    (job,) = c.insist(lambda client: client.submit(c.spec("hangs", steps=2, gpus=SLOTS, setup=hangs)))
    (other,) = c.insist(lambda client: client.submit(c.spec("other", steps=2, gpus=SLOTS)))  # may run once nothing of the first is left
    c.until(lambda client: of_attempt(c, job, 1), "its setup runs")
    c.until(lambda client: client.attempts(job)[0]["end_s"] is not None, "the first attempt is given up")
    assert of_attempt(c, job, 1) == []
    c.ended([job, other])
    *given_up, last = reasons(c, job)
    assert set(given_up) == {"its start hung"} and last == "exit 0"
    first, second, *_ = c.insist(lambda client: client.attempts(job))
    assert second["claimed_s"] >= first["end_s"] + 0.5  # backoff_s
    assert c.stop() == 0
    c.check(lost=True)


@pytest.mark.slow
@pytest.mark.sample
def test_starts_that_a_mute_fork_server_does_not_carry_out_are_given_up_until_it_is_replaced(cluster) -> None:
    c = cluster(rules={"start_timeout_s": 3})  # each is given up before the server is found out
    mute = c.fork_server()
    os.kill(mute, signal.SIGSTOP)
    ids = [c.insist(lambda client, i=i: client.submit(c.spec(f"j{i}", steps=1, gpus=2)))[0] for i in range(3)]
    c.ended(ids)
    assert c.fork_server() != mute
    for id in ids:
        *given_up, last = reasons(c, id)
        assert set(given_up) <= {"its start hung"} and last == "exit 0"
    assert "its start hung" in reasons(c, ids[0])
    assert c.stop() == 0
    c.check(lost=True)


IGNORES = """trap '' TERM; echo "$TRAINMASTER_ATTEMPT" >> "$1"; [ "$TRAINMASTER_ATTEMPT" = 2 ] || while :; do sleep 0.1; done"""


def test_a_stop_that_is_not_acknowledged_is_forced_and_frees_its_gpus(cluster) -> None:
    c = cluster()
    deaf = {"command": ["/bin/sh", "-c", IGNORES, "job", str(c.folder / "deaf")], "gpus": 2, "grace_s": 2, "workdir": str(c.folder)}
    killed, again = [c.insist(lambda client: client.submit({**deaf, "name": "deaf"}))[0] for _ in range(2)]
    c.runs(killed)
    c.runs(again)
    c.insist(lambda client: client.cancel([killed]))
    c.insist(lambda client: client.requeue([again]))
    c.ended([killed, again])
    first = c.insist(lambda client: client.attempts(killed))[0]
    assert first["exit_code"] == 128 + signal.SIGKILL
    assert c.insist(lambda client: client.job(again))["attempts"] == 2

    (hung,) = c.insist(lambda client: client.submit(c.spec("hung", steps=1_000, gpus=SLOTS, grace_s=2)))
    c.runs(hung)
    assert of_attempt(c, hung, 1)
    os.kill(c.supervisor(hung), signal.SIGSTOP)
    c.insist(lambda client: client.cancel([hung]))
    (other,) = c.insist(lambda client: client.submit(c.spec("other", steps=1, gpus=SLOTS)))
    c.until(lambda client: any(f"job {hung}: its stop is not acknowledged" in alert for alert in client.status()["alerts"]), "an alert")
    c.ended([hung, other])  # the other holds what the hung one had held
    assert of_attempt(c, hung, 1) == []
    assert c.insist(lambda client: client.status())["alerts"] == []
    assert c.stop() == 0
    states = {record.id: record.state for record in c.check(lost=True, said=False)}
    assert states == {killed: "CANCELLED", again: "SUCCEEDED", hung: "CANCELLED", other: "SUCCEEDED"}
