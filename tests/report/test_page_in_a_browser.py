"""The page in a real browser: every plot is drawn, nothing fails, nothing is fetched, hostile names do nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from report.test_page import EVERY_FIGURE, hostile_run, report, three_policies

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
QUIET = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr --virtual-time-budget=20000 --dump-dom"
).split()

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the page is not opened")


def opened(text: str, folder: Path) -> tuple[str, str]:
    """(the document after its scripts ran, what the browser logged)."""
    (folder / "page.html").write_text(text, "utf-8")
    argv = [str(BROWSER), *QUIET, f"--user-data-dir={folder / 'profile'}", (folder / "page.html").as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def test_every_plot_is_drawn_and_nothing_fails_or_is_fetched(tmp_path):
    document, log = opened(report(*three_policies(2000)), tmp_path)

    assert re.search(r"<html[^>]* data-drawn-ms=", document)  # the last figure is done
    assert re.search(r'<html[^>]* data-errors="0"', document)
    for name in EVERY_FIGURE:
        drawn = re.search(rf'id="plot-{name}"(.*?)<figcaption', document, re.DOTALL)[1]
        assert 'class="main-svg"' in drawn, name
        assert re.search(r'class="(trace|scatterlayer|heatmaplayer)', drawn), name
    assert "CONSOLE" not in log  # no error, and no request that the content security policy had to refuse


def test_hostile_names_do_nothing(tmp_path):
    document, log = opened(report(hostile_run()), tmp_path)

    assert re.search(r"<html[^>]* data-drawn-ms=", document)
    assert not re.search(r"<html[^>]* data-owned", document)
    assert "CONSOLE" not in log
