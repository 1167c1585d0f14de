"""Site mode on a real Slurm: two temporary accounts, a third that may become either by one rule of sudo, and what none of them may do."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pwd
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest

from live.backends.harness import PATIENCE_S, Harness, wait_until
from live.slurm.accounts import Site
from live.slurm.liars import answering, liar, site_of
from trainmaster.errors import BackendError, InputError, NotFound, TrainmasterError
from trainmaster.live.backends import slurm_users
from trainmaster.live.backends.base import Attempt, NodeShare, Observation, Seen
from trainmaster.live.backends.slurm_agent import MESSAGE, Hello, Reply, Request, Word, answer
from trainmaster.live.backends.slurm_user_copies import KeptByUsers
from trainmaster.live.backends.slurm_users import Agent, Mark, SlurmAsUsers
from trainmaster.live.controller import Controller
from trainmaster.live.http.logs import once
from trainmaster.live.logs import CHUNK, Logs
from trainmaster.live.plane import Plane
from trainmaster.live.rules import Rules
from trainmaster.live.settings import settings_of
from trainmaster.live.spec import JobSpec
from trainmaster.live.states import State
from trainmaster.live.store import Copy, Store
from trainmaster.live.up import backend_of
from trainmaster.policies.registry import find_policy


@pytest.fixture
def cluster(site: Site, tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(lambda: SlurmAsUsers(tmp_path / "state", site.program), site.folder / site.ada, user=site.ada)
    yield harness
    harness.close()


def start(cluster: Harness, site: Site, user: str, *command: str, **about: Any) -> Attempt:
    cluster.user, cluster.folder = user, site.folder / user
    return cluster.start(command, **about)


def test_a_job_runs_as_its_user_with_all_that_is_its_own(site: Site, cluster: Harness) -> None:
    says = "id -un > who; umask > umask; exit 3"
    attempts = [start(cluster, site, user, "sh", "-c", says, gpus=(2,)) for user in (site.ada, site.eve)]
    for user, attempt in zip((site.ada, site.eve), attempts, strict=True):
        seen = cluster.until(attempt)
        assert (seen.seen, seen.exit_code, seen.asked_to_stop) == (Seen.ENDED, 3, False), seen.message
        home, uid = site.folder / user, pwd.getpwnam(user).pw_uid
        assert (home / "who").read_text().strip() == user
        state = home / ".trainmaster" / f"site-{cluster.backend._site}"
        assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (uid, 0o700)
        assert {path.lstat().st_uid for path in state.rglob("*")} == {uid}
        assert (state / "jobs" / str(attempt.job) / "1" / "0.log").exists()


def test_a_job_is_stopped_by_the_protocol_as_its_user(site: Site, cluster: Harness) -> None:
    says = "trap 'echo told > told; exit 0' TERM; echo so > ready; while :; do sleep 0.1; done"
    attempt = start(cluster, site, site.eve, "sh", "-c", says)
    assert cluster.file("ready") == "so"
    assert cluster.backend.inventory()[0].others_gpus == 0
    cluster.backend.stop(attempt.job, 1, grace_s=20, reason="preempt")
    seen = cluster.until(attempt)
    assert (seen.seen, seen.exit_code, seen.asked_to_stop) == (Seen.ENDED, 0, True)
    assert cluster.file("told") == "told"


def test_a_new_controller_finds_what_runs(site: Site, cluster: Harness) -> None:
    attempt = start(cluster, site, site.ada, "sh", "-c", "until [ -e go ]; do sleep 0.1; done; exit 5")
    cluster.running(attempt)
    cluster.crash()
    assert {one.seen for one in cluster.backend.observe()} <= {Seen.UNKNOWN, Seen.RUNNING}  # never taken for lost
    cluster.running(attempt)
    (cluster.folder / "go").touch()
    assert cluster.until(attempt).exit_code == 5
    cluster.backend.forget(attempt.job, 1)
    assert cluster.seen(attempt) is None


def test_who_is_not_in_the_rule_or_has_no_account_is_refused(site: Site, cluster: Harness) -> None:
    for user, words in ((site.other, "nothing runs as"), ("nobody-of-that-name", "no Unix account"), ("daemon", "account of the system")):
        cluster.user = user
        seen = cluster.until(cluster.start(["true"]))
        assert seen.seen is Seen.REFUSED
        assert words in seen.message
    assert not (site.folder / site.other / ".trainmaster").exists()


def test_a_user_reaches_no_job_of_another(site: Site, cluster: Harness) -> None:
    attempt = start(cluster, site, site.ada, "sh", "-c", "until [ -e go2 ]; do sleep 0.1; done")
    cluster.running(attempt)
    state = site.folder / site.ada / ".trainmaster" / f"site-{cluster.backend._site}"
    as_eve = ["setpriv", f"--reuid={site.eve}", f"--regid={site.eve}", "--clear-groups"]
    folder = f"{state}/jobs/{attempt.job}/1"
    for wish in (f"cat {folder}/plan.json", f"echo '{{}}' > {folder}/end.json", f"touch {state}/news/{attempt.job}.1", f"ls {state}"):
        assert subprocess.run([*as_eve, "sh", "-c", wish], capture_output=True, cwd="/").returncode
    (row,) = site.cluster.run("squeue", "-h", "-o", "%i").split()
    assert subprocess.run([*as_eve, "scancel", row], capture_output=True, cwd="/").returncode
    assert cluster.running(attempt).seen is Seen.RUNNING
    (cluster.folder / "go2").touch()
    assert cluster.until(attempt).exit_code == 0


def test_logs_are_read_as_their_user_while_a_job_runs_and_long_after(site: Site, cluster: Harness) -> None:
    says = "seq 200000; until [ -e go3 ]; do sleep 0.1; done; echo over"
    attempt = start(cluster, site, site.ada, "sh", "-c", says)
    cluster.running(attempt)
    written = "".join(f"{number}\n" for number in range(1, 200_001)).encode()
    logs = cluster.backend.logs(attempt.job, 1, site.ada)
    cluster.wait(lambda: asyncio.run(logs.sizes()).get("0", 0) == len(written) or None)
    assert len(written) > 4 * CHUNK
    assert whole(logs) == written
    assert whole(logs, tail=2) == b"199999\n200000\n"
    (cluster.folder / "go3").touch()
    cluster.until(attempt)
    cluster.backend.forget(attempt.job, 1)
    cluster.crash()
    later = cluster.backend.logs(attempt.job, 1, site.ada)
    assert whole(later) == written + b"over\n"
    assert whole(cluster.backend.logs(attempt.job, 1, site.eve)) == b""  # nobody's process reads but for its own user
    assert asyncio.run(later.open("../1/0")) is None


def test_a_log_that_its_job_makes_a_link_to_what_its_user_may_not_read_shows_nothing(site: Site, cluster: Harness) -> None:
    secret = site.folder / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    attempt = start(cluster, site, site.eve, "sh", "-c", "echo written", output="out.txt")
    cluster.until(attempt)
    logs = cluster.backend.logs(attempt.job, 1, site.eve)
    assert whole(logs) == b"written\n"
    folder = site.folder / site.eve / ".trainmaster" / f"site-{cluster.backend._site}" / "jobs" / str(attempt.job) / "1"
    (folder / "no text \udcff.log").touch()
    assert asyncio.run(logs.sizes()) == {"0": 8, "system": asyncio.run(logs.sizes())["system"]}
    (folder / "0.log").unlink()
    (folder / "0.log").symlink_to(secret)
    with pytest.raises(NotFound, match="Permission denied"):
        whole(logs)
    (folder / "0.log").unlink()
    os.mkfifo(folder / "0.log")
    assert whole(logs) == b""


def whole(logs: Logs, tail: int | None = None) -> bytes:
    """As `trainmaster logs` shows it; nothing, where there is no such log."""

    async def chunks() -> AsyncIterator[bytes]:
        log = await logs.open("0")
        if log is not None:
            async for chunk in once(log, 0 if tail is None else await log.tail_offset(tail)):
                yield chunk

    async def gathered() -> bytes:
        return b"".join([chunk async for chunk in chunks()])

    return asyncio.run(gathered())


@pytest.mark.slow
def test_the_controller_stops_one_users_job_for_anothers_and_takes_it_up_again(site: Site, tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}", owner=f"{socket.gethostname()}:{os.getpid()}", now=time.time)
    backend = SlurmAsUsers(tmp_path / "state", site.program)
    controller = Controller(store, backend, find_policy("las")(), rules=Rules(min_run_s=0.0, poll_s=0.2))
    plane = Plane(controller)

    def submit(user: str, says: str) -> int:
        env = {"PATH": os.environ["PATH"], "HOME": str(site.folder / user)}
        spec = JobSpec(command=("sh", "-c", says), gpus=4, preemptible=True, env=env, workdir=str(site.folder / user), grace_s=5)
        (id,) = plane.submit([spec], user).result(PATIENCE_S)
        return id

    controller.start()
    try:
        first = submit(site.ada, 'echo $TRAINMASTER_ATTEMPT >> tries; until [ -e "$HOME/end" ]; do sleep 0.1; done')
        wait_until(lambda: plane.job(first).state is State.RUNNING)
        second = submit(site.eve, "id -un > ran")
        wait_until(lambda: plane.job(second).state is State.SUCCEEDED)
        assert (site.folder / site.eve / "ran").read_text().strip() == site.eve
        (site.folder / site.ada / "end").touch()
        wait_until(lambda: plane.job(first).state is State.SUCCEEDED)
        assert plane.job(first).preemptions == 1
        assert (site.folder / site.ada / "tries").read_text().split() == ["1", "2"]
    finally:
        controller.stop()
        store.close()


# ------------------------------------------------------------------------------------------- without Slurm: a process that lies


def test_as_user_chooses_site_mode_and_goes_with_slurm_alone(tmp_path: Path) -> None:
    flags = {"state": tmp_path, "as_user": Path("/opt/trainmaster/bin/trainmaster-as-user")}
    assert isinstance(backend_of(settings_of({**flags, "backend": "slurm"})), SlurmAsUsers)
    with pytest.raises(InputError, match="--as-user goes with --backend slurm"):
        backend_of(settings_of({**flags, "backend": "local"}))


def test_what_the_process_of_a_user_says_of_another_users_job_is_not_believed(tmp_path: Path) -> None:
    forged = [Observation(job=job, attempt=1, seen=Seen.ENDED, exit_code=0, ended_s=1.0) for job in (1, 2, 3)]
    word = Word(seen=tuple(forged), placed=((1, 1, "n1"), (2, 1, "n1"), (2, 1, "n9")))
    backend = site_of(tmp_path, liar(tmp_path, json.dumps(asdict(word))))
    backend._agents["eve"].look_after((2, 1))
    wait_until(lambda: any(one.job == 2 and one.seen is Seen.ENDED for one in backend.observe()))
    assert {one.job: one.seen for one in backend.observe()} == {1: Seen.UNKNOWN, 2: Seen.ENDED}
    assert list(backend._placed()) == [((2, 1), "n1", 1.0)]
    backend._agents["eve"].leave()


@pytest.mark.parametrize("about", [{"exit_code": "x"}, {"ended_s": float("nan")}, {"step": 10**30}, {"message": "x" * 10_000}])
def test_a_process_that_makes_no_sense_is_left_alone_and_its_jobs_are_not_taken_for_lost(tmp_path: Path, about: dict[str, Any]) -> None:
    """A time that is no number, say, would go into the sums by which users share."""
    word = {"seen": [{"job": 2, "attempt": 1, "seen": "ended", **about}]}
    backend = site_of(tmp_path, liar(tmp_path, json.dumps(asdict(Word())), json.dumps(word)))
    backend._agents["eve"].look_after((2, 1))
    wait_until(lambda: "understood" in backend._agents["eve"].trouble)
    assert {one.seen for one in backend.observe()} == {Seen.UNKNOWN}
    backend._agents["eve"].leave()


def test_a_job_of_a_user_as_whom_nothing_may_run_is_refused_in_sudos_words(tmp_path: Path) -> None:
    program = tmp_path / "sudo"
    program.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    program.chmod(0o755)
    backend = site_of(tmp_path, ["true"])
    refusing = Agent("bob", [str(program)], Hello(site="0", slurm_conf=None, log_limit=0), lambda: None, backend._shut_out)
    backend._agents["bob"], backend._marks[4, 1] = refusing, Mark("bob", {"n1": 1.0})
    attempt = Attempt(job=4, attempt=1, name="", user="bob", spec=JobSpec(command=("true",)), shares=(NodeShare(node="n1", gpus=1.0),))
    refusing.ask(Request(id=1, verb="start", key=(4, 1), attempt=attempt))
    wait_until(lambda: any(one.job == 4 and one.seen is Seen.REFUSED for one in backend.observe()))
    (refused,) = [one for one in backend.observe() if one.job == 4]
    assert refused.message == "nothing runs as bob: sudo: a password is required (docs/slurm.md)"
    refusing.leave()


def test_a_start_that_may_have_been_heard_is_not_called_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_users, "RETRY_S", 0.05)
    program = tmp_path / "dies"
    said = json.dumps(asdict(Word()))
    program.write_text(f"#!/bin/sh\nif [ -e {tmp_path}/again ]; then echo no > {tmp_path}/twice; exit 1; fi\n"
                       f"echo '{said}'; read hello; read start; touch {tmp_path}/again\n")  # fmt: skip
    program.chmod(0o755)
    backend = site_of(tmp_path, [str(program)])
    attempt = Attempt(job=2, attempt=1, name="", user="eve", spec=JobSpec(command=("true",)), shares=(NodeShare(node="n1", gpus=1.0),))
    backend._agents["eve"].ask(Request(id=1, verb="start", key=(2, 1), attempt=attempt))
    wait_until(lambda: (tmp_path / "twice").exists())
    wait_until(lambda: backend._agents["eve"].trouble != "")
    assert {one.job: one.seen for one in backend.observe()} == {1: Seen.UNKNOWN, 2: Seen.UNKNOWN}
    backend._agents["eve"].leave()


def test_what_a_users_process_answers_about_a_log_is_taken_as_it_is(tmp_path: Path) -> None:
    backend = answering(tmp_path, sizes={"0": 3}, data=base64.b64encode(b"abc").decode(), next=3, size=3)
    assert whole(backend.logs(2, 1, "eve")) == b"abc"
    assert whole(backend.logs(2, 1, "eve")) == b"abc"  # it said all of it twice
    assert backend._agents["eve"]._questions == {}
    backend._agents["eve"].leave()


@pytest.mark.parametrize(
    "reply",
    [{"data": "no base64!"}, {"data": base64.b64encode(b"x" * 100).decode(), "next": 100, "size": 1}, {"next": -1}, {"next": 1 << 80},
     {"data": "eA==", "next": 0}, {"size": -5}, {"which": "x"}, {"fault": "bug", "error": "x"}, {"sizes": {"0": "many"}},
     {"fault": "missing", "error": "x" * 100_000}],
)  # fmt: skip
def test_an_answer_about_a_log_that_makes_no_sense_is_an_error_of_one_line(tmp_path: Path, reply: dict[str, Any]) -> None:
    backend = answering(tmp_path, **{"sizes": {"0": 1}, "size": 1, "next": 1, **reply})
    with pytest.raises(TrainmasterError) as raised:
        whole(backend.logs(2, 1, "eve"))
    assert len(str(raised.value)) <= MESSAGE
    backend._agents["eve"].leave()


def test_a_users_process_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_users, "ANSWER_S", 0.3)
    backend = site_of(tmp_path, liar(tmp_path, json.dumps(asdict(Word()))))
    backend._check_account = lambda user: None  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="the process of eve has given no answer"):
        whole(backend.logs(2, 1, "eve"))
    assert backend._agents["eve"]._questions == {}
    backend._agents["eve"].leave()


def test_who_may_not_be_asked_is_said_at_once(tmp_path: Path) -> None:
    program = tmp_path / "sudo"
    program.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    program.chmod(0o755)
    backend = site_of(tmp_path, [str(program)])
    backend._check_account = lambda user: None  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="nothing runs as eve: sudo: a password is required"):
        whole(backend.logs(2, 1, "eve"))
    backend._agents["eve"].leave()
    with pytest.raises(NotFound, match="no Unix account"):
        SlurmAsUsers(tmp_path / "state", program).logs(2, 1, "nobody-of-that-name")


class FilesOf:
    """What `answer` asks of a backend."""

    def __init__(self, **files: Path) -> None:
        self.files = files

    def log_files(self, job: int, attempt: int) -> dict[str, Path]:
        return self.files


def test_a_users_process_reads_a_range_and_no_more_and_never_waits(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(b"0123456789" * 100_000)
    backend: Any = FilesOf(zero=log, pipe=tmp_path / "pipe", link=tmp_path / "link", folder=tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(log)

    def read(rank: str = "zero", **about: int) -> Reply:
        return answer(backend, Request(id=1, verb="read", key=(1, 1), rank=rank, **about))

    assert base64.b64decode(read(offset=4, most=3).data) == b"456"
    assert len(base64.b64decode(read(most=1 << 40).data)) == CHUNK
    assert (read(offset=1 << 50, most=9).data, read(offset=1 << 50, most=9).next) == ("", 1 << 50)
    log.write_bytes(b"short")
    assert (read(offset=500_000, most=9).data, read(most=9).size) == ("", 5)
    for rank in ("pipe", "link", "folder", "zero/", "../0"):
        with pytest.raises(NotFound):
            read(rank)
    assert answer(backend, Request(id=1, verb="sizes", key=(1, 1))).sizes["zero"] == 5


def test_a_users_process_drops_copies_that_nobody_uses_before_it_makes_another(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path / "work"], check=True)
    folder = tmp_path / "state" / "snapshots"
    names = [f"{number:032x}" for number in range(4)]
    for name in names[:3]:
        (folder / name).mkdir(parents=True)
    for name in names[:2]:
        os.utime(folder / name, (0, 0))  # the third may be of a request that is being taken in
    backend: Any = FilesOf()
    backend.state = str(tmp_path / "state")
    about = {"id": 1, "source": str(tmp_path / "work")}

    placed = answer(backend, Request(verb="copy", names=(names[3], names[0]), sweep=True, **about)).place

    assert placed == str(folder / names[3])
    assert sorted(path.name for path in folder.iterdir()) == [names[0], names[2], names[3]]
    for name in ("..", "x", f"../{names[0]}", ""):
        for verb in ("copy", "drop"):
            with pytest.raises(InputError):
                answer(backend, Request(verb=verb, names=(name,), **about))
    answer(backend, Request(verb="drop", names=(names[0], names[1]), **about))
    assert sorted(path.name for path in folder.iterdir()) == names[2:]


def test_copies_are_dropped_only_while_it_is_known_which_are_in_use() -> None:
    """The store may be away for hours: a copy whose job was taken in just before is old by then, and its job runs."""

    class Backend:
        asked: ClassVar[list[dict[str, Any]]] = []

        def folder_of(self, user: str) -> str:
            return f"/home/{user}"

        def ask(self, user: str, within_s: float, **about: Any) -> Reply:
            self.asked.append(about)
            return Reply(id=1, place=f"/home/{user}/snapshots/{about['names'][0]}")

    now_s = [1_000.0]
    backend: Any = Backend()
    kept = KeptByUsers(backend, clock=lambda: now_s[0])
    kept.copy("/work", "a", "eve")
    used = [Copy(place=f"/home/{user}/snapshots/{name}/src", active=True, last_s=0.0) for user, name in (("eve", "a"), ("ada", "b"))]
    kept.sweep(used, 0.0, 0.0)
    kept.copy("/work", "c", "eve")
    now_s[0] += 3_600.0
    kept.copy("/work", "d", "eve")
    assert [(about["sweep"], about["names"]) for about in backend.asked] == [(False, ("a",)), (True, ("c", "a")), (False, ("d", "a"))]


@pytest.mark.parametrize("place", ["", "/", "{copy}/../x", "{copy}x", "{copy}/../../..", "{copy}" + "/y" * 9_000])
def test_a_copy_lies_where_its_user_keeps_copies_or_is_none(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "0" * 32
    backend = answering(tmp_path, place=place.format(copy=f"/home/eve/.trainmaster/site-0/snapshots/{name}"))
    monkeypatch.setattr(backend, "folder_of", lambda user: "/home/eve/.trainmaster/site-0")
    with pytest.raises(BackendError, match="cannot be understood"):
        KeptByUsers(backend).copy("/work", name, "eve")
    backend._agents["eve"].leave()


def test_of_what_a_users_process_says_a_shell_holds_a_number_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word = {"seen": [], "entrances": [[2, 1, 77], [1, 1, 88], [3, 1, -4]]}
    backend = site_of(tmp_path, liar(tmp_path, json.dumps(asdict(Word())), json.dumps(word)))
    monkeypatch.setattr(backend, "folder_of", lambda user: f"/home/{user}/.trainmaster/site-0")
    monkeypatch.setattr(backend._nodes, "slurm_name", lambda node: node)
    backend._agents["eve"].look_after((2, 1))
    wait_until(lambda: backend._agents["eve"].entrance((2, 1)) is not None)
    argv = list(backend.shell(2, 1))
    assert "--jobid=77" in argv and argv[-1].startswith("/home/eve/.trainmaster/site-0/jobs/2/1/")
    for job in (1, 3):
        with pytest.raises(BackendError, match="nothing to enter"):
            backend.shell(job, 1)
    for about in (["x", 1, 7], [2, 1, "--uid=0"]):
        with pytest.raises(ValueError):
            slurm_users.WORD.validate_json(json.dumps({"entrances": [about]}))
    backend._agents["eve"].leave()
