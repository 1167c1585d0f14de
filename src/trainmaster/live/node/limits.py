"""What an attempt may use of CPUs and memory, where it asked for an amount and this machine lets us hold it to that.

    v2    cpu.max; memory.max, memory.swap.max; who was killed for memory is counted in memory.events
    v1    cpu.cfs_quota_us; memory.limit_in_bytes, memory.memsw.limit_in_bytes; counted in memory.oom_control

On v2 they are the attempt's own cgroup, where the controllers are delegated to the one that this process is in; on v1 cgroups of the same
name in the hierarchies of the controllers.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Any

from trainmaster.live.node import cgroups

PERIOD_US = 100_000
LEAST_US = 1_000  # the kernel takes no smaller quota
FILES = {  # the first is what decides whether it works here
    ("cpu", "v2"): ("cpu.max",),
    ("cpu", "v1"): ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    ("memory", "v2"): ("memory.max", "memory.swap.max", "memory.oom.group"),
    ("memory", "v1"): ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
}
LEAF = "trainmaster-up"
COUNTER = {"v2": "memory.events", "v1": "memory.oom_control"}

Found = Mapping[str, tuple[str, str]]  # controller -> version, folder below which cgroups can be made and limited


def find(kind: str, parent: str) -> dict[str, tuple[str, str]]:
    """`kind`, `parent`: what attempts get their own cgroup of, as `cgroups.find` says."""
    mounts, own = cgroups.mounts(), cgroups.own()
    found: dict[str, tuple[str, str]] = {}
    for controller in ("cpu", "memory"):
        if kind == "v2":
            with contextlib.suppress(OSError):  # not delegated, or there are processes beside this one that are not ours to move
                _hand_down(parent, controller)
            if cgroups.allows(parent, FILES[controller, "v2"][0]):
                found[controller] = "v2", parent
        if controller not in found and controller in mounts and controller in own:
            there = os.path.normpath(f"{mounts[controller]}/{own[controller]}")
            if cgroups.allows(there, FILES[controller, "v1"][0]):
                found[controller] = "v1", there
    return found


def _hand_down(parent: str, controller: str) -> None:
    """Let cgroups below have it. One that hands controllers down may hold no process itself: alone in it, this one moves into a leaf."""
    try:
        cgroups.put(f"{parent}/cgroup.subtree_control", f"+{controller}")
    except OSError as error:
        if error.errno != errno.EBUSY or cgroups.members(parent) != [os.getpid()]:
            raise
        cgroups.make(f"{parent}/{LEAF}")
        cgroups.enter(f"{parent}/{LEAF}")
        cgroups.put(f"{parent}/cgroup.subtree_control", f"+{controller}")


def plan(found: Found, name: str, cpus: float, memory_gib: float) -> list[dict[str, Any]]:
    """What the supervisor of the attempt with a cgroup of this name is to make; an amount of 0 was not asked for."""
    limits = []
    for controller, amount in (("cpu", cpus), ("memory", memory_gib)):
        if amount and controller in found:
            version, parent = found[controller]
            if controller == "memory":
                most = str(round(amount * 2**30))
                values: tuple[str, ...] = (most, "0", "1") if version == "v2" else (most, most)
            else:
                quota_us = max(round(amount * PERIOD_US), LEAST_US)
                values = (f"{quota_us} {PERIOD_US}",) if version == "v2" else (str(quota_us), str(PERIOD_US))
            files = dict(zip(FILES[controller, version], values, strict=True))
            limits.append({"controller": controller, "version": version, "folder": f"{parent}/{name}", "amount": amount, "files": files})
    return limits


def make(limits: list[dict[str, Any]]) -> None:
    for limit in limits:
        cgroups.make(limit["folder"])
        for name, value in limit["files"].items():
            if not os.path.exists(f"{limit['folder']}/{name}"):
                continue  # a kernel that does not account for swap
            try:
                cgroups.put(f"{limit['folder']}/{name}", value)
            except OSError as error:
                if error.errno != errno.EINVAL:  # more than the cgroup above may use: that one holds it
                    raise


def enter(limits: list[dict[str, Any]]) -> None:
    for limit in limits:
        cgroups.enter(limit["folder"])


def memory_exceeded(limits: list[dict[str, Any]]) -> float | None:
    """The GiB for which the kernel has killed some process of it; None = it has not."""
    for limit in limits:
        if limit["controller"] == "memory":
            with contextlib.suppress(OSError, ValueError), open(f"{limit['folder']}/{COUNTER[limit['version']]}", encoding="ascii") as file:
                counts = dict(line.split() for line in file)
                if int(counts.get("oom_kill", "0")):
                    amount: float = limit["amount"]
                    return amount
    return None


def remove(limits: list[dict[str, Any]]) -> None:
    for limit in limits:
        cgroups.remove(limit["folder"])
