"""Site mode of the Slurm backend: every job as the Unix account of the user who submitted it, by one rule of sudo.

    controller ──stdin, stdout──> sudo -n -u USER PROGRAM      one for each user with jobs; PROGRAM is slurm_agent, of that user's uid

What personal mode does for one user, such a process does for each of its users: folders, supervisors, sbatch, scancel, fencing are the
user's, in the user's home. The controller opens none of those files, and the user none of the controller's. So whatever a user does to
what runs as that user, the records of others are out of reach: a process is believed about attempts of its own user alone.

Who a job's user is says the token with which it was submitted. Here, for each attempt, STATE/site/live/JOB.ATTEMPT names the user and
what was given: who must be asked after a restart.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import os
import pwd
import secrets
import select
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from trainmaster.errors import BackendError, InputError, NotFound
from trainmaster.live.backends.accepting import LOG_LIMIT, Key, remove
from trainmaster.live.backends.base import Attempt, Capabilities, NodeSeen, Observation, Seen
from trainmaster.live.backends.slurm import SlurmBackend
from trainmaster.live.backends.slurm_agent import (
    FAULTS,
    HELLO,
    MESSAGE,
    PAUSE_S,
    REQUEST,
    WORD_BYTES,
    Hello,
    Reply,
    Request,
    Word,
    folder_of,
)
from trainmaster.live.backends.slurm_commands import step_into
from trainmaster.live.backends.slurm_user_logs import UserLogs
from trainmaster.live.node import folder as files
from trainmaster.live.node import gang, lookalikes
from trainmaster.live.node.said import METRIC_NAME, METRICS

FIRST_UID = 1_000  # accounts below are the system's
RETRY_S = 5.0  # before a user's process that has gone is started again
MOST_RETRIES = 64  # times as long at most, where none comes: sudo may write a mail about each
IDLE_S = 60.0  # a process of whose user nothing is there goes after so long: each asks slurmctld once a second
LEAVE_S = 5.0
COST = 9.0  # times as long as it took this processor to hear a word the next one waits
TROUBLE = 300  # characters
PIPE_BYTES = 64 << 10  # what a pipe holds
ANSWER_S = 10.0  # to a question, with the start of a process
MOST_QUESTIONS = 256  # of one user's that are not answered
SITE_FILE = "site.json"
MOST = 1 << 62
LATEST_S = 250e9  # in the year 9892: what shows times knows none much later
PASSED_ON = ("PATH", "LANG", "TZ")  # of the environment: the rest is the controller's own, and sudo may be told to keep it
WORD = TypeAdapter(Word)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose an attempt is, and the GPUs it has of each node."""

    user: str
    gpus: Mapping[str, float]


