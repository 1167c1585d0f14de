"""Tokens in memory, and a server made of the real application and a fake control plane, spoken to without a socket."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient

from live.fake_control import FakeControl
from trainmaster.live.http.app import make_app
from trainmaster.live.http.auth import Authenticator, Role
from trainmaster.live.http.service import Service
from trainmaster.live.http.settings import Settings

API = "/api/v1"


@dataclass(frozen=True, slots=True)
class Row:
    id: int
    user: str
    role: str
    name: str
    created_s: float
    expires_s: float | None
    revoked_s: float | None = None


class FakeTokens:
    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.hashes: dict[str, int] = {}
        self.looked_up = 0
        self._ids = itertools.count(1)

    def add_token(self, hash: str, user: str, role: str, name: str, expires_s: float | None) -> int:
        id = next(self._ids)
        self.rows[id], self.hashes[hash] = Row(id, user, role, name, 0.0, expires_s), id
        return id

    def find_token(self, hash: str) -> Row | None:
        self.looked_up += 1
        row = self.rows.get(self.hashes.get(hash, 0))
        return row if row is not None and row.revoked_s is None else None

    def tokens(self) -> list[Row]:
        return list(self.rows.values())

    def revoke(self, id: int) -> bool:
        held = id in self.rows and self.rows[id].revoked_s is None
        if held:
            self.rows[id] = replace(self.rows[id], revoked_s=1.0)
        return held


@cache
def an_app() -> FastAPI:
    """One for all tests, a third of a second to make; what it serves is handed to it by each."""
    control = FakeControl(Path("/nonexistent"))
    return make_app(control, Authenticator(FakeTokens(), lambda: control.now_s))


class Served:
    """`as_("ana")` speaks with a token of hers; roles other than user by name of the role."""

    def __init__(self, folder: Path, settings: Settings | None = None, *, own_app: bool = False, **cluster: Any) -> None:
        self.control = FakeControl(folder / "logs", **cluster)
        self.tokens, self.now_s = FakeTokens(), self.control.now_s
        self.auth = Authenticator(self.tokens, lambda: self.now_s)
        self.app, self.settings = an_app.__wrapped__() if own_app else an_app(), settings or Settings()
        self.service = Service(self.control, self.auth, self.settings)
        self.issued: dict[str, str] = {}

    def token(self, user: str) -> str:
        if user not in self.issued:
            role = Role(user) if user in {role.value for role in Role} else Role.USER
            self.issued[user] = self.auth.issue(user, role, "test")[1]
        return self.issued[user]

    def client(self, headers: dict[str, str]) -> httpx.Client:
        self.app.state.service = self.service
        return TestClient(self.app, base_url="http://127.0.0.1:8265", headers=headers, follow_redirects=False)

    def as_(self, user: str | None) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.token(user)}"} if user is not None else {}
        return self.client(headers)

    def browser(self, user: str) -> httpx.Client:
        """Logged in."""
        client = self.client({})
        assert client.post("/login", data={"token": self.token(user)}).status_code == 303
        return client

    def submit(self, user: str, **fields: Any) -> int:
        answer = self.as_(user).post(f"{API}/jobs", json={"command": ["true"], **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]
