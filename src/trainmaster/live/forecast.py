"""What will happen, if nobody does anything: the live state forked into the twin, with estimates in place of the ends that nobody knows.

    starts      when each waiting job is expected to start, once as estimated, once as if every job ran to its limit
    compare     the same under another policy, with more nodes, or with one job changed: a table as `simulate` has it

The fork is the engine's own snapshot under a virtual clock: the policy's memory, the promises, the drains are as they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from trainmaster.cluster.cluster import Cluster
from trainmaster.cluster.spec import parse_cluster
from trainmaster.engine import kernels
from trainmaster.engine.core import Setup
from trainmaster.engine.loop import Simulation
from trainmaster.engine.result import RunResult
from trainmaster.engine.snapshot import Snapshot, resume, take
from trainmaster.engine.state import RESERVED, RUNNING, STARTING
from trainmaster.errors import Conflict, InputError, TrainmasterError
from trainmaster.live.control import Scenario
from trainmaster.live.estimates import Estimates
from trainmaster.live.jobs import LiveJob
from trainmaster.live.policies import chosen
from trainmaster.live.rules import Rules
from trainmaster.live.store import StoreUnavailable
from trainmaster.live.table import table_of
from trainmaster.metrics.conclusion import conclusion
from trainmaster.metrics.summary import summarize
from trainmaster.policies.base import EngineRules, Policy

if TYPE_CHECKING:
    from trainmaster.live.controller import Controller

NOT_KNOWN = {"gpu_utilization": None, "productive_utilization": None}  # what ran before the fork, and has ended, is not in it
FRESH_S = 5.0  # an answer is as good as new for so long
OF_NEEDS = ("gpu_types", "nodes")  # what a change says of a job's needs; the rest is of its row
ANSWER_S = 30.0  # of the controller, between two turns
RESTART_S = 30.0  # what a restart is taken to cost
OVERRUN = 0.5  # a job past its estimate is taken to need so much of what it has run again


@dataclass(frozen=True, slots=True)
class Fork:
    """The live cluster at one instant, as plain data."""

    snapshot: Snapshot
    jobs: tuple[LiveJob, ...]  # copies
    cluster: Cluster
    policy: Policy[Any]
    rules: EngineRules | None
    setup: Setup
    site: Rules
    estimates: Estimates

    @property
    def now_s(self) -> float:
        return self.snapshot.now_s


@dataclass(frozen=True, slots=True)
class Forecast:
    at_s: float  # of time.monotonic()
    starts_s: Mapping[int, tuple[float, float]]  # waiting jobs: earliest and latest expected start, Unix seconds
    guessed: bool  # of some jobs nothing is known but the site's default limit


class Forecaster:
    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.last: Forecast | None = None
        self.refreshing = threading.Lock()

    def fork(self) -> Fork:
        """Taken between two turns of the controller."""
        if self.controller.thread is None:
            return fork_of(self.controller)
        answer: Future[Fork] = self.controller.ask(lambda c, _: fork_of(c))
        try:
            return answer.result(ANSWER_S)
        except TimeoutError:
            raise StoreUnavailable(f"the controller has not answered within {ANSWER_S:g} s; it may be waiting for its store") from None

    def forecast(self) -> Forecast:
        if self.last is None or time.monotonic() - self.last.at_s > FRESH_S:
            fork = self.fork()
            expected, latest = (starts(run(fork, needs(fork, limits)), fork) for limits in (False, True))
            both = {id: (min(first_s, latest.get(id, first_s)), max(first_s, latest.get(id, first_s))) for id, first_s in expected.items()}
            self.controller.alerts.pop("forecast", None)
            self.last = Forecast(time.monotonic(), both, guessed=any(fork.estimates.run_time(job) is None for job in fork.jobs))
        return self.last

    def refresh_soon(self) -> None:
        """A newer forecast before long; whoever asks now has the last one."""
        if self.refreshing.locked() or (self.last is not None and time.monotonic() - self.last.at_s <= FRESH_S):
            return
        threading.Thread(target=self._refresh, name="forecast", daemon=True).start()

    def _refresh(self) -> None:
        if self.refreshing.acquire(blocking=False):
            try:
                self.forecast()
            except StoreUnavailable:
                pass  # an alert of its own says so
            except TrainmasterError as problem:
                self.controller.alerts["forecast"] = str(problem)
            finally:
                self.refreshing.release()

    def would_start_now(self, fork: Fork, job: int, change: Mapping[str, Any]) -> bool:
        """Whether the next decision would start this job if it were so."""
        changed = changed_job(fork, job, change)
        simulation = prepared(changed, needs(changed, False))
        kernels.decide_soon(simulation.state.clock)
        simulation.clock["until_s"] = np.nextafter(fork.now_s, np.inf)
        while simulation.advance() not in (kernels.EXTERNAL, kernels.FINISHED):
            pass
        return bool(simulation.state.jobs[simulation.row(job)]["running"])

    def compare(self, scenarios: Sequence[Scenario]) -> dict[str, Any]:
        """Runs as `simulate --json` has them, side by side; the first is the cluster as it is."""
        fork = self.fork()
        if not fork.jobs:
            raise Conflict("nothing waits or runs: there is nothing to compare")
        results = [run(fork, needs(fork, False), label="as it is")]
        for scenario in scenarios:
            changed = self._changed(fork, scenario)
            results.append(run(changed, needs(changed, False), label=scenario.label))
        summaries = [summarize(result) | NOT_KNOWN for result in results]
        return {"runs": summaries, "conclusion": conclusion(summaries), "now_s": fork.now_s, "jobs": len(fork.jobs)}

    def _changed(self, fork: Fork, scenario: Scenario) -> Fork:
        if scenario.policy is not None:
            policy, rules = chosen(scenario.policy, scenario.settings)
            fork = replace(fork, policy=policy, rules=rules, snapshot=replace(fork.snapshot, memory={}))
        if scenario.add_nodes is not None:
            more = parse_cluster(scenario.add_nodes, files=False).nodes
            nodes = (*fork.cluster.nodes, *more)
            present = np.append(fork.cluster.present, np.ones(len(more), bool))
            fork = replace(fork, cluster=replace(fork.cluster, nodes=nodes, present=present))
        if scenario.job is not None:
            names = ("priority", "gpus", "queue")
            fork = changed_job(fork, scenario.job, {name: value for name in names if (value := getattr(scenario, name)) is not None})
        return fork


def needs(fork: Fork, limits: bool) -> list[float]:
    """Seconds each job needs in all: as estimated, or to its limit."""
    found = []
    for job in fork.jobs:
        known = fork.estimates.run_time(job)
        most_s = fork.site.default_limit_s if job.row.limit_s is None else job.row.limit_s
        need_s = most_s if limits or known is None else known[0]
        ran_s = job.run_s(fork.now_s)
        found.append(need_s if need_s > ran_s else ran_s * (1 + OVERRUN) + 60.0)
    return found


def fork_of(controller: Controller) -> Fork:
    engine = controller.scheduling.engine
    assert engine is not None
    snapshot = take(engine)
    known = set(engine.row_of)
    jobs = tuple(
        replace(job, row=replace(job.row), attempt=replace(job.attempt) if job.attempt else None)
        for job in list(controller.offered.values())
        if job.id in known
    )
    policy, rules = controller.scheduling.policy, controller.scheduling.rules
    return Fork(snapshot, jobs, controller.cluster, policy, rules, controller.setup, controller.rules, controller.estimates)


def changed_job(fork: Fork, id: int, change: Mapping[str, Any]) -> Fork:
    """The fork with one job as it might have been asked for."""
    if all(job.id != id for job in fork.jobs):
        raise InputError(f"job {id} is not offered to the policy now: nothing to compare")
    jobs = []
    for job in fork.jobs:
        if job.id == id:
            row = replace(job.row, **{name: value for name, value in change.items() if name not in OF_NEEDS})
            needs = replace(job.needs, **{name: change[name] for name in OF_NEEDS if name in change})
            if needs.nodes and row.gpus % needs.nodes:
                needs = replace(needs, nodes=None)
            job = replace(job, row=row, needs=needs)
        jobs.append(job)
    state = fork.snapshot.state.copy()
    if "gpus" in change:
        state["milli"][state["seq"] == id] = round(change["gpus"] * 1000)
    return replace(fork, jobs=tuple(jobs), snapshot=replace(fork.snapshot, state=state))


def prepared(fork: Fork, needs_s: Sequence[float], label: str | None = None) -> Simulation:
    """A run of the twin that goes on from the fork."""
    table = table_of(fork.jobs, fork.site, fork.estimates, list(needs_s))
    setup = replace(fork.setup, restart_cost_s=RESTART_S)
    simulation = Simulation(table, fork.cluster, fork.policy, setup, rules=fork.rules, label=label)
    need_of = {job.id: need_s for job, need_s in zip(fork.jobs, needs_s, strict=True)}
    state = fork.snapshot.state.copy()
    promised = np.isin(state["phase"], (RESERVED, STARTING))
    for name in ("held_since_s", "since_s", "ready_s"):
        state[name][promised & ~np.isfinite(state[name])] = fork.now_s
    state["phase"][promised] = RUNNING
    state["rate"] = 1.0
    since_s = np.maximum(state["since_s"], state["ready_s"])  # its account of what was served is of then, and nobody's end lies before now
    worked_s = np.where(state["running"] == 1, np.maximum(fork.now_s - since_s, 0.0), 0.0)
    state["work_left"] = np.maximum([need_of.get(int(seq), 1.0) for seq in state["seq"]] - state["served_s"], worked_s + 1.0)
    resume(simulation, replace(fork.snapshot, state=state, claims=(), drains={}), memory=bool(fork.snapshot.memory))
    return simulation


def run(fork: Fork, needs_s: Sequence[float], label: str | None = None) -> RunResult:
    return prepared(fork, needs_s, label).run()


def starts(result: RunResult, fork: Fork) -> dict[int, float]:
    """When each job that waits first gets GPUs."""
    first: dict[int, float] = {}
    waiting = {job.id for job in fork.jobs if job.attempt is None}
    for row, start_s in zip(result.allocations.job.tolist(), result.allocations.start_s.tolist(), strict=True):
        id = int(result.jobs.seq[row])
        if id in waiting and start_s >= fork.now_s:
            first.setdefault(id, start_s)
    return first
