"""A job's output as it grows. Which files there are is the control plane's word; a caller names a rank, never a path.

The job itself writes these files and may put something else in their place: only regular files are opened, links are not followed,
and nothing is read further than it is sent.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
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


def read(file: FileIO, offset: int, most: int = CHUNK) -> tuple[bytes, int]:
    """What comes next, and where the next after it begins. Holes, which a log that was cut has, are passed over."""
    here = file.fileno()
    try:
        begin = os.lseek(here, offset, os.SEEK_DATA)
        end = os.lseek(here, begin, os.SEEK_HOLE)
    except OSError:  # nothing more, or nothing yet
        return b"", offset
    block = os.pread(here, min(most, end - begin), begin)
    return block, begin + len(block)


async def once(file: FileIO, offset: int) -> AsyncIterator[bytes]:
    """What it holds now."""
    with file:
        end = os.fstat(file.fileno()).st_size
        while offset < end:
            block, offset = await run_in_threadpool(read, file, offset, min(CHUNK, end - offset))
            if not block:
                return
            yield block


async def follow(
    control: ControlPlane, job: int, first: int, rank: str, skip: int, stopping: asyncio.Event, *, only: bool
) -> AsyncIterator[bytes]:
    """What is there and what is added, from attempt `first` to the end of the job, or of that attempt (`only`).

    `skip`: so many bytes of all that are left out, wherever one attempt's end and the next begins: who lost the connection goes on.
    """
    current, offset, before = first, skip, None
    with ExitStack() as opened:
        file: FileIO | None = None
        while not stopping.is_set():
            record = await run_in_threadpool(control.job, job)  # before the file is read: what an ended job wrote is all there
            there = current <= record.attempts and file is None
            if there and (path := (await run_in_threadpool(control.log_files, job, current)).get(rank)):
                file = opened.enter_context(open_log(path))
                offset = _goes_on(file, before) or offset
            while file is not None:
                block, offset = await run_in_threadpool(read, file, offset)
                if not block:
                    break
                yield block
            if record.state.ended and current >= record.attempts:
                return
            if record.attempts > current:
                if only:
                    return
                if file is not None:
                    before, offset = (_which(file), offset), max(0, offset - os.fstat(file.fileno()).st_size)
                opened.close()
                current, file = current + 1, None
                continue
            if only and await run_in_threadpool(_over, control, job, current):
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), TICK_S)


def _which(file: FileIO) -> tuple[int, int]:
    about = os.fstat(file.fileno())
    return about.st_dev, about.st_ino


def _goes_on(file: FileIO, before: tuple[tuple[int, int], int] | None) -> int:
    """Where the last attempt's log ended, if this one's is appended to the same file (a job that names its output)."""
    if before is None or before[0] != _which(file) or os.fstat(file.fileno()).st_size < before[1]:
        return 0
    return before[1]


def _over(control: ControlPlane, job: int, attempt: int) -> bool:
    return any(tried.attempt == attempt and tried.end_s is not None for tried in control.attempts(job))
