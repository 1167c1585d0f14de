"""The same made-up requests against a real controller, its store and the local backend: no 5xx, and the controller goes on.

What they would run is not run: the node is drained, so the jobs that they submit wait. What is meant to run is a harmless command.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from live.http.fakes import API
from live.http.test_fuzz import CHECKS
from trainmaster.live.backends.local import LocalBackend
from trainmaster.live.clock import WallClock
from trainmaster.live.controller import Controller
from trainmaster.live.http.app import make_app
from trainmaster.live.http.auth import Authenticator, Role
from trainmaster.live.http.settings import Settings
from trainmaster.live.plane import Plane
from trainmaster.live.store import Store
from trainmaster.policies.registry import find_policy

QUIET = [HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
FEW = settings(max_examples=3, derandomize=True, suppress_health_check=QUIET, phases=[Phase.generate], database=None, deadline=None)
SOME = settings(FEW, max_examples=25)
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "TIMEOUT")


@dataclass
class Site:
    app: FastAPI
    controller: Controller
    auth: Authenticator
    folder: Path

    def headers(self) -> dict[str, str]:
        """A token of its own each time: what is made up revokes some."""
        return {"Authorization": f"Bearer {self.auth.issue('admin', Role.ADMIN, 'test')[1]}", "Host": "localhost"}

    def client(self) -> httpx.Client:
        return TestClient(self.app, base_url="http://localhost", headers=self.headers())

    def submit(self, **fields: Any) -> int:
        return self.client().post(f"{API}/jobs", json={"command": ["true"], "workdir": str(self.folder), **fields}).json()["id"]

    def job(self, id: int) -> dict[str, Any]:
        return self.client().get(f"{API}/jobs/{id}").json()

    def until(self, id: int, *states: str) -> dict[str, Any]:
        until_s = time.monotonic() + 60
        while (job := self.job(id))["state"] not in states:
            assert time.monotonic() < until_s, job
            time.sleep(0.05)
        return job

    def goes_on(self) -> None:
        assert self.controller.failure is None
        assert self.until(self.submit(), *ENDED)["state"] == "SUCCEEDED"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    clock = WallClock()
    with ExitStack() as stack:
        store = Store.open(f"sqlite:///{tmp_path / 'store.db'}", owner="test:1", now=clock)
        stack.callback(store.close)
        controller = Controller(store, LocalBackend(tmp_path / "state", slots=2), find_policy("tiresias-las")(), now=clock)
        auth = Authenticator(store, clock)
        app = make_app(Plane(controller), auth, Settings(token_rate=1e9, address_rate=1e9))
        controller.start()
        stack.callback(controller.stop)
        app.state.service.stopping.set()  # nobody follows a log for ever
        made = Site(app, controller, auth, tmp_path)
        yield made
        client = made.client()
        client.post(f"{API}/jobs/cancel", json={"ids": [job["id"] for job in client.get(f"{API}/jobs").json()["jobs"]]})
        for job in client.get(f"{API}/jobs").json()["jobs"]:
            made.until(job["id"], *ENDED)


def test_no_request_breaks_a_real_controller(site: Site) -> None:
    document = schemathesis.openapi.from_asgi(f"{API}/openapi.json", site.app, headers=site.headers())
    document.config.phases.coverage.enabled = False
    ended, running, _ = site.submit(), site.submit(command=["sleep", "300"]), site.submit(hold=True)
    site.until(ended, *ENDED)
    site.until(running, "RUNNING")
    headers = site.headers()
    (node,) = [node["name"] for node in site.client().get(f"{API}/nodes").json()["nodes"]]
    site.client().post(f"{API}/nodes/{node}/drain", json={"reason": "nothing that is made up runs here"})

    for operation in document.exclude(path_regex="/wait$").get_all_operations():

        @FEW
        @given(case=operation.ok().as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS)

        check()

    site.client().post(f"{API}/nodes/{node}/resume")
    site.client().post(f"{API}/jobs/cancel", json={"ids": [job["id"] for job in site.client().get(f"{API}/jobs").json()["jobs"]]})
    site.goes_on()


UNSAFE = ("script", "script_args", "setup", "snapshot", "output", "error", "checkpoint_dir", "after", "begin_s", "hold")


def test_whatever_a_harmless_command_is_submitted_with_it_ends_or_waits_for_a_reason(site: Site) -> None:
    document = schemathesis.openapi.from_asgi(f"{API}/openapi.json", site.app, headers=site.headers())
    document.config.phases.coverage.enabled = False
    headers, taken = site.headers(), list[int]()

    @SOME
    @given(case=document[f"{API}/jobs"]["POST"].as_strategy())
    def check(case: Any) -> None:
        if isinstance(case.body, dict):
            kept = {name: value for name, value in case.body.items() if name not in UNSAFE}
            case.body = {**kept, "command": ["true"], "workdir": str(site.folder), "array": None}
        answer = case.call_and_validate(headers=headers, checks=[not_a_server_error])
        if answer.status_code == 201:
            taken.append(answer.json()["id"])

    check()

    assert taken
    for id in taken:
        job = site.job(id)
        while job["state"] not in ENDED and not job["reason"].startswith(("can never fit", "held", "backs off", "capacity", "quota")):
            job = site.until(id, *ENDED, "PENDING")
    site.client().post(f"{API}/jobs/cancel", json={"ids": taken})
    site.goes_on()
