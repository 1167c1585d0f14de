"""The live state forked into the twin, with something changed."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from trainmaster.errors import TrainmasterError
from trainmaster.live.http.access import Caller
from trainmaster.live.http.answers import answer
from trainmaster.live.http.schemas import WhatIf, WhatIfAnswer

router = APIRouter(tags=["whatif"])


@router.post("/whatif", response_model=WhatIfAnswer)
async def whatif(what: WhatIf, request: Request, caller: Caller) -> Response:
    """A column a scenario. It changes nothing, so that everybody may; a few at a time."""
    for column in what.scenarios:
        if column.job is not None:
            await run_in_threadpool(caller.job, column.job)
    state = request.app.state
    if state.whatifs >= state.settings.max_whatifs:
        raise TrainmasterError(f"{state.whatifs} what-ifs are being simulated; try again in a moment")
    state.whatifs += 1
    try:
        told = await run_in_threadpool(caller.control.whatif, [column.scenario() for column in what.scenarios])
    finally:
        state.whatifs -= 1
    return answer(WhatIfAnswer, WhatIfAnswer(**told))
