"""The controller's end of the fork server: asks for supervisors without ever waiting, and starts it anew when it is gone or mute."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from hashlib import blake2s
from pathlib import Path

from trainmaster.live.node import folder as files
from trainmaster.live.node.fork_server import PACKET, address

HELLO_S = 5.0  # to answer in, from its start, or from the connection to one that was there
RETRY_S = 0.01
IDLE_S = 0.5
ROOT = Path(__file__).parents[3]
MAIN = "import sys; sys.path.insert(0, sys.argv[1]); from trainmaster.live.node.fork_server import serve; serve(sys.argv[2], sys.argv[3])"


class ForkServer:
    """`ask` from any thread; `attend` from one, again and again, within `patience_s` of the last time."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.pid: int | None = None  # of the one that has said hello
        self.version = _version()
        self._folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self.since_s = -HELLO_S  # monotonic: when it was last started or reached
        self._unsent: dict[bytes, None] = {}  # each once, however long it is away
        self._closed = False
        self.attend()

    @property
    def patience_s(self) -> float:
        return IDLE_S if self.pid is not None else RETRY_S

    def ask(self, job: int, attempt: int) -> None:
        """Whether it gets there shows in the attempt's folder alone: who asks, asks again."""
        packet = json.dumps({"job": job, "attempt": attempt}).encode()
        with self._lock:
            if self.pid is None or not self._send(packet):
                self._unsent[packet] = None

    def attend(self) -> None:
        with self._lock:
            if self._closed:
                return
            if self._socket is None:
                self._connect()
            if self._socket is not None:
                self._listen(self._socket)
            if self.pid is not None:
                while self._unsent and self._send(packet := next(iter(self._unsent))):
                    del self._unsent[packet]
            elif time.monotonic() > self.since_s + HELLO_S:
                self._start_anew()

    def start_anew(self) -> None:
        """It says nothing, or does nothing: it is killed, and another takes over."""
        with self._lock:
            if not self._closed:
                self._start_anew()

    def quit(self) -> None:
        with self._lock, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
            one.setblocking(False)
            with contextlib.suppress(OSError):
                one.connect(address(self._folder))
                one.send(b'{"quit": true}')
            os.close(self._folder)

    def hang_up(self) -> None:
        with self._lock:
            self._closed = True
            self._disconnect()

    def _connect(self) -> None:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        one.setblocking(False)
        try:
            one.connect(address(self._folder))
        except OSError:
            one.close()
            if self._child is not None and self._child.poll() is not None:
                self.since_s = min(self.since_s, time.monotonic() - HELLO_S + 0.5)  # it ended at once: not too often
            return
        self._socket, self.since_s = one, time.monotonic()

    def _listen(self, one: socket.socket) -> None:
        try:
            packet = one.recv(PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._disconnect()
            self.since_s = -HELLO_S  # it has gone: another at once
            return
        hello = json.loads(packet)
        if hello["version"] != self.version:
            self._send(b'{"quit": true}')
            self._disconnect()
            self.since_s = time.monotonic() - HELLO_S + 0.2  # time to go
            return
        self.pid = hello["pid"]

    def _send(self, packet: bytes) -> bool:
        try:
            if self._socket is None:
                return False
            self._socket.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False  # full, or gone: `attend` finds out which
        return True

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = self.pid = None

    def _start_anew(self) -> None:
        if self._socket is not None:
            self._kill(self._socket)
        self._disconnect()
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        with open(f"{self.state}/forks.log", "ab", opener=files.private) as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", MAIN, str(ROOT), self.state, self.version],
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, cwd="/", start_new_session=True, env={"PATH": os.defpath},
            )  # fmt: skip
        self.since_s = time.monotonic()

    @staticmethod
    def _kill(one: socket.socket) -> None:
        """Whoever listens at the other end; as long as the socket is open the pid is checked against one that just answered for it."""
        pid, uid, _ = struct.unpack("3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if pid > 0 and uid == os.getuid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _version() -> str:
    """Of the code that supervisors run: after an upgrade a server that is still there must not fork the old one."""
    digest = blake2s(str(ROOT).encode(), digest_size=8)
    for source in sorted((ROOT / "trainmaster/live/node").glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()
