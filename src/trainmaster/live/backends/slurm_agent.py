"""The Slurm backend of one user, as a process of that user's: what a controller in site mode talks to (see slurm_users).

    stdin    a Hello, then Requests, a line of JSON each; at its end the process goes, and jobs run on
    stdout   Words: first an empty one, then, whenever something has changed, all that it sees, and which requests it has obeyed by then

Its state folder is in the user's own home, which nobody else can write: there the attempts are what they are in personal mode.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import sys
import threading
import traceback
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Literal

from pydantic import TypeAdapter

from trainmaster.errors import TrainmasterError
from trainmaster.live.backends.accepting import Key
from trainmaster.live.backends.base import Attempt, Observation
from trainmaster.live.backends.slurm import SlurmBackend

LINE_BYTES = 64 << 20  # of a request: a job's environment and script; of a word: thousands of observations
MESSAGE = 2_000  # characters of an observation's
PAUSE_S = 0.05  # between two words


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    site: str  # of the controller: several may have attempts of the same user
    slurm_conf: str | None
    log_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    id: int
    verb: Literal["start", "stop", "signal", "forget"]
    key: Key
    attempt: Attempt | None = None  # of a start
    grace_s: float = 0.0
    reason: str = ""
    number: int = 0
    batch_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    answers: tuple[tuple[int, str], ...] = ()  # (id of a request, what went wrong: nothing, mostly)
    seen: tuple[Observation, ...] | None = None
    placed: tuple[tuple[int, int, str], ...] = ()  # (job, attempt, node): what Slurm has given them by now
    trouble: str = ""


HELLO, REQUEST = TypeAdapter(Hello), TypeAdapter(Request)


def main() -> None:
    """`trainmaster-as-user`, which takes no arguments: the one program that a site lets the controller run as its users."""
    words = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints
    changed, over = threading.Event(), threading.Event()

    def say(word: Word) -> None:
        words.write(f"{json.dumps(asdict(word))}\n")  # in which NaN may stand: a job's own figures
        words.flush()

    say(Word())
    hello = HELLO.validate_json(sys.stdin.buffer.readline(LINE_BYTES))
    account = pwd.getpwuid(os.getuid())
    os.environ |= {"LOGNAME": account.pw_name, "USER": account.pw_name, "HOME": account.pw_dir}
    if hello.slurm_conf is not None:
        os.environ["SLURM_CONF"] = hello.slurm_conf
    state = f"{account.pw_dir}/.trainmaster/site-{hello.site}"
    try:
        lock = _alone(state)  # noqa: F841 - held until the process goes
        backend = SlurmBackend(state, log_limit=hello.log_limit)
        backend.open(changed.set)
    except (TrainmasterError, OSError) as problem:
        say(Word(trouble=str(problem)))
        sys.exit(1)

    answers: deque[tuple[int, str]] = deque()

    def tell() -> None:
        while not over.is_set():
            changed.wait()
            changed.clear()
            answered = tuple(answers.popleft() for _ in range(len(answers)))  # first: what is seen is no older
            placed = tuple((*key, node) for key, node, _ in backend.placed())
            seen = tuple(replace(one, message=one.message[:MESSAGE]) for one in backend.observe())
            say(Word(answers=answered, seen=seen, placed=placed))
            over.wait(PAUSE_S)

    def tell_or_go() -> None:
        try:
            tell()
        except BaseException:  # the controller has gone, or a process that says nothing more would be waited for
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=tell_or_go, name="words", daemon=True).start()
    changed.set()
    try:
        while line := sys.stdin.buffer.readline(LINE_BYTES):
            request = REQUEST.validate_json(line)
            try:
                _do(backend, request)
                answers.append((request.id, ""))
            except TrainmasterError as problem:
                answers.append((request.id, str(problem)))
            changed.set()
    finally:
        over.set()
        backend.drop()


def _alone(state: str) -> int:
    """Waits for the process of a controller that was killed, which is about to go."""
    os.makedirs(state, mode=0o700, exist_ok=True)
    lock = os.open(f"{state}/agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _do(backend: SlurmBackend, request: Request) -> None:
    job, attempt = request.key
    if request.verb == "start" and request.attempt is not None:
        backend.start(request.attempt)
    elif request.verb == "stop":
        backend.stop(job, attempt, grace_s=request.grace_s, reason=request.reason)
    elif request.verb == "signal":
        backend.signal(job, attempt, request.number, batch_only=request.batch_only)
    elif request.verb == "forget":
        backend.forget(job, attempt)
