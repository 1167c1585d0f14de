"""Roles: every endpoint of the document is in this table, so none can be added without saying whose it is."""

from __future__ import annotations

import pytest

from live.http.fakes import API, Served
from trainmaster.live.http.settings import Settings

VIEWER, ANA, BOB, OPERATOR, ADMIN = EVERYBODY = ("viewer", "ana", "bob", "operator", "admin")  # the job is ana's; bob is another user
READS = {VIEWER: 200, ANA: 200, BOB: 200, OPERATOR: 200, ADMIN: 200}
READS_THE_JOB = {**READS, BOB: 404}
TOUCHES_THE_JOB = {VIEWER: 403, ANA: 204, BOB: 404, OPERATOR: 204, ADMIN: 204}
OPERATES = {VIEWER: 403, ANA: 403, BOB: 403, OPERATOR: 204, ADMIN: 204}
ADMINISTERS = {VIEWER: 403, ANA: 403, BOB: 403, OPERATOR: 403, ADMIN: 200}


def answering(status: int, table: dict[str, int]) -> dict[str, int]:
    return {who: status if answer < 300 else answer for who, answer in table.items()}


SUBMIT = {"command": ["true"]}
TABLE = [  # method, path in the document, body, status by who asks
    ("GET", "/jobs", None, READS),
    ("POST", "/jobs", SUBMIT, {VIEWER: 403, ANA: 201, BOB: 201, OPERATOR: 201, ADMIN: 201}),
    ("POST", "/jobs/bulk", {"jobs": [SUBMIT]}, {VIEWER: 403, ANA: 201, BOB: 201, OPERATOR: 201, ADMIN: 201}),
    ("POST", "/jobs/asked", {"ids": [1]}, READS),
    ("POST", "/jobs/{verb}", {"ids": [1]}, TOUCHES_THE_JOB),
    ("GET", "/jobs/{id}", None, READS_THE_JOB),
    ("PATCH", "/jobs/{id}", {"name": "other"}, answering(200, TOUCHES_THE_JOB)),
    ("POST", "/jobs/{id}/signal", {"number": 10}, TOUCHES_THE_JOB),
    ("GET", "/jobs/{id}/wait?timeout_s=0", None, READS_THE_JOB),
    ("GET", "/jobs/{id}/spec", None, READS_THE_JOB),
    ("GET", "/jobs/{id}/attempts", None, READS_THE_JOB),
    ("GET", "/jobs/{id}/why", None, READS_THE_JOB),
    ("GET", "/jobs/{id}/shell", None, answering(200, TOUCHES_THE_JOB)),
    ("GET", "/jobs/{id}/events", None, READS_THE_JOB),
    ("GET", "/jobs/{id}/log-files", None, READS_THE_JOB),
    ("GET", "/jobs/{id}/logs", None, READS_THE_JOB),
    ("GET", "/events", None, READS),
    ("GET", "/status", None, READS),
    ("GET", "/nodes", None, READS),
    ("POST", "/nodes/{name}/drain", {"reason": "memory"}, OPERATES),
    ("POST", "/nodes/{name}/resume", None, OPERATES),
    ("GET", "/queues", None, READS),
    ("GET", "/policy", None, READS),
    ("PUT", "/policy", {"name": "fifo"}, answering(200, OPERATES)),
    ("POST", "/reload", None, ADMINISTERS),
    ("POST", "/whatif", {"scenarios": [{"label": "now"}]}, READS),
    ("GET", "/whoami", None, READS),
    ("POST", "/login-code", None, READS),
    ("GET", "/tokens", None, READS),
    ("POST", "/tokens", {"user": "eve"}, answering(201, ADMINISTERS)),
    ("DELETE", "/tokens/{id}", None, {VIEWER: 404, ANA: 204, BOB: 404, OPERATOR: 404, ADMIN: 204}),  # the token is ana's
]


