"""Settings of every test: the first example of a property may compile a kernel, so no example has a time limit."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from trainmaster.engine.late import compile_all

settings.register_profile("trainmaster", deadline=None, print_blob=True)
settings.load_profile("trainmaster")


def pytest_sessionstart() -> None:
    """A controller in a process of its own compiles before it answers; tests wait for its answer, not for that."""
    compile_all()


@pytest.fixture
def public_data() -> Path:
    """The folder of public traces."""
    folder = os.environ.get("TRAINMASTER_DATA")
    if folder is None:
        pytest.skip("TRAINMASTER_DATA names no folder of public traces")
    return Path(folder)
