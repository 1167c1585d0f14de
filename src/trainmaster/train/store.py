"""Checkpoints on disk: each is a folder that is there whole or not at all, and only the newest attempt may add one.

    FOLDER/step-000000120/manifest.json          what it is, and the size and CRC-32 of every file; written last
                          shared/                what the job's save function wrote
                          rank-0/part.json, ...  where each rank was, and its random number generators
    FOLDER/.saving-120-ATTEMPT/                  the same while it is being written
    FOLDER/fence, owner                          the highest attempt that has started here, and of which job
    FOLDER/lock                                  held while the fence is compared and a folder renamed

A checkpoint is written beside the others, flushed to disk, and renamed; a process killed at any instant leaves the older ones as they
were. The rank that commits (0) waits until every rank has written its part: files are the only channel, no collective is needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainmaster.errors import TrainmasterError
from trainmaster.train.superseded import Superseded

FORMAT = 1
CHUNK = 1 << 20
NAME = re.compile(r"step-(\d{9,})$")
SAVING = re.compile(r"\.saving-\d+-(.+)$")
PARTS_WAIT_S = 300.0  # ranks reach the same step within a step of each other; beyond this one of them is gone


class NotWhole(Exception):
    """A checkpoint on disk is not what was written; the message says in what way."""


class Saved:
    """One whole checkpoint."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.step: int = manifest["step"]
        self.world: int = manifest["world"]
        self.shared = path / "shared"

    def part(self, rank: int) -> dict[str, Any]:
        part: dict[str, Any] = json.loads((self.path / f"rank-{rank}/part.json").read_text(encoding="utf-8"))
        return part


