"""Logs in a user's home, read by the user's own process (slurm_agent): a range a request, and nothing of it kept here.

What such a process answers is a user's word. It is shown to who may see that user's logs, and nothing else is made of it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable
from typing import Literal, Protocol

from trainmaster.errors import BackendError
from trainmaster.live.backends.slurm_agent import LOGS, Reply
from trainmaster.live.logs import CHUNK, About

RANK = re.compile(r"[A-Za-z0-9_.-]{1,32}")
LARGEST = 1 << 62
SENSELESS = "the user's process says what cannot be understood of a log"


class Ask(Protocol):
    def __call__(
        self, verb: Literal["sizes", "tail", "read"], *, rank: str = "", offset: int = 0, most: int = 0, lines: int = 0
    ) -> Awaitable[Reply]: ...


class UserLogs:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def sizes(self) -> dict[str, int]:
        told = (await self._ask("sizes")).sizes
        if len(told) > LOGS:
            raise BackendError(SENSELESS)
        return {rank: size for rank, size in told.items() if RANK.fullmatch(rank) and 0 <= size < LARGEST}

    async def open(self, rank: str) -> UserLog | None:
        return UserLog(self._ask, rank) if rank in await self.sizes() else None


class UserLog:
    def __init__(self, ask: Ask, rank: str) -> None:
        self._ask, self._rank = ask, rank

    async def about(self) -> About:
        reply = await self._ask("read", rank=self._rank)
        return About(reply.which, _number(reply.size))

    async def tail_offset(self, lines: int) -> int:
        return _number((await self._ask("tail", rank=self._rank, lines=lines)).next)

    async def read(self, offset: int, most: int = CHUNK) -> tuple[bytes, int]:
        reply = await self._ask("read", rank=self._rank, offset=offset, most=most)
        if len(reply.data) > 4 * (most // 3 + 1):  # before it is decoded, where others wait
            raise BackendError(SENSELESS)
        try:
            data = base64.b64decode(reply.data, validate=True)
        except ValueError:
            raise BackendError(SENSELESS) from None
        if len(data) > most or _number(reply.next) < offset + len(data):
            raise BackendError(SENSELESS)
        return data, reply.next

    def close(self) -> None:
        """Nothing is held: it is opened for each read."""


def _number(told: int) -> int:
    if not 0 <= told < LARGEST:
        raise BackendError(SENSELESS)
    return told
