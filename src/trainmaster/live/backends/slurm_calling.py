"""One call of one of Slurm's commands: a time limit that holds whatever it leaves behind, a bound on what it may print, and no shell.

Sites put scripts of their own under the names of Slurm's commands: what such a script has started ends with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO

from trainmaster.errors import BackendError

SAID_BYTES = 4096  # of what it complained


class PrintedTooMuch(Exception):
    pass


def pour(argv: Sequence[str], env: Mapping[str, str], into: IO[bytes], within_s: float, most_bytes: int) -> tuple[int, str]:
    """What it prints goes into `into`; its exit status, and the last line of what it complained. subprocess.TimeoutExpired."""
    said, size, until_s = b"", 0, time.monotonic() + within_s
    try:
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise BackendError(f"{argv[0]}: {error.strerror}; Slurm's commands must be on the PATH") from None
    assert process.stdout is not None and process.stderr is not None
    try:
        with selectors.DefaultSelector() as ready:
            for stream in (process.stdout, process.stderr):
                ready.register(stream, selectors.EVENT_READ)
            while ready.get_map():
                left_s = until_s - time.monotonic()
                events = ready.select(left_s) if left_s > 0 else []
                if not events:
                    raise subprocess.TimeoutExpired(argv, within_s)
                for key, _ in events:
                    chunk = os.read(key.fd, 1 << 16)
                    if not chunk:
                        ready.unregister(key.fileobj)
                    elif key.fileobj is process.stderr:
                        said = (said + chunk)[-SAID_BYTES:]
                    else:
                        into.write(chunk)
                        size += len(chunk)
                        if size > most_bytes:
                            raise PrintedTooMuch
        status = process.wait(max(0.1, until_s - time.monotonic()))
    finally:
        if process.returncode is None:  # it has not been waited for, so its number is still that of its group
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        process.stderr.close()
    lines = said.decode(errors="replace").strip().splitlines()
    return status, (lines[-1] if lines else f"exit status {status}")[:300]
