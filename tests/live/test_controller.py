"""The controller on a clock that the test moves: what it decides, what it writes down, what it tells the backend."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from live.machine import Clock, Machine
from trainmaster.cluster.cluster import QueueSpec
from trainmaster.errors import BackendError, Conflict, InputError, NotFound
from trainmaster.live import controller as controllers
from trainmaster.live.control import JobFilter, JobUpdate
from trainmaster.live.controller import Controller
from trainmaster.live.plane import Plane
from trainmaster.live.rules import Rules
from trainmaster.live.spec import Array, Dependency, JobSpec, Retry, StopSignal
from trainmaster.live.states import State
from trainmaster.live.store import Store, StoreUnavailable, lease
from trainmaster.policies.registry import find_policy

RULES = Rules(min_run_s=0.0, most_preemptions=0, poll_s=0.0)


def spec(run_s: float, gpus: float = 1, **more: Any) -> JobSpec:
    """A job that runs for so long."""
    return JobSpec(name=more.pop("name", f"{run_s:g}"), command=("true",), gpus=gpus, **more)


class Site:
    """One cluster: a machine, a store, and controllers that come and go."""

    def __init__(self, path: Path, *gpus: int, policy: str = "fifo-greedy", rules: Rules = RULES,
                 queues: dict[str, QueueSpec] | None = None, **machine: Any) -> None:  # fmt: skip
        self.clock = Clock()
        self.machine = Machine.of(self.clock, *gpus, **machine)
        self.path, self.policy, self.rules, self.queues = path, policy, rules, queues
        self.boot()

    def boot(self) -> None:
        owner = f"{socket.gethostname()}:{os.getpid()}"
        store = Store.open(f"sqlite:///{self.path / 'store.db'}", owner=owner, now=self.clock)
        self.controller = Controller(store, self.machine, find_policy(self.policy)(), rules=self.rules, queues=self.queues, now=self.clock)
        self.controller.recover()
        self.plane = Plane(self.controller)

    def crash(self) -> None:
        """The controller is gone, whatever it was doing; another takes its place."""
        lease.HELD.discard(self.controller.store._lease.token)  # as if the process were gone
        self.controller.store._database.close()
        self.boot()

    def submit(self, *specs: JobSpec, key: str | None = None, user: str = "ada") -> list[int]:
        answer = self.plane.submit(specs, user, key)
        self.turn()
        return answer.result(0)

    def do(self, answer: Any) -> Any:
        self.turn()
        return answer.result(0)

    def turn(self) -> None:
        self.controller.quiet_until = 0.0
        self.controller.turn()
        self.controller.quiet_until = 0.0

    def until(self, at_s: float, step_s: float = 1.0) -> None:
        """Time passes; the controller takes a turn every step."""
        while self.clock.now_s < 1_000.0 + at_s:
            self.clock.now_s = min(self.clock.now_s + step_s, 1_000.0 + at_s)
            self.turn()

    def state(self, job: int) -> State:
        return self.plane.job(job).state

    def states(self) -> list[str]:
        return [record.state.value for record in self.plane.jobs(JobFilter(all=True))]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Any]:
    made: list[Site] = []

    def make(*gpus: int, **more: Any) -> Site:
        made.append(Site(tmp_path, *gpus, **more))
        return made[-1]

    yield make
    for each in made:
        each.controller.store.close()


def test_jobs_run_in_the_order_of_the_policy_and_end(site):
    s = site(2)
    first, second, third = s.submit(spec(10), spec(5), spec(5))

    assert s.machine.running() == set() or s.machine.running() <= {first, second}
    s.until(1)
    assert s.machine.running() == {first, second}
    assert s.state(third) is State.PENDING
    s.until(7)
    assert s.state(second) is State.SUCCEEDED and s.state(third) is State.RUNNING
    s.until(20)
    assert s.states() == ["SUCCEEDED"] * 3
    assert s.plane.job(first).run_s == pytest.approx(10, abs=1)


def test_jobs_asked_for_by_id_are_read_from_the_store_only_when_one_has_ended(site, monkeypatch):
    s = site(2)
    ended, running, other = s.submit(spec(1), spec(100), spec(100))
    s.until(10)
    asked = []
    read = s.controller.store.jobs
    monkeypatch.setattr(s.controller.store, "jobs", lambda which: asked.append(which.ids) or read(which))

    assert [job.id for job in s.plane.jobs(JobFilter(ids=(running, other), all=True))] == [running, other]
    assert asked == []
    found = s.plane.jobs(JobFilter(ids=(running, ended), all=True))
    assert [(job.id, job.state) for job in found] == [(ended, State.SUCCEEDED), (running, State.RUNNING)]
    assert asked == [(running, ended)]


def test_a_job_that_checkpoints_is_stopped_for_a_shorter_one_and_goes_on(site):
    s = site(4, policy="las", stop_delay_s=3)
    (long,) = s.submit(spec(100, 4))
    s.until(30)
    (short,) = s.submit(spec(10, 4))
    assert s.state(long) is State.PREEMPTING
    s.until(32)
    assert s.machine.running() == {long}  # it has not gone yet: nobody else is on its GPUs
    s.until(36)
    assert s.state(short) is State.RUNNING and s.state(long) is State.PENDING
    s.until(150)
    assert s.states() == ["SUCCEEDED"] * 2
    record = s.plane.job(long)
    assert (record.preemptions, record.attempts) == (1, 2)


def test_a_job_that_ends_by_itself_while_it_drains_makes_room_for_the_one_it_was_stopped_for(site):
    s = site(4, policy="las", stop_delay_s=1e9)
    (long,) = s.submit(spec(40, 4))
    s.until(30)
    (short,) = s.submit(spec(5, 4))
    assert s.state(long) is State.PREEMPTING
    s.until(43)
    assert s.state(long) is State.SUCCEEDED and s.state(short) is State.RUNNING


def test_a_job_that_registers_no_checkpoint_is_pinned_and_why_says_so(site):
    s = site(4, policy="las", checkpoints=False)
    (long,) = s.submit(spec(100, 4))
    s.until(30)
    (short,) = s.submit(spec(10, 4))
    s.until(60)

    assert s.state(short) is State.PENDING and s.state(long) is State.RUNNING
    answer = s.plane.explainer
    answer.annotate([s.controller.jobs[long]])
    assert answer._holding(s.controller.jobs[long], s.controller.made).code == "pinned"


def test_a_running_job_that_is_cancelled_ends_once_nothing_of_it_is_left(site):
    s = site(1, stop_delay_s=5)
    (job,) = s.submit(spec(100))
    s.until(3)
    s.do(s.plane.cancel([job], "ada"))
    assert s.state(job) is State.COMPLETING
    s.until(10)
    assert s.state(job) is State.CANCELLED


def test_a_waiting_job_that_is_cancelled_ends_at_once(site):
    s = site(1)
    s.submit(spec(100))
    (job,) = s.submit(spec(100))
    s.do(s.plane.cancel([job], "ada"))
    assert s.state(job) is State.CANCELLED
    s.do(s.plane.cancel([job], "ada"))  # again is no mistake
    with pytest.raises(NotFound):
        s.do(s.plane.cancel([99], "ada"))


def test_a_suspended_job_gives_its_gpus_back_until_it_is_resumed(site):
    s = site(1, stop_delay_s=2)
    one, two = s.submit(spec(50), spec(50))
    s.until(5)
    s.do(s.plane.suspend([one], "ada"))
    s.until(10)
    assert s.state(one) is State.SUSPENDED and s.machine.running() == {two}
    s.do(s.plane.resume([one], "ada"))
    s.until(130)
    assert s.states() == ["SUCCEEDED"] * 2
    with pytest.raises(Conflict):
        s.do(s.plane.resume([one], "ada"))


def test_a_requeued_job_waits_again_and_starts_with_nobody_in_its_way(site):
    s = site(4, stop_delay_s=2.0)
    (one,) = s.submit(spec(100, 4))
    s.until(10)
    s.do(s.plane.requeue([one], "ada"))
    assert s.state(one) is State.PREEMPTING
    s.submit(spec(1, 1))  # the engine is built anew while it drains
    s.until(20)
    assert s.state(one) is State.RUNNING and s.plane.job(one).attempts == 2
    s.do(s.plane.requeue([one], "ada"))
    s.do(s.plane.hold([one], "ada"))
    s.until(30)
    assert s.state(one) is State.PENDING
    s.do(s.plane.release([one], "ada"))
    s.until(150)
    assert s.state(one) is State.SUCCEEDED


def test_a_held_job_waits_for_its_release(site):
    s = site(1)
    (job,) = s.submit(spec(5, hold=True))
    s.until(5)
    assert s.state(job) is State.PENDING and s.plane.job(job).reason == "held"
    s.do(s.plane.release([job], "ada"))
    s.until(15)
    assert s.state(job) is State.SUCCEEDED


def test_a_dependency_lets_a_job_go_when_it_is_met_and_ends_it_when_it_never_can_be(site):
    s = site(2)
    good, bad = s.submit(spec(5), spec(5, name="5-3"))
    after_good, after_bad, anyway = s.submit(
        spec(1, after=(Dependency(kind="afterok", job=good),)),
        spec(1, after=(Dependency(kind="afterok", job=bad),)),
        spec(1, after=(Dependency(kind="afterany", job=bad),)),
    )
    s.until(3)
    assert s.state(after_good) is State.PENDING
    s.until(20)
    assert [s.state(job) for job in (good, bad, after_good, after_bad, anyway)] == [
        State.SUCCEEDED, State.FAILED, State.SUCCEEDED, State.CANCELLED, State.SUCCEEDED]  # fmt: skip
    with pytest.raises(InputError):
        s.submit(spec(1, after=(Dependency(kind="afterok", job=77),)))


def test_no_more_elements_of_an_array_run_than_its_limit(site):
    s = site(8)
    ids = s.submit(spec(10, array=Array(indices=tuple(range(6)), limit=2)))
    assert len(ids) == 6
    for at_s in range(1, 40):
        s.until(at_s)
        assert len(s.machine.running()) <= 2
    assert s.states() == ["SUCCEEDED"] * 6
    record = s.plane.job(ids[3])
    assert (record.array_job, record.array_index) == (ids[0], 3)


def test_a_job_past_its_limit_is_stopped_and_had_its_signal_before(site):
    s = site(1, stop_delay_s=1)
    (job,) = s.submit(spec(100, limit_s=30, signal=StopSignal(number=10, before_s=10)))
    s.until(25)
    assert ("signal 10", job, 1) in s.machine.told
    assert s.state(job) is State.RUNNING
    s.until(40)
    assert s.state(job) is State.TIMEOUT


def test_a_failed_job_is_tried_again_for_the_exit_codes_it_names(site):
    s = site(1)
    retry = Retry(max=2, exit_codes=(3,))
    job, other = s.submit(spec(5, name="5-3", retry=retry), spec(5, name="5-4", retry=retry))
    s.until(60)
    assert (s.plane.job(job).attempts, s.plane.job(other).attempts) == (3, 1)
    assert s.states() == ["FAILED", "FAILED"]


def test_a_lost_attempt_is_started_again(site):
    s = site(1)
    (job,) = s.submit(spec(20))
    s.until(5)
    s.machine.lose(job)
    s.until(50)
    assert s.state(job) is State.SUCCEEDED
    assert (s.plane.job(job).attempts, s.plane.job(job).failures) == (2, 1)


def test_a_job_that_said_no_requeue_runs_only_once(site):
    s = site(2)
    lost, fine = s.submit(spec(50, requeue=False), spec(50, requeue=False))
    s.until(5)
    with pytest.raises(Conflict, match="is not to be requeued"):
        s.do(s.plane.requeue([fine], "ada"))
    s.machine.lose(lost)
    s.until(60)

    assert (s.state(lost), s.state(fine)) == (State.FAILED, State.SUCCEEDED)
    assert s.plane.job(lost).reason == "node failure: its supervisor was killed; it is not to be requeued"
    assert s.plane.job(lost).attempts == 1


def test_a_refused_start_backs_off_and_the_node_is_avoided(site):
    s = site(1, 1, refuse=lambda attempt: attempt.shares[0].node == "n0")
    (job,) = s.submit(spec(5))
    s.until(4)
    assert s.plane.job(job).reason.startswith("backs off")
    s.until(20)
    assert s.state(job) is State.SUCCEEDED
    assert [record.nodes for record in s.plane.attempts(job)] == [("n0",), ("n1",)]


def test_a_gang_finds_out_which_of_its_nodes_cannot_start_it(site):
    s = site(1, 1, 1, refuse=lambda attempt: any(share.node == "n1" for share in attempt.shares), rules=replace(RULES, backoff_s=1.0))
    (job,) = s.submit(spec(5, 2, nodes=2))
    s.until(60)
    assert s.state(job) is State.SUCCEEDED
    assert [record.nodes for record in s.plane.attempts(job)] == [("n0", "n1"), ("n1", "n2"), ("n0", "n2")]


def test_a_start_that_fails_every_time_holds_the_job_for_a_person(site):
    s = site(1, refuse=lambda attempt: True, rules=Rules(poll_s=0.0, backoff_s=1.0, most_start_failures=3))
    (job,) = s.submit(spec(5))
    s.until(30)
    record = s.plane.job(job)
    assert record.state is State.PENDING and record.reason.startswith("held after 3 failed starts")


def test_a_start_that_hangs_is_given_up_and_tried_again(site):
    s = site(1, 1, hang=lambda attempt: attempt.attempt == 1, rules=Rules(poll_s=0.0, start_timeout_s=10))
    (job,) = s.submit(spec(5))
    s.until(60)
    assert s.state(job) is State.SUCCEEDED and s.plane.job(job).attempts == 2


def test_a_stop_that_nobody_acknowledges_keeps_the_gpus_held_and_raises_an_alert(site):
    s = site(4, policy="las", deaf=lambda job: job == 1)
    s.submit(spec(1_000, 4))
    s.until(30)
    (short,) = s.submit(spec(10, 4))
    s.until(200)
    assert s.state(short) is State.PENDING and s.machine.running() == {1}
    assert any("job 1" in alert for alert in s.plane.status()["alerts"])


def test_the_same_request_makes_its_jobs_once(site):
    s = site(1)
    ids = s.submit(spec(1), spec(2), key="k1")
    assert s.submit(spec(1), spec(2), key="k1") == ids
    assert s.submit(spec(1), key="k1", user="bob") != ids[:1]


def test_queues_have_their_quotas_and_unknown_ones_are_refused(site):
    s = site(4, queues={"a": QueueSpec(quota_gpus=2), "b": QueueSpec(quota_gpus=2)}, policy="fifo-greedy")
    jobs = s.submit(*(spec(50, queue="a") for _ in range(3)), spec(50, queue="b"))
    s.until(5)
    assert s.machine.running() == {jobs[0], jobs[1], jobs[3]}
    assert s.plane.job(jobs[2]).reason == "quota"
    with pytest.raises(InputError, match="no queue"):
        s.submit(spec(1, queue="c"))


def test_a_drained_node_keeps_its_job_and_takes_no_other(site):
    s = site(1, 1)
    _, second = s.submit(spec(20), spec(5))
    s.until(2)
    node = s.plane.job(second).nodes[0]
    s.do(s.plane.drain(node, "a fan is loud", "root"))
    (third,) = s.submit(spec(5))
    s.until(15)
    assert s.state(second) is State.SUCCEEDED and s.state(third) is State.PENDING
    s.do(s.plane.resume_node(node, "root"))
    s.until(25)
    assert s.state(third) is State.SUCCEEDED


@pytest.mark.parametrize("first_on_the_drained", [True, False])
def test_nobody_is_stopped_on_a_drained_node_for_a_job_that_may_not_come_there(site, first_on_the_drained):
    s = site(4, 4, policy="las")
    (first,) = s.submit(spec(1000, 4, preemptible=True))
    s.until(5)
    (second,) = s.submit(spec(1000, 4, preemptible=True))
    s.until(10)
    drained, other = (first, second) if first_on_the_drained else (second, first)
    s.do(s.plane.drain(s.plane.job(drained).nodes[0], "a fan is loud", "root"))
    (third,) = s.submit(spec(1000, 4, preemptible=True))
    s.until(30)
    assert s.machine.running() == {drained, third}
    assert s.state(other) is State.PENDING


def test_an_update_changes_the_order(site):
    s = site(1)
    _, _, third = s.submit(spec(10), spec(10), spec(10))
    s.do(s.plane.update(third, JobUpdate(priority=5.0), "ada"))
    s.until(15)
    assert s.machine.running() == {third}


def test_a_policy_can_be_changed_while_jobs_run(site):
    s = site(4, policy="fifo-greedy")
    s.submit(spec(100, 4))
    (short,) = s.submit(spec(10, 4))
    s.until(30)
    assert s.state(short) is State.PENDING
    s.do(s.plane.set_policy("las", [], "root"))
    s.until(40)
    assert s.state(short) is State.RUNNING
    s.until(200)
    assert s.states() == ["SUCCEEDED"] * 2
    with pytest.raises(InputError, match="true run times"):
        s.plane.set_policy("srtf", [], "root")


def test_a_job_that_can_never_fit_says_so_and_others_run(site):
    s = site(4)
    big, small = s.submit(spec(5, 8), spec(5))
    s.until(10)
    assert s.state(small) is State.SUCCEEDED
    assert s.plane.job(big).reason == "can never fit: a gang of 8 on 1 node of 4 (4 GPUs)"


@pytest.mark.parametrize(("asked", "why"), [
    ({"gpus": 8, "nodes": 2}, None),
    ({"gpus": 6, "nodes": 3}, "a gang of 6, 2 on each of 3 nodes, on 2 nodes of 4 (8 GPUs)"),
    ({"gpus": 2, "gpu_memory_gib": 40}, None),
    ({"gpus": 2, "gpu_memory_gib": 141}, "no node of this cluster is for type h200 or b200 or gb200 or 3 others"),
])  # fmt: skip
def test_what_can_never_fit_is_said_at_submission(site, asked, why):
    s = site(4, 4, type="a100")

    assert s.plane.never_fit([spec(5, **asked)]) == ([f"can never fit this cluster as it is: {why}"] if why else [])


def test_a_gang_lies_evenly_on_exactly_the_nodes_it_asks_for(site):
    s = site(4, 4, 4)
    _, two, late = s.submit(spec(10, 1), spec(20, 4, nodes=2), spec(5, 6, nodes=2))
    s.until(1)

    assert s.plane.job(two).nodes == ("n0", "n1") and s.plane.attempts(two)[0].gpus == (2, 2)
    s.until(15)
    assert s.state(late) is State.PENDING  # 4, 2 and 2 are free: no two nodes have three
    with pytest.raises(InputError, match="5 do not lie evenly on the 2 nodes"):
        s.do(s.plane.update(late, JobUpdate(gpus=5), "ada"))
    assert "if it did not ask for 2 nodes" in s.plane.why(late).counterfactual
    s.until(22)
    assert s.plane.attempts(late)[0].gpus == (3, 3)


def test_a_job_goes_to_accelerators_with_the_memory_it_asks_for(site):
    s = site(2, 2, type=("v100", "a100"))
    either, big = s.submit(spec(5, 1, gpu_memory_gib=10), spec(5, 2, gpu_memory_gib=40))
    s.until(1)

    assert s.plane.job(big).nodes == ("n1",)
    assert s.plane.job(either).nodes == ("n0",)


def test_a_crash_at_any_turn_loses_nothing_and_runs_nothing_twice(site):
    s = site(4, policy="las", stop_delay_s=2, start_delay_s=1)
    jobs = s.submit(spec(40, 4), spec(10, 2), spec(5, 1), spec(5, 3))
    for at_s in range(1, 160):
        s.until(at_s)
        if at_s % 3 == 0:
            s.crash()
    assert s.states() == ["SUCCEEDED"] * len(jobs)
    for job in jobs:
        ended = [event for event in s.plane.events(job=job) if event.state is not None and State(event.state).ended]
        assert len(ended) == 1


def test_promises_cancelled_together_that_make_room_for_one_another_all_end(site):
    s = site(4, 4, policy="las", stop_delay_s=50)
    s.submit(spec(500, 4), spec(500, 4))
    s.until(30)
    promised = s.submit(spec(10, 4), spec(10, 2), spec(10, 2))  # both long jobs drain for them
    s.until(32)
    s.do(s.plane.cancel(promised, "ada"))
    s.until(120)

    assert [s.state(job) for job in promised] == [State.CANCELLED] * 3
    assert s.machine.running() == {1, 2}


def test_a_job_that_ends_while_it_drains_and_is_promised_gpus_again_is_over(site):
    s = site(1, policy="las", stop_delay_s=30)
    (first,) = s.submit(spec(20))
    s.until(10)
    (second,) = s.submit(spec(5))
    s.until(13)
    assert s.state(first) is State.PREEMPTING
    s.do(s.plane.cancel([second], "ada"))
    s.until(60)
    assert s.state(first) is State.SUCCEEDED and s.plane.job(first).attempts == 1
    assert s.machine.running() == set()


def test_others_that_take_gpus_of_a_running_job_take_them_from_the_jobs_after_it(site):
    """4 GPUs, our job has 3 when somebody else takes 2: 1 is too few for anyone until the job ends, and then 2 are left."""
    s = site(4)
    s.submit(spec(100, gpus=3))
    s.until(5)
    s.machine.nodes = [replace(seen, others_gpus=2.0) for seen in s.machine.nodes]
    s.until(10)
    s.submit(spec(10, gpus=2), spec(10, gpus=3))
    s.until(40)
    assert s.states() == ["RUNNING", "PENDING", "PENDING"]
    s.until(150)
    assert s.states() == ["SUCCEEDED", "SUCCEEDED", "PENDING"]
    s.machine.nodes = [replace(seen, others_gpus=0.0) for seen in s.machine.nodes]
    s.until(180)
    assert s.states() == ["SUCCEEDED"] * 3


@pytest.mark.parametrize("seed", range(4))
def test_parts_of_gpus_and_whole_ones_are_pinned_to_devices_that_are_free_in_fact(site, seed):
    draw = random.Random(seed)
    s = site(2, 3, policy="las", stop_delay_s=4, start_delay_s=1)
    for _ in range(40):
        s.submit(*(spec(draw.randint(3, 30), draw.choice([0.3, 0.5, 0.6, 1, 2])) for _ in range(draw.randint(0, 2))))
        held = [record.id for record in s.plane.jobs(JobFilter()) if record.nodes and record.state is not State.COMPLETING]
        if held and draw.random() < 0.3:
            s.do(s.plane.cancel([draw.choice(held)], "ada"))
        s.until(s.clock.now_s - 1_000 + draw.randint(1, 4))
        if draw.random() < 0.1:
            s.crash()

    s.until(3_000, step_s=20)  # the machine asserts that no device is held twice
    assert {record.state for record in s.plane.jobs(JobFilter(all=True))} <= {State.SUCCEEDED, State.CANCELLED}


def test_gpus_that_others_begin_to_use_are_given_to_nobody_and_shared_ones_stay_shared(site):
    s = site(3)
    first, *two = s.submit(spec(5, 0.6), spec(100, 0.6), spec(100, 0.6))
    s.until(10)
    assert s.state(first) is State.SUCCEEDED  # the GPU that it had is another's now:
    s.machine.nodes = [replace(s.machine.nodes[0], others_gpus=1.0, others_devices=(0,))]
    beside, whole = s.submit(spec(20, 0.4), spec(20, 1))
    s.until(15)

    devices = {job: s.controller.jobs[job].attempt.shares[0].devices for job in (*two, beside)}
    assert sorted(devices[job] for job in two) == [(1,), (2,)] and devices[beside] in ((1,), (2,))
    assert s.state(whole) is State.PENDING
    s.crash()
    s.until(40)
    assert s.state(beside) is State.SUCCEEDED and s.machine.running() == set(two)


def test_an_attempt_that_is_lost_before_it_runs_is_a_failed_start_and_backs_off(site):
    s = site(1, hang=lambda attempt: attempt.attempt <= 3, rules=Rules(poll_s=0.0, backoff_s=4.0))
    (job,) = s.submit(spec(5))
    lost_s = []
    for _ in range(60):
        s.until(s.clock.now_s - 1_000 + 1)
        if s.state(job) is State.STARTING and s.plane.job(job).attempts <= 3:
            s.machine.lose(job)
            lost_s.append(s.clock.now_s)
    assert s.state(job) is State.SUCCEEDED and s.plane.job(job).failures == 0
    assert [after - before >= backoff_s for (before, after), backoff_s in zip(pairwise(lost_s), (4, 8), strict=True)] == [True, True]


class Away:
    """The store's next so many transactions fail; `asked` is called at each."""

    def __init__(self, s: Site, monkeypatch: pytest.MonkeyPatch, times: int, asked: Callable[[], None] = lambda: None) -> None:
        self.begin, self.times, self.asked = s.controller.store.begin, times, asked
        monkeypatch.setattr(controllers, "RETRY_S", 0.0)
        monkeypatch.setattr(s.controller.store, "begin", self)

    def __call__(self) -> Any:
        if not self.times:
            return self.begin()
        self.times -= 1
        self.asked()
        raise StoreUnavailable("store.db: database or disk is full; nothing was written, try again")


