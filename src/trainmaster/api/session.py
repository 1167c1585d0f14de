"""A request carried out: every policy on every seed, in this process or in several.

What can be wrong with a request is found before the first run (`Session.of`). Runs go seed by seed, so that a generated
workload is made once; they are handed over policy by policy, each with its seeds in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainmaster.api.entrants import Entrant, default_contestants, described, entrants_of
from trainmaster.api.request import Request
from trainmaster.api.workload import Source, source_of
from trainmaster.engine.loop import Setup, Simulation, simulate_policy
from trainmaster.engine.result import RunResult
from trainmaster.metrics.seeds import FIGURES
from trainmaster.metrics.summary import Summary, document, summarize
from trainmaster.workload.jobs import OPTIONAL_NUMBERS, JobTable
from trainmaster.workload.perf.constant import ConstantModel

Progress = Callable[[int, int, int], None]  # (number of the run, its jobs ended, its jobs)


@dataclass(frozen=True, slots=True)
class Run:
    summary: Summary
    result: RunResult | None  # None if nobody asked for it


@dataclass(frozen=True, slots=True)
class Task:
    """One policy on one seed; `number` is its place in the order handed over."""

    number: int
    entrant: Entrant
    setup: Setup


@dataclass(frozen=True, slots=True)
class Session:
    request: Request
    source: Source
    entrants: tuple[Entrant, ...]

    @classmethod
    def of(cls, request: Request) -> Session:
        """Raises InputError, one line, for whatever can be known to be wrong before anything runs."""
        entrants = entrants_of(request.policies, request.settings) if request.policies else []  # before a large trace is read
        source = source_of(request)
        if not entrants:
            entrants = entrants_of(default_contestants(source.at(request.seed).jobs), request.settings)
        session = cls(request, source, tuple(entrants))
        if len(session.tasks()) > 1:
            session._rehearse()
        return session

    def tasks(self) -> list[Task]:
        seeds = self.request.seeds
        return [
            Task(place * seeds + number, entrant, self.request.setup(self.request.seed + number))
            for number in range(seeds)
            for place, entrant in enumerate(self.entrants)
        ]

    def run(self, *, keep: bool, progress: Progress | None = None) -> list[Run]:
        """`keep`: the results too, not only their summaries."""
        tasks = self.tasks()
        runs: dict[int, Run] = {}
        with ExitStack() as stack:
            if min(self.request.workers, len(tasks)) > 1:
                from trainmaster.api.workers import in_processes

                finished = stack.enter_context(in_processes(self.source, tasks, self.request.workers, keep, progress))
            else:
                finished = (run_task(self.source, task, keep, progress) for task in tasks)
            for task, run in zip(tasks, finished, strict=True):
                runs[task.number] = run
        return [runs[number] for number in sorted(runs)]

    def document(self, runs: list[Run]) -> dict[str, Any]:
        return document(self.source.info, self.source.cluster, [run.summary for run in runs], self.request.seed)

    def notes(self, runs: list[Run]) -> list[str]:
        """What to say beside the figures, a line each."""
        notes = list(self.source.notes)
        if self.request.seeds > 1 and all(_same(runs, label) for label in {run.summary["label"] for run in runs}):
            notes.append(f"all {self.request.seeds} seeds gave the same figures: nothing in this run depends on chance")
        return notes

    def _rehearse(self) -> None:
        """Set every policy up on a few rows that lack whatever some row lacks, so that the last one fails before the first runs."""
        workload = self.source.at(self.request.seed)
        few = workload.jobs.take(_witnesses(workload.jobs))
        model = ConstantModel(few.gpu_milli.tolist())
        for entrant in self.entrants:
            Simulation(few, workload.cluster, entrant.policy, self.request.setup(self.request.seed), model=model, rules=entrant.rules,
                       label=entrant.label)  # fmt: skip


def run_task(source: Source, task: Task, keep: bool, progress: Progress | None = None) -> Run:
    workload, entrant = source.at(task.setup.seed), task.entrant

    def tell(ended: int, jobs: int) -> None:
        assert progress is not None
        progress(task.number, ended, jobs)

    result = simulate_policy(workload.jobs, workload.cluster, entrant.policy, task.setup, model=workload.model, rules=entrant.rules,
                             label=entrant.label, progress=tell if progress else None)  # fmt: skip
    result = replace(result, params=described(result.params))
    if progress:
        tell(len(workload.jobs), len(workload.jobs))
    return Run(summarize(result), result if keep else None)


def _witnesses(jobs: JobTable) -> np.ndarray[Any, Any]:
    """The first row, and of each column that has gaps a row with one."""
    columns = [*(getattr(jobs, name) for name in OPTIONAL_NUMBERS), *jobs.estimates.values()]
    return np.unique([0, *(int(np.argmax(np.isnan(column))) for column in columns)])


def _same(runs: list[Run], label: str) -> bool:
    figures = [[run.summary[name] for name in FIGURES] for run in runs if run.summary["label"] == label]
    return all(other == figures[0] for other in figures)


def results_of(runs: list[Run]) -> Iterator[RunResult]:
    for run in runs:
        assert run.result is not None, "run with keep=True"
        yield run.result
