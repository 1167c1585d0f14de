"""Trainmaster: a deep-learning cluster manager. One scheduling loop, two clocks.

    import trainmaster
    run = trainmaster.simulate("synthetic:philly", policy="fifo,tiresias-las")
    run.runs, run.jobs, run.timeline, run.conclusion
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainmaster.api.simulated import Simulated, simulate

__all__ = ["Simulated", "__version__", "simulate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`simulate` on first use: `import trainmaster` alone imports neither NumPy nor a compiler."""
    if name in ("simulate", "Simulated"):
        from trainmaster.api import simulated

        return getattr(simulated, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
