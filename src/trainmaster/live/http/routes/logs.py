"""A job's output, once or as it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from io import FileIO
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from trainmaster.errors import TrainmasterError
from trainmaster.live.http.access import Access, Caller
from trainmaster.live.http.logs import follow, log_file, once, open_log, sizes, tail_offset
from trainmaster.live.http.routes.jobs import JobId
from trainmaster.live.http.schemas import LARGEST_ID, LogFiles
from trainmaster.live.http.service import service_of
from trainmaster.live.http.strict_json import StrictRoute

router = APIRouter(tags=["logs"], route_class=StrictRoute)

Rank = Annotated[str, Query(max_length=32, pattern=r"^[A-Za-z0-9_.-]+$", description='"0", "1", ..., "system"')]
AttemptNumber = Annotated[int | None, Query(ge=1, le=1_000_000, description="the newest, unless given")]


@router.get("/jobs/{id}/log-files")
def log_files(id: JobId, caller: Caller, attempt: AttemptNumber = None) -> LogFiles:
    record = caller.job(id)
    return LogFiles(attempt or record.attempts, sizes(caller.control.log_files(id, attempt)))


@router.get("/jobs/{id}/logs", response_class=StreamingResponse, responses={200: {"content": {"text/plain": {}}}})
async def logs(
    id: JobId,
    request: Request,
    caller: Caller,
    rank: Rank = "0",
    attempt: AttemptNumber = None,
    follow: Annotated[bool, Query(description="until it has ended, through preemptions")] = False,
    offset: Annotated[int, Query(ge=0, le=LARGEST_ID, description="bytes to leave out at the beginning")] = 0,
    tail: Annotated[int | None, Query(ge=1, le=1_000_000, description="so many last lines, instead of an offset")] = None,
) -> Response:
    """Bytes as the job wrote them."""
    return await log_answer(request, caller, id, rank, attempt, follow, partial(_begin, offset, tail))


async def log_answer(
    request: Request, caller: Access, job: int, rank: str, attempt: int | None, following: bool, begin: Callable[[FileIO], int]
) -> StreamingResponse:
    record, control = await run_in_threadpool(caller.job, job), caller.control
    if following and not record.state.ended:
        if attempt or record.attempts:
            files = await run_in_threadpool(control.log_files, job, attempt)
            if files:
                await run_in_threadpool(log_file, control, job, attempt, rank)
        chunks = _counted(request, follow(control, job, attempt, rank, begin, service_of(request).stopping))
    else:
        file = open_log(await run_in_threadpool(log_file, control, job, attempt, rank))
        chunks = once(file, begin(file))
    return StreamingResponse(chunks, media_type="text/plain; charset=utf-8")


def _begin(offset: int, tail: int | None, file: FileIO) -> int:
    return tail_offset(file, tail) if tail else offset


def _counted(request: Request, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """At most so many streams at a time; refused before the first byte. A stream whose client left before that never counts."""
    service = service_of(request)
    if service.streams >= service.settings.max_streams:
        raise TrainmasterError(f"{service.streams} logs are being followed; try again when one has ended")

    async def counted() -> AsyncIterator[bytes]:
        service.streams += 1
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            service.streams -= 1

    return counted()
