"""The Slurm backend of one user, as a process of that user's: what a controller in site mode talks to (see slurm_users).

    stdin    a Hello, then Requests, a line of JSON each; at its end the process goes, and jobs run on
    stdout   Words: first an empty one, then, whenever something has changed, all that it sees, and which requests it has obeyed by then;
             and Replies to those requests that are questions: about the logs of attempts, or to copy a repository

Its state folder is in the user's own home, which nobody else can write: there the attempts are what they are in personal mode.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pwd
import queue
import re
import shutil
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from trainmaster.errors import BackendError, InputError, NotFound, TrainmasterError
from trainmaster.live import logs
from trainmaster.live.backends.accepting import Key
from trainmaster.live.backends.base import Attempt, Observation
from trainmaster.live.backends.slurm import SlurmBackend
from trainmaster.live.node.snapshot import snapshot
from trainmaster.live.snapshots import UNUSED_S

LINE_BYTES = 64 << 20  # of a request: a job's environment and script
WORD_BYTES = 16 << 20  # thousands of observations. A larger one would hold the controller up for seconds
MESSAGE = 2_000  # characters of an observation's
PAUSE_S = 0.05  # between two words
REPLIES_BYTES = 4 << 20  # of the replies in one word, or somewhat more
LOGS = 10_000  # of an attempt: so many are told of
AT_ONCE = 4  # questions: two more than a controller has copies made (live/snapshots.py), so that logs do not wait for git
SNAPSHOTS = "snapshots"

NAME = re.compile("[0-9a-f]{32}")
Fault = Literal["", "missing", "input", "backend"]
FAULTS: Mapping[Fault, type[TrainmasterError]] = {"missing": NotFound, "input": InputError, "backend": BackendError}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    site: str  # of the controller: several may have attempts of the same user
    slurm_conf: str | None
    log_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    id: int
    verb: Literal["start", "stop", "signal", "forget", "sizes", "tail", "read", "copy", "drop"]
    key: Key = (0, 0)
    attempt: Attempt | None = None  # of a start
    grace_s: float = 0.0
    reason: str = ""
    number: int = 0
    batch_only: bool = False
    rank: str = ""  # of a question: which log, and from where on how much of it, or its last so many lines
    offset: int = 0
    most: int = 0
    lines: int = 0
    source: str = ""  # of a copy of a repository
    names: tuple[str, ...] = ()  # of the new one, and of those to be kept, if these are known; of those to be dropped
    sweep: bool = False


QUESTIONS = ("sizes", "tail", "read", "copy", "drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    id: int
    fault: Fault = ""
    error: str = ""
    sizes: dict[str, int] = field(default_factory=dict)  # rank -> bytes
    data: str = ""  # base64
    next: int = 0  # the offset after it
    which: tuple[int, int] = (0, 0)
    size: int = 0
    place: str = ""  # in the copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    answers: tuple[tuple[int, str], ...] = ()  # (id of a request, what went wrong: nothing, mostly)
    seen: tuple[Observation, ...] | None = None
    placed: tuple[tuple[int, int, str], ...] = ()  # (job, attempt, node): what Slurm has given them by now
    entrances: tuple[tuple[int, int, int], ...] = ()  # (job, attempt, id of the Slurm job of the first node): of those that run
    trouble: str = ""
    replies: tuple[Reply, ...] = ()


HELLO, REQUEST = TypeAdapter(Hello), TypeAdapter(Request)


def folder_of(user: str, site: str) -> str:
    """Of all that a controller has of this user."""
    return os.path.abspath(f"{pwd.getpwnam(user).pw_dir}/.trainmaster/site-{site}")


def main() -> None:
    """`trainmaster-as-user`, which takes no arguments: the one program that a site lets the controller run as its users."""
    words = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")  # names of files need not be text
    os.dup2(2, 1)  # whatever else prints
    changed, due, over = threading.Event(), threading.Event(), threading.Event()

    def say(word: Word) -> None:
        words.write(f"{json.dumps(asdict(word), ensure_ascii=False)}\n")  # in which NaN may stand: a job's own figures
        words.flush()

    def seen_anew() -> None:
        changed.set()
        due.set()

    say(Word())
    hello = HELLO.validate_json(sys.stdin.buffer.readline(LINE_BYTES))
    account = pwd.getpwuid(os.getuid())
    os.environ |= {"LOGNAME": account.pw_name, "USER": account.pw_name, "HOME": account.pw_dir}
    if hello.slurm_conf is not None:
        os.environ["SLURM_CONF"] = hello.slurm_conf
    state = folder_of(account.pw_name, hello.site)
    try:
        lock = _alone(state)  # noqa: F841 - held until the process goes
        backend = SlurmBackend(state, log_limit=hello.log_limit)
        backend.open(seen_anew)
    except (TrainmasterError, OSError) as problem:
        say(Word(trouble=str(problem)))
        sys.exit(1)

    answers: deque[tuple[int, str]] = deque()
    questions = Questions(backend, due.set)

    def tell() -> None:
        while not over.is_set():
            due.wait()
            due.clear()
            replies = questions.replies()
            if changed.is_set():
                changed.clear()
                answered = tuple(answers.popleft() for _ in range(len(answers)))  # first: what is seen is no older
                placed = tuple((*key, node) for key, node, _ in backend.placed())
                seen = tuple(replace(one, message=one.message[:MESSAGE]) for one in backend.observe())
                entrances = tuple((*key, id) for key, id in backend.entrances())
                say(Word(answers=answered, seen=seen, placed=placed, entrances=entrances, replies=replies))
            elif replies:
                say(Word(replies=replies))
            over.wait(PAUSE_S)

    def tell_or_go() -> None:
        try:
            tell()
        except BaseException:  # the controller has gone, or a process that says nothing more would be waited for
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=tell_or_go, name="words", daemon=True).start()
    seen_anew()
    try:
        while line := sys.stdin.buffer.readline(LINE_BYTES):
            request = REQUEST.validate_json(line)
            if request.verb in QUESTIONS:
                questions.ask(request)
                continue
            try:
                _do(backend, request)
                answers.append((request.id, ""))
            except TrainmasterError as problem:
                answers.append((request.id, str(problem)))
            seen_anew()
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


class Questions:
    """Answered by threads of their own: no verb waits for a log on a slow disk."""

    def __init__(self, backend: SlurmBackend, answered: Callable[[], None]) -> None:
        self._backend, self._answered = backend, answered
        self._asked: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._replies: deque[Reply] = deque()
        for number in range(AT_ONCE):
            threading.Thread(target=self._work, name=f"questions {number}", daemon=True).start()

    def ask(self, request: Request) -> None:
        self._asked.put(request)

    def replies(self) -> tuple[Reply, ...]:
        """So many as one word holds."""
        taken: list[Reply] = []
        size = 0
        while self._replies and size < REPLIES_BYTES:
            taken.append(self._replies.popleft())
            size += len(taken[-1].data)
        if self._replies:
            self._answered()
        return tuple(taken)

    def _work(self) -> None:
        while True:
            request = self._asked.get()
            try:
                reply = answer(self._backend, request)
            except Exception as problem:
                fault = next((fault for fault, kind in FAULTS.items() if isinstance(problem, kind)), None)
                if fault is None and not isinstance(problem, OSError):
                    traceback.print_exc()
                reply = Reply(id=request.id, fault=fault or "backend", error=str(problem)[:MESSAGE])
            self._replies.append(reply)
            self._answered()


def answer(backend: SlurmBackend, request: Request) -> Reply:
    if request.verb in ("copy", "drop"):
        return _answer_with_copies(Path(backend.state) / SNAPSHOTS, request)
    return _answer_with_a_log(backend, request)


def _answer_with_copies(folder: Path, request: Request) -> Reply:
    if not all(map(NAME.fullmatch, request.names)):
        raise InputError("the name of a copy is none")
    if request.verb == "drop":
        for name in request.names:
            shutil.rmtree(folder / name, ignore_errors=True)
        return Reply(id=request.id)
    if request.sweep:
        for copy in folder.iterdir() if folder.is_dir() else ():
            if copy.name not in request.names and copy.lstat().st_mtime + UNUSED_S < time.time():
                shutil.rmtree(copy, ignore_errors=True)
    return Reply(id=request.id, place=str(snapshot(Path(request.source), folder / request.names[0])))


def _answer_with_a_log(backend: SlurmBackend, request: Request) -> Reply:
    """About an attempt's logs. They are found by its numbers, and may be links to files that the job named: read as this user, no more."""
    files = backend.log_files(*request.key)
    if request.verb == "sizes":
        return Reply(id=request.id, sizes=dict(islice(logs.sizes(files).items(), LOGS)))
    if request.rank not in files:
        raise NotFound(f"attempt {request.key[1]} of job {request.key[0]} has no log of rank {request.rank}")
    with logs.open_log(files[request.rank]) as file:
        about = logs.about(file)
        if request.verb == "tail":
            return Reply(id=request.id, which=about.which, size=about.size, next=logs.tail_offset(file, request.lines))
        data, after = logs.read(file, request.offset, min(request.most, logs.CHUNK))
    return Reply(id=request.id, which=about.which, size=about.size, data=base64.b64encode(data).decode(), next=after)
