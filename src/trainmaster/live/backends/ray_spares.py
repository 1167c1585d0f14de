"""On each node a few workers of Ray that wait for our next actors there: their Python has started before it is needed.

An actor needs a process of its own, and the start of a Python is most of what it takes Ray to stand one up (1.3 s of 1.6 here), at the
very moment when a job waits for GPUs that another has given back. A raylet starts workers ahead when it is asked (`PrestartWorkers`),
takes nothing out of its books for them, gives one to the next actor of the driver that asked, and ends what is left with that driver. So
there is nothing to be found again or cleaned up; where none waits, an actor takes as long as it would, and that is all.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated.common_pb2 import PYTHON
from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

ON_A_NODE = 2  # for one that starts, and one that is to have its place soon after
KEEP_S = 30 * 86_400  # also where no CPU is free, on which Ray would end it after a second; in fact it goes with its driver
ANSWER_S = 5.0


class Spares:
    """By node id."""

    def __init__(self) -> None:
        self._job = bytes.fromhex(ray.get_runtime_context().get_job_id())
        self._waiting: Counter[str] = Counter()  # as far as is known: one that was killed is missed when the next actor has no use of it
        self._standing: Counter[str] = Counter()

    @contextmanager
    def used_on(self, node_id: str) -> Iterator[None]:
        """An actor is stood up there; meanwhile its node has enough to do."""
        self._standing[node_id] += 1
        self._waiting[node_id] = max(self._waiting[node_id] - 1, 0)
        try:
            yield
        finally:
            self._standing[node_id] -= 1

    def missing(self, nodes: Mapping[str, dict[str, Any]]) -> list[tuple[str, int]]:
        """For `start`: addresses of raylets, and how many. Counts as done: what cannot be started is asked for again after an actor."""
        able = {id: node for id, node in nodes.items() if node["Alive"] and (node["Resources"].get("GPU") or node["Resources"].get("CPU"))}
        wanted = []
        for id, node in able.items():
            if not self._standing[id] and (number := ON_A_NODE - self._waiting[id]) > 0:
                self._waiting[id] = ON_A_NODE
                wanted.append((f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}", number))
        return wanted

    def start(self, raylet: str, number: int) -> None:
        request = PrestartWorkersRequest(language=PYTHON, job_id=self._job, keep_alive_duration_secs=KEEP_S, num_workers=number)
        try:
            with init_grpc_channel(raylet) as channel:
                NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=ANSWER_S)
        except grpc.RpcError as error:
            print(f"no worker of Ray waits at {raylet}, and the next job there starts later: {error}", file=sys.stderr, flush=True)
