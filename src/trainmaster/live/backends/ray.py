"""Ray: an attempt is a placement group with one detached actor a node, which runs the supervisor there.

start     writes the order into the state folder and tells the bridge     repeatable: an order is written once
stop      the same with the request                                       repeatable: the nearest deadline holds
observe   what the bridge has said last, without asking anybody

Everything that calls Ray is in a process of its own (see `ray_bridge`): when Ray's head goes away, what is seen is UNKNOWN, and that
process is started anew until it reaches a head again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainmaster.cluster.accelerators import canonical
from trainmaster.cluster.cluster import Node
from trainmaster.errors import BackendError, InputError
from trainmaster.live.backends.accepting import LOG_LIMIT, Accepting, Key, remove
from trainmaster.live.backends.base import Attempt, Capabilities, NodeSeen, Observation, Seen
from trainmaster.live.node import folder as files
from trainmaster.live.node import lookalikes

ROOT = Path(__file__).parents[3]
MAIN = (
    "import sys; sys.path.insert(0, sys.argv[1]); from trainmaster.live.backends.ray_bridge import main; "
    "main(sys.argv[2], sys.argv[3], sys.argv[4] or None, sys.argv[5], int(sys.argv[6]))"
)
CONNECT_S = 60.0  # for the bridge to reach Ray; then another is tried
MUTE_S = 30.0  # a bridge that says nothing for so long is replaced
AGAIN_S = 1.0  # before the next bridge is started
AWAY_S = 6.0  # so long what was seen last holds without Ray
CLOSE_S = 5.0
LOG_BYTES = 1 << 20  # of what earlier bridges have said, when another is started

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    """An attempt that is not forgotten."""

    gpus: dict[str, float]  # by node
    seen: Observation

    @property
    def over(self) -> bool:
        return self.seen.seen in (Seen.ENDED, Seen.LOST, Seen.REFUSED)


class RayBackend(Accepting[_Live]):
    name = "ray"
    cannot = "cannot be accepted"
    capabilities = Capabilities(pin_nodes=True, share=True, drivers=True)

    def __init__(
        self, state_dir: Path | str, address: str, *, shared: Path | str | None = None, node_folder: Path | str | None = None,
        log_limit: int = LOG_LIMIT, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`shared`: a folder that all nodes see, for checkpoints (else the state folder, if they see that). `node_folder`: where each
        node keeps what its attempts need while they run (else below /var/tmp). `log_limit`: bytes of a rank's log, there and here;
        0 = no limit."""
        host, _, port = address.rpartition(":")
        if "://" in address or not host or not port.isdecimal():
            raise InputError(f"--address {address}: give HOST:PORT of Ray's head; `up` itself runs on a machine of the cluster")
        if find_spec("ray") is None:
            raise InputError("--backend ray: Ray is not installed beside Trainmaster: pip install 'trainmaster[ray]'")
        super().__init__(state_dir, clock)
        self.address = address
        self.shared = os.path.abspath(shared or self.state)
        self._log_limit = log_limit
        self._base = "" if node_folder is None else os.path.abspath(node_folder)
        self._nodes: dict[str, NodeSeen] = {}
        self._bridge: subprocess.Popen[bytes] | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._heard_s = -math.inf  # monotonic: when Ray last answered
        self._trouble = f"Ray has not answered within {CONNECT_S:g} s"
        self._first = threading.Event()  # the bridge has said something that matters

    # -- life ----------------------------------------------------------------------------------------------------------------------

    def open(self, wake: Callable[[], None]) -> None:
        """Without an attempt to take up, Ray must be there: an address that is wrong is said at once."""
        self._wake = wake
        try:
            for name in ("", "/jobs", f"/{files.LIVE}"):
                os.makedirs(f"{self.state}{name}", mode=0o700, exist_ok=True)
        except OSError as error:
            raise BackendError(f"{self.state}: the Ray backend cannot keep its state there: {error}") from None
        self._nodes = {
            name: _node(about, up=False, reason="Ray has not been reached yet")
            for name, about in (files.read_json(f"{self.state}/ray-nodes.json") or {}).items()
        }
        for key in files.accepted(self.state):  # by a controller before this one; of some perhaps no more than the mark was made
            self._find(key)
        self._heard_s = time.monotonic()
        self._thread = threading.Thread(target=self._listen, name="ray backend", daemon=True)
        self._thread.start()
        self._first.wait(CONNECT_S)
        if not self._live and not self._nodes:
            trouble = self._trouble
            self.drop()
            raise BackendError(f"--address {self.address}: {trouble}")

    def close(self) -> None:
        self.drop()

    def drop(self) -> None:
        """The bridge goes with its controller, however that goes."""
        self._closing = True
        if self._bridge is not None:
            with contextlib.suppress(OSError):
                self._bridge.kill()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            self._thread = None

    def _find(self, key: Key) -> None:
        """An attempt that an earlier controller had accepted; what it had only begun to accept is as if it had never been."""
        order = files.read_json(f"{files.attempt_folder(self.state, *key)}/order.json")
        if order is None:
            remove(self._mark(key))
            return
        begun = os.path.exists(f"{files.attempt_folder(self.state, *key)}/begun.json")
        self._remember(key, order, Seen.UNKNOWN if begun else Seen.STARTING)

    def _remember(self, key: Key, order: dict[str, Any], seen: Seen) -> None:
        gpus = {share["node"]: float(share["gpus"]) for share in order["shares"]}
        self._live[key] = _Live(gpus, Observation(job=key[0], attempt=key[1], seen=seen))

    # -- verbs ---------------------------------------------------------------------------------------------------------------------

    def inventory(self) -> list[NodeSeen]:
        with self._lock:
            away = self._away()
            return [replace(node, up=False, reason=away) if away and node.up else node for node in self._nodes.values()]

    def stop(self, job: int, attempt: int, *, grace_s: float, reason: str) -> None:
        key = (job, attempt)
        with self._lock:
            live = self._live.get(key)
            if live is None or live.over:
                return
            path = f"{files.attempt_folder(self.state, *key)}/{files.STOP}"
            now_s = self._clock()
            earlier = files.read_json(path)
            if earlier is not None:
                grace_s = max(0.0, min(grace_s, earlier["asked_s"] + earlier["grace_s"] - now_s))
            try:
                files.write_json(path, {"reason": reason, "grace_s": grace_s, "asked_s": now_s})
            except OSError as error:
                raise BackendError(f"the stop of attempt {attempt} of job {job} cannot be written down: {error}") from None
            live.seen = replace(live.seen, seen=Seen.DRAINING, asked_to_stop=True)
            self._tell(stop=key)

    def signal(self, job: int, attempt: int, number: int, *, batch_only: bool = False) -> None:
        with self._lock:
            self._tell(signal=(job, attempt, number, batch_only))

    def observe(self) -> list[Observation]:
        with self._lock:
            away = self._away()
            seen = [
                replace(live.seen, seen=Seen.UNKNOWN, message=away) if away and not live.over and live.seen.seen is not Seen.STARTING
                else live.seen for live in self._live.values()
            ]  # fmt: skip
            return [*seen, *self._refused.values()]

    def shell(self, job: int, attempt: int) -> Sequence[str]:
        begun = files.read_json(f"{files.attempt_folder(self.state, job, attempt)}/begun.json")
        with self._lock:
            live = self._live.get((job, attempt))
            if begun is None or live is None or live.over or live.seen.started_s is None:
                raise BackendError(f"attempt {attempt} of job {job} does not run: there is nothing to enter")
        first = begun["parts"][0]
        folder = os.path.dirname(first["plan"]["env"]["TRAINMASTER_CONTROL"])
        if not os.path.exists(f"{folder}/{files.PLAN}"):
            raise BackendError(f"attempt {attempt} of job {job} runs on {first['node']}: a shell can be opened from that machine alone")
        return [*lookalikes.python("enter"), folder]

    def report(self) -> dict[str, Any]:
        with self._lock:
            running = sum(not live.over for live in self._live.values())
            return {
                "address": self.address, "answers": not self._away(), "trouble": self._away(), "attempts": running, "shared": self.shared,
                "bridge": None if self._bridge is None else self._bridge.pid,
                "isolation": "every job runs as the user of Ray's nodes: tokens keep people apart at the API, not their processes",
            }  # fmt: skip

    # -- accepting -----------------------------------------------------------------------------------------------------------------

    def _accept(self, attempt: Attempt) -> None:
        """From the moment order.json is there it will run, whatever becomes of this process."""
        key = (attempt.job, attempt.attempt)
        self._check_number(attempt)
        self._check_room(attempt)
        folder = self._make_folder(key)
        order = {**asdict(attempt), "spec": attempt.spec.model_dump(mode="json")}
        files.write_json(f"{folder}/order.json", order)
        self._remember(key, order, Seen.STARTING)

    def _begin(self, key: Key) -> None:
        self._tell(start=key)

    def _runs(self, key: Key) -> bool:
        return (live := self._live.get(key)) is not None and not live.over

    def _tidy(self, key: Key, live: _Live) -> None:
        for name in ("order.json", "begun.json", files.STOP):
            remove(f"{files.attempt_folder(self.state, *key)}/{name}")
        self._tell(forget=key)

    def _check_room(self, attempt: Attempt) -> None:
        """Ray would let it wait for ever for what the nodes have not, or have not free of ours."""
        for share in attempt.shares:
            node = self._nodes.get(share.node)
            if node is None or not node.up:
                raise InputError(f"there is no node {share.node} in Ray's cluster now")
            held = sum(live.gpus.get(share.node, 0.0) for live in self._live.values() if not live.over)
            if share.gpus + held > node.node.gpus + 1e-9:
                raise InputError(f"{share.node} has not {share.gpus:g} of its {node.node.gpus} GPUs free ({held:g} are held)")

    # -- the bridge ----------------------------------------------------------------------------------------------------------------

    def _away(self) -> str:
        """Since when Ray does not answer, if that is so for long."""
        silent_s = time.monotonic() - self._heard_s
        return f"Ray at {self.address} does not answer for {silent_s:.0f} s: {self._trouble}" if silent_s > AWAY_S else ""

    def _tell(self, **what: Sequence[Any]) -> None:
        """A bridge that does not hear it is replaced, and the next finds it in the folder."""
        if self._bridge is not None and self._bridge.stdin is not None:
            try:
                self._bridge.stdin.write(json.dumps(what).encode() + b"\n")
                self._bridge.stdin.flush()
            except BlockingIOError:  # it does not read, and half a line may have gone to it
                self._bridge.kill()
            except (OSError, ValueError):
                pass

    def _listen(self) -> None:
        while not self._closing:
            try:
                self._serve()
            except Exception as error:  # seen by the operator; the next one tries again
                log.exception("ray backend")
                self._trouble = str(error)
            self._wake()
            until_s = time.monotonic() + AGAIN_S
            while not self._closing and time.monotonic() < until_s:
                time.sleep(0.05)

    def _serve(self) -> None:
        """One bridge, from its start until it goes."""
        argv = [sys.executable, "-c", MAIN, str(ROOT), self.address, self.state, self._base, self.shared, str(self._log_limit)]
        with open(f"{self.state}/ray-bridge.log", "ab", opener=files.private) as errors:
            if errors.tell() > LOG_BYTES:
                errors.truncate(0)
            bridge = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd="/")
        assert bridge.stdout is not None and bridge.stdin is not None
        os.set_blocking(bridge.stdin.fileno(), False)
        with self._lock:
            self._bridge = bridge
        heard_s, lines = time.monotonic() + CONNECT_S - MUTE_S, b""
        try:
            while not self._closing:
                ready, _, _ = select.select([bridge.stdout], [], [], 0.5)
                if ready:
                    more = os.read(bridge.stdout.fileno(), 1 << 20)
                    if not more:
                        break
                    heard_s = max(heard_s, time.monotonic())
                    *whole, lines = (lines + more).split(b"\n")
                    changes = [self._hear(json.loads(line)) for line in whole]
                    if any(changes):
                        self._wake()
                elif time.monotonic() > heard_s + MUTE_S:
                    self._trouble = "its bridge hangs"
                    break
        finally:
            bridge.kill()
            bridge.wait()

    def _hear(self, said: dict[str, Any]) -> bool:
        """True: something is not as it was."""
        with self._lock:
            was_away = bool(self._away())
            if "failed" in said or "away" in said:
                self._trouble = str(said.get("failed") or said.get("away"))
                if "failed" in said:
                    self._first.set()
            if "nodes" in said or "alive" in said:
                self._heard_s = time.monotonic()
            if "nodes" in said:
                self._take_nodes(said["nodes"])
                self._first.set()
            if "seen" in said:
                seen = Observation(**{**said["seen"], "seen": Seen(said["seen"]["seen"])})
                live = self._live.get((seen.job, seen.attempt))
                if live is not None and not live.over:
                    live.seen = seen
            return "nodes" in said or "seen" in said or was_away

    def _take_nodes(self, nodes: list[dict[str, Any]]) -> None:
        """A node that Ray names no more stays, as one that is down, for as long as this controller lives."""
        before = self._nodes
        named = {name: replace(node, up=False, reason="Ray names it no more") for name, node in before.items()}
        for about in nodes:
            node = _node(about, up=about["up"], reason=about["reason"])
            known = named.get(node.name)  # of a dead node Ray does not say what it had
            named[node.name] = node if node.up or known is None else replace(known, reason=node.reason)
        self._nodes = {name: named[name] for name in sorted(named)}
        if before.keys() != self._nodes.keys() or not os.path.exists(f"{self.state}/ray-nodes.json"):
            held = {name for live in self._live.values() for name in live.gpus}
            kept = files.read_json(f"{self.state}/ray-nodes.json") or {}
            now = {name: about for name, about in kept.items() if name in held} | {about["name"]: about for about in nodes if about["up"]}
            with contextlib.suppress(OSError):
                files.write_json(f"{self.state}/ray-nodes.json", now)


def _node(about: dict[str, Any], *, up: bool, reason: str) -> NodeSeen:
    node = Node(
        name=about["name"], gpus=about["gpus"], type=canonical(about["type"]) if about["type"] else "", cpus=about["cpus"],
        memory_gib=about["memory_gib"],
    )  # fmt: skip
    return NodeSeen(name=about["name"], node=node, up=up, reason=reason, others_gpus=about["others_gpus"])
