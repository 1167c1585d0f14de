"""The process between the controller and Ray: everything that calls Ray is here, where it may hang, crash, or take the process with it.

Ray ends a process that is connected to it when its raylet or head is gone for long: so the controller never connects. It starts this
one, and another when this one goes; both know what there is to do from the state folder, and lines of JSON say when to look:

    is told     {"start": [7, 1]}, {"stop": [7, 1]}, {"signal": [7, 1, 10, false]}, {"forget": [7, 1]}
    says        {"nodes": [...]} or {"alive": true} every second while Ray answers; {"away": "..."} while it does not; {"seen": {...}}

    STATE/live/JOB.ATTEMPT        an attempt that is not forgotten
    STATE/jobs/JOB/ATTEMPT/
        order.json                the attempt, from the controller
        begun.json                the plan of each node, written before any of them may run: what was begun is never begun a second time
        stop.json, end.json       as on a node; R.log are the nodes' logs, as far as they have come
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import re
import socket
import sys
import threading
import time
import traceback
import zlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2s
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from trainmaster.errors import InputError
from trainmaster.live.backends import ray_actor
from trainmaster.live.backends.accepting import Key, of_end
from trainmaster.live.backends.base import Attempt, NodeShare
from trainmaster.live.backends.ray_spares import Spares
from trainmaster.live.node import folder as files
from trainmaster.live.node.log_bound import Bound
from trainmaster.live.node.plan import plan as plan_of
from trainmaster.live.node.supervisor import GANG_GRACE_S
from trainmaster.live.node.tied import ORPHAN_GRACE_S, ORPHANED
from trainmaster.live.spec import JobSpec

T = TypeVar("T")

CALL_S = 10.0  # for any answer of Ray that waits for nothing
ROOM_S = 1.0  # for what was given back to show in Ray's books
ROOM_LOOK_S = 0.03
PLACE_S = 20.0  # for a placement group on nodes that have the room; then somebody else has taken it
ACTOR_S = 60.0  # for an actor to start in it
WATCH_S = 20.0
REFRESH_S = 1.0
GIVE_UP_S = 90.0  # with Ray mute for so long this process makes way for a fresh one
SETTLE_S = ray_actor.LOOK_S + ORPHAN_GRACE_S + 2.0  # after Ray has found a node dead, what ran there has ended by then
LEASE_S = ray_actor.LEASE_S + ray_actor.ANSWER_S + SETTLE_S  # the same of a node that Ray knows nothing of
CLEAR_S = 5.0
DRAIN_S = 60.0  # for the output of an attempt that has ended
QUIET_S = 0.3  # output and words of jobs come at most so often
LOOKS_A_S = 400.0  # and, of all jobs together, at most so often a second
MOST_RESTARTS = 3  # of an actor whose process was killed: it takes up what is on its node
SAY_S = 5.0
INLINE_BYTES = 90 << 10  # Ray's limit is 100 KiB
LOG_NAME = re.compile(r"[0-9]{1,7}(\.err)?")
CODE = ("__init__.py", "live/__init__.py", "live/backends/__init__.py", "live/node/__init__.py")


class Refused(Exception):
    """It cannot be started; the message says why."""


class Stopped(Exception):
    """It was asked to stop before any of it was begun."""


@dataclass(slots=True)
class Part:
    """One node's share."""

    index: int
    node: str
    node_id: str
    plan: dict[str, Any] = field(default_factory=dict)
    actor: Any = None
    news: int = -1
    words: int = -1
    begun: bool = False
    ready: bool = False
    started_s: float | None = None
    said: dict[str, Any] = field(default_factory=dict)
    own: bool = True  # its end is not the consequence of another's
    end: dict[str, Any] | None = None
    over: bool = False  # it has ended, and its output is here
    trouble: str = ""
    missed_s: float | None = None  # monotonic: since when its actor does not answer


def main(address: str, state: str, base: str | None, shared: str, log_limit: int) -> None:
    says = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Ray prints is for the log
    threading.Thread(target=_start_to_listen, daemon=True).start()
    os.environ |= {"RAY_SCHEDULER_EVENTS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of every actor that is what ours are
    namespace = namespace_of(state)
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CALL_S).close()  # Ray itself would try for a minute
        ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except Exception as error:  # whatever it is, it is the operator's to read
        says.write(json.dumps({"failed": _line(error)}) + "\n")
        os._exit(1)
    asyncio.run(Bridge(state, namespace, base, shared, log_limit, says.write).run())


_TOLD: list[str] = []
_TOLD_HERE = threading.Condition()


def _start_to_listen() -> None:
    """Its controller has gone when there is nothing more to read: so does this."""
    for line in sys.stdin:
        with _TOLD_HERE:
            _TOLD.append(line)
            _TOLD_HERE.notify()
    os._exit(0)


