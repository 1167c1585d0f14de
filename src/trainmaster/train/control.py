"""The control folder of an attempt: how its processes hear from the node and answer, without a socket and without a collective.

The node makes the folder before it starts the processes and names it in TRAINMASTER_CONTROL. Its file `flag` is eight int64 that every
process maps into memory, so that a look costs nanoseconds; the rest is small JSON, written whole under another name and then renamed.
"""

from __future__ import annotations

import json
import mmap
import os
from typing import Any

from trainmaster.errors import InputError

ASKED, STOP_STEP, MARGIN, HIGHEST_ATTEMPT, SAVE_STEP = range(5)  # what stands where in the flag; SAVE_STEP is between the processes alone
FLAG_BYTES = 64
STOP, SUPERSEDED = 1, 2  # values of flag[ASKED]
DEFAULT_MARGIN_STEPS = 2


class Control:
    """One process's view of the folder: `flag` and `steps` are shared memory, `steps[rank]` is how many steps that rank has done.

    `steps` exists because a GPU's kernels are queued: a process may be many steps ahead of rank 0 although every step has a
    collective, and a step to stop at must lie ahead of all of them. It holds the ranks of this node only.
    """

    def __init__(self, folder: str, rank: int, world: int) -> None:
        self.folder = folder
        self.rank = rank
        self.flag = _shared(os.path.join(folder, "flag"), FLAG_BYTES, create=False)
        self.steps = _shared(os.path.join(folder, "steps"), 8 * world, create=True)

    @property
    def margin_steps(self) -> int:
        return self.flag[MARGIN] or DEFAULT_MARGIN_STEPS

    def stop_reason(self) -> tuple[str, float | None]:
        """Why it is asked to stop, and until when it may take (Unix seconds; None: not said)."""
        try:
            with open(os.path.join(self.folder, "stop"), encoding="utf-8") as file:
                asked = json.load(file)
            return str(asked["reason"]), float(asked["deadline_s"])
        except (OSError, ValueError, KeyError, TypeError):
            return "stop", None  # the flag is what counts

    def write(self, name: str, content: dict[str, Any]) -> None:
        path = os.path.join(self.folder, name)
        draft = f"{path}.{self.rank}.{os.getpid()}.tmp"
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(content, file, allow_nan=False)
        os.replace(draft, path)


def _shared(path: str, size: int, *, create: bool) -> memoryview:
    """int64 in shared memory. Little-endian, as every machine that trains is."""
    try:
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        try:
            if create and os.fstat(descriptor).st_size < size:
                os.posix_fallocate(descriptor, 0, size)  # by every rank: what is there stays; a hole would be SIGBUS on a full disk
            return memoryview(mmap.mmap(descriptor, size)).cast("q")
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise InputError(f"TRAINMASTER_CONTROL: {path}: {error}; unset the variable to run outside Trainmaster") from None
