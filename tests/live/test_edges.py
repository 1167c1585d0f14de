"""What is rare and must not be fatal: odd requests, promises that cannot be kept, nodes that shrink or are gone, policies that refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from live.test_controller import RULES, site, spec
from trainmaster.cluster.cluster import Node, QueueSpec
from trainmaster.errors import InputError
from trainmaster.live import controller as controllers
from trainmaster.live.backends.base import NodeSeen
from trainmaster.live.control import JobUpdate
from trainmaster.live.rules import QueueRules
from trainmaster.live.spec import Array, Dependency, JobSpec
from trainmaster.live.states import State

__all__ = ["site"]


def promised(site):
    """A job that has been given four GPUs which another is still leaving."""
    s = site(4, policy="las", stop_delay_s=10)
    s.submit(spec(500, 4))
    s.until(30)
    (job,) = s.submit(spec(50, 4))
    s.until(32)
    return s, job


# ------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize("asked", [
    {"gpus": 0.0001}, {"gpus": 0, "cpus": 0.0001}, {"gpus": 1, "min_gpus": 8}, {"gpus": 8, "max_gpus": 2}, {"gpus": 0.5, "min_gpus": 0.3},
    {"gpus": 2, "max_gpus": 2.5}, {"gpus": 0, "cpus": 1, "min_gpus": 2},
])  # fmt: skip
def test_amounts_that_no_engine_can_count_with_are_refused_at_submission(asked):
    with pytest.raises(ValidationError):
        spec(5, **asked)


def test_an_update_cannot_ask_for_what_a_submission_could_not(site):
    s = site(4, queues={"short": QueueSpec(), "long": QueueSpec()}, rules=replace(RULES, queues={"short": QueueRules(limit_s=60)}))
    running, short, long, elastic = s.submit(
        spec(500, 4), spec(5, queue="short"), spec(5, queue="long"), spec(5, 2, min_gpus=2, max_gpus=4))
    s.until(2)

    for job, change, why in [
        (short, JobUpdate(limit_s=61), "more than queue short allows"), (short, JobUpdate(gpus=0.0001), "the least of a GPU"),
        (elastic, JobUpdate(gpus=1), "between the least and the most"), (elastic, JobUpdate(gpus=8), "between the least and the most"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=why):
            s.do(s.plane.update(job, change, "ada"))
    s.do(s.plane.update(long, JobUpdate(queue="short"), "ada"))
    assert s.plane.job(long).limit_s == 60
    s.do(s.plane.update(running, JobUpdate(limit_s=3_600), "ada"))
    assert s.plane.job(running).limit_s == 3_600


def test_a_job_that_somebody_has_said_is_not_to_be_stopped_stays_so_though_it_checkpoints(site):
    s = site(4, policy="las")
    (job,) = s.submit(spec(100, 4))
    s.until(20)
    s.do(s.plane.update(job, JobUpdate(preemptible=False), "ada"))
    s.until(22)
    s.crash()
    s.do(s.plane.requeue([job], "ada"))
    (short,) = s.submit(spec(5, 4, priority=-1))
    s.until(30)
    s.do(s.plane.update(short, JobUpdate(priority=5), "ada"))
    s.until(60)
    assert (s.state(job), s.state(short), s.plane.job(job).preemptible) == (State.RUNNING, State.PENDING, False)
    s.do(s.plane.update(job, JobUpdate(preemptible=True), "ada"))
    s.until(65)
    assert s.state(short) is State.RUNNING


def test_a_job_that_is_made_smaller_while_its_gpus_are_promised_starts_on_what_it_asks_for_now(site):
    s, job = promised(site)
    s.do(s.plane.update(job, JobUpdate(gpus=2), "ada"))
    s.until(60)
    assert s.state(job) is State.RUNNING and s.plane.attempts(job)[0].gpus == (2,)


def test_a_script_and_labels_of_the_longest_request_come_back_whole_from_the_store(site):
    """Half of 8 MiB in letters of two bytes, six characters each in the store's ASCII: 24 MiB of them altogether."""
    s = site(1)
    long = "é" * (2 << 20)
    (job,) = s.submit(JobSpec(name="5", script=long, labels={"note": long}))
    s.crash()
    s.until(10)
    assert s.state(job) is State.SUCCEEDED
    assert s.plane.spec(job).script == long and s.plane.job(job).labels == {"note": long}


