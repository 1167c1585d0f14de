"""What a user can do to the controller with the process that speaks for that user: nothing that others feel. Without Slurm."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from live.backends.harness import wait_until
from live.slurm.liars import answering, liar, program, site_of
from trainmaster.errors import BackendError, InputError
from trainmaster.live.backends import slurm_users
from trainmaster.live.backends.base import Observation, Seen
from trainmaster.live.backends.slurm_agent import LOGS, Reply, Request, Word
from trainmaster.live.backends.slurm_user_logs import UserLogs
from trainmaster.live.backends.slurm_users import Agent, SlurmAsUsers

GREETING = json.dumps(asdict(Word()))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(slurm_users, "RETRY_S", 0.02)
    monkeypatch.setattr(slurm_users, "LEAVE_S", 0.3)
    yield


def eve(backend: SlurmAsUsers) -> Agent:
    return backend._agents["eve"]


def starts(tmp_path: Path) -> int:
    """Of a program that writes a word into this file at each."""
    return len((tmp_path / "starts").read_text().split()) if (tmp_path / "starts").exists() else 0


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_gpu_that_is_said_to_be_given_many_times_counts_once(tmp_path: Path) -> None:
    """Else GPUs that Slurm counts as used by others would be taken for this user's, and be given away."""
    word = {"seen": [], "placed": [[2, 1, "n1"]] * 5}
    backend = site_of(tmp_path, liar(tmp_path, GREETING, json.dumps(word)))
    eve(backend).look_after((2, 1))
    wait_until(lambda: bool(eve(backend).placed((2, 1))))
    assert list(backend._placed()) == [((2, 1), "n1", 1.0)]
    eve(backend).leave()


def test_of_attempts_that_a_user_does_not_have_nothing_is_kept(tmp_path: Path) -> None:
    seen = [asdict(Observation(job=job, attempt=1, seen=Seen.RUNNING)) for job in range(2, 500)]
    word = {"seen": seen, "placed": [[job, 1, "n1"] for job in range(2, 500)], "entrances": [[job, 1, 7] for job in range(2, 500)]}
    backend = site_of(tmp_path, liar(tmp_path, GREETING, json.dumps(word)))
    eve(backend).look_after((2, 1))
    wait_until(lambda: eve(backend).seen((2, 1)) is not None)
    assert [len(kept) for kept in (eve(backend)._seen or {}, eve(backend)._placed, eve(backend)._entrances)] == [1, 1, 1]
    eve(backend).leave()


@pytest.mark.usefixtures("quick")
def test_a_process_that_does_not_go_is_followed_by_no_other(tmp_path: Path) -> None:
    """Each would cost the controller a process and its pipes, for good."""
    stays = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    argv = program(tmp_path, f"echo one >> {tmp_path}/starts; echo '{GREETING}'; echo nonsense; {stays}")
    backend = site_of(tmp_path, argv)
    eve(backend).look_after((2, 1))
    wait_until(lambda: eve(backend).trouble.endswith("does not go"))
    time.sleep(0.5)
    assert (tmp_path / "starts").read_text().split() == ["one"]
    assert {one.seen for one in backend.observe()} == {Seen.UNKNOWN}
    (tmp_path / "go").touch()
    wait_until(lambda: starts(tmp_path) > 1)
    eve(backend).leave()


@pytest.mark.usefixtures("quick")
def test_what_a_process_leaves_behind_holds_nothing_of_the_controllers(tmp_path: Path) -> None:
    """A child of it has its pipes and lives on: the thread that writes and the one that listens go all the same."""
    child = f"(until [ -e {tmp_path}/go ]; do sleep 0.1; done) <&0 >/dev/null &"
    argv = program(tmp_path, f"echo one >> {tmp_path}/starts\necho '{GREETING}'\n{child}\nexec >&-\nsleep 0.05")
    backend = site_of(tmp_path, argv)
    eve(backend).ask(Request(id=1, verb="stop", key=(2, 1), reason="x" * 1_000_000))  # more than its pipe holds
    threads = threading.active_count()

    wait_until(lambda: starts(tmp_path) >= 2)
    before = descriptors()
    wait_until(lambda: starts(tmp_path) >= 8)
    assert descriptors() <= before + 6  # of the one that is there
    assert threading.active_count() <= threads + 3
    (tmp_path / "go").touch()
    eve(backend).leave()


@pytest.mark.usefixtures("quick")
def test_a_process_that_talks_without_end_is_not_listened_to_without_end(tmp_path: Path) -> None:
    argv = program(tmp_path, f"echo '{GREETING}'; yes '{GREETING}' & cat > /dev/null; kill $!")
    backend = site_of(tmp_path, argv)
    heard: list[Word] = []
    hear, eve(backend)._hear = eve(backend)._hear, lambda word: (heard.append(word), hear(word))[1]  # type: ignore[method-assign]
    began_s = time.monotonic()
    eve(backend).look_after((2, 1))
    wait_until(lambda: len(heard) > 5)
    assert len(heard) <= 1 + (time.monotonic() - began_s) / (slurm_users.PAUSE_S / 2)
    eve(backend).leave()


