"""Jobs: submit, look, change, wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from trainmaster.errors import Forbidden, InputError
from trainmaster.live.control import AttemptRecord, ControlPlane, EventRecord, JobFilter, JobRecord, JobUpdate, WhyAnswer
from trainmaster.live.http.access import SUBMITTER, Access, Caller
from trainmaster.live.http.answers import answer, committed
from trainmaster.live.http.schemas import (
    LARGEST_ID,
    MAX_FILTER,
    Attempts,
    Bulk,
    Change,
    Events,
    Id,
    Ids,
    Jobs,
    Moment,
    Shell,
    Signal,
    Submitted,
    SubmittedAll,
    Verb,
)
from trainmaster.live.spec import JobSpec, Name, Word
from trainmaster.live.states import State

MAX_EVENTS = 10_000
MAX_WAIT_S = 60.0

router = APIRouter(tags=["jobs"])

JobId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
SAME = "a request that is sent again with the same key gets the same ids, and nothing is submitted twice"
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$", description=SAME)]
Timeout = Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)]
User = Annotated[Word | None, Query(description="submit for another; admins may")]


@router.post("/jobs", status_code=201, response_model=Submitted, dependencies=[SUBMITTER])
async def submit(spec: JobSpec, request: Request, caller: Caller, key: Key = None, user: User = None) -> Response:
    ids = await _submit([spec], request, caller, key, user)
    return answer(Submitted, Submitted(ids[0], ids), 201)


@router.post("/jobs/bulk", status_code=201, response_model=SubmittedAll, dependencies=[SUBMITTER])
async def submit_all(bulk: Bulk, request: Request, caller: Caller, key: Key = None, user: User = None) -> Response:
    """All of them or none."""
    return answer(SubmittedAll, SubmittedAll(await _submit(bulk.jobs, request, caller, key, user)), 201)


async def _submit(specs: list[JobSpec], request: Request, caller: Access, key: str | None, user: str | None) -> list[int]:
    if user is not None and user != caller.who.user and not caller.who.role.administers:
        raise Forbidden(f"only an admin may submit for another; you are {caller.who.user}")
    jobs, at_most = sum(len(spec.array.indices) if spec.array else 1 for spec in specs), caller.settings.max_jobs_a_request
    if jobs > at_most:
        raise InputError(f"{jobs:,} jobs in one request; {at_most:,} are allowed: send several")
    if awaited := [dependency.job for spec in specs for dependency in spec.after]:
        await run_in_threadpool(caller.touch, awaited)  # another's jobs do not exist, so nothing can wait for them either
    return await committed(caller.control.submit(specs, user or caller.who.user, key), caller.settings.answer_timeout_s)


@router.get("/jobs", response_model=Jobs)
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
) -> Response:
    """Those that have not ended, unless `all` or `state` says otherwise."""
    which = JobFilter(
        ids=id, names=name, users=user, queues=queue, states=state, all=all, since_s=since_s, until_s=until_s, limit=limit,
        after_id=after_id,
    )  # fmt: skip
    return answer(Jobs, Jobs(caller.jobs(which)))


@router.get("/jobs/{id}", response_model=JobRecord)
def job(id: JobId, caller: Caller) -> Response:
    return answer(JobRecord, caller.job(id))


@router.patch("/jobs/{id}", response_model=JobRecord, dependencies=[SUBMITTER])
async def update(id: JobId, change: Change, caller: Caller) -> Response:
    await run_in_threadpool(caller.touch, [id])
    await committed(caller.control.update(id, JobUpdate(**change.model_dump()), caller.who.user), caller.settings.answer_timeout_s)
    return answer(JobRecord, await run_in_threadpool(caller.job, id))


@router.post("/jobs/{id}/signal", status_code=204, dependencies=[SUBMITTER])
async def signal(id: JobId, what: Signal, caller: Caller) -> Response:
    await run_in_threadpool(caller.touch, [id])
    await committed(caller.control.signal(id, what.number, caller.who.user), caller.settings.answer_timeout_s)
    return Response(status_code=204)


@router.post("/jobs/{verb}", status_code=204, dependencies=[SUBMITTER])
async def change(verb: Verb, which: Ids, caller: Caller) -> Response:
    """All of them or none."""
    ids = await run_in_threadpool(caller.touch, which.ids)
    await committed(verbs_of(caller.control)[verb](ids, caller.who.user), caller.settings.answer_timeout_s)
    return Response(status_code=204)


def verbs_of(control: ControlPlane) -> dict[Verb, Callable[[Sequence[int], str], Future[None]]]:
    return {
        "cancel": control.cancel, "suspend": control.suspend, "resume": control.resume, "hold": control.hold, "release": control.release,
        "requeue": control.requeue,
    }  # fmt: skip


@router.get("/jobs/{id}/wait", response_model=JobRecord)
async def wait(id: JobId, request: Request, caller: Caller, timeout_s: Timeout = 30.0) -> Response:
    """The job once it has ended, or as it is when the time is up."""
    record = await run_in_threadpool(caller.job, id)
    if not record.state.ended:
        record = await request.app.state.watch.ended(id, timeout_s) or await run_in_threadpool(caller.job, id)
    return answer(JobRecord, record)


@router.get("/jobs/{id}/spec", response_model=JobSpec)
def spec(id: JobId, caller: Caller) -> Response:
    return answer(JobSpec, caller.spec(id))


@router.get("/jobs/{id}/attempts", response_model=Attempts)
def attempts(id: JobId, caller: Caller) -> Response:
    caller.job(id)
    tried: list[AttemptRecord] = caller.control.attempts(id)
    return answer(Attempts, Attempts(tried))


@router.get("/jobs/{id}/why", response_model=WhyAnswer)
def why(id: JobId, caller: Caller) -> Response:
    """The binding constraint, who is ahead, when it should start, and what would start it now."""
    return answer(WhyAnswer, caller.why(id))


@router.get("/jobs/{id}/shell", response_model=Shell, dependencies=[SUBMITTER])
def shell(id: JobId, caller: Caller) -> Response:
    """What to run on the controller's machine for a shell inside the job."""
    caller.touch([id])
    return answer(Shell, Shell(list(caller.control.shell(id))))


After = Annotated[int, Query(ge=0, le=LARGEST_ID, description="ids above this")]
Limit = Annotated[int, Query(ge=1, le=MAX_EVENTS)]


@router.get("/jobs/{id}/events", response_model=Events)
def job_events(id: JobId, caller: Caller, after: After = 0, limit: Limit = 1_000) -> Response:
    caller.job(id)
    return _page(caller.control.events(job=id, after=after, limit=limit), after)


@router.get("/events", response_model=Events)
def events(caller: Caller, after: After = 0, limit: Limit = 1_000) -> Response:
    """What happened, oldest first."""
    happened = caller.control.events(after=after, limit=limit)
    return answer(Events, Events(caller.events(happened), happened[-1].id if happened else after))


def _page(happened: list[EventRecord], after: int) -> Response:
    return answer(Events, Events(happened, happened[-1].id if happened else after))
