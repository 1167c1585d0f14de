"""A backend and a clock for the controller's tests: nothing runs, time passes when the test says so, faults come when it wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainmaster.cluster.cluster import Node
from trainmaster.live.backends.base import Attempt, Capabilities, NodeSeen, Observation, Seen
from trainmaster.live.logs import LogsHere


@dataclass
class Clock:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Process:
    """One attempt on the machine."""

    attempt: Attempt
    told_s: float
    runs_s: float  # how long it takes once it runs
    started_s: float | None = None
    asked: str | None = None
    asked_s: float | None = None
    ended: Observation | None = None
    step: int = 0


@dataclass
class Machine:
    """Attempts start after `start_delay_s` and stop after `stop_delay_s`; a job named `NUMBER` runs for so many seconds."""

    clock: Clock
    nodes: list[NodeSeen]
    start_delay_s: float = 0.0
    stop_delay_s: float = 0.0
    checkpoints: bool = True  # every job registers one as soon as it runs
    processes: dict[tuple[int, int], Process] = field(default_factory=dict)
    told: list[tuple[str, int, int]] = field(default_factory=list)
    refuse: Callable[[Attempt], bool] = lambda attempt: False
    hang: Callable[[Attempt], bool] = lambda attempt: False
    deaf: Callable[[int], bool] = lambda job: False  # to requests to stop
    name: str = "machine"
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(pin_gpus=True))
    wake: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, clock: Clock, *gpus: int, type: str | Sequence[str] = "", **more: Any) -> Machine:
        types = [type] * len(gpus) if isinstance(type, str) else type
        nodes = [Node(gpus=each, name=f"n{i}", type=name) for i, (each, name) in enumerate(zip(gpus, types, strict=True))]
        return cls(clock, [NodeSeen(name=str(node.name), node=node) for node in nodes], **more)

    # what the controller calls

    def open(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def inventory(self) -> list[NodeSeen]:
        return list(self.nodes)

    def start(self, attempt: Attempt) -> None:
        self.told.append(("start", attempt.job, attempt.attempt))
        key = attempt.job, attempt.attempt
        if key in self.processes:
            return
        assert all(other.ended for (job, _), other in self.processes.items() if job == attempt.job), "two attempts of a job at once"
        for share in attempt.shares:
            free = self.free(share.node)
            assert free >= share.gpus - 1e-9, f"{share.node} has {free:g} GPUs free, job {attempt.job} was given {share.gpus:g}"
            assert len(share.devices) == (1 if 0 < share.gpus < 1 else share.gpus)
            for device in share.devices:
                held = self.held(share.node, device)
                assert held + min(share.gpus, 1) <= 1 + 1e-9, f"job {attempt.job}: {held:g} of {share.node}:{device} is held"
        self.processes[key] = Process(attempt, self.clock.now_s, float(attempt.name.split("-")[0]))

    def stop(self, job: int, attempt: int, *, grace_s: float, reason: str) -> None:
        self.told.append((f"stop {reason}", job, attempt))
        process = self.processes.get((job, attempt))
        if process is not None and process.asked is None:
            process.asked, process.asked_s = reason, self.clock.now_s

    def signal(self, job: int, attempt: int, number: int, *, batch_only: bool = False) -> None:
        self.told.append((f"signal {number}", job, attempt))

    def observe(self) -> list[Observation]:
        self.pass_time()
        return [self.look(process) for process in self.processes.values()]

    def forget(self, job: int, attempt: int) -> None:
        process = self.processes.get((job, attempt))
        assert process is None or process.ended is not None, f"job {job} was forgotten while it runs"
        self.processes.pop((job, attempt), None)

    def logs(self, job: int, attempt: int, user: str) -> LogsHere:
        return LogsHere({"0": Path(f"/dev/null/{job}/{attempt}")})

    def shell(self, job: int, attempt: int) -> Sequence[str]:
        return ["true"]

    def close(self) -> None:
        pass

    def report(self) -> dict[str, Any]:
        return {}

    # what the machine does

    def pass_time(self) -> None:
        now_s = self.clock.now_s
        for process in self.processes.values():
            if process.ended is not None:
                continue
            if process.started_s is None:
                if self.refuse(process.attempt):
                    self.end(process, Seen.REFUSED, None, now_s, message="no such file")
                elif process.asked is not None:
                    self.end(process, Seen.ENDED, 143, now_s)
                elif not self.hang(process.attempt) and now_s >= process.told_s + self.start_delay_s:
                    process.started_s = process.told_s + self.start_delay_s
            if process.started_s is None or process.ended is not None:
                continue
            end_s = process.started_s + self.left_s(process)
            stop_s = process.asked_s + self.stop_delay_s if process.asked_s is not None else float("inf")
            if end_s <= now_s and end_s <= stop_s:
                self.end(process, Seen.ENDED, self.code(process), end_s)
            elif stop_s <= now_s and not self.deaf(process.attempt.job):
                self.done_s[process.attempt.job] = self.done_s.get(process.attempt.job, 0.0) + process.asked_s - process.started_s
                self.end(process, Seen.ENDED, 0, stop_s, acknowledged=True)

    done_s: dict[int, float] = field(default_factory=dict)  # by job, in attempts that were stopped: they checkpoint

    def left_s(self, process: Process) -> float:
        return process.runs_s - self.done_s.get(process.attempt.job, 0.0)

    def code(self, process: Process) -> int:
        words = process.attempt.name.split("-")
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    def end(self, process: Process, seen: Seen, code: int | None, at_s: float, **more: Any) -> None:
        process.ended = replace(self.look(process), seen=seen, exit_code=code, ended_s=at_s, **more)

    def lose(self, job: int) -> None:
        for process in self.processes.values():
            if process.attempt.job == job and process.ended is None:
                self.end(process, Seen.LOST, None, self.clock.now_s, message="its supervisor was killed")

    def look(self, process: Process) -> Observation:
        if process.ended is not None:
            return process.ended
        seen = Seen.STARTING if process.started_s is None else Seen.RUNNING if process.asked is None else Seen.DRAINING
        return Observation(job=process.attempt.job, attempt=process.attempt.attempt, seen=seen, started_s=process.started_s,
                           asked_to_stop=process.asked is not None,
                           checkpointed=self.checkpoints and process.started_s is not None)  # fmt: skip

    def free(self, node: str) -> float:
        total = next(seen.node.gpus for seen in self.nodes if seen.name == node)
        return total - sum(s.gpus for p in self.processes.values() if p.ended is None for s in p.attempt.shares if s.node == node)

    def held(self, node: str, device: int) -> float:
        live = [p.attempt for p in self.processes.values() if p.ended is None]
        return sum(min(s.gpus, 1.0) for attempt in live for s in attempt.shares if s.node == node and device in s.devices)

    def running(self) -> set[int]:
        return {process.attempt.job for process in self.processes.values() if process.ended is None and process.started_s is not None}
