"""Who asks: tokens of 256 random bits, shown once and stored as their SHA-256, and the four roles.

    viewer    sees everything, changes nothing
    user      submits; sees and touches the jobs of its own name
    operator  and any job, the nodes and the policy
    admin     and tokens, the configuration, submission for another

A hash without salt is enough: there is no dictionary of 256-bit numbers. A token is never compared, its hash is looked up: who cannot
choose the hash learns nothing from the time that takes.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

PREFIX = "tm_"  # so that scanners for leaked secrets can know one
FRESH_S = 10.0  # a token revoked behind our back (in the database itself) works this long at most
KNOWN = 10_000  # tokens kept in memory
LONGEST = 200  # characters of a token that are looked at


class Role(enum.Enum):
    VIEWER = "viewer"
    USER = "user"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def sees_all(self) -> bool:
        return self is not Role.USER

    @property
    def submits(self) -> bool:
        return self is not Role.VIEWER

    @property
    def operates(self) -> bool:
        return self in (Role.OPERATOR, Role.ADMIN)

    @property
    def administers(self) -> bool:
        return self is Role.ADMIN

    def may_all_of(self, other: Role) -> bool:
        return LADDER.index(self) >= LADDER.index(other)


LADDER = tuple(Role)


class TokenRow(Protocol):
    """A token as the store has it. Times are Unix seconds."""

    @property
    def id(self) -> int: ...
    @property
    def user(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def created_s(self) -> float: ...
    @property
    def expires_s(self) -> float | None: ...
    @property
    def revoked_s(self) -> float | None: ...


class TokenTable(Protocol):
    """The part of the store that is needed here. Called from several threads."""

    def add_token(self, hash: str, user: str, role: str, name: str, expires_s: float | None) -> int: ...
    def find_token(self, hash: str, /) -> TokenRow | None:
        """One that still holds."""

    def tokens(self) -> Sequence[TokenRow]:
        """All, those that were revoked too."""

    def revoke(self, id: int, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Who:
    token_id: int
    digest: str
    user: str
    role: Role
    expires_s: float | None


class Authenticator:
    """`now` is Unix time."""

    def __init__(self, table: TokenTable, now: Callable[[], float]) -> None:
        self.table, self.now = table, now
        self._known: OrderedDict[str, tuple[Who, float]] = OrderedDict()  # digest -> who, and until when we believe it

    def issue(self, user: str, role: Role, name: str, expires_s: float | None = None) -> tuple[int, str]:
        """(id, the token): the only time that it is seen."""
        token = PREFIX + secrets.token_urlsafe(32)
        return self.table.add_token(digest(token), user, role.value, name, expires_s), token

    def revoke(self, id: int) -> None:
        self.table.revoke(id)
        for known, (who, _) in list(self._known.items()):
            if who.token_id == id:
                self._known.pop(known, None)

    def remembered(self, key: str) -> Who | None:
        """Who has the token of this digest, if that was looked up a moment ago."""
        now_s = self.now()
        who, until_s = self._known.get(key, (None, 0.0))
        return who if who is not None and now_s < until_s and not expired(who.expires_s, now_s) else None

    def was_known(self, key: str) -> bool:
        """When it was looked up last. It is again for as long as it is."""
        return key in self._known

    def look_up(self, key: str) -> Who | None:
        """The same from the table."""
        row, now_s = self.table.find_token(key), self.now()
        if row is None or expired(row.expires_s, now_s):
            self._known.pop(key, None)
            return None
        who = Who(row.id, key, row.user, Role(row.role), row.expires_s)
        self._known[key] = (who, now_s + FRESH_S)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return who

    def who(self, token: str) -> Who | None:
        key = digest(token)
        return self.remembered(key) or self.look_up(key)


def digest(token: str) -> str:
    return hashlib.sha256(token[:LONGEST].encode("utf-8", "surrogateescape")).hexdigest()


def expired(expires_s: float | None, now_s: float) -> bool:
    return expires_s is not None and now_s >= expires_s
