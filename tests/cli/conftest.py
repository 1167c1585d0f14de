"""The command, in an empty folder."""

import pytest

from .command import BUSY, TWO_JOBS, Command


@pytest.fixture
def trainmaster(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.csv").write_text(TWO_JOBS)
    (tmp_path / "busy.csv").write_text(BUSY)
    return Command(capsys)
