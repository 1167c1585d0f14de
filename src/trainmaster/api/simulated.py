"""`trainmaster.simulate(...)`: what the command takes, and data frames back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any

import polars as pl

from trainmaster.api.files import claimed
from trainmaster.api.request import Contestant, Path, Request, parse_policies, parse_window
from trainmaster.api.session import Run, Session, results_of
from trainmaster.cluster.cluster import Cluster
from trainmaster.engine.faults import Faults
from trainmaster.engine.result import RunResult
from trainmaster.metrics.conclusion import conclusion
from trainmaster.metrics.frames import jobs_frame, timeline_frame
from trainmaster.metrics.summary import Summary, TraceInfo
from trainmaster.policies.base import Policy
from trainmaster.report.terminal import text
from trainmaster.workload.jobs import Job, JobTable

NESTED = ("params", "window", "by_queue", "by_size", "notes")  # of a summary: no cells of a table

Policies = str | Policy[Any] | Iterable[str | Policy[Any]] | Mapping[str, str | Policy[Any]]


@dataclass(frozen=True)
class Simulated:
    """Policies side by side. `document` is what `simulate --json` writes, `results` is everything that each run left."""

    summaries: list[Summary] = field(repr=False)
    results: list[RunResult] = field(repr=False)
    trace: TraceInfo
    document: dict[str, Any] = field(repr=False)
    notes: list[str]

    def __str__(self) -> str:
        """The table and the sentence that the command prints."""
        return text(self.summaries)

    @property
    def conclusion(self) -> str:
        return conclusion(self.summaries)

    @cached_property
    def runs(self) -> pl.DataFrame:
        """A row a run: the figures of `--json`, without the nested ones."""
        rows = [{name: value for name, value in summary.items() if name not in NESTED} for summary in self.summaries]
        return pl.DataFrame(rows, infer_schema_length=None)

    @cached_property
    def jobs(self) -> pl.DataFrame:
        """A row a job and run: the columns of `--jobs-out`."""
        return jobs_frame(self.results)

    @cached_property
    def timeline(self) -> pl.DataFrame:
        """A row an allocation: the columns of `--timeline-out`."""
        return timeline_frame(self.results)

    def report(self, path: str | PathLike[str]) -> None:
        """Write the page that `--report` writes."""
        from trainmaster.report.html import page

        with claimed({"report": path}) as files:
            files["report"].write_text(page(self.results, self.summaries, self.trace, command="trainmaster.simulate(...)"))


def simulate(
    trace: Path | JobTable | Iterable[Job],
    *,
    cluster: Path | Cluster | None = None,
    policy: Policies | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    placement: str = "packed",
    round_s: float | None = None,
    restart_cost_s: float | None = None,
    start_delay_s: float = 0.0,
    stop_delay_s: float = 0.0,
    seed: int = 0,
    seeds: int = 1,
    load: float = 1.0,
    jobs: int | None = None,
    window: tuple[float, float] | str | None = None,
    faults: Faults | str | None = None,
    profiles: Path | None = None,
    format: str = "auto",
    workers: int = 1,
) -> Simulated:
    """Replay a trace (a path, `synthetic:philly`, a JobTable or Job records) under one policy or several.

    `policy`: names as on the command line, instances, or {label: either}. `set`: {"srtf.estimate": "limit"} or a list of
    LABEL.PARAM=VALUE. Raises trainmaster.errors.InputError, one line, for bad input.
    """
    request = Request(
        trace=trace if isinstance(trace, str | PathLike | JobTable) else list(trace),
        cluster=cluster,
        policies=_contestants(policy),
        settings=_settings(set),
        placement=placement,
        round_s=None if round_s is None else float(round_s),
        restart_cost_s=None if restart_cost_s is None else float(restart_cost_s),
        start_delay_s=float(start_delay_s),
        stop_delay_s=float(stop_delay_s),
        seed=seed,
        seeds=seeds,
        load=float(load),
        jobs=jobs,
        window=parse_window(window) if isinstance(window, str) else window,
        faults=Faults.parse(faults) if isinstance(faults, str) else faults,
        profiles=profiles,
        format=format,
        workers=workers,
    )
    session = Session.of(request)
    return simulated(session, session.run(keep=True))


def simulated(session: Session, runs: list[Run]) -> Simulated:
    return Simulated(
        summaries=[run.summary for run in runs],
        results=list(results_of(runs)),
        trace=session.source.info,
        document=session.document(runs),
        notes=session.notes(runs),
    )


def _contestants(policy: Policies | None) -> tuple[Contestant, ...]:
    if policy is None:
        return ()
    if isinstance(policy, str):
        return tuple(parse_policies(policy))
    if isinstance(policy, Policy):
        return ((None, policy),)
    if isinstance(policy, Mapping):
        return tuple(policy.items())
    return tuple(contestant for one in policy for contestant in _contestants(one))


def _settings(given: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    return tuple(f"{name}={_text(value)}" for name, value in given.items()) if isinstance(given, Mapping) else tuple(given)


def _text(value: Any) -> str:
    """As it would be typed: true, none, 1,2,3."""
    if isinstance(value, bool | None):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
