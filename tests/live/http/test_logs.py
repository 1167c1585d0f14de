"""Logs: whole, their end, and as they grow, through preemptions; and nothing but logs."""

from __future__ import annotations

import os
import threading
import time

import pytest

from live.backends.harness import wait_until
from live.http.fakes import API, Served
from trainmaster.errors import BackendError
from trainmaster.live.http import logs as streams
from trainmaster.live.http.settings import Settings
from trainmaster.live.logs import About
from trainmaster.live.states import State


@pytest.fixture
def running(served):
    served.submit("ana")
    served.control.run(1)
    return served


def logs(served: Served, query: str = "", job: int = 1):
    return served.as_("ana").get(f"{API}/jobs/{job}/logs?{query}")


def test_a_log_is_what_the_job_wrote_byte_for_byte(running):
    written = bytes(range(256)) * 1_000
    running.control.log(1, written)

    answer = logs(running)

    assert answer.content == written
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("written", "lines", "expected"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"), (b"a\nb\nc", 2, b"b\nc"), (b"a\nb\n", 5, b"a\nb\n"), (b"", 3, b""), (b"\n\n\n", 1, b"\n"),
        (b"x" * 200_000 + b"\nend\n", 1, b"end\n"), (b"one\n" + b"y" * 200_000, 1, b"y" * 200_000),
    ],
)  # fmt: skip
def test_the_last_lines_of_it(running, written, lines, expected):
    running.control.log(1, written)

    assert logs(running, f"tail={lines}").content == expected


def test_from_an_offset_on(running):
    running.control.log(1, b"0123456789")

    assert logs(running, "offset=4").content == b"456789"
    assert logs(running, "offset=400").content == b""


def test_each_rank_and_each_attempt_has_its_own(running):
    running.control.log(1, b"first of rank 0\n")
    running.control.log(1, b"first of rank 1\n", rank="1")
    running.control.preempt(1)
    running.control.run(1)
    running.control.log(1, b"second\n")

    assert logs(running).content == b"second\n"
    assert logs(running, "attempt=1&rank=1").content == b"first of rank 1\n"
    assert running.as_("ana").get(f"{API}/jobs/1/log-files?attempt=1").json() == {"attempt": 1, "bytes": {"0": 16, "1": 16}}


def test_a_rank_that_there_is_not_is_told_which_there_are(running):
    running.control.log(1, b"x")
    running.control.log(1, b"x", rank="1")

    assert logs(running, "rank=7").json() == {"error": "job 1 has no log of rank 7; it has 0, 1"}
    assert logs(running, "rank=7&follow=true").status_code == 404


@pytest.mark.parametrize("rank", ["../../1/1/rank-0", "..%2f..%2fsecret", "/etc/passwd", "%00", ".", "..", "0/../0", "0%0a"])
def test_path_tricks_go_nowhere(running, rank):
    running.control.log(1, b"x")
    (running.control.folder / "secret").write_text("secret")

    assert logs(running, f"rank={rank}").status_code in (404, 422)


@pytest.mark.parametrize("attempt", ["0", "-1", "../1", "1e3", "99999999999"])
def test_an_attempt_is_a_number(running, attempt):
    assert logs(running, f"attempt={attempt}").status_code == 422


def test_a_job_that_puts_a_link_a_pipe_or_a_folder_in_place_of_its_log_is_not_followed_there(running, tmp_path):
    (tmp_path / "token").write_text("tm_secret")
    running.control.log(1, b"x")
    path = running.control.log_files(1)["0"]

    for place in (lambda: path.symlink_to(tmp_path / "token"), lambda: os.mkfifo(path), path.mkdir):
        path.unlink(missing_ok=True)
        place()
        answer = logs(running)
        assert (answer.status_code, "secret" in answer.text) == (404, False)


def following(served: Served, deeds, query: str = "", pause_s: float = 0.25) -> bytes:
    """What a follower gets while the deeds are done, with pauses between them."""

    def act() -> None:
        for deed in deeds:
            time.sleep(pause_s)
            deed()

    acting = threading.Thread(target=act)
    acting.start()
    answer = logs(served, f"follow=true&{query}")
    acting.join()
    return answer.content


def test_a_log_is_followed_until_the_job_has_ended(running):
    control = running.control
    control.log(1, b"one\n")

    got = following(running, [lambda: control.log(1, b"two\n"), lambda: (control.log(1, b"three\n"), control.end(1))])

    assert got == b"one\ntwo\nthree\n"