# ------------------------------------------------------------------------------------------------- what is seen


def test_an_attempt_that_one_look_at_the_backend_lacks_is_not_lost(site, monkeypatch):
    s = site(2)
    (job,) = s.submit(spec(100))
    s.until(20)
    with monkeypatch.context() as patch:
        patch.setattr(s.machine, "observe", list)
        s.until(22)
    s.until(150)
    assert (s.state(job), s.plane.job(job).attempts) == (State.SUCCEEDED, 1)


def test_steps_that_an_attempt_had_told_of_are_lost_though_nothing_is_left_of_it(site, monkeypatch):
    s = site(2)
    (job,) = s.submit(spec(100))
    look = s.machine.look
    monkeypatch.setattr(s.machine, "look", lambda process: replace(look(process), step=100, saved_step=90))
    s.until(10)
    monkeypatch.undo()
    s.machine.processes.clear()
    s.until(20)
    record = s.plane.job(job)
    assert (record.attempts, record.lost_steps, record.step, record.saved_step) == (2, 10, 90, 90)
    assert s.plane.attempts(job)[0].lost_steps == 10


def test_a_job_that_said_no_requeue_is_not_requeued_at_its_own_wish_either(site, monkeypatch):
    s = site(2)
    (job,) = s.submit(spec(20, requeue=False))
    look = s.machine.look
    monkeypatch.setattr(s.machine, "look", lambda process: replace(look(process), requeue=True))
    s.until(60)
    assert (s.state(job), s.plane.job(job).attempts) == (State.SUCCEEDED, 1)


def test_a_clock_that_is_set_back_makes_nobody_have_run_for_less_than_nothing(site):
    s = site(1)
    (job,) = s.submit(spec(100))
    s.until(5)
    s.clock.now_s -= 500
    assert (s.plane.job(job).run_s, s.plane.job(job).gpu_s) == (0, 0)


# ------------------------------------------------------------------------------------------------- nodes


def test_a_node_that_is_drained_does_not_take_a_job_it_was_promised_to(site):
    s = site(4, 4, policy="las", stop_delay_s=10)
    s.submit(spec(500, 4), spec(500, 4))
    s.until(30)
    (job,) = s.submit(spec(50, 4))
    s.until(32)
    (node,) = [s.plane.job(other).nodes[0] for other in (1, 2) if s.state(other) is State.PREEMPTING]
    s.do(s.plane.drain(node, "a fan is loud", "root"))
    s.until(60)
    assert s.plane.attempts(job) == []
    s.do(s.plane.resume_node(node, "root"))
    s.until(75)
    assert [record.nodes for record in s.plane.attempts(job)] == [(node,)]


def test_a_controller_starts_though_a_node_that_jobs_were_on_is_gone(site):
    s = site(2, 2)
    jobs = s.submit(spec(50, 2), spec(50, 2), spec(50, 0.5, hold=True))
    s.until(5)
    gone = s.machine.nodes.pop()
    (lost,) = [job for job in jobs[:2] if s.plane.job(job).nodes == (gone.name,)]
    s.crash()
    s.until(10)
    assert [(node.name, node.state) for node in s.plane.nodes()] == [("n0", "allocated"), ("n1", "down")]
    s.machine.lose(lost)
    s.until(20)
    assert s.state(lost) is State.PENDING
    s.machine.nodes.append(gone)
    s.do(s.plane.release(jobs[2:], "ada"))
    s.until(150)
    assert s.states() == ["SUCCEEDED"] * 3


def test_others_that_take_gpus_beside_shared_ones_leave_those_their_own(site):
    """Three shared GPUs of four, 0.6 of each: a node of two would have to hold 1.8 on them."""
    s = site(4)
    jobs = s.submit(*(spec(100, 0.6) for _ in range(3)))
    s.until(5)
    s.machine.nodes = [replace(s.machine.nodes[0], others_gpus=2.0)]
    s.until(10)
    s.crash()
    s.until(120)
    assert [s.state(job) for job in jobs] == [State.SUCCEEDED] * 3


