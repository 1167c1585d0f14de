"""Output files that appear whole or not at all: claimed before the work begins, put in place when it is done."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

import polars as pl

from trainmaster.errors import ParamError

TABLES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A claimed path. `part` is where it is written: beside it, or, for a pipe or a device, the thing itself."""

    path: Path
    part: Path

    def write_text(self, text: str) -> None:
        self.part.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        self.put_in_place()

    def write_table(self, frame: pl.DataFrame) -> None:
        if self.path.suffix.lower() == ".parquet":
            frame.write_parquet(self.part)
        else:
            frame.write_csv(self.part)
        self.put_in_place()

    def put_in_place(self) -> None:
        if self.part != self.path:
            if self.path.exists():
                shutil.copymode(self.path, self.part)
            os.replace(self.part, self.path)


@contextmanager
def claimed(paths: Mapping[str, str | os.PathLike[str]], inputs: Sequence[object] = ()) -> Iterator[dict[str, OutputFile]]:
    """By flag. Raises ParamError, one line, for a path that cannot be written, is used twice or is an input."""
    files: dict[str, OutputFile] = {}
    try:
        for flag, given in paths.items():
            path = Path(os.path.realpath(given))
            if any(path == file.path for file in files.values()):
                raise ParamError(f"{flag}: {given} is written by another option too")
            if any(_is_same(path, source) for source in inputs):
                raise ParamError(f"{flag}: {given} is an input; it would be overwritten")
            files[flag] = OutputFile(path, _claim(flag, given, path))
        yield files
    finally:
        for file in files.values():
            if file.part != file.path:
                file.part.unlink(missing_ok=True)


def check_table_name(flag: str, path: str) -> None:
    if not path.lower().endswith(TABLES):
        raise ParamError(f"{flag}: {path}: its name must end in {' or '.join(TABLES)}")


def _claim(flag: str, given: str | os.PathLike[str], path: Path) -> Path:
    try:
        if path.exists():
            if not os.access(path, os.W_OK):
                raise PermissionError(13, "Permission denied")
            if path.is_dir():
                raise IsADirectoryError(21, "Is a directory")
            if not S_ISREG(path.stat().st_mode):
                return path
        part = path.with_name(f".trainmaster-{secrets.token_hex(6)}.part")
        part.open("xb").close()
        return part
    except (OSError, ValueError) as error:
        problem = (getattr(error, "strerror", None) or str(error)).lower()
        raise ParamError(f"{flag}: {given} cannot be written: {problem}") from None


def _is_same(path: Path, source: object) -> bool:
    try:
        return isinstance(source, str | os.PathLike) and S_ISREG(path.stat().st_mode) and os.path.samefile(path, source)
    except (OSError, ValueError):
        return False
