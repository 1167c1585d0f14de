"""What is the same for every backend: an attempt is taken once, written down below the state folder, and never an older one after a newer.

From the moment its folder holds the plan (or order) it will run, whatever becomes of this process: a new controller reads STATE/live to
see what the one before had accepted. What cannot run as it stands is no error of the call: the attempt is seen as refused.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from trainmaster.errors import BackendError, InputError
from trainmaster.live.backends.base import Attempt, Observation, Seen
from trainmaster.live.logs import LogsHere
from trainmaster.live.node import folder as files

LOG_LIMIT = 1 << 30  # bytes of a rank's log in each attempt
Key = tuple[int, int]  # (job, attempt)
L = TypeVar("L")


class Accepting(Generic[L]):
    """`L`: what a backend knows of an attempt that is not forgotten."""

    cannot: ClassVar[str]  # "attempt 1 of job 7 ...: No space left on device"

    def __init__(self, state_dir: Path | str, clock: Callable[[], float]) -> None:
        self.state = os.path.abspath(state_dir)
        self._clock = clock
        self._lock = threading.RLock()
        self._live: dict[Key, L] = {}
        self._refused: dict[Key, Observation] = {}
        self._wake: Callable[[], None] = lambda: None

    def start(self, attempt: Attempt) -> None:
        key = (attempt.job, attempt.attempt)
        with self._lock:
            if key in self._live or key in self._refused:
                return
            try:
                self._accept(attempt)
            except InputError as error:
                self._refused[key] = Observation(job=key[0], attempt=key[1], seen=Seen.REFUSED, ended_s=self._clock(), message=str(error))
                self._wake()
                return
            except OSError as error:
                remove(self._mark(key))
                shutil.rmtree(files.attempt_folder(self.state, *key), ignore_errors=True)
                self._live.pop(key, None)
                raise BackendError(f"attempt {key[1]} of job {key[0]} {self.cannot}: {error}") from None
            self._begin(key)

    def forget(self, job: int, attempt: int) -> None:
        key = (job, attempt)
        with self._lock:
            if self._refused.pop(key, None) is not None or key not in self._live:
                return
            if self._runs(key):
                raise BackendError(f"attempt {attempt} of job {job} has not ended: it cannot be forgotten")
            live = self._live.pop(key)
            remove(self._mark(key))
            self._tidy(key, live)

    def logs(self, job: int, attempt: int, user: str) -> LogsHere:
        return LogsHere(self.log_files(job, attempt))

    def log_files(self, job: int, attempt: int) -> dict[str, Path]:
        folder = Path(files.attempt_folder(self.state, job, attempt))
        found = sorted(folder.glob("*.log"), key=lambda path: (len(path.name), path.name))
        # of a job that named its output file, the supervisor's link to it: readers follow none
        return {path.name.removesuffix(".log"): Path(os.path.realpath(path)) for path in found}

    # -- what a backend adds -----------------------------------------------------------------------------------------------------------

    def _accept(self, attempt: Attempt) -> None:
        """Write it down, and remember it. InputError: it cannot run as it stands."""
        raise NotImplementedError

    def _begin(self, key: Key) -> None:
        """It has been accepted."""
        raise NotImplementedError

    def _runs(self, key: Key) -> bool:
        """It is known, and has not ended."""
        raise NotImplementedError

    def _tidy(self, key: Key, live: L) -> None:
        """It is forgotten: logs stay, the rest may go."""
        raise NotImplementedError

    # -- what it does that with ---------------------------------------------------------------------------------------------------------

    def _mark(self, key: Key) -> str:
        return f"{self.state}/{files.LIVE}/{key[0]}.{key[1]}"

    def _check_number(self, attempt: Attempt) -> None:
        """InputError: it has been here, or a newer one has, or an older one still runs."""
        earlier = files.attempts(self.state, attempt.job)
        if attempt.attempt in earlier:
            raise InputError(f"attempt {attempt.attempt} has already run here")
        if earlier and earlier[-1] > attempt.attempt:
            raise InputError(f"attempt {earlier[-1]} of this job has been accepted: attempt {attempt.attempt} is superseded")
        for other in earlier:
            if self._runs((attempt.job, other)):
                raise InputError(f"attempt {other} of this job still runs")

    def _make_folder(self, key: Key) -> str:
        folder = files.attempt_folder(self.state, *key)
        with contextlib.suppress(FileExistsError):
            os.mkdir(files.job_folder(self.state, key[0]), 0o700)
        os.mkdir(folder, 0o700)
        files.write_bytes(self._mark(key), b"")
        return folder


def of_end(key: Key, end: Mapping[str, Any], started_s: float | None, words: Mapping[str, Any]) -> Observation:
    """As an end.json says it; `words`: the job's own (see `node.said`)."""
    seen = Seen.REFUSED if "refused" in end else Seen.LOST if "lost" in end else Seen.ENDED
    return Observation(
        job=key[0], attempt=key[1], seen=seen, started_s=started_s, ended_s=end["ended_s"], exit_code=end.get("exit_code"),
        asked_to_stop=end["asked"] is not None, message=str(end.get("refused") or end.get("lost") or end.get("message") or ""),
        out_of_memory=bool(end.get("out_of_memory")), **words,
    )  # fmt: skip


def remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def umask() -> int:
    """Without changing it, which other threads would see."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next((int(line.split()[1], 8) for line in file if line.startswith("Umask:")), 0o022)
