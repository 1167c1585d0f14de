"""What happened, replayed by the twin, beside what policies would have done with the same jobs on the same nodes.

A recorded run time has the job's start in it. So a policy that starts each job once is charged no second start; one that preempts pays
`simulate`'s usual cost at every start, which is against it rather than for it.

The files of a report are what it was made from: its commands give the same figures.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from trainmaster.api.entrants import Entrant, entrants_of
from trainmaster.api.files import claimed
from trainmaster.api.request import Contestant, Request
from trainmaster.api.session import Run, Session, results_of, run_task
from trainmaster.api.shadow.watch import Trace
from trainmaster.cluster.cluster import Cluster
from trainmaster.cluster.scontrol import Listed
from trainmaster.cluster.seen import node_names
from trainmaster.cluster.spec import parse_cluster
from trainmaster.errors import ParamError, TraceError
from trainmaster.live.backends.slurm_history import write
from trainmaster.metrics.conclusion import conclusion
from trainmaster.metrics.summary import Summary, TraceInfo
from trainmaster.policies.base import ListPolicy, Policy
from trainmaster.policies.registry import policies
from trainmaster.report.html import page
from trainmaster.workload.traces import Trace as Told
from trainmaster.workload.traces import load_trace

# What is compared unless --policy says otherwise: first what happened; those that this version lacks or that refuse the trace are left out.
POLICIES = ("recorded", "slurm", "fifo", "easy-backfill", "tiresias-las", "srtf")
TRACE, CLUSTER, CONF, PAGE, FIGURES = "history.txt", "cluster.yaml", "slurm.conf", "report.html", "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which policies, under which rules."""

    policies: tuple[Contestant, ...] = ()
    settings: tuple[str, ...] = ()  # LABEL.PARAM=VALUE
    placement: str = "packed"
    round_s: float | None = None
    cluster: str | None = None  # instead of the nodes that Slurm lists

    def contestants(self) -> tuple[Contestant, ...]:
        return self.policies or tuple((None, name) for name in POLICIES if name in policies())


@dataclass(frozen=True, slots=True)
class Report:
    summaries: list[Summary]
    notes: list[str]
    page: Path
    commands: list[str]  # that give the same figures

    @property
    def conclusion(self) -> str:
        return conclusion(self.summaries)


def as_configured(question: Question, conf: Path) -> tuple[Question, list[str]]:
    """The policy `slurm`, if it is compared by default, with the site's own weights; and what to know of that."""
    slurm = next((cls for name, cls in policies().items() if (None, name) in question.contestants() and _takes_conf(cls)), None)
    if question.policies or slurm is None:
        return question, []
    setting = f"{slurm.name}.conf={conf}"
    try:
        entrants_of(((None, slurm.name),), (setting,))
    except ParamError as problem:
        return question, [f"{slurm.name} is compared as Slurm is by default, not as it is configured here: {problem}"]
    return replace(question, settings=(*question.settings, setting)), []


def _takes_conf(policy: type[Policy[Any]]) -> bool:
    return any(field.name == "conf" for field in fields(policy.params_type))


def compare(trace: Trace, listed: Sequence[Listed], question: Question, folder: Path, notes: Sequence[str], within_s: float) -> Report:
    """`notes`: what to know of the trace, for the page. A policy that takes more than its share of `within_s` is left out.

    Raises InputError where there is nothing to compare.
    """
    paths = {name: folder / name for name in (TRACE, CLUSTER, PAGE, FIGURES)}
    with claimed(paths) as files:
        files[TRACE].write_text("".join(write(trace.rows)))
        files[CLUSTER].write_text(cluster_file(listed, {name for row in trace.rows for name in node_names(row.node_list)}))
        told = load_trace(paths[TRACE], "sacct")
        sessions = _sessions(told, trace.since_s, parse_cluster(question.cluster or paths[CLUSTER]), question)
        runs, late = _runs(sessions, within_s)
        summaries = [run.summary for run in runs]
        info = sessions[0].source.info
        skipped = Counter(told.skipped) + Counter(info.skipped)
        info = TraceInfo(path=str(paths[TRACE]), format=told.format, jobs=info.jobs, skipped=dict(skipped))
        said = [*notes, *late, *dict.fromkeys(line for session in sessions for line in session.notes(runs)), *_plain(sessions, runs)]
        commands = [_command(paths, session, question) for session in sessions]
        files[PAGE].write_text(page(list(results_of(runs)), summaries, info, command="\n".join(commands), notes=said))
        figures = {"trace": asdict(info), "notes": said, "conclusion": conclusion(summaries), "commands": commands}
        files[FIGURES].write_text(json.dumps({**sessions[0].document(runs), **figures}, indent=2, allow_nan=False) + "\n")
    return Report(summaries, said, paths[PAGE], commands)


