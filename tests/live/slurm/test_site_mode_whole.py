"""A whole controller in site mode: the API with tokens of two users, who speak to it by the command, each as the own account.

Once inside this process, which is root's and does with a wrapped sudo; once (slow: it compiles the engine anew) as an operator starts it,
`trainmaster up` of an account that is nobody in particular.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from live.backends.harness import PATIENCE_S, wait_until
from live.slurm.accounts import Site
from trainmaster.engine.late import compile_all
from trainmaster.live.client import Client
from trainmaster.live.settings import settings_of
from trainmaster.live.up import begin


class Inside:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.state = site.folder / site.controller / "state"
        self.said = site.folder / "said"
        self.tokens: dict[str, str] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]  # the same after a restart

    def begin(self) -> None:
        compile_all()
        self.running = ExitStack()
        flags = {"backend": "slurm", "as_user": self.site.program, "state": self.state, "port": self.port, "policy": "easy-backfill"}
        begin(settings_of(flags), self.running)

    def crash(self) -> None:
        self.running.close()

    def end(self) -> None:
        self.running.close()

    def admit(self, *users: str) -> None:
        with Client.of_state(self.state) as admin:
            self.tokens |= {user: admin.issue_token(user, "user", "", None)["token"] for user in users}

    def argv(self, user: str, *words: str) -> list[Any]:
        where = {"TRAINMASTER_URL": f"http://127.0.0.1:{self.port}", "TRAINMASTER_TOKEN": self.tokens[user]}
        return self.site.as_(user, self.site.command, *words, **where)

    def __call__(self, user: str, *words: str) -> str:
        done = subprocess.run(self.argv(user, *words), capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def refused(self, user: str, *words: str) -> str:
        done = subprocess.run(self.argv(user, *words), capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode, done.stdout
        return done.stderr.strip()

    def submit(self, user: str, says: str, *options: str) -> str:
        return self(user, "submit", "--gpus", "1", *options, "--", "sh", "-c", says).split()[-1]

    def state_of(self, user: str, job: str) -> str:
        with Client(f"http://127.0.0.1:{self.port}", self.tokens[user]) as client:
            return str(client.job(int(job))["state"])


    def page(self, user: str, path: str) -> tuple[int, str]:
        """As a browser shows it to who has logged in."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with closing(connection):
            form = {"content-type": "application/x-www-form-urlencoded", "origin": f"http://127.0.0.1:{self.port}"}
            connection.request("POST", "/login", f"token={self.tokens[user]}", form)
            answer = connection.getresponse()
            answer.read()
            cookie = (answer.headers["set-cookie"] or "").partition(";")[0]
            connection.request("GET", path, headers={"cookie": cookie})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


class Apart(Inside):
    def begin(self) -> None:
        command = [self.site.command, "up", "--backend", "slurm", "--as-user", self.site.program, "--state", self.state]
        more = ["--port", str(self.port), "--policy", "easy-backfill"]
        cache = {name: os.environ[name] for name in ("NUMBA_CACHE_DIR",) if name in os.environ}
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(self.site.as_(self.site.controller, *command, *more, **cache), stdout=said, stderr=said)
        wait_until(lambda: (self.state / "address").exists() or self.process.poll() is not None, 3 * PATIENCE_S)
        assert self.process.poll() is None, self.said.read_text()

    def crash(self) -> None:
        self.process.kill()  # setpriv and env have become it
        self.process.wait()
        (self.state / "address").unlink()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        assert self.process.returncode == 0, self.said.read_text()


