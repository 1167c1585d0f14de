"""What the gate lets through: strangers learn nothing, nobody sends too much or too often, no other site gets in."""

from __future__ import annotations

import asyncio

import pytest

from live.http.fakes import API, Served
from trainmaster.errors import TrainmasterError
from trainmaster.live.http.auth import FRESH_S
from trainmaster.live.http.limits import Buckets, TooLarge, TooSlow, bounded_body
from trainmaster.live.http.settings import Settings

PATHS = "/jobs /jobs/1 /jobs/777 /tokens /openapi.json /no/such/path /jobs/1/logs /whoami /%2e%2e/%2e%2e/etc/passwd".split()
WRONG = [
    None, "", "Bearer", "Bearer ", "Bearer wrong", "Bearer tm_" + "A" * 43, "Bearer " + "x" * 5_000, "Basic YWRtaW46YWRtaW4=",
    "bearer\twrong", "Bearer é",
]  # fmt: skip


@pytest.mark.parametrize("header", WRONG)
def test_a_stranger_gets_401_and_nothing_else_whatever_is_asked(served, header):
    served.submit("ana")
    headers = {} if header is None else {"authorization": header.encode()}
    answers = [
        served.as_(None).request(method, API + path, headers=headers, content=b"{" if method == "POST" else None)
        for method in ("GET", "POST", "DELETE", "PROPFIND")
        for path in PATHS
    ]

    assert {answer.status_code for answer in answers} == {401}
    assert {answer.content for answer in answers} == {b'{"error":"unauthorized"}'}
    assert len({tuple(sorted(answer.headers.items())) for answer in answers}) == 1


def test_a_session_does_not_open_the_api_nor_a_token_the_pages(served):
    browser = served.browser("admin")

    assert browser.get(f"{API}/jobs").status_code == 401
    assert served.as_("admin").get("/").status_code == 303


def test_a_stranger_is_sent_to_the_login_from_every_page(served):
    for path in ("/", "/jobs/1", "/jobs/1/log", "/docs", "/nowhere"):
        answer = served.as_(None).get(path)
        assert (answer.status_code, answer.headers["location"], answer.content) == (303, "/login", b"")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8265", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::2]:80"])
def test_on_loopback_another_name_is_refused_so_that_dns_rebinding_gets_nowhere(served, host):
    assert served.as_("ana").get(f"{API}/jobs", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8265", "[::1]:8265", "[::1]"])
def test_on_loopback_its_own_names_are_known(served, host):
    assert served.as_("ana").get(f"{API}/jobs", headers={"host": host}).status_code == 200


def test_no_other_origin_is_ever_allowed(served):
    answer = served.as_("ana").get(f"{API}/jobs", headers={"origin": "https://evil.example"})
    asked = served.as_(None).options(f"{API}/jobs", headers={"origin": "https://evil.example", "access-control-request-method": "GET"})

    assert not [name for name in (*answer.headers, *asked.headers) if name.startswith("access-control")]
    assert asked.status_code == 401


def test_a_request_that_is_too_large_is_refused_before_it_is_parsed(tmp_path):
    served = Served(tmp_path, Settings(max_body_bytes=1_000))
    json = {"content-type": "application/json"}

    told = served.as_("ana").post(f"{API}/jobs", content=b"[" * 1_001, headers=json)
    untold = served.as_("ana").post(f"{API}/jobs", content=iter([b"[" * 600] * 2), headers=json)

    assert [told.status_code, untold.status_code] == [413, 413]
    assert told.json() == {"error": "a request has at most 1,000 bytes"}


def test_a_body_that_is_longer_than_it_says_is_cut_off_and_one_that_dawdles_too():
    async def endless():
        return {"type": "http.request", "body": b"x" * 400, "more_body": True}

    async def never():
        await asyncio.sleep(60)

    with pytest.raises(TooLarge):
        asyncio.run(bounded_body({"headers": [(b"content-length", b"10")]}, endless, 1_000, 5.0))
    with pytest.raises(TooSlow):
        asyncio.run(bounded_body({"headers": []}, never, 1_000, 0.01))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b"9" * 5_000, b'{"gpus": NaN}', b'{"command": ["\\ud800"]}', b'{"command": ["a\\u0000b"]}', b'{"\\ud800": 1}',
        b"\xff\xfe", b"", b"null", b'"x"', b"[]", b"{}",
    ],
    ids="deep long-number nan half-a-character no-character half-a-name no-utf-8 nothing null text list empty".split(),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/jobs", "/jobs/bulk", "/jobs/cancel", "/whatif", "/tokens"])
def test_what_is_no_request_is_told_so_in_one_line(served, path, body):
    answer = served.as_("admin").post(API + path, content=body, headers={"content-type": "application/json"})

    assert answer.status_code in (400, 422)
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.json()["error"]


