"""The twin's executor: starting and stopping take a fixed time, and never fail."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from trainmaster.engine.handover import Parts


@dataclass(slots=True)
class SimulatedExecutor:
    """Answers that are due, in order of time. `now_s` tells the engine's time."""

    now_s: Callable[[], float]
    start_delay_s: float
    stop_delay_s: float
    coming: list[tuple[float, int, int, bool]] = field(default_factory=list)  # due, order, seq, started (else stopped)
    newest: dict[int, int] = field(default_factory=dict)  # seq -> order of what it was last told: an older start never happened
    told: int = 0

    def start(self, seq: int, parts: Parts) -> None:
        self._answer(seq, self.start_delay_s, True)

    def stop(self, seq: int) -> None:
        self._answer(seq, self.stop_delay_s, False)

    def next_s(self) -> float:
        return self.coming[0][0] if self.coming else np.inf

    def due(self) -> list[tuple[int, bool]]:
        """(seq, started) of all that happens now."""
        answers = []
        while self.coming and self.coming[0][0] <= self.now_s():
            _, order, seq, started = heapq.heappop(self.coming)
            if not started or self.newest[seq] == order:
                answers.append((seq, started))
        return answers

    def _answer(self, seq: int, delay_s: float, started: bool) -> None:
        self.told += 1
        self.newest[seq] = self.told
        heapq.heappush(self.coming, (self.now_s() + delay_s, self.told, seq, started))
