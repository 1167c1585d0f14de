"""The fork server: one small warm process a state folder, from which supervisors are forked. It outlives the controller.

    socket     STATE/forks, SOCK_SEQPACKET, 0600, and only for peers of the same uid; one JSON object a packet, none larger than PACKET
    says       {"version": ..., "pid": ...} to whoever connects
    is told    {"job": 7, "attempt": 1}: fork its supervisor, which finds the rest in its folder
               {"quit": true}: another version takes over
Nothing depends on it once a supervisor runs: it may be killed at any time, and is started anew when it is needed. With nobody connected
for IDLE_S it goes by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
from typing import NoReturn

from trainmaster.live.node import linux
from trainmaster.live.node.supervisor import supervise

PACKET = 4096
IDLE_S = 60.0
SOCKET, LOCK = "forks", "forks.lock"


def address(state_descriptor: int) -> str:
    """Of the socket in a folder that is open: a path would have to be shorter than 108 bytes."""
    return f"/proc/self/fd/{state_descriptor}/{SOCKET}"


def serve(state: str, version: str) -> None:
    """Until told to quit, idle for long, or the folder is gone. Another that serves this folder already: at once."""
    linux.call_this_process("tm fork server")
    os.umask(0o077)
    folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    lock = os.open(f"{state}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.path.lexists(f"{state}/{SOCKET}"):
        os.unlink(f"{state}/{SOCKET}")  # of one that was killed: we have its lock
    listener.bind(address(folder))
    listener.listen(16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a supervisor here: its end is read on disk
    gc.collect()
    gc.freeze()  # pages of what is loaded stay shared with every supervisor
    hello = json.dumps({"version": version, "pid": os.getpid()}).encode()
    clients: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        ready = poll.poll(IDLE_S * 1000)
        if not ready and (not clients or not os.path.exists(f"{state}/{LOCK}")):
            return
        for descriptor, _ in ready:
            if descriptor == listener.fileno():
                client = listener.accept()[0]
                if not _same_user(client):
                    client.close()
                    continue
                _send(client, hello)  # one that has gone may have said something before
                clients[client.fileno()] = client
                poll.register(client, select.POLLIN)
                continue
            packet = _received(clients[descriptor])
            if not packet:
                poll.unregister(descriptor)
                clients.pop(descriptor).close()
                continue
            try:
                request = json.loads(packet)
                if request.get("quit") is True:
                    return
                job, attempt = request["job"], request["attempt"]
                if type(job) is int and type(attempt) is int:
                    _fork(state, job, attempt)
            except (ValueError, KeyError, AttributeError, RecursionError) as error:
                print(f"fork server: not a request: {error}", file=sys.stderr, flush=True)


def _fork(state: str, job: int, attempt: int) -> None:
    try:
        pid = os.fork()
    except OSError as error:  # no more processes: the controller sees that nothing starts, and asks again
        print(f"fork server: {error}", file=sys.stderr, flush=True)
        return
    if pid == 0:
        _supervise(state, job, attempt)


def _supervise(state: str, job: int, attempt: int) -> NoReturn:
    """In the child. It keeps the standard streams alone: neither the server's lock nor its clients."""
    os.closerange(3, 4096)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    supervise(state, job, attempt)
    os._exit(0)


def _same_user(client: socket.socket) -> bool:
    _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(uid == os.getuid())


def _send(client: socket.socket, packet: bytes) -> None:
    with contextlib.suppress(OSError):
        client.send(packet, socket.MSG_DONTWAIT)


def _received(client: socket.socket) -> bytes:
    for _ in range(2):  # of one that went without reading our hello, that error comes before its own last words
        try:
            return client.recv(PACKET, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b" "  # nothing after all; no request either
        except OSError:
            continue
    return b""
