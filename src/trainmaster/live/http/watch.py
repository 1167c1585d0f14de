"""Who waits for a job to end. All of them together cost one read a tick, not one each."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from trainmaster.errors import TrainmasterError
from trainmaster.live.control import ControlPlane, JobFilter

TICK_S = 0.1


class Watch:
    """Used from the event loop alone. It looks only while somebody waits."""

    def __init__(self, control: ControlPlane) -> None:
        self.control = control
        self._waiting: defaultdict[int, set[asyncio.Future[None]]] = defaultdict(set)
        self._looking: asyncio.Task[None] | None = None

    @property
    def waited_for(self) -> int:
        """Jobs."""
        return len(self._waiting)

    async def ended(self, job: int, timeout_s: float) -> None:
        """Returns when the job has ended, or when the time is up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[job].add(future)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(future, timeout_s)
        finally:
            self._waiting[job].discard(future)
            if not self._waiting[job]:
                del self._waiting[job]

    def stop(self) -> None:
        """Nobody waits any longer."""
        for future in self._futures():
            future.set_result(None)

    async def _look(self) -> None:
        while self._waiting:
            ids = tuple(self._waiting)
            try:
                found = await run_in_threadpool(self.control.jobs, JobFilter(ids=ids, all=True))
            except TrainmasterError as error:
                for future in self._futures():
                    future.set_exception(error)
                return
            for record in found:
                for future in self._futures(record.id) if record.state.ended else ():
                    future.set_result(None)
            await asyncio.sleep(TICK_S)

    def _futures(self, job: int | None = None) -> list[asyncio.Future[None]]:
        """Of one job, or all."""
        waiting = self._waiting.values() if job is None else [self._waiting.get(job, set())]
        return [future for futures in waiting for future in futures if not future.done()]
