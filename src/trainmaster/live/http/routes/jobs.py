"""Jobs: submit, look, change, wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.concurrency import run_in_threadpool

from trainmaster.errors import Forbidden, InputError
from trainmaster.live.control import ControlPlane, JobFilter, JobRecord, JobUpdate, WhyAnswer
from trainmaster.live.http.access import SUBMITTER, Access, Caller
from trainmaster.live.http.answers import committed
from trainmaster.live.http.schemas import (
    LARGEST_ID,
    MAX_FILTER,
    Asked,
    Attempts,
    Bulk,
    Change,
    Events,
    Id,
    Ids,
    Jobs,
    Shell,
    Signal,
    Submitted,
    SubmittedAll,
    Verb,
)
from trainmaster.live.http.service import service_of
from trainmaster.live.http.strict_json import StrictRoute
from trainmaster.live.spec import JobSpec, Moment, Name, Word
from trainmaster.live.states import State

MAX_EVENTS = 10_000
MAX_WAIT_S = 60.0

router = APIRouter(tags=["jobs"], route_class=StrictRoute)

JobId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
SAME = "a request that is sent again with the same key gets the same ids, and nothing is submitted twice"
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$", description=SAME)]
Timeout = Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)]
User = Annotated[Word | None, Query(description="submit for another; admins may")]


@router.post("/jobs", status_code=201, dependencies=[SUBMITTER])
async def submit(spec: JobSpec, caller: Caller, key: Key = None, user: User = None) -> Submitted:
    ids, notes = await _submit([spec], caller, key, user)
    return Submitted(ids[0], ids, notes)


@router.post("/jobs/bulk", status_code=201, dependencies=[SUBMITTER])
async def submit_all(bulk: Bulk, caller: Caller, key: Key = None, user: User = None) -> SubmittedAll:
    """All of them or none."""
    return SubmittedAll(*await _submit(bulk.jobs, caller, key, user))


async def _submit(specs: list[JobSpec], caller: Access, key: str | None, user: str | None) -> tuple[list[int], list[str]]:
    if user is not None and user != caller.who.user and not caller.who.role.administers:
        raise Forbidden(f"only an admin may submit for another; you are {caller.who.user}")
    jobs, at_most = sum(len(spec.array.indices) if spec.array else 1 for spec in specs), caller.settings.max_jobs_a_request
    if jobs > at_most:
        raise InputError(f"{jobs:,} jobs in one request; {at_most:,} are allowed: send several")
    if awaited := [dependency.job for spec in specs for dependency in spec.after]:
        await run_in_threadpool(caller.touch, awaited)  # another's jobs do not exist, so nothing can wait for them either
    accepted = caller.control.submit(specs, user or caller.who.user, key)
    # meanwhile; that of one job, mostly of a kind that is known, takes less than to hand it to another thread
    notes = caller.control.never_fit(specs) if len(specs) == 1 else await run_in_threadpool(caller.control.never_fit, specs)
    return await committed(accepted, caller.settings.answer_timeout_s), notes


@router.get("/jobs")
def jobs(
    caller: Caller,
    id: Annotated[tuple[Id, ...], Query(max_length=MAX_FILTER)] = (),
    name: Annotated[tuple[Name, ...], Query(max_length=MAX_FILTER)] = (),
    user: Annotated[tuple[Word, ...], Query(max_length=MAX_FILTER)] = (),
    queue: Annotated[tuple[Word, ...], Query(max_length=MAX_FILTER)] = (),
    state: Annotated[tuple[State, ...], Query(max_length=len(State))] = (),
    all: Annotated[bool, Query(description="ended ones too")] = False,
    since_s: Annotated[Moment | None, Query(description="ended, or active, at or after")] = None,
    until_s: Annotated[Moment | None, Query(description="submitted before")] = None,
    limit: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    after_id: Annotated[int | None, Query(ge=0, le=LARGEST_ID, description="paging: ids above this")] = None,
) -> Jobs:
    """Those that have not ended, unless `all` or `state` says otherwise."""
    which = JobFilter(
        ids=id, names=name, users=user, queues=queue, states=state, all=all, since_s=since_s, until_s=until_s, limit=limit,
        after_id=after_id,
    )  # fmt: skip
    return Jobs(caller.jobs(which))


@router.get("/jobs/{id}")
def job(id: JobId, caller: Caller) -> JobRecord:
    return caller.job(id)


@router.patch("/jobs/{id}", dependencies=[SUBMITTER])
async def update(id: JobId, change: Change, caller: Caller) -> JobRecord:
    await run_in_threadpool(caller.touch, [id])
    await committed(caller.control.update(id, JobUpdate(**change.model_dump()), caller.who.user), caller.settings.answer_timeout_s)
    return await run_in_threadpool(caller.job, id)


@router.post("/jobs/{id}/signal", status_code=204, dependencies=[SUBMITTER])
async def signal(id: JobId, what: Signal, caller: Caller) -> None:
    await run_in_threadpool(caller.touch, [id])
    await committed(caller.control.signal(id, what.number, caller.who.user), caller.settings.answer_timeout_s)


@router.post("/jobs/asked")
def asked(which: Ids, caller: Caller) -> Asked:
    """What jobs asked for beside what their records say, of thousands in one request; those that may not be seen are left out."""
    return Asked(caller.asked(which.ids))


@router.post("/jobs/{verb}", status_code=204, dependencies=[SUBMITTER])
async def change(verb: Verb, which: Ids, caller: Caller) -> None:
    """All of them or none."""
    ids = await run_in_threadpool(caller.touch, which.ids)
    await committed(verbs_of(caller.control)[verb](ids, caller.who.user), caller.settings.answer_timeout_s)


def verbs_of(control: ControlPlane) -> dict[Verb, Callable[[Sequence[int], str], Future[None]]]:
    return {
        "cancel": control.cancel, "suspend": control.suspend, "resume": control.resume, "hold": control.hold, "release": control.release,
        "requeue": control.requeue,
    }  # fmt: skip


@router.get("/jobs/{id}/wait")
async def wait(id: JobId, request: Request, caller: Caller, timeout_s: Timeout = 30.0) -> JobRecord:
    """The job once it has ended, or as it is when the time is up."""
    record = await run_in_threadpool(caller.job, id)
    if not record.state.ended:
        await service_of(request).watch.ended(id, timeout_s)
        record = await run_in_threadpool(caller.job, id)
    return record


@router.get("/jobs/{id}/spec")
def spec(id: JobId, caller: Caller) -> JobSpec:
    return caller.spec(id)


@router.get("/jobs/{id}/attempts")
def attempts(id: JobId, caller: Caller) -> Attempts:
    caller.job(id)
    return Attempts(caller.control.attempts(id))


@router.get("/jobs/{id}/why")
def why(id: JobId, caller: Caller) -> WhyAnswer:
    """The binding constraint, who is ahead, when it should start, and what would start it now."""
    return caller.why(id)


@router.get("/jobs/{id}/shell", dependencies=[SUBMITTER])
def shell(id: JobId, caller: Caller) -> Shell:
    """What to run on the controller's machine for a shell inside the job."""
    caller.touch([id])
    return Shell(list(caller.control.shell(id)))


After = Annotated[int, Query(ge=0, le=LARGEST_ID, description="ids above this")]
Limit = Annotated[int, Query(ge=1, le=MAX_EVENTS)]


@router.get("/jobs/{id}/events")
def job_events(id: JobId, caller: Caller, after: After = 0, limit: Limit = 1_000) -> Events:
    caller.job(id)
    happened = caller.control.events(job=id, after=after, limit=limit)
    return Events(happened, happened[-1].id if happened else after)


@router.get("/events")
def events(caller: Caller, after: After = 0, limit: Limit = 1_000) -> Events:
    """What happened, oldest first."""
    happened = caller.control.events(after=after, limit=limit)
    return Events(caller.events(happened), happened[-1].id if happened else after)
