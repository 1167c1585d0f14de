"""A log that may grow without end keeps its beginning and its end; what was between is gone from the disk, and the log says so.

    first half of the limit | a block that says what is left out | a hole, which takes no room | the last half

The job appends to the file itself and nobody stands between. Past the limit its supervisor punches a hole: every byte keeps its place, so
that who reads by offset goes on; readers of the API pass over holes.
"""

from __future__ import annotations

import os

from trainmaster.live.node import linux

KEEP_SIZE, PUNCH_HOLE = 1, 2  # linux/falloc.h
PAGE = 4096
LEAST = 16 * PAGE  # a smaller limit would be all notice


class Bound:
    """One log. `look` is called now and then: what is written in between may lie beyond the limit until the next."""

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit = path, max(limit, LEAST)
        self.cut_to = 0  # the hole ends here; 0 = there is none

    def look(self) -> None:
        try:
            about = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return
        if about.st_size < self.cut_to:  # emptied: `> /dev/stderr` in the job does that
            self.cut_to = 0
        if about.st_size - max(self.cut_to - self.limit // 2, 0) > self.limit:
            self._cut(about.st_size, max(about.st_blksize, PAGE))

    def _cut(self, size: int, block: int) -> None:
        head = self.limit // 2 // block * block
        begin, end = head + block, (size - self.limit // 2) // block * block
        if end <= max(begin, self.cut_to):
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)  # not to append: that is where it would always write
        try:
            if not self.cut_to:
                said = f"\n[trainmaster: this log has passed its limit of {_size(self.limit)}; what is missing here was left out]"
                os.pwrite(descriptor, said.encode().ljust(block - 1) + b"\n", head)
            linux.fallocate(descriptor, KEEP_SIZE | PUNCH_HOLE, max(begin, self.cut_to), end - max(begin, self.cut_to))
            self.cut_to = end
        finally:
            os.close(descriptor)


def _size(count: int) -> str:
    return f"{count / 2**30:g} GiB" if count >= 2**30 else f"{count / 2**20:g} MiB"
