"""The logs of an attempt, wherever they lie: in files that this process reads, or with somebody who reads them for it.

A caller names a rank, never a path. The job itself writes these files and may put something else in their place: only regular files are
opened, links are not followed, and nothing is read further than it is sent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

from starlette.concurrency import run_in_threadpool

from trainmaster.errors import NotFound

CHUNK = 256 << 10  # of one read
TAIL_CHUNK = 64 << 10
MAX_TAIL_BYTES = 4 << 20  # how far back `tail` looks for its lines


@dataclass(frozen=True, slots=True)
class About:
    which: tuple[int, int]  # device and inode: the same of two attempts that append to one file
    size: int


class Log(Protocol):
    """One of them, open. TrainmasterError: it can be read no more."""

    async def about(self) -> About: ...

    async def tail_offset(self, lines: int) -> int:
        """Where the last `lines` lines begin."""

    async def read(self, offset: int, most: int = CHUNK) -> tuple[bytes, int]:
        """What comes next, and where the next after it begins. Holes, which a log that was cut has, are passed over."""

    def close(self) -> None: ...


class Logs(Protocol):
    """Those of one attempt."""

    async def sizes(self) -> dict[str, int]:
        """rank ("0", "1", ..., "system") -> bytes"""

    async def open(self, rank: str) -> Log | None:
        """None: there is none of that rank, or not yet. NotFound: what is there is no log."""


# ---------------------------------------------------------------------------------------------------- in files of this process


class LogsHere:
    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    async def sizes(self) -> dict[str, int]:
        return await run_in_threadpool(sizes, self.files)

    async def open(self, rank: str) -> LogHere | None:
        return LogHere(await run_in_threadpool(open_log, self.files[rank])) if rank in self.files else None


class LogHere:
    def __init__(self, file: FileIO) -> None:
        self._file = file

    async def about(self) -> About:
        return await run_in_threadpool(about, self._file)

    async def tail_offset(self, lines: int) -> int:
        return await run_in_threadpool(tail_offset, self._file, lines)

    async def read(self, offset: int, most: int = CHUNK) -> tuple[bytes, int]:
        return await run_in_threadpool(read, self._file, offset, most)

    def close(self) -> None:
        self._file.close()


def sizes(files: Mapping[str, Path]) -> dict[str, int]:
    return {rank: path.lstat().st_size for rank, path in files.items() if path.is_file()}


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


def about(file: FileIO) -> About:
    seen = os.fstat(file.fileno())
    return About((seen.st_dev, seen.st_ino), seen.st_size)


def tail_offset(file: FileIO, lines: int) -> int:
    end = begin = os.fstat(file.fileno()).st_size
    found = 0
    while begin > 0 and end - begin < MAX_TAIL_BYTES:
        size = min(TAIL_CHUNK, begin)
        block = os.pread(file.fileno(), size, begin - size)
        at = len(block) - (begin == end and block.endswith(b"\n"))  # the newline that ends the last line begins none
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            found += 1
            if found == lines:
                return begin - size + at + 1
        begin -= size
    return begin


def read(file: FileIO, offset: int, most: int = CHUNK) -> tuple[bytes, int]:
    here = file.fileno()
    try:
        begin = os.lseek(here, offset, os.SEEK_DATA)
        end = os.lseek(here, begin, os.SEEK_HOLE)
    except OSError:  # nothing more, or nothing yet
        return b"", offset
    block = os.pread(here, min(most, end - begin), begin)
    return block, begin + len(block)
