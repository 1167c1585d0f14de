"""The rows of a trace as typed columns: whole-column conversions whose complaints name file, line and field.

A reader takes its columns (`ints`, `floats`, `timestamps`, `labels`, `text`), says which rows it leaves out (`skip`), and
ends with `trace`. An empty field is absent; a column that is not there is one whose fields are all absent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trainmaster.cluster.cluster import Cluster
from trainmaster.errors import InputError, TraceError
from trainmaster.workload.jobs import GPU_MILLI, Floats, Ints, JobTable, Labels
from trainmaster.workload.traces.trace import Trace

LARGEST = 1e15  # no figure of a trace is larger: thousandths of it still are exact integers
MOST_GPUS = 1e6  # of one job
MICROSECONDS = 1e6
TIMES = ("submit_s", "eligible_s", "deadline_s", "recorded_start_s", "recorded_end_s")

Mask = NDArray[np.bool_]


class Columns:
    def __init__(self, frame: pl.DataFrame, path: str, lines: Ints, unit: str = "line") -> None:
        self.frame = frame
        self.path = path
        self.lines = lines  # where each row stands in the file
        self.unit = unit
        self.skipped: Counter[str] = Counter()
        self._kept = np.ones(frame.height, bool)

    def __len__(self) -> int:
        return self.frame.height

    def has(self, name: str) -> bool:
        return name in self.frame.columns

    def either(self, *names: str) -> str:
        """The first of these columns that the file has: for a field with two spellings."""
        if found := next((name for name in names if self.has(name)), None):
            return found
        raise TraceError(f"{self.path}: has no column {' or '.join(quoted(name) for name in names)}")

    def take(self, rows: Mask) -> Columns:
        return Columns(self.frame.filter(pl.Series(rows)), self.path, self.lines[rows], self.unit)

    # Values

    def floats(self, name: str, *, default: float | None = None, at_least: float = -LARGEST, at_most: float = LARGEST,
               absent: Sequence[str] = (), infinite: bool = False) -> Floats:
        """Finite numbers; a field that is empty or one of `absent` becomes `default`, and is an error without one."""
        return self._numbers(name, "a finite number", default, at_least, at_most, absent, infinite)

    def ints(self, name: str, *, default: float | None = None, at_least: float = -LARGEST, at_most: float = LARGEST) -> Floats:
        """Whole numbers (`4` and `4.0`), as float64 so that an absent one may be NaN."""
        values = self._numbers(name, "a whole number", default, at_least, at_most, (), False)
        self.refuse(~np.isnan(values) & (values != np.rint(values)), name, "is not a whole number")
        return values

    def timestamps(self, name: str, *, default: float | None = None, absent: Sequence[str] = ()) -> Floats:
        """Unix seconds of `YYYY-MM-DD HH:MM:SS` (or with a T, or already Unix seconds); without a zone it is UTC."""
        text = self._given(name, default, absent)
        if text is None:
            return np.full(len(self), default, np.float64)
        moments = text.str.replace("T", " ", literal=True).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
        seconds = (moments.dt.epoch("us") / MICROSECONDS).fill_null(text.cast(pl.Float64, strict=False))
        values, given = _filled(seconds), text.is_not_null().to_numpy()
        self.refuse(given & ~(np.abs(values) <= LARGEST), name, "is not a time such as 2020-04-01 12:00:00")
        return np.where(given, values, np.nan if default is None else default)

    def flags(self, name: str, *, default: bool = False) -> Mask:
        """1/0, true/false, yes/no."""
        text = self._given(name, default, ())
        if text is None:
            return np.full(len(self), default)
        words = text.str.to_lowercase()
        true, false = words.is_in(["1", "1.0", "true", "yes"]), words.is_in(["0", "0.0", "false", "no"])
        self.refuse((~(true | false)).fill_null(False).to_numpy(), name, "is neither true nor false")
        return true.fill_null(default).to_numpy()

    def labels(self, name: str, *, absent: Sequence[str] = ()) -> Labels | None:
        """A text column of few distinct values; None where no row has one."""
        text = self._text(name, absent)
        if text is None or text.null_count() == len(self):
            return None
        names = text.unique(maintain_order=True).drop_nulls()
        codes = text.cast(pl.Enum(names)).to_physical().cast(pl.Int32).fill_null(-1)
        return Labels(codes.to_numpy(), tuple(names))

    def required_labels(self, name: str) -> Labels | None:
        """`labels`, every row of which must have one."""
        self._given(name, None, ())
        return self.labels(name)

    def text(self, name: str) -> NDArray[np.object_] | None:
        """One str a row, "" where absent; None where the column is."""
        text = self._text(name)
        return None if text is None else text.fill_null("").to_numpy().astype(object)

    def text_lists(self, name: str) -> list[tuple[str, ...]] | None:
        """`a|b` as ("a", "b"), one a row; None where no row has any."""
        labels = self.labels(name)
        if labels is None:
            return None
        lists = [*(tuple(part.strip() for part in text.split("|") if part.strip()) for text in labels.names), ()]
        return [lists[code] for code in labels.codes]

    # Which rows are jobs

    def refuse(self, bad: Mask, name: str, problem: str) -> None:
        """Stop at the first bad row: FILE:LINE: FIELD: "value" PROBLEM."""
        if bad.any():
            row = int(np.argmax(bad))
            value = self.frame[name][row]
            raise self.error(row, name, problem if value is None else f"{quoted(value)} {problem}")

    def skip(self, rows: Mask, reason: str) -> None:
        """Leave these rows out, counted under `reason`; a row is counted once, under the first that takes it."""
        taken = rows & self._kept
        if taken.any():
            self.skipped[reason] += int(taken.sum())
            self._kept &= ~rows

    def skip_empty(self, gpus: Floats, cpus: Floats) -> None:
        """Leave out what asks for no GPU (less than half a thousandth of one) and no CPU: real logs have such rows."""
        self.skip((np.rint(gpus * GPU_MILLI) == 0) & ~(cpus > 0), "asks for nothing")

    def error(self, row: int, name: str, problem: str) -> TraceError:
        where = f"{self.path}:{self.lines[row]}" if self.unit == "line" else f"{self.path}: {self.unit} {self.lines[row]}"
        return TraceError(f"{where}: {name}: {problem}")

    def trace(self, format: str, *, ids: str | None = None, dated: bool = False, zero_unix_s: float | None = None,
              cluster: Cluster | None = None, cluster_note: str = "", accepts: Sequence[tuple[str, ...]] | None = None,
              estimates: Mapping[str, Floats] | None = None, **columns: Any) -> Trace:
        """The kept rows as a Trace; `columns` are those of `JobTable.build`, None for one that the file has not.

        `ids` names the column of ids; without it, or where the file lacks it, the row number is the id. `dated`: times are
        Unix seconds, and second 0 becomes the earliest submission.
        """
        kept = np.flatnonzero(self._kept)
        columns = {name: _rows(value, kept) for name, value in columns.items() if value is not None}
        if dated and len(kept):
            zero_unix_s = float(columns["submit_s"].min())
            columns.update({name: columns[name] - zero_unix_s for name in TIMES if name in columns})
        if "eligible_s" in columns:
            columns["eligible_s"] = np.fmax(columns["eligible_s"], columns["submit_s"])
        id = self._ids(ids, kept)
        try:
            jobs = JobTable.build(
                id=id,
                accepts=None if accepts is None else [accepts[int(row)] for row in kept],
                estimates={name: values[kept] for name, values in (estimates or {}).items()},
                **columns,
            )
        except InputError as error:
            raise TraceError(f"{self.path}: {error}") from None
        return Trace(jobs=jobs, format=format, path=self.path, skipped=self.skipped, cluster=cluster, cluster_note=cluster_note,
                     zero_unix_s=zero_unix_s)

    def _ids(self, name: str | None, kept: NDArray[np.int64]) -> NDArray[np.object_]:
        text = None if name is None else self._text(name)
        if text is None or name is None:
            return kept.astype(str).astype(object)
        self.refuse(text.is_null().to_numpy() & self._kept, name, "is missing")
        repeated = np.zeros(len(self), bool)
        repeated[kept] = ~text[kept].is_first_distinct().to_numpy()
        if repeated.any():
            row = int(np.argmax(repeated))
            first = self.lines[kept[int(np.argmax((text[kept] == text[row]).to_numpy()))]]
            raise self.error(row, name, f"{quoted(text[row])} is there twice (first in {self.unit} {first})")
        return text[kept].to_numpy().astype(object)

    def _numbers(self, name: str, kind: str, default: float | None, at_least: float, at_most: float, absent: Sequence[str],
                 infinite: bool) -> Floats:
        text = self._given(name, default, absent)
        if text is None:
            return np.full(len(self), default, np.float64)
        values, given = _filled(text.cast(pl.Float64, strict=False)), text.is_not_null().to_numpy()
        parsed = ~np.isnan(values) if infinite else np.isfinite(values)
        self.refuse(given & ~parsed, name, f"is not {kind}")
        self.refuse(given & (values < at_least), name, f"is below {at_least:g}")
        self.refuse(given & (values > at_most) & np.isfinite(values), name, f"is above {at_most:g}")
        return np.where(given, values, np.nan if default is None else default)

    def _given(self, name: str, default: float | None, absent: Sequence[str]) -> pl.Series | None:
        """The column as text with null where absent; None where there is no column and a default stands in."""
        text = self._text(name, absent)
        if default is None:
            if text is None:
                raise TraceError(f"{self.path}: has no column {quoted(name)}")
            missing = text.is_null().to_numpy()
            if missing.any():
                raise self.error(int(np.argmax(missing)), name, "is missing")
        return text

    def _text(self, name: str, absent: Sequence[str] = ()) -> pl.Series | None:
        if not self.has(name):
            return None
        column = self.frame[name]
        try:
            text = column.cast(pl.String).str.strip_chars()
        except pl.exceptions.PolarsError:
            raise TraceError(f"{self.path}: {name}: a column of {column.dtype} where text or numbers belong") from None
        missing = text.is_in(["", *absent])
        return text.set(missing, None) if missing.any() else text


def quoted(value: object) -> str:
    """A value of the file for a message: short, one line, no control characters."""
    text = str(value)
    return json.dumps(text if len(text) <= 40 else text[:40] + "...")


def _filled(values: pl.Series) -> Floats:
    return values.fill_null(float("nan")).to_numpy()


def _rows(value: Any, kept: NDArray[np.int64]) -> Any:
    return value.take(kept) if isinstance(value, Labels) else value[kept] if isinstance(value, np.ndarray) else value


def first_line_of(error: BaseException) -> str:
    """Of what a library says, for a message of one line."""
    return json.dumps(str(error).split("\n")[0][:120])[1:-1]
