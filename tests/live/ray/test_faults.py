"""What happens to jobs when parts of Ray, or of us, are killed one by one: nothing is lost for good, nothing runs twice at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import Harness, alive
from live.ray.cluster import small_cluster
from trainmaster.live.backends.base import Attempt, Observation, Seen
from trainmaster.live.backends.ray import RayBackend
from trainmaster.live.node import folder as files

pytestmark = [pytest.mark.slow, pytest.mark.ray]
LOST_S = 60.0  # Ray finds a killed node dead after about 15 s
MUTE_S = 150.0  # and one that does not answer after about 65 s

WORK = "echo $TRAINMASTER_ATTEMPT $$ >> ran; trap '' TERM; while ! test -e go; do sleep 0.05; done; exit 5\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    made = small_cluster("n1", "n2")
    yield made
    made.stop()


class Site(Harness):
    """A controller's backend on that cluster."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.cluster = cluster
        work = folder / "work"
        work.mkdir(parents=True)
        self.nodes = folder / "nodes"
        super().__init__(lambda: RayBackend(folder / "state", cluster.address, node_folder=self.nodes), work)

    def patiently(self, attempt: Attempt, patience_s: float = LOST_S) -> Observation:
        until_s = time.monotonic() + patience_s
        while (seen := self.seen(attempt)) is None or seen.ended_s is None:
            assert time.monotonic() < until_s, seen
            time.sleep(0.1)
        return seen

    def supervisor(self, attempt: Attempt) -> int:
        (path,) = self.nodes.glob(f"*/node-*/jobs/{attempt.job}/{attempt.attempt}/{files.SUPERVISOR}")
        return int((files.read_json(str(path)) or {})["pid"])

    def ran(self) -> list[tuple[int, int]]:
        """(attempt, pid) of all that ever began."""
        path = self.folder / "ran"
        return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []  # type: ignore[misc]

    def work_again(self, attempt: Attempt) -> None:
        """The next attempt of the job comes to its own end, and nothing of the one before is there."""
        assert not any(alive(pid) for _, pid in self.ran())
        (self.folder / "go").touch()
        again = self.wait(lambda: self._try(attempt))
        assert self.patiently(again).exit_code == 5
        assert [number for number, _ in self.ran()][-1] == again.attempt

    def _try(self, attempt: Attempt) -> Attempt:
        up = [node.name for node in self.backend.inventory() if node.up]
        if not up:
            time.sleep(0.2)
            return None  # type: ignore[return-value]
        shares = tuple(type(share)(node=up[0], gpus=share.gpus) for share in attempt.shares)
        again = replace(attempt, attempt=2, shares=shares)
        self.backend.start(again)
        return again

    def nodes_up(self, *names: str) -> None:
        self.wait(lambda: {node.name for node in self.backend.inventory() if node.up} == set(names) or None)


@pytest.fixture
def site(cluster: Any, tmp_path: Path) -> Iterator[Site]:
    for name in ("n1", "n2"):
        if name not in cluster.processes:
            cluster.add(name)
    made = Site(cluster, tmp_path)
    yield made
    made.close()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_controller_that_dies_at_any_time_after_a_submission_neither_loses_nor_repeats_it(site: Site) -> None:
    for after_s in (0.0, 0.1, 0.4, 0.8, 1.2, 3.0, 10.0):
        attempt = site.start(["sh", "-c", f"echo {after_s} >> said; sleep 1; exit 5"])
        time.sleep(after_s)
        site.crash()
        assert site.until(attempt).exit_code == 5
    assert (site.folder / "said").read_text().split() == ["0.0", "0.1", "0.4", "0.8", "1.2", "3.0", "10.0"]


def test_the_process_that_speaks_with_ray_may_be_killed(site: Site) -> None:
    attempt = site.start(WORK)
    for _ in range(3):
        time.sleep(0.7)
        with contextlib.suppress(ProcessLookupError):  # the next one has not come yet
            os.kill(site.backend.report()["bridge"], signal.SIGKILL)
    site.running(attempt)
    (site.folder / "go").touch()
    assert site.until(attempt).exit_code == 5
    assert len(site.ran()) == 1


@pytest.mark.parametrize("victim", ["supervisor", "actor", "both"])
def test_an_attempt_whose_supervisor_or_actor_is_killed_is_lost_and_nothing_of_it_is_left(site: Site, victim: str) -> None:
    attempt = site.start(WORK)
    site.file("ran")
    supervisor = site.supervisor(attempt)
    actor = parent(supervisor)
    for pid in {"supervisor": [supervisor], "actor": [actor], "both": [actor, supervisor]}[victim]:
        os.kill(pid, signal.SIGKILL)
    lost = site.patiently(attempt)
    assert lost.seen is Seen.LOST, lost
    site.work_again(attempt)


