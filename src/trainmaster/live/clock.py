"""Unix time that only goes forward: anchored once, then counted by the monotonic clock, so that setting the machine's clock ends no job."""

from __future__ import annotations

import time


class WallClock:
    def __init__(self) -> None:
        self._anchor_s = time.time() - time.monotonic()

    def __call__(self) -> float:
        return self._anchor_s + time.monotonic()