@pytest.fixture
def running(served):
    """Ana's job 1 runs on node-1; her token is token 1."""
    job = served.submit("ana", env={"SECRET": "s3cret"}, labels={"team": "vision"}, name="ana's job")
    served.control.run(job)
    served.control.log(job, b"hello\n")
    return served


def test_every_endpoint_is_in_the_table(served):
    documented = {
        (method.upper(), path.removeprefix(API)) for path, methods in served.app.openapi()["paths"].items() for method in methods
    }

    assert documented == {(method, path.partition("?")[0]) for method, path, _, _ in TABLE}


@pytest.mark.parametrize("who", EVERYBODY)
@pytest.mark.parametrize(("method", "path", "body", "expected"), TABLE, ids=[f"{method} {path}" for method, path, _, _ in TABLE])
def test_a_role_may_do_what_the_table_says_and_nothing_else(running, who, method, path, body, expected):
    url = API + path.format(id=1, name="node-1", verb="cancel")
    before = dict(running.control.records)

    answer = running.as_(who).request(method, url, json=body)

    assert answer.status_code == expected[who], answer.text
    if expected[who] >= 400:
        assert running.control.records == before


def test_to_a_user_anothers_job_is_like_one_that_was_never_given_out(running):
    bob = running.as_("bob")

    for path in ("", "/spec", "/why", "/attempts", "/events", "/logs", "/log-files", "/shell", "/wait"):
        anothers, none = bob.get(f"{API}/jobs/1{path}"), bob.get(f"{API}/jobs/777{path}")
        assert (anothers.status_code, anothers.json()) == (404, {"error": "no job 1"})
        assert (none.status_code, none.json()) == (404, {"error": "no job 777"})


def test_a_request_about_several_jobs_of_which_one_is_anothers_changes_none(running):
    mine = running.submit("bob")

    answer = running.as_("bob").post(f"{API}/jobs/cancel", json={"ids": [mine, 1]})

    assert answer.status_code == 404
    assert running.control.job(mine).state == "PENDING"


def test_nobody_can_wait_for_anothers_job(running):
    depends = {"command": ["true"], "after": [{"kind": "afterok", "job": 1}]}

    assert running.as_("bob").post(f"{API}/jobs", json=depends).status_code == 404
    assert running.as_("ana").post(f"{API}/jobs", json=depends).status_code == 201


def test_a_user_is_listed_own_jobs_and_told_of_the_rest_in_sums(running):
    mine = running.submit("bob")
    bob = running.as_("bob")

    assert [job["id"] for job in bob.get(f"{API}/jobs?all=true").json()["jobs"]] == [mine]
    assert bob.get(f"{API}/jobs?user=ana").json()["jobs"] == []
    assert bob.get(f"{API}/jobs?id=1").json()["jobs"] == []
    assert bob.get(f"{API}/status").json()["jobs"] == {"RUNNING": 1, "PENDING": 1}
    assert [node["jobs"] for node in bob.get(f"{API}/nodes").json()["nodes"]] == [[], []]
    assert {event["job"] for event in bob.get(f"{API}/events").json()["events"]} == {mine}


def test_of_troubles_with_users_processes_a_user_is_told_the_own(served, monkeypatch):
    status = served.control.status()
    troubles = {"ana": "its process has gone", "bob": "sudo: a password is required"}
    monkeypatch.setattr(served.control, "status", lambda: {**status, "backend": {"name": "slurm", "troubles": troubles}})

    told = {who: served.as_(who).get(f"{API}/status").json()["backend"] for who in ("ana", "cleo", "viewer", "operator")}

    assert told["ana"] == {"name": "slurm", "troubles": {"ana": "its process has gone"}}
    assert told["cleo"]["troubles"] == {}
    assert told["viewer"]["troubles"] == told["operator"]["troubles"] == troubles


def test_who_is_ahead_of_ones_job_is_told_without_names(served):
    served.submit("ana")
    mine = served.submit("bob")

    [ahead] = served.as_("bob").get(f"{API}/jobs/{mine}/why").json()["ahead"]

    assert (ahead["id"], ahead["user"], ahead["gpus"]) == (None, None, 1)


