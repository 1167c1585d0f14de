"""The cluster: status, nodes, queues, policy, configuration."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from trainmaster.live.control import PolicyRecord
from trainmaster.live.http.access import ADMIN, OPERATOR, Caller
from trainmaster.live.http.answers import committed
from trainmaster.live.http.schemas import Changed, Drain, Nodes, PolicyChange, Queues, Status
from trainmaster.live.http.strict_json import StrictRoute

router = APIRouter(tags=["cluster"], route_class=StrictRoute)

NodeName = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f/\\]+$")]


@router.get("/status")
def status(caller: Caller) -> Status:
    return Status(**caller.status())


@router.get("/nodes")
def nodes(caller: Caller) -> Nodes:
    return Nodes(caller.nodes())


@router.post("/nodes/{name}/drain", status_code=204, dependencies=[OPERATOR])
async def drain(name: NodeName, what: Drain, caller: Caller) -> None:
    """Nothing new starts there; what runs there goes on."""
    await committed(caller.control.drain(name, what.reason, caller.who.user), caller.settings.answer_timeout_s)


@router.post("/nodes/{name}/resume", status_code=204, dependencies=[OPERATOR])
async def resume(name: NodeName, caller: Caller) -> None:
    await committed(caller.control.resume_node(name, caller.who.user), caller.settings.answer_timeout_s)


@router.get("/queues")
def queues(caller: Caller) -> Queues:
    return Queues(caller.control.queues())


@router.get("/policy")
def policy(caller: Caller) -> PolicyRecord:
    return caller.control.policy()


@router.put("/policy", dependencies=[OPERATOR])
async def set_policy(change: PolicyChange, caller: Caller) -> PolicyRecord:
    future = caller.control.set_policy(change.name, change.settings, caller.who.user)
    return await committed(future, caller.settings.answer_timeout_s)


@router.post("/reload", dependencies=[ADMIN])
async def reload(caller: Caller) -> Changed:
    """Read the configuration file again."""
    return Changed(await committed(caller.control.reload(caller.who.user), caller.settings.answer_timeout_s))
