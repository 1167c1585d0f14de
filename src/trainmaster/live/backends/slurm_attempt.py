"""An attempt under Slurm, as its folder tells it: who has begun, who has ended, how it went as a whole.

One attempt is one Slurm job, but for a gang with different amounts on its nodes: Slurm's jobs are even, so that is one Slurm job for each
amount, and their supervisors meet in the folder. (Its heterogeneous jobs would wait for the backfill scheduler.)
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainmaster.live.backends.accepting import Key, of_end
from trainmaster.live.backends.base import Observation, Seen
from trainmaster.live.backends.slurm_commands import Submission
from trainmaster.live.backends.slurm_parsing import Row
from trainmaster.live.node import folder as files
from trainmaster.live.node import gang
from trainmaster.live.node.said import said

CLAIMED: Mapping[str, Any] = {"pid": 0, "born": None}  # of a supervisor.json: none has come, and none shall
LEASE_S = 12.0  # a node that has not moved for so long has ended what it ran (gang.CUT_OFF_S), or is gone
TICK_NS = 20_000_000  # a folder changed so recently may change again under the same time stamp


@dataclass(slots=True)
class Part:
    """One of its Slurm jobs."""

    asked: Submission
    nodes: list[int]  # of the attempt, by number
    submitted: bool | None = False  # None: sbatch was called, by us or by a controller before, and only a look says what came of it
    id: int | None = None  # Slurm's, for who asks about it
    failures: int = 0
    error: str = ""
    rows: list[Row] = field(default_factory=list)  # in squeue: one, none, or more after a lost acknowledgement


@dataclass(slots=True)
class Launched:
    """What is known of an attempt that is not forgotten."""

    key: Key
    folder: str
    nodes: list[dict[str, Any]]  # name, slurm_node, part, gpus
    parts: list[Part]
    in_a_gang: bool  # every rank acknowledges a stop; else rank 0 speaks for all
    since_s: float  # monotonic
    begun: dict[int, dict[str, Any]] = field(default_factory=dict)  # node -> its supervisor.json
    claimed: set[int] = field(default_factory=set)
    ends: dict[int, dict[str, Any]] = field(default_factory=dict)
    alive: dict[int, tuple[int, float]] = field(default_factory=dict)  # node -> time stamp, and when (monotonic) it was first seen so
    started_s: float | None = None
    stopping: bool = False
    deadline_s: float = math.inf  # monotonic
    forced_s: float = 0.0  # monotonic: when it was last cancelled for being late
    lost: str | None = None  # why it is given up; it has not ended yet
    end: dict[str, Any] | None = None
    ended_s: float = math.inf  # monotonic: when that was found out
    changed: bool = True
    control_ns: int = -1
    said: dict[str, Any] = field(default_factory=dict)

    # -- reading ---------------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """What is new on disk, if something is. `end` is set once the whole is over."""
        if self.end is not None or not self.changed:
            return
        self.changed = False
        end = files.read_json(f"{self.folder}/{files.END}")  # found by a controller before this one
        if end is not None:
            self.over(end)
            return
        for node in range(len(self.nodes)):
            self._refresh(node)
        if self.ends and len(self.begun) + len(self.claimed) < len(self.nodes):
            self.claim()  # one has ended before all had come: none starts any more
        if self.started_s is None and (started := files.read_json(f"{gang.own_folder(self.folder, 0)}/{files.STARTED}")) is not None:
            self.started_s = started["at_s"]
        self._hear()
        if self.lost is None and self.begun and len(self.ends) + len(self.claimed) == len(self.nodes):
            end = whole(self.ends, self.in_a_gang)
            if end["asked"] == "node" and not self.stopping and (end.get("exit_code") or end.get("acknowledged")):
                end = {**end, "lost": "Slurm ended it (scancel, its own preemption or time limit, a node that goes down)", "asked": None}
            self.write_end(end)

    def _refresh(self, node: int) -> None:
        if node in self.ends or node in self.claimed:
            return
        own = gang.own_folder(self.folder, node)
        if node not in self.begun:
            first = files.read_json(f"{own}/{files.SUPERVISOR}")
            if first is None:
                return
            if not first["pid"]:
                self.claimed.add(node)
                return
            self.begun[node] = first
        end = files.read_json(f"{own}/{files.END}")
        if end is not None:
            self.ends[node] = end

    def _hear(self) -> None:
        """What the job has said in its first node's control folder, if that has changed; its wish to be run again, in any."""
        control = f"{gang.own_folder(self.folder, 0)}/{files.CONTROL}"
        try:
            at_ns = os.stat(control).st_mtime_ns
        except OSError:
            return
        if at_ns != self.control_ns or self.ends:
            self.control_ns = at_ns if time.time_ns() - at_ns > TICK_NS else -1
            self.said = said(control, [0])
        if not self.said.get("requeue"):
            elsewhere = (f"{gang.own_folder(self.folder, node)}/{files.CONTROL}/requeue" for node in self.begun if node)
            self.said["requeue"] = any(map(os.path.exists, elsewhere))

    # -- giving up -------------------------------------------------------------------------------------------------------------------

    def claim(self) -> bool:
        """Of the nodes whose supervisor has not come, none shall. True: none has come at all, so nothing of it ever runs."""
        for node in range(len(self.nodes)):
            if node not in self.begun and node not in self.claimed:
                with contextlib.suppress(OSError):  # disk full: one that comes sees stop.json
                    if files.create_json(f"{gang.own_folder(self.folder, node)}/{files.SUPERVISOR}", CLAIMED):
                        self.claimed.add(node)
                    else:
                        self._refresh(node)
        return len(self.claimed) == len(self.nodes)

    def ask_to_stop(self, reason: str, grace_s: float) -> None:
        """One file holds the last request: it has the nearest deadline of all."""
        self.deadline_s = min(self.deadline_s, time.monotonic() + grace_s)
        left_s = max(0.0, self.deadline_s - time.monotonic())
        with contextlib.suppress(OSError):
            files.write_json(f"{self.folder}/{files.STOP}", {"reason": reason, "grace_s": left_s})
        self.poke()

    def poke(self) -> None:
        """Supervisors on this machine hear it at once, others when they next look."""
        for node in self.begun:
            files.poke(f"{gang.own_folder(self.folder, node)}/{files.COMMANDS}", "{}")

    def silent(self, now_s: float) -> list[int]:
        """Nodes that have begun and not ended, and are known to be gone: no process, or no sign of life for a lease."""
        gone = []
        for node, them in self.begun.items():
            if node in self.ends:
                continue
            try:
                at_ns = os.stat(f"{gang.own_folder(self.folder, node)}/{gang.ALIVE}").st_mtime_ns
            except OSError:
                at_ns = 0
            if self.alive.get(node, (-1, 0.0))[0] != at_ns:
                self.alive[node] = (at_ns, now_s)
            if gang.is_dead(them) or now_s - self.alive[node][1] > LEASE_S:
                gone.append(node)
        return gone

    # -- the end ---------------------------------------------------------------------------------------------------------------------

    def write_end(self, end: dict[str, Any]) -> None:
        """Once, for this controller and those after it."""
        end = {"started_s": self.started_s, "asked": None, **end}
        with contextlib.suppress(OSError):  # disk full: known here, and found out again by the next controller
            if not files.create_json(f"{self.folder}/{files.END}", end):
                end = files.read_json(f"{self.folder}/{files.END}") or end
        self.over(end)

    def over(self, end: dict[str, Any]) -> None:
        self.end = end
        self.ended_s = time.monotonic()
        self.started_s = end.get("started_s") or self.started_s
        self.control_ns = -1
        self._hear()

    def observation(self, message: str) -> Observation:
        end = self.end
        words = {name: value for name, value in self.said.items() if name != "acknowledged"}
        if end is None:
            seen = Seen.DRAINING if self.stopping else Seen.RUNNING if self.started_s is not None else Seen.STARTING
            return Observation(job=self.key[0], attempt=self.key[1], seen=seen, started_s=self.started_s, asked_to_stop=self.stopping,
                               message=message, **words)  # fmt: skip
        return of_end(self.key, end, self.started_s, {**words, "acknowledged": bool(end.get("acknowledged"))})


def whole(ends: Mapping[int, dict[str, Any]], in_a_gang: bool) -> dict[str, Any]:
    """How an attempt ended whose nodes have ended: as the node that failed first. Nodes that ended because of others say nothing."""
    own = [end for end in ends.values() if not end.get("follows")] or list(ends.values())
    asked = next((end["asked"] for end in ends.values() if end["asked"] is not None), None)
    started = [end["started_s"] for end in ends.values() if end.get("started_s") is not None]
    about = {"started_s": min(started, default=None), "ended_s": max(end["ended_s"] for end in ends.values()), "asked": asked}
    for what in ("lost", "refused"):
        for end in own:
            if what in end:
                return {what: end[what], **about}
    failed = sorted((end for end in own if end["exit_code"]), key=lambda end: end.get("failed_s") or math.inf)
    first = failed[0] if failed else own[0]
    speak = list(ends.values()) if in_a_gang else [ends[node] for node in (0,) if node in ends]
    acknowledged = bool(speak) and all(end.get("acknowledged") for end in speak)
    return {"exit_code": first["exit_code"], "message": first.get("message", ""), "acknowledged": acknowledged, **about}
