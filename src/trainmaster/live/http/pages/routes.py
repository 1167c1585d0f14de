"""What a browser may open: the cluster and its queue, one job and its log, the API's document; the login, and the buttons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from trainmaster.errors import BackendError, Forbidden, NotFound
from trainmaster.live.control import JobFilter, JobRecord, NodeRecord
from trainmaster.live.http.access import OPERATOR, SUBMITTER, Access, Caller
from trainmaster.live.http.answers import committed
from trainmaster.live.http.gate import cookie_of, session_of
from trainmaster.live.http.pages.render import STATIC, page, static
from trainmaster.live.http.routes.cluster import NodeName
from trainmaster.live.http.routes.jobs import JobId, verbs_of
from trainmaster.live.http.routes.logs import AttemptNumber, Rank, log_answer
from trainmaster.live.http.schemas import LARGEST_ID, Verb
from trainmaster.live.http.service import service_of
from trainmaster.live.http.sessions import COOKIE, SESSION_S
from trainmaster.live.logs import Log
from trainmaster.live.spec import Word
from trainmaster.live.states import ENDED, State

WAITING = (State.PENDING, State.SUSPENDED, State.RECOVERING)
ACTIVE = tuple(state for state in State if state not in ENDED and state not in WAITING)
ROWS = 200  # of waiting jobs on a page; if these are all, in the order in which they start
MAX_ACTIVE, MAX_NODES, MAX_CELLS = 500, 128, 16
RECENT_S, RECENT_LOOKED_AT, RECENT = 600.0, 2_000, 10  # ended jobs
MAX_EVENTS, LOG_LINES = 1_000, 1_000
BUTTONS: dict[State, tuple[str, ...]] = {
    State.PENDING: ("hold", "cancel"),
    State.RUNNING: ("suspend", "requeue", "cancel"),
    State.SUSPENDED: ("resume", "cancel"),
    **dict.fromkeys((State.STARTING, State.RECOVERING, State.PREEMPTING, State.RESIZING), ("cancel",)),
}

router = APIRouter(include_in_schema=False)


# ------------------------------------------------------------------------------------------------- pages


@router.get("/")
def overview(
    request: Request,
    caller: Caller,
    after: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0,
    user: Annotated[Word | None, Query()] = None,
    queue: Annotated[Word | None, Query()] = None,
) -> Response:
    which = JobFilter(users=(user,) if user else (), queues=(queue,) if queue else ())
    waiting = caller.jobs(replace(which, states=WAITING, limit=ROWS + 1, after_id=after))
    whole = not after and len(waiting) <= ROWS
    if whole:
        waiting.sort(key=lambda record: (record.place is None, record.place, record.id))
    nodes, chosen = caller.nodes(), {"user": user, "queue": queue}
    return page(
        "overview.html", **_common(request, caller), status=caller.control.status(), queues=caller.control.queues(),
        nodes=[(node, _cells(node)) for node in nodes[:MAX_NODES]], nodes_left_out=max(0, len(nodes) - MAX_NODES),
        active=[] if after else caller.jobs(replace(which, states=ACTIVE, limit=MAX_ACTIVE)), waiting=waiting[:ROWS], after=after,
        next=_link(chosen, waiting[ROWS - 1].id) if len(waiting) > ROWS else None, first=_link(chosen), chosen=chosen, whole=whole,
        recent=_recent(caller, which, service_of(request).auth.now()),
    )  # fmt: skip


async def _ranks(id: JobId, caller: Caller, attempt: AttemptNumber = None) -> tuple[list[str], str]:
    """Those that have a log; or why nobody can say."""
    if not (attempts := (await run_in_threadpool(caller.job, id)).attempts):
        return [], ""
    try:
        return list(await (await run_in_threadpool(caller.control.logs, id, attempt)).sizes()), ""
    except (BackendError, NotFound) as problem:
        if attempt is not None and attempt > attempts:
            raise
        return [], str(problem)


@router.get("/jobs/{id}")
def job(
    id: JobId, request: Request, caller: Caller, logs: Annotated[tuple[list[str], str], Depends(_ranks)],
    rank: Annotated[str, Query(max_length=32)] = "0", attempt: AttemptNumber = None,
) -> Response:  # fmt: skip
    record, control = caller.job(id), caller.control
    touched = caller.who.role.operates or (caller.who.role.submits and record.user == caller.who.user)
    held = record.state is State.PENDING and record.reason == "held"
    return page(
        "job.html", **_common(request, caller), job=record, spec=caller.spec(id), why=None if record.state.ended else caller.why(id),
        attempts=control.attempts(id)[::-1], events=control.events(job=id, limit=MAX_EVENTS)[::-1], rank=rank, attempt=attempt,
        ranks=logs[0], log_trouble=logs[1],
        buttons=(("release", "cancel") if held else BUTTONS.get(record.state, ())) if touched else (),
    )  # fmt: skip


@router.get("/jobs/{id}/log")
async def log(id: JobId, request: Request, caller: Caller, rank: Rank = "0", attempt: AttemptNumber = None) -> Response:
    """The end of it, and what is added."""
    return await log_answer(request, caller, id, rank, attempt, True, partial(_last_lines, LOG_LINES))


@router.get("/docs")
def documentation(request: Request, caller: Caller) -> Response:
    """The OpenAPI document, to be read."""
    document = request.app.openapi()
    operations = [
        Operation(method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return page("docs.html", **_common(request, caller), operations=operations, schemas=document["components"]["schemas"])


@router.get("/static/{name}")
async def asset(name: str) -> Response:
    if name not in STATIC:
        raise NotFound("not found")
    return Response(static(name), media_type=STATIC[name], headers={"cache-control": "max-age=3600"})


# ------------------------------------------------------------------------------------------------- login and buttons


@router.get("/login")
async def login_page(request: Request, code: Annotated[str, Query(max_length=200)] = "") -> Response:
    service = service_of(request)
    if not code:
        return page("login.html", refused=False)
    key = service.sessions.redeem(code)
    return _logged_in(request, key) if key else page("login.html", 401, refused=True)


@router.post("/login")
async def login(request: Request) -> Response:
    form, auth = await _form(request), service_of(request).auth
    who = await run_in_threadpool(auth.who, form.get("token", "").strip())
    return _logged_in(request, who.digest) if who else page("login.html", 401, refused=True)


def _logged_in(request: Request, key: str) -> Response:
    service = service_of(request)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        COOKIE, service.sessions.begin(key), max_age=int(SESSION_S), httponly=True, samesite="strict", secure=service.settings.secure
    )
    return answer


@router.post("/logout")
async def logout(request: Request, caller: Caller) -> Response:
    await _checked_form(request)
    service_of(request).sessions.end(cookie_of(request.headers))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


@router.post("/jobs/{id}/{verb}", dependencies=[SUBMITTER])
async def press(id: JobId, verb: Verb, request: Request, caller: Caller) -> Response:
    await _checked_form(request)
    ids = await run_in_threadpool(caller.touch, [id])
    await committed(verbs_of(caller.control)[verb](ids, caller.who.user), caller.settings.answer_timeout_s)
    return RedirectResponse(f"/jobs/{id}", 303)


@router.post("/nodes/{name}/drain", dependencies=[OPERATOR])
async def drain(name: NodeName, request: Request, caller: Caller) -> Response:
    reason = (await _checked_form(request)).get("reason", "")[:200]
    await committed(caller.control.drain(name, " ".join(reason.split()), caller.who.user), caller.settings.answer_timeout_s)
    return RedirectResponse("/", 303)


@router.post("/nodes/{name}/resume", dependencies=[OPERATOR])
async def resume(name: NodeName, request: Request, caller: Caller) -> Response:
    await _checked_form(request)
    await committed(caller.control.resume_node(name, caller.who.user), caller.settings.answer_timeout_s)
    return RedirectResponse("/", 303)


async def _form(request: Request) -> dict[str, str]:
    """Of this site's own pages: a browser says where a form was sent from."""
    origin = request.headers.get("origin")
    try:
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise Forbidden("this form was not sent from here")
        fields = parse_qs((await request.body()).decode("ascii"), max_num_fields=10)
    except ValueError:
        raise Forbidden("this is not a form of ours") from None
    return {name: values[0] for name, values in fields.items()}