def test_nor_is_one_that_complains_without_end() -> None:
    class Counted(deque[str]):
        reads = 0

        def append(self, line: str) -> None:
            self.reads += 1
            super().append(line)

    last = Counted(maxlen=1)
    began_s = time.monotonic()
    with subprocess.Popen(["yes", "no"], stdout=subprocess.PIPE) as flood:
        assert flood.stdout is not None
        ended = os.pidfd_open(flood.pid)
        listener = threading.Thread(target=slurm_users._keep_last, args=(flood.stdout.fileno(), ended, last))
        listener.start()
        wait_until(lambda: last.reads > 5)
        flood.kill()
        listener.join(5.0)
        os.close(ended)
    assert not listener.is_alive()
    assert list(last) == ["no"]
    assert last.reads <= 2 + (time.monotonic() - began_s) / (slurm_users.PAUSE_S / 2)


def test_a_word_larger_than_any_that_is_needed_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_users, "WORD_BYTES", 10_000)
    word = json.dumps({"seen": [asdict(Observation(job=2, attempt=1, seen=Seen.RUNNING, message="x" * 1_900))] * 10})
    backend = site_of(tmp_path, liar(tmp_path, GREETING, word))
    eve(backend).look_after((2, 1))
    wait_until(lambda: "understood" in eve(backend).trouble)
    assert {one.seen for one in backend.observe()} == {Seen.UNKNOWN}
    eve(backend).leave()


@pytest.mark.parametrize("about", [{"metrics": {"x" * 1_000_000: 1.0}}, {"started_s": 1e15}])
def test_what_nothing_could_show_is_no_observation(tmp_path: Path, about: dict[str, object]) -> None:
    word = {"seen": [{"job": 2, "attempt": 1, "seen": "running", **about}]}
    backend = site_of(tmp_path, liar(tmp_path, GREETING, json.dumps(word)))
    eve(backend).look_after((2, 1))
    wait_until(lambda: "understood" in eve(backend).trouble)
    eve(backend).leave()


def test_what_a_process_says_is_one_line_of_a_log_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    forged = "no\n2026-01-01 WARNING the store is on fire\x1b[2J" + "x" * 100_000
    word = {"seen": [asdict(Observation(job=2, attempt=1, seen=Seen.RUNNING, message="a\nb\x1b[2J"))], "answers": [[1, forged]]}
    argv = program(tmp_path, f"echo '{GREETING}'\nread hello\nread stop\ncat <<'END'\n{json.dumps(word)}\nEND\ncat >/dev/null")
    backend = site_of(tmp_path, argv)
    with caplog.at_level(logging.WARNING):
        eve(backend).ask(Request(id=1, verb="stop", key=(2, 1)))
        wait_until(lambda: eve(backend).seen((2, 1)) is not None)
    (record,) = [record for record in caplog.records if "of attempt" in record.getMessage()]
    for said in (record.getMessage(), eve(backend).trouble, next(one.message for one in backend.observe() if one.job == 2)):
        assert said.isprintable() and len(said) < 400
    eve(backend).leave()


def test_a_process_has_nothing_of_the_controllers_environment_and_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    argv = program(tmp_path, f"env > {tmp_path}/env; cut -d' ' -f6 /proc/$$/stat > {tmp_path}/session; echo '{GREETING}'; cat")
    backend = site_of(tmp_path, argv)
    eve(backend).look_after((2, 1))
    wait_until(lambda: (tmp_path / "session").exists() and (tmp_path / "session").read_text().strip().isdecimal())
    assert "secret" not in (tmp_path / "env").read_text()
    assert int((tmp_path / "session").read_text()) != os.getsid(0)
    eve(backend).leave()


