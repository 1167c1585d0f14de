"""Profile files as rows and numbers: bounded, and every complaint names file, line and field."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError

MAX_FILE_BYTES = 64 << 20
MAX_WHOLE = 1_000_000_000  # samples, nodes, GPUs: beyond it a figure is a slip
MAX_NUMBER = 1e30  # and so is this; sums and products of such stay finite


@dataclass(frozen=True, slots=True)
class Row:
    where: str  # file:line
    cells: dict[str, str]

    def number(self, field: str, *, above: float = -math.inf, at_least: float = -math.inf) -> float:
        value = parsed_number(self.cells[field])
        if value is None:
            raise InputError(f"{self.where}: {field}: {quoted(self.cells[field])} is not a number that was measured")
        if value <= above or value < at_least:
            bound = f"above {above:g}" if value <= above else f"at least {at_least:g}"
            raise InputError(f"{self.where}: {field}: {value:g} must be {bound}")
        return value

    def whole(self, field: str) -> int:
        """A count from 1; written as 10 or as 10.0."""
        value = self.number(field, at_least=1)
        if value != int(value) or value > MAX_WHOLE:
            raise InputError(f"{self.where}: {field}: {value:g} is not a whole number up to {MAX_WHOLE:,}")
        return int(value)


def parsed_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= MAX_NUMBER else None


def read_text(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a plain file")
        if status.st_size > MAX_FILE_BYTES:
            raise InputError(f"{path}: more than {MAX_FILE_BYTES >> 20} MiB; that is no performance profile")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8") from None


def first_line(path: Path) -> str:
    """Enough of a file to tell what it is; nothing where it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.readline(4096)
    except OSError:
        return ""


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV file with a header; the columns may stand in any order, others are passed over."""
    lines = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = [name.strip() for name in next(lines, [])]
        if missing := [name for name in columns if name not in header]:
            raise InputError(f"{path}:1: no column {missing[0]}; needs {', '.join(columns)}")
        places = {name: header.index(name) for name in columns}
        for cells in lines:
            if not cells:
                continue
            where = f"{path}:{lines.line_num}"
            if len(cells) != len(header):
                raise InputError(f"{where}: {len(cells)} fields, the header has {len(header)}")
            yield Row(where, {name: cells[place] for name, place in places.items()})
    except csv.Error as error:
        raise InputError(f"{path}:{lines.line_num}: {error}") from None


def read_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        problem = "nested too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{path}: not JSON that a profile would hold: {problem}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, so that nothing depends on the file system's order."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from None


def nearest(word: str, known: Iterable[str], at_most: int = 3) -> str:
    """`nearest: "a", "b"` for a name that is not known; some of the known ones where none is near."""
    names = list(known)
    begun = [name for name in names if name.lower().startswith(word.lower())]  # a job type without its batch size
    near = begun[:at_most] or difflib.get_close_matches(word, names, n=at_most)
    shown = ", ".join(quoted(name) for name in near or names[:at_most])
    more = ", …" if not near and len(names) > at_most else ""
    return f"{'nearest' if near else 'known'}: {shown}{more}"