class SlurmAsUsers:
    name = "slurm"
    capabilities = Capabilities(pin_nodes=True)

    def __init__(self, state_dir: Path | str, program: Path, log_limit: int = LOG_LIMIT, clock: Callable[[], float] = time.time) -> None:
        """`program`: `trainmaster-as-user`, as sudo's rule names it. `state_dir` is the controller's alone, and need not be shared."""
        self.state = f"{os.path.abspath(state_dir)}/site"
        self._program, self._log_limit, self._clock = program, log_limit, clock
        self._me = pwd.getpwuid(os.getuid()).pw_name
        self._lock = threading.RLock()
        self._marks: dict[Key, Mark] = {}
        self._refused: dict[Key, Observation] = {}
        self._agents: dict[str, Agent] = {}
        self._nodes = _Nodes(f"{self.state}/nodes", self._placed)
        self._numbers = itertools.count(1)
        self._wake: Callable[[], None] = lambda: None

    # -- life ------------------------------------------------------------------------------------------------------------------------

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        try:
            os.makedirs(f"{self.state}/{files.LIVE}", mode=0o700, exist_ok=True)
            files.create_json(f"{self.state}/{SITE_FILE}", {"site": secrets.token_hex(4)})
        except OSError as error:
            raise BackendError(f"{self.state}: the Slurm backend cannot keep its state there: {error}") from None
        self._site = str((files.read_json(f"{self.state}/{SITE_FILE}") or {})["site"])
        for name in os.listdir(f"{self.state}/{files.LIVE}"):
            job, _, attempt = name.partition(".")
            self._find((int(job), int(attempt)))
        self._nodes.open(wake)

    def _find(self, key: Key) -> None:
        """An attempt of a controller before this one. A mark that is not whole was being made: nobody had been told."""
        told = files.read_json(self._mark(key))
        if told is None:
            remove(self._mark(key))
            return
        self._marks[key] = Mark(told["user"], told["gpus"])
        self._agent(told["user"]).look_after(key)

    def close(self) -> None:
        with self._lock:
            agents = list(self._agents.values())
        for agent in agents:  # all of them at once
            agent.dismiss()
        until_s = time.monotonic() + LEAVE_S
        for agent in agents:
            agent.leave(until_s)
        self._nodes.close()

    drop = close  # nothing more is said when a controller goes well

    # -- verbs -----------------------------------------------------------------------------------------------------------------------

    def inventory(self) -> list[NodeSeen]:
        return self._nodes.inventory()

    def start(self, attempt: Attempt) -> None:
        key = attempt.job, attempt.attempt
        with self._lock:
            if key in self._refused:
                return
            try:
                self._check_account(attempt.user)
            except InputError as error:
                self._refuse(key, str(error))
                return
            if key not in self._marks:
                mark = Mark(attempt.user, {share.node: share.gpus for share in attempt.shares})
                try:
                    files.write_bytes(self._mark(key), json.dumps({"user": mark.user, "gpus": dict(mark.gpus)}).encode())
                except OSError as error:
                    remove(self._mark(key))
                    raise BackendError(f"attempt {key[1]} of job {key[0]} cannot be written down: {error}") from None
                self._marks[key] = mark
            self._ask(key, Request(id=next(self._numbers), verb="start", key=key, attempt=attempt))

    def stop(self, job: int, attempt: int, *, grace_s: float, reason: str) -> None:
        self._ask((job, attempt), Request(id=next(self._numbers), verb="stop", key=(job, attempt), grace_s=grace_s, reason=reason))

    def signal(self, job: int, attempt: int, number: int, *, batch_only: bool = False) -> None:
        key = job, attempt
        self._ask(key, Request(id=next(self._numbers), verb="signal", key=key, number=number, batch_only=batch_only))

    def observe(self) -> list[Observation]:
        with self._lock:
            found = list(self._refused.values())
            for key, mark in self._marks.items():
                agent = self._agent(mark.user)
                if (one := agent.seen(key)) is not None:
                    found.append(one)
                elif agent.owes(key):  # what it has been told, or was told by a controller before, it may know
                    found.append(Observation(job=key[0], attempt=key[1], seen=Seen.UNKNOWN, message=agent.trouble))
            return found

    def forget(self, job: int, attempt: int) -> None:
        key = job, attempt
        with self._lock:
            if self._refused.pop(key, None) is None:
                self._ask(key, Request(id=next(self._numbers), verb="forget", key=key))
            self._marks.pop(key, None)
            remove(self._mark(key))

    def logs(self, job: int, attempt: int, user: str) -> UserLogs:
        """They are in the user's home, and the user's alone: the user's process reads them."""
        try:
            self._check_account(user)
        except InputError as error:
            raise NotFound(f"job {job} has no log: {error}") from None
        return UserLogs(partial(self._answer, self._agent(user), job, attempt))

    def ask(self, user: str, within_s: float, **about: Any) -> Reply:
        """A question about no attempt; InputError: it cannot be asked of that user."""
        self._check_account(user)
        agent = self._agent(user)
        question = agent.question(Request(id=next(self._numbers), **about))
        try:
            return question.result(within_s)
        except TimeoutError:
            question.cancel()
            raise BackendError(agent.silent(within_s)) from None

    def folder_of(self, user: str) -> str:
        self._check_account(user)
        return folder_of(user, self._site)

    async def _answer(self, agent: Agent, job: int, attempt: int, verb: Literal["sizes", "tail", "read"], **about: Any) -> Reply:
        question = agent.question(Request(id=next(self._numbers), verb=verb, key=(job, attempt), **about))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(question), ANSWER_S)
        except TimeoutError:
            raise BackendError(agent.silent(ANSWER_S)) from None

    def shell(self, job: int, attempt: int) -> Sequence[str]:
        """To be run by the job's user. Of what the user's process says, it holds a number alone: somebody else may run it, too."""
        with self._lock:
            mark = self._marks.get((job, attempt))
            id = None if mark is None else self._agent(mark.user).entrance((job, attempt))
            if mark is None or id is None:
                raise BackendError(f"attempt {attempt} of job {job} does not run: there is nothing to enter")
            node = self._nodes.slurm_name(next(iter(mark.gpus)))
            folder = files.attempt_folder(self.folder_of(mark.user), job, attempt)
        return step_into(id, node, [*lookalikes.python("enter_own"), gang.own_folder(folder, 0)])

    def report(self) -> dict[str, Any]:
        with self._lock:
            troubles = {user: trouble for user, agent in self._agents.items() if (trouble := agent.troubled())}
            return {**self._nodes.report(), "attempts": len(self._marks), "troubles": troubles,
                    "mode": f"site: every job is submitted as its user, by sudo {self._program}"}  # fmt: skip

    # -- inside ----------------------------------------------------------------------------------------------------------------------

    def _mark(self, key: Key) -> str:
        return f"{self.state}/{files.LIVE}/{key[0]}.{key[1]}"

    def _check_account(self, user: str) -> None:
        try:
            account = pwd.getpwnam(user)
        except (KeyError, ValueError):
            raise InputError(f"there is no Unix account {user} here: in site mode a job runs as the account of its user") from None
        if account.pw_name != user:  # a directory may not mind the case of letters: two processes would wait for each other
            raise InputError(f"the Unix account {user} is called {account.pw_name} here: a token must name it so")
        if account.pw_uid < FIRST_UID and user != self._me:
            raise InputError(f"{user} is an account of the system (uid {account.pw_uid}): no job runs as it")

    def _agent(self, user: str) -> Agent:
        with self._lock:
            if user not in self._agents:
                as_user = [] if user == self._me else ["sudo", "-n", "-H", "-u", user, "--"]
                hello = Hello(site=self._site, slurm_conf=os.environ.get("SLURM_CONF"), log_limit=self._log_limit)
                self._agents[user] = Agent(user, [*as_user, str(self._program)], hello, self._wake, self._shut_out)
            return self._agents[user]

    def _ask(self, key: Key, request: Request) -> None:
        with self._lock:
            if (mark := self._marks.get(key)) is not None:
                self._agent(mark.user).ask(request)

    def _shut_out(self, keys: Sequence[Key], why: str) -> None:
        """Nobody ever heard of these: sudo does not let the controller run as their user."""
        with self._lock:
            for key in keys:
                if self._marks.pop(key, None) is not None:
                    remove(self._mark(key))
                    self._refuse(key, why)

    def _refuse(self, key: Key, why: str) -> None:
        self._refused[key] = Observation(job=key[0], attempt=key[1], seen=Seen.REFUSED, ended_s=self._clock(), message=why)
        self._wake()

    def _placed(self) -> Iterator[tuple[Key, str, float]]:
        with self._lock:
            placed = [(key, node, mark.gpus[node]) for key, mark in self._marks.items() for node in self._agent(mark.user).placed(key)
                      if node in mark.gpus]  # fmt: skip
        yield from placed


