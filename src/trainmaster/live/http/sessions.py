"""A browser's login: a one-time code for the address bar, then a cookie that scripts cannot read and other sites cannot send.

The cookie is a random number; what it stands for is kept here, in memory: after a restart of the controller, browsers log in
again. A session ends with its token. Each has a second random number that every form must carry (CSRF).
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from trainmaster.live.http.auth import digest

COOKIE = "trainmaster"
CODE_S = 600.0
SESSION_S = 12 * 3_600.0
KEPT = 1_000  # the oldest goes first


@dataclass(frozen=True, slots=True)
class Session:
    token_digest: str
    csrf: str
    until_s: float

    def allows(self, csrf: str) -> bool:
        return hmac.compare_digest(self.csrf.encode(), csrf.encode("utf-8", "replace"))


class Sessions:
    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._codes: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def code(self, token_digest: str) -> str:
        """Good once, for ten minutes: it may stand in an address, where a token must not."""
        code = secrets.token_urlsafe(24)
        self._codes[digest(code)] = (token_digest, self.now() + CODE_S)
        _trim(self._codes)
        return code

    def redeem(self, code: str) -> str | None:
        """The digest of the token that it stands for."""
        token_digest, until_s = self._codes.pop(digest(code), (None, 0.0))
        return token_digest if self.now() < until_s else None

    def begin(self, token_digest: str) -> str:
        """The cookie of a new session."""
        cookie = secrets.token_urlsafe(32)
        self._sessions[digest(cookie)] = Session(token_digest, secrets.token_urlsafe(24), self.now() + SESSION_S)
        _trim(self._sessions)
        return cookie

    def of(self, cookie: str) -> Session | None:
        session = self._sessions.get(digest(cookie))
        return session if session is not None and self.now() < session.until_s else None

    def end(self, cookie: str) -> None:
        self._sessions.pop(digest(cookie), None)


def _trim(kept: OrderedDict[str, object] | OrderedDict[str, Session] | OrderedDict[str, tuple[str, float]]) -> None:
    while len(kept) > KEPT:
        kept.popitem(last=False)
