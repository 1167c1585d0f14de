"""A job's output, once or as it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from trainmaster.errors import InputError
from trainmaster.live.http.access import Access, Caller
from trainmaster.live.http.logs import follow, once, open_log
from trainmaster.live.http.routes.jobs import JobId
from trainmaster.live.http.schemas import LARGEST_ID, LogFiles
from trainmaster.live.http.service import check_place, service_of
from trainmaster.live.http.strict_json import StrictRoute
from trainmaster.live.logs import Log

router = APIRouter(tags=["logs"], route_class=StrictRoute)

Rank = Annotated[str, Query(max_length=32, pattern=r"^[A-Za-z0-9_.-]+$", description='"0", "1", ..., "system"')]
AttemptNumber = Annotated[int | None, Query(ge=1, le=1_000_000, description="the newest, unless given")]


@router.get("/jobs/{id}/log-files")
async def log_files(id: JobId, caller: Caller, attempt: AttemptNumber = None) -> LogFiles:
    record = await run_in_threadpool(caller.job, id)
    logs = await run_in_threadpool(caller.control.logs, id, attempt)
    return LogFiles(attempt or record.attempts, await logs.sizes())


@router.get("/jobs/{id}/logs", response_class=StreamingResponse, responses={200: {"content": {"text/plain": {}}}})
async def logs(
    id: JobId,
    request: Request,
    caller: Caller,
    rank: Rank = "0",
    attempt: AttemptNumber = None,
    since: Annotated[int | None, Query(ge=1, le=1_000_000, description="with follow: from this attempt on, through later ones")] = None,
    follow: Annotated[bool, Query(description="until it has ended, through preemptions")] = False,
    offset: Annotated[int, Query(ge=0, le=LARGEST_ID, description="bytes to leave out at the beginning")] = 0,
    tail: Annotated[int | None, Query(ge=1, le=1_000_000, description="so many last lines, instead of an offset")] = None,
) -> Response:
    """Bytes as the job wrote them. The headers Log-Attempt and Log-Offset say what the first one is: who follows and loses the connection
    goes on with `since` that attempt, and an `offset` of so many more as have come.
    """
    if since is not None and (attempt is not None or not follow):
        raise InputError("since: goes with follow, and without attempt")
    return await log_answer(request, caller, id, rank, attempt, follow, partial(_begin, offset, tail), since)


async def log_answer(
    request: Request, caller: Access, job: int, rank: str, attempt: int | None, following: bool,
    begin: Callable[[Log | None], Awaitable[int]], since: int | None = None,
) -> StreamingResponse:  # fmt: skip
    record, control = await run_in_threadpool(caller.job, job), caller.control
    first = attempt or since or max(record.attempts, 1)
    log: Log | None = None
    there = record.state.ended or not following
    if since is None and (there or (first <= record.attempts and await (await run_in_threadpool(control.logs, job, attempt)).sizes())):
        log = await open_log(control, job, attempt, rank)
    elif since is not None and first <= record.attempts:
        await (await run_in_threadpool(control.logs, job, first)).sizes()  # that nobody can read it now is said before the first byte
    offset = await begin(log)
    if log is not None and not following:
        chunks = once(log, offset)
    else:
        if log is not None:
            log.close()
        only = attempt is not None
        chunks = _counted(request, caller.who.user, follow(control, job, first, rank, offset, service_of(request).stopping, only=only))
    headers = {"log-attempt": str(first), "log-offset": str(offset)}
    return StreamingResponse(chunks, media_type="text/plain; charset=utf-8", headers=headers)


async def _begin(offset: int, tail: int | None, log: Log | None) -> int:
    return offset if tail is None else 0 if log is None else await log.tail_offset(tail)


def _counted(request: Request, user: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """At most so many streams at a time; refused before the first byte. A stream whose client left before that never counts."""
    service = service_of(request)
    check_place(service.streams, service.settings.max_streams, user, "logs are being followed")

    async def counted() -> AsyncIterator[bytes]:
        service.streams[user] += 1
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            service.streams[user] -= 1

    return counted()
