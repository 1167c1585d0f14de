"""A cgroup of its own for each attempt, where this machine lets us make one: its processes are killed as one, whatever they forked.

    v2          cgroup.kill (Linux 5.14): atomic
    v1 freezer  freeze, kill all, thaw: nothing forks between
    v1 pids     membership alone: killed again until it is empty

Without any of them a supervisor still has its whole tree (it adopts orphans), but what is left by a supervisor that was itself killed is
found by its environment only.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time

from trainmaster.live.node import linux

MOUNTS = "/proc/self/mountinfo"


def find() -> tuple[str, str] | None:
    """(kind, folder of this process's own cgroup, below which others can be made): the best that works here."""
    mounted, places = mounts(), own()
    for kind, place in (("v2", places.get("")), ("freezer", places.get("freezer")), ("pids", places.get("pids"))):
        mount = mounted.get("" if kind == "v2" else kind)
        if mount is not None and place is not None and _works(kind, parent := os.path.normpath(f"{mount}/{place}")):
            return kind, parent
    return None


def make(folder: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)


def enter(folder: str) -> None:
    """This process, and what it forks from now on."""
    descriptor = os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"0")
    finally:
        os.close(descriptor)


def members(folder: str) -> list[int]:
    try:
        with open(f"{folder}/cgroup.procs", "rb") as file:
            return [int(line) for line in file]
    except OSError:
        return []  # never made, or removed


def kill(kind: str, folder: str) -> None:
    """SIGKILL to all its processes. They may take a moment to go."""
    with contextlib.suppress(FileNotFoundError):
        if kind == "v2":
            put(f"{folder}/cgroup.kill", "1")
        elif kind == "freezer":
            put(f"{folder}/freezer.state", "FROZEN")
            linux.kill(members(folder), signal.SIGKILL)
            put(f"{folder}/freezer.state", "THAWED")
        else:
            linux.kill(members(folder), signal.SIGKILL)


def remove(folder: str) -> None:
    """An empty one; the kernel may need a moment after the last process has gone."""
    for _ in range(50):
        try:
            os.rmdir(folder)
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.002)


def allows(parent: str, *needed: str) -> bool:
    """Cgroups can be made below, and have these files to write to."""
    probe = f"{parent}/trainmaster-probe-{os.getpid()}"
    try:
        os.mkdir(probe)
    except OSError:
        return False
    works = all(os.access(f"{probe}/{name}", os.W_OK) for name in needed)
    os.rmdir(probe)
    return works


def _works(kind: str, parent: str) -> bool:
    needed = {"v2": "cgroup.kill", "freezer": "freezer.state", "pids": "cgroup.procs"}[kind]
    return allows(parent, needed) and os.access(f"{parent}/cgroup.procs", os.W_OK)


def mounts() -> dict[str, str]:
    """Controller -> mount point; "" for v2."""
    found: dict[str, str] = {}
    with open(MOUNTS, encoding="utf-8", errors="replace") as file:
        for line in file:
            before, _, after = line.rstrip("\n").partition(" - ")
            kind, _, options = after.split(" ", 2)  # what is mounted may be called nothing at all
            if kind in ("cgroup", "cgroup2"):
                place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])  # a space is \040
                found.update(dict.fromkeys(options.split(","), place) if kind == "cgroup" else {"": found.get("", place)})
    return found


def own() -> dict[str, str]:
    """Controller -> the cgroup of this process, as its hierarchy calls it; "" for v2."""
    found: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            found.update(dict.fromkeys(controllers.split(","), path))
    return found


def put(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