def test_as_whom_nothing_may_run_is_tried_less_and_less_often_unless_somebody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has left the group, and has an attempt there: sudo may write a mail about each."""
    monkeypatch.setattr(slurm_users, "RETRY_S", 0.01)
    monkeypatch.setattr(slurm_users, "MOST_RETRIES", 1 << 20)
    backend = site_of(tmp_path, program(tmp_path, f"echo one >> {tmp_path}/starts; echo 'sudo: a password is required' >&2; exit 1"))
    backend._check_account = lambda user: None  # type: ignore[method-assign]

    began_s = time.monotonic()
    eve(backend).look_after((2, 1))
    wait_until(lambda: starts(tmp_path) >= 5)
    assert time.monotonic() - began_s >= 0.01 * (4 + 8 + 16)  # after the second, the third and the fourth
    before = starts(tmp_path)
    for _ in range(9):  # the last of these alone would be waited for longer than a test may take
        with pytest.raises(BackendError, match="nothing runs as eve"):
            backend.ask("eve", 30.0, verb="drop", names=())
    assert starts(tmp_path) >= before + 8  # the process that was just there may have answered the first
    eve(backend).leave()


def test_an_operator_is_told_whose_process_obeys_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may stop it, and so keep what the own jobs hold for as long as Slurm lets them."""
    monkeypatch.setattr(slurm_users, "ANSWER_S", 0.2)
    word = json.dumps({"seen": [asdict(Observation(job=2, attempt=1, seen=Seen.RUNNING))]})
    backend = site_of(tmp_path, liar(tmp_path, GREETING, word))
    eve(backend).look_after((2, 1))
    wait_until(lambda: eve(backend).seen((2, 1)) is not None)
    assert backend.report()["troubles"] == {}
    backend.stop(2, 1, grace_s=0.0, reason="preempt")
    wait_until(lambda: "obeyed nothing" in backend.report()["troubles"].get("eve", ""))
    assert {one.job: one.seen for one in backend.observe()}[2] is Seen.RUNNING  # its GPUs are given to nobody
    eve(backend).leave()


def test_who_has_asked_is_told_at_once_that_the_controller_stops(tmp_path: Path) -> None:
    """Else it would wait for minutes for the last copies that were asked for."""
    backend = site_of(tmp_path, program(tmp_path, "sleep 0.2"))  # it says nothing: the question has not been sent
    backend._check_account = lambda user: None  # type: ignore[method-assign]
    failed: list[BackendError] = []

    def ask() -> None:
        try:
            backend.ask("eve", 60.0, verb="drop", names=())
        except BackendError as problem:
            failed.append(problem)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: bool(eve(backend)._questions) or bool(failed))
    eve(backend).dismiss()
    asking.join(5.0)
    assert not asking.is_alive() and failed
    with pytest.raises(BackendError):
        backend.ask("eve", 60.0, verb="drop", names=())
    eve(backend).leave()


@pytest.mark.usefixtures("quick")
def test_processes_that_do_not_go_are_waited_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stays = program(tmp_path, f"echo '{GREETING}'; until [ -e {tmp_path}/go ]; do sleep 0.05; done")
    backend = site_of(tmp_path, stays)
    waited: list[float] = []
    for user in "abcdefgh":
        backend._agents[user] = Agent(user, stays, eve(backend)._hello, lambda: None, backend._shut_out)
    for agent in backend._agents.values():
        agent.look_after((2, 1))
        leave = agent.leave
        agent.leave = lambda until_s=None, leave=leave: (waited.append(until_s), leave(until_s))[1]  # type: ignore[method-assign,misc]
    wait_until(lambda: all(agent._process is not None for agent in backend._agents.values()))
    backend._nodes.close = lambda: None  # type: ignore[method-assign]
    backend.close()
    assert len(set(waited)) == 1 and None not in waited
    (tmp_path / "go").touch()


def test_an_account_is_named_as_it_names_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a directory does not mind the case of letters, Ada's process would wait for ada's for ever."""
    me = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(pwd, "getpwnam", lambda name: me)
    with pytest.raises(InputError, match=f"is called {me.pw_name} here"):
        SlurmAsUsers(tmp_path, tmp_path)._check_account(me.pw_name.upper())


@pytest.mark.parametrize("reply", [{"sizes": {str(rank): 1 for rank in range(LOGS + 1)}}, {"sizes": {"0": 1}, "data": "A" * 1_000_000}])
def test_an_answer_larger_than_was_asked_for_is_not_looked_into(reply: dict[str, object]) -> None:
    async def ask(verb: str, **about: object) -> Reply:
        return Reply(id=1, **reply)  # type: ignore[arg-type]

    async def read() -> None:
        log = await UserLogs(ask).open("0")
        assert log is not None
        await log.read(0, 1_000)

    with pytest.raises(BackendError, match="cannot be understood"):
        asyncio.run(read())


def test_what_has_been_sent_is_not_remembered_for_ever(tmp_path: Path) -> None:
    backend = answering(tmp_path)
    sizes: list[int] = []
    unsaid = eve(backend)._unsaid
    eve(backend)._unsaid = lambda sent: (sizes.append(len(sent)), unsaid(sent))[1]  # type: ignore[method-assign]
    for number in range(20):
        eve(backend).ask(Request(id=number, verb="forget", key=(2, 1)))
        eve(backend)._hear(Word(answers=((number, ""),)))
        backend.ask("eve", 5.0, verb="drop", names=())
    assert max(sizes) < 5
    eve(backend).leave()
