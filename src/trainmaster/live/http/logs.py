"""A job's output as it grows. Which files there are is the control plane's word; a caller names a rank, never a path.

The job itself writes these files and may put something else in their place: only regular files are opened, links are not followed,
and nothing is read further than it is sent.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from trainmaster.errors import NotFound
from trainmaster.live.control import ControlPlane

CHUNK = 64 << 10
TICK_S = 0.15
MAX_TAIL_BYTES = 4 << 20  # how far back `tail` looks for its lines


def log_file(control: ControlPlane, job: int, attempt: int | None, rank: str) -> Path:
    files = control.log_files(job, attempt)
    if rank not in files:
        which = f"attempt {attempt} of job {job}" if attempt else f"job {job}"
        raise NotFound(f"{which} has no log of rank {rank}" + (f"; it has {', '.join(sorted(files))}" if files else ""))
    return files[rank]


def open_log(path: Path) -> FileIO:
    """NotFound if it is not a plain file."""
    try:
        file = FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise NotFound(f"the log {path.name} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotFound(f"the log {path.name} is not a plain file")
    return file


def sizes(files: dict[str, Path]) -> dict[str, int]:
    return {rank: path.lstat().st_size for rank, path in files.items() if path.is_file()}


def tail_offset(file: FileIO, lines: int) -> int:
    """Where the last `lines` lines begin."""
    end = begin = os.fstat(file.fileno()).st_size
    found = 0
    while begin > 0 and end - begin < MAX_TAIL_BYTES:
        size = min(CHUNK, begin)
        block = os.pread(file.fileno(), size, begin - size)
        at = len(block) - (begin == end and block.endswith(b"\n"))  # the newline that ends the last line begins none
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            found += 1
            if found == lines:
                return begin - size + at + 1
        begin -= size
    return begin


async def once(file: FileIO, offset: int) -> AsyncIterator[bytes]:
    """What it holds now."""
    with file:
        end = os.fstat(file.fileno()).st_size
        while offset < end and (block := await run_in_threadpool(os.pread, file.fileno(), min(CHUNK, end - offset), offset)):
            offset += len(block)
            yield block


async def follow(
    control: ControlPlane, job: int, attempt: int | None, rank: str, begin: Callable[[FileIO], int], stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """What it holds and what is added, until the attempt has ended; without an attempt given, through every later one too.

    `begin` tells where in the first file to begin.
    """
    with ExitStack() as opened:
        current, file, offset = attempt, None, 0
        while not stopping.is_set():
            record = await run_in_threadpool(control.job, job)  # before the file is read: what an ended job wrote is all there
            current = current or record.attempts or None
            if file is None and current and (path := (await run_in_threadpool(control.log_files, job, current)).get(rank)):
                file = opened.enter_context(open_log(path))
                offset, begin = begin(file), _start
            while file is not None and (block := await run_in_threadpool(os.pread, file.fileno(), CHUNK, offset)):
                offset += len(block)
                yield block
            if record.state.ended and current in (record.attempts, None):
                return
            if current and record.attempts > current:
                if attempt:
                    return
                opened.close()
                current, file, offset = current + 1, None, 0
                continue
            if attempt and await run_in_threadpool(_over, control, job, attempt):
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), TICK_S)


def _over(control: ControlPlane, job: int, attempt: int) -> bool:
    return any(tried.attempt == attempt and tried.end_s is not None for tried in control.attempts(job))


def _start(file: FileIO) -> int:
    return 0