def test_what_is_given_after_others_took_gpus_and_before_the_engine_knows_is_held(site):
    """A turn has seen the others and could not decide yet; in the next a quantum of `las` has ended, on the node as it was."""
    s = site(4, policy="las", rules=replace(RULES, min_run_s=20.0), stop_delay_s=2)
    s.submit(spec(1_000, 2, preemptible=True))
    s.until(1)
    (larger,) = s.submit(spec(1_000, 4, preemptible=True))
    s.until(199)
    s.machine.nodes = [replace(s.machine.nodes[0], others_gpus=2.0)]
    s.controller.quiet_until = float("inf")
    s.clock.now_s += 0.5
    s.controller.turn()
    assert s.controller.stale and s.state(larger) is State.PENDING
    s.until(201)
    assert s.controller.scheduling.engine.cluster.nodes[0].gpus == 4
    s.until(210)
    assert s.state(larger) is State.RUNNING  # the node had room for it when it was told to start


def test_a_node_where_a_start_failed_is_not_avoided_by_a_job_that_has_no_other_of_its_type(site):
    s = site(1, 1, type=("a100", "h100"), refuse=lambda attempt: attempt.attempt == 1, rules=replace(RULES, backoff_s=5.0))
    (job,) = s.submit(spec(5, gpu_types=("a100",)))
    s.until(8)
    assert s.state(job) is State.RUNNING


# ------------------------------------------------------------------------------------------------- policies


def test_a_policy_that_cannot_decide_says_so_and_jobs_run_on_until_another_is_chosen(site):
    s = site(2, 2, policy="easy-backfill", queues={"a": QueueSpec()})
    (running,) = s.submit(spec(20, 2))
    s.until(2)
    s.controller.take_up(RULES, {"a": QueueSpec()}, {"n0": ("a",)})  # from now on its jobs may lie on two kinds of nodes
    (job,) = s.submit(spec(5, 1, queue="a"))
    s.until(5)
    assert any("plans each pool of nodes by itself" in alert for alert in s.plane.status()["alerts"])
    s.until(30)
    assert s.state(running) is State.SUCCEEDED and s.state(job) is State.PENDING
    s.do(s.plane.set_policy("fifo-greedy", [], "root"))
    s.until(40)
    assert s.state(job) is State.SUCCEEDED and s.plane.status()["alerts"] == []


def test_a_policy_that_fails_does_not_end_the_controller(site, monkeypatch):
    s = site(2, policy="easyscale")
    (running,) = s.submit(spec(20))
    s.until(2)
    monkeypatch.setattr(type(s.controller.scheduling.policy), "plan_held", lambda *_: 1 / 0)
    (waiting,) = s.submit(spec(5))
    s.until(30)
    assert (s.state(running), s.state(waiting)) == (State.SUCCEEDED, State.PENDING)
    assert "easyscale has failed: ZeroDivisionError" in s.plane.status()["alerts"][0]
    with pytest.raises(InputError, match="ZeroDivisionError"):
        s.do(s.plane.set_policy("easyscale", [], "root"))
    monkeypatch.undo()
    s.submit(spec(5))
    s.until(60)
    assert s.states() == ["SUCCEEDED"] * 3 and not s.plane.status()["alerts"]


@pytest.mark.parametrize("name", ["elasticflow", "optimus", "pollux", "sia"])
def test_a_policy_that_needs_what_no_live_cluster_has_is_refused_and_the_present_one_goes_on(site, name):
    s = site(2)
    first, second = s.submit(spec(5, 2), spec(5, 2))
    s.until(2)
    with pytest.raises(InputError, match="which no live cluster knows"):
        s.do(s.plane.set_policy(name, [], "root"))
    assert s.plane.policy().name == "fifo-greedy"
    s.until(20)
    assert [s.state(job) for job in (first, second)] == [State.SUCCEEDED] * 2


@pytest.mark.parametrize("name", ["afs-p", "edf", "easyscale"])
def test_elastic_policies_share_out_a_cluster_whose_jobs_end_when_nobody_knows(site, name):
    s = site(4)
    s.do(s.plane.set_policy(name, [], "root"))
    jobs = s.submit(*(spec(30, 2, min_gpus=1, max_gpus=4, limit_s=200, deadline_s=5_000) for _ in range(3)))
    s.until(400)
    assert [s.state(job) for job in jobs] == [State.SUCCEEDED] * 3


