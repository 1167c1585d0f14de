"""A copy of the files that git knows, tracked or new and not ignored, as they are now: what runs later is what was submitted.

Bounded, since it is made at submission: data sets belong outside the repository, or in .gitignore.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

from trainmaster.errors import InputError

MAX_FILES = 50_000
MAX_BYTES = 256 << 20
GIT_S = 60.0


def snapshot(folder: Path, into: Path) -> Path:
    """Copy the repository that `folder` lies in to `into`, which must not exist; the place of `folder` in the copy.

    Links are copied as links; one that leads out of the repository is an error, since what it shows could change. After an error nothing
    stays.
    """
    top = _git(folder, "rev-parse", "--show-toplevel").decode(errors="surrogateescape").removesuffix("\n")
    listed = _git(Path(top), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = sorted({os.fsdecode(name) for name in listed.split(b"\0") if name})
    if len(names) > MAX_FILES:
        raise InputError(f"{top}: git knows {len(names):,} files, more than the {MAX_FILES:,} of a snapshot; ignore what is not needed")
    into.mkdir(mode=0o700, parents=True)
    try:
        _copy(Path(top), names, into)
    except OSError as error:
        shutil.rmtree(into, ignore_errors=True)
        raise InputError(f"{top}: no snapshot of it: {error}") from None
    except InputError:
        shutil.rmtree(into, ignore_errors=True)
        raise
    place = into / folder.resolve().relative_to(Path(top).resolve())
    place.mkdir(parents=True, exist_ok=True)  # a folder without a file that git knows
    return place


def _copy(top: Path, names: list[str], into: Path) -> None:
    room = MAX_BYTES
    root = top.resolve()
    for name in names:
        source, target = top / name, into / name
        try:
            about = source.lstat()
        except FileNotFoundError:
            continue  # deleted, and that not committed yet
        if stat.S_ISDIR(about.st_mode):
            continue  # a submodule: a repository of its own
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(about.st_mode):
            if not source.resolve().is_relative_to(root):
                raise InputError(f"{source}: a link that leads out of the repository; a snapshot would not hold what it shows")
            os.symlink(os.readlink(source), target)
            continue
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{source}: neither a file nor a link")
        room -= about.st_size
        if room < 0:
            raise InputError(f"{top}: more than {MAX_BYTES >> 20} MiB in the files that git knows; ignore what the job does not need")
        shutil.copy2(source, target)


def _git(folder: Path, *arguments: str) -> bytes:
    """Without this process's input: git runs what a repository names as its monitor of changes."""
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(folder), *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=GIT_S
        )
    except FileNotFoundError:
        raise InputError("--snapshot needs git, which is not on PATH") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{folder}: git takes longer than {GIT_S:g} s") from None
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"{folder}: {why[0] if why else 'git failed'}") from None
    return done.stdout
