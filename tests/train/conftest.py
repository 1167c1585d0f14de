"""Runs that are made in the test's own process may leave a handler behind."""

import signal

import pytest


@pytest.fixture(autouse=True)
def sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
