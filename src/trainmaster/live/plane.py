"""The controller as those who serve people see it (live/control.py): writes become commands, reads come from memory and the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from trainmaster import __version__
from trainmaster.errors import Conflict, InputError, NotFound
from trainmaster.live import verbs
from trainmaster.live.backends.base import NodeSeen
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
from trainmaster.live.controller import Controller
from trainmaster.live.feasible import Feasibility
from trainmaster.live.forecast import Forecaster
from trainmaster.live.jobs import LiveJob
from trainmaster.live.logs import Logs
from trainmaster.live.policies import chosen, parameters
from trainmaster.live.snapshots import Snapshots
from trainmaster.live.spec import JobSpec
from trainmaster.live.why import Explainer


class Plane:
    def __init__(
        self, controller: Controller, *, reload: Callable[[Controller], list[str]] | None = None, snapshots: Snapshots | None = None
    ) -> None:
        self.controller, self._reload, self._snapshots = controller, reload, snapshots
        self.forecaster = Forecaster(controller)
        self.explainer = Explainer(controller, self.forecaster)
        self.feasibility = Feasibility(controller)

    # ---------------------------------------------------------------------------------------------------------- writes

    def submit(self, specs: Sequence[JobSpec], actor: str, key: str | None = None) -> Future[list[int]]:
        if any(spec.snapshot is not None for spec in specs):
            if self._snapshots is None:
                raise InputError("snapshot: this controller keeps no copies of repositories")
            return self._snapshots.pool(actor).submit(self._submit_copies, self._snapshots, specs, actor, key)
        return self.controller.ask(lambda c, changes: verbs.submit(c, changes, specs, actor, key))

    def _submit_copies(self, snapshots: Snapshots, specs: Sequence[JobSpec], actor: str, key: str | None) -> list[int]:
        """The same for jobs that run in a copy of a repository: made first, and gone again if they are refused."""
        if key is not None and (known := self.controller.store.ids_of_key(actor, key)) is not None:
            return known
        copied, made = snapshots.of(specs, actor)
        try:
            ids: list[int] = self.controller.ask(lambda c, changes: verbs.submit(c, changes, copied, actor, key)).result()
        except BaseException:
            snapshots.keeper.drop(made, actor)
            raise
        return ids

    def cancel(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.cancel(c, changes, ids, actor))

    def suspend(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.suspend(c, changes, ids, actor))

    def resume(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.resume(c, changes, ids, actor))

    def hold(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.hold(c, changes, ids, actor))

    def release(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.release(c, changes, ids, actor))

    def requeue(self, ids: Sequence[int], actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.requeue(c, changes, ids, actor))

    def update(self, job: int, change: JobUpdate, actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.update(c, changes, job, change, actor))

    def signal(self, job: int, number: int, actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.signal(c, changes, job, number, actor))

    def drain(self, node: str, reason: str, actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.drain(c, changes, node, reason, actor))

    def resume_node(self, node: str, actor: str) -> Future[None]:
        return self.controller.ask(lambda c, changes: verbs.resume_node(c, changes, node, actor))

    def set_policy(self, name: str, settings: Sequence[str], actor: str) -> Future[PolicyRecord]:
        policy, rules = chosen(name, settings)  # refused before the controller's thread hears of it

        def change(c: Controller, changes: Any) -> PolicyRecord:
            c.change_policy(changes, policy, rules, list(settings), actor)
            return self.policy()

        return self.controller.ask(change)

    def reload(self, actor: str) -> Future[list[str]]:
        if self._reload is None:
            raise Conflict("this controller was started without a configuration file")
        read = self._reload

        def again(c: Controller, changes: Any) -> list[str]:
            changed = read(c)
            changes.event("reload", actor=actor, reason="; ".join(changed))
            return changed

        return self.controller.ask(again)

    # ---------------------------------------------------------------------------------------------------------- reads

    def job(self, job: int) -> JobRecord:
        live = self.controller.jobs.get(job)
        if live is None:
            return self.controller.store.job(job)
        self.explainer.annotate([live])
        return self._record(live)

    def jobs(self, which: JobFilter) -> list[JobRecord]:
        """By id. Those that have not ended come from memory; ended ones from the store, where they are asked for."""
        active = self.controller.jobs
        named = [job for id in dict.fromkeys(which.ids) if (job := active.get(id)) is not None] if which.ids else list(active.values())
        self.explainer.annotate(named)
        live = {job.id: self._record(job) for job in named if matches(job, which)}
        asks_ended = len(named) < len(set(which.ids)) if which.ids else which.all or any(state.ended for state in which.states)
        if not asks_ended:
            found = [live[id] for id in sorted(live)]
            return found if which.limit is None else found[: which.limit]
        rows = {record.id: record for record in self.controller.store.jobs(which)}
        merged = rows | {id: record for id, record in live.items() if id in rows or which.limit is None}
        return [merged[id] for id in sorted(merged)]

    def spec(self, job: int) -> JobSpec:
        return JobSpec.model_validate_json(self.controller.store.spec(job))

    def asked(self, ids: Sequence[int]) -> list[AskedFor]:
        return self.controller.store.asked(ids)

    def attempts(self, job: int) -> list[AttemptRecord]:
        return self.controller.store.attempts(job)

    def events(self, *, job: int | None = None, after: int = 0, limit: int = 1_000) -> list[EventRecord]:
        return self.controller.store.events(job=job, after=after, limit=limit)

    def nodes(self) -> list[NodeRecord]:
        holders: dict[str, list[tuple[int, float]]] = {}
        for job in list(self.controller.holding.values()):
            for share in job.attempt.shares if job.attempt else ():
                holders.setdefault(share.node, []).append((job.id, share.gpus))
        return [self._node(seen, holders.get(seen.name, [])) for seen in self.controller.nodes]

    def queues(self) -> list[QueueRecord]:
        c = self.controller
        jobs = list(c.jobs.values())
        names = list(dict.fromkeys([*c.queues, *(job.row.queue for job in jobs if job.row.queue is not None)]))
        return [self._queue(name, [job for job in jobs if job.row.queue == name]) for name in names]

    def never_fit(self, specs: Sequence[JobSpec]) -> list[str]:
        return self.feasibility.complaints(specs)

    def policy(self) -> PolicyRecord:
        c = self.controller
        return PolicyRecord(name=c.scheduling.policy.name, params=parameters(c.scheduling.policy), since_s=c.policy_since_s,
                            decisions=c.decisions, last_decision_ms=c.made.took_ms if c.made else None)  # fmt: skip

    def why(self, job: int) -> WhyAnswer:
        return self.explainer.why(job)

    def whatif(self, scenarios: Sequence[Scenario]) -> dict[str, Any]:
        return self.forecaster.compare(scenarios)

    def logs(self, job: int, attempt: int | None = None) -> Logs:
        record = self.job(job)
        number = record.attempts if attempt is None else attempt
        if not 1 <= number <= record.attempts:
            raise NotFound(f"job {job} has no attempt {number}" if record.attempts else f"job {job} has not started: it has no log yet")
        return self.controller.backend.logs(job, number, record.user)

    def shell(self, job: int) -> list[str]:
        live = self.controller.jobs.get(job)
        if live is None or live.attempt is None or live.attempt.start_s is None:
            raise Conflict(f"job {job} does not run")
        return list(self.controller.backend.shell(job, live.attempt.attempt))

    def status(self) -> dict[str, Any]:
        c = self.controller
        gpus = sum(seen.node.gpus for seen in c.nodes if seen.up)
        used = sum(share.gpus for job in list(c.holding.values()) if job.attempt for share in job.attempt.shares)
        return {
            "version": __version__, "since_s": c.since_s, "policy": c.scheduling.policy.name,
            "backend": {"name": c.backend.name, **c.backend.report()}, "gpus": gpus, "gpus_used": used, "store": c.store.where,
            "jobs": {state.value: count for state, count in sorted(c.store.counts().items())}, "alerts": list(c.alerts.values()),
        }  # fmt: skip

    # ---------------------------------------------------------------------------------------------------------- rows

    def _record(self, job: LiveJob) -> JobRecord:
        return job.record(self.controller.clock())

    def _node(self, seen: NodeSeen, holders: list[tuple[int, float]]) -> NodeRecord:
        held = sum(gpus for _, gpus in holders)
        drained = self.controller.drained.get(seen.name)
        if not seen.up:
            state = "down"
        elif drained is not None:
            state = "draining" if held else "drained"
        else:
            state = "idle" if not held else "allocated" if held >= seen.node.gpus else "mixed"
        return NodeRecord(
            name=seen.name, type=seen.node.type, gpus=seen.node.gpus, free_gpus=max(seen.node.gpus - held - seen.others_gpus, 0.0),
            cpus=seen.node.cpus, memory_gib=seen.node.memory_gib, state=state, reason=seen.reason if drained is None else drained,
            queues=self.controller.node_queues.get(seen.name, seen.node.queues), jobs=tuple(id for id, _ in holders),
            others_gpus=seen.others_gpus,
        )  # fmt: skip

    def _queue(self, name: str, jobs: list[LiveJob]) -> QueueRecord:
        spec = self.controller.queues.get(name)
        return QueueRecord(
            name=name, quota_gpus=spec.quota_gpus if spec else None, weight=spec.weight if spec else 1.0,
            borrow=spec.borrow if spec else True,
            used_gpus=sum(share.gpus for job in jobs if job.attempt for share in job.attempt.shares),
            running=sum(job.attempt is not None for job in jobs), waiting=sum(job.waits for job in jobs),
        )  # fmt: skip


def matches(job: LiveJob, which: JobFilter) -> bool:
    row = job.row
    if which.states and row.state not in which.states:
        return False
    return (
        (not which.ids or row.id in which.ids)
        and (not which.names or row.name in which.names)
        and (not which.users or row.user in which.users)
        and (not which.queues or row.queue in which.queues)
        and (which.until_s is None or row.submit_s < which.until_s)
        and (which.after_id is None or row.id > which.after_id)
    )


