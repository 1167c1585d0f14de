"""A trace file as handed to a reader: its first lines (`Head`, to tell formats apart) and its contents (`Source`).

Files come from anywhere, so all of this is bounded and nothing is executed: gzip is known by its magic bytes and unpacked
up to a limit, text must be UTF-8, and every complaint is one line with file, line and field.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trainmaster.errors import TraceError
from trainmaster.workload.traces import parquet
from trainmaster.workload.traces.columns import Columns, first_line_of, quoted

HEAD_BYTES = 1 << 16
CHUNK_BYTES = 1 << 24
MAX_BYTES = 4 << 30  # unpacked; the largest public trace of one file is a tenth of it
MAX_PARQUET_ROWS = 100_000_000

GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
OTHER_ARCHIVES = {b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Head:
    """The first 64 KiB of a file, unpacked."""

    data: bytes
    complete: bool  # the whole file is in `data`

    @cached_property
    def text(self) -> str:
        return self.data.removeprefix(BYTE_ORDER_MARK).decode(errors="replace")

    @cached_property
    def lines(self) -> list[str]:
        """Whole lines, without their ends; a line cut by the limit is left out."""
        lines = [line.rstrip("\r") for line in self.text.split("\n")]
        return lines if self.complete else lines[:-1]

    @property
    def csv_columns(self) -> frozenset[str]:
        return self.columns(",")

    def columns(self, separator: str) -> frozenset[str]:
        """Names in the header; none where the first line is not a header (one field, or numbers among them)."""
        names = _header(self.lines[0], separator) if self.lines else []
        return frozenset() if len(names) < 2 or any(is_number(name) for name in names) else frozenset(names)


class Source:
    """One file. Contents are unpacked on first use, so a file that no reader knows costs its head only."""

    def __init__(self, path: str, stream: io.BufferedIOBase) -> None:
        self.path = path
        self._stream = stream
        start = self._read(HEAD_BYTES)
        if not start:
            raise self.error("is empty")
        if archive := next((name for magic, name in OTHER_ARCHIVES.items() if start.startswith(magic)), None):
            raise self.error(f"is packed as {archive}; unpack it, or use gzip")
        self.head = Head(start, complete=len(start) < HEAD_BYTES)

    @classmethod
    @contextmanager
    def open(cls, path: str | PathLike[str]) -> Iterator[Source]:
        name = fspath(path)
        try:
            with open(name, "rb") as raw:
                packed = raw.peek(2).startswith(GZIP)
                yield cls(name, gzip.GzipFile(fileobj=raw) if packed else raw)
        except OSError as error:
            raise TraceError(f"{name}: {(error.strerror or str(error)).lower()}") from None

    def error(self, problem: str, *, line: int | None = None, field: str | None = None) -> TraceError:
        where = self.path if line is None else f"{self.path}:{line}"
        return TraceError(f"{where}: {problem}" if field is None else f"{where}: {field}: {problem}")

    @cached_property
    def data(self) -> bytes:
        """All of it, unpacked, without a byte order mark."""
        chunks, size = [self.head.data], len(self.head.data)
        while chunk := self._read(CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_BYTES:
                raise self.error(f"holds more than {MAX_BYTES / 2**30:g} GiB unpacked; split it")
        return b"".join(chunks).removeprefix(BYTE_ORDER_MARK)

    @cached_property
    def text_data(self) -> bytes:
        """`data`, known to be UTF-8 text and without blank lines at its end."""
        data = self.data
        if (at := data.find(b"\0")) >= 0:
            raise self.error("holds a NUL byte: not a text file", line=data.count(b"\n", 0, at) + 1)
        if not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError as error:
                raise self.error("is not UTF-8 text", line=data.count(b"\n", 0, error.start) + 1) from None
        return data.rstrip(b"\r\n")

    def csv(self, required: Collection[str], *, separator: str = ",", names: Sequence[str] = (), quotes: bool = True) -> Columns:
        """Columns of a CSV with a header, which must have `required`; without one, `names` are its columns in order."""
        data = self.text_data
        if names:
            data, first_line = separator.join(names).encode() + b"\n" + data, 1
        else:
            names, first_line = _header(io.BytesIO(data).readline().decode(), separator), 2
        self._check_header(names, required)
        try:
            frame = pl.read_csv(data, separator=separator, infer_schema=False, quote_char='"' if quotes else None)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            self._records(data, separator, quotes, first_line, len(names))
            raise self.error(f"is not well-formed CSV ({first_line_of(error)})") from None
        frame.columns = list(names)
        lines = np.arange(first_line, first_line + frame.height)

        # Polars fills a short row with nulls and makes a blank line a row of them; both lack the last field. A quoted field
        # may span lines. Only where one of these may be is the file walked a second time, record by record.
        if frame.height and (frame.to_series(-1).has_nulls() or data.count(b"\n") != frame.height):
            lines = self._records(data, separator, quotes, first_line, len(names))
            if len(lines) != frame.height:
                raise self.error("is not well-formed CSV (a stray quote or carriage return)")
            frame, lines = frame.filter(pl.Series(lines > 0)), lines[lines > 0]
        if not frame.height:
            raise self.error("has no jobs")
        return Columns(frame, self.path, lines)

    def lines(self) -> Columns:
        """One column, `line`: for what is neither CSV nor JSON."""
        text = self.text_data.decode().split("\n")
        return Columns(pl.DataFrame({"line": [line.strip() for line in text]}), self.path, np.arange(1, len(text) + 1))

    def parquet(self, required: Collection[str]) -> Columns:
        try:
            frame = parquet.read(self.data, MAX_PARQUET_ROWS)
        except parquet.Refused as refusal:
            raise self.error(str(refusal)) from None
        self._check_header(frame.columns, required)
        if not frame.height:
            raise self.error("has no jobs")
        return Columns(frame, self.path, np.arange(1, frame.height + 1), unit="row")

    def _check_header(self, names: Sequence[str], required: Collection[str]) -> None:
        if missing := [name for name in required if name not in names]:
            raise self.error(f"has no column {listed(missing)} (its columns: {listed(names, 12)})")
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise self.error(f"has more than one column {listed(repeated)}", line=1)

    def _records(self, data: bytes, separator: str, quotes: bool, first_line: int, width: int) -> NDArray[np.int64]:
        """The line on which each record below the header starts, 0 for a blank one; a record of another width is refused."""
        reader = csv.reader(io.StringIO(data.decode(), newline=""), delimiter=separator,
                            quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)  # fmt: skip
        starts, line = [], first_line - 1
        try:
            for fields in reader:
                if fields and len(fields) != width:
                    raise self.error(f"{len(fields)} fields where {width} belong", line=line)
                starts.append(line if fields else 0)
                line = first_line - 1 + reader.line_num
        except csv.Error as error:
            raise self.error(f"is not well-formed CSV ({error})", line=line) from None
        return np.asarray(starts[1:], np.int64)

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except EOFError:
            raise self.error("is cut short (incomplete gzip data)") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self.error(f"is damaged gzip data ({error})") from None


def is_number(text: str) -> bool:
    return NUMBER.fullmatch(text.strip()) is not None


def listed(names: Collection[str], most: int = 6) -> str:
    """Names for a message, in one line whatever they hold."""
    shown = ", ".join(quoted(name) for name in list(names)[:most])
    return f"{shown}, ..." if len(names) > most else shown


def _header(line: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []
