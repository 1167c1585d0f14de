"""A progress bar on standard error, over the jobs of all runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def bar(labels: Sequence[str], jobs: int) -> Iterator[Callable[[int, int, int], None]]:
    """A function to report with: (number of the run, its jobs ended, its jobs)."""
    ended = [0] * len(labels)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("jobs"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(labels[0]), total=jobs * len(labels))

        def report(number: int, done: int, _: int) -> None:
            ended[number] = done
            progress.update(task, description=escape(labels[number]), completed=sum(ended))

        yield report
