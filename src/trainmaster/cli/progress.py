"""A progress bar on standard error, over the jobs of all runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

COMPILING_AFTER_S = 2.0  # without a first report, it is the engine being compiled: half a minute, once a machine


@contextmanager
def bar(labels: Sequence[str], jobs: int) -> Iterator[Callable[[int, int, int], None]]:
    """A function to report with: (number of the run, its jobs ended, its jobs)."""
    ended = [0] * len(labels)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("jobs"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(labels[0], total=jobs * len(labels))

        def report(number: int, done: int, _: int) -> None:
            timer.cancel()
            ended[number] = done
            progress.update(task, description=labels[number], completed=sum(ended))

        timer = threading.Timer(COMPILING_AFTER_S, lambda: progress.update(task, description="compiling the engine (once)…"))
        timer.daemon = True
        timer.start()
        try:
            yield report
        finally:
            timer.cancel()
