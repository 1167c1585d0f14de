"""A cluster of the simulated machine with every fault that can be thought of, drawn from a seed; and a controller that may die between
any two things it does to the world.

The fuse burns down by one at each call that the controller makes outside: the beginning of a transaction, its commit, each verb of the
backend, before and after. Where it ends, the controller is gone; the next one starts on the same store and the same machine.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from live.faults.story import all_events, check_story
from live.machine import Clock, Machine, Process
from trainmaster.cluster.cluster import QueueSpec
from trainmaster.errors import BackendError, Conflict, InputError, NotFound
from trainmaster.live import controller as controllers
from trainmaster.live.backends.base import Observation, Seen
from trainmaster.live.control import JobFilter, JobUpdate
from trainmaster.live.controller import Controller
from trainmaster.live.plane import Plane
from trainmaster.live.policies import chosen
from trainmaster.live.rules import Rules
from trainmaster.live.spec import Array, Dependency, JobSpec, Retry, StopSignal
from trainmaster.live.states import State
from trainmaster.live.store import Store, StoreUnavailable, lease
from trainmaster.workload.jobs import GPU_MILLI


class Crash(BaseException):
    """The controller's process is gone."""


@dataclass
class Fuse:
    left: int | None = None  # calls until the controller dies; None = it does not
    burnt: int = 0

    def burn(self) -> None:
        self.burnt += 1
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.left = None
                raise Crash


class Outside:
    """The machine as a controller sees it: it may die before or after each call, and some calls fail."""

    def __init__(self, machine: FaultyMachine, fuse: Fuse, fails: Callable[[str], bool]) -> None:
        self.machine, self.fuse, self.fails = machine, fuse, fails
        self.name, self.capabilities = machine.name, machine.capabilities

    def __getattr__(self, verb: str) -> Any:
        return partial(self._call, verb)

    def _call(self, verb: str, *arguments: Any, **named: Any) -> Any:
        self.fuse.burn()
        if verb in ("start", "stop", "observe", "inventory", "forget") and self.fails(verb):
            raise BackendError(f"{verb}: the machine is not itself")
        answer = getattr(self.machine, verb)(*arguments, **named)
        self.fuse.burn()
        return answer


class FaultyMachine(Machine):
    """Jobs that do not listen, end by a signal, or disappear; nodes that go down."""

    mute: set[int]  # jobs that end by the signal instead of acknowledging
    wishes: set[int]  # jobs that want to be run again when they end

    def look(self, process: Process) -> Observation:
        wishes = process.attempt.job in self.wishes and process.attempt.attempt < 4
        return super().look(process) if process.ended else replace(super().look(process), requeue=wishes)

    def end(self, process: Process, seen: Seen, code: int | None, at_s: float, **more: Any) -> None:
        if more.get("acknowledged") and process.attempt.job in self.mute:
            code, more = 143, {}
        super().end(process, seen, code, at_s, **more)

    def start(self, attempt: Any) -> None:
        super().start(attempt)
        down = {seen.name for seen in self.nodes if not seen.up}
        process = self.processes[attempt.job, attempt.attempt]
        if process.ended is None and any(share.node in down for share in attempt.shares):
            self.end(process, Seen.REFUSED, None, self.clock.now_s, message="its node is down")

    def node_down(self, name: str) -> None:
        self.nodes = [replace(seen, up=seen.up and seen.name != name, reason="dead" if seen.name == name else "") for seen in self.nodes]
        for process in self.processes.values():
            if process.ended is None and any(share.node == name for share in process.attempt.shares):
                self.end(process, Seen.LOST, None, self.clock.now_s, message=f"node {name} is gone")

    def node_up(self, name: str) -> None:
        self.nodes = [replace(seen, up=True, reason="") if seen.name == name else seen for seen in self.nodes]

    def lose_all_memory_of(self, job: int) -> None:
        """As if its folder had been removed, processes and all."""
        for key in [key for key in self.processes if key[0] == job]:
            del self.processes[key]


POLICIES = (
    ("fifo-greedy", ()), ("las", ("quantum_s=2",)), ("srtf", ("estimate=user",)), ("fifo", ()),
    ("tiresias-las", ("limits_gpu_s=20,60",)), ("easy-backfill", ("estimate=predicted",)),
    ("conservative-backfill", ("estimate=limit",)), ("sjf", ("estimate=user",)),
)  # fmt: skip


@dataclass
class Asked:
    """A submission by its key: what was sent, and what came back."""

    specs: list[JobSpec]
    ids: list[int] | None = None

    @property
    def count(self) -> int:
        return sum(len(spec.array.indices) if spec.array else 1 for spec in self.specs)


