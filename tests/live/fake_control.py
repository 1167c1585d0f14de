"""A control plane in memory, for tests of what serves people: no store, no backend, no engine; a job does what the test says.

It keeps the promises of `ControlPlane` that callers can see: ids ascend, the same key gives the same ids, a verb that the job's
state forbids is a Conflict, every change is an event. `run`, `end` and `log` move a job as a backend would.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from trainmaster import __version__
from trainmaster.errors import Conflict, NotFound, ParamError, TrainmasterError
from trainmaster.live.control import (
    AskedFor,
    AttemptRecord,
    EventRecord,
    JobFilter,
    JobRecord,
    JobUpdate,
    NodeRecord,
    PolicyRecord,
    QueueRecord,
    Scenario,
    WhyAnswer,
)
from trainmaster.live.logs import LogsHere
from trainmaster.live.spec import JobSpec
from trainmaster.live.states import State

HOLDING = frozenset({State.STARTING, State.RUNNING, State.PREEMPTING, State.RESIZING, State.COMPLETING})
T = TypeVar("T")
POLICIES = ("fifo", "easy-backfill", "las", "tiresias-las")


class FakeControl:
    def __init__(self, logs: Path, *, nodes: int = 2, gpus: int = 4, now_s: float = 1_800_000_000.0) -> None:
        self.folder, self.now_s, self.since_s = logs, now_s, now_s
        self.slots = {f"node-{number}": gpus for number in range(1, nodes + 1)}
        self.drained: dict[str, str] = {}
        self.specs: dict[int, JobSpec] = {}
        self.records: dict[int, JobRecord] = {}
        self.tries: dict[int, list[AttemptRecord]] = {}
        self.history: list[EventRecord] = []
        self.keys: dict[tuple[str, str], list[int]] = {}
        self.broken: TrainmasterError | None = None  # what every call fails with, as when the database is away
        self.running_policy = PolicyRecord(name="tiresias-las", params={}, since_s=now_s, decisions=0, last_decision_ms=None)
        self._ids = itertools.count(1)
        self._lock = threading.RLock()  # reads come from many threads

    # ------------------------------------------------------------------------------------------- what a test does to it

    def run(self, job: int, node: str = "node-1") -> None:
        """A new attempt of it runs on one node."""
        with self._lock:
            record = self.records[job]
            attempt = record.attempts + 1
            self.records[job] = replace(
                record, state=State.RUNNING, reason="", nodes=(node,), attempts=attempt, start_s=record.start_s or self.now_s, place=None
            )
            self.tries.setdefault(job, []).append(
                AttemptRecord(
                    job=job, attempt=attempt, state="running", nodes=(node,), gpus=(record.gpus,), claimed_s=self.now_s, start_s=self.now_s,
                    end_s=None, exit_code=None, reason="", step=None, saved_step=None, lost_steps=0,
                )
            )  # fmt: skip
            self._event(job, State.RUNNING, "started", None, attempt=attempt)

    def end(self, job: int, state: State = State.SUCCEEDED, exit_code: int = 0, reason: str = "") -> None:
        with self._lock:
            self.records[job] = replace(self.records[job], state=state, exit_code=exit_code, reason=reason, finish_s=self.now_s, place=None)
            self._end_attempt(job, exit_code, reason)
            self._event(job, state, reason, None)

    def preempt(self, job: int) -> None:
        """It gives its GPUs back and waits again."""
        with self._lock:
            record = self.records[job]
            self.records[job] = replace(record, state=State.PENDING, reason="preempted", nodes=(), preemptions=record.preemptions + 1)
            self._end_attempt(job, None, "preempt")
            self._event(job, State.PENDING, "preempted", None)

    def log(self, job: int, text: bytes, *, rank: str = "0", attempt: int | None = None) -> None:
        folder = self.folder / str(job) / str(attempt or self.records[job].attempts)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"rank-{rank}.log").open("ab") as file:
            file.write(text)

    # ------------------------------------------------------------------------------------------- writes

    def never_fit(self, specs: Sequence[JobSpec]) -> list[str]:
        return [f"can never fit this cluster as it is: {spec.gpus:g} GPUs" for spec in specs if spec.gpus > 1_000]

    def submit(self, specs: Sequence[JobSpec], actor: str, key: str | None = None) -> Future[list[int]]:
        def submitted() -> list[int]:
            if key is not None and (actor, key) in self.keys:
                return self.keys[actor, key]
            for spec in specs:
                for dependency in spec.after:
                    self._record(dependency.job)
            ids = [job for spec in specs for job in self._add(spec, actor)]
            if key is not None:
                self.keys[actor, key] = ids
            return ids

        return self._done(submitted)

    def cancel(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self._verb(ids, actor, set(State) - {s for s in State if s.ended}, state=State.CANCELLED, reason="cancelled")

    def suspend(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self._verb(ids, actor, {State.PENDING, State.RUNNING}, state=State.SUSPENDED, reason="suspended")

    def resume(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self._verb(ids, actor, {State.SUSPENDED}, state=State.PENDING, reason="resumed")

    def hold(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self._verb(ids, actor, {State.PENDING}, state=State.PENDING, reason="held")

    def release(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self._verb(ids, actor, {State.PENDING}, state=State.PENDING, reason="capacity")

    def requeue(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self._verb(ids, actor, {State.RUNNING}, state=State.PENDING, reason="requeued")

    def update(self, job: int, change: JobUpdate, actor: str) -> Future[None]:
        def updated() -> None:
            record = self._record(job)
            if record.state.ended:
                raise Conflict(f"job {job} has ended ({record.state}): nothing of it can be changed")
            fields = {
                field: getattr(change, field)
                for field in ("priority", "queue", "limit_s", "gpus", "name", "preemptible")
                if getattr(change, field) is not None
            }
            self.records[job] = replace(record, **fields)
            self._event(job, None, "updated", actor)

        return self._done(updated)

    def signal(self, job: int, number: int, actor: str) -> Future[None]:
        def signalled() -> None:
            if self._record(job).state is not State.RUNNING:
                raise Conflict(f"job {job} does not run: there is nothing to signal")
            self._event(job, None, f"signal {number}", actor)

        return self._done(signalled)

    def drain(self, node: str, reason: str, actor: str) -> Future[None]:
        def drained() -> None:
            self._node(node)
            self.drained[node] = reason
            self._event(None, None, reason, actor, kind="node")

        return self._done(drained)

    def resume_node(self, node: str, actor: str) -> Future[None]:
        def resumed() -> None:
            self._node(node)
            self.drained.pop(node, None)
            self._event(None, None, "resumed", actor, kind="node")

        return self._done(resumed)

    def set_policy(self, name: str, settings: Sequence[str], actor: str) -> Future[PolicyRecord]:
        def changed() -> PolicyRecord:
            if name not in POLICIES:
                raise ParamError(f'policy: no policy "{name}" (trainmaster policies lists all)')
            params: dict[str, Any] = dict(setting.split("=", 1) for setting in settings if "=" in setting)
            self.running_policy = replace(self.running_policy, name=name, params=params, since_s=self.now_s)
            self._event(None, None, name, actor, kind="policy")
            return self.running_policy

        return self._done(changed)

    def reload(self, actor: str) -> Future[list[str]]:
        return self._done(lambda: ["queues: research: quota_gpus 4 -> 6"])

    # ------------------------------------------------------------------------------------------- reads

    def job(self, job: int) -> JobRecord:
        with self._lock:
            return self._record(job)

    def jobs(self, which: JobFilter) -> list[JobRecord]:
        self._check()
        with self._lock:
            records: Collection[JobRecord] = (
                [self.records[job] for job in sorted(set(which.ids)) if job in self.records] if which.ids else list(self.records.values())
            )
        found = (
            record
            for record in records
            if (which.all or which.states or not record.state.ended)
            and (not which.names or record.name in which.names)
            and (not which.users or record.user in which.users)
            and (not which.queues or (record.queue or "default") in which.queues)
            and (not which.states or record.state in which.states)
            and (which.since_s is None or record.finish_s is None or record.finish_s >= which.since_s)
            and (which.until_s is None or record.submit_s < which.until_s)
            and (which.after_id is None or record.id > which.after_id)
        )
        return list(itertools.islice(found, which.limit))

    def spec(self, job: int) -> JobSpec:
        self._record(job)
        return self.specs[job]

    def asked(self, ids: Sequence[int]) -> list[AskedFor]:
        known = {id: self.specs[id] for id in ids if id in self.specs}
        return [
            AskedFor(id=id, cpus=s.cpus, memory_gib=s.memory_gib, gpu_types=s.gpu_types, qos=s.qos, workdir=s.workdir)
            for id, s in known.items()
        ]

    def attempts(self, job: int) -> list[AttemptRecord]:
        self._record(job)
        return list(self.tries.get(job, ()))

    def events(self, *, job: int | None = None, after: int = 0, limit: int = 1_000) -> list[EventRecord]:
        self._check()
        return list(itertools.islice((event for event in self.history[after:] if job is None or event.job == job), limit))

    def nodes(self) -> list[NodeRecord]:
        self._check()
        return [self._seen(name) for name in self.slots]

    def queues(self) -> list[QueueRecord]:
        self._check()
        made = []
        for name in sorted({record.queue or "default" for record in self.records.values()} | {"default"}):
            mine = [record for record in self.records.values() if (record.queue or "default") == name]
            used = [record for record in mine if record.state in HOLDING]
            made.append(
                QueueRecord(
                    name=name, quota_gpus=None, weight=1.0, borrow=True, used_gpus=sum(record.gpus for record in used), running=len(used),
                    waiting=sum(record.state is State.PENDING for record in mine),
                )
            )  # fmt: skip
        return made

    def policy(self) -> PolicyRecord:
        self._check()
        return self.running_policy

    def why(self, job: int) -> WhyAnswer:
        record = self._record(job)
        before = [other for other in self.records.values() if other.state is State.PENDING and other.id < job]
        waits = record.state is State.PENDING
        return WhyAnswer(
            job=job, state=record.state, code=record.reason or "runs",
            text=f"job {job} waits for {record.gpus:g} GPUs; 1 is free" if waits else f"job {job} is {record.state}",
            numbers={"asked_gpus": record.gpus, "free_gpus": 1.0}, place=len(before) + 1 if waits else None,
            of=sum(other.state is State.PENDING for other in self.records.values()),
            ahead=tuple({"id": other.id, "user": other.user, "gpus": other.gpus, "why": "submitted earlier"} for other in before[-3:]),
            expected_start_s=(self.now_s + 60, self.now_s + 600) if waits else None, estimate_source="limits of those that run",
            counterfactual="would start now with 1 GPU" if waits else None, decision=1, decided_s=self.now_s,
        )  # fmt: skip

    def whatif(self, scenarios: Sequence[Scenario]) -> dict[str, Any]:
        self._check()
        for scenario in scenarios:
            if scenario.policy is not None and scenario.policy not in POLICIES:
                raise ParamError(f'{scenario.label}: no policy "{scenario.policy}" (trainmaster policies lists all)')
        columns = [Scenario(label="as it is"), *scenarios]
        runs = [{"label": asked.label, "policy": asked.policy or self.running_policy.name, "avg_jct_s": 60.0} for asked in columns]
        return {"runs": runs, "conclusion": "nothing changes"}

    def logs(self, job: int, attempt: int | None = None) -> LogsHere:
        return LogsHere(self.log_files(job, attempt))

    def log_files(self, job: int, attempt: int | None = None) -> dict[str, Path]:
        folder = self.folder / str(job) / str(attempt or self._record(job).attempts)
        return {path.stem.removeprefix("rank-"): path for path in sorted(folder.glob("rank-*.log"))}

    def shell(self, job: int) -> list[str]:
        if self._record(job).state is not State.RUNNING:
            raise Conflict(f"job {job} does not run: there is nothing to look into")
        return ["/bin/sh", "-i"]

    def status(self) -> dict[str, Any]:
        self._check()
        return {
            "version": __version__, "now_s": self.now_s, "since_s": self.since_s, "policy": self.running_policy.name,
            "backend": {"name": "fake"}, "nodes": len(self.slots), "gpus": sum(self.slots.values()),
            "gpus_used": sum(record.gpus for record in self.records.values() if record.state in HOLDING),
            "jobs": {str(state): count for state, count in Counter(record.state for record in self.records.values()).items()},
            "alerts": [],
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------- inside

    def _add(self, spec: JobSpec, user: str) -> list[int]:
        array = None
        ids = []
        for index in spec.array.indices if spec.array else (None,):
            job = next(self._ids)
            array = array or (job if spec.array else None)
            self.specs[job] = spec
            self.records[job] = JobRecord(
                id=job, name=spec.name or (spec.command or ("script",))[0].rpartition("/")[2] or "job", user=user, queue=spec.queue,
                account=spec.account, state=State.PENDING, reason="held" if spec.hold else "capacity", priority=spec.priority,
                gpus=spec.gpus, gpu_type=None, nodes=(), submit_s=self.now_s, eligible_s=self.now_s, start_s=None, finish_s=None,
                limit_s=spec.limit_s, run_s=0.0, gpu_s=0.0, exit_code=None, attempts=0, preemptions=0, failures=0, lost_steps=0,
                step=None, saved_step=None, preemptible=bool(spec.preemptible), array_job=array, array_index=index,
                after=tuple(f"{dependency.kind}:{dependency.job}" for dependency in spec.after), eta_s=None, place=job,
                labels=dict(spec.labels),
            )  # fmt: skip
            self._event(job, State.PENDING, "submitted", user, kind="submitted")
            ids.append(job)
        return ids

    def _verb(self, ids: Sequence[int], actor: str, allowed: Collection[State], *, state: State, reason: str) -> Future[None]:
        def changed() -> None:
            for record in [self._record(job) for job in ids]:
                if record.state not in allowed:
                    raise Conflict(f"job {record.id} is {record.state}: it cannot be {reason}")
            for job in ids:
                ended = {"finish_s": self.now_s} if state.ended else {}
                self.records[job] = replace(self.records[job], state=state, reason=reason, **ended)
                self._end_attempt(job, None, reason)
                self._event(job, state, reason, actor)

        return self._done(changed)

    def _done(self, change: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        try:
            with self._lock:
                self._check()
                future.set_result(change())
        except TrainmasterError as error:
            future.set_exception(error)
        return future

    def _end_attempt(self, job: int, exit_code: int | None, reason: str) -> None:
        if (tries := self.tries.get(job)) and tries[-1].end_s is None:
            tries[-1] = replace(tries[-1], state="ended", end_s=self.now_s, exit_code=exit_code, reason=reason)

    def _event(
        self, job: int | None, state: State | None, reason: str, actor: str | None, *, kind: str = "state", attempt: int | None = None
    ) -> None:
        self.history.append(
            EventRecord(
                id=len(self.history) + 1, at_s=self.now_s, job=job, attempt=attempt, kind=kind, state=state, reason=reason, actor=actor
            )
        )

    def _record(self, job: int) -> JobRecord:
        self._check()
        if job not in self.records:
            raise NotFound(f"no job {job} in this fake")
        return self.records[job]

    def _node(self, name: str) -> str:
        if name not in self.slots:
            raise NotFound(f"no node {name}")
        return name

    def _seen(self, name: str) -> NodeRecord:
        here = [record for record in self.records.values() if record.state in HOLDING and name in record.nodes]
        used = sum(record.gpus / len(record.nodes) for record in here)
        gpus = self.slots[name]
        state = "drained" if name in self.drained else "idle" if not used else "allocated" if used >= gpus else "mixed"
        return NodeRecord(
            name=name, type="h100", gpus=gpus, free_gpus=max(0.0, gpus - used), cpus=64.0, memory_gib=512.0, state=state,
            reason=self.drained.get(name, ""), queues=(), jobs=tuple(record.id for record in here), others_gpus=0.0,
        )  # fmt: skip

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken
