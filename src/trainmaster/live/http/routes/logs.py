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
from trainmaster.live.http.answers import answer
from trainmaster.live.http.logs import follow, log_file, once, open_log, sizes, tail_offset
from trainmaster.live.http.routes.jobs import JobId
from trainmaster.live.http.schemas import LARGEST_ID, LogFiles

router = APIRouter(tags=["logs"])

Rank = Annotated[str, Query(max_length=32, pattern=r"^[A-Za-z0-9_.-]+$", description='"0", "1", ..., "system"')]
AttemptNumber = Annotated[int | None, Query(ge=1, le=1_000_000, description="the newest, unless given")]


@router.get("/jobs/{id}/log-files", response_model=LogFiles)
def log_files(id: JobId, caller: Caller, attempt: AttemptNumber = None) -> Response:
    record = caller.job(id)
    return answer(LogFiles, LogFiles(attempt or record.attempts, sizes(caller.control.log_files(id, attempt))))


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
        chunks = _counted(request, follow(control, job, attempt, rank, begin, request.app.state.stopping))
    else:
        file = open_log(await run_in_threadpool(log_file, control, job, attempt, rank))
        chunks = once(file, begin(file))
    return StreamingResponse(chunks, media_type="text/plain; charset=utf-8")


def _begin(offset: int, tail: int | None, file: FileIO) -> int:
    return tail_offset(file, tail) if tail else offset


def _counted(request: Request, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """At most so many streams at a time; refused before the first byte."""
    state = request.app.state
    if state.streams >= state.settings.max_streams:
        raise TrainmasterError(f"{state.streams} logs are being followed; try again when one has ended")
    state.streams += 1

    async def counted() -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            state.streams -= 1

    return counted()
