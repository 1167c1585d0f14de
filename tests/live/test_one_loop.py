"""One loop, two clocks: what the live controller decided, the twin decides again, given the same arrivals and the same executor's answers.

The live run is recorded where the controller's thread tells the engine something. The twin then gets all jobs in one table, as a
trace, and hears each answer at the time at which the controller heard it: starts that were late or refused, stops that took their
time, ends that nobody had foreseen. Every decision's inputs and outputs are compared.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from live.machine import Clock, Machine
from live.test_controller import RULES, Site, spec
from trainmaster.engine import kernels
from trainmaster.engine.core import Engine
from trainmaster.engine.handover import Parts
from trainmaster.engine.loop import Simulation
from trainmaster.live.jobs import LiveJob
from trainmaster.live.scheduling import Scheduling
from trainmaster.live.table import table_of
from trainmaster.policies.base import DecisionRecord

ANSWERS = ("started", "stopped", "ended", "lost", "failed_to_start", "set_pinned", "take_back")


class Recorder:
    """Everything that the live engine hears, and all that it decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: list[tuple[float, str, tuple[Any, ...]]] = []
        self.decided: list[DecisionRecord] = []
        self.jobs: dict[int, LiveJob] = {}
        self.avoided: dict[int, int] = {}
        for name in ANSWERS:
            monkeypatch.setattr(Engine, name, self._recording(name, getattr(Engine, name)))
        monkeypatch.setattr(Scheduling, "begin", self._offers(Scheduling.begin))

    def _recording(self, name: str, verb: Any) -> Any:
        def told(engine: Engine, *arguments: Any) -> Any:
            if type(engine) is Engine:
                self.heard.append((float(engine.clock["now_s"]), name, arguments))
            return verb(engine, *arguments)

        return told

    def _offers(self, begin: Any) -> Any:
        def told(scheduling: Scheduling, snapshot: Any, table: Any, jobs: Any, cluster: Any) -> Any:
            known = set(snapshot.state["seq"].tolist())
            for job in jobs:
                self.jobs.setdefault(job.id, job)
                avoid = [node.name for node in cluster.nodes].index(job.avoid) if job.avoid else -1
                if self.avoided.get(job.id, -1) != avoid:
                    self.heard.append((snapshot.now_s, "avoid", (job.id, avoid)))
                    self.avoided[job.id] = avoid
                if job.row.attempts and job.id not in known:
                    self.heard.append((snapshot.now_s, "offer", (job.id,)))
            return begin(scheduling, snapshot, table, jobs, cluster)

        return told


class Twin(Simulation):
    """The simulator, with the answers of a real executor instead of simulated ones."""

    def __init__(self, recorder: Recorder, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.answers = list(recorder.heard)
        self.told: list[tuple[str, int]] = []
        self.hand_to(self)  # type: ignore[arg-type]
        self.clock["open"] = 1

    def start(self, seq: int, parts: Parts) -> None:
        self.told.append(("start", seq))

    def stop(self, seq: int) -> None:
        self.told.append(("stop", seq))

    def replay(self, until_s: float) -> list[DecisionRecord]:
        decided: list[DecisionRecord] = []
        while True:
            self.clock["until_s"] = self.answers[0][0] if self.answers else until_s
            self.clock["pause_at"] = self.clock["decisions"]  # stop before the next decision
            code = self.advance()
            if code == kernels.PAUSE:  # and right after it
                self.clock["until_s"], self.clock["pause_at"] = np.nextafter(self.clock["now_s"], np.inf), self.clock["decisions"] + 1
                while self.advance() != kernels.EXTERNAL:
                    pass
                decided.append(self.record())
            elif code == kernels.EXTERNAL and not self.answers:
                return decided
            elif code == kernels.EXTERNAL:
                self._hear()

    def _hear(self) -> None:
        while self.answers and self.answers[0][0] <= self.clock["now_s"]:
            _, name, arguments = self.answers.pop(0)
            getattr(self, name)(*arguments)

    def avoid(self, seq: int, node: int) -> None:
        self.state.jobs[self.row(seq)]["avoid"] = node
        kernels.decide_soon(self.state.clock)

    def offer(self, seq: int) -> None:
        self.state.jobs[self.row(seq)]["new"] = 1
        super().offer(seq)


def columns(record: DecisionRecord) -> dict[str, list[Any]]:
    order = np.argsort(record.seq)
    shown = {name: record.columns[name][order].tolist() for name in ("attained_gpu_s", "submit_s", "running")}
    return {"now_s": record.now_s, "seq": record.seq[order].tolist(), "verdict": record.verdict[order].tolist(),
            "short_gpus": record.short_gpus[order].tolist(), **shown}  # fmt: skip


@pytest.mark.parametrize("policy", ["fifo-greedy", "las", "tiresias-las", "conservative-backfill"])
@pytest.mark.parametrize("seed", range(4))
def test_the_twin_decides_what_the_live_cluster_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, seed: int):
    chance = random.Random(f"{policy} {seed}")
    recorder = Recorder(monkeypatch)
    site = Site(tmp_path, 4, 2, policy=policy, rules=RULES, start_delay_s=1.5, stop_delay_s=4.25,
                refuse=lambda attempt: attempt.attempt == 1 and attempt.job % 5 == 0)  # fmt: skip
    site.controller.on_decision = lambda made: recorder.decided.append(made.record)
    clock = site.clock
    submissions = sorted(chance.uniform(0, 200) for _ in range(25))
    while clock.now_s < 1_000 + 600:
        clock.now_s += chance.choice([0.25, 0.5, 1.0, 3.0])
        while submissions and 1_000 + submissions[0] <= clock.now_s:
            submissions.pop(0)
            site.plane.submit([spec(chance.uniform(5, 60), chance.choice([1, 1, 2, 4]), limit_s=100)], "ada")
        if chance.random() < 0.01 and site.machine.running():
            site.machine.lose(chance.choice(sorted(site.machine.running())))
        site.turn()
    assert len(recorder.decided) > 40
    assert not site.controller.jobs

    table = table_of(list(recorder.jobs.values()), RULES, site.controller.estimates)
    table = table.replace(preemptible=np.zeros(len(table), bool))  # none had registered a checkpoint when it came
    twin = Twin(recorder, table, site.controller.cluster, site.controller.scheduling.policy, site.controller.setup)
    decided = twin.replay(clock.now_s + 1)

    with_jobs = [record for record in recorder.decided if len(record.seq)]  # the controller also decides when it starts
    for live, simulated in zip(with_jobs, [record for record in decided if len(record.seq)], strict=True):
        assert columns(simulated) == columns(live)
    site.controller.store.close()


def test_the_machine_of_these_tests_gives_no_gpu_twice():
    clock = Clock()
    machine = Machine.of(clock, 2)
    assert machine.free("n0") == 2
