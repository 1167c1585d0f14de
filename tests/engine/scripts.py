"""A whole-cluster policy that says what it is told to: the lines of a Decision by hand, from some time on, for jobs by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from schedules import Schedule, prepare, schedule_of
from trainmaster.engine.loop import Simulation
from trainmaster.policies.base import Decision, Line, Memory, NoParams, Policy, View, policy
from trainmaster.workload.jobs import Job

Lines = Mapping[str, Sequence[Line] | Line | float]  # a number: so many GPUs, wherever


def on(gpus: float, **more: Any) -> Line:
    return Line(-1, gpus, **more)


@policy(name="scripted", paper="none", params=NoParams)
class Scripted(Policy[NoParams]):
    def __init__(self, script: Mapping[float, Lines], watch: Callable[[View], Any] = lambda view: None, **decision: Any) -> None:
        """From each time on, the jobs named hold what is said, in that order; others hold nothing. It wakes up at these times.

        `watch` looks at each view; `seen` is what it says.
        """
        super().__init__()
        self.script, self.watch, self.decision = script, watch, decision
        self.seen: list[Any] = []

    def decide(self, view: View, memory: Memory) -> Decision:
        self.seen.append(self.watch(view))
        row_of = {str(view.jobs.table.id[row]): int(row) for row in view.jobs.row}
        said = self.script[max(time_s for time_s in self.script if time_s <= view.now_s)]
        lines = [replace(line, row=row_of[id]) for id, some in said.items() if id in row_of for line in as_lines(some)]
        coming = [time_s for time_s in self.script if time_s > view.now_s]
        return Decision(lines=tuple(lines), lease_s=min(coming) - view.now_s if coming else None, **self.decision)


def as_lines(some: Sequence[Line] | Line | float) -> Sequence[Line]:
    return [some] if isinstance(some, Line) else some if isinstance(some, Sequence) else [on(some)]


def carried_out(jobs: Sequence[Job], cluster: Any, script: Mapping[float, Lines], restart_cost_s: float = 0.0, *, model: Any = None,
                **setup: Any) -> Schedule:
    """The jobs as the script says."""
    return schedule_of(simulation := scripted(jobs, cluster, script, restart_cost_s, model=model, **setup), simulation.run())


def scripted(jobs: Sequence[Job], cluster: Any, script: Mapping[float, Lines], restart_cost_s: float = 0.0, *, model: Any = None,
             **setup: Any) -> Simulation:
    return prepare(jobs, cluster, Scripted(script), restart_cost_s, model=model, **setup)
