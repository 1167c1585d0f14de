"""This machine as a node: GPUs by NVML where there are any, else its CPU cores declared as accelerators."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

from trainmaster.cluster.accelerators import canonical
from trainmaster.cluster.cluster import Node

SLOT = "cpu"  # accelerator type of a CPU slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    nodes: tuple[Node, ...]
    found_by: str  # for the operator


def this_machine(slots: int | None, nodes: tuple[tuple[str, int], ...] | None) -> Machine:
    """`slots`: so many CPU slots, whatever GPUs there are. `nodes`: several of them, by name and slots, that all run here."""
    cpus, memory_gib = float(len(os.sched_getaffinity(0))), _memory_gib()
    if nodes is not None:
        rows = tuple(Node(name=name, gpus=count, type=SLOT, cpus=cpus, memory_gib=memory_gib) for name, count in nodes)
        return Machine(nodes=rows, found_by="declared nodes")
    name = socket.gethostname()
    if slots is None and (gpus := nvidia_gpus()):
        return Machine(nodes=(Node(name=name, gpus=len(gpus), type=gpus[0], cpus=cpus, memory_gib=memory_gib),), found_by="NVML")
    count = int(cpus) if slots is None else slots
    return Machine(nodes=(Node(name=name, gpus=count, type=SLOT, cpus=cpus, memory_gib=memory_gib),), found_by="CPU slots")


def nvidia_gpus() -> list[str]:
    """Their types in the catalogue's names, by index; () without NVIDIA's driver. A machine of mixed types is called by its first."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [canonical(str(pynvml.nvmlDeviceGetName(handle))) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def busy_gpus() -> set[int]:
    """Indices on which some process computes, ours or another's."""
    import pynvml

    busy = set()
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            if pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(index)):
                busy.add(index)
        pynvml.nvmlShutdown()
    return busy


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 2)
