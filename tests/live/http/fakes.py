"""Tokens in memory, and a server made of the real application and a fake control plane, spoken to without a socket."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from live.fake_control import FakeControl
from trainmaster.errors import NotFound
from trainmaster.live.http.app import make_app
from trainmaster.live.http.auth import Authenticator, Role
from trainmaster.live.http.settings import Settings

API = "/api/v1"


@dataclass(frozen=True, slots=True)
class Row:
    id: int
    hash: str
    user: str
    role: str
    name: str
    expires_s: float | None


class FakeTokens:
    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.looked_up = 0
        self._ids = itertools.count(1)

    def add_token(self, hash: str, user: str, role: str, name: str, expires_s: float | None) -> int:
        id = next(self._ids)
        self.rows[id] = Row(id, hash, user, role, name, expires_s)
        return id

    def find_token(self, hash: str) -> Row | None:
        self.looked_up += 1
        return next((row for row in self.rows.values() if row.hash == hash), None)

    def tokens(self) -> list[Row]:
        return list(self.rows.values())

    def revoke(self, id: int) -> None:
        if self.rows.pop(id, None) is None:
            raise NotFound(f"no token {id}")


class Served:
    """`as_("ana")` speaks with a token of hers; roles other than user by name of the role."""

    def __init__(self, folder: Path, settings: Settings | None = None, **cluster: Any) -> None:
        self.control = FakeControl(folder / "logs", **cluster)
        self.tokens, self.now_s = FakeTokens(), self.control.now_s
        self.auth = Authenticator(self.tokens, lambda: self.now_s)
        self.app = make_app(self.control, self.auth, settings)
        self.issued: dict[str, str] = {}

    def token(self, user: str) -> str:
        if user not in self.issued:
            role = Role(user) if user in {role.value for role in Role} else Role.USER
            self.issued[user] = self.auth.issue(user, role, "test")[1]
        return self.issued[user]

    def as_(self, user: str | None) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.token(user)}"} if user is not None else {}
        return TestClient(self.app, base_url="http://127.0.0.1:8265", headers=headers, follow_redirects=False)

    def browser(self, user: str) -> httpx.Client:
        """Logged in."""
        client = TestClient(self.app, base_url="http://127.0.0.1:8265", follow_redirects=False)
        assert client.post("/login", data={"token": self.token(user)}).status_code == 303
        return client

    def submit(self, user: str, **fields: Any) -> int:
        answer = self.as_(user).post(f"{API}/jobs", json={"command": ["true"], **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]
