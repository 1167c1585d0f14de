"""The Slurm backend of one user, as a process of that user's: what a controller in site mode talks to (see slurm_users).

    stdin    a Hello, then Requests, a line of JSON each; at its end the process goes, and jobs run on
    stdout   Words: first an empty one, then answers to requests and, whenever something has changed, all that it sees

Its state folder is in the user's own home, which nobody else can write: there the attempts are what they are in personal mode.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import TypeAdapter

from trainmaster.errors import TrainmasterError
from trainmaster.live.backends.accepting import Key
from trainmaster.live.backends.base import Attempt, Observation
from trainmaster.live.backends.slurm import SlurmBackend

LINE_BYTES = 64 << 20  # of a request: a job's environment and script; of a word: thousands of observations
PAUSE_S = 0.05  # between two words about everything


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
    saying, changed, over = threading.Lock(), threading.Event(), threading.Event()

    def say(word: Word) -> None:
        with saying:
            words.write(f"{json.dumps(asdict(word))}\n")
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

    def tell() -> None:
        while not over.is_set():
            changed.wait()
            changed.clear()
            say(Word(seen=tuple(backend.observe()), placed=tuple((*key, node) for key, node, _ in backend.placed())))
            over.wait(PAUSE_S)

    threading.Thread(target=tell, name="words", daemon=True).start()
    changed.set()
    try:
        while line := sys.stdin.buffer.readline(LINE_BYTES):
            request = REQUEST.validate_json(line)
            error = ""
            try:
                _do(backend, request)
            except TrainmasterError as problem:
                error = str(problem)
            say(Word(seen=tuple(backend.observe()), answers=((request.id, error),)))
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
