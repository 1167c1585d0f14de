"""Where a verb says things: results on standard output, the rest on standard error."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trainmaster.cluster.wording import printable

NARROWEST, WIDEST, NO_TERMINAL = 60, 140, 100  # columns


def as_json(data: Any, *, lines: bool = False) -> str:
    """`lines`: all of it on one."""
    return json.dumps(data, indent=None if lines else 2, allow_nan=False) + "\n"


class Output:
    def __init__(self, *, quiet: bool, command: Sequence[str]) -> None:
        self.quiet = quiet
        self.command = shlex.join(command)  # as typed, for a report

    def say(self, text: str) -> None:
        """A result, lines with their ends."""
        sys.stdout.write(text)

    def flush(self) -> None:
        """For who reads while we wait."""
        sys.stdout.flush()

    def note(self, line: str) -> None:
        """Something to know beside the result."""
        if not self.quiet:
            print(printable(line), file=sys.stderr)

    @property
    def width(self) -> int:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else NO_TERMINAL
        return min(max(columns, NARROWEST), WIDEST)

    @property
    def color(self) -> bool:
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        """A function to say with, on a terminal, what is being done."""
        if not self.shows_progress:
            yield lambda _: None
            return
        from rich.console import Console
        from rich.markup import escape

        with Console(stderr=True).status("") as status:
            yield lambda doing: status.update(f"{escape(doing)}…")

    @property
    def shows_progress(self) -> bool:
        return not self.quiet and sys.stderr.isatty()