@dataclass
class FaultySite:
    path: Path
    seed: int
    url: str | None = None
    rng: random.Random = field(init=False)
    trail: list[str] = field(default_factory=list)
    asked: dict[str, Asked] = field(default_factory=dict)
    crashes: int = 0
    steps: int = 0
    away: int = 0  # transactions that the store refuses
    faults: bool = True
    went_back: bool = False
    turning: bool = False  # the controller runs, not a check
    ended: dict[int, tuple[Any, ...]] = field(default_factory=dict)  # jobs that were seen to have ended, and how

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.seed)
        self.clock = Clock()
        gpus = rng.choice([(4,), (4, 4), (2, 3), (1, 1, 2), (8,)])
        self.machine = FaultyMachine.of(self.clock, *gpus, start_delay_s=rng.choice([0.0, 1.0]), stop_delay_s=rng.choice([0.0, 2.0, 5.0]))
        self.machine.mute, self.machine.wishes = set(), set()
        self.most_gpus = sum(gpus)
        self.policy, self.settings = rng.choice(POLICIES)
        planner = self.policy.endswith("backfill")
        self.queues = {"a": QueueSpec(quota_gpus=2), "b": QueueSpec(quota_gpus=2)} if rng.random() < 0.3 and not planner else None
        self.rules = Rules(min_run_s=rng.choice([0.0, 3.0]), most_preemptions=rng.choice([0, 3]), poll_s=0.0, backoff_s=1.0,
                           most_backoff_s=8.0, start_timeout_s=10.0, stop_alert_s=5.0, most_start_failures=rng.choice([3, 8]))  # fmt: skip
        self.fuse = Fuse()
        self.say(f"seed {self.seed}: {gpus}, {self.policy} {self.settings}, {self.rules}, queues {self.queues}")
        self.boot()

    def say(self, line: str) -> None:
        self.trail.append(f"{self.clock.now_s:.1f} {line}")

    # ------------------------------------------------------------------------------------------------- controllers

    def boot(self) -> None:
        """A new controller, which may die while it starts."""
        while True:
            store = Store.open(self.url or f"sqlite:///{self.path / f'{self.seed}.db'}", owner=f"{socket.gethostname()}:{os.getpid()}",
                               now=self.clock)  # fmt: skip
            store.begin = self.transactions(store.begin)  # type: ignore[method-assign]
            store._reading = self.reads(store._reading)  # type: ignore[method-assign]
            outside = Outside(self.machine, self.fuse, lambda verb: self.faults and self.rng.random() < 0.01)
            policy, rules = chosen(self.policy, self.settings)
            self.controller = Controller(store, outside, policy, policy_rules=rules, rules=self.rules, queues=self.queues, now=self.clock)  # type: ignore[arg-type]
            self.plane = Plane(self.controller)
            try:
                self.controller.recover()
            except Crash:
                self.say("dies while it starts")
                self.bury()
            except BackendError as problem:
                assert "not itself" in str(problem)
                self.bury()
            else:
                self.check()
                return

    def reads(self, reading: Callable[[], Any]) -> Callable[[], Any]:
        @contextmanager
        def faulty() -> Iterator[Any]:
            if self.turning and self.away > 0:
                self.away -= 1
                raise StoreUnavailable("the database is away")
            with reading() as connection:
                yield connection

        return faulty

    def transactions(self, begin: Callable[[], Any]) -> Callable[[], Any]:
        @contextmanager
        def faulty() -> Iterator[Any]:
            if self.away > 0:
                self.away -= 1
                raise StoreUnavailable("the database is away")
            self.fuse.burn()
            with begin() as tx:
                yield tx
                self.fuse.burn()
            self.fuse.burn()

        return faulty

    def bury(self) -> None:
        self.crashes += 1
        lease.HELD.discard(self.controller.store._lease.token)  # as if the process were gone
        self.controller.store._database.close()

    def turn(self) -> None:
        self.steps += 1
        controller = self.controller
        controller.quiet_until = float("inf") if self.faults and self.rng.random() < 0.1 else 0.0  # it may have no time to decide
        self.turning = True
        try:
            controller.turn()
        except Crash:
            self.turning = False
            self.say("dies")
            self.bury()
            self.boot()
            return
        self.turning = False
        self.check()

    def close(self) -> None:
        self.controller.store.close()

    # ------------------------------------------------------------------------------------------------- what people do

    def do(self, what: str, answer: Any) -> None:
        self.say(what)
        self.turn()
        if answer.done():
            refusal = answer.exception()
            assert refusal is None or isinstance(refusal, Conflict | NotFound | InputError | StoreUnavailable), f"{what}: {refusal!r}"

    def submit(self) -> None:
        rng = self.rng
        key = f"k{len(self.asked)}"
        self.asked[key] = Asked([self.spec() for _ in range(rng.randint(1, 3))])
        self.ask_for(key)

    def ask_for(self, key: str) -> None:
        asked = self.asked[key]
        self.say(f"submit {key} {[(s.name, s.gpus, s.hold, s.array, s.after, s.limit_s, s.preemptible, s.begin_s) for s in asked.specs]}")
        answer = self.plane.submit(asked.specs, "ada", key)
        self.turn()
        if answer.done() and not isinstance(answer.exception(), StoreUnavailable | InputError):
            ids = answer.result(0)
            assert asked.ids in (None, ids), f"{key} made {asked.ids} and then {ids}"
            assert len(ids) == asked.count
            asked.ids = ids

    def spec(self) -> JobSpec:
        rng = self.rng
        run_s, soon_s = rng.choice([1, 2, 5, 10, 30, 60]), max(self.clock.now_s, 0.0) + 5
        fails = rng.random() < 0.2
        known = [id for asked in self.asked.values() for id in asked.ids or ()]
        after = tuple(Dependency(kind=rng.choice(["after", "afterany", "afterok", "afternotok"]), job=rng.choice(known))
                      for _ in range(rng.choice([0, 0, 0, 0, 1, 2])) if known)  # fmt: skip
        array = Array(indices=tuple(range(rng.randint(1, 4))), limit=rng.choice([None, 1, 2])) if rng.random() < 0.15 else None
        return JobSpec(
            name=f"{run_s}-3" if fails else f"{run_s}", command=("true",), gpus=rng.choice([0.5, 0.25, 1, 1, 2, 2, 3, 4, self.most_gpus]),
            retry=Retry(max=rng.choice([0, 2])), preemptible=rng.choice([None, None, True, False]), hold=rng.random() < 0.1, array=array,
            limit_s=rng.choice([None, None, None, 4, 20]), begin_s=rng.choice([None, None, None, soon_s]), after=after,
            priority=rng.choice([0, 0, 1, -1]), grace_s=rng.choice([1.0, 5.0]), queue=rng.choice(["a", "b"]) if self.queues else None,
            estimate_s=rng.choice([None, run_s, 10 * run_s]), signal=rng.choice([None, None, StopSignal(number=10, before_s=2.0)]),
        )  # fmt: skip

    def act(self) -> None:
        """One thing that people, jobs, nodes or the store may do."""
        rng, plane, machine = self.rng, self.plane, self.machine
        active = list(self.controller.jobs)
        some = rng.sample(active, min(len(active), rng.choice([1, 1, 2])))
        node = rng.choice(machine.nodes).name
        choice = rng.random()
        if choice < 0.25:
            self.submit()
        elif choice < 0.30:
            lost = [key for key, asked in self.asked.items() if asked.ids is None] or list(self.asked)
            if lost:
                self.ask_for(rng.choice(lost))
        elif choice < 0.34 and some:
            self.do(f"cancel {some}", plane.cancel(some, "ada"))
        elif choice < 0.38 and some:
            self.do(f"suspend {some}", plane.suspend(some, "ada"))
        elif choice < 0.44 and active:
            suspended = [id for id, job in self.controller.jobs.items() if job.row.suspended] or some
            self.do(f"resume {suspended[:1]}", plane.resume(suspended[:1], "ada"))
        elif choice < 0.47 and some:
            self.do(f"hold {some}", plane.hold(some, "ada"))
        elif choice < 0.52 and active:
            held = [id for id, job in self.controller.jobs.items() if job.row.held] or some
            self.do(f"release {held[:1]}", plane.release(held[:1], "ada"))
        elif choice < 0.55 and some:
            self.do(f"requeue {some[:1]}", plane.requeue(some[:1], "ada"))
        elif choice < 0.59 and some:
            change = rng.choice([JobUpdate(priority=rng.choice([-2.0, 2.0])), JobUpdate(gpus=rng.choice([1.0, 2.0, 0.5])),
                                 JobUpdate(preemptible=rng.random() < 0.5), JobUpdate(limit_s=rng.choice([3.0, 50.0]))])  # fmt: skip
            self.do(f"update {some[0]} {change}", plane.update(some[0], change, "ada"))
        elif choice < 0.61:
            self.do(f"drain {node}", plane.drain(node, "a fan is loud", "root"))
        elif choice < 0.65:
            self.do(f"open {node}", plane.resume_node(node, "root"))
        elif choice < 0.67:
            self.say(f"{node} goes down")
            machine.node_down(node)
        elif choice < 0.71:
            self.say(f"{node} is up")
            machine.node_up(node)
        elif choice < 0.74 and some:
            self.say(f"{some[0]} is lost")
            machine.lose(some[0])
        elif choice < 0.745 and some:
            self.say(f"{some[0]} is forgotten by the machine")
            machine.lose_all_memory_of(some[0])
        elif choice < 0.77 and some:
            self.say(f"{some[0]} does not acknowledge")
            machine.mute.add(some[0])
        elif choice < 0.78 and some:
            self.say(f"{some[0]} wants to be requeued")
            machine.wishes.add(some[0])
        elif choice < 0.805:
            odds, start = rng.choice([0.0, 0.0, 0.3]), rng.randrange(1 << 30)
            self.say(f"starts are refused: {odds}")
            machine.refuse = lambda attempt: random.Random(f"{start} {attempt.job} {attempt.attempt}").random() < odds
        elif choice < 0.82:
            odds, start = rng.choice([0.0, 0.0, 0.3]), rng.randrange(1 << 30)
            self.say(f"starts hang: {odds}")
            machine.hang = lambda attempt: random.Random(f"{start} {attempt.job} {attempt.attempt}").random() < odds
        elif choice < 0.84:
            deaf = set(some[:1]) if rng.random() < 0.5 else set()
            self.say(f"deaf: {deaf}")
            machine.deaf = deaf.__contains__
        elif choice < 0.86:
            name, settings = rng.choice(POLICIES)
            answer = plane.set_policy(name, settings, "root")
            self.do(f"policy {name}", answer)
            if answer.done() and answer.exception() is None:
                self.policy, self.settings = name, settings
        elif choice < 0.88:
            self.away = rng.randint(1, 5)
            self.say(f"the store is away {self.away} times")
        elif choice < 0.90:
            jump_s = rng.choice([-500.0, -20.0, 60.0, 1_000.0])
            self.say(f"the clock jumps {jump_s:+g} s")
            self.clock.now_s += jump_s
            self.went_back |= jump_s < 0
        elif choice < 0.93:
            taken = {seen.name: float(rng.randint(0, seen.node.gpus)) for seen in machine.nodes}
            self.say(f"others use {taken}")
            machine.nodes = [replace(seen, others_gpus=taken[seen.name]) for seen in machine.nodes]
        else:
            self.fuse.left = rng.randint(1, 25)
            self.say(f"will die at call {self.fuse.left}")

    def step(self) -> None:
        self.act()
        for _ in range(self.rng.choice([0, 1, 1, 2])):
            self.clock.now_s += self.rng.choice([0.0, 0.1, 1.0, 1.0, 5.0])
            self.turn()

    def settle(self) -> None:
        """All faults end, every request is asked again, and everybody may go: then every job ends."""
        machine = self.machine
        self.faults, self.fuse.left, self.away = False, None, 0
        machine.refuse = machine.hang = lambda attempt: False
        machine.deaf = lambda job: False
        self.say("all is well from now on")
        machine.nodes = [replace(seen, others_gpus=0.0) for seen in machine.nodes]
        self.clock.now_s = max(self.clock.now_s, self.controller.last_now_s)
        for seen in list(machine.nodes):
            machine.node_up(seen.name)
            self.do(f"open {seen.name}", self.plane.resume_node(seen.name, "root"))
        for key, asked in self.asked.items():
            if asked.ids is None:
                self.ask_for(key)
                assert asked.ids is not None
        idle = 0
        for _ in range(4_000):
            jobs = self.controller.jobs
            if held := [id for id, job in jobs.items() if job.row.held]:
                self.do(f"release {held}", self.plane.release(held, "ada"))
            if suspended := [id for id, job in jobs.items() if job.row.suspended]:
                self.do(f"resume {suspended}", self.plane.resume(suspended, "ada"))
            never = [id for id, job in jobs.items() if job.row.reason.startswith("can never fit") and job.attempt is None]
            if never:
                self.do(f"cancel {never}", self.plane.cancel(never, "ada"))
            if not jobs:
                break
            idle = idle + 1 if not machine.running() else 0
            assert idle < 1_500, f"nothing runs, and these wait: {[(id, job.row.state, job.row.reason) for id, job in jobs.items()]}"
            self.clock.now_s += 1.0
            self.turn()
        assert not self.controller.jobs, {id: (job.row.state, job.row.reason) for id, job in self.controller.jobs.items()}
        self.turn()
        assert not machine.processes, machine.processes
        self.check_stories()

    # ------------------------------------------------------------------------------------------------- what must hold

    def check(self) -> None:
        """After every turn: memory is what was committed; the engine's ledger is what the attempts hold; no node is over-committed."""
        controller, store = self.controller, self.controller.store
        stored = store.active_jobs()
        rows = {row.id: row for row in stored.jobs}
        assert rows.keys() == controller.jobs.keys(), f"stored {sorted(rows)}, in memory {sorted(controller.jobs)}"
        for id, job in controller.jobs.items():
            said = replace(rows[id], reason=job.row.reason)
            assert said == job.row, f"job {id}: stored {said}, in memory {job.row}"
            live = stored.attempts.get(id, ())
            assert list(live) == ([job.attempt] if job.attempt else []), f"job {id}: stored {live}, in memory {job.attempt}"
            assert not job.row.state.ended
            assert (job.row.state is State.SUSPENDED) <= job.row.suspended, f"job {id}: {job.row}"
            assert (job.attempt is not None) == (id in controller.holding)
            waits = job.row.state in (State.PENDING, State.RECOVERING, State.SUSPENDED)
            assert waits == (job.attempt is None), f"job {id}: {job.row.state} with {job.attempt}"
        assert controller.offered.keys() | controller.out.keys() == controller.jobs.keys()
        assert not controller.offered.keys() & controller.out.keys()
        assert not controller.commands.qsize() or self.away
        self.check_ledger()
        for job, (state, code) in self.ended.items():
            assert job not in rows, f"job {job} had ended, {state} {code}"

    def check_ledger(self) -> None:
        controller, engine = self.controller, self.controller.scheduling.engine
        assert engine is not None and engine.handover is not None
        seqs = engine.jobs.seq
        held = {int(seqs[row]) for row in (*engine.handover.held, *engine.handover.drains)}
        assert held == controller.holding.keys(), f"the engine's holders {held}, those with an attempt {set(controller.holding)}"
        free = np.array([node.gpus for node in engine.cluster.nodes], float) * GPU_MILLI
        rows = {str(node.name): row for row, node in enumerate(engine.cluster.nodes)}
        for job in controller.holding.values():
            assert job.attempt is not None
            for share in job.attempt.shares:
                if share.gpus >= 1:
                    free[rows[share.node]] -= round(share.gpus * GPU_MILLI)
        shared = {(s.node, s.devices) for job in controller.holding.values() for s in job.attempt.shares if 0 < s.gpus < 1}
        for node, _ in shared:
            free[rows[node]] -= GPU_MILLI
        assert (free >= 0).all(), f"over-committed: {free}"
        assert (engine.handover.free[:, 0] == free).all(), f"the ledger {engine.handover.free[:, 0]}, by attempts {free}"
        intent = engine.state.nodes["gpus"].astype(int) * GPU_MILLI
        shared = np.zeros(len(engine.state.slots), int)
        for row in np.flatnonzero(engine.state.jobs["running"]):
            parts = engine.parts(int(row))
            np.add.at(intent, parts.node[parts.slot < 0], -parts.milli[parts.slot < 0])
            np.add.at(shared, parts.slot[parts.slot >= 0], parts.milli[parts.slot >= 0])
        for row, node in enumerate(engine.state.nodes):
            slots = shared[node["slot"] : node["slot"] + node["gpus"]]
            assert (slots <= GPU_MILLI).all()
            assert intent[row] - GPU_MILLI * (slots > 0).sum() == node["free_milli"], f"node {row}: {intent} {slots}"
        assert (shared == engine.state.slots).all(), f"by parts {shared}, the engine {engine.state.slots}"
        for seen in self.machine.nodes:
            assert self.machine.free(seen.name) >= -1e-9

    def check_stories(self) -> None:
        store = self.controller.store
        records = store.jobs(JobFilter(all=True))
        by_job: dict[int, list[Any]] = {}
        for event in all_events(store):
            by_job.setdefault(event.job or 0, []).append(event)
        assert sorted(id for asked in self.asked.values() for id in asked.ids or ()) == [record.id for record in records]
        for record in records:
            check_story(record, by_job[record.id], store.attempts(record.id), clock_went_back=self.went_back)
            assert record.state.ended


def run(path: Path, seed: int, steps: int, url: str | None = None) -> FaultySite:
    """A life of so many steps, from a seed; what happened is told if something is wrong."""
    controllers.RETRY_S = 0.0
    site = FaultySite(path, seed, url)
    try:
        for _ in range(steps):
            site.step()
        site.settle()
    except BaseException as wrong:
        wrong.add_note("\n".join(site.trail[-60:]))
        raise
    finally:
        site.close()
    return site
