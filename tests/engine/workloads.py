"""Workloads drawn at random for the engine's tests: small enough to shrink to something a person can redo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from schedules import Schedule, cluster, job, policy, prepare, simulate
from trainmaster.cluster.cluster import CapacityChange, Cluster, Node, QueueSpec
from trainmaster.engine.loop import Simulation
from trainmaster.workload.jobs import Job

ORDERS = ("fifo", "fifo-greedy", "sjf", "srtf", "srsf", "las", "tiresias-las")
MORE = settings(max_examples=2_000)  # for `slow`

# Whole seconds make events coincide; fractions of all kinds show that both engines do the same arithmetic.
TIMES = st.integers(0, 60).map(float) | st.floats(0, 60, allow_subnormal=False)
WORK = st.integers(1, 80).map(float) | st.floats(0.5, 80)
GANGS = st.sampled_from([1, 1, 1, 2, 2, 3, 4])


@dataclass(frozen=True, repr=False)
class Case:
    """One run, whole."""

    jobs: Sequence[Job]
    on: Cluster
    policy: str
    params: dict[str, Any] = field(default_factory=dict)
    restart_cost_s: float = 0.0
    setup: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """A failing example on one screen: only what differs from the defaults."""
        jobs = "".join(f"\n    {brief(each)}," for each in self.jobs)
        nodes, queues = [brief(node) for node in self.on.nodes], {name: brief(spec) for name, spec in self.on.queues.items()}
        return f"{self.policy} {self.params} {self.setup} restart {self.restart_cost_s}\n  {nodes} {queues} {self.on.timeline}{jobs}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # Hypothesis asks for this one
        printer.text(repr(self))

    def passing_over(self) -> Case:
        """The same without a head of the line."""
        return replace(self, params=self.params | {"blocking": False}) if "blocking" in self.params else self

    def simulate(self, **changes: Any) -> Schedule:
        return simulate(self.jobs, self.on, policy(self.policy, **self.params), self.restart_cost_s, **(self.setup | changes))

    def prepare(self, **changes: Any) -> Simulation:
        return prepare(self.jobs, self.on, policy(self.policy, **self.params), self.restart_cost_s, **(self.setup | changes))


def brief(record: Any) -> str:
    said = {f.name: getattr(record, f.name) for f in fields(record) if getattr(record, f.name) != f.default}
    return f"{type(record).__name__}({', '.join(f'{name}={value!r}' for name, value in said.items())})"


@st.composite
def workloads(draw: st.DrawFn, most: int = 20, *, gangs: st.SearchStrategy[Any] = GANGS, times: st.SearchStrategy[float] = TIMES,
              work: st.SearchStrategy[float] = WORK, **columns: st.SearchStrategy[Any]) -> list[Job]:
    """Up to `most` jobs; further columns of a job by strategy, None = its default."""
    jobs = []
    for number in range(draw(st.integers(1, most))):
        more = {name: value for name, strategy in columns.items() if (value := draw(strategy)) is not None}
        if more.pop("cpus_alone", False):
            more |= {"gpus": 0, "cpus": more.get("cpus") or 2.0}
        if more.setdefault("gpus", draw(gangs)) % more.get("nodes", 1) and "nodes" in more:
            del more["nodes"]
        jobs.append(job(f"j{number}", draw(times), more.pop("gpus"), draw(work), **more))
    return jobs


def clusters() -> st.SearchStrategy[Cluster]:
    return st.sampled_from(["1x4", "2x2", "2x4", "4x4", "3x2+1x4", "1x8+2x2"]).map(cluster)


@st.composite
def orders(draw: st.DrawFn, names: Sequence[str] = ORDERS) -> tuple[str, dict[str, Any]]:
    """A list policy with parameters on the scale of these workloads."""
    name = draw(st.sampled_from(names))
    params: dict[str, Any] = {}
    if name == "las":
        params = {"quantum_s": draw(st.sampled_from([20.0, 30.0, 45.5]))}
    elif name == "tiresias-las":
        params = {"limits_gpu_s": draw(st.sampled_from([(20.0,), (30.0, 90.0)])), "lists": draw(st.booleans())}
    elif name in ("sjf", "srtf", "srsf"):
        params = {"blocking": draw(st.booleans())}
    return name, params


@st.composite
def cases(draw: st.DrawFn, jobs: st.SearchStrategy[list[Job]] | None = None, on: st.SearchStrategy[Cluster] | None = None,
          names: Sequence[str] = ORDERS, rounds: Sequence[float] = (0, 0, 0, 5, 30)) -> Case:
    name, params = draw(orders(names))
    setup = {"placement": draw(st.sampled_from(["packed", "spread", "first-fit"])), "round_s": float(draw(st.sampled_from(rounds)))}
    chosen_jobs, chosen_on = draw(workloads() if jobs is None else jobs), draw(clusters() if on is None else on)
    return Case(chosen_jobs, chosen_on, name, params, draw(st.sampled_from([0.0, 0.0, 3.0, 7.5])), setup)


# ------------------------------------------------------------------------------------------------- workloads with more in them


def restless() -> st.SearchStrategy[list[Job]]:
    """Priorities, jobs that may not be preempted, jobs that may not span nodes."""
    return workloads(
        priority=st.sampled_from([None, None, 1.0, 2.0]),
        preemptible=st.sampled_from([None, None, None, False]),
        max_nodes=st.sampled_from([None, None, 1, 2]),
        nodes=st.sampled_from([None, None, None, 1, 2]),
    )


def of_queues() -> st.SearchStrategy[list[Job]]:
    return workloads(queue=st.sampled_from(["a", "b", "c", None]), max_nodes=st.sampled_from([None, None, None, 1]))


@st.composite
def with_quotas(draw: st.DrawFn) -> Cluster:
    """Guarantees that may add up to more or less than there is."""
    specs = st.builds(QueueSpec, quota_gpus=st.sampled_from([None, 0, 1, 2, 4, 8]), borrow=st.booleans())
    return Cluster.of(draw(clusters()).nodes, draw(st.dictionaries(st.sampled_from("abc"), specs, min_size=1)))


def of_many_kinds() -> st.SearchStrategy[list[Job]]:
    """Gangs, fractions, jobs of CPUs alone; CPUs and memory; types and queues."""
    return workloads(
        gangs=st.sampled_from([0.3, 0.5, 0.7, 1, 1, 2, 3, 4]),
        cpus=st.sampled_from([0.0, 1.0, 3.0, 4.5]),
        memory_gib=st.sampled_from([0.0, 0.0, 10.0]),
        accepts=st.sampled_from([(), (), ("v100",), ("t4", "v100")]),
        queue=st.sampled_from([None, "a", "b"]),
        max_nodes=st.sampled_from([None, None, 1]),
        nodes=st.sampled_from([None, None, 2, 3]),
        cpus_alone=st.sampled_from([False, False, False, True]),
    )


@st.composite
def of_many_nodes(draw: st.DrawFn) -> Cluster:
    """Types, declared CPUs and memory, pooled nodes, nodes of a queue."""
    node = st.builds(
        Node,
        gpus=st.sampled_from([1, 2, 4]),
        type=st.sampled_from(["", "v100", "t4"]),
        cpus=st.sampled_from([None, 8.0, 12.0]),
        memory_gib=st.sampled_from([None, 32.0]),
        queues=st.sampled_from([(), (), (), ("a",), ("a", "b")]),
        pooled=st.sampled_from([False, False, True]),
    )
    return Cluster.of(draw(st.lists(node, min_size=1, max_size=4)))


@st.composite
def that_change(draw: st.DrawFn) -> Cluster:
    """Nodes that leave and nodes that join, some at instants when jobs arrive."""
    nodes = [Node(gpus=gpus) for gpus in draw(st.lists(st.sampled_from([2, 4]), min_size=2, max_size=5))]
    times = sorted(draw(st.lists(TIMES, min_size=len(nodes), max_size=len(nodes))))
    joins = [draw(st.booleans()) for _ in nodes]
    joins[0] = False
    changes = [CapacityChange(at_s=time, add=(i,)) if join else CapacityChange(at_s=time, remove=(i,))
               for i, (time, join) in enumerate(zip(times, joins, strict=True)) if join or i % 2]  # fmt: skip
    return Cluster(nodes=tuple(nodes), present=~np.array(joins), timeline=tuple(changes))


def sixteen_small_jobs() -> list[Job]:
    return [job(f"j{i}", i, 1, 40) for i in range(16)]