def test_an_open_queue_shows_a_line_of_others_jobs_and_no_more(tmp_path):
    served = Served(tmp_path, Settings(open_queue=True))
    served.submit("ana", name="secret-model", labels={"team": "vision"}, account="acme")

    [line] = served.as_("bob").get(f"{API}/jobs").json()["jobs"]

    assert (line["user"], line["gpus"], line["state"]) == ("ana", 1, "PENDING")
    assert (line["name"], line["labels"], line["account"]) == ("", {}, None)
    assert served.as_("bob").get(f"{API}/jobs/{line['id']}").status_code == 404
    assert served.as_("bob").get(f"{API}/jobs?name=secret-model").json()["jobs"] == []


@pytest.mark.parametrize(("who", "value"), [("ana", "s3cret"), ("admin", "s3cret"), ("operator", "(hidden)"), ("viewer", "(hidden)")])
def test_the_values_of_a_jobs_environment_are_its_owners_and_the_admins(running, who, value):
    assert running.as_(who).get(f"{API}/jobs/1/spec").json()["env"] == {"SECRET": value}


def test_the_user_of_a_job_is_the_tokens_and_an_admin_submits_for_another(served):
    job = served.as_("ana").post(f"{API}/jobs?user=bob", json=SUBMIT)
    assert (job.status_code, "only an admin" in job.json()["error"]) == (403, True)

    job = served.as_("admin").post(f"{API}/jobs?user=bob", json=SUBMIT).json()["id"]
    assert served.as_("bob").get(f"{API}/jobs/{job}").json()["user"] == "bob"


def test_a_token_is_shown_once_stored_as_a_hash_and_dies_when_it_is_revoked(served):
    admin = served.as_("admin")
    issued = admin.post(f"{API}/tokens", json={"user": "eve", "role": "operator", "name": "laptop"}).json()
    eve = served.as_("eve")
    eve.headers["authorization"] = f"Bearer {issued['token']}"

    assert eve.get(f"{API}/whoami").json() == {"user": "eve", "role": "operator"}
    assert issued["token"] not in admin.get(f"{API}/tokens").text
    assert issued["token"] not in served.tokens.hashes

    assert admin.delete(f"{API}/tokens/{issued['id']}").status_code == 204
    assert admin.delete(f"{API}/tokens/{issued['id']}").status_code == 404
    assert eve.get(f"{API}/whoami").status_code == 401


def test_a_token_revokes_those_of_its_user_that_may_no_more_than_itself(served):
    admin = served.as_("admin")
    token = {role: admin.post(f"{API}/tokens", json={"user": "eve", "role": role}).json() for role in ("viewer", "user", "operator")}

    def revoked_by(role: str, other: str) -> int:
        headers = {"authorization": f"Bearer {token[role]['token']}"}
        return served.as_(None).delete(f"{API}/tokens/{token[other]['id']}", headers=headers).status_code

    assert revoked_by("viewer", "user") == revoked_by("viewer", "operator") == revoked_by("user", "operator") == 403
    assert [revoked_by("operator", "user"), revoked_by("viewer", "viewer"), revoked_by("operator", "operator")] == [204] * 3


def test_a_token_ends_when_it_was_said_to(served):
    until = served.now_s + 60
    token = served.as_("admin").post(f"{API}/tokens", json={"user": "eve", "expires_s": until}).json()["token"]
    headers = {"authorization": f"Bearer {token}"}

    assert served.as_(None).get(f"{API}/whoami", headers=headers).status_code == 200
    served.now_s = until
    assert served.as_(None).get(f"{API}/whoami", headers=headers).status_code == 401


def test_a_token_that_is_revoked_in_the_table_itself_works_ten_seconds_at_most(served):
    ana = served.as_("ana")
    assert ana.get(f"{API}/whoami").status_code == 200
    served.tokens.rows.clear()

    served.now_s += 11
    assert ana.get(f"{API}/whoami").status_code == 401