class _Nodes(SlurmBackend):
    """The nodes as the controller's own account sees them; it has no attempts itself."""

    def __init__(self, state: str, given: Callable[[], Iterator[tuple[Key, str, float]]]) -> None:
        super().__init__(state)
        self._given = given

    def placed(self) -> Iterator[tuple[Key, str, float]]:
        return self._given()


@dataclass(slots=True)
class Question:
    request: Request
    reply: Future[Reply] = field(default_factory=Future)
    sent: bool = False


class Agent:
    """A user's process as the controller has it: started when there is something to ask, and again when it has gone.

    A request is kept until it is answered, so that the next process hears it too: every verb may be repeated. A question is kept no
    longer than who asks waits. What it says is a user's word: bounded, and checked for its form.
    """

    def __init__(self, user: str, argv: Sequence[str], hello: Hello, changed: Callable[[], None],
                 shut_out: Callable[[Sequence[Key], str], None]) -> None:  # fmt: skip
        self.trouble = ""
        self._user, self._argv, self._hello, self._changed, self._shut_out = user, argv, hello, changed, shut_out
        self._work = threading.Condition()
        self._keys: set[Key] = set()  # attempts that are not forgotten
        self._told: set[Key] = set()  # of these, those that some process of the user may know of
        self._pending: dict[int, Request] = {}
        self._owing_s = math.inf  # monotonic: since when something is pending, and nothing has been obeyed
        self._questions: dict[int, Question] = {}
        self._seen: dict[Key, Observation] | None = None  # None: this process has said nothing yet
        self._placed: dict[Key, set[str]] = {}
        self._entrances: dict[Key, int] = {}
        self._leaving = self._idle = self._hurry = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def ask(self, request: Request) -> None:
        with self._work:
            if not self._pending:
                self._owing_s = time.monotonic()
            self._pending[request.id] = request
            if request.verb == "forget":
                self._keys.discard(request.key)
                self._told.discard(request.key)
            else:
                self._keys.add(request.key)
            self._hurry |= request.verb == "start"
            self._begin()

    def question(self, request: Request) -> Future[Reply]:
        """TrainmasterError: what the process says is in the way. Who waits no longer cancels it."""
        with self._work:
            if len(self._questions) >= MOST_QUESTIONS or self._leaving:
                raise BackendError(f"{self._user}'s process has {len(self._questions)} questions to answer; try again later")
            asked = self._questions[request.id] = Question(request)
            asked.reply.add_done_callback(lambda _: self._no_longer(request.id))
            self._hurry = True
            self._begin()
        return asked.reply

    def _no_longer(self, id: int) -> None:
        with self._work:
            self._questions.pop(id, None)

    def silent(self, for_s: float) -> str:
        return f"the process of {self._user} has given no answer for {for_s:g} s" + (f": {self.trouble}" if self.trouble else "")

    def troubled(self) -> str:
        """Why its jobs may not do as they are told; nothing, mostly."""
        with self._work:
            owing_s = time.monotonic() - self._owing_s if self._pending else 0.0
            return self.trouble or (f"its process has obeyed nothing for {owing_s:.0f} s" if owing_s > ANSWER_S else "")

    def look_after(self, key: Key) -> None:
        """An attempt of a controller before this one: something is to be heard of it."""
        with self._work:
            self._keys.add(key)
            self._told.add(key)
            self._begin()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"slurm as {self._user}", daemon=True)
            self._thread.start()
        self._work.notify_all()

    def seen(self, key: Key) -> Observation | None:
        with self._work:
            return None if self._seen is None or key not in self._keys else self._seen.get(key)

    def owes(self, key: Key) -> bool:
        """It may yet say something of it."""
        with self._work:
            return self._seen is None or any(one.key == key and one.verb == "start" for one in self._pending.values())

    def placed(self, key: Key) -> Set[str]:
        with self._work:
            return self._placed.get(key, frozenset())

    def entrance(self, key: Key) -> int | None:
        with self._work:
            return None if self._seen is None else self._entrances.get(key)

    def dismiss(self) -> None:
        """The process goes at the end of its input. It is another user's: it cannot be made to."""
        with self._work:
            self._leaving = True
            left, self._questions = self._questions, {}
            self._work.notify_all()
        for one in left.values():
            _settle(one.reply, BackendError(f"the controller stops: {self._user}'s process is asked nothing more"))

    def leave(self, until_s: float | None = None) -> None:
        self.dismiss()
        with self._work:
            process, thread = self._process, self._thread
        until_s = time.monotonic() + LEAVE_S if until_s is None else until_s
        if process is not None:
            self._has_gone(process, until_s - time.monotonic())
        if thread is not None:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _has_gone(self, process: subprocess.Popen[bytes], within_s: float) -> bool:
        try:
            process.wait(max(0.0, within_s))
        except subprocess.TimeoutExpired:
            log.warning("the process of %s does not go", self._user)
            return False
        return True

    # -- its thread ------------------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        refused = 0  # times in a row
        while True:
            with self._work:
                self._work.wait_for(lambda: self._leaving or self._wanted)
                if self._leaving:
                    return
                self._hurry = False
            try:
                greeted, why = self._talk()
            except OSError as error:
                greeted, why = False, f"{self._argv[0]}: {error.strerror}"
            unheard: set[Key] = set()
            refused = 0 if greeted else refused + 1
            with self._work:
                lost = [self._questions.pop(id) for id, one in list(self._questions.items()) if one.sent or not greeted]
                self._process, self._seen = None, None
                self.trouble = why if self._wanted else ""
                if not greeted:  # nobody has heard of what was to be started
                    unheard = {one.key for one in self._pending.values() if one.verb == "start"} - self._told
                    self._pending = {id: one for id, one in self._pending.items() if one.key not in unheard}
                    self._keys -= unheard
            if unheard:
                self._shut_out(sorted(unheard), f"nothing runs as {self._user}: {why} (docs/slurm.md)")
            for one in lost:
                _settle(one.reply, BackendError(f"nothing runs as {self._user}: {why} (docs/slurm.md)"))
            self._changed()
            with self._work:
                if self._wanted and not self._idle:
                    self._work.wait_for(lambda: self._leaving, RETRY_S)
                    if refused > 1:  # unless somebody waits
                        self._work.wait_for(lambda: self._leaving or self._hurry, RETRY_S * min(2**refused, MOST_RETRIES))

    @property
    def _wanted(self) -> bool:
        return bool(self._keys or self._pending or self._questions)

    def _talk(self) -> tuple[bool, str]:
        """With one process, until it is gone: whether it ever spoke, and what went wrong.

        It may be silent, talk without end, or stay when it should go: then no other is started, and nothing is held but this one.
        """
        process = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            start_new_session=True,  # without the controller's terminal, into which it could type
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        ended = os.pidfd_open(process.pid)  # others that it started may keep the pipes open
        last: deque[str] = deque(maxlen=1)
        helpers = [threading.Thread(target=_keep_last, args=(process.stderr.fileno(), ended, last), daemon=True)]
        helpers[0].start()
        with self._work:
            self._process, self._idle = process, False
        why, greeted = "", False
        while line := process.stdout.readline(WORD_BYTES):
            began_s = time.thread_time()
            try:
                word = WORD.validate_json(line)
                if not all(map(_is_sane, word.seen or ())):
                    raise ValueError
            except ValueError:  # pydantic's, too
                why = "its process says what cannot be understood"
                break
            if not greeted:  # from here on it is the user's process that listens, not sudo
                greeted = True
                helpers.append(threading.Thread(target=self._write, args=(process, ended), daemon=True))
                helpers[-1].start()
            self._hear(word)
            why = _one_line(word.trouble) or why
            time.sleep(max(PAUSE_S / 2, COST * (time.thread_time() - began_s)))  # one that talks without end is not listened to without end
        with self._work:
            self._process = None
            self._work.notify_all()
        process.stdout.close()
        if not greeted:
            process.stdin.close()
        while not self._has_gone(process, LEAVE_S):
            with self._work:
                if self._leaving:
                    return greeted, why
                self._seen, self.trouble = None, f"{why or 'its process is silent'}, and does not go"
        for helper in helpers:
            helper.join()
        os.close(ended)
        process.stdin.close()
        process.stderr.close()
        return greeted, why or next(iter(last), "its process has gone")

    def _unsaid(self, sent: Set[int]) -> list[Request]:
        questions = [one.request for one in self._questions.values() if not one.sent]
        return [*(self._pending[id] for id in sorted(self._pending.keys() - sent)), *questions]

    def _hear(self, word: Word) -> None:
        with self._work:
            if word.answers or word.seen is not None:
                self.trouble = ""
            for id, error in word.answers:
                request = self._pending.pop(id, None)
                self._owing_s = time.monotonic()
                if error and request is not None:
                    self.trouble = _one_line(error)
                    log.warning("%s of attempt %s of job %s: %s", request.verb, request.key[1], request.key[0], self.trouble)
            if word.seen is not None:
                self._seen = {
                    (one.job, one.attempt): one if one.message.isprintable() else replace(one, message=_one_line(one.message, MESSAGE))
                    for one in word.seen if (one.job, one.attempt) in self._keys
                }  # fmt: skip
                self._placed = {}
                for job, attempt, node in word.placed:
                    if (job, attempt) in self._keys:
                        self._placed.setdefault((job, attempt), set()).add(node)
                self._entrances = {(job, attempt): id for job, attempt, id in word.entrances
                                   if 0 < id < MOST and (job, attempt) in self._keys}  # fmt: skip
            elif word.trouble:
                self.trouble = _one_line(word.trouble)
            settled = [(one.reply, reply) for reply in word.replies if (one := self._questions.pop(reply.id, None)) is not None]
        for asked, reply in settled:
            _settle(asked, FAULTS[reply.fault](_one_line(reply.error, MESSAGE)) if reply.fault else reply)
        if word.seen is not None or word.trouble:
            self._changed()

    def _write(self, process: subprocess.Popen[bytes], ended: int) -> None:
        assert process.stdin is not None
        pipe = process.stdin.fileno()
        os.set_blocking(pipe, False)
        sent: Set[int] = frozenset()
        try:
            _send(pipe, ended, HELLO.dump_json(self._hello) + b"\n")
            while True:
                with self._work:
                    while not self._leaving and self._process is process and not self._unsaid(sent):
                        if not self._work.wait(IDLE_S) and not self._wanted:
                            self._idle = True
                            return
                    if self._leaving or self._process is not process:
                        return
                    fresh, sent = self._unsaid(sent), set(self._pending)
                    self._told |= {one.key for one in fresh if one.id in self._pending} & self._keys
                    for asked in self._questions.values():
                        asked.sent = True
                for request in fresh:
                    _send(pipe, ended, REQUEST.dump_json(request) + b"\n")
        except OSError:  # it has gone: the one who reads finds out
            pass
        finally:
            process.stdin.close()


