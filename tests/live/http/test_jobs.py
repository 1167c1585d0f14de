"""Jobs over HTTP: submitted once however often the request is sent, listed by what is asked, awaited, changed."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from live.backends.harness import wait_until
from live.http.fakes import API, Served
from trainmaster.live.http.settings import Settings
from trainmaster.live.states import State

SUBMIT = {"command": ["true"]}


def test_the_same_key_again_gives_the_same_ids_and_submits_nothing(served):
    ana, key = served.as_("ana"), {"idempotency-key": "k-1"}

    first = ana.post(f"{API}/jobs/bulk", json={"jobs": [SUBMIT] * 3}, headers=key).json()
    again = ana.post(f"{API}/jobs/bulk", json={"jobs": [SUBMIT] * 3}, headers=key).json()

    assert first == again == {"ids": [1, 2, 3], "notes": []}
    assert len(served.control.records) == 3


def test_keys_are_ones_own(served):
    key = {"idempotency-key": "k-1"}

    assert served.as_("ana").post(f"{API}/jobs", json=SUBMIT, headers=key).json()["id"] == 1
    assert served.as_("bob").post(f"{API}/jobs", json=SUBMIT, headers=key).json()["id"] == 2


def test_an_array_is_one_request_and_a_job_an_index(served):
    answer = served.as_("ana").post(f"{API}/jobs", json={**SUBMIT, "array": {"indices": [0, 2, 4]}}).json()

    assert answer == {"id": 1, "ids": [1, 2, 3], "notes": []}
    assert [job["array_index"] for job in served.as_("ana").get(f"{API}/jobs").json()["jobs"]] == [0, 2, 4]


def test_a_list_with_one_wrong_job_names_it_and_submits_none(served):
    answer = served.as_("ana").post(f"{API}/jobs/bulk", json={"jobs": [SUBMIT, {**SUBMIT, "gpus": 1.5}, {"gpu": 1}]})

    assert answer.status_code == 422
    assert answer.json()["error"] == "jobs.1: gpus: a gang takes whole GPUs, not 1.5; jobs.2.gpu: Extra inputs are not permitted"
    assert served.control.records == {}


def test_the_jobs_of_one_request_are_bounded_arrays_expanded(tmp_path):
    served = Served(tmp_path, Settings(max_jobs_a_request=10))
    array = {**SUBMIT, "array": {"indices": [0, 1, 2, 3, 4, 5]}}

    assert served.as_("ana").post(f"{API}/jobs", json=array).status_code == 201
    refused = served.as_("ana").post(f"{API}/jobs/bulk", json={"jobs": [array, array]})
    assert (refused.status_code, refused.json()["error"]) == (422, "12 jobs in one request; 10 are allowed: send several")


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", [2, 3, 4]), ("?all=true", [1, 2, 3, 4]), ("?state=SUCCEEDED", [1]), ("?state=PENDING&state=SUCCEEDED", [1, 3, 4]),
        ("?name=b", [3, 4]), ("?id=3&id=1&all=true", [1, 3]), ("?limit=2", [2, 3]), ("?limit=2&after_id=3", [4]), ("?queue=research", [4]),
    ],
)  # fmt: skip
def test_a_listing_has_what_was_asked_for(served, query, ids):
    for name, queue in (("a", None), ("a", None), ("b", None), ("b", "research")):
        served.submit("ana", name=name, queue=queue)
    served.control.end(1)
    served.control.run(2)

    assert [job["id"] for job in served.as_("ana").get(f"{API}/jobs{query}").json()["jobs"]] == ids


@pytest.mark.parametrize(
    "query", "id=0 id=x id=99999999999999999999 state=RUNNING%20 limit=-1 name=a/b name=%00 since_s=nan user=a%27".split()
)
def test_a_filter_that_makes_no_sense_is_refused(served, query):
    assert served.as_("ana").get(f"{API}/jobs?{query}").status_code == 422


def test_a_verb_that_the_state_forbids_is_a_conflict_and_nothing_is_changed(served):
    ended, waiting = served.submit("ana"), served.submit("ana")
    served.control.end(ended)

    answer = served.as_("ana").post(f"{API}/jobs/cancel", json={"ids": [waiting, ended]})

    assert (answer.status_code, answer.json()["error"]) == (409, "job 1 is SUCCEEDED: it cannot be cancelled")
    assert served.control.job(waiting).state is State.PENDING


def test_what_is_changed_is_answered(served):
    job = served.submit("ana")

    changed = served.as_("ana").patch(f"{API}/jobs/{job}", json={"priority": 5, "queue": "research"}).json()

    assert (changed["priority"], changed["queue"], changed["name"]) == (5, "research", "true")


def test_waiting_ends_when_the_job_does_and_otherwise_when_the_time_is_up(served):
    job, other = served.submit("ana"), served.submit("ana")
    with served.as_("ana") as ana:
        assert ana.get(f"{API}/jobs/{job}/wait?timeout_s=0.2").json()["state"] == "PENDING"

        ending = threading.Timer(0.3, lambda: served.control.end(job, State.FAILED, 3))
        ending.start()
        assert ana.get(f"{API}/jobs/{job}/wait?timeout_s=60").json()["exit_code"] == 3

        served.control.end(other)
        assert ana.get(f"{API}/jobs/{other}/wait?timeout_s=60").json()["state"] == "SUCCEEDED"
    assert served.service.watch.waited_for == 0


def test_events_are_paged_and_a_page_without_anything_to_see_still_leads_on(served):
    for user in ("ana", "bob", "bob", "ana"):
        served.submit(user)
    ana = served.as_("ana")

    first = ana.get(f"{API}/events?limit=1").json()
    second = ana.get(f"{API}/events?limit=2&after={first['next']}").json()
    third = ana.get(f"{API}/events?after={second['next']}").json()

    assert [[event["job"] for event in page["events"]] for page in (first, second, third)] == [[1], [], [4]]
    assert ana.get(f"{API}/events?after={third['next']}").json() == {"events": [], "next": third["next"]}


def test_a_controller_that_does_not_answer_in_time_is_said_so_and_the_change_is_not_taken_back(tmp_path, monkeypatch):
    served = Served(tmp_path, Settings(answer_timeout_s=0.05))
    never: Future[list[int]] = Future()
    monkeypatch.setattr(served.control, "submit", lambda specs, actor, key: never)

    answer = served.as_("ana").post(f"{API}/jobs", json=SUBMIT)

    assert answer.status_code == 503
    assert not never.cancelled()
    never.set_result([1])  # as the controller does later: nothing is broken by it


@pytest.mark.parametrize(("most", "another"), [(1, 503), (2, 200)])
def test_few_whatifs_run_at_a_time_and_nobody_takes_all_of_them(tmp_path, monkeypatch, most, another):
    served = Served(tmp_path, Settings(max_whatifs=most))
    begun, go_on = [], threading.Event()

    def slow(scenarios):
        begun.append(scenarios)
        go_on.wait(10)
        return {"runs": [], "conclusion": ""}

    monkeypatch.setattr(served.control, "whatif", slow)
    ask = {"scenarios": [{"label": "now"}]}
    statuses, others = [], []
    with served.as_("ana") as ana:
        first = threading.Thread(target=lambda: statuses.append(ana.post(f"{API}/whatif", json=ask).status_code))
        first.start()
        wait_until(lambda: len(begun) == 1)
        assert ana.post(f"{API}/whatif", json=ask).status_code == 503
        second = threading.Thread(target=lambda: others.append(served.as_("bob").post(f"{API}/whatif", json=ask).status_code))
        second.start()
        wait_until(lambda: others or len(begun) == 2)
        go_on.set()
        first.join()
        second.join()
        assert ana.post(f"{API}/whatif", json=ask).status_code == 200
    assert (statuses, others) == ([200], [another])


def test_a_whatif_about_anothers_job_is_refused(served):
    job = served.submit("ana")

    ask = {"scenarios": [{"label": "sooner", "job": job, "priority": 10}]}

    assert served.as_("bob").post(f"{API}/whatif", json=ask).status_code == 404
    assert served.as_("ana").post(f"{API}/whatif", json=ask).status_code == 200


def test_ten_thousand_jobs_are_listed_whole(served):
    served.submit("ana", array={"indices": list(range(10_000))})

    jobs = served.as_("ana").get(f"{API}/jobs").json()["jobs"]

    assert [job["id"] for job in jobs] == list(range(1, 10_001))


@pytest.mark.parametrize(
    "fields", [{"begin_s": 1e300}, {"deadline_s": 1e12}, {"array": {"indices": [-1]}}, {"array": {"indices": [10**30]}}]
)
def test_moments_and_indices_that_nothing_can_show_are_refused(served, fields):
    """One job of a user's must not end the listing of all jobs."""
    assert served.as_("ana").post(f"{API}/jobs", json={**SUBMIT, **fields}).status_code == 422
