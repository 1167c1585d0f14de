"""The pages in a real browser: they refresh themselves, the log grows, hostile names do nothing, nothing fails."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from live.http.fakes import Served
from trainmaster.live.http.server import Server

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
QUIET = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr --dump-dom"
).split()
HOSTILE = "<img src=x onerror=document.documentElement.dataset.owned=1>"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the pages are not opened")


@pytest.fixture
def up(tmp_path):
    served = Served(tmp_path, own_app=True)
    served.app.state.service = served.service
    server = Server(served.app)
    server.start()
    yield served, server
    server.stop()


def opened(url: str, profile, stay_ms: int) -> tuple[str, str]:
    """(the document after so long, what the browser logged)."""
    argv = [str(BROWSER), *QUIET, f"--user-data-dir={profile}", f"--virtual-time-budget={stay_ms}", url]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def test_the_page_is_logged_into_by_its_link_and_keeps_itself_fresh(up, tmp_path, monkeypatch):
    served, server = up
    served.submit("ana", name=HOSTILE)
    link = served.as_("admin").post("/api/v1/login-code").json()["path"]
    answers, status = [], served.control.status

    def started_after_the_first_answer():
        answers.append(served.control.job(1).state)
        if len(answers) == 2:
            served.control.run(1)
        return status()

    monkeypatch.setattr(served.control, "status", started_after_the_first_answer)
    document, log = opened(server.url + link, tmp_path / "profile", 8_000)

    assert re.search(r'<html[^>]* data-refreshed="\d+"', document)
    assert answers[0] == "PENDING"
    assert ">R</span>" in document  # though the page that was loaded had PD
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in document
    assert not re.search(r"<html[^>]* data-owned", document)
    assert "CONSOLE" not in log  # no error, and nothing that the content security policy had to refuse


def test_the_log_of_a_job_is_on_its_page_as_text(up, tmp_path):
    served, server = up
    served.submit("ana", name="resnet")
    served.control.run(1)
    served.control.log(1, b"loss 0.3\n" + HOSTILE.encode())
    served.control.end(1)
    link = served.as_("admin").post("/api/v1/login-code").json()["path"]

    opened(server.url + link, tmp_path / "profile", 100)
    document, log = opened(server.url + "/jobs/1", tmp_path / "profile", 4_000)

    shown = re.search(r'<pre id="log"[^>]*>(.*?)</pre>', document, re.DOTALL)[1]
    assert shown == "loss 0.3\n" + HOSTILE.replace("<", "&lt;").replace(">", "&gt;")
    assert not re.search(r"<html[^>]* data-owned", document)
    assert "CONSOLE" not in log