def _send(pipe: int, ended: int, line: bytes) -> None:
    """BrokenPipeError once nobody is there, whoever holds the pipe."""
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    poll.register(ended, select.POLLIN)
    left = memoryview(line)
    while left:
        if any(descriptor == ended for descriptor, _ in poll.poll()):
            raise BrokenPipeError
        left = left[os.write(pipe, left) :]


def _settle(asked: Future[Reply], outcome: Reply | Exception) -> None:
    if asked.set_running_or_notify_cancel():  # somebody still waits for it
        if isinstance(outcome, Exception):
            asked.set_exception(outcome)
        else:
            asked.set_result(outcome)


def _is_sane(one: Observation) -> bool:
    """Of numbers that are added up with those of others, and lengths."""
    counts = (one.exit_code, one.step, one.saved_step)
    return (
        all(count is None or 0 <= count < MOST for count in counts)
        and all(time_s is None or 0 <= time_s < LATEST_S for time_s in (one.started_s, one.ended_s))
        and all(figure is None or math.isfinite(figure) for figure in (one.rate, *one.metrics.values()))
        and len(one.metrics) <= METRICS
        and all(len(name) <= METRIC_NAME for name in one.metrics)
        and len(one.message) <= MESSAGE
    )


def _one_line(said: str, most: int = TROUBLE) -> str:
    """For logs and terminals."""
    return "".join(character if character.isprintable() else " " for character in said[:most])


def _keep_last(stderr: int, ended: int, last: deque[str]) -> None:
    poll = select.poll()
    poll.register(stderr, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        block = os.read(stderr, PIPE_BYTES) if stderr in ready else b""
        if words := block.decode(errors="replace").strip():
            last.append(_one_line(words.rpartition("\n")[2]))
        if ended in ready or not block:
            return
        time.sleep(PAUSE_S / 2)
