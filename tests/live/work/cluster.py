"""A real `trainmaster up` on this machine, and its real command line: nothing of it is imported but the client."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pytest

from trainmaster.errors import TrainmasterError
from trainmaster.live.client import Client

COMMAND = [sys.executable, "-m", "trainmaster.cli.main"]
UP_S = 240.0  # the first start of a fresh checkout compiles the engine
LONG_S = 120.0  # of a wait that takes a second or two, but for a busy machine
ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "TIMEOUT"})
RULES = "rules: {min_run_s: 0, most_preemptions: 0}\n"  # preempt whom the policy wants, when it wants

T = TypeVar("T")


class Cluster:
    """`folder` is where people are when they submit; `state` is the controller's."""

    def __init__(self, root: Path, slots: int) -> None:
        self.state, self.folder = root / "state", root / "home"
        self.folder.mkdir()
        (root / "up.yaml").write_text(RULES)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("TRAINMASTER_", "SLURM_"))}
        self.env |= {"TRAINMASTER_STATE": str(self.state), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.log = root / "up.log"
        with self.log.open("wb") as log:
            self.up = subprocess.Popen(
                [*COMMAND, "up", "--slots", str(slots), "--port", "0", "--config", str(root / "up.yaml")],
                cwd=root, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.until(lambda: (self.state / "address").exists() or self.up.poll() is not None, UP_S, every_s=0.1)
        assert self.up.poll() is None, self.log.read_text()
        self.client = Client.of_state(self.state)

    def close(self) -> None:
        """Jobs first: they would outlive the controller."""
        try:
            if ids := [job["id"] for job in self.client.jobs()]:
                self.client.cancel(ids)
                for id in ids:
                    self.client.wait(id, LONG_S)
        finally:
            self.client.close()
            self.up.terminate()
            assert self.up.wait(LONG_S) == 0, self.log.read_text()

    # what people type

    def start(self, *words: str, cwd: Path | None = None, **more: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
        return subprocess.Popen([*COMMAND, *words], cwd=cwd or self.folder, env=self.env, **pipes)

    def call(self, *words: str, cwd: Path | None = None, exits: int = 0, stdin: str | None = None) -> str:
        """Its standard output; it exits as expected."""
        process = self.start(*words, cwd=cwd, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=LONG_S)
        assert process.returncode == exits, f"{words}: {process.returncode}\n{out}{err}"
        return out

    def submit(self, *words: str, cwd: Path | None = None) -> int:
        return int(self.call("submit", "--parsable", *words, cwd=cwd))

    # what is seen

    def job(self, id: int) -> dict[str, Any]:
        return self.client.job(id)

    def ended(self, id: int, timeout_s: float = LONG_S) -> dict[str, Any]:
        job = self.client.wait(id, timeout_s)
        assert job["state"] in ENDED, self.tell(id)
        return job

    def succeeded(self, id: int, timeout_s: float = LONG_S) -> dict[str, Any]:
        job = self.ended(id, timeout_s)
        assert job["state"] == "SUCCEEDED", self.tell(id)
        return job

    def runs(self, id: int, attempt: int = 1) -> dict[str, Any]:
        """Once this attempt, or a later one, has started."""

        def running() -> dict[str, Any] | None:
            job = self.job(id)
            assert job["state"] not in ENDED, self.tell(id)
            return job if job["state"] == "RUNNING" and job["attempts"] >= attempt else None

        return self.until(running, about=id)

    def output(self, id: int, attempt: int | None = None, rank: str = "0") -> str:
        try:
            return b"".join(self.client.logs(id, attempt=attempt, rank=rank)).decode()
        except TrainmasterError as error:
            return f"({error})"

    def outputs(self, id: int) -> str:
        """Of all its attempts."""
        return "".join(self.output(id, attempt) for attempt in range(1, self.job(id)["attempts"] + 1))

    def steps(self, id: int, attempt: int, rank: int = 0) -> int:
        """How far a rank is, where the ranks count: they report only once a second."""
        try:
            with open(self.state / "jobs" / str(id) / str(attempt) / "control" / "steps", "rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)).cast("q")[rank]
        except (OSError, ValueError, IndexError):
            return 0

    def until(self, happened: Callable[[], T], timeout_s: float = LONG_S, every_s: float = 0.02, about: int | None = None) -> T:
        limit_s = time.monotonic() + timeout_s
        while not (result := happened()):
            if time.monotonic() > limit_s:
                raise AssertionError(f"not within {timeout_s:g} s; {self.log.read_text()}" + (self.tell(about) if about else ""))
            time.sleep(every_s)
        return result

    def tell(self, id: int) -> str:
        """For who has to find out why a test failed."""
        events = self.client.events(id)[0]
        lines = [f"{event['at_s']:.3f} {event['attempt']} {event['kind']} {event['state']} {event['reason']}" for event in events]
        return "\n".join([str(self.job(id)), *lines, self.outputs(id)[-4_000:]])


@contextmanager
def cluster(root: Path, slots: int = 4) -> Iterator[Cluster]:
    one = Cluster(root, slots)
    try:
        yield one
    finally:
        one.close()


def needs(*modules: str) -> None:
    """Skips a whole module, visibly, where one of these is missing; imports none of them."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed (requirements-train.txt)", allow_module_level=True)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C."""
    process.send_signal(signal.SIGINT)


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path
