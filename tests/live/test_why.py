"""`why` and `whatif`: from the recorded decision, and from the live state forked into the twin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from live.test_controller import RULES, Site, spec
from trainmaster.cluster.cluster import QueueSpec
from trainmaster.errors import InputError, NotFound
from trainmaster.live.control import JobFilter, Scenario
from trainmaster.live.spec import Dependency
from trainmaster.live.states import State
from trainmaster.policies.registry import policies


@pytest.fixture
def site(tmp_path: Path):
    made = []

    def make(*gpus: int, **more):
        made.append(Site(tmp_path, *gpus, **more))
        return made[-1]

    yield make
    for each in made:
        each.controller.store.close()


def test_a_waiting_job_is_told_what_it_is_short_of_who_is_before_it_and_what_would_start_it(site):
    s = site(4)
    s.submit(spec(100, 3, estimate_s=100))
    s.until(10)
    second, third = s.submit(spec(50, 4, estimate_s=50), spec(50, 2, estimate_s=50))
    s.until(11)

    answer = s.plane.why(third)

    assert answer.code == "capacity" and answer.numbers == {"short_gpus": 1.0}
    assert (answer.place, answer.of) == (2, 2)
    assert [other["id"] for other in answer.ahead] == [second]
    assert answer.counterfactual == "would start now with 1 GPU"


def test_the_expected_start_is_the_twins_and_says_what_it_rests_on(site):
    s = site(4)
    s.submit(spec(100, 4, estimate_s=100, limit_s=300))
    s.until(10)
    (job,) = s.submit(spec(50, 4, estimate_s=50))
    s.until(11)

    answer = s.plane.why(job)

    assert answer.expected_start_s == pytest.approx((1_000 + 100, 1_000 + 300), abs=2)  # by the estimate, and by the limit
    assert answer.estimate_source.startswith("the twin")


def test_a_higher_priority_or_another_queue_is_offered_where_it_would_help(site):
    quotas = {"a": QueueSpec(quota_gpus=1), "b": QueueSpec(quota_gpus=3)}
    s = site(4, queues=quotas)
    s.submit(spec(100, queue="a"))
    s.until(5)
    (job,) = s.submit(spec(100, queue="a"))
    s.until(6)

    answer = s.plane.why(job)

    assert answer.code == "quota"
    assert answer.counterfactual == "would start now in queue b"


def test_a_job_that_waits_for_another_says_for_which(site):
    s = site(4)
    (first,) = s.submit(spec(100))
    (job,) = s.submit(spec(5, after=(Dependency(kind="afterok", job=first),)))
    s.until(3)

    answer = s.plane.why(job)

    assert answer.code == "dependency" and answer.text == f"dependency afterok:{first}"
    with pytest.raises(NotFound):
        s.plane.why(99)


def test_a_job_that_runs_or_has_ended_is_explained_too(site):
    s = site(1)
    (job,) = s.submit(spec(5))
    s.until(2)
    assert s.plane.why(job).code == "running"
    s.until(10)
    assert s.plane.why(job).code == "ended"


def test_another_policy_more_nodes_and_a_higher_priority_are_compared_side_by_side(site):
    s = site(4)
    s.submit(spec(1_000, 4, estimate_s=1_000))
    s.until(10)
    ids = s.submit(*(spec(20, 4, estimate_s=20) for _ in range(3)))
    s.until(11)

    scenarios = [
        Scenario(label="las", policy="las"),
        Scenario(label="one more node", add_nodes="1x4"),
        Scenario(label="first", job=ids[2], priority=5),
    ]
    answer = s.plane.whatif(scenarios)

    as_it_is, las, more, first = (run["avg_jct_s"] for run in answer["runs"])
    assert [run["label"] for run in answer["runs"]] == ["as it is", "las", "one more node", "first"]
    assert more < as_it_is and first == pytest.approx(as_it_is, rel=0.01)
    assert las < as_it_is * 2  # the long job is pinned until it registers a checkpoint, which it has: short ones go first
    assert s.states() == ["RUNNING", "PENDING", "PENDING", "PENDING"]  # nothing has happened to the cluster
    with pytest.raises(InputError):
        s.plane.whatif([Scenario(label="x", job=99, priority=1)])


def live_policies() -> list[str]:
    """Those that need nothing that a live cluster lacks."""
    lacking = {"oracle", "samples", "profile"}
    return [name for name, cls in policies().items() if not lacking & set(cls.needs) and name != "recorded"]


@pytest.mark.parametrize("name", live_policies())
def test_every_policy_answers_why_with_the_number_that_binds(site, name):
    s = site(2, policy=name, rules=RULES)
    s.submit(spec(60, 2, limit_s=60))
    s.until(5)
    s.submit(spec(60, 2, limit_s=60))
    s.until(8)
    (waiting,) = [record.id for record in s.plane.jobs(JobFilter()) if record.state is State.PENDING]

    answer = s.plane.why(waiting)

    assert answer.code and re.search(r"\d", answer.text), answer.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fifo", "1 GPU short behind the jobs before it"),
        ("gavel-max-min", "its share is 0.5 of the time on 1 GPU, and it is not its turn: the turns of others have not ended"),
        ("gandiva-fair", "its tickets are worth 0.5 GPUs all the time, and it is not its turn: the turns of others have not ended"),
        ("gavel-fifo", "the plan that is best by this policy has nothing for it now: 1 job holds 1 GPU"),
        ("themis.estimate=user", "the auction gave the GPUs to others"),
        ("allox.estimate=user", "with about 60 s left it adds least to the sum of all completion times if it waits: 1 job has less left"),
    ],
)
def test_a_plan_says_what_it_weighed(site, name, text):
    name, _, setting = name.partition(".")
    s = site(1, rules=RULES)
    s.do(s.plane.set_policy(name, [setting] if setting else [], "root"))
    s.submit(spec(60, 1, limit_s=60))
    s.until(5)
    (job,) = s.submit(spec(60, 1, limit_s=60))
    s.until(6)

    assert text in s.plane.why(job).text
