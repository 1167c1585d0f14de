"""What stays beside the supervisor of one node's share of an attempt and speaks for it: to the controller, and to the other nodes.

It lives in an actor of Ray, which may be started anew in its place: all that it knows is in the attempt's folder on this node (see
`folder` and `tied`), and a keeper that finds a plan there takes it up. Whoever wants to know what happens calls `watch`, which answers
once something has changed; output comes along, from where the caller has it.

Between nodes: the flag is memory that the ranks of one node share, so what rank 0 publishes in its own is carried to those of the
others, and a rank that fails on one node ends those of the others. What `srun` in a batch script starts elsewhere goes by here (`steps`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainmaster.live.node import cgroups, flag, lookalikes, remains, steps
from trainmaster.live.node import folder as files
from trainmaster.live.node.linux import birth, free_port
from trainmaster.live.node.said import said, speakers
from trainmaster.live.node.supervisor import GANG_GRACE_S
from trainmaster.live.node.tied import GO, READY, WAKE

ROOT = Path(__file__).parents[3]
MAIN = (
    "import sys; sys.path.insert(0, sys.argv[1]); from trainmaster.live.node.tied import main; "
    "main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), 0)"
)
LOOK_S = 0.25  # between two looks at what the job says and writes, which nobody is told of
RELAY_LOOK_S = 0.01  # the same for a flag that is carried to other nodes
RELAY_S = 0.5  # what rank 0 publishes has reached them by then
MOST_MARGIN_STEPS = 100_000
CHUNK = 512 << 10  # of output in one answer
SUPERVISOR_LOG = "supervisor.errors"

Tell = Callable[[int, str, Any], None]  # (node of the gang, what to do there, with what); returns at once


class Keeper:
    """Of node `node` of the gang, counted in the order of the attempt's shares."""

    def __init__(self, base: str, name: str, job: int, attempt: int, node: int, nodes: int, tell: Tell, ask: steps.Ask) -> None:
        """`base`: a folder of ours on this node; `name`: of the node, which is not always one machine."""
        self._ask = ask
        self.job, self.attempt, self.node, self.nodes, self._tell = job, attempt, node, nodes, tell
        self.state = f"{base}/node-{quote(name, safe='')}"
        self.folder = files.attempt_folder(self.state, job, attempt)
        self.control = f"{self.folder}/{files.CONTROL}"
        self.tasks = steps.Tasks(name, self.folder, f"{self.state}/bin", lambda: self.end is not None)
        self._senders: steps.Senders | None = None
        self._changed = threading.Condition()
        self._news, self._words = 0, 0  # counted: what is said at once, and what can wait a little
        self.plan: dict[str, Any] | None = None
        self.ready = False
        self.started_s: float | None = None
        self.end: dict[str, Any] | None = None
        self.said: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}  # of its logs
        self._control_ns = -1
        self._supervisor: int | None = None  # pidfd
        self._child: subprocess.Popen[bytes] | None = None
        self._relayed = {flag.STOP_STEP: 0, flag.SAVE_STEP: 0}
        self._own_ends = True  # not because another node's did
        plan = files.read_json(f"{self.folder}/{files.PLAN}")
        if plan is not None:
            with self._changed:
                self._take_up(plan)

    # -- told by the controller ----------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What a plan for this node has to know."""
        return {"state": self.state, "cgroup": cgroups.find(), "port": free_port()}

    def begin(self, plan: dict[str, Any], script: str | None, shared: tuple[str, str] | None) -> None:
        """Run it; a second time nothing. `shared`: a file that this node must see, and what stands in it."""
        with self._changed:
            if self.plan is not None:
                return
            try:
                os.makedirs(self.folder, mode=0o700, exist_ok=True)
                os.makedirs(f"{self.state}/bin", mode=0o700, exist_ok=True)
                lookalikes.install(f"{self.state}/bin")
                if script is not None:
                    files.write_bytes(f"{self.folder}/script", script.encode())
                if self._starts_elsewhere(plan):
                    plan = self._open_the_way(plan)
                problem = _problem(plan, shared)
                if problem is not None:
                    files.create_json(f"{self.folder}/{files.END}", _refused(problem))
                files.write_json(f"{self.folder}/{files.PLAN}", plan)
            except OSError as error:
                self.plan, self.end = plan, _refused(str(error)[:500])
                self._say()
                return
            self._take_up(plan)

    def go(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # it is over
            files.write_bytes(f"{self.folder}/{GO}", b"")
        self._poke()

    def stop(self, request: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # on a full disk the FIFO has to do
            files.write_json(f"{self.folder}/{files.STOP}", request)
        files.poke(f"{self.folder}/{files.COMMANDS}", json.dumps({"stop": request}))

    def signal(self, number: int, batch_only: bool) -> None:
        files.poke(f"{self.folder}/{files.COMMANDS}", json.dumps({"signal": number, "batch_only": batch_only}))

    def watch(self, news: int, words: int, offsets: Mapping[str, int], wait_s: float, quiet_s: float) -> dict[str, Any]:
        """As it is now, once it is not as the caller has seen it (`news`, `words`), or `wait_s` later.

        `offsets`: how much of each log the caller has. Words of the job and output are told at most once in `quiet_s`.
        """
        began_s = time.monotonic()
        with self._changed:
            while news == self._news and self.end is None and (left_s := began_s + wait_s - time.monotonic()) > 0:
                fresh = words != self._words or any(size > offsets.get(name, 0) for name, size in self.sizes.items())
                quiet_left_s = began_s + quiet_s - time.monotonic()
                if fresh and quiet_left_s <= 0:
                    break
                self._changed.wait(min(left_s, quiet_left_s) if fresh else left_s)
            if self.end is not None:
                self._measure()
            logs, whole = self._output(offsets)
            return {
                "news": self._news, "words": self._words, "begun": self.plan is not None, "ready": self.ready, "started_s": self.started_s,
                "end": self.end, "own": self._own_ends, "said": self.said, "logs": logs, "drained": self.end is not None and whole,
            }  # fmt: skip

    def clear(self) -> None:
        """All that is of this attempt here: the controller has it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if not files.attempts(self.state, self.job):
            shutil.rmtree(files.job_folder(self.state, self.job), ignore_errors=True)

    # -- told by the keepers of the other nodes --------------------------------------------------------------------------------------

    def publish(self, words: Mapping[int, int]) -> None:
        """What rank 0 has published in its flag, in that of this node."""
        for place, value in words.items():
            self._set_flag(int(place), int(value))

    def follow(self, grace_s: float) -> None:
        """A rank elsewhere has failed: those here would wait for it for ever. Or the script that had tasks started here is over."""
        with self._changed:
            if self.end is None and self.plan is not None:
                self._own_ends = False
                self.stop({"reason": "cancel", "grace_s": grace_s})

    # -- srun ------------------------------------------------------------------------------------------------------------------------

    def _starts_elsewhere(self, plan: Mapping[str, Any]) -> bool:
        """A batch script of several nodes begins here."""
        return self.nodes > 1 and self.node == 0 and bool(plan["nodes"])

    def _open_the_way(self, plan: dict[str, Any]) -> dict[str, Any]:
        path = f"{self.folder}/{steps.SOCKET}"
        names = [there["node"] for there in plan["gpus"]]
        self._senders = steps.Senders(path, f"{self.state}/bin", names, self._ask)
        return {**plan, "elsewhere": {str(node): {"socket": path} for node in range(1, self.nodes)}}

    # -- the attempt -----------------------------------------------------------------------------------------------------------------

    def _take_up(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        wake = files.make_fifo(f"{self.folder}/{WAKE}")
        self._look()
        if self.end is None and not os.path.exists(f"{self.folder}/{files.SUPERVISOR}"):
            self._spawn()
        threading.Thread(target=self._listen, args=(wake,), name="keeper", daemon=True).start()
        self._say()

    def _spawn(self) -> None:
        with open(f"{self.folder}/{SUPERVISOR_LOG}", "ab") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", MAIN, str(ROOT), self.state, str(self.job), str(self.attempt)],
                stdin=subprocess.PIPE, stdout=errors, stderr=errors, cwd="/", env={"PATH": os.defpath},
            )  # fmt: skip

    def _listen(self, wake: int) -> None:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        relays = self.nodes > 1 and self.node == 0
        while True:
            poll.poll((RELAY_LOOK_S if relays else LOOK_S) * 1e3)
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 1 << 16)
            with self._changed:
                self._look()
                if self.end is not None:
                    break
                if relays:
                    self._relay()
                if self._supervisor is None:
                    self._supervisor = self._find_supervisor()
                    if self._supervisor is not None:
                        poll.register(self._supervisor, select.POLLIN)
                if self._is_gone():
                    self._bury()
        assert self.plan is not None
        if self._senders is not None:
            self._senders.close()
        failed = self._own_ends and self.end["asked"] is None and self.end.get("exit_code") != 0
        script_is_over = self._starts_elsewhere(self.plan)
        if self.nodes > 1 and (failed or script_is_over):
            for other in range(self.nodes):
                if other != self.node:
                    self._tell(other, "follow", 0.0 if script_is_over else GANG_GRACE_S)

    def _look(self) -> None:
        """At what is on disk. News is told at once."""
        before = (self.ready, self.started_s, self.end)
        self.ready = self.ready or os.path.exists(f"{self.folder}/{READY}")
        if self.started_s is None and (started := files.read_json(f"{self.folder}/{files.STARTED}")) is not None:
            self.started_s = started["at_s"]
        end = files.read_json(f"{self.folder}/{files.END}")  # before the job's last words are read
        self._hear()
        self._measure()
        if end is not None and self.end is None:
            self.end = end
            self.started_s = end.get("started_s") or self.started_s
            if self._child is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(5)
        if before != (self.ready, self.started_s, self.end):
            self._say()

    def _say(self) -> None:
        self._news += 1
        self._changed.notify_all()

    def _hear(self) -> None:
        try:
            at_ns = os.stat(self.control).st_mtime_ns
        except OSError:
            return
        if at_ns == self._control_ns:
            return
        self._control_ns = at_ns if time.time_ns() - at_ns > 20_000_000 else -1  # it may change again under the same time stamp
        assert self.plan is not None
        words = said(self.control, speakers(self.plan["ranks"]))
        if words != self.said:
            urgent = any(words.get(name) != self.said.get(name) for name in ("checkpointed", "requeue", "acknowledged"))
            self.said = words
            self._words += 1
            self._news += urgent
            self._changed.notify_all()

    def _measure(self) -> None:
        assert self.plan is not None
        sizes = {}
        for name in files.logs(self.plan):
            with contextlib.suppress(OSError):
                about = os.stat(f"{self.folder}/{name}.log")
                sizes[name] = about.st_size if stat.S_ISREG(about.st_mode) else 0
        if sizes != self.sizes:
            self.sizes = sizes
            self._changed.notify_all()

    def _output(self, offsets: Mapping[str, int]) -> tuple[dict[str, tuple[int, bytes]], bool]:
        """New bytes of its logs, and whether that is all of them."""
        logs: dict[str, tuple[int, bytes]] = {}
        room, whole = CHUNK, True
        for name, size in self.sizes.items():
            offset = offsets.get(name, 0)
            if size > offset or (size == 0 and name not in offsets):
                with contextlib.suppress(OSError):
                    begin, text = logs[name] = _read(f"{self.folder}/{name}.log", offset, room)
                    room -= len(text)
                    whole &= begin + len(text) >= size
        return logs, whole

    # -- its supervisor ----------------------------------------------------------------------------------------------------------------

    def _find_supervisor(self) -> int | None:
        who = files.read_json(f"{self.folder}/{files.SUPERVISOR}")
        if who is None or birth(who["pid"]) != who["born"]:
            return None
        try:
            return os.pidfd_open(who["pid"])
        except OSError:
            return None

    def _is_gone(self) -> bool:
        """Without a word of how it ended; `_look` has just been."""
        if self._supervisor is not None:
            poll = select.poll()
            poll.register(self._supervisor, select.POLLIN)
            gone = bool(poll.poll(0))
        elif self._child is not None:
            gone = self._child.poll() is not None
        else:
            gone = True
        return gone and not os.path.exists(f"{self.folder}/{files.END}")

    def _bury(self) -> None:
        assert self.plan is not None
        if remains.clear(self.plan, within_s=1.0):
            end = {"lost": "its supervisor was killed", "started_s": self.started_s, "ended_s": time.time(), "asked": None}
            with contextlib.suppress(OSError):
                files.create_json(f"{self.folder}/{files.END}", end)
            self._look()

    def _poke(self) -> None:
        files.poke(f"{self.folder}/{files.COMMANDS}", "{}")

    # -- the flag ----------------------------------------------------------------------------------------------------------------------

    def _relay(self) -> None:
        """Carry what rank 0 has published; and have it publish so far ahead that no rank has passed it when it comes."""
        try:
            raised = flag.read(self.control)
        except (OSError, ValueError):
            return
        rate = self.said.get("rate") or 0.0
        margin = min(flag.MARGIN_STEPS + int(rate * RELAY_S), MOST_MARGIN_STEPS)
        if margin > raised[flag.MARGIN]:
            self._set_flag(flag.MARGIN, margin)
        fresh = {place: raised[place] for place, before in self._relayed.items() if raised[place] > before}
        if fresh:
            self._relayed |= fresh
            for other in range(1, self.nodes):
                self._tell(other, "publish", fresh)

    def _set_flag(self, place: int, value: int) -> None:
        with contextlib.suppress(OSError):
            flag.put(self.control, place, value)


def _refused(why: str) -> dict[str, Any]:
    return {"refused": why, "started_s": None, "ended_s": time.time(), "asked": None}


def _problem(plan: dict[str, Any], shared: Sequence[str] | None) -> str | None:
    """Why it cannot run on this node, as far as can be told beforehand."""
    cwd = plan["cwd"]
    if not os.path.isdir(cwd):
        return f"its working directory {cwd} is not a folder on this node"
    if shared is not None:
        path, token = shared
        try:
            with open(path, encoding="utf-8") as file:
                seen = file.read(200)
        except OSError:
            seen = ""
        if seen != token:
            return (
                f"this node does not see {os.path.dirname(path)}, where its checkpoints would lie: start `trainmaster up` with "
                "--shared DIR, a folder that all nodes see, or give the job a --checkpoint-dir"
            )
    return None


def _read(path: str, offset: int, most: int) -> tuple[int, bytes]:
    """The next bytes of a log that are not a hole (see `log_bound`), and where they are. It may be a link to a file that the job named;
    a job may have put anything in its place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size <= offset:
            return offset, b""
        try:
            begin = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            begin = about.st_size - 1  # it ends with a hole, whose last byte says how long it is
        end = max(os.lseek(descriptor, begin, os.SEEK_HOLE), begin + 1)
        return begin, os.pread(descriptor, max(min(most, end - begin), 0), begin)
    finally:
        os.close(descriptor)
