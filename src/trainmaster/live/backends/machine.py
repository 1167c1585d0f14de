"""This machine as a node: GPUs by NVML where there are any, else its CPU cores declared as accelerators."""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import dataclass

from trainmaster.cluster.accelerators import canonical
from trainmaster.cluster.cluster import Node

SLOT = "cpu"  # accelerator type of a CPU slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    nodes: tuple[Node, ...]
    found_by: str  # for the operator
    nvidia: Nvidia | None = None  # whose GPUs these are


def this_machine(slots: int | None, nodes: tuple[tuple[str, int], ...] | None) -> Machine:
    """`slots`: so many CPU slots, whatever GPUs there are. `nodes`: several of them, by name and slots, that all run here."""
    cpus, memory_gib = float(len(os.sched_getaffinity(0))), _memory_gib()
    if nodes is not None:
        rows = tuple(Node(name=name, gpus=count, type=SLOT, cpus=cpus, memory_gib=memory_gib) for name, count in nodes)
        return Machine(nodes=rows, found_by="declared nodes")
    name = socket.gethostname()
    if slots is None and (types := (nvidia := Nvidia()).types):
        # a machine of mixed types is called by its first: nodes of one type are what policies know
        node = Node(name=name, gpus=len(types), type=types[0], cpus=cpus, memory_gib=memory_gib)
        return Machine(nodes=(node,), found_by="NVML", nvidia=nvidia)
    count = int(cpus) if slots is None else slots
    return Machine(nodes=(Node(name=name, gpus=count, type=SLOT, cpus=cpus, memory_gib=memory_gib),), found_by="CPU slots")


class Nvidia:
    """The driver, by NVML: opened once, since opening it takes long."""

    BUSY_S = 2.0  # so long what others do is taken as it was last seen

    def __init__(self) -> None:
        import pynvml

        self._nvml = pynvml
        self._busy: set[int] = set()
        self._looked_s = -math.inf
        try:
            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            self.types = [canonical(str(pynvml.nvmlDeviceGetName(handle))) for handle in self._handles]
        except pynvml.NVMLError:  # no driver, or none that works
            self._handles, self.types = [], []

    def busy(self) -> set[int]:
        """Indices on which some process computes, ours or another's. A GPU that does not answer counts."""
        if time.monotonic() > self._looked_s + self.BUSY_S:
            self._looked_s = time.monotonic()
            self._busy = {index for index, handle in enumerate(self._handles) if self._computes(handle)}
        return self._busy

    def _computes(self, handle: object) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        except self._nvml.NVMLError:
            return True


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 2)
