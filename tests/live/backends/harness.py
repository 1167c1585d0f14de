"""One backend under test, with the patience and the tools that a controller would have."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainmaster.errors import BackendError
from trainmaster.live.backends.base import Attempt, NodeShare, Observation, Seen
from trainmaster.live.spec import JobSpec

OVER = (Seen.ENDED, Seen.LOST, Seen.REFUSED)
PATIENCE_S = 120.0  # a wait that takes so long has failed, however busy the machine


class Harness:
    """`make` opens a backend on the same state each time: twice is a controller that crashed and came back."""

    def __init__(self, make: Callable[[], Any], folder: Path, user: str = "ada", many: int = 120) -> None:
        """`many`: so many short jobs are a matter of seconds here."""
        self.make = make
        self.folder = folder
        self.user = user
        self.many = many
        self.changed = threading.Event()
        self.backend: Any = make()
        self.backend.open(self.changed.set)
        self.ids = itertools.count(1)

    def end_all(self) -> None:
        """Nothing of a test runs on."""
        for one in self.backend.observe():
            self.backend.stop(one.job, one.attempt, grace_s=0, reason="cancel")
        self.wait(lambda: all(one.ended_s is not None for one in self.backend.observe()) or None)

    def close(self) -> None:
        self.end_all()
        self.backend.close()

    def crash(self) -> None:
        """The controller goes without a word, and comes again."""
        self.backend.drop()
        self.backend = self.make()
        self.backend.open(self.changed.set)

    def attempt(
        self, command: Sequence[str] | str, *, job: int | None = None, attempt: int = 1, gpus: Sequence[float] = (1,), **spec: Any
    ) -> Attempt:
        """A string is a batch script. `gpus`: on each of the nodes, in their order."""
        what = {"script": command} if isinstance(command, str) else {"command": tuple(command)}
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(self.folder), "PYTHON": sys.executable}
        ours = {name: spec.pop(name) for name in ("name", "array_job", "array_index", "resumes", "queue") if name in spec}
        whole = JobSpec(
            **{"env": env, "workdir": str(self.folder), "gpus": sum(gpus), **({"cpus": 1} if not sum(gpus) else {}), **what, **spec}
        )
        nodes = [seen.name for seen in self.backend.inventory()]
        shares = tuple(NodeShare(node=node, gpus=count) for node, count in zip(nodes, gpus, strict=False))
        number = next(self.ids) if job is None else job
        return Attempt(job=number, attempt=attempt, user=self.user, spec=whole, shares=shares, **{"name": "job", **ours})

    def start(self, command: Sequence[str] | str, **about: Any) -> Attempt:
        attempt = self.attempt(command, **about)
        self.backend.start(attempt)
        return attempt

    def start_or_error(self, command: Sequence[str] | str, **about: Any) -> str:
        try:
            return self.until(self.start(command, **about)).message
        except BackendError as error:
            return str(error)

    def seen(self, attempt: Attempt) -> Observation | None:
        found = [one for one in self.backend.observe() if (one.job, one.attempt) == (attempt.job, attempt.attempt)]
        assert len(found) <= 1
        return found[0] if found else None

    def until(self, attempt: Attempt, reached: Callable[[Observation], bool] = lambda one: one.seen in OVER) -> Observation:
        def look() -> Observation | None:
            one = self.seen(attempt)
            return one if one is not None and reached(one) else None

        return self.wait(look)

    def wait(self, look: Callable[[], Any]) -> Any:
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            if (found := look()) is not None:
                return found
            self.changed.wait(0.05)
            self.changed.clear()
        raise AssertionError(f"not within {PATIENCE_S:g} s; seen: {[one for one in self.backend.observe() if one.ended_s is None]}")

    def wait_some(self, look: Callable[[], bool]) -> bool:
        """For what may take longer than one wait."""
        try:
            return bool(self.wait(lambda: look() or None))
        except AssertionError:
            return False

    def running(self, attempt: Attempt) -> Observation:
        return self.until(attempt, lambda one: one.seen is Seen.RUNNING)

    def run(self, command: Sequence[str] | str, **about: Any) -> tuple[Observation, str]:
        """To its end: what was seen, and what rank 0 said."""
        attempt = self.start(command, **about)
        return self.until(attempt), self.log(attempt)

    def log(self, attempt: Attempt, rank: str = "0") -> str:
        path = self.backend.log_files(attempt.job, attempt.attempt).get(rank)
        return "" if path is None else path.read_text()

    def file(self, name: str) -> str:
        """What a job has written into its folder, once it is there."""
        path = self.folder / name
        return self.wait(lambda: path.read_text().strip() or None if path.exists() else None)


def wait_until(reached: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    until_s = time.monotonic() + patience_s
    while not reached():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