class Store:
    """The checkpoints in one folder. `job` and `attempt` are those of this process; job None: outside Trainmaster, where nothing fences.

    The folder belongs to the job that started in it last, so that a later job can go on from the checkpoints of an earlier one.
    """

    def __init__(self, folder: str | os.PathLike[str], job: str | None, attempt: int, restart: str, keep: int) -> None:
        self.folder = Path(folder)
        self.job = job
        self.attempt = attempt
        self.keep = keep
        self.run = f"{attempt}.{restart}"
        self.broken: list[tuple[Path, str]] = []

    def open(self, *, clean: bool) -> None:
        """Enter the fence. `clean`: remove what killed runs left half-written, from one rank, before it takes part in a step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self.job is not None:
                if self._owner() != self.job:
                    self._put("fence", str(self.attempt))
                    self._put("owner", self.job)
                elif self._fence() < self.attempt:
                    self._put("fence", str(self.attempt))
                self._check_fence()
            if clean:
                for path in self.folder.iterdir():
                    saving = SAVING.match(path.name)
                    if path.name.startswith(".removing-") or (saving and (saving[1] != self.run or self.job is None)):
                        shutil.rmtree(path, ignore_errors=True)

    def newest(self) -> Saved | None:
        """The newest whole checkpoint. Those found broken are kept in `broken` and removed by the next commit.

        Reads only: every rank of a gang comes to the same answer, since nothing is committed before all have registered.
        """
        for path in self._committed():
            try:
                return Saved(path, _verified(path))
            except (NotWhole, OSError) as error:
                self.broken.append((path, str(error)))
        return None

    def draft(self, step: int) -> Path:
        """The folder that becomes the checkpoint of `step`; every rank calls this, whoever is first makes it."""
        draft = self._draft(step)
        (draft / "shared").mkdir(parents=True, exist_ok=True)
        return draft

    def add_part(self, draft: Path, rank: int, part: dict[str, Any]) -> None:
        folder = draft / f"rank-{rank}"
        folder.mkdir(exist_ok=True)
        _write(folder / "part.tmp", json.dumps(part))
        os.replace(folder / "part.tmp", folder / "part.json")

    def parts(self, draft: Path, world: int, until_s: float | None) -> list[dict[str, Any]]:
        """What every rank wrote, once all have; TimeoutError when `until_s` comes first."""
        until_s = min(until_s or math.inf, time.time() + PARTS_WAIT_S)
        parts: dict[int, dict[str, Any]] = {}
        pause_s = 0.001
        while True:
            for rank in set(range(world)) - set(parts):
                with contextlib.suppress(FileNotFoundError):
                    parts[rank] = json.loads((draft / f"rank-{rank}/part.json").read_text(encoding="utf-8"))
            if len(parts) == world:
                return [parts[rank] for rank in range(world)]
            if time.time() >= until_s:
                raise TimeoutError(f"ranks {sorted(set(range(world)) - set(parts))} have not written their part in time")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)

    def commit(self, draft: Path, step: int, world: int) -> None:
        """Make a draft that has all its parts the newest checkpoint."""
        files = {name: list(_sum(draft / name, flush=True)) for name in _files(draft)}
        manifest = {"format": FORMAT, "step": step, "world": world, "attempt": self.attempt, "at_s": time.time(), "files": files}
        _write(draft / "manifest.json", json.dumps(manifest))
        for folder in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
            _flush(folder)
        with self._locked():
            self._check_fence()
            self._remove(self._path(step))  # the run has come back to the step of a broken one
            os.rename(draft, self._path(step))
            _flush(self.folder)
            broken = {path for path, _ in self.broken} - {self._path(step)}
            whole = [path for path in self._committed() if path not in broken]
            for path in (*broken, *whole[self.keep :]):
                with contextlib.suppress(OSError):  # another user's, say: it costs room, not this checkpoint
                    self._remove(path)
            self.broken = [(path, why) for path, why in self.broken if path in broken and path.exists()]

    def discard(self, step: int) -> None:
        shutil.rmtree(self._draft(step), ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def _draft(self, step: int) -> Path:
        return self.folder / f".saving-{step}-{self.run}"

    def _committed(self) -> list[Path]:
        """Newest first."""
        steps = [(int(found[1]), path) for path in self.folder.iterdir() if (found := NAME.match(path.name))]
        return [path for _, path in sorted(steps, reverse=True)]

    def _remove(self, path: Path) -> None:
        """By way of another name: a folder named step-N is never a part of what it was."""
        with contextlib.suppress(FileNotFoundError):
            going = self.folder / f".removing-{path.name}-{self.run}"
            os.rename(path, going)
            shutil.rmtree(going, ignore_errors=True)

    def _check_fence(self) -> None:
        if self.job is not None and self._owner() != self.job:
            raise Superseded(f"job {self._owner()} has started in {self.folder}, where job {self.job} saves")
        if self.job is not None and self._fence() > self.attempt:
            raise Superseded(f"attempt {self.attempt} is not the newest of this job any more ({self._fence()} is)")

    def _owner(self) -> str:
        return self._text("owner", "")

    def _fence(self) -> int:
        text = self._text("fence", "0")
        try:
            return int(text)
        except ValueError:
            raise TrainmasterError(f'{self.folder / "fence"}: "{text}" is not the number of an attempt: nothing is saved here') from None

    def _text(self, name: str, default: str) -> str:
        try:
            with open(self.folder / name, encoding="utf-8", errors="replace") as file:
                return file.read(100).strip()
        except FileNotFoundError:
            return default

    def _put(self, name: str, text: str) -> None:
        draft = self.folder / f".{name}.{os.getpid()}.tmp"
        _write(draft, text)
        os.replace(draft, self.folder / name)
        _flush(self.folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _verified(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint that is as it was written. Names come from the folder itself, never from the manifest."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        expected = {name: (int(size), int(crc)) for name, (size, crc) in manifest["files"].items()}
        if manifest["format"] != FORMAT or f"step-{manifest['step']:09d}" != path.name or manifest["world"] < 1:
            raise NotWhole(f"manifest.json: format {manifest['format']} and step {manifest['step']} are not those of this folder")
    except FileNotFoundError:
        raise NotWhole("manifest.json is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise NotWhole("manifest.json is damaged") from None
    found = _files(path)
    if missing := sorted(set(expected) - set(found)):
        raise NotWhole(f"{missing[0]} is missing")
    for name in found:
        if name not in expected:
            raise NotWhole(f"{name} does not belong to it")
        size, crc = _sum(path / name)
        if size != expected[name][0]:
            raise NotWhole(f"{name} has {size} bytes, not the {expected[name][0]} written")
        if crc != expected[name][1]:
            raise NotWhole(f"{name} is damaged (CRC-32)")
    return manifest


def _files(folder: Path) -> list[str]:
    """Every file of a checkpoint but its manifest, as paths inside it."""
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path for path in paths if path != "manifest.json")


def _sum(path: Path, *, flush: bool = False) -> tuple[int, int]:
    """Bytes and CRC-32 of a file, after it is safe on disk."""
    size = crc = 0
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        while chunk := file.read(CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return size, crc


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
