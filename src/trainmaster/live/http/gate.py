"""The gate that every request passes before anything of it is parsed: host, rate, who, size. And what every answer carries.

Without a known token there is one answer, 401, whatever was asked and whether it exists; a browser is sent to the login instead.
The API takes tokens alone and the pages cookies alone, so no request that another site makes a browser send can reach the API.
"""

from __future__ import annotations

import math
from http.cookies import CookieError, SimpleCookie

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainmaster.errors import TrainmasterError
from trainmaster.live.http.auth import Who, digest
from trainmaster.live.http.limits import HungUp, TooLarge, TooSlow, bounded_body
from trainmaster.live.http.service import Service, service_at
from trainmaster.live.http.sessions import COOKIE, Session

API = "/api/"
LOGIN, STATIC = "/login", "/static/"  # what a stranger may see
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Gate:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan; there are no websockets here
            await self.app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        settings = service_at(scope).settings
        try:
            refusal = await _refusal(scope)
            if refusal is None:
                receive = await bounded_body(scope, receive, settings.max_body_bytes, settings.body_timeout_s)
        except HungUp:
            return
        except TooLarge:
            refusal = _no(scope, 413, f"a request has at most {settings.max_body_bytes:,} bytes")
        except TooSlow:
            refusal = _no(scope, 408, f"the request took longer than {settings.body_timeout_s:g} s to arrive")
        except TrainmasterError as error:  # the table of tokens is away
            refusal = _no(scope, 503, str(error))
        await (self.app if refusal is None else refusal)(scope, receive, dressed)


async def _refusal(scope: Scope) -> Response | None:
    service, headers, path = service_at(scope), Headers(scope=scope), scope["path"]
    if service.settings.loopback and _host(headers.get("host", "")) not in LOOPBACK:
        return _no(scope, 421, "this server answers to localhost alone")
    address = (scope.get("client") or ("", 0))[0]
    if wait_s := service.addresses.wait_s(address):
        return _busy(scope, wait_s)
    if path == LOGIN or path.startswith(STATIC):
        wait_s = service.strangers.wait_s(address) if scope["method"] == "POST" else 0.0
        return _busy(scope, wait_s) if wait_s else None
    key, session = _key(service, headers, path)
    who = service.auth.remembered(key) if key else None
    if who is None and key:
        # one that was known a moment ago is no stranger, whoever else knocks from its address
        if not service.auth.was_known(key) and (wait_s := service.strangers.wait_s(address)):
            return _busy(scope, wait_s)
        who = await run_in_threadpool(service.auth.look_up, key)
    if who is None:
        return _unknown(scope)
    if wait_s := service.tokens.wait_s(who.token_id):
        return _busy(scope, wait_s)
    scope["trainmaster.who"], scope["trainmaster.session"] = who, session
    return None


def _key(service: Service, headers: Headers, path: str) -> tuple[str | None, Session | None]:
    """The digest of the token that the request shows, itself or by its session."""
    if path.startswith(API):
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return (digest(token.strip()) if scheme.lower() == "bearer" and token.strip() else None), None
    session = service.sessions.of(cookie_of(headers))
    return (session.token_digest if session else None), session


def who_of(scope: Scope) -> Who:
    who: Who = scope["trainmaster.who"]
    return who


def session_of(scope: Scope) -> Session:
    session: Session = scope["trainmaster.session"]
    return session


def cookie_of(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _host(header: str) -> str:
    """Without the port: `localhost:8080`, `[::1]:8080`."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.rpartition(":")[0] or header


def _unknown(scope: Scope) -> Response:
    if scope["path"].startswith(API):
        return JSONResponse({"error": "unauthorized"}, 401, {"www-authenticate": "Bearer"})
    return RedirectResponse(LOGIN, 303)


def _busy(scope: Scope, wait_s: float) -> Response:
    return _no(scope, 429, "too many requests", {"retry-after": str(math.ceil(wait_s))})


def _no(scope: Scope, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    if scope["path"].startswith(API):
        return JSONResponse({"error": message}, status, headers)
    return PlainTextResponse(message + "\n", status, headers)
