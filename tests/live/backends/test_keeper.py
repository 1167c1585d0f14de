"""The keeper and the supervisor that is tied to it: one node's share of an attempt, without a cluster around."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainmaster.live.backends.base import Attempt, NodeShare
from trainmaster.live.node import folder as files
from trainmaster.live.node.keeper import CHUNK, Keeper
from trainmaster.live.node.log_bound import Bound
from trainmaster.live.node.plan import plan as plan_of
from trainmaster.live.node.supervisor import GANG_GRACE_S
from trainmaster.live.spec import JobSpec

from .harness import alive

PATIENCE_S = 20.0


def _nobody(*asked: Any) -> None:
    raise ConnectionError(asked)


class Node:
    """One keeper of a gang of one or two, and what it tells the others."""

    def __init__(self, folder: Path, node: int = 0, nodes: int = 1) -> None:
        self.folder, self.node, self.nodes = folder, node, nodes
        self.told: list[tuple[int, str, Any]] = []
        self.keeper = self.make()

    def make(self) -> Keeper:
        return Keeper(str(self.folder), f"n{self.node}", 7, 1, self.node, self.nodes, lambda *told: self.told.append(told), _nobody)

    def begin(self, script: str, shared: tuple[str, str] | None = None) -> None:
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        spec = JobSpec(script=script, workdir=str(work), env={"PATH": os.environ["PATH"]}, gpus=self.nodes)
        shares = tuple(NodeShare(node=f"n{node}", gpus=1) for node in range(self.nodes))
        attempt = Attempt(job=7, attempt=1, name="job", user="ada", spec=spec, shares=shares)
        plan = plan_of(attempt, self.keeper.facts()["state"], [[0]] * self.nodes, port=0, cgroup=None, limits=[], umask=0o077, log_limit=0)
        for what in ("ranks", "setups"):
            plan[what] = [one for one in plan[what] if one["env"]["SLURM_NODEID"] == str(self.node)]
        self.keeper.begin({**plan, "hold": self.nodes > 1, "keeps": False}, script, shared)

    def watch(self, offsets: dict[str, int] | None = None) -> dict[str, Any]:
        return self.keeper.watch(-1, -1, offsets or {}, 0.0, 0.0)

    def until(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        until_s = time.monotonic() + PATIENCE_S
        while not reached(seen := self.watch()):
            assert time.monotonic() < until_s, seen
            time.sleep(0.02)
        return seen

    def end(self) -> dict[str, Any]:
        return self.until(lambda seen: seen["end"] is not None)["end"]

    def pid(self, name: str) -> int:
        """That a process of the job has written down."""
        path = self.folder / "work" / name
        self.until(lambda _: path.exists() and bool(path.read_text().strip()))
        return int(path.read_text())

    def supervisor(self) -> int:
        return int((files.read_json(f"{self.keeper.folder}/{files.SUPERVISOR}") or {})["pid"])

    def flag(self) -> tuple[int, ...]:
        return struct.unpack("<8q", Path(self.keeper.control, "flag").read_bytes())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    one = Node(tmp_path)
    yield one
    end(one)


@pytest.fixture
def gang(tmp_path: Path) -> Iterator[list[Node]]:
    both = [Node(tmp_path, 0, 2), Node(tmp_path, 1, 2)]
    yield both
    for one in both:
        end(one)


def end(node: Node) -> None:
    if node.keeper.plan is not None:
        node.keeper.stop({"reason": "cancel", "grace_s": 0})
        node.end()


def test_a_job_runs_to_its_end_and_its_output_comes_with_the_news(node: Node) -> None:
    node.begin("echo out; exit 3\n")
    assert (node.end()["exit_code"], node.end()["asked"]) == (3, None)
    seen = node.watch()
    assert seen["logs"] == {"0": (0, b"out\n")} and seen["drained"]
    assert node.watch({"0": 1})["logs"] == {"0": (1, b"ut\n")}
    assert node.watch({"0": 4})["logs"] == {} and node.watch({"0": 4})["drained"]
    node.keeper.clear()
    assert not Path(node.keeper.folder).parent.exists()


def test_output_that_was_dropped_for_the_log_s_limit_is_passed_over(node: Node) -> None:
    node.begin("true\n")
    node.end()
    path, limit = Path(node.keeper.folder, "0.log"), 1 << 20
    path.write_bytes(b"".join(b"line %010d\n" % number for number in range(400_000)))  # 6.4 MB
    Bound(str(path), limit).look()

    there = path.stat().st_size
    copy, pieces = bytearray(there), 0
    size = 0
    while not (seen := node.watch({"0": size}))["drained"]:
        offset, text = seen["logs"]["0"]
        copy[offset : offset + len(text)] = text
        size, pieces = offset + len(text), pieces + len(text)
        assert 0 < len(text) <= CHUNK and size <= there
    offset, text = seen["logs"]["0"]
    copy[offset : offset + len(text)] = text
    assert bytes(copy) == path.read_bytes()
    assert pieces + len(text) <= limit + (64 << 10)


def test_a_file_of_the_job_s_own_that_ends_with_a_hole_comes_to_its_end(node: Node) -> None:
    node.begin("true\n")
    node.end()
    with open(f"{node.keeper.folder}/0.log", "wb") as log:
        log.write(b"data")
        log.truncate(1 << 20)

    assert node.watch({"0": 1 << 16})["logs"] == {"0": ((1 << 20) - 1, b"\0")}
    assert node.watch({"0": 1 << 16})["drained"] and node.watch({"0": 1 << 20})["drained"]


def test_a_plan_that_is_begun_twice_runs_once(node: Node) -> None:
    for _ in range(3):
        node.begin("echo once >> ran\n")
    node.end()
    node.begin("echo once >> ran\n")
    assert (node.folder / "work" / "ran").read_text() == "once\n"


def test_a_watcher_hears_at_once_of_an_end_and_waits_while_nothing_happens(node: Node) -> None:
    node.begin("while ! test -e go; do sleep 0.01; done\n")
    running = node.until(lambda seen: seen["started_s"] is not None)
    same = node.keeper.watch(running["news"], running["words"], {"0": 0}, 0.2, 0.0)
    assert (same["news"], same["end"]) == (running["news"], None)
    (node.folder / "work" / "go").touch()
    assert node.keeper.watch(same["news"], same["words"], {"0": 0}, PATIENCE_S, PATIENCE_S)["end"]["exit_code"] == 0


def test_when_the_keeper_goes_the_job_is_asked_to_save_and_then_killed(node: Node) -> None:
    node.begin("echo '{}' > $TRAINMASTER_CONTROL/registered; trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done\n")
    pid = node.pid("pid")
    assert node.keeper._child is not None and node.keeper._child.stdin is not None
    node.keeper._child.stdin.close()  # as the kernel does when the keeper's process has gone
    node.until(lambda _: node.flag()[0] == 1)
    assert alive(pid)
    assert (node.end()["exit_code"], node.end()["asked"]) == (128 + signal.SIGKILL, "node")
    assert not alive(pid)


def test_a_keeper_in_the_place_of_another_takes_up_how_it_ended(node: Node) -> None:
    node.begin("echo said; exit 4\n")
    node.end()
    node.keeper = node.make()
    assert node.end()["exit_code"] == 4
    assert node.watch()["logs"] == {"0": (0, b"said\n")}


def test_nothing_is_left_when_the_supervisor_is_killed(node: Node) -> None:
    node.begin("(setsid sh -c 'echo $$ > daemon; while :; do sleep 0.1; done' &) ; echo $$ > pid; sleep 60\n")
    pids = [node.pid("pid"), node.pid("daemon")]
    os.kill(node.supervisor(), signal.SIGKILL)
    assert "lost" in node.end()
    assert not any(map(alive, pids))


def test_a_folder_that_this_node_does_not_see_is_a_reason_not_to_start(node: Node, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("another")
    node.begin("echo ran > ran\n", shared=(str(tmp_path / "id"), "token"))
    assert "--shared" in node.end()["refused"]
    assert not (tmp_path / "work" / "ran").exists()


def test_a_gang_goes_when_every_node_stands_ready(gang: list[Node]) -> None:
    for node in gang:
        node.begin("echo $SLURM_NODEID >> ran\n")
        node.until(lambda seen: seen["ready"])
    time.sleep(0.3)
    assert not (gang[0].folder / "work" / "ran").exists()
    for node in gang:
        node.keeper.go()
    assert [node.end()["exit_code"] for node in gang] == [0, 0]
    assert sorted((gang[0].folder / "work" / "ran").read_text().split()) == ["0", "1"]


def test_a_rank_that_fails_on_one_node_ends_those_of_the_others(gang: list[Node]) -> None:
    for node in gang:
        node.begin("test $SLURM_NODEID = 1 && exit 9; sleep 60\n")
    for node in gang:
        node.until(lambda seen: seen["ready"])
        node.keeper.go()
    gang[1].end()
    gang[1].until(lambda _: (0, "follow", GANG_GRACE_S) in gang[1].told)
    gang[0].keeper.follow(GANG_GRACE_S)
    assert gang[0].end()["exit_code"] == 128 + signal.SIGTERM
    assert (gang[0].watch()["own"], gang[1].watch()["own"]) == (False, True)
    assert not gang[0].told  # whose end is a consequence tells nobody


def test_what_rank_0_publishes_is_carried_to_the_other_nodes(gang: list[Node]) -> None:
    for node in gang:
        node.begin("sleep 60\n")
    for node in gang:
        node.until(lambda seen: seen["ready"])
        node.keeper.go()
        node.until(lambda seen: seen["started_s"] is not None)
    Path(gang[0].keeper.control, "progress").write_text('{"step": 9, "rate": 40.0}')
    gang[0].until(lambda _: gang[0].flag()[2] == 22)  # half a second of steps ahead, and the two of always
    with open(f"{gang[0].keeper.control}/flag", "r+b") as flag:
        flag.seek(8)
        flag.write(struct.pack("<q", 31))
    gang[0].until(lambda _: (1, "publish", {1: 31}) in gang[0].told)
    gang[1].keeper.publish({1: 31})
    assert gang[1].flag()[1] == 31
