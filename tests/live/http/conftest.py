"""A server for each test."""

from __future__ import annotations

import pytest

from live.http.fakes import Served


@pytest.fixture
def served(tmp_path):
    return Served(tmp_path)