def test_a_killed_node_loses_its_jobs_once_they_have_ended_and_takes_new_ones_when_it_is_back(site: Site) -> None:
    attempt = site.start(WORK)
    site.file("ran")
    site.cluster.kill("n1", "raylet")
    (_, pid), *_ = site.ran()
    site.wait(lambda: True if not alive(pid) else None)  # long before anybody else may know
    assert site.seen(attempt).seen is not Seen.LOST  # type: ignore[union-attr]
    assert site.patiently(attempt).seen is Seen.LOST
    site.nodes_up("n2")
    site.work_again(attempt)
    site.cluster.end_node("n1")
    site.cluster.add("n1")
    site.nodes_up("n1", "n2")
    seen, log = site.run(["sh", "-c", "echo $SLURMD_NODENAME"])
    assert (seen.exit_code, log) == (0, "n1\n")


def test_a_node_that_comes_back_at_once_is_the_same_node_and_what_ran_there_is_lost(site: Site) -> None:
    attempt = site.start(WORK)
    site.file("ran")
    site.cluster.kill("n1", "raylet")
    site.cluster.end_node("n1")
    site.cluster.add("n1")
    assert site.patiently(attempt).seen is Seen.LOST
    site.nodes_up("n1", "n2")
    site.work_again(attempt)


def test_a_gang_of_which_one_node_is_killed_ends_on_the_other_too(site: Site) -> None:
    attempt = site.start(WORK, gpus=(1, 1))
    site.wait(lambda: len(site.ran()) == 2 or None)
    site.cluster.kill("n2", "raylet")
    assert site.patiently(attempt).seen is Seen.LOST
    assert not any(alive(pid) for _, pid in site.ran())
    site.cluster.end_node("n2")


def test_a_node_that_hangs_is_given_up_and_its_jobs_end_before_they_are_lost(site: Site) -> None:
    attempt = site.start(WORK)
    site.file("ran")
    (raylet,) = site.cluster.pids("n1", "raylet")
    os.kill(raylet, signal.SIGSTOP)
    try:
        assert site.patiently(attempt, MUTE_S).seen is Seen.LOST
        site.work_again(attempt)
    finally:
        site.cluster.end_node("n1")


def test_two_controllers_on_one_cluster_see_only_the_gpus_of_each_other(site: Site, tmp_path: Path) -> None:
    other = Site(site.cluster, tmp_path / "other")
    attempt = other.start(["sleep", "60"], gpus=(3,))
    other.running(attempt)
    assert site.backend.observe() == []
    site.wait(lambda: {node.name: node.others_gpus for node in site.backend.inventory()} == {"n1": 3.0, "n2": 0.0} or None)
    assert all(node.others_gpus == 0 for node in other.backend.inventory())
    other.backend.stop(attempt.job, 1, grace_s=0, reason="cancel")
    other.until(attempt)
    site.wait(lambda: all(node.others_gpus == 0 for node in site.backend.inventory()) or None)
    other.backend.close()


def test_what_others_hold_of_ray_is_a_reason_to_refuse_and_not_to_wait_for_ever(site: Site, tmp_path: Path) -> None:
    other = Site(site.cluster, tmp_path / "other")
    attempt = other.start(["sleep", "60"], gpus=(3,))
    other.running(attempt)
    refused = site.patiently(site.start(["true"], gpus=(2,)))
    assert refused.seen is Seen.REFUSED and "not free" in refused.message
    other.backend.stop(attempt.job, 1, grace_s=0, reason="cancel")
    other.until(attempt)
    assert site.run(["true"], gpus=(4,))[0].exit_code == 0
    other.backend.close()


def test_without_its_head_nothing_is_known_and_a_new_cluster_there_has_lost_the_jobs(tmp_path: Path) -> None:
    cluster = small_cluster("n1")
    try:
        site = Site(cluster, tmp_path)
        attempt = site.start(WORK)
        site.file("ran")
        cluster.kill("head", "gcs_server")
        unknown = site.until(attempt, lambda one: one.seen is Seen.UNKNOWN)
        assert "does not answer" in unknown.message
        assert not any(node.up for node in site.backend.inventory())
        (_, pid), *_ = site.ran()
        until_s = time.monotonic() + LOST_S
        while alive(pid):  # nobody is left who could stop it: it does so itself
            assert time.monotonic() < until_s
            time.sleep(0.2)
        cluster.end_node("n1")
        cluster.end_node("head")
        cluster.start_head()
        cluster.wait()
        cluster.add("n1")
        assert site.patiently(attempt, MUTE_S).seen is Seen.LOST
        site.work_again(attempt)
        site.backend.close()
    finally:
        cluster.stop()
