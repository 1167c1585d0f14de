"""Plain tables for the verbs that people call all day. Not rich, whose import costs ten times what the verb itself does (150 ms).

A terminal too narrow for all columns does without the least important ones; what is piped is whole, aligned text without colour.
Names come from users: nothing that is not printable reaches the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from trainmaster.cli.output import Output
from trainmaster.cluster.wording import printable

GAP = "  "
LONGEST = 40  # of a cell on a terminal
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@dataclass(frozen=True, slots=True)
class Column:
    head: str
    right: bool = False
    drop: int = 0  # columns with the largest go first where there is no room; 0 stays


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], out: Output, styles: Sequence[str] = (), *, head: bool = True) -> str:
    """`styles`: one a row, or none."""
    on_terminal = sys.stdout.isatty()
    cells = [[_shown(cell, on_terminal) for cell in row] for row in rows]
    kept = list(range(len(columns)))
    widths = [max([len(column.head) if head else 0, *(len(row[index]) for row in cells)]) for index, column in enumerate(columns)]
    while on_terminal and sum(widths[index] + len(GAP) for index in kept) - len(GAP) > out.width:
        droppable = [index for index in kept if columns[index].drop]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda index: columns[index].drop))
    lines = [_line([column.head for column in columns], columns, widths, kept)] if head else []
    lines += [_line(row, columns, widths, kept) for row in cells]
    if out.color:
        looks = ["bold"] * head + list(styles or [""] * len(cells))
        lines = [styled(line, look) for line, look in zip(lines, looks, strict=True)]
    return "".join(f"{line}\n" for line in lines)


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """NAME  value, a line each."""
    width = max((len(name) for name, _ in rows), default=0)
    return "".join(f"{name:<{width}}  {printable(value)}\n" for name, value in rows)


def styled(text: str, style: str) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style else text


def _shown(cell: str, on_terminal: bool) -> str:
    text = printable(cell)
    return f"{text[: LONGEST - 1]}…" if on_terminal and len(text) > LONGEST else text


def _line(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int]) -> str:
    padded = (row[index].rjust(widths[index]) if columns[index].right else row[index].ljust(widths[index]) for index in kept)
    return GAP.join(padded).rstrip()