@pytest.fixture(params=[Inside, pytest.param(Apart, marks=pytest.mark.slow)])
def whole(request: pytest.FixtureRequest, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    monkeypatch.setattr(sys, "executable", site.python)  # with which a shell is entered
    made: Inside = request.param(site)
    made.begin()
    try:
        made.admit(site.ada, site.eve)
        yield made
    finally:
        made.end()
        homes = [site.folder / user for user in (site.ada, site.eve)]
        subprocess.run(["rm", "-rf", made.state, *(home / name for home in homes for name in (".trainmaster", "work"))], check=True)


def processes_of(*users: str) -> str:
    return subprocess.run(["ps", "-o", "user:20,pid,args", "-u", ",".join(users)], capture_output=True, text=True).stdout.partition("\n")[2]


def test_a_snapshot_is_made_and_kept_as_its_user(whole: Inside, site: Site) -> None:
    ada, eve, home = site.ada, site.eve, site.folder / site.ada
    makes = "git init -q work && cd work && echo as submitted > answer && echo no > big.bin && echo '*.bin' > .gitignore && chmod 700 ."
    subprocess.run(site.as_(ada, "sh", "-c", makes), check=True)
    job = whole.submit(ada, "cat answer; ls; pwd", "--chdir", str(home / "work"), "--snapshot", "--hold")
    (home / "work" / "answer").write_text("edited")
    (copy,) = home.glob(".trainmaster/site-*/snapshots/*")
    assert {(path.owner(), path.is_symlink()) for path in (copy, *copy.rglob("*"))} == {(ada, False)}
    assert copy.stat().st_mode & 0o777 == 0o700
    whole(ada, "release", job)
    wait_until(lambda: whole.state_of(ada, job) == "SUCCEEDED")
    assert whole(ada, "logs", job) == f"as submitted\nanswer\n{copy}"

    told = whole.refused(eve, "submit", "--chdir", str(home / "work"), "--snapshot", "--", "true")
    assert f"{home / 'work'}: " in told  # in git's words, to eve
    assert not list((site.folder / eve).glob(".trainmaster/site-*/snapshots/*"))
    whole.refused(ada, "submit", "--chdir", str(home / "work"), "--snapshot", "--after", "afterok:999", "--", "true")
    wait_until(lambda: list(copy.parent.iterdir()) == [copy])


def test_two_users_have_jobs_at_one_controller_and_each_sees_and_touches_own_ones_alone(whole: Inside, site: Site) -> None:
    ada, eve = site.ada, site.eve
    first = whole.submit(ada, "id -un; pwd; exit 3")
    second = whole.submit(eve, "trap 'echo told; exit 0' TERM; echo so; while :; do id -un; sleep 0.1; done", "--grace", "20s")
    wait_until(lambda: whole.state_of(ada, first) == "FAILED")  # by its exit code, 3
    assert whole(ada, "logs", first).split() == [ada, str(site.folder / ada)]
    assert whole(ada, "logs", first, "--tail", "1") == str(site.folder / ada)

    with subprocess.Popen(whole.argv(eve, "logs", "--follow", second), stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert [follower.stdout.readline().strip() for _ in range(3)] == ["so", eve, eve]

        for words in (("logs", second), ("logs", "-f", second), ("cancel", second), ("why", second), ("shell", second)):
            assert f"no job {second}" in whole.refused(ada, *words)
        assert [line.split()[0] for line in whole(ada, "queue", "--all").splitlines()[1:]] == [first]
        assert [line.split()[0] for line in whole(eve, "queue", "--all").splitlines()[1:]] == [second]
        assert whole.state_of(eve, second) == "RUNNING"
        held = whole.submit(ada, "true", "--hold")
        assert [whole.page(ada, f"/jobs/{job}")[0] for job in (first, second, held)] == [200, 404, 200]
        assert [whole.page(ada, f"/jobs/{job}/log")[0] for job in (first, second)] == [200, 404]
        assert 'id="log"' in whole.page(eve, f"/jobs/{second}")[1]
        assert whole.page(ada, f"/jobs/{first}/log") == (200, f"{ada}\n{site.folder / ada}\n")

        says = f"id -un; echo $SLURM_JOB_ID; cd {site.folder}; touch {ada}/here || echo kept out"
        inside = subprocess.run(whole.argv(eve, "shell", second), input=says, capture_output=True, text=True, timeout=PATIENCE_S)
        assert inside.stdout.split("\n")[:3] == [eve, second, "kept out"], inside.stderr
        argv = json.loads(whole(eve, "shell", second, "--json"))["argv"]
        entering = subprocess.run(argv[argv.index(site.python) :], capture_output=True, text=True, input=says)  # as root
        assert (entering.returncode, entering.stdout) == (1, "")
        assert "only the job's own user can enter it" in entering.stderr

        whole.crash()
        whole.begin()
        assert follower.stdout.readline().strip() == eve  # it asks again
        assert whole.state_of(eve, second) == "RUNNING"

        whole(eve, "cancel", second)
        assert follower.stdout.read().split()[-1] == "told"
        assert follower.wait(PATIENCE_S) == 0
    wait_until(lambda: whole.state_of(eve, second) == "CANCELLED")
    assert whole(eve, "logs", second).split()[-1] == "told"
    assert whole(ada, "logs", first).split()[0] == ada  # by a process that a question has started

    wait_until(lambda: not site.cluster.run("squeue", "-h"))
    whole.crash()
    wait_until(lambda: not processes_of(ada, eve, site.controller))
    whole.begin()
