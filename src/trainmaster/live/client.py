"""The API from the other side: a method an endpoint, answers as plain dicts, refusals as the errors they were.

On `http.client`, not httpx: a verb that lists jobs is a fresh process, and importing httpx costs 150 ms of processor time where
http.client costs 45 (measured on a slow core, Python 3.11). For the same reason answers are dicts, not records: those bring pydantic,
another 180 ms.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from trainmaster.errors import Conflict, Forbidden, InputError, NotFound, TrainmasterError

Json = dict[str, Any]

REFUSALS = {400: InputError, 403: Forbidden, 404: NotFound, 409: Conflict, 413: InputError, 422: InputError}
AWAY = 503  # it cannot reach its store, or is stopping
LONGEST_WAIT_S = 30.0  # of one request that waits for a job
PATIENCE_S, RETRY_S = 120.0, 0.5  # with a controller that is away
CHUNK = 64 << 10


class Unreachable(TrainmasterError):
    """No answer, or none yet: the controller may be restarting, its store away."""


class Client:
    """One connection, made on first use; not for several threads at once. `certificate`: a CA file for https."""

    def __init__(self, url: str, token: str, *, certificate: str | None = None, timeout_s: float = 60.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url}: not the address of a controller, such as http://127.0.0.1:8462")
        self.url, self.timeout_s = url.rstrip("/"), timeout_s
        self._parts, self._certificate = parts, certificate
        self._headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    @classmethod
    def of_state(cls, state: Path) -> Client:
        """The controller of a state folder on this machine, by the address and the token it left there."""
        try:
            return cls((state / "address").read_text().strip(), (state / "token").read_text().strip(), certificate=_certificate(state))
        except OSError as error:
            raise TrainmasterError(f"{error.filename}: {error.strerror}: no controller has been started there (trainmaster up)") from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------- jobs

    def submit(
        self, spec: Mapping[str, Any], *, key: str | None = None, user: str | None = None, note: Callable[[str], None] = lambda _: None
    ) -> list[int]:
        """The ids; several for an array. `note`: told what the controller remarks."""
        answer = self._submitted("/jobs", spec, key, user)
        for line in answer["notes"]:
            note(line)
        ids: list[int] = answer["ids"]
        return ids

    def submit_all(self, specs: Sequence[Mapping[str, Any]], *, key: str | None = None, user: str | None = None) -> list[int]:
        ids: list[int] = self._submitted("/jobs/bulk", {"jobs": list(specs)}, key, user)["ids"]
        return ids

    def jobs(
        self,
        *,
        ids: Sequence[int] = (),
        names: Sequence[str] = (),
        users: Sequence[str] = (),
        queues: Sequence[str] = (),
        states: Sequence[str] = (),
        all: bool = False,
        since_s: float | None = None,
        until_s: float | None = None,
        limit: int | None = None,
        after_id: int | None = None,
    ) -> list[Json]:
        query = {
            "id": ids, "name": names, "user": users, "queue": queues, "state": states, "all": all, "since_s": since_s, "until_s": until_s,
            "limit": limit, "after_id": after_id,
        }  # fmt: skip
        return self._get("/jobs", query)["jobs"]

    def job(self, job: int) -> Json:
        return self._get(f"/jobs/{job}")

    def spec(self, job: int) -> Json:
        return self._get(f"/jobs/{job}/spec")

    def attempts(self, job: int) -> list[Json]:
        return self._get(f"/jobs/{job}/attempts")["attempts"]

    def asked(self, ids: Sequence[int]) -> list[Json]:
        """What jobs asked for beside what their records say; those that may not be seen are left out."""
        return self._ask("POST", "/jobs/asked", {"ids": list(ids)}, repeatable=True)["asked"]

    def why(self, job: int) -> Json:
        return self._get(f"/jobs/{job}/why")

    def events(self, job: int | None = None, *, after: int = 0, limit: int = 1_000) -> tuple[list[Json], int]:
        """Events, and the `after` of the next call."""
        answer = self._get("/events" if job is None else f"/jobs/{job}/events", {"after": after, "limit": limit})
        return answer["events"], answer["next"]

    def wait(self, job: int, timeout_s: float | None = None) -> Json:
        """The job when it has ended, or as it is after `timeout_s`. A controller that restarts meanwhile is waited for, too."""
        until_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        answered_s = time.monotonic()
        while True:
            asked_s = max(0.0, min(until_s - time.monotonic(), LONGEST_WAIT_S))
            try:
                record = self._get(f"/jobs/{job}/wait", {"timeout_s": asked_s})
            except Unreachable:
                if time.monotonic() - answered_s > PATIENCE_S:
                    raise
                time.sleep(RETRY_S)
                continue
            answered_s = time.monotonic()
            if record["finish_s"] is not None or answered_s >= until_s:
                return record

    def cancel(self, ids: Sequence[int]) -> None:
        self._verb("cancel", ids)

    def suspend(self, ids: Sequence[int]) -> None:
        self._verb("suspend", ids)

    def resume(self, ids: Sequence[int]) -> None:
        self._verb("resume", ids)

    def hold(self, ids: Sequence[int]) -> None:
        self._verb("hold", ids)

    def release(self, ids: Sequence[int]) -> None:
        self._verb("release", ids)

    def requeue(self, ids: Sequence[int]) -> None:
        self._verb("requeue", ids)

    def update(self, job: int, **changes: Any) -> Json:
        """`changes` as fields of JobUpdate; the job afterwards."""
        return self._ask("PATCH", f"/jobs/{job}", changes)

    def signal(self, job: int, number: int) -> None:
        self._ask("POST", f"/jobs/{job}/signal", {"number": number})

    def shell(self, job: int) -> list[str]:
        return self._get(f"/jobs/{job}/shell")["argv"]

    def log_files(self, job: int, attempt: int | None = None) -> Json:
        """{"attempt": n, "bytes": {rank: size}}"""
        return self._get(f"/jobs/{job}/log-files", {"attempt": attempt})

    def logs(
        self, job: int, *, rank: str = "0", attempt: int | None = None, follow: bool = False, offset: int = 0, tail: int | None = None
    ) -> Iterator[bytes]:
        """As the job wrote it, as it comes. On a connection of its own; errors are raised at once, not at the first chunk.

        Who follows outlives a restart of the controller: it is asked again, from the byte that was next.
        """
        query = {"rank": rank, "attempt": attempt, "follow": follow, "offset": offset, "tail": tail}
        connection, response = self._log(job, query, patient=follow)
        if not follow:
            return self._chunks(connection, response)
        again = {"rank": rank, "follow": True, ("since" if attempt is None else "attempt"): int(response.headers["log-attempt"])}
        return self._followed(job, connection, response, again, int(response.headers["log-offset"]))

    # ------------------------------------------------------------------------------------------------- the cluster

    def status(self) -> Json:
        return self._get("/status")

    def nodes(self) -> list[Json]:
        return self._get("/nodes")["nodes"]

    def drain(self, node: str, reason: str = "") -> None:
        self._ask("POST", f"/nodes/{quote(node, safe='')}/drain", {"reason": reason})

    def resume_node(self, node: str) -> None:
        self._ask("POST", f"/nodes/{quote(node, safe='')}/resume")

    def queues(self) -> list[Json]:
        return self._get("/queues")["queues"]

    def policy(self) -> Json:
        return self._get("/policy")

    def set_policy(self, name: str, settings: Sequence[str] = ()) -> Json:
        return self._ask("PUT", "/policy", {"name": name, "settings": list(settings)})

    def reload(self) -> list[str]:
        return self._ask("POST", "/reload")["changed"]

    def whatif(self, scenarios: Sequence[Mapping[str, Any]]) -> Json:
        """`scenarios` with the fields of Scenario."""
        return self._ask("POST", "/whatif", {"scenarios": list(scenarios)}, timeout_s=600.0)

    # ------------------------------------------------------------------------------------------------- tokens

    def whoami(self) -> Json:
        return self._get("/whoami")

    def login_url(self) -> str:
        """Opens the status page in a browser, logged in; good once."""
        return self.url + self._ask("POST", "/login-code")["path"]

    def tokens(self) -> list[Json]:
        return self._get("/tokens")["tokens"]

    def issue_token(self, user: str, role: str = "user", name: str = "", expires_s: float | None = None) -> Json:
        """{"id": n, "token": "tm_..."}; the token is seen this once."""
        return self._ask("POST", "/tokens", {"user": user, "role": role, "name": name, "expires_s": expires_s})

    def revoke_token(self, id: int) -> None:
        self._ask("DELETE", f"/tokens/{id}")

    # ------------------------------------------------------------------------------------------------- the wire

    def _submitted(self, path: str, body: Mapping[str, Any], key: str | None, user: str | None) -> Json:
        headers = {"idempotency-key": key or os.urandom(16).hex()}  # so that it can be sent twice
        answer: Json = self._ask("POST", path, body, query={"user": user}, headers=headers)
        return answer

    def _verb(self, verb: str, ids: Sequence[int]) -> None:
        self._ask("POST", f"/jobs/{verb}", {"ids": list(ids)})

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._ask("GET", path, query=query)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        repeatable: bool = False,
    ) -> Any:
        if self._connection is not None and self._connection.sock is not None and _has_gone(self._connection.sock):
            self.close()
        reused = self._connection is not None
        connection = self._connection = self._connection or self._connect()
        if timeout_s is not None:
            connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s or self.timeout_s)
        try:
            response = self._send(connection, method, path, query, body, headers or {})
            data = response.read()
        except (http.client.HTTPException, OSError) as error:
            self.close()
            again = repeatable or method == "GET" or (headers is not None and "idempotency-key" in headers)
            if reused and again:  # the server closes a connection that was idle; a request that is safe to repeat is sent on a new one
                return self._ask(method, path, body, query=query, headers=headers, timeout_s=timeout_s, repeatable=repeatable)
            raise self._unreachable(error) from None
        except TrainmasterError:
            self.close()
            raise
        if response.status >= 400 or 300 <= response.status < 400:
            raise self._error(response.status, data)
        return json.loads(data) if data else None

    def _connect(self) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self.timeout_s)
        try:
            context = ssl.create_default_context(cafile=self._certificate)
        except OSError as error:
            raise InputError(f"{self._certificate}: not a certificate: {error}") from None
        return http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=context)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        sent = {**self._headers, **headers, **({} if data is None else {"content-type": "application/json"})}
        connection.request(method, f"{self._parts.path.rstrip('/')}/api/v1{path}{_query(query or {})}", data, sent)
        return connection.getresponse()

    def _log(self, job: int, query: Mapping[str, Any], *, patient: bool) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connect()
        if patient:
            connection.timeout = None  # a job may be silent for long
        try:
            response = self._send(connection, "GET", f"/jobs/{job}/logs", query, None, {})
            if response.status != 200:
                raise self._error(response.status, response.read())
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            raise self._unreachable(error) from None
        except BaseException:
            connection.close()
            raise
        return connection, response

    def _followed(self, job: int, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, query: Mapping[str, Any],
                  offset: int) -> Iterator[bytes]:  # fmt: skip
        """A stream also ends when its controller does: only one that was asked for after the end has shown all."""
        answered_s, over = time.monotonic(), False
        while True:
            with suppress(Unreachable):
                for chunk in self._chunks(connection, response):
                    offset += len(chunk)
                    answered_s = time.monotonic()
                    yield chunk
                if over:
                    return
            while True:
                try:
                    over = self._is_over(job, query.get("attempt"))
                    connection, response = self._log(job, {**query, "offset": offset}, patient=True)
                    break
                except NotFound:  # it ended without a log
                    return
                except Unreachable:
                    if time.monotonic() - answered_s > PATIENCE_S:
                        raise
                    time.sleep(RETRY_S)

    def _is_over(self, job: int, attempt: int | None) -> bool:
        if self.job(job)["finish_s"] is not None:
            return True
        return attempt is not None and any(tried["attempt"] == attempt and tried["end_s"] is not None for tried in self.attempts(job))

    def _chunks(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := response.read1(CHUNK):
                yield chunk
        except (http.client.HTTPException, OSError) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _error(self, status: int, data: bytes) -> TrainmasterError:
        message = f"{self.url} answered {status}"
        with suppress(ValueError, TypeError, KeyError):
            message = str(json.loads(data)["error"])
        if status == 401:
            return Forbidden(f"{self.url} does not know this token (TRAINMASTER_TOKEN, or the file token of the state folder)")
        return Unreachable(message) if status == AWAY else REFUSALS.get(status, TrainmasterError)(message)

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = str(error) or type(error).__name__
        return Unreachable(f"no controller answers at {self.url} ({reason}); is `trainmaster up` running?")


def _query(values: Mapping[str, Any]) -> str:
    told = {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items() if value is not None}
    text = urlencode(told, doseq=True, errors="surrogateescape")  # words of a command line may be no text
    return f"?{text}" if text else ""


def _has_gone(connection: socket.socket) -> bool:
    """The server has closed it, as it does with idle ones: nothing else can be there to be read between two requests."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _certificate(state: Path) -> str | None:
    """What `up` left there if it serves by TLS."""
    file = state / "certificate.pem"
    return str(file) if file.exists() else None