def test_what_a_store_that_is_away_cannot_write_is_refused_at_once_and_running_jobs_are_not_touched(site, monkeypatch):
    s = site(4)
    (runs,) = s.submit(spec(20))
    s.until(5)
    meanwhile = []
    Away(s, monkeypatch, 3, lambda: meanwhile.append(s.plane.submit([spec(5)], "ada", f"k{len(meanwhile)}")))
    first = s.plane.submit([spec(5), spec(5)], "ada", "k")
    s.turn()  # as long as it takes
    for answer in (first, *meanwhile):
        with pytest.raises(StoreUnavailable, match="disk is full"):
            answer.result(0)
    assert len(meanwhile) == 3 and "store" not in s.controller.alerts
    assert s.states() == ["RUNNING"]

    again = s.submit(spec(5), spec(5), key="k")
    s.until(40)
    assert again == [runs + 1, runs + 2] and s.states() == ["SUCCEEDED"] * 3


def test_what_was_seen_while_the_store_is_away_is_written_down_once_it_is_back(site, monkeypatch):
    s = site(1)
    first, second = s.submit(spec(5), spec(5))
    s.until(3)
    Away(s, monkeypatch, 50)
    s.until(30)
    assert s.states() == ["SUCCEEDED", "SUCCEEDED"]
    assert [s.plane.job(job).attempts for job in (first, second)] == [1, 1]


