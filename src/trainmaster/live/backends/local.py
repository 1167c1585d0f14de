"""This machine: attempts run here under supervisors that outlive the controller.

start     writes the plan into the attempt's folder and asks the fork server for a supervisor      repeatable: a plan is written once
stop      writes the request beside it and has the supervisor look                                repeatable: the nearest deadline holds
observe   what is on disk; only attempts that said that they changed are read again; after a crash of the controller all are

Nothing here waits for a supervisor, a job or the fork server: one thread listens to what they say, starts the fork server anew, asks
again for supervisors that have not come, and clears up after supervisors that were killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2s
from pathlib import Path
from typing import Any

from trainmaster.cluster.cluster import Node
from trainmaster.errors import BackendError, InputError
from trainmaster.live.backends.accepting import LOG_LIMIT, Accepting, Key, of_end, remove, umask
from trainmaster.live.backends.base import Attempt, Capabilities, NodeSeen, Observation, Seen
from trainmaster.live.backends.forks import ForkServer
from trainmaster.live.backends.machine import Machine, this_machine
from trainmaster.live.node import cgroups, limits, lookalikes, remains
from trainmaster.live.node import folder as files
from trainmaster.live.node.linux import birth, free_port
from trainmaster.live.node.plan import plan as plan_of
from trainmaster.live.node.said import said, speakers

ASK_AGAIN_S = 2.0  # for a supervisor that has not come
DUE_S = 1.0  # in which one comes, unless the machine is busy
MUTE_S = 10.0  # a fork server from which none has come for so long, though it was asked, is replaced
SAY_S = 5.0  # a start that takes longer is said in its observation
FORCE_S = 10.0  # a supervisor so long past a deadline is killed itself
TICK_NS = 20_000_000  # a folder changed so recently may change again under the same time stamp

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    """What is known of an attempt that is not forgotten."""

    key: Key
    folder: str
    gpus: list[tuple[str, list[int], float]]  # node, indices, how much of each
    speakers: list[int]  # ranks that acknowledge a stop
    port: int
    has_setup: bool
    since_s: float  # monotonic: when it was accepted, or found
    asked_fork_s: float = 0.0  # monotonic
    supervisor: int | None = None  # pidfd
    gone: bool = False  # the supervisor is, without a word of how it ended
    started_s: float | None = None
    stopping: bool = False
    deadline_s: float = math.inf  # monotonic
    end: dict[str, Any] | None = None
    changed: bool = True
    control_ns: int = -1
    said: dict[str, Any] = field(default_factory=dict)  # by the job, in Observation's names


class LocalBackend(Accepting[_Live]):
    name = "local"
    cannot = "cannot be started here"
    capabilities = Capabilities(pin_nodes=True, pin_gpus=True, share=True)

    def __init__(
        self,
        state_dir: Path | str,
        slots: int | None = None,
        nodes: Sequence[tuple[str, int]] | None = None,
        log_limit: int = LOG_LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`slots`: so many CPU slots instead of this machine's GPUs; `nodes`: several nodes of CPU slots, by name, that all run here;
        `log_limit`: bytes of a rank's log in each attempt, 0 = no limit."""
        super().__init__(state_dir, clock)
        self._machine: Machine = this_machine(slots, None if nodes is None else tuple(nodes))
        self._nodes: dict[str, Node] = {str(node.name): node for node in self._machine.nodes}
        self._cgroup = cgroups.find()
        self._limits = limits.find(*self._cgroup) if self._cgroup is not None else {}
        self._umask, self._log_limit = umask(), log_limit
        self._owed_s = -math.inf  # monotonic: when the fork server was asked for a supervisor, and none has come since
        self._thread: threading.Thread | None = None
        self._closing = False

    # -- life ----------------------------------------------------------------------------------------------------------------------

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        try:
            for name in ("", "/jobs", f"/{files.LIVE}", "/bin"):
                os.makedirs(f"{self.state}{name}", mode=0o700, exist_ok=True)
            lookalikes.install(f"{self.state}/bin")
            self._fifo = files.make_fifo(f"{self.state}/{files.WAKE}")
        except OSError as error:
            raise BackendError(f"{self.state}: the local backend cannot keep its state there: {error}") from None
        self._poll = select.epoll()
        self._poll.register(self._fifo, select.EPOLLIN)
        self._supervisors: dict[int, _Live] = {}  # by pidfd
        self._forks = ForkServer(self.state)
        for key in files.accepted(self.state):  # by a controller before this one; of some perhaps no more than the mark was made
            self._find(key)
        self._thread = threading.Thread(target=self._listen, name="local backend", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The fork server goes too; a controller that crashed leaves it to the next one."""
        self.drop()
        self._forks.quit()

    def drop(self) -> None:
        """As a crash of the controller would: nobody is told."""
        self._closing = True
        if self._thread is not None:
            files.poke(f"{self.state}/{files.WAKE}", "")
            self._thread.join()
            self._thread = None
            with self._lock:
                for descriptor in (*self._supervisors, self._fifo):
                    os.close(descriptor)
                self._supervisors.clear()
                self._poll.close()
                self._forks.hang_up()

    def _find(self, key: Key) -> None:
        """An attempt that an earlier controller had accepted; what it had only begun to accept is as if it had never been."""
        plan = files.read_json(f"{files.attempt_folder(self.state, *key)}/{files.PLAN}")
        if plan is None:
            remove(self._mark(key))
            return
        live = self._remember(key, plan)
        request = files.read_json(f"{live.folder}/{files.STOP}")
        if request is not None:
            live.stopping, live.deadline_s = True, time.monotonic() + request["grace_s"]
            files.poke(f"{live.folder}/{files.COMMANDS}", "{}")  # it may not have been told

    def _remember(self, key: Key, plan: dict[str, Any]) -> _Live:
        gpus = [(one["node"], one["indices"], one["each"]) for one in plan["gpus"]]
        live = _Live(
            key=key, folder=files.attempt_folder(self.state, *key), gpus=gpus, speakers=speakers(plan["ranks"]), port=plan["port"],
            has_setup=bool(plan["setups"]), since_s=time.monotonic(),
        )  # fmt: skip
        self._live[key] = live
        return live

    # -- verbs ---------------------------------------------------------------------------------------------------------------------

    def inventory(self) -> list[NodeSeen]:
        others: tuple[int, ...] = ()
        if self._machine.nvidia is not None:
            with self._lock:
                ours = {index for live in self._live.values() if live.end is None for _, indices, _ in live.gpus for index in indices}
            others = tuple(sorted(self._machine.nvidia.busy() - ours))
        return [
            NodeSeen(name=name, node=node, others_gpus=float(len(others)), others_devices=others) for name, node in self._nodes.items()
        ]

    def stop(self, job: int, attempt: int, *, grace_s: float, reason: str) -> None:
        with self._lock:
            self._refresh_known((job, attempt))
            live = self._live.get((job, attempt))
            if live is None or live.end is not None:
                return
            deadline_s = time.monotonic() + grace_s
            request = {"reason": reason, "grace_s": grace_s, "asked_s": self._clock()}
            with contextlib.suppress(OSError):  # on a full disk the FIFO has to do
                files.write_json(f"{live.folder}/{files.STOP}", request)
            live.stopping, live.deadline_s, live.changed = True, min(deadline_s, live.deadline_s), True
            if live.supervisor is None and not live.gone and self._claimed(live):
                self._end(live, {"exit_code": 128 + signal.SIGTERM, "message": "stopped before it had started", "asked": reason})
            else:
                files.poke(f"{live.folder}/{files.COMMANDS}", json.dumps({"stop": request}))

    def signal(self, job: int, attempt: int, number: int, *, batch_only: bool = False) -> None:
        with self._lock:
            live = self._live.get((job, attempt))
        if live is not None:
            files.poke(f"{live.folder}/{files.COMMANDS}", json.dumps({"signal": number, "batch_only": batch_only}))

    def observe(self) -> list[Observation]:
        with self._lock:
            for live in self._live.values():
                self._refresh(live)
            return [*map(self._observation, self._live.values()), *self._refused.values()]

    def shell(self, job: int, attempt: int) -> Sequence[str]:
        with self._lock:
            live = self._live.get((job, attempt))
            if live is None or live.end is not None or live.started_s is None:
                raise BackendError(f"attempt {attempt} of job {job} does not run here: there is nothing to enter")
        return [*lookalikes.python("enter"), live.folder]

    def report(self) -> dict[str, Any]:
        with self._lock:
            running = sum(live.end is None for live in self._live.values())
        return {
            "accelerators": self._machine.found_by, "cgroups": self._cgroup[0] if self._cgroup else "none: by process tree and environment",
            "limits": _limits_said(self._limits), "log_limit_gib": self._log_limit / 2**30,
            "fork_server": self._forks.pid, "attempts": running, "runs_as": os.getuid(),
            "isolation": "every job runs as this one user: tokens keep people apart at the API, not their processes",
        }  # fmt: skip

    # -- accepting -----------------------------------------------------------------------------------------------------------------

    def _accept(self, attempt: Attempt) -> None:
        """From the moment plan.json is there it will run, whatever becomes of this process."""
        key = (attempt.job, attempt.attempt)
        self._check_number(attempt)
        gpus = self._pick(attempt)
        cwd = attempt.spec.snapshot or attempt.spec.workdir
        if not os.path.isdir(cwd):
            raise InputError(f"its working directory {cwd} is not a folder on this node")
        cgroup, limited = None, []
        if self._cgroup is not None:
            kind, parent = self._cgroup
            whose = blake2s(self.state.encode(), digest_size=4).hexdigest()
            name = f"trainmaster-{whose}-{key[0]}.{key[1]}"
            cgroup = {"kind": kind, "folder": f"{parent}/{name}"}
            cpus, memory_gib = (sum(getattr(share, each) for share in attempt.shares) for each in ("cpus", "memory_gib"))
            limited = limits.plan(self._limits, name, cpus, memory_gib)
        port = self._free_port() if attempt.spec.ranks == "gpu" else 0
        plan = plan_of(attempt, self.state, gpus, port=port, cgroup=cgroup, limits=limited, umask=self._umask,
                       log_limit=self._log_limit)  # fmt: skip
        folder = self._make_folder(key)
        if attempt.spec.script is not None:
            files.write_bytes(f"{folder}/script", attempt.spec.script.encode())
        files.write_json(f"{folder}/{files.PLAN}", plan)
        self._remember(key, plan)

    def _pick(self, attempt: Attempt) -> list[list[int]]:
        """Indices on each node: those that were decided, else whole GPUs lowest first, before them those nobody computes on; a fraction
        where the least is left."""
        busy = set() if self._machine.nvidia is None else self._machine.nvidia.busy()
        used: dict[str, dict[int, float]] = {name: dict.fromkeys(range(node.gpus), 0.0) for name, node in self._nodes.items()}
        for live in self._live.values():
            if live.end is None:
                for name, indices, each in live.gpus:
                    for index in indices if name in used else ():
                        used[name][index] = used[name].get(index, 0.0) + each
        picked = []
        for share in attempt.shares:
            if share.node not in used:
                raise InputError(f"there is no node {share.node} here")
            here = used[share.node]
            if share.devices:
                each = share.gpus / len(share.devices)
                chosen = [index for index in share.devices if index in here and here[index] + each <= 1 + 1e-9]
            elif 0 < share.gpus < 1:
                fits = [index for index in here if here[index] + share.gpus <= 1 + 1e-9]
                chosen = [min(fits, key=lambda index: (-here[index], index))] if fits else []
            else:
                chosen = sorted((index for index in here if here[index] == 0), key=lambda index: (index in busy, index))[: int(share.gpus)]
            if share.gpus and len(chosen) < max(1, int(share.gpus), len(share.devices)):
                held = ", ".join(f"{amount:g}" for amount in here.values())
                raise InputError(f"{share.node} has not {share.gpus:g} of its {len(here)} GPUs free (held of each: {held})")
            for index in chosen:
                here[index] += share.gpus if share.gpus < 1 else 1.0
            picked.append(chosen)
        return picked

    def _free_port(self) -> int:
        """A port that is free now and that no attempt here has been given."""
        given = {live.port for live in self._live.values() if live.end is None}
        while (port := free_port("127.0.0.1")) in given:
            pass
        return port

    def _begin(self, key: Key) -> None:
        self._fork(self._live[key])

    def _runs(self, key: Key) -> bool:
        self._refresh_known(key)
        return (live := self._live.get(key)) is not None and live.end is None

    def _tidy(self, key: Key, live: _Live) -> None:
        for name in (files.COMMANDS, files.STOP, files.STARTED, files.SUPERVISOR, "script", "entered", files.PLAN):
            remove(f"{live.folder}/{name}")
        shutil.rmtree(f"{live.folder}/{files.CONTROL}", ignore_errors=True)

    def _fork(self, live: _Live) -> None:
        live.asked_fork_s = time.monotonic()
        if self._owed_s < self._forks.since_s:
            self._owed_s = live.asked_fork_s
        self._forks.ask(*live.key)

    # -- seeing --------------------------------------------------------------------------------------------------------------------

    def _refresh_known(self, key: Key) -> None:
        if (live := self._live.get(key)) is not None:
            live.changed = True
            self._refresh(live)

    def _refresh(self, live: _Live) -> None:
        if live.changed and live.end is None:
            live.changed = False
            end = files.read_json(f"{live.folder}/{files.END}")
            if end is not None:
                self._owed_s = -math.inf
                self._ended(live, end)
                return
            if live.started_s is None and (started := files.read_json(f"{live.folder}/{files.STARTED}")) is not None:
                live.started_s = started["at_s"]
            if live.supervisor is None and not live.gone:
                self._watch(live)
                if live.gone and (end := files.read_json(f"{live.folder}/{files.END}")) is not None:  # written before it went
                    self._ended(live, end)
        if live.end is None and live.started_s is not None:
            self._hear(live)

    def _watch(self, live: _Live) -> None:
        """Hear of its supervisor's end by a pidfd, whatever that is."""
        who = files.read_json(f"{live.folder}/{files.SUPERVISOR}")
        if who is None:
            return
        self._owed_s = -math.inf
        try:
            descriptor = os.pidfd_open(who["pid"])
        except OSError:
            live.gone = True
            return
        if birth(who["pid"]) != who["born"]:  # the pid is another's by now
            os.close(descriptor)
            live.gone = True
            return
        live.supervisor = descriptor
        self._supervisors[descriptor] = live
        self._poll.register(descriptor, select.EPOLLIN)

    def _claimed(self, live: _Live) -> bool:
        """No supervisor has come, and none shall."""
        try:
            return files.create_json(f"{live.folder}/{files.SUPERVISOR}", {"pid": 0, "born": None})
        except OSError:
            return False  # disk full: one that comes sees stop.json, or is told

    def _unwatch(self, live: _Live) -> None:
        if live.supervisor is not None:
            self._supervisors.pop(live.supervisor, None)
            with contextlib.suppress(OSError):
                self._poll.unregister(live.supervisor)
            os.close(live.supervisor)
            live.supervisor = None

    def _ended(self, live: _Live, end: dict[str, Any]) -> None:
        self._unwatch(live)
        live.control_ns = -1
        self._hear(live)
        live.end = end
        live.started_s = end.get("started_s") or live.started_s

    def _end(self, live: _Live, end: dict[str, Any]) -> None:
        """Write down the end of an attempt that has no supervisor."""
        end = {"started_s": live.started_s, "ended_s": self._clock(), "asked": None, **end}
        with contextlib.suppress(OSError):  # disk full: known here, and found out again by the next controller
            files.create_json(f"{live.folder}/{files.END}", end)
        self._ended(live, end)
        self._wake()

    def _hear(self, live: _Live) -> None:
        """What the job has said in its control folder, if that has changed."""
        control = f"{live.folder}/{files.CONTROL}"
        try:
            at_ns = os.stat(control).st_mtime_ns
        except OSError:
            return
        if at_ns == live.control_ns:
            return
        live.control_ns = at_ns if time.time_ns() - at_ns > TICK_NS else -1
        live.said = said(control, live.speakers)

    def _observation(self, live: _Live) -> Observation:
        if live.end is not None:
            return of_end(live.key, live.end, live.started_s, live.said)
        seen = Seen.DRAINING if live.stopping else Seen.RUNNING if live.started_s is not None else Seen.STARTING
        return Observation(
            job=live.key[0], attempt=live.key[1], seen=seen, started_s=live.started_s, asked_to_stop=live.stopping,
            message=self._trouble(live), **live.said,
        )  # fmt: skip

    def _trouble(self, live: _Live) -> str:
        now_s = time.monotonic()
        if live.gone:
            return "its supervisor is gone; what is left of it is being killed"
        if live.stopping and now_s > live.deadline_s + 1:
            return f"not gone {now_s - live.deadline_s:.0f} s past its deadline, although it was killed"
        waited_s = now_s - live.since_s
        if live.started_s is None and waited_s > SAY_S:
            there = "its setup runs" if live.has_setup else "its supervisor has not started it"
            return f"{there if live.supervisor is not None else 'no supervisor yet'}, after {waited_s:.0f} s"
        return ""

    # -- the thread ----------------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        chores_s = 0.0
        while not self._closing:
            try:
                for descriptor, _ in self._poll.poll(self._forks.patience_s):
                    with self._lock:
                        if descriptor == self._fifo:
                            self._poked(os.read(self._fifo, 1 << 16))
                        elif descriptor in self._supervisors and self._left(self._supervisors[descriptor]):
                            chores_s = 0.0
                    self._wake()
                self._forks.attend()
                if time.monotonic() > chores_s:
                    chores_s = time.monotonic() + 0.5
                    self._chores()
            except Exception:  # seen by the operator; the next round tries again
                log.exception("local backend")
                time.sleep(0.5)

    def _left(self, live: _Live) -> bool:
        """Its supervisor has ended. True: without a word."""
        if live.supervisor is None or not _readable(live.supervisor):
            return False  # the event was of another, whose descriptor had this number before
        live.changed = True
        self._refresh(live)
        if live.end is None:
            self._unwatch(live)
            live.gone = True
        return live.gone

    def _poked(self, lines: bytes) -> None:
        if len(lines) > 1 << 15:  # others may not have fitted in
            for live in self._live.values():
                live.changed = True
        for line in lines.splitlines():
            job, _, attempt = line.partition(b" ")
            known = job.isdigit() and attempt.isdigit() and len(line) < 100  # a job can write here, too
            named = self._live.get((int(job), int(attempt))) if known else None
            if named is not None:
                named.changed = True

    def _chores(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            unended = [live for live in self._live.values() if live.end is None]
            mute = False
            for live in unended:
                if live.supervisor is None or now_s > live.deadline_s:
                    live.changed = True
                    self._refresh(live)
                if live.end is None and live.supervisor is None and not live.gone:
                    # not by the age of this attempt: each may be given up before a mute server is found out
                    mute |= now_s > live.since_s + DUE_S and self._forks.since_s < self._owed_s < now_s - MUTE_S
                    if now_s > live.asked_fork_s + ASK_AGAIN_S:
                        self._fork(live)
                if live.supervisor is not None and now_s > live.deadline_s + FORCE_S:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(live.supervisor, signal.SIGKILL)
            if mute:
                self._forks.start_anew()
            gone = [live for live in unended if live.gone and live.end is None]
        for live in gone:
            plan = files.read_json(f"{live.folder}/{files.PLAN}")
            if plan is None or remains.clear(plan, within_s=0.5):
                with self._lock:
                    self._end(live, {"lost": "its supervisor was killed", "asked": "asked" if live.stopping else None})


def _limits_said(found: limits.Found) -> str:
    names = {"cpu": "CPUs", "memory": "memory"}
    held = [f"{names[controller]} by cgroup {version}" for controller, (version, _) in found.items()]
    return ", ".join(held) if held else "none: a job may use more CPUs and memory than it asked for"


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
