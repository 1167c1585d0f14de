"""Whether what is asked for could ever run on this cluster, all nodes up and nobody on them: told at submission, not only by `why`.

Such a job is taken in all the same: nodes may come.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from trainmaster.cluster.cluster import Cluster
from trainmaster.engine.core import Engine
from trainmaster.engine.result import UNSCHEDULABLE
from trainmaster.errors import TrainmasterError
from trainmaster.live.jobs import LiveJob, Needs
from trainmaster.live.spec import JobSpec
from trainmaster.live.store.rows import JobRow
from trainmaster.live.table import table_of

if TYPE_CHECKING:
    from trainmaster.live.controller import Controller

MOST_KNOWN = 10_000  # demands whose answer is kept

Demand = tuple[Needs, float, str | None]  # and its GPUs, and its queue


class Feasibility:
    """Called by many threads; it looks at the controller and changes nothing of it."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None
        self._known: dict[Demand, str] = {}  # why never; "" = it could run

    def complaints(self, specs: Sequence[JobSpec]) -> list[str]:
        """A line for each demand that can never be met here."""
        demands = dict.fromkeys((Needs.of(spec), spec.gpus, spec.queue) for spec in specs)
        with self._lock:
            if self._cluster is not self.controller.cluster or len(self._known) > MOST_KNOWN:
                self._cluster, self._known = self.controller.cluster, {}
            if new := [demand for demand in demands if demand not in self._known]:
                self._known |= dict(zip(new, self._look(new, self._cluster), strict=True))
            return [f"can never fit this cluster as it is: {why}" for demand in demands if (why := self._known[demand])]

    def _look(self, demands: Sequence[Demand], cluster: Cluster) -> list[str]:
        c = self.controller
        if not cluster.nodes:
            return [""] * len(demands)  # they are yet to come
        jobs = [
            LiveJob(JobRow(id=id, spec=0, name="", user="", gpus=gpus, queue=queue, submit_s=0.0, eligible_s=0.0), needs)
            for id, (needs, gpus, queue) in enumerate(demands)
        ]
        everything = replace(cluster, present=np.ones(len(cluster.nodes), bool))
        try:
            engine = Engine(table_of(jobs, c.rules, c.estimates), everything, c.scheduling.policy, c.setup, rules=c.scheduling.rules)
        except TrainmasterError:  # the policy cannot decide about such a job at all, which its first decision will say
            return [""] * len(demands)
        rows = np.argsort(engine.jobs.seq)
        return [str(engine.reason[row]) if engine.outcome[row] == UNSCHEDULABLE else "" for row in rows]
