"""The cluster: status, nodes, queues, policy, configuration."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from trainmaster.live.control import PolicyRecord
from trainmaster.live.http.access import ADMIN, OPERATOR, Caller
from trainmaster.live.http.answers import answer, committed
from trainmaster.live.http.schemas import Changed, Drain, Nodes, PolicyChange, Queues, Status

router = APIRouter(tags=["cluster"])

NodeName = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f/\\]+$")]


@router.get("/status")
def status(caller: Caller) -> Status:
    return Status(**caller.control.status())


@router.get("/nodes", response_model=Nodes)
def nodes(caller: Caller) -> Response:
    return answer(Nodes, Nodes(caller.nodes()))


@router.post("/nodes/{name}/drain", status_code=204, dependencies=[OPERATOR])
async def drain(name: NodeName, what: Drain, caller: Caller) -> Response:
    """Nothing new starts there; what runs there goes on."""
    await committed(caller.control.drain(name, what.reason, caller.who.user), caller.settings.answer_timeout_s)
    return Response(status_code=204)


@router.post("/nodes/{name}/resume", status_code=204, dependencies=[OPERATOR])
async def resume(name: NodeName, caller: Caller) -> Response:
    await committed(caller.control.resume_node(name, caller.who.user), caller.settings.answer_timeout_s)
    return Response(status_code=204)


@router.get("/queues", response_model=Queues)
def queues(caller: Caller) -> Response:
    return answer(Queues, Queues(caller.control.queues()))


@router.get("/policy", response_model=PolicyRecord)
def policy(caller: Caller) -> Response:
    return answer(PolicyRecord, caller.control.policy())


@router.put("/policy", response_model=PolicyRecord, dependencies=[OPERATOR])
async def set_policy(change: PolicyChange, caller: Caller) -> Response:
    future = caller.control.set_policy(change.name, change.settings, caller.who.user)
    return answer(PolicyRecord, await committed(future, caller.settings.answer_timeout_s))


@router.post("/reload", response_model=Changed, dependencies=[ADMIN])
async def reload(caller: Caller) -> Response:
    """Read the configuration file again."""
    return answer(Changed, Changed(await committed(caller.control.reload(caller.who.user), caller.settings.answer_timeout_s)))