async def _checked_form(request: Request) -> dict[str, str]:
    form = await _form(request)
    if not session_of(request.scope).allows(form.get("csrf", "")):
        raise Forbidden("this page is from an earlier login: load it again")
    return form


# ------------------------------------------------------------------------------------------------- what pages show


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    described: dict[str, Any]


def _common(request: Request, caller: Access) -> dict[str, Any]:
    service = service_of(request)
    return {"who": caller.who, "csrf": session_of(request.scope).csrf, "now_s": service.auth.now(), "url": str(request.url.path)}


def _cells(node: NodeRecord) -> list[str]:
    """A word a GPU; for a node of very many, a word for so many each."""
    shown = min(node.gpus, MAX_CELLS)
    scale = shown / node.gpus if node.gpus else 0.0
    if node.state == "down":
        return ["down"] * shown
    others = round(node.others_gpus * scale)
    used = (node.gpus - node.free_gpus - node.others_gpus) * scale
    whole = min(shown, int(used + 1e-9))
    part = int(used - whole > 1e-9 and whole < shown)
    words = ["used"] * whole + ["part"] * part + ["others"] * others
    return (words + ["drained" if node.state in ("drained", "draining") else "free"] * (shown - len(words)))[:shown]


def _recent(caller: Access, which: JobFilter, now_s: float) -> list[JobRecord]:
    found = caller.jobs(replace(which, states=tuple(ENDED), since_s=now_s - RECENT_S, limit=RECENT_LOOKED_AT))
    return sorted(found, key=lambda record: -(record.finish_s or 0.0))[:RECENT]


def _link(chosen: dict[str, str | None], after: int | None = None) -> str:
    return "/?" + urlencode({name: value for name, value in {**chosen, "after": after}.items() if value})


async def _last_lines(lines: int, log: Log | None) -> int:
    return 0 if log is None else await log.tail_offset(lines)
