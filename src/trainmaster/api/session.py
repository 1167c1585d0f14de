"""A request carried out: every policy on every seed, in this process or in several.

What can be wrong with a request is found before the first run: `Session.of` also rehearses every policy on a few jobs. Runs
go seed by seed, so that a generated workload is made once; they are handed over policy by policy, each with its seeds in order.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os.path import abspath
from typing import Any

import numpy as np

from trainmaster.api.entrants import Entrant, default_contestants, entrants_of
from trainmaster.api.request import Request
from trainmaster.api.workload import Source, Workload, source_of
from trainmaster.engine.core import Setup
from trainmaster.engine.loop import simulate_policy
from trainmaster.engine.policy_files import described
from trainmaster.engine.result import UNSCHEDULABLE, RunResult
from trainmaster.errors import InputError, InvariantBroken, ParamError, TrainmasterError
from trainmaster.metrics.seeds import FIGURES
from trainmaster.metrics.summary import Summary, document, summarize
from trainmaster.workload.jobs import OPTIONAL_NUMBERS, JobTable
from trainmaster.workload.perf.constant import ConstantModel

REASONS_SHOWN = 3  # of jobs that can never run
LONGEST_FAULT = 200  # characters of what a policy outside the package raised: a compiler's complaint fills pages

Progress = Callable[[int, int, int], None]  # (number of the run, its jobs ended, its jobs)
Doing = Callable[[str], None]  # told what takes time before the first run


@dataclass(frozen=True, slots=True)
class Run:
    summary: Summary
    result: RunResult | None  # None if nobody asked for it
    never: tuple[str, ...]  # which jobs can never run, and why


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
    left_out: tuple[str, ...] = ()  # policies that refuse this trace or cluster, and why

    @classmethod
    def of(cls, request: Request, doing: Doing = lambda _: None, *, lenient: bool = False) -> Session:
        """Raises InputError, one line, for whatever can be known to be wrong before anything runs.

        A default policy that refuses this trace or cluster is left out; `lenient`: one that was asked for, too.
        """
        given = entrants_of(request.policies, request.settings)  # before a large trace is read
        doing(f"reading {request.trace}" if isinstance(request.trace, str) else "reading")
        source = source_of(request)
        workload = source.at(request.seed)
        entrants = given or entrants_of(default_contestants(workload.jobs), request.settings)
        doing("preparing the engine (compiled on first use, half a minute)")
        refusals = {entrant.label: _refusal(workload, entrant, request.setup(request.seed)) for entrant in entrants}
        taken = [entrant for entrant in entrants if refusals[entrant.label] is None]
        for problem in refusals.values():
            if problem is not None and ((given and not lenient) or not taken):
                raise type(problem)("; ".join([str(problem), *source.notes]))  # what was left out of the trace may be why
        reasons = {label: str(problem).removeprefix("--policy: ") for label, problem in refusals.items() if problem is not None}
        return cls(request, source, tuple(taken), tuple(f"{label} left out: {reason}" for label, reason in reasons.items()))

    def tasks(self) -> list[Task]:
        """In the order in which they are run."""
        seeds = self.request.seeds
        return [
            Task(place * seeds + number, entrant, self.request.setup(self.request.seed + number))
            for number in range(seeds)
            for place, entrant in enumerate(self.entrants)
        ]

    def run(self, *, keep: bool, progress: Progress | None = None) -> list[Run]:
        """`keep`: the results too, not only their summaries."""
        tasks = self.tasks()
        with ExitStack() as stack:
            if min(self.request.workers, len(tasks)) > 1:
                from trainmaster.api.workers import in_processes

                finished = stack.enter_context(in_processes(self.source, tasks, self.request.workers, keep, progress))
            else:
                finished = (run_task(self.source, task, keep, progress) for task in tasks)
            runs = {task.number: run for task, run in zip(tasks, finished, strict=True)}
        return [runs[number] for number in sorted(runs)]

    def document(self, runs: list[Run]) -> dict[str, Any]:
        return document(self.source.info, self.source.cluster, [run.summary for run in runs], self.request.seed)

    def notes(self, runs: list[Run]) -> list[str]:
        """What to say beside the figures, a line each."""
        notes = [*self.source.notes, *self.left_out, *dict.fromkeys(line for run in runs for line in run.never)]
        if self.request.seeds > 1 and all(_same(runs, entrant.label) for entrant in self.entrants):
            notes.append(f"all {self.request.seeds} seeds gave the same figures: nothing in these runs depends on chance")
        return notes


def run_task(source: Source, task: Task, keep: bool, progress: Progress | None = None) -> Run:
    workload = source.at(task.setup.seed)

    def tell(ended: int, jobs: int) -> None:
        assert progress is not None
        progress(task.number, ended, jobs)

    result = _simulate(workload, task.entrant, task.setup, tell if progress else None)
    result = replace(result, params=described(result.params))
    if progress:
        tell(len(workload.jobs), len(workload.jobs))
    return Run(summarize(result), result if keep else None, _never(result))


def results_of(runs: list[Run]) -> Iterator[RunResult]:
    for run in runs:
        assert run.result is not None, "run with keep=True"
        yield run.result


def _simulate(workload: Workload, entrant: Entrant, setup: Setup, progress: Callable[[int, int], None] | None = None) -> RunResult:
    try:
        return simulate_policy(workload.jobs, workload.cluster, entrant.policy, setup, model=workload.model, rules=entrant.rules,
                               label=entrant.label, progress=progress)  # fmt: skip
    except (TrainmasterError, InvariantBroken):
        raise
    except Exception as fault:
        if entrant.file is None:
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(fault.__traceback__) if abspath(frame.filename) == abspath(entrant.file)]
        at = f":{lines[-1]}" if lines else ""
        told = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise ParamError(f"--policy: {entrant.file}{at}: {told[:LONGEST_FAULT]}") from fault


# ------------------------------------------------------------------------------------------------- the rehearsal


def _refusal(workload: Workload, entrant: Entrant, setup: Setup) -> InputError | None:
    """What the policy has against this trace and cluster: found on a few rows that have and lack whatever some row does."""
    if "profile" in entrant.policy.needs:
        return None  # the few would need measurements of their own; the run refuses at its first decision
    jobs = workload.jobs.take(_witnesses(workload.jobs))
    few = jobs.replace(work=np.ones(len(jobs)), work_in_steps=np.zeros(len(jobs), bool))
    try:
        _simulate(Workload(few, workload.cluster, ConstantModel(few.gpu_milli.tolist())), entrant, replace(setup, faults=None))
    except InputError as problem:
        return problem
    return None


def _witnesses(jobs: JobTable) -> np.ndarray[Any, Any]:
    """Of each column that may have gaps, a row with a figure and a row with a gap, where there are such."""
    gaps = [np.isnan(column) for column in (*(getattr(jobs, name) for name in OPTIONAL_NUMBERS), *jobs.estimates.values())]
    return np.unique([int(np.argmax(which)) for gap in gaps for which in (gap, ~gap)])


# ------------------------------------------------------------------------------------------------- what to say


def _never(result: RunResult) -> tuple[str, ...]:
    rows = np.flatnonzero(result.state == UNSCHEDULABLE)
    reasons, first, counts = np.unique(result.reason[rows].astype(str), return_index=True, return_counts=True)
    most = np.argsort(-counts, kind="stable")
    lines = [
        f"job {result.jobs.id[rows[first[i]]]}{f' and {counts[i] - 1:,} more' if counts[i] > 1 else ''} can never fit: {reasons[i]}"
        for i in most[:REASONS_SHOWN]
    ]
    rest = int(counts[most[REASONS_SHOWN:]].sum())
    return (*lines, *([f"{rest:,} more jobs can never fit"] if rest else []))


def _same(runs: list[Run], label: str) -> bool:
    figures = [[run.summary[name] for name in FIGURES] for run in runs if run.summary["label"] == label]
    return all(other == figures[0] for other in figures)
