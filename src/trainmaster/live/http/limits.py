"""How much a caller may ask: token buckets by caller, and request bodies read whole, within bounds, before anything parses them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable

from starlette.types import Message, Receive, Scope

KEPT = 10_000  # callers remembered; the one that was quiet longest is forgotten


class Buckets:
    """A bucket a caller: it holds `burst` requests and refills by `rate` a second."""

    def __init__(self, rate: float, burst: int, clock_s: Callable[[], float]) -> None:
        self.rate, self.burst, self.clock_s = rate, burst, clock_s
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # caller -> (requests left, when)

    def wait_s(self, caller: Hashable) -> float:
        """0 = go, and one request is taken; else seconds until there is one."""
        now_s = self.clock_s()
        left, then_s = self._levels.pop(caller, (float(self.burst), now_s))
        left = min(self.burst, left + (now_s - then_s) * self.rate)
        wait_s = 0.0 if left >= 1 else (1 - left) / self.rate
        self._levels[caller] = (left - (wait_s == 0), now_s)
        if len(self._levels) > KEPT:
            self._levels.popitem(last=False)
        return wait_s


class TooLarge(Exception):
    pass


class TooSlow(Exception):
    pass


class HungUp(Exception):
    """Half a request is none, even if that half can be read."""


async def bounded_body(scope: Scope, receive: Receive, max_bytes: int, timeout_s: float) -> Receive:
    """Reads the body; the receive that hands it out again, and then what the connection says."""
    declared = dict(scope["headers"]).get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise TooLarge
    chunks, size, more = [], 0, True
    try:
        async with asyncio.timeout(timeout_s):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise HungUp
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > max_bytes:
                    raise TooLarge
                more = message.get("more_body", False)
    except TimeoutError:
        raise TooSlow from None
    whole: list[Message] = [{"type": "http.request", "body": b"".join(chunks), "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again