def namespace_of(state: str) -> str:
    """Made once for a state folder: two controllers on one cluster of Ray do not see each other's attempts."""
    path = f"{state}/ray.json"
    files.create_json(path, {"namespace": f"trainmaster-{os.urandom(5).hex()}"})
    return str((files.read_json(path) or {})["namespace"])


def shared_token(shared: str) -> tuple[str, str]:
    """A file by which a node can tell that it sees this folder."""
    os.makedirs(shared, mode=0o700, exist_ok=True)
    path = f"{shared}/.trainmaster-shared"
    files.create_json(path, {"token": os.urandom(16).hex()})
    with open(path, encoding="utf-8") as file:
        return path, file.read(200)


class Bridge:
    def __init__(
        self, state: str, namespace: str, base: str | None, shared: str, log_limit: int, write: Callable[[str], Any]
    ) -> None:  # fmt: skip
        self.state, self.namespace, self.base, self.shared, self.log_limit = state, namespace, base, shared, log_limit
        self.token = shared_token(shared)
        self.bounds_logs = log_limit > 0
        self._write = write
        ray.cloudpickle.register_pickle_by_value(ray_actor)
        self.code, self.version = _code()
        self.holder = ray.remote(ray_actor.Holder)
        self.spares = Spares()
        self.gangs: dict[Key, Gang] = {}
        self.nodes: dict[str, dict[str, Any]] = {}  # by id, as Ray has them
        self.available: dict[str, dict[str, float]] = {}
        self.nodes_s = 0.0  # monotonic: when that was
        self._looking: asyncio.Task[None] | None = None
        self.dead_s: dict[str, float] = {}  # monotonic: since when a node is seen dead
        self.names = dict(files.read_json(f"{state}/ray-names.json") or {})  # of nodes, by id
        self.told: list[dict[str, Any]] = []
        self.others: dict[str, float] = {}  # GPUs that others hold, by node id, as seen last
        self.umask = os.umask(0o077)
        os.umask(self.umask)

    def say(self, **what: Any) -> None:
        self._write(json.dumps(what) + "\n")

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(64))
        threading.Thread(target=self._listen, args=(loop,), daemon=True).start()
        await self._refresh()
        for key in files.accepted(self.state):
            self.take(key)
        swept = await self._sweep()
        while True:
            await asyncio.sleep(REFRESH_S)
            await self._refresh()
            swept = swept or await self._sweep()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with _TOLD_HERE:
                while not _TOLD:
                    _TOLD_HERE.wait()
                lines = list(_TOLD)
                _TOLD.clear()
            for line in lines:
                loop.call_soon_threadsafe(self._obey, json.loads(line))

    def _obey(self, told: dict[str, Any]) -> None:
        for verb, (job, attempt, *more) in told.items():
            key = (job, attempt)
            if verb == "start":
                self.take(key)
            elif verb == "forget":
                self.gangs.pop(key, None)
            elif key in self.gangs:
                if verb == "stop":
                    self.gangs[key].ask_to_stop()
                else:
                    self.gangs[key].signal(*more)

    def take(self, key: Key) -> None:
        if key not in self.gangs:
            order = files.read_json(f"{files.attempt_folder(self.state, *key)}/order.json")
            if order is not None:
                self.gangs[key] = gang = Gang(self, key, order)
                gang.task = asyncio.create_task(gang.run())

    # -- the cluster -----------------------------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        try:
            nodes, available = await within(CALL_S, _look_at_nodes)
        except (TimeoutError, RayError, OSError, RuntimeError) as error:
            silent_s = time.monotonic() - self.nodes_s
            self.say(away=f"Ray's head does not answer: {_line(error)}")
            if self.nodes_s and silent_s > GIVE_UP_S:
                os._exit(1)
            return
        self.nodes, self.available, self.nodes_s = nodes, available, time.monotonic()
        for id, node in nodes.items():
            if not node["Alive"]:
                self.dead_s.setdefault(id, self.nodes_s)
        names = name_nodes(list(nodes.values()), self.names)
        if names != self.names:
            self.names = names
            files.write_json(f"{self.state}/ray-names.json", names)
        inventory = self._inventory()
        self.say(**({"nodes": inventory} if inventory != self.told else {"alive": True}))
        self.told = inventory
        for raylet, number in self.spares.missing(nodes):
            background(asyncio.to_thread(self.spares.start, raylet, number))

    def has_room(self, bundles: list[dict[str, float]], ids: list[str]) -> bool:
        """In Ray's books, as they were seen last."""
        free = [(self.available.get(id, {}), bundle) for id, bundle in zip(ids, bundles, strict=True)]
        return all(amount <= has.get(name, 0.0) + 1e-4 for has, bundle in free for name, amount in bundle.items())

    async def look_for_room(self) -> None:
        """At Ray's books; whoever asks meanwhile gets the same look."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_for_room())
        await asyncio.shield(self._looking)

    async def _look_for_room(self) -> None:
        await asyncio.sleep(ROOM_LOOK_S)
        with contextlib.suppress(TimeoutError, RayError, OSError, RuntimeError):
            self.available = await within(CALL_S, available_resources_per_node)

    @property
    def answers(self) -> bool:
        return time.monotonic() < self.nodes_s + 3 * REFRESH_S

    def _inventory(self) -> list[dict[str, Any]]:
        """Nodes that have something to give, by name. A node that came back under its name takes the place of the one that died."""
        names = self.names
        held: dict[str, float] = defaultdict(float)
        for gang in self.gangs.values():
            for id, gpus in gang.held:
                held[id] += gpus
        found: dict[str, dict[str, Any]] = {}
        others: dict[str, float] = {}
        for id, node in sorted(self.nodes.items(), key=lambda item: bool(item[1]["Alive"])):  # the living last: they win
            has = node["Resources"]
            name = names.get(id)
            if name is None or (node["Alive"] and not has.get("GPU") and not has.get("CPU")):
                continue
            taken = has.get("GPU", 0.0) - self.available.get(id, {}).get("GPU", 0.0) - held[id] if node["Alive"] else 0.0
            others[id] = round(max(taken, 0.0), 3)
            labels = node.get("Labels", {})
            found[name] = {
                "name": name, "id": id, "up": bool(node["Alive"]), "gpus": int(has.get("GPU", 0)), "cpus": has.get("CPU", 0.0),
                "memory_gib": round(has.get("memory", 0.0) / 2**30, 2), "type": _type(has, labels),
                "reason": "" if node["Alive"] else f"Ray: {node.get('DeathReasonMessage') or 'dead'}"[:200],
                "others_gpus": min(others[id], self.others.get(id, 0.0)),  # of two looks the less: what we give and take shows late
            }  # fmt: skip
        self.others = others
        return [found[name] for name in sorted(found)]

    def node_id(self, name: str) -> str | None:
        return next((id for id, node in self.nodes.items() if node["Alive"] and self.names.get(id) == name), None)

    def is_dead(self, part: Part) -> str | None:
        """Why nothing of it can be left on its node, if that is so by now."""
        assert part.missed_s is not None
        now_s = time.monotonic()
        if part.node_id in self.dead_s:
            return f"node {part.node} was lost" if now_s > self.dead_s[part.node_id] + SETTLE_S else None
        if part.node_id not in self.nodes and now_s > part.missed_s + LEASE_S:
            return f"Ray knows nothing of node {part.node} any more"
        return None

    async def _sweep(self) -> bool:
        """What an earlier controller has begun and nobody wants any more. An actor without a plan runs nothing. False: Ray has not
        answered to the end."""
        with contextlib.suppress(TimeoutError, RayError):
            actors = await within(CALL_S, ray.util.list_named_actors, True)
            groups = await within(CALL_S, ray.util.placement_group_table)
            wanted = {gang.name for gang in self.gangs.values()}  # one that came meanwhile is not among these
            for actor in actors:
                if actor["namespace"] == self.namespace and actor["name"].rpartition(".")[0] not in wanted:
                    with contextlib.suppress(ValueError):  # it is gone
                        ray.kill(await within(CALL_S, ray.get_actor, actor["name"], self.namespace))
            for id, group in groups.items():
                owner, _, key = str(group["name"]).partition(":")
                if owner == self.namespace and key not in wanted and group["state"] != "REMOVED":
                    await within(CALL_S, ray.util.remove_placement_group, PlacementGroup(ray.PlacementGroupID.from_hex(id)))
            return True
        return False


class Gang:
    """One attempt, from its order to its end."""

    def __init__(self, bridge: Bridge, key: Key, order: dict[str, Any]) -> None:
        self.bridge, self.key = bridge, key
        self.folder = files.attempt_folder(bridge.state, *key)
        self.attempt = attempt_of(order)
        self.group: Any = None  # PlacementGroup
        self.parts: list[Part] = []
        self.held: list[tuple[str, float]] = []  # node ids and GPUs that are out of Ray's books for it
        self.bounds: dict[str, Bound] = {}  # of its logs
        self.end: dict[str, Any] | None = None
        self.stop: dict[str, Any] | None = None
        self.stopped = asyncio.Event()
        self.doing = "Ray has not been asked"
        self.since_s = time.monotonic()
        self.task: asyncio.Task[None] | None = None
        self._told: dict[str, Any] | None = None
        self._went = self._ended_others = self._script_is_over = False

    @property
    def name(self) -> str:
        return f"{self.key[0]}.{self.key[1]}"

    @property
    def scripted(self) -> bool:
        """A batch script, on the first node alone; the others are there for what its srun starts."""
        return self.attempt.spec.ranks == "batch" and not self.attempt.spec.ray_driver

    @property
    def group_name(self) -> str:
        return f"{self.bridge.namespace}:{self.name}"

    async def run(self) -> None:
        self.end = files.read_json(f"{self.folder}/{files.END}")
        if self.end is None:
            self.ask_to_stop()
            self.report()
            try:
                await self._live()
            except Refused as refused:
                await self._finish({"refused": str(refused)[:500]})
            except Stopped:
                await self._finish({"exit_code": 143, "message": "stopped before it had started"})
            except Exception:  # a bug, or an error of Ray that nobody here knows: the next bridge tries again, and the log has it
                traceback.print_exc()
                os._exit(1)
        else:
            await self._let_go()  # whoever wrote that may have died before it was done
        self.report()

    async def _live(self) -> None:
        begun = files.read_json(f"{self.folder}/begun.json")
        if begun is None:
            await self._stand_up()
            parts = [{"node": part.node, "node_id": part.node_id, "plan": part.plan} for part in self.parts]
            files.write_json(f"{self.folder}/begun.json", {"parts": parts, "held": self.held})
        else:
            self.parts = [Part(index, one["node"], one["node_id"], one["plan"]) for index, one in enumerate(begun["parts"])]
            self.held = [(id, gpus) for id, gpus in begun["held"]]
        self.doing = "its supervisor has not started it"
        reports = asyncio.create_task(self._report_now_and_then())
        await asyncio.gather(*map(self._watch, self.parts))
        reports.cancel()
        await self._finish(self._outcome())

    # -- before it runs ----------------------------------------------------------------------------------------------------------------

    async def _stand_up(self) -> None:
        """A placement group with an actor a node, and the plan of each. Nothing of the job runs."""
        while not self.bridge.answers:
            self.doing = "Ray's head does not answer"
            await self._unless_stopped(asyncio.sleep(0.2))
        attempt, bundles, ids = self.attempt, [], []
        for share in attempt.shares:
            id = self.bridge.node_id(share.node)
            if id is None:
                raise Refused(f"there is no node {share.node} in Ray's cluster now")
            has = self.bridge.nodes[id]["Resources"]
            bundle = {"GPU": share.gpus, "CPU": share.cpus, "memory": float(int(share.memory_gib * 2**30))}
            bundles.append({name: amount for name, amount in bundle.items() if amount} or {"memory": 1.0})  # Ray takes no empty one
            for name, amount in bundles[-1].items():
                if amount > has.get(name, 0.0) + 1e-9:
                    raise Refused(f"{share.node} has not {amount:g} {name} in all, free or not: it has {has.get(name, 0.0):g}")
            ids.append(id)
        self.doing = "Ray has not placed it"
        await self._place(bundles, ids)
        self.held = [(id, share.gpus) for id, share in zip(ids, attempt.shares, strict=True)]
        self.parts = [Part(index, share.node, id) for index, (share, id) in enumerate(zip(attempt.shares, ids, strict=True))]
        if attempt.spec.ray_driver:  # the driver on the first node; all that the group holds is for its tasks
            self.parts, bundles = self.parts[:1], [{}]
        self.doing = "Ray has not started its actors"
        facts = await asyncio.gather(*(self._stand(part, bundle) for part, bundle in zip(self.parts, bundles, strict=True)))
        try:
            self._make_plans(facts)
        except InputError as error:
            raise Refused(str(error)) from None
        if self.stop is not None:
            raise Stopped

    async def _unless_stopped(self, waiting: Awaitable[T]) -> T:
        """A wait that a stop ends."""
        wait, asked = asyncio.ensure_future(waiting), asyncio.ensure_future(self.stopped.wait())
        await asyncio.wait((wait, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not wait.done():
            wait.cancel()
            raise Stopped
        return wait.result()

    async def _place(self, bundles: list[dict[str, float]], ids: list[str]) -> None:
        def find() -> PlacementGroup | None:
            with contextlib.suppress(ValueError):  # made before this process was
                return ray.util.get_placement_group(self.group_name)
            return None

        def make() -> PlacementGroup:
            return find() or ray.util.placement_group(
                bundles, strategy="PACK", name=self.group_name, lifetime="detached",
                bundle_label_selector=[{"ray.io/node-id": id} for id in ids],
            )  # fmt: skip

        if await patiently(find) is None:
            await self._unless_stopped(self._await_room(bundles, ids))
        self.group = await patiently(make)
        if not await self._unless_stopped(within(PLACE_S + CALL_S, self.group.wait, PLACE_S)):
            wanted = ", ".join(f"{share.gpus:g} GPUs on {share.node}" for share in self.attempt.shares)
            raise Refused(f"Ray has not placed it within {PLACE_S:g} s: {wanted} are not free")

    async def _await_room(self, bundles: list[dict[str, float]], ids: list[str]) -> None:
        """What has just been given back shows late, and a group that is asked for earlier waits out Ray's back-off, up to a second."""
        until_s = time.monotonic() + ROOM_S
        while not self.bridge.has_room(bundles, ids) and time.monotonic() < until_s:
            await self.bridge.look_for_room()

    async def _stand(self, part: Part, bundle: dict[str, float]) -> dict[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=part.index)
        try:
            with self.bridge.spares.used_on(part.node_id):
                part.actor = await within(CALL_S, self._make_actor, part, strategy, bundle)
                facts: dict[str, Any] = await self._unless_stopped(ask(part.actor, ACTOR_S, "facts"))
        except TimeoutError:
            raise Refused(f"its actor has not started on {part.node} within {ACTOR_S:g} s") from None
        except RayActorError as error:
            raise Refused(f"its actor on {part.node}: {_line(error)}") from None
        return facts

    def _make_actor(self, part: Part, strategy: Any, bundle: dict[str, float]) -> Any:
        """The same one, however often it is asked for."""
        bridge = self.bridge
        return bridge.holder.options(
            name=f"{self.name}.{part.index}", namespace=bridge.namespace, lifetime="detached", get_if_exists=True, max_concurrency=16,
            max_restarts=MOST_RESTARTS, num_gpus=bundle.get("GPU", 0), num_cpus=bundle.get("CPU", 0), scheduling_strategy=strategy,
        ).remote(
            bridge.code, bridge.version, bridge.base, bridge.namespace, part.node, self.key, part.index, len(self.parts)
        )  # fmt: skip

    def _make_plans(self, facts: list[dict[str, Any]]) -> None:
        spec, gpus = self.attempt.spec, [there["gpus"] for there in facts]
        if spec.checkpoint_dir is None:
            spec = spec.model_copy(update={"checkpoint_dir": files.checkpoint_folder(self.bridge.shared, self.attempt.job)})
        if spec.ray_driver:
            spec, gpus = spec.model_copy(update={"ranks": "node"}), [[] for _ in self.attempt.shares]
        attempt = replace(self.attempt, spec=spec)
        port = facts[0]["port"] if attempt.spec.ranks == "gpu" else 0
        whose = blake2s(self.bridge.namespace.encode(), digest_size=4).hexdigest()
        for part, there in zip(self.parts, facts, strict=True):
            cgroup = None
            if there["cgroup"] is not None:
                kind, parent = there["cgroup"]
                cgroup = {"kind": kind, "folder": f"{parent}/trainmaster-{whose}-{self.name}.{part.index}"}
            plan = plan_of(attempt, there["state"], gpus, port=port, cgroup=cgroup, limits=[], umask=self.bridge.umask,
                           log_limit=self.bridge.log_limit)  # fmt: skip
            for what in ("ranks", "setups"):
                plan[what] = [one for one in plan[what] if one["env"]["SLURM_NODEID"] == str(part.index)]
            for rank in plan["ranks"]:
                if "MASTER_ADDR" in rank["env"]:
                    rank["env"]["MASTER_ADDR"] = facts[0]["address"]
            if attempt.spec.ray_driver:
                plan["env"] |= {
                    "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "TRAINMASTER_RAY_NAMESPACE": self.bridge.namespace,
                    "TRAINMASTER_PLACEMENT_GROUP": self.group_name,
                }  # fmt: skip
            if part.index:
                plan["nodes"] = []  # what is started there stays there
            for node, other in zip(plan["nodes"], facts, strict=False):
                node["TRAINMASTER_CONTROL"] = f"{files.attempt_folder(other['state'], *self.key)}/{files.CONTROL}"
            part.plan = {**plan, "hold": len(self.parts) > 1, "keeps": self.scripted and part.index > 0}

    # -- while it runs -----------------------------------------------------------------------------------------------------------------

    async def _watch(self, part: Part) -> None:
        """Until it has ended and its output is here, or nothing of it can be left."""
        drained_by_s = math.inf
        while not part.over:
            try:
                if part.actor is None:
                    part.actor = await within(CALL_S, ray.get_actor, f"{self.name}.{part.index}", self.bridge.namespace)
                if not part.begun:
                    shared = self.bridge.token if self.attempt.spec.checkpoint_dir is None else None
                    await ask(part.actor, CALL_S, "begin", part.plan, self.attempt.spec.script, shared)
                    part.begun = True
                    await self._tell_stop(part)
                quiet_s = max(QUIET_S, len(self.bridge.gangs) / LOOKS_A_S)
                said = await ask(part.actor, WATCH_S + CALL_S, "watch", part.news, part.words, self._offsets(part), WATCH_S, quiet_s)
            except (TimeoutError, RayError, ValueError, OSError) as error:
                await self._miss(part, error)
                continue
            part.missed_s, part.trouble = None, ""
            written = self._take_in(part, said)
            if part.end is not None:
                drained_by_s = min(drained_by_s, time.monotonic() + DRAIN_S)
                part.over = (said["drained"] and written) or not said["begun"] or time.monotonic() > drained_by_s
            await self._advance()
            self.report()
            if not written and not part.over:
                await asyncio.sleep(REFRESH_S)

    def _offsets(self, part: Part) -> dict[str, int]:
        found = {}
        for name in files.logs(part.plan):
            with contextlib.suppress(FileNotFoundError):
                found[name] = os.stat(f"{self.folder}/{name}.log").st_size
        return found

    def _take_in(self, part: Part, said: dict[str, Any]) -> bool:
        """False: its output cannot be written here (a full disk). It is asked for again: the node still has it."""
        written = True
        for name, (offset, text) in said["logs"].items():
            if LOG_NAME.fullmatch(name):
                try:
                    with open(f"{self.folder}/{name}.log", "r+b" if offset else "wb", opener=files.private) as file:
                        file.seek(offset)
                        file.write(text)
                except OSError as error:
                    written, part.trouble = False, f"its output cannot be written in {self.folder}: {error.strerror}"
                else:
                    self._bound(name)
        part.news, part.words, part.ready, part.started_s = said["news"], said["words"], said["ready"], said["started_s"]
        part.said, part.own, part.end = said["said"], said["own"], said["end"]
        if not said["begun"]:  # its actor is a new one
            part.end = {"lost": f"nothing of it is on {part.node} any more", "ended_s": time.time(), "asked": None}
        return written

    def _bound(self, name: str) -> None:
        """A log here, as its supervisor does on the node."""
        if self.bridge.bounds_logs:
            try:
                self.bounds.setdefault(name, Bound(f"{self.folder}/{name}.log", self.bridge.log_limit)).look()
            except OSError as error:
                self.bridge.bounds_logs = False
                print(f"the middle of a log cannot be dropped in {self.bridge.state} ({error}): limits of logs are off", file=sys.stderr)

    async def _miss(self, part: Part, error: BaseException) -> None:
        """It does not answer, or is not there."""
        now_s = time.monotonic()
        part.missed_s = now_s if part.missed_s is None else part.missed_s
        part.trouble = f"{part.node} does not answer: {_line(error)}"
        if isinstance(error, ValueError) or (isinstance(error, RayActorError) and now_s > part.missed_s + 1):
            part.actor = None
        if self.bridge.answers:
            gone = self.bridge.is_dead(part)
            if gone is not None:
                part.end, part.over = {"lost": gone, "ended_s": time.time(), "asked": None}, True
                await self._advance()
            elif part.actor is None and self.bridge.nodes.get(part.node_id, {}).get("Alive") and now_s > part.missed_s + 2:
                await self._replace(part)
        self.report()
        if not part.over:
            await asyncio.sleep(0.3)

    async def _replace(self, part: Part) -> None:
        """An actor that is gone for good on a node that is there: another takes up what is on that node. It needs no room of its own."""
        strategy = NodeAffinitySchedulingStrategy(part.node_id, soft=False)
        with contextlib.suppress(TimeoutError, RayError, ValueError):
            part.actor = await within(CALL_S, self._make_actor, part, strategy, {})
            await ask(part.actor, ACTOR_S, "facts")
            part.begun = True  # if not, there is nothing to be found

    async def _advance(self) -> None:
        """What the state of its parts asks for together."""
        if len(self.parts) == 1:
            return
        too_early = self.scripted and self.parts[0].end is None  # to end: the script may still want tasks there
        bad = [part for part in self.parts if part.end is not None and (part.end.get("exit_code") != 0 or (too_early and part.own))]
        if bad and self.stop is None and not self._ended_others:
            self._ended_others = True
            self._tell_all("stop", {"reason": "cancel", "grace_s": GANG_GRACE_S})
        if self.scripted and self.parts[0].end is not None and not self._script_is_over:
            self._script_is_over = True
            for part in self.parts[1:]:
                background(self._tell_that_it_is_over(part))
        if not self._went and all(part.ready or part.started_s is not None for part in self.parts) and not bad:
            self._went = True
            self._tell_all("go")

    def _tell_all(self, verb: str, *arguments: Any) -> None:
        for part in self.parts:
            if part.end is None and part.actor is not None:
                background(ask(part.actor, CALL_S, verb, *arguments))

    def ask_to_stop(self) -> None:
        """As stop.json has it."""
        request = files.read_json(f"{self.folder}/{files.STOP}")
        if request is None or request == self.stop or self.end is not None:
            return
        self.stop = request
        self.stopped.set()
        for part in self.parts:
            background(self._tell_stop(part))
        self.report()

    async def _tell_stop(self, part: Part) -> None:
        """Again and again until it has heard, or this stop is not the one any more."""
        request = self.stop
        while request is not None and request == self.stop and part.end is None and part.begun:
            left_s = max(0.0, request["asked_s"] + request["grace_s"] - time.time())
            with contextlib.suppress(TimeoutError, RayError):
                if part.actor is not None:
                    grace_s = min(left_s, request["grace_s"])
                    registered = any(other.said.get("checkpointed", False) for other in self.parts)
                    await ask(part.actor, CALL_S, "stop", {**request, "grace_s": grace_s, "registered": registered})
                    return
            await asyncio.sleep(0.3)

    async def _tell_that_it_is_over(self, part: Part) -> None:
        """Again and again until it has heard: it would wait for tasks for ever."""
        while part.end is None:
            with contextlib.suppress(TimeoutError, RayError):
                if part.actor is not None:
                    await ask(part.actor, CALL_S, "follow", 0.0)
                    return
            await asyncio.sleep(0.3)

    def signal(self, number: int, batch_only: bool) -> None:
        self._tell_all("signal", number, batch_only)

    # -- its end -----------------------------------------------------------------------------------------------------------------------

    def _outcome(self) -> dict[str, Any]:
        ends = [part.end or {} for part in self.parts]
        own = [end for part, end in zip(self.parts, ends, strict=True) if part.own] or ends
        for word in ("refused", "lost"):
            found = next((end for end in own + ends if word in end), None)
            if found is not None:
                return {word: found[word], "ended_s": found["ended_s"]}
        orphaned = [end for end in ends if self.stop is None and end["asked"] == ORPHANED]
        without_tasks = self.scripted and any(end is not ends[0] for end in orphaned)  # whatever the script made of that
        if orphaned and (without_tasks or self._acknowledged() or any(end["exit_code"] for end in ends)):
            return {"lost": "its actor or its node was lost, and it was stopped there", "ended_s": max(end["ended_s"] for end in ends)}
        failed = sorted((end for end in own if end["exit_code"]), key=lambda end: end["ended_s"])
        first = failed[0] if failed else ends[0]
        return {"exit_code": first["exit_code"], "message": first.get("message", ""), "ended_s": max(end["ended_s"] for end in ends)}

    async def _finish(self, outcome: dict[str, Any]) -> None:
        """Nothing is left of it, on the nodes or in Ray; then it is said."""
        started = [part.started_s for part in self.parts if part.started_s is not None]
        asked = None if self.stop is None else self.stop["reason"]
        end = {"ended_s": time.time(), **outcome, "started_s": min(started, default=None), "asked": asked, "said": self._said()}
        files.create_json(f"{self.folder}/{files.END}", end)
        clears = [ask(part.actor, CLEAR_S, "clear") for part in self.parts if part.actor is not None and part.over]
        await asyncio.gather(*clears, return_exceptions=True)
        await self._let_go()
        self.end = end

    async def _let_go(self) -> None:
        """Its actors, and its placement group. An actor that Ray is to start anew on a node that died does not go with its group."""
        answering = {part.index: part.actor for part in self.parts if part.actor is not None and part.missed_s is None}

        def remove() -> None:
            for index in range(len(self.attempt.shares)):
                with contextlib.suppress(RayError, ValueError):
                    ray.kill(answering.get(index) or ray.get_actor(f"{self.name}.{index}", self.bridge.namespace))
            with contextlib.suppress(ValueError):
                ray.util.remove_placement_group(self.group or ray.util.get_placement_group(self.group_name))

        await patiently(remove)
        for id, _ in self.held:
            self.bridge.available.pop(id, None)  # Ray's books are to be looked at before anybody counts on it
        self.held = []

    # -- what is seen of it ------------------------------------------------------------------------------------------------------------

    def _acknowledged(self) -> bool:
        speak = self.parts if self.attempt.spec.ranks == "gpu" else self.parts[:1]
        return bool(speak) and all(part.said.get("acknowledged", False) for part in speak)

    def _said(self) -> dict[str, Any]:
        if not self.parts:
            return {}
        said = {name: value for name, value in self.parts[0].said.items() if name != "acknowledged"}
        said["requeue"] = any(part.said.get("requeue", False) for part in self.parts)
        said["checkpointed"] = any(part.said.get("checkpointed", False) for part in self.parts)
        return {**said, "acknowledged": self._acknowledged()}

    def report(self) -> None:
        seen = self._seen()
        if seen != self._told:
            self._told = seen
            self.bridge.say(seen=seen)

    def _seen(self) -> dict[str, Any]:
        about: dict[str, Any] = {"job": self.key[0], "attempt": self.key[1]}
        if self.end is not None:
            return asdict(of_end(self.key, self.end, self.end["started_s"], self.end["said"]))
        started = [part.started_s for part in self.parts]
        runs = bool(started) and None not in started
        trouble = next((part.trouble for part in self.parts if part.trouble), "")
        word = "unknown" if trouble else "draining" if self.stop is not None else "running" if runs else "starting"
        waits = not runs and not trouble and time.monotonic() > self.since_s + SAY_S
        return {
            **about, "seen": word, "started_s": min((one for one in started if one is not None), default=None) if runs else None,
            "asked_to_stop": self.stop is not None, "message": trouble or (self.doing if waits else ""), **self._said(),
        }  # fmt: skip

    async def _report_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.report()


