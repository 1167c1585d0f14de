"""When slurmctld looks at its queue: its main scheduler and backfill are two threads that wake by themselves, neither at an event.

slurm.conf(5), release 22.05: SchedulerParameters. What is in hand is in a policy's memory, so that it is saved with it.

    main       what has come and ended is seen at a tick of one second (the ten naps of a tenth in slurmctld's background loop),
               batch_sched_delay after the look before at the earliest. Where an Epilog is set, the node's message that it is over calls it
               at once, unless `defer`: without one, a node has nothing left to tell once it is asked to clear up after the job
    backfill   sleeps bf_interval after each cycle. While somebody waits a cycle gives work to the next, as it plans nodes; with nobody in
               the queue and no news it asks again every tick
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

SLACK = 1e-6  # of a tick: times that are added up do not meet to the last digit


class Clock(Protocol):
    """Times in seconds; all say the first time from now on."""

    def look_s(self, memory: dict[str, Any], now_s: float, ended: bool) -> float:
        """When the main scheduler sees what has happened by now; `ended`: among it, that a job ended."""

    def cycle_s(self, memory: dict[str, Any], now_s: float) -> float:
        """When backfill does; inf = never."""

    def come(self, at_s: float, now_s: float) -> bool:
        """Whether it is that time."""

    def looked(self, memory: dict[str, Any], now_s: float) -> None:
        """The main scheduler did."""


def no_news() -> dict[str, Any]:
    """
    looked_s, ticked_s      the last look of the main scheduler, the last one at a tick
    called_s                when a job that has ended calls for a look
    cycle_s                 the last cycle of backfill
    queued, changed         whether somebody waited after it; whether anything has happened since
    """
    return {"looked_s": -np.inf, "ticked_s": -np.inf, "called_s": np.inf, "cycle_s": -np.inf, "queued": False, "changed": False}


@dataclass(frozen=True, slots=True)
class EvenClock:
    """Ticks and cycles of the same length."""

    tick_s: float
    delay_s: float  # batch_sched_delay
    apart_s: float  # sched_min_interval
    at_once: bool  # a job that ends calls the main scheduler
    interval_s: float  # bf_interval; inf = no backfill
    from_s: float = 0.0  # a tick
    cycles_from_s: float = -np.inf  # a cycle that comes before all others; -inf = the first is at a tick

    def look_s(self, memory: dict[str, Any], now_s: float, ended: bool) -> float:
        free_s = memory["looked_s"] + self.apart_s
        if ended and self.at_once:
            memory["called_s"] = max(now_s, free_s)
        return min(memory["called_s"], self._tick_s(max(now_s, free_s, memory["ticked_s"] + self.delay_s)))

    def looked(self, memory: dict[str, Any], now_s: float) -> None:
        if not self.come(memory["called_s"], now_s):
            memory["ticked_s"] = now_s
        memory["looked_s"], memory["called_s"] = now_s, np.inf

    def cycle_s(self, memory: dict[str, Any], now_s: float) -> float:
        if self.interval_s == np.inf:
            return np.inf
        due_s = float(memory["cycle_s"] + self.interval_s) if memory["cycle_s"] > -np.inf else self.cycles_from_s
        if not self.come(now_s, due_s):
            if memory["queued"]:
                due_s += upwards(now_s - due_s, self.interval_s)
            else:
                due_s += self.interval_s if memory["changed"] else 0.0
                due_s = due_s if self.come(now_s, due_s) else self._tick_s(now_s)
            memory["cycle_s"], memory["changed"] = due_s - self.interval_s, False  # cycles that found nothing to do
        return due_s

    def come(self, at_s: float, now_s: float) -> bool:
        return at_s <= now_s + SLACK * self.tick_s

    def _tick_s(self, at_s: float) -> float:
        return self.from_s + upwards(at_s - self.from_s, self.tick_s)


def upwards(at_s: float, step_s: float) -> float:
    """The next multiple of a step."""
    return float(np.ceil(at_s / step_s - SLACK) * step_s)
