"""Linear algebra on one thread: for systems of a few unknowns threads only wait for one another, a hundred times as long as it takes."""

from functools import cache
from typing import Any


def one_thread() -> Any:
    """A context in which NumPy's and SciPy's libraries use one thread."""
    return _controller().limit(limits=1)


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