def test_too_many_requests_of_a_token_are_told_when_to_come_back_and_others_are_not_held_up(tmp_path):
    served = Served(tmp_path, Settings(token_rate=0.5, token_burst=3))
    ana, bob = served.as_("ana"), served.as_("bob")

    answers = [ana.get(f"{API}/whoami") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[3].headers["retry-after"]) <= 2
    assert bob.get(f"{API}/whoami").status_code == 200


def test_guessing_tokens_is_slowed_down_and_costs_the_table_nothing_then(tmp_path):
    served = Served(tmp_path, Settings(stranger_rate=0.1, stranger_burst=5))
    ana = served.as_("ana")
    assert ana.get(f"{API}/whoami").status_code == 200

    guesses = [served.as_(None).get(f"{API}/whoami", headers={"authorization": f"Bearer {guess}"}).status_code for guess in range(20)]

    assert guesses == [401] * 4 + [429] * 16  # ana's first request was one of the five
    assert served.tokens.looked_up == 5
    assert ana.get(f"{API}/whoami").status_code == 200


def test_who_guesses_tokens_shuts_out_nobody_who_had_come_in_from_the_same_address(tmp_path):
    """All of a machine have one address on loopback: what is known of a token is looked up again every few seconds."""
    served = Served(tmp_path, Settings(stranger_rate=0.1, stranger_burst=5))
    ana = served.as_("ana")
    assert ana.get(f"{API}/whoami").status_code == 200
    for guess in range(5):
        served.as_(None).get(f"{API}/whoami", headers={"authorization": f"Bearer {guess}"})

    served.now_s += FRESH_S + 1
    assert ana.get(f"{API}/whoami").status_code == 200

    served.auth.revoke(1)
    assert [ana.get(f"{API}/whoami").status_code for _ in range(2)] == [429, 429]


def test_guessing_tokens_at_the_login_is_slowed_down_as_well(tmp_path):
    served = Served(tmp_path, Settings(stranger_rate=0.1, stranger_burst=2))

    assert [served.client({}).post("/login", data={"token": "guess"}).status_code for _ in range(3)] == [401, 401, 429]
    assert served.client({}).get("/login").status_code == 200


def test_half_a_request_is_none(served):
    sent = []

    async def half():
        messages = iter([{"type": "http.request", "body": b'{"command": ["true"]}', "more_body": True}, {"type": "http.disconnect"}])

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message)

        headers = {"host": "localhost", "authorization": f"Bearer {served.token('ana')}", "content-type": "application/json"}
        scope = {
            "type": "http", "method": "POST", "path": f"{API}/jobs", "query_string": b"", "client": ("127.0.0.1", 1), "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        served.app.state.service = served.service
        await served.app(scope, receive, send)

    asyncio.run(half())

    assert (sent, served.control.records) == ([], {})


def test_an_address_has_a_rate_too(tmp_path):
    served = Served(tmp_path, Settings(address_rate=0.1, address_burst=2))

    assert [served.as_(None).get(f"{API}/jobs").status_code for _ in range(3)] == [401, 401, 429]


def test_a_bucket_refills_at_its_rate_and_holds_no_more_than_its_burst():
    clock = [0.0]
    buckets = Buckets(rate=2.0, burst=2, clock_s=lambda: clock[0])

    assert [buckets.wait_s("a") for _ in range(3)] == [0, 0, 0.5]
    clock[0] = 0.5
    assert [buckets.wait_s("a"), buckets.wait_s("a")] == [0, 0.5]
    clock[0] = 100.0
    assert [buckets.wait_s("a") for _ in range(3)] == [0, 0, 0.5]


def test_every_answer_says_that_it_is_not_to_be_kept_sniffed_or_framed(served):
    for answer in (served.as_("ana").get(f"{API}/jobs"), served.as_(None).get("/login"), served.browser("ana").get("/")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]


def test_when_the_controller_is_broken_one_line_says_so(served):
    ana = served.as_("ana")
    served.control.broken = TrainmasterError("the database does not answer; jobs go on, nothing new is accepted")

    for answer in (ana.get(f"{API}/jobs"), ana.post(f"{API}/jobs", json={"command": ["true"]}), ana.get(f"{API}/status")):
        assert (answer.status_code, answer.json()) == (503, {"error": str(served.control.broken)})


def test_when_the_table_of_tokens_is_away_nobody_gets_in_and_nobody_is_told_that_a_token_is_wrong(served, monkeypatch):
    def away(hash):
        raise TrainmasterError("the database does not answer")

    monkeypatch.setattr(served.tokens, "find_token", away)

    assert served.as_("ana").get(f"{API}/jobs").status_code == 503


def test_a_bug_of_ours_is_a_500_without_a_traceback(served, monkeypatch):
    def wrong(which):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(served.control, "jobs", wrong)
    ana = served.as_("ana")
    ana._transport.raise_server_exceptions = False

    answer = ana.get(f"{API}/jobs")

    assert (answer.status_code, answer.json()) == (500, {"error": "internal error; the controller's log says more"})
