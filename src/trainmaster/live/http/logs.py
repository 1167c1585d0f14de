"""A job's output as it grows. Which logs there are is the control plane's word; a caller names a rank, never a path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing, suppress

from starlette.concurrency import run_in_threadpool

from trainmaster.errors import BackendError, NotFound
from trainmaster.live.control import ControlPlane
from trainmaster.live.logs import CHUNK, About, Log

TICK_S = 0.15
AGAIN_S, PATIENCE_S = 1.0, 60.0  # while who reads the log is away: a user's process that is started again, say


async def open_log(control: ControlPlane, job: int, attempt: int | None, rank: str) -> Log:
    logs = await run_in_threadpool(control.logs, job, attempt)
    if (log := await logs.open(rank)) is not None:
        return log
    which, there = f"attempt {attempt} of job {job}" if attempt else f"job {job}", await logs.sizes()
    raise NotFound(f"{which} has no log of rank {rank}" + (f"; it has {', '.join(sorted(there))}" if there else ""))


async def once(log: Log, offset: int) -> AsyncIterator[bytes]:
    """What it holds now."""
    with closing(log):
        end = (await log.about()).size
        while offset < end:
            block, offset = await log.read(offset, min(CHUNK, end - offset))
            if not block:
                return
            yield block


async def follow(
    control: ControlPlane, job: int, first: int, rank: str, skip: int, stopping: asyncio.Event, *, only: bool
) -> AsyncIterator[bytes]:
    """What is there and what is added, from attempt `first` to the end of the job, or of that attempt (`only`).

    `skip`: so many bytes of all that are left out, wherever one attempt's end and the next begins: who lost the connection goes on.
    """
    current, offset, before, away_s = first, skip, None, 0.0
    with ExitStack() as opened:
        log: Log | None = None
        while not stopping.is_set():
            record = await run_in_threadpool(control.job, job)  # before the log is read: what an ended job wrote is all there
            try:
                if log is None and current <= record.attempts:
                    log = await (await run_in_threadpool(control.logs, job, current)).open(rank)
                    if log is not None:
                        opened.callback(log.close)
                        offset = _goes_on(await log.about(), before) or offset
                while log is not None:
                    block, offset = await log.read(offset)
                    if not block:
                        break
                    yield block
                about = None if log is None or record.attempts <= current else await log.about()
            except BackendError:
                away_s = away_s or time.monotonic()
                if time.monotonic() - away_s > PATIENCE_S:
                    raise
                await _pause(stopping, AGAIN_S)
                continue
            away_s = 0.0
            if record.state.ended and current >= record.attempts:
                return
            if record.attempts > current:
                if only:
                    return
                if about is not None:
                    before, offset = (about, offset), max(0, offset - about.size)
                opened.close()
                current, log = current + 1, None
                continue
            if only and await run_in_threadpool(_over, control, job, current):
                return
            await _pause(stopping, TICK_S)


async def _pause(stopping: asyncio.Event, for_s: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), for_s)


def _goes_on(about: About, before: tuple[About, int] | None) -> int:
    """Where the last attempt's log ended, if this one's is appended to the same file (a job that names its output)."""
    if before is None or before[0].which != about.which or about.size < before[1]:
        return 0
    return before[1]


def _over(control: ControlPlane, job: int, attempt: int) -> bool:
    return any(tried.attempt == attempt and tried.end_s is not None for tried in control.attempts(job))
