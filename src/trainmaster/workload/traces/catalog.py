"""Which trace formats there are, which of them a file is, and reading it.

A reader is a module of this package (its name is the format's, `_` for `-`), of another package under the entry point group
"trainmaster.traces", or a file given by path. It has `sniff(head) -> bool`, `read(source) -> Trace`, and, for the messages,
`COLUMNS`: the columns that it cannot do without.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trainmaster.errors import ParamError, TraceError, TrainmasterError
from trainmaster.workload.traces.trace import Trace

if TYPE_CHECKING:  # Polars takes a third of a second to import: only reading a file pays it
    from trainmaster.workload.traces.source import Head, Source

ENTRY_POINTS = "trainmaster.traces"
PACKAGE = __name__.rpartition(".")[0]
NOT_READERS = {"catalog", "columns", "parquet", "source", "trace"}
AUTO = "auto"

Reader = Any  # a module, or anything with sniff(head) and read(source)


def formats() -> tuple[str, ...]:
    """Names that `--format` takes, besides `auto` and a path."""
    return tuple(sorted({*_own_formats(), *_entry_points()}))


def load_trace(path: str | PathLike[str], format: str = AUTO) -> Trace:
    """The jobs in a file. Raises TraceError, one line naming file, line and field; ParamError for an unknown format."""
    from trainmaster.workload.traces.source import Source

    with Source.open(path) as source:
        name = detect(source) if format == AUTO else format
        reader = find_reader(name)
        try:
            trace = _read(reader, name, source)
        except TraceError as error:
            others = [] if format == AUTO or reader.sniff(source.head) else _matches(source.head)
            if not others:
                raise
            raise TraceError(f"{error}; it looks like format {' or '.join(others)}") from None
    if not len(trace.jobs):
        reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in trace.skipped.items())
        raise TraceError(f"{fspath(path)}: no job can be replayed; rows left out: {reasons}")
    return trace


def detect(source: Source) -> str:
    """The one format whose reader knows this file by its content."""
    matches = _matches(source.head)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise source.error(f"may be {' or '.join(matches)}; say which with --format")
    raise source.error(f"is no trace format that is known here{_nearest(source.head)}; formats: {', '.join(formats())}")


def find_reader(name: str) -> Reader:
    """The reader of a format, or of a Python file outside the package."""
    if name.endswith(".py"):
        return _reader_file(name)
    if name in _own_formats():
        return importlib.import_module(f"{PACKAGE}.{name.replace('-', '_')}")
    if name in _entry_points():
        return _outside(f"entry point {name}", _entry_points()[name].load)
    near = difflib.get_close_matches(name, formats(), 1)
    raise ParamError(f'--format: no format "{name}"' + (f'; did you mean "{near[0]}"?' if near else f"; formats: {', '.join(formats())}"))


def _matches(head: Head) -> list[str]:
    return [name for name in formats() if _sniff(name, head)]


def _sniff(name: str, head: Head) -> bool:
    try:
        return bool(find_reader(name).sniff(head))
    except Exception as error:
        if name in _own_formats() or isinstance(error, TrainmasterError):
            raise
        raise ParamError(f"reader {name}: sniff: {_told(error)}") from error


def _nearest(head: Head) -> str:
    """The reader that wants the most of the columns that the file has, and what it misses."""
    from trainmaster.workload.traces.source import listed

    required = {name: set(getattr(find_reader(name), "COLUMNS", ())) for name in formats()}
    shared = {name: len(columns & head.csv_columns) / len(columns) for name, columns in required.items() if columns - head.csv_columns}
    name = max(shared, key=lambda name: shared[name])
    if shared[name] < 0.5:
        return ""
    return f"; nearest is {name}, which also needs column {listed(sorted(required[name] - head.csv_columns))}"


def _read(reader: Reader, name: str, source: Source) -> Trace:
    """What the reader makes of the file; a fault in a reader from outside is one line that names its file and line."""
    try:
        trace = reader.read(source)
    except TrainmasterError:
        raise
    except Exception as error:
        if name in _own_formats():
            raise
        raise TraceError(f"{source.path}: reader {_told(error)}") from error
    if not isinstance(trace, Trace):
        raise TraceError(f"{source.path}: reader {name} gave a {type(trace).__name__}, not a Trace")
    return trace


@cache
def _own_formats() -> frozenset[str]:
    package = importlib.import_module(PACKAGE)
    return frozenset(module.name.replace("_", "-") for module in pkgutil.iter_modules(package.__path__) if module.name not in NOT_READERS)


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


@cache
def _reader_file(path: str) -> Reader:
    if not Path(path).is_file():
        raise ParamError(f"--format: {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"trainmaster_reader_{Path(path).stem}", path)
    assert spec is not None and spec.loader is not None  # any path that ends in .py has both
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def load() -> ModuleType:
        sys.modules[spec.name] = module  # a dataclass in it looks its own module up there
        loader.exec_module(module)
        return module

    return _outside(path, load)


def _outside(where: str, load: Callable[[], Any]) -> Reader:
    """A reader that is not ours, loaded and looked over; what is wrong with it is one line."""
    try:
        reader = load()
    except Exception as error:
        raise ParamError(f"--format: {where}: {_told(error)}") from error
    if missing := [name for name in ("sniff", "read") if not callable(getattr(reader, name, None))]:
        raise ParamError(f"--format: {where} has no function {' and no '.join(missing)}")
    return reader


def _told(error: Exception) -> str:
    """FILE:LINE: what went wrong, in one line."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{at.filename}:{at.lineno}: {type(error).__name__}: {error}".replace("\n", " ")