@pytest.mark.parametrize("jump_s", [-300.0, -5.0, 30.0, 86_400.0])
def test_a_clock_that_jumps_loses_nothing_and_ends_nobody_twice(site, jump_s):
    s = site(2, policy="las", stop_delay_s=2, start_delay_s=1)
    jobs = s.submit(spec(20, 2), spec(10), spec(5))
    s.until(6)
    s.clock.now_s += jump_s
    s.until(max(jump_s, 0.0) + 120)  # the controller of a clock that was set back stands still until it has caught up
    assert s.states() == ["SUCCEEDED"] * 3
    for job in jobs:
        attempts = s.plane.attempts(job)
        assert all(before.end_s <= after.claimed_s for before, after in pairwise(attempts))
        assert all(attempt.end_s >= attempt.claimed_s for attempt in attempts)
        assert s.plane.job(job).failures == 0


def test_a_start_that_the_controller_did_not_live_to_ask_for_has_its_whole_time_with_the_next(site, monkeypatch):
    s = site(1, start_delay_s=5, rules=Rules(poll_s=0.0, start_timeout_s=10))
    monkeypatch.setattr(s.machine, "start", lambda attempt: (_ for _ in ()).throw(BackendError("the controller dies here")))
    (job,) = s.submit(spec(5))
    assert s.state(job) is State.STARTING
    monkeypatch.undo()
    s.clock.now_s += 300
    s.crash()
    s.until(350)
    assert s.state(job) is State.SUCCEEDED and s.plane.job(job).attempts == 1
