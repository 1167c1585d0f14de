"""Served by uvicorn in this process: where it may listen, what it leaves in the state folder, how it stops.

On loopback by plain HTTP; anywhere else by TLS, or not at all unless `insecure` says that somebody means it. While it serves,
STATE/address holds its URL and STATE/token a token of an admin, readable by the owner alone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from trainmaster.errors import InputError, TrainmasterError
from trainmaster.live.http.auth import Authenticator, Role

GRACE_S = 3  # for requests that are being answered, when it stops
IDLE_S = 30  # of a kept connection
MAX_CONNECTIONS = 1_000
BACKLOG = 1_024
STARTING_S = 15.0


@dataclass(frozen=True, slots=True)
class Tls:
    certificate: Path
    key: Path


def is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_binding(host: str, tls: Tls | None, insecure: bool) -> None:
    if not is_loopback(host) and tls is None and not insecure:
        raise InputError(
            f"--host {host}: others can reach that, so it takes TLS (--tls-cert FILE --tls-key FILE), or --insecure: tokens travel in clear"
        )
    for file in (tls.certificate, tls.key) if tls else ():
        if not os.access(file, os.R_OK):
            raise InputError(f"{file}: cannot be read: TLS needs a certificate and its key in PEM")
    if tls:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tls.certificate, tls.key)
        except OSError as error:
            raise InputError(f"{tls.certificate}: not a certificate with {tls.key} as its key, both in PEM: {error}") from None


class Server:
    """Listens as soon as it is made; answers between `start` and `stop`, in a thread of its own."""

    def __init__(self, app: FastAPI, *, host: str = "127.0.0.1", port: int = 0, tls: Tls | None = None, insecure: bool = False) -> None:
        check_binding(host, tls, insecure)
        self._app, self._socket = app, _bound(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{shown}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=IDLE_S, limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_S, ssl_certfile=tls.certificate if tls else None, ssl_keyfile=tls.key if tls else None,
            lifespan="on", proxy_headers=False,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._thread.start()
        for _ in range(int(STARTING_S / 0.01)):
            if self._server.started:
                return
            self._thread.join(0.01)
            if not self._thread.is_alive():
                break
        raise TrainmasterError(f"the HTTP server did not start on {self.url}: {self._failure or 'no answer'}")

    def stop(self) -> None:
        """Ends streams, lets requests end, and returns when nothing is answered any more."""
        self._server.should_exit = True
        self._thread.join(GRACE_S + 5)
        self._socket.close()

    def join(self) -> None:
        self._thread.join()

    def close(self) -> None:
        """Of a server that was never started."""
        self._socket.close()

    def _serve(self) -> None:
        try:
            asyncio.run(self._stoppable())
        except BaseException as error:  # uvicorn ends with SystemExit when a certificate is wrong
            self._failure = error

    async def _stoppable(self) -> None:
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        while not serving.done():
            await asyncio.wait({serving}, timeout=0.1)
            if self._server.should_exit:
                self._app.state.service.stop()  # or it would wait for those who wait
        await serving


@contextmanager
def announced(state: Path, url: str, auth: Authenticator, user: str, tls: Tls | None = None) -> Iterator[None]:
    """STATE/address, STATE/token and the certificate, by which the verbs on this machine find it; the address goes when it does."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    keep_token(state, auth, user)
    certificate = state / "certificate.pem"
    if tls:
        shutil.copyfile(tls.certificate, certificate)
    else:
        certificate.unlink(missing_ok=True)
    write_private(state / "address", url + "\n")
    try:
        yield
    finally:
        (state / "address").unlink(missing_ok=True)


def keep_token(state: Path, auth: Authenticator, user: str) -> None:
    """The admin's token file: the one that is there if it still works, else a new one."""
    file = state / "token"
    with suppress(OSError, UnicodeDecodeError):
        who = auth.who(file.read_text().strip())
        if who is not None and who.role.administers:
            os.chmod(file, 0o600)
            return
    write_private(file, auth.issue(user, Role.ADMIN, "of the state folder")[1] + "\n")


def write_private(file: Path, text: str) -> None:
    """Whole or not at all, and never readable by others."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio turns Nagle's algorithm off only on a socket that names its protocol; without that every answer takes 40 ms
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror or error} (--port 0 takes a free one)") from None
    return listening
