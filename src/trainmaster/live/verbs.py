"""What people may do to jobs and nodes, as commands that the controller's thread runs: each checks, changes, and says what it did.

Raises NotFound, Conflict or InputError, one line; nothing is changed then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from trainmaster.errors import Conflict, InputError, NotFound
from trainmaster.live.control import JobUpdate
from trainmaster.live.jobs import TOLD_PREEMPTIBLE, LiveJob
from trainmaster.live.ledger import Changes, Submission
from trainmaster.live.spec import LEAST_GPUS, JobSpec, within
from trainmaster.live.states import State
from trainmaster.live.store import NewJob

if TYPE_CHECKING:
    from trainmaster.live.controller import Controller

DEFAULT_NAME = 40  # characters of the command


def submit(controller: Controller, changes: Changes, specs: Sequence[JobSpec], actor: str, key: str | None) -> Submission | list[int]:
    """The jobs of a request; one that was seen before makes none, which writing it down finds out."""
    if key is not None:
        for staged in changes.submissions:
            if (staged.actor, staged.key) == (actor, key):
                raise Conflict(f"request {key}: the same request is being taken in right now; ask again")
    try:
        for spec in specs:
            check(controller, spec)
    except InputError:  # what was right when it was first sent
        if key is not None and (known := controller.store.ids_of_key(actor, key)) is not None:
            return known
        raise
    submission = Submission(actor=actor, key=key, specs=specs)
    for spec in specs:
        for index in spec.array.indices if spec.array is not None else (None,):
            submission.rows.append((spec, row_of(controller, spec, actor, index, changes.now_s)))
    changes.submissions.append(submission)
    return submission


def check(controller: Controller, spec: JobSpec) -> None:
    """What the job table cannot know: this site's queues, and the jobs it names."""
    if controller.queues and spec.queue is not None and spec.queue not in controller.queues:
        raise InputError(f'queue: no queue "{spec.queue}" (it has {", ".join(controller.queues)})')
    if spec.ray_driver and not controller.backend.capabilities.drivers:
        raise InputError("ray_driver: this cluster is not one of Ray: a Ray program is submitted to `trainmaster up --backend ray`")
    most_s = controller.rules.queue(spec.queue).limit_s
    if most_s is not None and spec.limit_s is not None and spec.limit_s > most_s:
        raise InputError(f"limit_s: {spec.limit_s:g} s is more than queue {spec.queue} allows ({most_s:g} s)")
    for dependency in spec.after:
        if dependency.job not in controller.jobs and dependency.job not in controller.needed:
            try:
                controller.store.job(dependency.job)
            except NotFound:
                raise InputError(f"after: there is no job {dependency.job}") from None