def test_what_one_policy_decided_is_not_written_down_as_anothers(site):
    """`las` decides by itself after its quantum; the turn in which it has another successor first catches up with that."""
    s = site(1, policy="las")
    s.submit(spec(500), spec(500))
    s.until(5)
    before = s.controller.store.policy_memory()
    s.clock.now_s = s.controller.scheduling.next_s() + 1
    answer = s.plane.set_policy("fifo-greedy", [], "root")
    s.controller.quiet_until = float("inf")  # it does not decide in this turn
    s.controller.turn()
    assert answer.result(0).name == "fifo-greedy"
    after = s.controller.store.policy_memory()
    assert after.decision > before.decision and after.policy == "las"
    assert s.plane.why(2).text
    s.crash()


# ------------------------------------------------------------------------------------------------- after a restart


def test_an_arrays_limit_holds_over_a_restart_whichever_element_runs(site):
    s = site(8)
    ids = s.submit(spec(30, array=Array(indices=(0, 1, 2), limit=1), hold=True))
    s.do(s.plane.release(ids[2:], "ada"))
    s.until(3)
    s.do(s.plane.release(ids[:2], "ada"))
    s.until(6)
    s.crash()
    s.until(9)
    assert s.machine.running() == {ids[2]}


def test_who_waits_for_a_job_to_begin_waits_once(site):
    s = site(4, policy="las", stop_delay_s=1)
    (first,) = s.submit(spec(100, 4))
    s.until(20)
    (second,) = s.submit(spec(30, 4, after=(Dependency(kind="after", job=first),)))
    s.submit(spec(50, 4, priority=9))
    s.until(30)
    assert s.state(first) is State.PENDING  # it has begun, and waits again
    s.crash()
    s.until(32)
    assert not s.plane.job(second).reason.startswith("dependency")


def test_a_job_that_is_suspended_before_it_began_has_not_begun(site):
    s = site(2)
    (first,) = s.submit(spec(10, hold=True))
    s.do(s.plane.suspend([first], "ada"))
    (second,) = s.submit(spec(10, after=(Dependency(kind="after", job=first),)))
    s.until(3)
    assert s.state(second) is State.PENDING
    s.do(s.plane.resume([first], "ada"))
    s.do(s.plane.release([first], "ada"))
    s.until(20)
    assert s.state(second) is State.SUCCEEDED


def test_estimates_after_a_restart_are_of_the_jobs_that_ended_last(site, monkeypatch):
    monkeypatch.setattr(controllers, "MOST_REMEMBERED", 2)
    s = site(4)
    for number in range(4):
        s.submit(spec(1, name=f"1-0-{number}"))
        s.until(s.clock.now_s - 1_000 + 4)
    s.crash()
    assert list(s.controller.estimates.of_name) == [("ada", "1-0-2"), ("ada", "1-0-3")]


# ------------------------------------------------------------------------------------------------- why


def test_a_job_that_could_never_fit_and_now_can_is_not_told_the_old_story(site):
    s = site(4)
    (big,) = s.submit(spec(5, 8))
    s.until(5)
    assert (s.plane.why(big).code, s.plane.why(big).text) == ("unschedulable", "it can never fit: a gang of 8 on 1 node of 4 (4 GPUs)")
    s.crash()
    s.until(10)
    assert s.plane.why(big).code == "unschedulable" and s.plane.job(big).reason.startswith("can never fit")

    s.machine.nodes.append(NodeSeen(name="n1", node=Node(gpus=8, name="n1")))
    s.submit(spec(20, 8, priority=5))
    s.until(15)
    assert s.plane.job(big).reason == "capacity" and s.plane.why(big).code == "capacity"
    s.until(60)
    assert s.state(big) is State.SUCCEEDED


def test_a_job_that_waits_for_gpus_it_was_promised_is_not_told_that_it_was_started(site):
    s, job = promised(site)
    answer = s.plane.why(job)
    assert (answer.code, s.plane.job(job).reason, answer.counterfactual) == ("reserved", "reserved", None)


def test_a_job_that_has_run_for_longer_than_its_clock_says_ends_in_a_forecast_after_now(site):
    """Its controller started anew after the clock was set back: until it has caught up, the job has run for no time at all."""
    s = site(1)
    s.until(30)
    s.submit(spec(500, estimate_s=5))
    s.until(31)
    s.clock.now_s -= 25
    s.crash()
    (waiting,) = s.submit(spec(5))
    s.until(16)
    first_s, latest_s = s.plane.why(waiting).expected_start_s
    assert s.clock.now_s < first_s <= latest_s