# ------------------------------------------------------------------------------------------------ Ray, with a limit to every wait


async def within(limit_s: float, call: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.wait_for(asyncio.to_thread(call, *arguments), limit_s)


async def patiently(call: Callable[[], T]) -> T:
    """Until Ray answers. The call is one that may be repeated."""
    while True:
        try:
            return await within(CALL_S, call)
        except (TimeoutError, RayError, OSError):
            await asyncio.sleep(0.5)


async def ask(actor: Any, limit_s: float, verb: str, *arguments: Any) -> Any:
    return await asyncio.wait_for(asyncio.wrap_future(actor.do.remote(verb, *arguments).future()), limit_s)


_BACKGROUND: set[asyncio.Task[Any]] = set()


def background(work: Coroutine[Any, Any, Any]) -> None:
    async def quietly() -> None:
        with contextlib.suppress(TimeoutError, RayError):
            await work

    task = asyncio.create_task(quietly())
    _BACKGROUND.add(task)
    task.add_done_callback(_BACKGROUND.discard)


def _look_at_nodes() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, float]]]:
    return {node["NodeID"]: node for node in ray.nodes()}, available_resources_per_node()


def name_nodes(nodes: Iterable[dict[str, Any]], known: Mapping[str, str]) -> dict[str, str]:
    """Node id -> its name: its label `trainmaster-node`, else what `ray start --node-name` said, else its host's with a part of its id
    where that is taken. A name is kept while its node lives; one that was given and is taken waits until its holder is dead."""
    names = {node["NodeID"]: known[node["NodeID"]] for node in nodes if node["NodeID"] in known}
    taken = {names[node["NodeID"]] for node in nodes if node["Alive"] and node["NodeID"] in names}
    for node in nodes:
        id, given = node["NodeID"], node.get("Labels", {}).get("trainmaster-node") or node.get("NodeName")
        if id in names or not node["Alive"]:
            continue
        if not given or given == node["NodeManagerAddress"]:
            host = node["NodeManagerHostname"]
            given = f"{host}-{id[:6]}" if host in taken else host
        if given not in taken:
            names[id] = given
            taken.add(given)
    return names


def _type(has: dict[str, float], labels: dict[str, str]) -> str:
    named = next((name.removeprefix("accelerator_type:") for name in has if name.startswith("accelerator_type:")), "")
    return labels.get("ray.io/accelerator-type") or named


def _line(error: BaseException) -> str:
    """An error of Ray is pages long; what it says is in the first line, or the last of a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _code() -> tuple[bytes, str]:
    """What runs on the nodes, and its version: the standard library and this are all that it imports.

    So small that Ray keeps it with the actor: what is larger goes when this process does, and no actor could be started anew.
    """
    root = Path(__file__).parents[2]
    code = {f"trainmaster/{name}": "" for name in CODE}
    for path in sorted((root / "live/node").glob("*.py")):
        code[f"trainmaster/{path.relative_to(root)}"] = path.read_text(encoding="utf-8")
    packed = zlib.compress(json.dumps(code, sort_keys=True).encode(), 9)
    assert len(packed) < INLINE_BYTES
    return packed, blake2s(packed, digest_size=8).hexdigest()


def attempt_of(order: dict[str, Any]) -> Attempt:
    shares = tuple(NodeShare(**share) for share in order["shares"])
    return Attempt(**{**order, "spec": JobSpec.model_validate(order["spec"]), "shares": shares})
