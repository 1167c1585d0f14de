"""The application: the API under /api/v1, the pages beside it, the gate in front of both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from trainmaster import __version__
from trainmaster.errors import TrainmasterError
from trainmaster.live.control import ControlPlane
from trainmaster.live.http.answers import on_bad_request, on_bug, on_http, on_trouble
from trainmaster.live.http.auth import Authenticator
from trainmaster.live.http.gate import Gate
from trainmaster.live.http.pages import routes as pages
from trainmaster.live.http.routes import cluster, jobs, logs, tokens, whatif
from trainmaster.live.http.schemas import Error
from trainmaster.live.http.service import Service
from trainmaster.live.http.settings import Settings

PREFIX = "/api/v1"
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "not a request"},
    401: {"model": Error, "description": "no token, or not a known one"},
    403: {"model": Error, "description": "your role may not do this"},
    404: {"model": Error, "description": "no such thing, or not yours"},
    409: {"model": Error, "description": "the state of the thing forbids it"},
    413: {"model": Error, "description": "too large"},
    422: {"model": Error, "description": "a field is wrong: which, and what is wrong with it"},
    429: {"model": Error, "description": "too many requests; Retry-After says when"},
    503: {"model": Error, "description": "the controller, its store or its backend cannot answer now"},
}


def make_app(control: ControlPlane, auth: Authenticator, settings: Settings | None = None) -> FastAPI:
    app = FastAPI(
        title="Trainmaster", version=__version__, openapi_url=f"{PREFIX}/openapi.json", docs_url=None, redoc_url=None, lifespan=_lifespan,
        description="The live cluster. Every request carries `Authorization: Bearer TOKEN`.",
    )  # fmt: skip
    app.state.service = Service(control, auth, settings or Settings())
    api = APIRouter(prefix=PREFIX, responses=REFUSALS)
    for subject in (jobs, logs, cluster, whatif, tokens):
        api.include_router(subject.router)
    app.include_router(api)
    app.include_router(pages.router)
    app.add_exception_handler(TrainmasterError, on_trouble)
    app.add_exception_handler(RequestValidationError, on_bad_request)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)
    app.add_middleware(Gate)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.service.stop()