def cluster_file(listed: Sequence[Listed], used: set[str]) -> str:
    """As `--cluster` reads it. A node that is down now, but on which jobs of the trace ran, was capacity then."""
    kept = [one for one in listed if one.unusable is None or one.name in used]
    pooled = len({frozenset(one.partitions) for one in kept}) == 1
    lines = []
    for one in kept:
        for row in one.rows:
            told: dict[str, object] = {"name": row.name, "gpus": row.gpus, "type": row.type, "cpus": row.cpus, "memory_gib": row.memory_gib}
            told |= {} if pooled else {"queues": list(one.partitions)}
            lines.append(json.dumps({key: value for key, value in told.items() if value not in (None, "", [])}))
    return "nodes:\n" + "".join(f"  - {line}\n" for line in lines)


def _sessions(told: Told, since_s: float, cluster: Cluster, question: Question) -> list[Session]:
    """One of the policies that start a job once, one of those that preempt."""
    assert told.zero_unix_s is not None  # the times of sacct are dated
    window = (since_s - told.zero_unix_s, math.inf)
    if not (told.jobs.submit_s >= window[0]).any():
        raise TraceError("no job that was submitted in this span has run yet; the next report may have some")
    entrants = entrants_of(question.contestants(), question.settings)
    request = Request(trace=told.jobs, cluster=cluster, placement=question.placement, round_s=question.round_s, window=window)
    found = []
    for preemptive, restart_cost_s in ((False, 0.0), (True, None)):
        some = [entrant for entrant in entrants if entrant.policy.preemptive is preemptive]
        if some:
            settings = _settings_of(some, question.settings)
            part = replace(request, policies=tuple(map(_contestant, some)), settings=settings, restart_cost_s=restart_cost_s)
            found.append(Session.of(part, lenient=not question.policies))
    return found


class _Late(Exception):
    """A run has had its time."""


def _runs(sessions: Sequence[Session], within_s: float) -> tuple[list[Run], list[str]]:
    """Compiled policies first, for they take next to nothing; each has an equal share of the time that is left. In the order asked for."""
    until_s = time.monotonic() + within_s
    tasks = [(session, task) for session in sessions for task in session.tasks()]
    runs: dict[int, Run] = {}
    late: list[str] = []
    for done, place in enumerate(sorted(range(len(tasks)), key=lambda place: not _compiled(tasks[place][1].entrant))):
        session, task = tasks[place]
        ends_s = time.monotonic() + (until_s - time.monotonic()) / (len(tasks) - done)

        def tell(_: int, ended: int, jobs: int, ends_s: float = ends_s) -> None:
            if ended < jobs and time.monotonic() > ends_s:
                raise _Late

        try:
            runs[place] = run_task(session.source, task, True, tell)
        except _Late:
            late.append(task.entrant.label)
    if not runs:
        raise TraceError(f"no policy was done within {within_s:g} s; the next report has more time, or ask for less (--since)")
    told = f"{', '.join(late)} left out: not done within {within_s:g} s for all; a later report has more time"
    return [runs[place] for place in sorted(runs)], [told] if late else []


def _compiled(entrant: Entrant) -> bool:
    return isinstance(entrant.policy, ListPolicy) and entrant.policy.key is not None


def _contestant(entrant: Entrant) -> Contestant:
    assert entrant.words is not None  # a shadow's policies come by name
    return entrant.label, entrant.words[0]


def _settings_of(entrants: Sequence[Entrant], settings: Sequence[str]) -> tuple[str, ...]:
    labels = {entrant.label for entrant in entrants}
    return tuple(text for text in settings if text.partition("=")[0].strip().rpartition(".")[0] in labels)


def _plain(sessions: Sequence[Session], runs: Sequence[Run]) -> list[str]:
    """What is to be had without stopping a running job: a policy that preempts presumes jobs that checkpoint."""
    stopping = [entrant.label for session in sessions for entrant in session.entrants if entrant.policy.preemptive]
    others = [run.summary for run in runs if run.summary["label"] not in stopping]
    if not stopping or len(others) < 2:
        return []
    return [f"{', '.join(stopping)} stop running jobs, which must checkpoint for that. Without: {conclusion(others)}"]


def _command(paths: dict[str, Path], session: Session, question: Question) -> str:
    request = session.request
    assert request.window is not None
    pairs = [_contestant(entrant) for entrant in session.entrants]
    words = [
        "trainmaster", "simulate", "--trace", str(paths[TRACE]), "--cluster", question.cluster or str(paths[CLUSTER]), "--policy",
        ",".join(str(name) if name == label else f"{label}={name}" for label, name in pairs), f"--window={request.window[0]:.0f}:",
    ]  # fmt: skip
    words += [word for setting in _settings_of(session.entrants, question.settings) for word in ("--set", setting)]
    words += ["--placement", request.placement] if request.placement != Question().placement else []
    words += ["--round", f"{request.round_s:g}"] if request.round_s is not None else []
    words += ["--restart-cost", f"{request.restart_cost_s:g}"] if request.restart_cost_s is not None else []
    return shlex.join(words)
