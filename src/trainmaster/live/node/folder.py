"""The folder of an attempt on its node: the truth about it, which outlives every process that writes or reads it.

    STATE/live/JOB.ATTEMPT          an empty file an attempt that is not forgotten: what a new controller reads first
    STATE/jobs/JOB/lock             held by the supervisor whose processes run: no two attempts of a job run at once here
    STATE/jobs/JOB/checkpoint/      TRAINMASTER_CHECKPOINT_DIR, unless the job names another
    STATE/jobs/JOB/ATTEMPT/
        plan.json                   what to run; once it is there the attempt has been accepted
        supervisor.json             who looks after it, or has: made once, so that no second supervisor ever runs the plan
        started.json, stop.json     its processes have started; it has been asked to stop
        end.json                    how it ended; nothing of it is left
        commands                    FIFO to the supervisor
        control/                    shared with the job's processes (see trainmaster.train)
        0.log, 1.log, system.log    a rank each, and what the supervisor has to say
    STATE/wake                      FIFO to the controller: "JOB ATTEMPT" when something has changed

Paths of an attempt come from two integers, never from a name a user gave.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from typing import Any

PLAN, SUPERVISOR, STARTED, STOP, END = "plan.json", "supervisor.json", "started.json", "stop.json", "end.json"
COMMANDS, CONTROL, WAKE, LIVE = "commands", "control", "wake", "live"
JSON_BYTES = 64 << 20  # a plan holds the environment and a script; nothing here is larger


def job_folder(state: str, job: int) -> str:
    return f"{state}/jobs/{job:d}"


def attempt_folder(state: str, job: int, attempt: int) -> str:
    return f"{state}/jobs/{job:d}/{attempt:d}"


def checkpoint_folder(state: str, job: int) -> str:
    return f"{job_folder(state, job)}/checkpoint"


def attempts(state: str, job: int) -> list[int]:
    """Those that were accepted, ascending."""
    try:
        names = os.listdir(job_folder(state, job))
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isdecimal())


def accepted(state: str) -> list[tuple[int, int]]:
    """The attempts that some controller has accepted and none has forgotten. What else lies there (NFS leaves .nfs...) is nobody's."""
    names = (name.partition(".") for name in os.listdir(f"{state}/{LIVE}"))
    return [(int(job), int(attempt)) for job, _, attempt in names if job.isdecimal() and attempt.isdecimal()]


def logs(plan: Mapping[str, Any]) -> list[str]:
    """Names of what its processes write, without the ending."""
    return sorted({name for one in (*plan["setups"], *plan["ranks"]) for name in (one["log"], f"{one['log']}.err")})


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    draft = f"{path}.{os.getpid()}.tmp"
    write_bytes(draft, json.dumps(content).encode())
    os.replace(draft, path)


def create_json(path: str, content: Mapping[str, Any]) -> bool:
    """Whole, and once: False when it is there already, whoever wrote it."""
    draft = f"{path}.{os.getpid()}.tmp"
    write_bytes(draft, json.dumps(content).encode())
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    return True


def read_json(path: str, at_most_bytes: int = JSON_BYTES) -> dict[str, Any] | None:
    """None: not there, or not an object in a regular file. Jobs can write to some of these: reading one never waits and is bounded."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        try:
            about = os.fstat(descriptor)
            content = json.loads(file.read(min(about.st_size, at_most_bytes))) if stat.S_ISREG(about.st_mode) else None
        except (OSError, ValueError, RecursionError):
            return None
    return content if isinstance(content, dict) else None


class Reserved:
    """A JSON file whose room on disk is taken beforehand: how an attempt ended can be written on a full disk too."""

    SIZE = 8192  # a message of 500 characters is up to 6,000 bytes of JSON

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(f"{path}.reserved", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(self.descriptor, b" " * self.SIZE)

    def write(self, content: Mapping[str, Any]) -> None:
        text = json.dumps(content).encode()
        assert len(text) <= self.SIZE, "what is written at the end is bounded by its writer"
        os.pwrite(self.descriptor, text.ljust(self.SIZE), 0)  # in place; blanks after a JSON text are no part of it
        os.replace(f"{self.path}.reserved", self.path)


def poke(path: str, text: str) -> bool:
    """One line into a FIFO if someone reads it; never blocks. False: nobody heard."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, f"{text}\n".encode())  # up to PIPE_BUF it goes in whole or not at all
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def make_fifo(path: str) -> int:
    """A FIFO open at both ends by its reader, so that it never sees an end of file."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def private(path: str, flags: int) -> int:
    """For `open(..., opener=private)`: what it makes is its user's alone."""
    return os.open(path, flags, 0o600)


def write_bytes(path: str, text: bytes) -> None:
    """Where a job may have put a FIFO: nobody waits for its reader."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(text)
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