def row_of(controller: Controller, spec: JobSpec, user: str, index: int | None, now_s: float) -> NewJob:
    rules = controller.rules
    default = " ".join(spec.command or ()) if spec.command else "script"
    preemptible = spec.preemptible if spec.preemptible is not None else rules.preemptible or rules.queue(spec.queue).preemptible
    return NewJob(
        spec=0, name=spec.name or default[:DEFAULT_NAME], user=user, gpus=spec.gpus, submit_s=now_s,
        eligible_s=max(now_s, spec.begin_s or 0.0), queue=spec.queue, account=spec.account, priority=spec.priority, held=spec.hold,
        reason="held" if spec.hold else "", preemptible=preemptible,
        limit_s=spec.limit_s if spec.limit_s is not None else rules.queue(spec.queue).limit_s, estimate_s=spec.estimate_s,
        begin_s=spec.begin_s, deadline_s=spec.deadline_s, array_index=index,
        after=tuple(f"{dependency.kind}:{dependency.job}" for dependency in spec.after), labels=dict(spec.labels),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- jobs


def cancel(controller: Controller, changes: Changes, ids: Sequence[int], actor: str) -> None:
    """Waiting jobs end at once; running ones when nothing of them is left. Jobs that have ended stay as they are."""
    for job in one_by_one(controller, changes, existing(controller, ids, ended="ignored")):
        changes.event("cancel", job, actor=actor)
        if job.attempt is None:
            controller.withdraw(job)
            controller.over(changes, job, State.CANCELLED, "cancelled", exit_code=None, finish_s=changes.now_s, actor=actor)
        else:
            stop(controller, changes, job, "cancel")


def suspend(controller: Controller, changes: Changes, ids: Sequence[int], actor: str) -> None:
    """Its checkpoint is asked for, its GPUs are given back; it stays stopped until resumed."""
    for job in one_by_one(controller, changes, allowed(existing(controller, ids), refuse_ending)):
        changes.job(job, suspended=True)
        changes.event("suspend", job, actor=actor)
        if job.attempt is None:
            controller.withdraw(job)
            if job.row.state is not State.SUSPENDED:
                changes.state(job, State.SUSPENDED, "suspended", actor)
        else:
            stop(controller, changes, job, "suspend")


def resume(controller: Controller, changes: Changes, ids: Sequence[int], actor: str) -> None:
    """It waits again: at once, or when its attempt has gone."""
    for job in allowed(existing(controller, ids), lambda job: None if job.row.suspended else "is not suspended"):
        changes.job(job, suspended=False)
        changes.event("resume", job, actor=actor)
        if job.row.state is State.SUSPENDED:
            changes.state(job, State.PENDING, "resumed", actor)
        elif job.attempt is not None and job.attempt.reason == "suspend":
            changes.attempt(job.attempt, reason="requeue")
        controller.recheck = True


def hold(controller: Controller, changes: Changes, ids: Sequence[int], actor: str) -> None:
    """It is not started until released; one that runs is not stopped, but will not start again."""
    for job in one_by_one(controller, changes, existing(controller, ids)):
        changes.job(job, held=True, **({"reason": "held"} if job.attempt is None else {}))
        changes.event("hold", job, actor=actor)
        if not job.runs:
            controller.withdraw(job)


def release(controller: Controller, changes: Changes, ids: Sequence[int], actor: str) -> None:
    for job in allowed(existing(controller, ids), lambda job: None if job.row.held else "is not held"):
        changes.job(job, held=False, reason="")
        changes.event("release", job, actor=actor)
        job.start_failures, job.failed_on, job.retry_at_s = 0, [], 0.0
        controller.recheck = True


def requeue(controller: Controller, changes: Changes, ids: Sequence[int], actor: str) -> None:
    """Stop it, by the protocol, and let it wait again."""

    def refused(job: LiveJob) -> str | None:
        if job.attempt is None:
            return "does not run"
        if not job.needs.requeue:
            return "is not to be requeued: it was submitted so (--no-requeue)"
        return "is suspended: resume it" if job.row.suspended else refuse_ending(job)

    for job in one_by_one(controller, changes, allowed(existing(controller, ids), refused)):
        changes.event("requeue", job, actor=actor)
        stop(controller, changes, job, "requeue")


def update(controller: Controller, changes: Changes, id: int, change: JobUpdate, actor: str) -> None:
    (job,) = existing(controller, [id])
    values = {name: value for name in JobUpdate.__dataclass_fields__ if (value := getattr(change, name)) is not None}
    if "queue" in values and controller.queues and values["queue"] not in controller.queues:
        raise InputError(f'queue: no queue "{values["queue"]}" (it has {", ".join(controller.queues)})')
    if "gpus" in values:
        if job.attempt is not None:
            raise Conflict(f"job {job.id} holds its GPUs: their number can be changed only while it waits")
        if values["gpus"] < 0 or (values["gpus"] > 1 and values["gpus"] % 1) or (values["gpus"] == 0 and job.needs.cpus == 0):
            raise InputError(f"gpus: a gang takes whole GPUs, at least one, not {values['gpus']:g}")
        if 0 < values["gpus"] < LEAST_GPUS:
            raise InputError(f"gpus: the least of a GPU is {LEAST_GPUS:g}, not {values['gpus']:g}")
        if not within(values["gpus"], job.needs.min_gpus, job.needs.max_gpus):
            raise InputError(f"gpus: {values['gpus']:g} is not between the least and the most that job {job.id} was submitted with")
        if job.needs.nodes is not None and values["gpus"] % job.needs.nodes:
            raise InputError(f"gpus: {values['gpus']:g} do not lie evenly on the {job.needs.nodes} nodes that job {job.id} asks for")
    if "queue" in values and job.attempt is not None:
        raise Conflict(f"job {job.id} runs: its queue can be changed only while it waits")
    limit_s = values.get("limit_s", job.row.limit_s)
    most_s = controller.rules.queue(values.get("queue", job.row.queue)).limit_s
    if most_s is not None and {"limit_s", "queue"} & values.keys():
        if limit_s is not None and limit_s > most_s:
            raise InputError(f"limit_s: {limit_s:g} s is more than queue {values.get('queue', job.row.queue)} allows ({most_s:g} s)")
        values["limit_s"] = most_s if limit_s is None else limit_s
    if "gpus" in values or "queue" in values:
        controller.withdraw(job)  # what it was promised was for what it asked then
    if "limit_s" in values and job.runs:
        job.warned = False  # its signal comes before the end that it has now
    changes.job(job, **values)
    changes.event("update", job, actor=actor, **values)
    if "preemptible" in values:
        changes.job(job, engine=job.row.engine | {TOLD_PREEMPTIBLE: values["preemptible"]})
    controller.changed.add(id)
    controller.stale = True  # order, amounts and estimates are the engine's from the next decision on
    engine = controller.scheduling.engine
    if "preemptible" in values and engine is not None and job.id in engine.row_of:
        engine.set_pinned(job.id, not values["preemptible"])


def signal(controller: Controller, changes: Changes, id: int, number: int, actor: str) -> None:
    (job,) = existing(controller, [id])
    if job.attempt is None:
        raise Conflict(f"job {job.id} does not run")
    controller.backend.signal(job.id, job.attempt.attempt, number)
    changes.event("signal", job, actor=actor, reason=f"signal {number}")


def stop(controller: Controller, changes: Changes, job: LiveJob, reason: str) -> None:
    """Ask a job that holds GPUs to stop. One that is stopping for another reason stops for the new one."""
    attempt, engine = job.attempt, controller.scheduling.engine
    assert attempt is not None and engine is not None
    if attempt.asked_s is None:
        attempt.reason = attempt.reason if attempt.reason == "cancel" else reason
        engine.take_back(job.id)
    elif attempt.reason != reason and attempt.reason != "cancel":
        changes.attempt(attempt, reason=reason)
        changes.state(job, State.COMPLETING if reason == "cancel" else State.PREEMPTING, reason)
        engine.take_back(job.id)  # if it was to start again, it is not now
        controller.stops.append((job, attempt))


def refuse_ending(job: LiveJob) -> str | None:
    return "is ending" if job.row.state is State.COMPLETING or job.stop_reason in ("cancel", "limit") else None


def allowed(jobs: Sequence[LiveJob], refused: Callable[[LiveJob], str | None]) -> Sequence[LiveJob]:
    """All of them, or none: a request that is refused for one job has changed no other."""
    for job in jobs:
        if (why := refused(job)) is not None:
            raise Conflict(f"job {job.id} {why}")
    return jobs


def one_by_one(controller: Controller, changes: Changes, jobs: Sequence[LiveJob]) -> Iterator[LiveJob]:
    """What one gives to others is theirs before the next is looked at."""
    for job in jobs:
        yield job
        controller.take_acts(changes)


def existing(controller: Controller, ids: Sequence[int], ended: str = "refused") -> list[LiveJob]:
    found = []
    for id in dict.fromkeys(ids):
        job = controller.jobs.get(id)
        if job is not None:
            found.append(job)
        elif controller.store.job(id) and ended == "refused":  # NotFound if there never was one
            raise Conflict(f"job {id} has ended")
    return found


# ------------------------------------------------------------------------------------------------- nodes


def drain(controller: Controller, changes: Changes, node: str, reason: str, actor: str) -> None:
    """It takes nobody new; who is there runs on."""
    if node not in controller.node_row:
        raise NotFound(f"no node {node}")
    changes.nodes.append((node, True, reason, actor))
    changes.event("node", reason=f"{node} is drained: {reason}" if reason else f"{node} is drained", actor=actor)
    controller.set_drained(node, reason)


def resume_node(controller: Controller, changes: Changes, node: str, actor: str) -> None:
    if node not in controller.node_row:
        raise NotFound(f"no node {node}")
    changes.nodes.append((node, False, "", actor))
    changes.event("node", reason=f"{node} is open again", actor=actor)
    controller.set_drained(node, None)
