"""The pages: what they show, to whom, and that nothing in them is anything but text. The login, sessions and forms."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from live.http.fakes import Served
from trainmaster.errors import BackendError, NotFound
from trainmaster.live.http.auth import digest
from trainmaster.live.http.settings import Settings
from trainmaster.live.states import State

HOSTILE = "<img src=x onerror=document.documentElement.dataset.owned=1>"
COLUMNS = "ID NAME USER QUEUE PRIO ST TIME NODES GPUS REASON ETA".split()


def csrf_of(text: str) -> str:
    return re.search(r'name="csrf" value="([^"]+)"', text)[1]


def rows(text: str, section: str) -> list[list[str]]:
    body = re.search(rf'id="{section}"(.*?)</section>', text, re.DOTALL)[1]
    cells = [re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)]
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in cells if row]


def test_the_first_page_shows_the_cluster_and_its_queue_running_jobs_first(served):
    for name, gpus in (("wide", 4), ("narrow", 2)):
        served.submit("ana", name=name, gpus=gpus, queue="research")
    served.control.run(2)

    text = served.browser("ana").get("/").text

    assert [head for head in COLUMNS if re.search(rf"<th[^>]*>{head}</th>", text)] == COLUMNS
    assert rows(text, "queue") == [
        ["2", "narrow", "ana", "research", "0", "R", "0:00", "node-1", "2", "", "–"],
        ["1", "wide", "ana", "research", "0", "PD", "0:00", "–", "4", "capacity", "–"],
    ]
    assert 'aria-label="2 of 4 GPUs in use"' in text


def test_ten_thousand_waiting_jobs_are_paged(served):
    served.submit("ana", array={"indices": list(range(10_000))})
    ana = served.browser("ana")

    first = ana.get("/").text
    second = ana.get(re.search(r'href="([^"]+)" rel="next"', first)[1].replace("&amp;", "&")).text

    assert [row[0] for row in rows(first, "queue")] == [str(number) for number in range(1, 201)]
    assert [row[0] for row in rows(second, "queue")] == [str(number) for number in range(201, 401)]
    assert ">10,000<" in first


def test_jobs_that_wait_are_in_the_order_in_which_they_start(served):
    for name in ("first", "second", "third"):
        served.submit("ana", name=name)
    for job, place in ((1, 3), (2, 1), (3, None)):
        served.control.records[job] = replace(served.control.records[job], place=place)

    assert [row[1] for row in rows(served.browser("ana").get("/").text, "queue")] == ["second", "first", "third"]


def test_one_job_with_its_attempts_events_reason_and_log(served):
    served.submit("ana", name="resnet")
    served.control.run(1)
    served.control.preempt(1)
    served.control.log(1, b"x")

    text = served.browser("ana").get("/jobs/1").text

    assert "job 1 waits for 1 GPUs; 1 is free" in text
    assert "would start now with 1 GPU" in text
    assert [row[0] for row in rows(text, "attempts")] == ["1"]
    assert [row[5] for row in rows(text, "events")] == ["preempted", "started", "submitted"]
    assert 'data-stream="/jobs/1/log?rank=0"' in text


def test_the_log_of_the_page_is_that_of_the_job(served):
    served.submit("ana")
    served.control.run(1)
    served.control.log(1, b"<b>loss</b> 0.3\n")
    served.control.end(1)

    answer = served.browser("ana").get("/jobs/1/log?rank=0")

    assert (answer.content, answer.headers["content-type"]) == (b"<b>loss</b> 0.3\n", "text/plain; charset=utf-8")
    assert served.browser("bob").get("/jobs/1/log?rank=0").status_code == 404


def test_the_page_of_a_job_says_why_its_log_cannot_be_shown(served, monkeypatch):
    served.submit("ana")
    served.control.run(1)

    def away(job, attempt=None):
        raise BackendError("the process of ana has given no answer for 10 s")

    monkeypatch.setattr(served.control, "logs", away)
    answer = served.browser("ana").get("/jobs/1")

    assert answer.status_code == 200
    assert "the process of ana has given no answer" in answer.text
    assert 'id="log"' not in answer.text


def test_the_page_of_a_job_is_there_when_its_users_account_is_gone_and_the_log_with_it(served, monkeypatch):
    served.submit("ana")
    served.control.run(1)

    def gone(job, attempt=None):
        raise NotFound(f"job {job} has no log: there is no Unix account ana here" if attempt in (None, 1) else f"no attempt {attempt}")

    monkeypatch.setattr(served.control, "logs", gone)

    assert "there is no Unix account ana here" in served.browser("ana").get("/jobs/1").text
    assert served.browser("ana").get("/jobs/1?attempt=1").status_code == 200
    assert served.browser("ana").get("/jobs/1?attempt=2").status_code == 404


def test_the_page_of_a_job_that_has_not_started_asks_for_no_log(served, monkeypatch):
    served.submit("ana")

    def none(job, attempt=None):
        raise NotFound(f"job {job} has not started: it has no log yet")

    monkeypatch.setattr(served.control, "logs", none)

    assert served.browser("ana").get("/jobs/1").status_code == 200


def test_a_user_sees_the_pages_of_own_jobs_alone(served):
    served.submit("ana", name="secret-model")
    bob = served.browser("bob")

    assert bob.get("/jobs/1").status_code == 404
    assert "secret-model" not in bob.get("/").text


@pytest.mark.parametrize("path", ["/", "/jobs/1", "/jobs/2", "/?user=ana", "/jobs/1?rank=%3Cscript%3E", "/jobs/9%3Cscript%3E"])
def test_whatever_a_job_is_called_it_is_text(served, path):
    served.submit("ana", name=HOSTILE, command=["<script>", '"onload=x'], labels={"<i>": "'"})
    served.submit("ana", name=HOSTILE)
    served.control.run(2)
    served.control.log(2, b"x", rank="<script>alert(1)")
    served.control.end(2, State.FAILED, 1, reason="<script>alert(1)</script>")
    served.control.drain("node-1", '"><script>', "ana")

    text = served.browser("admin").get(path).text

    assert "<img" not in text
    assert set(re.findall(r"<script[^>]*>", text)) <= {f'<script src="/static/page.js?{served.control.status()["version"]}" defer>'}


def test_the_pages_fetch_nothing_from_elsewhere_and_have_no_script_or_style_inside(served):
    served.submit("ana")
    admin = served.browser("admin")

    for path in ("/", "/jobs/1", "/docs", "/login"):
        text = admin.get(path).text
        assert not re.search(r'(src|href|action)="(https?:)?//', text), path
        assert not re.search(r"<style|\son\w+=|\sstyle=", text), path


def test_the_documentation_has_every_endpoint(served):
    text = served.browser("viewer").get("/docs").text

    for path in served.app.openapi()["paths"]:
        assert path in text


@pytest.mark.parametrize(("who", "buttons"), [("viewer", set()), ("ana", {"hold", "cancel"}), ("operator", {"hold", "cancel"})])
def test_buttons_are_there_for_those_who_may_press_them(served, who, buttons):
    served.submit("ana")
    page = served.browser(who).get("/jobs/1").text

    assert set(re.findall(r'action="/jobs/1/(\w+)"', page)) == buttons


def test_a_button_does_what_it_says_with_the_pages_secret_and_nothing_without(served):
    served.submit("ana")
    ana = served.browser("ana")
    secret = csrf_of(ana.get("/jobs/1").text)

    for form in ({}, {"csrf": "guess"}, {"csrf": csrf_of(served.browser("ana").get("/").text)}):
        assert ana.post("/jobs/1/cancel", data=form).status_code == 403
    assert ana.post("/jobs/1/cancel", data={"csrf": secret}, headers={"origin": "https://evil.example"}).status_code == 403
    assert served.control.job(1).state is State.PENDING

    pressed = ana.post("/jobs/1/cancel", data={"csrf": secret}, headers={"origin": "http://127.0.0.1:8265"})
    assert (pressed.status_code, pressed.headers["location"]) == (303, "/jobs/1")
    assert served.control.job(1).state is State.CANCELLED


def test_a_button_pressed_too_late_says_why(served):
    served.submit("ana")
    ana = served.browser("ana")
    secret = csrf_of(ana.get("/jobs/1").text)
    served.control.end(1)

    answer = ana.post("/jobs/1/cancel", data={"csrf": secret})

    assert (answer.status_code, "job 1 is SUCCEEDED: it cannot be cancelled" in answer.text) == (409, True)


def test_roles_hold_on_pages_too(served):
    served.submit("ana")
    viewer, bob, operator = (served.browser(who) for who in ("viewer", "bob", "operator"))

    assert viewer.post("/jobs/1/cancel", data={"csrf": csrf_of(viewer.get("/").text)}).status_code == 403
    assert bob.post("/jobs/1/cancel", data={"csrf": csrf_of(bob.get("/").text)}).status_code == 404
    assert bob.post("/nodes/node-1/drain", data={"csrf": csrf_of(bob.get("/").text)}).status_code == 403
    assert operator.post("/nodes/node-1/drain", data={"csrf": csrf_of(operator.get("/").text), "reason": "memory"}).status_code == 303
    assert served.control.drained == {"node-1": "memory"}


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(served, tmp_path):
    cookie = served.client({}).post("/login", data={"token": served.token("ana")}).headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
    assert served.token("ana") not in cookie

    by_tls = Served(tmp_path, Settings(secure=True))
    assert "Secure" in by_tls.client({}).post("/login", data={"token": by_tls.token("ana")}).headers["set-cookie"]


def test_a_wrong_token_does_not_log_in(served):
    for token in ("", "wrong", "<script>", "é" * 300):
        answer = served.client({}).post("/login", data={"token": token})
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)


def test_a_link_logs_in_once_and_for_ten_minutes(served):
    def link() -> str:
        return served.as_("ana").post("/api/v1/login-code").json()["path"]

    once = link()
    assert [served.client({}).get(once).status_code for _ in range(2)] == [303, 401]

    late = link()
    served.now_s += 601
    assert served.client({}).get(late).status_code == 401
    assert served.client({}).get("/login?code=guess").status_code == 401


def test_a_session_ends_by_logging_out_by_its_time_and_with_its_token(served):
    leaving, staying, revoked = served.browser("ana"), served.browser("bob"), served.browser("eve")
    assert leaving.post("/logout", data={"csrf": csrf_of(leaving.get("/").text)}).status_code == 303
    assert leaving.get("/").headers["location"] == "/login"

    served.auth.revoke(served.service.auth.who(served.token("eve")).token_id)
    assert revoked.get("/").headers["location"] == "/login"

    assert staying.get("/").status_code == 200
    served.now_s += 13 * 3_600
    assert staying.get("/").headers["location"] == "/login"


def test_a_cookie_that_was_made_up_opens_nothing(served):
    for cookie in ("trainmaster=guess", "trainmaster=" + digest(served.token("ana")), "trainmaster", ";;;=;", 'trainmaster="\\'):
        answer = served.client({"cookie": cookie}).get("/")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_only_the_two_assets_are_served_whatever_the_name(served):
    stranger = served.client({})

    assert stranger.get("/static/page.css").status_code == 200
    for name in ("nothing", "..%2frender.py", "%2e%2e/render.py", "page.css%00"):
        assert stranger.get(f"/static/{name}").status_code in (303, 404)


def test_alerts_are_on_the_first_page(served, monkeypatch):
    status = served.control.status()
    monkeypatch.setattr(served.control, "status", lambda: {**status, "alerts": ["job 7 does not stop"]})

    assert '<p class="alert">job 7 does not stop</p>' in served.browser("viewer").get("/").text


def test_a_form_from_an_address_that_is_none_is_refused(served):
    assert served.client({}).post("/login", data={"token": "x"}, headers={"origin": "http://["}).status_code == 403
