"""Tasks that `srun` starts on other nodes of an attempt, where the system underneath has no launcher that reaches them (Ray).

    srun ─ Unix socket ─ Senders, in the keeper of the first node ─ Ray ─ Tasks, in the keeper of the other ─ commands ─ supervisor there

    attempt folder of the first node     steps             the socket: srun sends the task, and gets its output and exit code
    attempt folder of the other          task.ID.json      what the supervisor there forks, as it does a rank
                                         task.ID.out, .err, .end     FIFOs from there: output, and the exit code in decimal

Output is fetched, never pushed: a task whose output nobody takes waits in its write, and what is in memory on the way is bounded. A
fetch that was not answered is asked for again under its number, and is answered with the same bytes. A srun that goes takes its tasks
with it; what a task left behind has nowhere to write to once that task has ended, and goes with the attempt.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import IO, Any

from trainmaster.live.node import folder as files

Ask = Callable[..., Any]  # (node of the gang, verb, arguments...): its answer; ConnectionError: it has none to give any more
Answer = dict[str, tuple[bytes, bytes, int | None]]  # id -> standard output, standard error, exit code once there is no more

SOCKET, TASK = "steps", "task."
TASK_FRAME, OUT, ERR, END = range(4)  # from srun, and to it
HEADER = struct.Struct("!BI")
TASK_BYTES = 16 << 20  # argv and environment; Linux lets no process begin with more than 6 MiB
CHUNK, LEAST_CHUNK = 256 << 10, 4 << 10  # of one stream of a task in one answer
ANSWER_BYTES = 4 << 20  # of one stream of all
AFTER_BYTES = 1 << 20  # that is still taken after a task's end: as much as a pipe can hold
FETCH_S = 2.0  # a fetch waits so long for something; a srun that has gone is noticed as often
LITTLE_BYTES, GATHER_S = 32 << 10, 0.02  # so little is fetched at most so often: somebody prints line by line
SLOW_S = 0.05  # between two looks at a srun that does not take what there is
HELLO_S = 5.0  # for a task to come through the socket
HELLOS = 16  # at once, and starts that wait for their node
AGAIN_S = 1.0  # between two tries to kill what a node that does not answer may still run
MOST = 1024  # tasks of one node at once


def _near(path: str, folder: int) -> str:
    """A socket's path may have 107 bytes; this one always has."""
    return f"/proc/self/fd/{folder}/{os.path.basename(path)}"


def _folder(path: str) -> int:
    return os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


# -- in srun ---------------------------------------------------------------------------------------------------------------------------


class Elsewhere:
    """A task on another node; srun waits for it as for a process of its own."""

    def __init__(self, path: str, node: int, name: str, task: Mapping[str, Any], out: int | None, err: int | None, *, piped: bool) -> None:
        """`piped`: output is to be read from `stdout` and `stderr`; else it goes to these descriptors, or those of this process."""
        self.name = name
        self.code = 1
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        self._to = {OUT: 1 if out is None else out, ERR: (2 if out is None else out) if err is None else err}
        self._own: list[int] = []
        if piped and out is None:
            self.stdout, self._to[OUT] = self._pipe()
        if piped and out is None and err is None:
            self.stderr, self._to[ERR] = self._pipe()
        text = json.dumps({"node": node, **task}).encode()
        self._connection = socket.socket(socket.AF_UNIX)
        folder = _folder(path)
        try:
            self._connection.connect(_near(path, folder))
            self._connection.sendall(HEADER.pack(TASK_FRAME, len(text)) + text)
        finally:
            os.close(folder)
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def wait(self) -> int:
        self._thread.join()
        return self.code

    def _say(self, why: str) -> None:
        print(f"srun: error: {self.name}: {why}", file=sys.stderr, flush=True)

    def _pipe(self) -> tuple[IO[bytes], int]:
        read, write = os.pipe()
        self._own.append(write)
        return os.fdopen(read, "rb"), write

    def _copy(self) -> None:
        try:
            with self._connection, self._connection.makefile("rb") as frames:
                while len(header := frames.read(HEADER.size)) == HEADER.size:
                    kind, size = HEADER.unpack(header)
                    if kind == END:
                        self.code = size
                        return
                    _write(self._to[kind], frames.read(size))
            self._say("it cannot be reached any more")
        except BrokenPipeError:
            pass  # nobody reads on: as a process of its own would have, it fails; the task is killed as the connection ends
        except OSError as error:  # a full disk
            self._say(str(error.strerror))
        finally:
            for descriptor in self._own:
                os.close(descriptor)


