"""A cluster that is not there: nodes and attempts that only take time. For the controller at a size that nobody has at hand.

    SimulatedBackend(nodes, run_s=lambda attempt: 60.0)

It keeps the promises of a backend (verbs may be repeated, an attempt is known by job and number) and believes nothing it is told: an
accelerator that is given twice, or two attempts of a job at once, is an InvariantBroken. Every job checkpoints when it is asked to
stop and goes on from there; a node that is lost takes what ran since with it.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainmaster.cluster.cluster import Node
from trainmaster.errors import BackendError, InvariantBroken
from trainmaster.live.backends.base import Attempt, Capabilities, NodeSeen, Observation, Seen
from trainmaster.live.logs import LogsHere

Key = tuple[int, int]
GONE = frozenset({Seen.ENDED, Seen.LOST})
ROUNDING = 1e-9  # of GPUs


@dataclass(slots=True, eq=False)
class Running:
    attempt: Attempt
    left_s: float  # of its work, when it begins
    seen: Observation
    stop_s: float = float("inf")  # when it will have stopped


class SimulatedBackend:
    name = "simulated"
    capabilities = Capabilities(pin_gpus=True, pin_nodes=True, share=True)

    def __init__(self, nodes: Iterable[Node], run_s: Callable[[Attempt], float], *, clock: Callable[[], float], start_s: float = 0.2,
                 stop_s: float = 1.0, wakes: bool = True) -> None:  # fmt: skip
        """`run_s`: how long a job takes; `start_s`, `stop_s`: until it runs, until it has stopped; `wakes`: `clock` is the wall's, and
        the controller is woken when something happens (else whoever moves the clock has it look)."""
        self._nodes = {str(node.name): NodeSeen(name=str(node.name), node=node) for node in nodes}
        self._run_s, self._clock, self._start_s, self._stop_s, self._wakes = run_s, clock, start_s, stop_s, wakes
        self._held: dict[tuple[str, int], float] = defaultdict(float)  # share of each accelerator that is held
        self._there: dict[Key, Running] = {}
        self._seen: dict[Key, Observation] = {}
        self._live: dict[int, int] = {}  # job -> its attempt that has not ended
        self._newest: dict[int, int] = {}
        self._done_s: dict[int, float] = {}  # saved in checkpoints, of jobs that were stopped
        self._due: list[tuple[float, Key]] = []
        self._work = threading.Condition(threading.RLock())
        self._closing = False
        self._thread: threading.Thread | None = None
        self.ended: Counter[int] = Counter()  # of each job, the attempts that ended by themselves
        self.lags_s: list[float] = []  # from an attempt's end until the controller had written it down

    def open(self, wake: Callable[[], None]) -> None:
        self._closing = False
        if self._wakes:
            self._thread = threading.Thread(target=self._ring, args=(wake,), name="simulated backend", daemon=True)
            self._thread.start()

    def close(self) -> None:
        with self._work:
            self._closing = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join()

    def inventory(self) -> list[NodeSeen]:
        with self._work:
            return list(self._nodes.values())

    def start(self, attempt: Attempt) -> None:
        key = attempt.job, attempt.attempt
        with self._work:
            self._pass_time()
            if self._newest.get(attempt.job, 0) >= attempt.attempt:
                return  # it was told before
            if attempt.job in self._live:
                raise InvariantBroken(f"job {attempt.job}: attempt {attempt.attempt} while {self._live[attempt.job]} has not ended")
            self._newest[attempt.job] = attempt.attempt
            self._live[attempt.job] = attempt.attempt
            for share in attempt.shares:
                if len(share.devices) != (1 if 0 < share.gpus < 1 else share.gpus):
                    raise InvariantBroken(f"job {attempt.job}: {share.gpus:g} GPUs of {share.node}, as {share.devices}")
            self._hold(attempt, +1)
            left_s = max(self._run_s(attempt) - self._done_s.get(attempt.job, 0.0), 0.0)
            self._there[key] = Running(attempt, left_s, Observation(job=attempt.job, attempt=attempt.attempt, seen=Seen.STARTING))
            self._seen[key] = self._there[key].seen
            if down := next((share.node for share in attempt.shares if not self._nodes[share.node].up), None):
                self._end(self._there[key], Seen.LOST, self._clock(), message=f"{down} is down")
            else:
                self._at(self._clock() + self._start_s, key)

    def stop(self, job: int, attempt: int, *, grace_s: float, reason: str) -> None:
        with self._work:
            self._pass_time()
            running = self._there.get((job, attempt))
            if running is None or running.seen.seen in GONE or running.seen.asked_to_stop:
                return
            running.stop_s = self._clock() + min(self._stop_s, grace_s)
            self._see(running, seen=Seen.DRAINING, asked_to_stop=True)
            self._at(running.stop_s, (job, attempt))

    def signal(self, job: int, attempt: int, number: int, *, batch_only: bool = False) -> None:
        """There is nobody to hear it."""

    def observe(self) -> list[Observation]:
        with self._work:
            self._pass_time()
            return list(self._seen.values())

    def forget(self, job: int, attempt: int) -> None:
        with self._work:
            running = self._there.get((job, attempt))
            if running is None:
                return
            if running.seen.seen not in GONE:
                raise BackendError(f"attempt {attempt} of job {job} has not ended: it cannot be forgotten")
            self.lags_s.append(self._clock() - (running.seen.ended_s or 0.0))
            del self._there[job, attempt], self._seen[job, attempt]

    def logs(self, job: int, attempt: int, user: str) -> LogsHere:
        return LogsHere({})

    def shell(self, job: int, attempt: int) -> Sequence[str]:
        raise BackendError("simulated jobs have no processes: there is nothing to enter")

    def report(self) -> dict[str, Any]:
        return {"attempts": len(self._live)}

    # -- what befalls it -------------------------------------------------------------------------------------------------------------

    def lose(self, node: str) -> None:
        """A node goes down with all that has a part there."""
        with self._work:
            self._pass_time()
            self._nodes[node] = replace(self._nodes[node], up=False, reason="lost")
            for job, attempt in list(self._live.items()):
                running = self._there[job, attempt]
                if any(share.node == node for share in running.attempt.shares):
                    self._end(running, Seen.LOST, self._clock(), message=f"{node} was lost")

    def repair(self, node: str) -> None:
        with self._work:
            self._nodes[node] = replace(self._nodes[node], up=True, reason="")

    # -- time ------------------------------------------------------------------------------------------------------------------------

    def _at(self, time_s: float, key: Key) -> None:
        heapq.heappush(self._due, (time_s, key))
        if self._due[0][1] == key:
            self._work.notify()

    def _pass_time(self) -> bool:
        """All that has happened by now, in its order; whether anything has."""
        happened, now_s = False, self._clock()
        while self._due and self._due[0][0] <= now_s:
            at_s, key = heapq.heappop(self._due)
            running = self._there.get(key)
            if running is None or running.seen.seen in GONE:
                continue
            happened = True
            started_s = running.seen.started_s
            if running.stop_s <= at_s:
                if started_s is not None:
                    self._done_s[key[0]] = self._done_s.get(key[0], 0.0) + at_s - started_s
                self._end(running, Seen.ENDED, at_s, exit_code=0 if started_s is not None else 143, acknowledged=started_s is not None)
            elif started_s is None:
                if not running.seen.asked_to_stop:
                    self._see(running, seen=Seen.RUNNING, started_s=at_s, checkpointed=True)
                    self._at(at_s + running.left_s, key)
            else:
                self.ended[key[0]] += 1
                self._end(running, Seen.ENDED, at_s, exit_code=0)
        return happened

    def _ring(self, wake: Callable[[], None]) -> None:
        while True:
            with self._work:
                if self._closing:
                    return
                if not (happened := self._pass_time()):
                    self._work.wait(self._due[0][0] - self._clock() if self._due else None)
            if happened:
                wake()

    def _end(self, running: Running, seen: Seen, at_s: float, **more: Any) -> None:
        del self._live[running.attempt.job]
        self._hold(running.attempt, -1)
        self._see(running, seen=seen, ended_s=at_s, **more)

    def _see(self, running: Running, **changed: Any) -> None:
        running.seen = replace(running.seen, **changed)
        self._seen[running.attempt.job, running.attempt.attempt] = running.seen

    def _hold(self, attempt: Attempt, sign: int) -> None:
        for share in attempt.shares:
            for device in share.devices:
                self._held[share.node, device] += sign * min(share.gpus, 1.0)
                if not -ROUNDING <= self._held[share.node, device] <= 1.0 + ROUNDING or device >= self._nodes[share.node].node.gpus:
                    raise InvariantBroken(f"job {attempt.job}: {self._held[share.node, device]:g} of {share.node}:{device} is held")
