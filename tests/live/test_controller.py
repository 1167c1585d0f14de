"""The controller on a clock that the test moves: what it decides, what it writes down, what it tells the backend."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from live.machine import Clock, Machine
from trainmaster.cluster.cluster import QueueSpec
from trainmaster.errors import Conflict, InputError, NotFound
from trainmaster.live.control import JobFilter, JobUpdate
from trainmaster.live.controller import Controller
from trainmaster.live.plane import Plane
from trainmaster.live.rules import Rules
from trainmaster.live.spec import Array, Dependency, JobSpec, Retry, StopSignal
from trainmaster.live.states import State
from trainmaster.live.store import Store, lease
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
    answer.annotate()
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


def test_a_refused_start_backs_off_and_the_node_is_avoided(site):
    s = site(1, 1, refuse=lambda attempt: attempt.shares[0].node == "n0")
    (job,) = s.submit(spec(5))
    s.until(4)
    assert s.plane.job(job).reason.startswith("backs off")
    s.until(20)
    assert s.state(job) is State.SUCCEEDED
    assert [record.nodes for record in s.plane.attempts(job)] == [("n0",), ("n1",)]


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
    s.plane.explainer.annotate()
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
    assert s.plane.job(big).reason == "can never fit: a gang of 8 on 1 nodes of 4 (4 GPUs)"


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
