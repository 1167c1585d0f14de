"""The command, in an empty folder."""

import pytest

from .command import BUSY, TWO_JOBS, Command


@pytest.fixture
def trainmaster(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.csv").write_text(TWO_JOBS)
    (tmp_path / "busy.csv").write_text(BUSY)
    return Command(capsys)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A controller that the command finds by TRAINMASTER_STATE."""
    from .live import running

    for name in ("TRAINMASTER_URL", "TRAINMASTER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with running(tmp_path) as up:
        monkeypatch.setenv("TRAINMASTER_STATE", str(up.state))
        yield up
