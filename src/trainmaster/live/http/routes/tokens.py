"""Tokens, and who one is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from trainmaster.errors import Forbidden, NotFound
from trainmaster.live.http.access import ADMIN, Caller
from trainmaster.live.http.auth import Authenticator, Role, TokenRow
from trainmaster.live.http.schemas import LARGEST_ID, Issued, LoginCode, NewToken, Person, Token, Tokens
from trainmaster.live.http.service import service_of
from trainmaster.live.http.strict_json import StrictRoute

router = APIRouter(tags=["tokens"], route_class=StrictRoute)


@router.get("/whoami")
async def whoami(caller: Caller) -> Person:
    return Person(caller.who.user, caller.who.role)


@router.post("/login-code")
async def login_code(request: Request, caller: Caller) -> LoginCode:
    """For the status page: opens it in a browser without typing the token."""
    return LoginCode(f"/login?code={service_of(request).sessions.code(caller.who.digest)}")


@router.get("/tokens")
def tokens(request: Request, caller: Caller) -> Tokens:
    """One's own; an admin sees all."""
    return Tokens([_shown(row) for row in _visible(request, caller)])


@router.post("/tokens", status_code=201, dependencies=[ADMIN])
def issue(new: NewToken, request: Request, caller: Caller) -> Issued:
    auth: Authenticator = service_of(request).auth
    return Issued(*auth.issue(new.user, new.role, new.name, new.expires_s))


@router.delete("/tokens/{id}", status_code=204)
def revoke(id: Annotated[int, Path(ge=1, le=LARGEST_ID)], request: Request, caller: Caller) -> None:
    """It works no longer from now on. One's own, unless it may more than the one that asks: an admin's is not ended by a viewer's."""
    of = {row.id: Role(row.role) for row in _visible(request, caller) if row.revoked_s is None}
    if id not in of:
        raise NotFound(f"no token {id}")
    if not caller.who.role.may_all_of(of[id]):
        raise Forbidden(f"token {id} is {of[id].value}'s: a {caller.who.role.value}'s may not revoke it")
    service_of(request).auth.revoke(id)


def _visible(request: Request, caller: Caller) -> list[TokenRow]:
    auth: Authenticator = service_of(request).auth
    return [row for row in auth.table.tokens() if caller.who.role.administers or row.user == caller.who.user]


def _shown(row: TokenRow) -> Token:
    return Token(row.id, row.user, Role(row.role), row.name, row.created_s, row.expires_s, row.revoked_s)