def _write(descriptor: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(descriptor, view) :]


# -- on the first node -----------------------------------------------------------------------------------------------------------------


class Senders:
    """What takes tasks from srun here to the nodes that they are for, and their output back."""

    def __init__(self, path: str, bin: str, names: Sequence[str], ask: Ask) -> None:
        """`bin`: where this node's look-alikes are; `names` of all nodes of the attempt."""
        self._bin = bin
        self._closed = threading.Event()
        self._senders = {node: _Sender(node, name, ask, self._closed) for node, name in enumerate(names) if node}
        self._hellos = threading.BoundedSemaphore(HELLOS)
        self._listener = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        folder = _folder(path)
        self._listener.bind(_near(path, folder))
        os.close(folder)
        self._listener.listen(128)
        threading.Thread(target=self._accept, name="srun", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):  # `accept` returns with it
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        number = 0
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed; else there are too many files open, and it waits
                time.sleep(SLOW_S)
                continue
            number += 1
            self._hellos.acquire()
            try:
                threading.Thread(target=self._greet, args=(str(number), connection), name="srun", daemon=True).start()
            except RuntimeError:  # there are too many threads
                self._hellos.release()
                connection.close()

    def _greet(self, id: str, connection: socket.socket) -> None:
        """Each in a thread: one that says nothing, or whose node does not answer, keeps no other waiting."""
        try:
            task, sender = self._hello(connection)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            connection.close()  # the job can write here, too
        else:
            sender.send(id, json.dumps({**task, "bin": self._bin}).encode(), connection)
        finally:
            self._hellos.release()

    def _hello(self, connection: socket.socket) -> tuple[dict[str, Any], _Sender]:
        until_s = time.monotonic() + HELLO_S
        _, size = HEADER.unpack(_read_all(connection, HEADER.size, until_s))
        if size > TASK_BYTES:
            raise ValueError
        said = json.loads(_read_all(connection, size, until_s))
        connection.setblocking(False)
        return checked(said), self._senders[said["node"]]


def _read_all(connection: socket.socket, size: int, until_s: float) -> bytes:
    """TimeoutError: it has not come by then, however it drips."""
    text = bytearray()
    while len(text) < size:
        connection.settimeout(max(1e-3, until_s - time.monotonic()))
        some = connection.recv(min(size - len(text), CHUNK))
        if not some or time.monotonic() > until_s:
            raise TimeoutError
        text += some
    return bytes(text)


def checked(said: object) -> dict[str, Any]:
    """A task, of what a process of the job has written, perhaps. ValueError: it is none."""
    match said:
        case {"argv": [str(), *rest] as argv, "env": dict() as env, "cwd": str() as cwd}:
            if all(isinstance(text, str) for text in (*rest, *env.values())):
                return {"argv": argv, "env": env, "cwd": cwd}
    raise ValueError("not a task")


