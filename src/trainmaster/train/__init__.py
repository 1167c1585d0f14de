"""What a training script imports to be stopped and started without losing work.

    import trainmaster.train as tm

    tm.torch_checkpoint(model=model, optimizer=optimizer, scheduler=scheduler)   # loads the newest checkpoint, if there is one
    for epoch in tm.epochs(10):
        for images, labels in tm.steps(loader):
            ...
            tm.report(loss=loss)

Under Trainmaster the job can then be stopped for another after any step, and its next attempt goes on bit for bit as if nothing had
happened. Outside Trainmaster the loops are plain loops; with `directory=` checkpoints are saved and resumed there too.

Importing this loads neither PyTorch nor the rest of Trainmaster.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar, overload

from trainmaster.train.run import Run
from trainmaster.train.run import attempt as _attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    resumed: bool

__all__ = ["attempt", "checkpoint", "epochs", "report", "resumed", "should_stop", "step", "steps", "steps_done", "torch_checkpoint"]

T = TypeVar("T")
_process: Run | None = None


def _run() -> Run:
    """Of this process; made at first use, which in a gang is after `init_process_group` unless the launcher sets RANK and WORLD_SIZE."""
    global _process
    if _process is None:
        _process = Run(os.environ)
    return _process


def checkpoint(
    save: Callable[[Path], object],
    load: Callable[[Path], object],
    *,
    directory: str | os.PathLike[str] | None = None,
    every_s: float | None = None,
    every_steps: int | None = None,
    keep: int = 2,
    every_rank: bool = False,
) -> bool:
    """Register how to save and load, and load the newest whole checkpoint. True if there was one: the run has been resumed.

    save(folder), load(folder): write files into a folder, read them from it. `save` is called on rank 0, or with `every_rank` on all
    of them with the same folder (sharded models); `load` on all. The step, the place in the data and the random number generators of
    Python, NumPy and PyTorch are saved beside them, for each rank.

    directory: where to save outside Trainmaster; without it nothing is saved there. A job's own folder goes before.
    every_s, every_steps: save so often as well, against failures. A stop saves in any case.
    keep: so many checkpoints stay.
    """
    return _run().register(save, load, directory=directory, every_s=every_s, every_steps=every_steps, keep=keep, every_rank=every_rank)


def torch_checkpoint(
    *,
    directory: str | os.PathLike[str] | None = None,
    every_s: float | None = None,
    every_steps: int | None = None,
    keep: int = 2,
    **objects: Any,
) -> bool:
    """`checkpoint` for PyTorch: model=, optimizer=, scheduler=, ... or any name: whatever has `state_dict()` and `load_state_dict()`."""
    from trainmaster.train.pytorch import States

    states = States(objects)
    states.check()
    return checkpoint(states.save, states.load, directory=directory, every_s=every_s, every_steps=every_steps, keep=keep)


def epochs(count: int) -> Iterator[int]:
    """0 ... count - 1; a resumed run begins with the epoch that it was in."""
    return _run().epochs(count)


@overload
def steps(data: Iterable[T], *, replay: bool = False) -> Iterator[T]: ...
@overload
def steps(data: int | None = None, *, replay: bool = False) -> Iterator[int]: ...
def steps(data: Iterable[Any] | int | None = None, *, replay: bool = False) -> Iterator[Any]:
    """One pass over the data, one item a step; a number counts from 0 up to it, nothing counts for ever.

    A resumed run goes on after the last item of the checkpoint. A DataLoader over a dataset with indices skips what was seen without
    loading it; `replay` loads it again, which matters where its workers draw random numbers. Other iterables are always replayed.
    """
    return _run().steps(data, replay)


def step() -> int:
    """For a loop of one's own: one step is done. Saves, or stops the program (SystemExit), when it is time; returns the steps done."""
    return _run().advance()


def steps_done() -> int:
    """Over all attempts."""
    return _run().step


def should_stop() -> bool:
    """Whether this process has been asked to stop, and will at the announced step: a reason to cut an evaluation short."""
    return _run().should_stop()


def report(**metrics: Any) -> None:
    """Numbers to show with the job, of rank 0. Tensors are read once a second and not before, so that a GPU is not waited for."""
    _run().report(metrics)


def attempt() -> int:
    """Which try at this job it is: 1, 2, ...; 0 outside Trainmaster."""
    return _attempt(os.environ)


def __getattr__(name: str) -> Any:
    if name == "resumed":
        return _run().resumed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
