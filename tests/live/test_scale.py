"""A hundred nodes and five hundred jobs: nothing is lost or runs twice, whatever happens to nodes, jobs and the controller meanwhile.

The simulated cluster breaks the test when an accelerator is given twice or two attempts of a job run at once.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import pytest

from live.machine import Clock
from trainmaster.cluster.cluster import Node
from trainmaster.errors import InvariantBroken
from trainmaster.live.backends.base import Attempt, NodeShare, Seen
from trainmaster.live.backends.simulated import SimulatedBackend
from trainmaster.live.control import JobFilter
from trainmaster.live.controller import Controller
from trainmaster.live.plane import Plane
from trainmaster.live.rules import Rules
from trainmaster.live.spec import JobSpec
from trainmaster.live.states import State
from trainmaster.live.store import Store, lease
from trainmaster.policies.registry import find_policy

NODES, JOBS = 100, 500
RULES = Rules(min_run_s=0.0, most_preemptions=0, poll_s=0.0)


def attempt(job: int, number: int, *devices: int) -> Attempt:
    share = NodeShare(node="n0", gpus=len(devices), devices=devices)
    return Attempt(job=job, attempt=number, name="", user="ada", spec=JobSpec(command=("sleep", "60")), shares=(share,))


def cluster(nodes: int, clock: Clock) -> SimulatedBackend:
    made = [Node(name=f"n{i}", gpus=8) for i in range(nodes)]
    return SimulatedBackend(made, run_s=lambda one: float(one.spec.command[1]), clock=clock, wakes=False)


def test_the_simulated_cluster_refuses_to_give_an_accelerator_twice_and_to_run_a_job_twice_at_once():
    backend = cluster(1, Clock())
    backend.start(attempt(1, 1, 0, 1))
    with pytest.raises(InvariantBroken, match="n0:1"):
        backend.start(attempt(2, 1, 1, 2))
    with pytest.raises(InvariantBroken, match="attempt 2 while 1"):
        backend.start(attempt(1, 2, 5))
    with pytest.raises(InvariantBroken, match="n0:8"):
        backend.start(attempt(3, 1, 8))


def test_a_simulated_job_that_is_stopped_goes_on_from_where_it_was():
    clock = Clock()
    backend = cluster(1, clock)
    backend.start(attempt(1, 1, 0))
    clock.now_s += 40
    assert backend.observe()[0].seen is Seen.RUNNING
    backend.stop(1, 1, grace_s=30.0, reason="preempt")
    clock.now_s += 5
    (stopped,) = backend.observe()
    assert (stopped.seen, stopped.acknowledged, stopped.ended_s) == (Seen.ENDED, True, clock.now_s - 4)
    backend.forget(1, 1)
    backend.start(attempt(1, 2, 3))
    clock.now_s += 19  # 60 in all: 40.8 before and the second it took to stop
    assert backend.observe()[0].seen is Seen.RUNNING
    clock.now_s += 1
    assert backend.observe()[0].exit_code == 0
    assert backend.ended == {1: 1}


@pytest.mark.parametrize("policy", ["fifo-greedy", "las"])
def test_every_job_ends_once_though_nodes_are_lost_and_the_controller_dies(tmp_path: Path, policy: str):
    clock, chance = Clock(), random.Random(policy)
    backend = cluster(NODES, clock)

    def controller() -> Controller:
        store = Store.open(f"sqlite:///{tmp_path / 'store.db'}", owner=f"{socket.gethostname()}:{os.getpid()}", now=clock)
        begun = Controller(store, backend, find_policy(policy)(), rules=RULES, now=clock)
        begun.recover()
        return begun

    running, ids, cancelled = controller(), list[int](), set[int]()
    for turn in range(500):
        plane = Plane(running)
        asked = []
        if len(ids) < JOBS:
            gpus, length_s = chance.choice([1, 1, 2, 4, 8, 16, 0.5]), chance.uniform(5, 90)
            specs = [JobSpec(command=("sleep", f"{length_s:g}"), gpus=gpus, limit_s=2 * length_s + 30)] * 10
            asked.append(plane.submit(specs, "ada"))
        if ids and turn % 7 == 0 and turn < 200:
            asked_for = chance.choice(ids)
            cancelled.add(asked_for)
            plane.cancel([asked_for], "ada")
        if turn % 25 == 10:
            backend.lose(f"n{chance.randrange(NODES)}")
        if turn % 25 == 20:
            for node in backend.inventory():
                backend.repair(node.name)
        running.quiet_until = 0.0
        running.turn()
        for answer in asked:
            ids += answer.result(0)
        if turn in (40, 120):  # the controller is killed; another takes its place
            lease.HELD.discard(running.store._lease.token)
            running.store._database.close()
            running = controller()
        if len(ids) >= JOBS and not running.jobs:
            break
        clock.now_s += chance.choice([0.5, 1.0, 5.0])

    records = {record.id: record for record in running.store.jobs(JobFilter(all=True))}
    running.store.close()
    assert sorted(records) == ids
    assert {record.state for record in records.values()} == {State.SUCCEEDED, State.CANCELLED}
    assert {id for id, record in records.items() if record.state is State.CANCELLED} <= cancelled
    succeeded = [id for id, record in records.items() if record.state is State.SUCCEEDED]
    assert {id: backend.ended[id] for id in succeeded} == dict.fromkeys(succeeded, 1)
    assert any(record.failures for record in records.values())
    assert any(record.preemptions for record in records.values()) == (policy == "las")
    assert backend.observe() == []