def test_a_log_is_followed_from_before_the_job_starts_and_through_its_preemption(served):
    served.submit("ana")
    control = served.control

    got = following(
        served,
        [
            lambda: (control.run(1), control.log(1, b"first\n")),
            lambda: control.preempt(1),
            lambda: (control.run(1), control.log(1, b"second\n")),
            lambda: control.end(1),
        ],
    )

    assert got == b"first\nsecond\n"


def test_two_preemptions_between_two_looks_lose_no_attempt(running):
    control = running.control

    def fast():
        for text in (b"a\n", b"b\n", b"c\n"):
            control.log(1, text)
            control.preempt(1)
            control.run(1)
        control.end(1)

    assert following(running, [fast]) == b"a\nb\nc\n"


def test_an_attempt_is_followed_to_its_own_end(running):
    control = running.control
    control.log(1, b"first\n")

    assert following(running, [lambda: control.preempt(1)], "attempt=1") == b"first\n"


def test_a_job_that_is_cancelled_before_it_starts_has_an_empty_log(served):
    served.submit("ana")

    assert following(served, [lambda: served.control.end(1, State.CANCELLED)]) == b""


def test_a_follower_begins_with_the_last_lines_if_asked(running):
    running.control.log(1, b"a\nb\nc\n")

    assert following(running, [lambda: running.control.end(1)], "tail=1") == b"c\n"


def test_followers_are_bounded_and_end_when_the_server_stops(tmp_path):
    served = Served(tmp_path, Settings(max_streams=1))
    served.submit("ana")
    served.control.run(1)
    got = []
    first = threading.Thread(target=lambda: got.append(logs(served, "follow=true").status_code))
    first.start()
    wait_until(lambda: served.service.streams.total() == 1)

    refused = logs(served, "follow=true")
    served.service.stopping.set()
    first.join(10)

    assert (refused.status_code, got) == (503, [200])
    assert served.service.streams.total() == 0


def test_hostile_bytes_in_a_log_are_text_to_a_browser(running):
    running.control.log(1, b"<script>alert(1)</script>")

    answer = logs(running)

    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_follower_goes_on_from_the_byte_that_was_next_wherever_an_attempt_ended(running):
    control = running.control
    control.log(1, b"first\n")
    begun = logs(running, "tail=1")
    assert (begun.headers["log-attempt"], begun.headers["log-offset"]) == ("1", "0")
    control.preempt(1)
    control.run(1)
    control.log(1, b"second\n")
    control.end(1)

    for offset, rest in ((0, b"first\nsecond\n"), (3, b"st\nsecond\n"), (6, b"second\n"), (8, b"cond\n"), (13, b"")):
        assert logs(running, f"follow=true&since=1&offset={offset}").content == rest
    assert logs(running, "since=1").status_code == 422


def test_a_log_that_both_attempts_append_to_is_followed_once(running):
    control = running.control
    control.log(1, b"first\n")
    shared = control.log_files(1)["0"]

    def again() -> None:
        control.preempt(1)
        control.run(1)
        control.log(1, b"")
        path = control.log_files(1)["0"]
        path.unlink()
        os.link(shared, path)
        control.log(1, b"second\n")

    assert following(running, [again, lambda: control.end(1)]) == b"first\nsecond\n"


class Away:
    """A log whose reader is not always there: what it gives, one answer a question. It is all of an attempt's logs, too."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)

    async def sizes(self):
        self._answer(self.answers[:1])
        return {"0": 6}

    async def open(self, rank):
        return self

    async def about(self):
        return About((0, 0), 6)

    async def read(self, offset, most=0):
        answer = self.answers.pop(0) if self.answers else b""
        self._answer([answer])
        return answer, offset + len(answer)

    def close(self):
        pass

    def _answer(self, answers):
        if None in answers:
            raise BackendError("the process of ana has gone")


def test_who_follows_does_not_notice_that_the_one_who_reads_was_away(running, monkeypatch):
    monkeypatch.setattr(streams, "AGAIN_S", 0.01)
    away = Away(b"abc", None, None, b"def")
    monkeypatch.setattr(running.control, "logs", lambda job, attempt=None: away)
    running.control.end(1)

    assert logs(running, "follow=true").content == b"abcdef"


def test_who_goes_on_to_follow_is_told_that_nobody_can_read_the_log(running, monkeypatch):
    """Before the first byte: after it there would be no words for it, and who follows would ask again for ever."""
    monkeypatch.setattr(running.control, "logs", lambda job, attempt=None: Away(None))

    answer = logs(running, "follow=true&since=1&offset=3")

    assert (answer.status_code, answer.json()["error"]) == (503, "the process of ana has gone")