class _Sent:
    """A task on its way, or running there."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.started = False
        self.runs = True  # as far as is known
        self.pending = bytearray()  # for srun
        self.ended = self.gone = False

    def take(self, out: bytes, err: bytes, code: int | None) -> None:
        for kind, text in ((OUT, out), (ERR, err)):
            if text:
                self.pending += HEADER.pack(kind, len(text)) + text
        if code is not None:
            self.pending += HEADER.pack(END, code)
            self.ended, self.runs = True, False

    def give_up(self, why: bytes) -> None:
        """Its node does not answer: it may run there still."""
        if not self.ended:
            self.take(b"", why, 1)
            self.runs = True

    def flush(self) -> None:
        """As much as it takes; `gone`: srun has."""
        try:
            while self.pending:
                del self.pending[: self.connection.send(self.pending)]
            self.gone = self.connection.recv(CHUNK) == b""  # srun says nothing more; whatever else did is not heard
        except BlockingIOError:
            return
        except OSError:
            self.gone = True

    @property
    def over(self) -> bool:
        return self.gone or (self.ended and not self.pending)


class _Sender:
    """Of one node: all its tasks are fetched from at once."""

    def __init__(self, node: int, name: str, ask: Ask, closed: threading.Event) -> None:
        self.node, self.name, self._ask, self._closed = node, name, ask, closed
        self._lock = threading.Lock()
        self._sent: dict[str, _Sent] = {}
        self._left: set[str] = set()  # what may still run there, and has no srun any more
        self._killing = threading.Lock()
        self._fetches = 0
        self._fetching = False

    def send(self, id: str, task: bytes, connection: socket.socket) -> None:
        sent = _Sent(connection)
        with self._lock:
            self._sent[id] = sent  # before it is started: its output is fetched from then on
            if not self._fetching:
                try:
                    threading.Thread(target=self._fetch, name=f"tasks on {self.name}", daemon=True).start()
                except RuntimeError:
                    self._sent.pop(id).connection.close()
                    return
                self._fetching = True
        try:
            self._kill_left()
            problem, answers = self._ask(self.node, "start_task", id, task), True
        except ConnectionError as error:
            problem, answers = error, False
        with self._lock:
            if not answers:
                sent.give_up(self._error(problem))
            elif problem is not None and not sent.ended:
                sent.take(b"", self._error(problem), 1)
            if sent.ended:
                sent.flush()  # what fetches waits for something, perhaps for long
            sent.started = True

    def _kill_left(self) -> None:
        """Before anything else starts there."""
        with self._killing:
            with self._lock:
                left = set(self._left)
            for id in left:
                self._ask(self.node, "kill_task", id)
            with self._lock:
                self._left -= left

    def _error(self, problem: object) -> bytes:
        return f"srun: error: {self.name}: {problem}\n".encode()

    def _fetch(self) -> None:
        while True:
            with self._lock:
                sent = dict(self._sent)
                if not sent and (not self._left or self._closed.is_set()):
                    self._fetching = False
                    return
            if not sent:  # nor does it answer, so far
                self._closed.wait(AGAIN_S)
                with contextlib.suppress(ConnectionError):
                    self._kill_left()
                continue
            slow = [one for one in sent.values() if one.pending]
            if slow:
                poll = select.poll()
                for one in slow:
                    poll.register(one.connection, select.POLLOUT)
                poll.poll(SLOW_S * 1e3)
            room = max(min(CHUNK, ANSWER_BYTES // len(sent)), LEAST_CHUNK)
            rooms = {id: 0 if one.pending else room for id, one in sent.items() if not one.ended}
            answer: Answer = {}
            lost: bytes | None = None
            if rooms:
                self._fetches += 1
                try:
                    answer = self._ask(self.node, "fetch", self._fetches, rooms, SLOW_S if slow else FETCH_S)
                except ConnectionError as error:
                    lost = self._error(error)
            elif not slow:
                time.sleep(SLOW_S)  # for the answer to a start
            with self._lock:
                for id, said in answer.items():
                    sent[id].take(*said)
                if lost is not None:
                    for id in rooms:
                        sent[id].give_up(lost)
                for one in sent.values():
                    one.flush()
                over = {id: one for id, one in sent.items() if one.over and one.started}
                for id in over:
                    del self._sent[id]
                self._left |= {id for id, one in over.items() if one.runs}
            some = sum(len(out) + len(err) for out, err, _ in answer.values())
            if 0 < some < LITTLE_BYTES and not over:
                time.sleep(GATHER_S)
            for one in over.values():
                one.connection.close()
            with contextlib.suppress(ConnectionError):
                self._kill_left()


# -- on the other nodes ----------------------------------------------------------------------------------------------------------------


class Tasks:
    """What runs on this node for sruns of the first."""

    def __init__(self, name: str, folder: str, bin: str, over: Callable[[], bool]) -> None:
        """`name` of the node, `folder` of the attempt, `bin` of the look-alikes; `over`: nothing of the attempt runs here any more."""
        self._folder, self._bin, self._over = folder, bin, over
        self._gone = f"srun: error: {name}: a task has gone with what else ran there\n".encode()
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._known: set[str] = set()  # what has begun is never begun a second time
        self._changed = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._fetching = threading.Lock()
        self._fetch = 0
        self._answer: Answer = {}

    def start_task(self, id: str, text: bytes) -> str | None:
        """A second time nothing. Else why it cannot be."""
        with self._lock:
            if id in self._known:
                return None
            if self._over() or len(self._running) >= MOST:
                return "it has ended there" if self._over() else f"{MOST} tasks run there already"
            task = json.loads(text)
            here, there = self._bin, task.pop("bin")
            if "PATH" in task["env"]:
                task["env"]["PATH"] = ":".join(here if one == there else one for one in task["env"]["PATH"].split(":"))
            path = f"{self._folder}/{TASK}{id}"
            try:
                files.write_json(f"{path}.json", task)
                running = _Running(path, self._gone)
            except OSError as error:
                return str(error)
            if not self._tell(start=id):
                running.close()
                return "its supervisor does not answer"
            self._known.add(id)
            self._running[id] = running
        os.eventfd_write(self._changed, 1)
        return None

    def kill_task(self, id: str) -> None:
        """Whoever waited for it has gone. If it has not begun, it never will: its start is late."""
        with self._lock:
            self._known.add(id)
        self._tell(kill=id)
        os.eventfd_write(self._changed, 1)
        with self._fetching, self._lock:
            if id in self._running:
                self._running.pop(id).close()

    def fetch(self, number: int, rooms: Mapping[str, int], wait_s: float) -> Answer:
        """What has come from these tasks, at most `rooms` bytes of each stream, as soon as there is some; or nothing `wait_s` later, or
        when others have been started. The same `number` again: the same answer; an older one's caller has had his by now."""
        with self._fetching:
            if number > self._fetch:
                self._fetch, self._answer = number, self._await(rooms, wait_s)
            return self._answer

    def _await(self, rooms: Mapping[str, int], wait_s: float) -> Answer:
        until_s = time.monotonic() + wait_s
        poll = select.poll()
        poll.register(self._changed, select.POLLIN)
        with self._lock:
            running = {id: self._running[id] for id in rooms if id in self._running}
        for id, one in running.items():
            for name, descriptor in one.streams.items():
                if rooms[id] or name == "end":
                    poll.register(descriptor, select.POLLIN)
        while True:
            over = self._over()
            answer: Answer = {id: (b"", self._gone, 1) for id in rooms if over and id not in running}
            at_once = answer or any(rooms[id] and (over or one.code is not None) for id, one in running.items())
            left_s = 0.0 if at_once else max(0.0, until_s - time.monotonic())
            ready = {descriptor for descriptor, _ in poll.poll(left_s * 1e3)}
            for id, one in running.items():
                before = set(one.streams.values())
                said = one.read(ready, rooms[id], over)
                for descriptor in before.difference(one.streams.values()):
                    poll.unregister(descriptor)
                if any(said[:2]) or said[2] is not None:
                    answer[id] = said
            for id in answer.keys() & running.keys():
                if answer[id][2] is not None:
                    with self._lock:
                        self._running.pop(id).close()
            if self._changed in ready:
                os.eventfd_read(self._changed)
            if answer or self._changed in ready or time.monotonic() >= until_s:
                return answer

    def _tell(self, **what: str) -> bool:
        return files.poke(f"{self._folder}/{files.COMMANDS}", json.dumps(what))


