"""The jobs of a cluster over a span of time, and the trace that they make.

The trace begins with the cluster as it was: of the jobs that were there before the span, those that ran are submitted when they started,
those that waited just before the span. So a policy begins with what really ran and really waited, and only jobs submitted in the span are
measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from trainmaster.live.backends.slurm_history import Row, Rows

SETTLED_S = 120.0  # accounting hears of a start a little later


@dataclass(slots=True)
class History:
    since_s: float = math.inf  # what was there at this instant or later is known
    rows: dict[int, Row] = field(default_factory=dict)
    unreadable: int = 0
    _seen_s: dict[int, float] = field(default_factory=dict)  # when a job that runs was last in the queue

    def accounted(self, rows: Rows) -> None:
        """What sacct told."""
        self.rows.update((row.id, row) for row in rows.by_id.values() if not row.waits)
        self.unreadable = rows.unreadable

    def looked(self, rows: Rows, now_s: float) -> int:
        """What squeue told; how many of the jobs that have run for a while were new."""
        new = 0
        for row in rows.by_id.values():
            known = self.rows.get(row.id)
            if row.holds:
                self._seen_s[row.id] = now_s
                new += known is None and now_s - (row.start_s or now_s) > SETTLED_S
            if not row.waits and (row.holds or known is None or known.holds):  # of an ended job accounting knows more
                self.rows[row.id] = row
        return new

    def begin_at(self, since_s: float) -> None:
        """Forget what ended before. Whole seconds, as Slurm's times are."""
        self.since_s = since_s = math.floor(since_s)
        self.rows = {id: row for id, row in self.rows.items() if row.holds or (row.end_s or 0.0) >= since_s}
        self._seen_s = {id: at_s for id, at_s in self._seen_s.items() if id in self.rows and self.rows[id].holds}

    def trace(self, most: int | None = None) -> Trace:
        """The latest `most` of them, if there are more."""
        rows = [row for row in self._whole() if row.end_s is not None and row.start_s is not None]
        since_s = self.since_s
        if most is not None and len(rows) > most:
            rows.sort(key=lambda row: row.end_s or 0.0)
            since_s = max(since_s, rows[-most - 1].end_s or 0.0)
            rows = [row for row in rows if (row.end_s or 0.0) >= since_s]
        return Trace(since_s, [row.submitted_no_earlier(since_s) for row in rows], self.running, len(self.lost))

    @property
    def running(self) -> int:
        return sum(row.holds and row.id in self._seen_s for row in self.rows.values())

    @property
    def lost(self) -> list[int]:
        """Accounting says that they run, the queue does not know them: `sacctmgr show runaway`."""
        return [row.id for row in self.rows.values() if row.holds and row.id not in self._seen_s]

    def _whole(self) -> Iterator[Row]:
        for row in self.rows.values():
            if not row.holds:
                yield row.limited()
            elif row.id in self._seen_s:
                yield row.limited().closed(self._seen_s[row.id])


@dataclass(frozen=True, slots=True)
class Trace:
    since_s: float  # jobs submitted from here on are measured
    rows: list[Row]
    running: int  # of them, which still run
    lost: int
