"""A site that no test can harm."""

import time

import pytest

from cli.command import Command

from .site import FakeSite


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Nothing but the fake commands is on the PATH."""
    found = FakeSite(tmp_path / "site", int(time.time()))
    monkeypatch.setenv("PATH", str(found.folder / "bin"))
    return found


@pytest.fixture
def trainmaster(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Command(capsys)