class _Running:
    """A task here, and what comes from it."""

    def __init__(self, path: str, gone: bytes) -> None:
        """`gone`: its last words where nobody says how it ended."""
        self.path, self._gone = path, gone
        self.streams: dict[str, int] = {}
        self.code: int | None = None
        self._words = b""
        self._after = AFTER_BYTES
        try:
            for name in ("out", "err", "end"):
                os.mkfifo(f"{path}.{name}", 0o600)
                self.streams[name] = os.open(f"{path}.{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        for name in ("json", "out", "err", "end"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}.{name}")
        for name in list(self.streams):
            self._drop(name)

    def read(self, ready: Collection[int], room: int, over: bool) -> tuple[bytes, bytes, int | None]:
        """Of the streams that are `ready`. Its code comes after all that it has said itself."""
        if self.streams.get("end") in ready:
            text = self._read("end", 8)
            self.code, self._words = (int(text), b"") if text.isdigit() else (1, self._gone)
            self._drop("end")
        elif over and self.code is None:
            self.code, self._words = 1, self._gone
        texts = []
        for name in ("out", "err"):
            texts.append(self._read(name, room) if room and (self.streams.get(name) in ready or self.code is not None) else b"")
        if self.code is None or not room:
            return texts[0], texts[1], None
        self._after -= sum(map(len, texts))
        if any(texts) and self._after > 0:
            return texts[0], texts[1], None
        return texts[0], texts[1] + self._words, self.code

    def _read(self, name: str, room: int) -> bytes:
        if name not in self.streams:
            return b""
        try:
            text = os.read(self.streams[name], room)
        except BlockingIOError:
            return b""
        if not text and name != "end":
            self._drop(name)
        return text

    def _drop(self, name: str) -> None:
        os.close(self.streams.pop(name))
