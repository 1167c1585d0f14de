"""The live state forked into the twin, with something changed."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from trainmaster.live.http.access import Caller
from trainmaster.live.http.schemas import WhatIf, WhatIfAnswer
from trainmaster.live.http.service import check_place, service_of
from trainmaster.live.http.strict_json import StrictRoute

router = APIRouter(tags=["whatif"], route_class=StrictRoute)


@router.post("/whatif")
async def whatif(what: WhatIf, request: Request, caller: Caller) -> WhatIfAnswer:
    """A column a scenario. It changes nothing, so that everybody may; a few at a time."""
    for column in what.scenarios:
        if column.job is not None:
            await run_in_threadpool(caller.job, column.job)
    service = service_of(request)
    user = caller.who.user
    check_place(service.whatifs, service.settings.max_whatifs, user, "what-ifs are being simulated")
    service.whatifs[user] += 1
    try:
        told = await run_in_threadpool(caller.whatif, [column.scenario() for column in what.scenarios])
    finally:
        service.whatifs[user] -= 1
    return WhatIfAnswer(**told)
