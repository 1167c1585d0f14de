"""Tokens, and who one is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from trainmaster.errors import NotFound
from trainmaster.live.http.access import ADMIN, Caller
from trainmaster.live.http.answers import answer
from trainmaster.live.http.auth import Authenticator, Role, TokenRow
from trainmaster.live.http.schemas import LARGEST_ID, Issued, LoginCode, NewToken, Person, Token, Tokens

router = APIRouter(tags=["tokens"])


@router.get("/whoami", response_model=Person)
async def whoami(caller: Caller) -> Response:
    return answer(Person, Person(caller.who.user, caller.who.role))


@router.post("/login-code", response_model=LoginCode)
async def login_code(request: Request, caller: Caller) -> Response:
    """For the status page: opens it in a browser without typing the token."""
    return answer(LoginCode, LoginCode(f"/login?code={request.app.state.sessions.code(caller.who.digest)}"))


@router.get("/tokens", response_model=Tokens)
def tokens(request: Request, caller: Caller) -> Response:
    """One's own; an admin sees all."""
    return answer(Tokens, Tokens([_shown(row) for row in _visible(request, caller)]))


@router.post("/tokens", status_code=201, response_model=Issued, dependencies=[ADMIN])
def issue(new: NewToken, request: Request, caller: Caller) -> Response:
    auth: Authenticator = request.app.state.auth
    return answer(Issued, Issued(*auth.issue(new.user, new.role, new.name, new.expires_s)), 201)


@router.delete("/tokens/{id}", status_code=204)
def revoke(id: Annotated[int, Path(ge=1, le=LARGEST_ID)], request: Request, caller: Caller) -> Response:
    """It works no longer from now on."""
    if id not in {row.id for row in _visible(request, caller)}:
        raise NotFound(f"no token {id}")
    request.app.state.auth.revoke(id)
    return Response(status_code=204)


def _visible(request: Request, caller: Caller) -> list[TokenRow]:
    auth: Authenticator = request.app.state.auth
    return [row for row in auth.table.tokens() if caller.who.role.administers or row.user == caller.who.user]


def _shown(row: TokenRow) -> Token:
    return Token(row.id, row.user, Role(row.role), row.name, row.expires_s)
