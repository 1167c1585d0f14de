"""What a policy sees, what it answers, and how it is declared.

    decide(view, memory) -> Decision      the whole desired state of the cluster
    rank(view, memory) -> keys            list policies only: an order; the engine walks it (DESIGN, section 4)

A policy is pure: no clock, no I/O, no chance but `view.rng`. What it must remember is plain data in `memory`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainmaster.cluster.cluster import QueueSpec
from trainmaster.errors import ParamError

if TYPE_CHECKING:
    from trainmaster.workload.jobs import JobTable
    from trainmaster.workload.perf.base import Allocation

Array = NDArray[Any]
Floats = NDArray[np.float64]
Memory = dict[str, Any]  # JSON values and NumPy arrays; per-job arrays are indexed by seq


class Verdict(enum.IntEnum):
    """What a decision did with a job, or why it did nothing. The number is what compiled walks write."""

    NONE = 0
    KEPT = 1
    STARTED = 2
    CAPACITY = 3  # not enough free GPUs behind the jobs before it
    FRAGMENTED = 4  # enough in number, but no nodes that hold the gang
    QUOTA = 5  # its queue's guaranteed share is used, and it may not borrow
    HELD = 6  # not offered yet
    BLOCKED = 7  # a job before it must start first
    POLICY_ZERO = 8  # the policy gives it nothing now
    PINNED = 9  # runs, and may not be preempted
    REJECTED = 10  # admission control
    MIN_RUN = 11  # runs, and has not yet had the least time it is granted
    SPARED = 12  # runs, and has been preempted as often as a job may be


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job is where it is: a code, a sentence, and the numbers behind it."""

    code: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """What one decision wrote: a row an active job, by `seq`."""

    decision: int
    now_s: float
    seq: NDArray[np.int64]
    verdict: NDArray[np.int8]
    short_gpus: Floats  # GPUs that were missing where the verdict is CAPACITY
    columns: Mapping[str, Array]  # what the policy's order was made of

    def row(self, seq: int) -> int:
        found = np.flatnonzero(self.seq == seq)
        if not len(found):
            raise KeyError(f"job {seq} was not active in decision {self.decision}")
        return int(found[0])


# ------------------------------------------------------------------------------------------------- what a policy sees


@dataclass(frozen=True)
class ActiveJobs:
    """Columns of the jobs that are waiting or hold GPUs, in the order of (submission, seq)."""

    row: NDArray[np.int64]  # in the job table
    table: JobTable
    state: Array  # the engine's records of these rows, brought up to now
    estimates: Floats | None  # run time a policy may believe; None = it asked for the oracle
    pools: NDArray[np.int32]  # (jobs, most pools): node pools each may use, in order of preference; -1 ends

    def __len__(self) -> int:
        return len(self.row)

    @property
    def seq(self) -> NDArray[np.int64]:
        return self.state["seq"]

    @property
    def submit_s(self) -> Floats:
        return self.state["submit_s"]

    @property
    def eligible_s(self) -> Floats:
        return self.state["eligible_s"]

    @property
    def limit_s(self) -> Floats:
        return self.state["limit_s"]

    @cached_property
    def gpus(self) -> Floats:
        """GPUs asked: the gang."""
        return self.state["milli"] / 1000.0

    @cached_property
    def held_gpus(self) -> Floats:
        """GPUs held, each by its share: half of four shared ones is 2."""
        return self.state["held_milli"] / 1000.0

    @cached_property
    def min_gpus(self) -> Floats:
        """The least an elastic job runs on; NaN = the trace says nothing."""
        return self.table.min_gpus[self.row]

    @cached_property
    def max_gpus(self) -> Floats:
        """The most an elastic job runs on; NaN = the trace says nothing."""
        return self.table.max_gpus[self.row]

    @property
    def share(self) -> Floats:
        """Of each GPU it holds (meaningless for waiting jobs)."""
        return self.state["share_milli"] / 1000.0

    @property
    def config(self) -> NDArray[np.int32]:
        """Entry of its rate card that it runs with, -1 = its own (meaningless for waiting jobs)."""
        return self.state["config"]

    @cached_property
    def running(self) -> NDArray[np.bool_]:
        """Holds an allocation (starting counts)."""
        return self.state["running"].astype(bool)

    @property
    def phase(self) -> NDArray[np.int8]:
        return self.state["phase"]

    @cached_property
    def new(self) -> NDArray[np.bool_]:
        """No decision has seen it yet."""
        return self.state["new"].astype(bool)

    @property
    def attained_gpu_s(self) -> Floats:
        """GPU-seconds held so far."""
        return self.state["attained_gpu_s"]

    @property
    def held_since_s(self) -> Floats:
        """Start of the present holding, or its last change (meaningless for waiting jobs)."""
        return self.state["held_since_s"]

    @property
    def held_s(self) -> Floats:
        """Seconds in which it held anything so far, restart costs included."""
        return self.state["held_s"]

    @property
    def remaining_s(self) -> Floats:
        """Seconds left on what it asked for, by the policy's chosen estimate."""
        return self.state["remaining_s"]

    @property
    def served_s(self) -> Floats:
        """Seconds held and working, restart costs left out; up to the last change of its allocation."""
        return self.state["served_s"]

    @cached_property
    def queue(self) -> NDArray[np.int32]:
        return self.table.queue.codes[self.row]

    @cached_property
    def priority(self) -> Floats:
        return self.table.priority[self.row]


@dataclass(frozen=True)
class Nodes:
    """Columns of the nodes, by node number."""

    free_gpus: Floats  # whole GPUs and, on pooled nodes, fractions
    pool: NDArray[np.int32]  # nodes of one type that are open to the same queues
    gpus: NDArray[np.int32]
    up: NDArray[np.bool_]  # open to newcomers: there, not broken, not vacating
    type: NDArray[np.object_]
    label: NDArray[np.object_]  # "" if it has none
    vacating: NDArray[np.bool_]  # being given back: gone once nothing runs there
    leaves_s: Floats  # when it will be taken away, where that is known; else inf
    arrives_s: Floats  # when it joins, if it was asked for; else inf
    cpus: Floats  # in all; inf where they are not counted
    memory_gib: Floats


@dataclass(frozen=True)
class Observed:
    """What running jobs have shown, a row a job: from the model in the twin, from reports live. One that has only idled on what
    it holds now (a restart) has shown nothing yet."""

    seq: NDArray[np.int64]
    row: NDArray[np.int64]  # in the job table
    rate: Floats  # work units a second, on what it held
    done: Floats  # work units in all; NaN for a service
    allocation: Callable[[int], Allocation]  # row -> what it held: nodes, GPUs, type, share, config
    metrics: Callable[[int], Mapping[str, float]]  # row -> what else it reports (gradient noise, epoch); {} if nothing


@dataclass(frozen=True)
class Oracle:
    """What no real cluster knows. Using it makes a policy cheat, visibly (`needs=("oracle",)`)."""

    remaining_s: Floats  # true seconds left on what the job asked for


@dataclass(frozen=True)
class View:
    """The cluster at one instant. Read-only."""

    now_s: float
    jobs: ActiveJobs
    nodes: Nodes
    capacity_gpus: Mapping[str, float]  # GPUs up, by type
    free_gpus: Mapping[str, float]
    queues: Mapping[str, QueueSpec]
    decision: int
    seed: int
    policy_name: str
    true_remaining_s: Callable[[], Floats]
    round_s: float  # decisions are so far apart at least; 0 = at events
    profile: Any  # the performance model: what was measured before the jobs ran (`needs=("profile",)`)
    done: Callable[[int], float]  # row -> work done so far
    holdings: Callable[[int], tuple[tuple[int, ...], tuple[float, ...]]]  # row -> (nodes, GPUs on each)
    beside: Callable[[int, int, str], float] | None  # (row, another, type) -> rate sharing its GPUs; None = it is not known
    observe: Callable[[], Observed]
    rates_of: Callable[[NDArray[np.int64]], Floats]  # rows -> (rows, types)
    types_held: Callable[[], NDArray[np.int64]]

    @cached_property
    def rates(self) -> Floats:
        """(jobs, types) work units a second of the gang each asked for, alone, types as in `capacity_gpus`; 0 = cannot run there."""
        return self.rates_of(self.jobs.row)

    @cached_property
    def held_type(self) -> NDArray[np.int64]:
        """Index of the type that each job holds, in the order of `capacity_gpus`; -1 = it holds nothing."""
        return self.types_held()

    def only(self, jobs: NDArray[np.bool_]) -> View:
        """The same instant with these jobs alone."""
        seen, rows = self.jobs, np.flatnonzero(jobs)
        estimates = None if seen.estimates is None else seen.estimates[rows]
        few = ActiveJobs(seen.row[rows], seen.table, seen.state[rows], estimates, seen.pools[rows])
        return replace(self, jobs=few, true_remaining_s=lambda: self.true_remaining_s()[rows], types_held=lambda: self.types_held()[rows])

    @cached_property
    def rng(self) -> np.random.Generator:
        """Chance by counter: seed, policy and decision number, so that a restart or a fork repeats it."""
        name = int.from_bytes(self.policy_name.encode()[:16], "little")
        return np.random.Generator(np.random.Philox(key=[self.seed, name % (1 << 64)], counter=[self.decision, 0, 0, 0]))

    @cached_property
    def oracle(self) -> Oracle:
        return Oracle(self.true_remaining_s())

    @cached_property
    def observed(self) -> Observed:
        return self.observe()


# ------------------------------------------------------------------------------------------------- what it answers


@dataclass(frozen=True, slots=True)
class Line:
    """One job (by row of the view's table), or one part of its gang, as it should be.

    A running job whose lines say what it holds is left alone. Other GPUs are a resize, other nodes a migration; both cost a
    restart, or what its performance model says. Lines that name no node leave the job where it is as far as can be: more GPUs
    are added, fewer are given up on the nodes where it has the fewest. Several lines are one gang, all or nothing: parts on
    different types, or on chosen nodes. They agree in share, partner and config.

    `share` is the part of each of its GPUs that it is given; attained service counts GPUs x share. Jobs of one `partner`
    group share GPUs: the largest gang is placed like any other, at its share of each GPU, and the others go inside its GPUs, where
    their shares fit (sums of at most 1 on every GPU). Gangs of a group may differ in size. A share below 1 without a group lets
    fractions of GPUs in beside it. Changing the share alone moves nobody and costs nothing.
    """

    row: int
    gpus: float  # each counted whole, whatever its share
    type: str | None = None  # None = any it accepts
    node: int | None = None  # None = wherever the placement says
    share: float = 1.0  # of each GPU; 1.0 = alone
    partner: int | None = None  # jobs of one partner group share GPUs
    cpus: float | None = None  # None = what the job asked for, in proportion to its GPUs
    memory_gib: float | None = None
    config: int = -1  # entry of the job's rate card; a change of it alone costs what the performance model says, else nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The whole desired state. Several lines of one job are its gang, all or nothing."""

    lines: tuple[Line, ...] = ()
    reject: tuple[int, ...] = ()  # rows: admission control
    lease_s: float | None = None  # decide again so many seconds from now
    vacate: tuple[int, ...] = ()  # nodes to give back: they take nobody new while they are named, and are gone once nothing runs there
    want_nodes: Mapping[str, int] = field(default_factory=dict)  # nodes wanted in all, by name of an `autoscale` entry (its label or type)
    verdict: Array | None = None  # Verdict of every active job (by index into the view) that this leaves waiting
    short_gpus: Floats | None = None  # and the GPUs it misses

    @classmethod
    def start(cls, view: View, indices: Array, **kwargs: Any) -> Decision:
        """Lines that run these jobs (indices into the view's columns) on what they ask for."""
        rows, gpus = view.jobs.row, view.jobs.gpus
        return cls(lines=tuple(Line(int(rows[i]), float(gpus[i])) for i in indices), **kwargs)


# ------------------------------------------------------------------------------------------------- how it is declared


@dataclass(frozen=True, slots=True, kw_only=True)
class NoParams:
    """A policy without parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """A parameter that is a file of figures, read by whoever opened it; path and SHA-256 say which."""

    values: tuple[float, ...]
    path: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamsFile:
    """A parameter that is a file of values for the others, read by whoever opened it; what is set by name wins over it."""

    params: Mapping[str, Any]
    ignored: Mapping[str, int]  # times, by what it says that has no meaning here
    path: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRules:
    """What a preset changes in the engine for comparison with an artifact; None = the flags decide."""

    round_s: float | None = None
    restart_cost_s: float | None = None
    placement: str | None = None
    wake_grid_s: float = 0.0  # threshold crossings are noticed at whole multiples
    due_grid_s: float = 0.0  # ends of work and of epochs fall on the nearest multiple
    span_nodes: bool = True  # false: a gang takes the fewest nodes that can hold it, or waits
    unplaced_keeps_count: bool = False  # a job that finds no nodes still uses up its count
    own_rounds: bool = False  # decide at events; `--round` is handed to the policy, whose rounds they are
    slowdown: Mapping[str, float] = field(default_factory=dict)  # by model: its jobs take so many times as long as the profile says
    restart_s: Mapping[str, float] = field(default_factory=dict)  # by model: its own restart cost, whatever `--restart-cost` says


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Constants and quirks of somebody's published version, for comparison with their figures."""

    params: Mapping[str, Any] = field(default_factory=dict)
    rules: EngineRules = EngineRules()
    source: str = ""


P = TypeVar("P")


class Policy(Generic[P]):
    """A policy that answers with the whole desired state."""

    name: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    params_type: ClassVar[type[Any]]
    presets: ClassVar[Mapping[str, Preset]] = {}
    bibtex: ClassVar[str] = ""
    rules: ClassVar[EngineRules] = EngineRules()  # what the policy itself asks of the engine, preset or not
    memory_version: ClassVar[int] = 1
    preemptive: ClassVar[bool] = True  # a running job without a line is stopped
    round_s: ClassVar[float] = 0.0  # default of --round
    own_estimates: ClassVar[tuple[str, ...]] = ()  # values of `estimate` that name no run times of the trace

    def __init__(self, params: P | None = None, **values: Any) -> None:
        self.params: P = self.params_type(**values) if params is None else params

    def cheats(self) -> bool:
        """It uses what no real cluster knows, as it is parametrised now."""
        return "oracle" in self.needs and getattr(self.params, "estimate", "oracle") == "oracle"

    def validate(self, restart_cost_s: float) -> None:
        """Raise ParamError if the parameters make no sense at this restart cost."""

    def least_gpus(self, jobs: JobTable) -> Floats:
        """The fewest GPUs that it runs each job on: what does not fit the whole cluster on so many is unschedulable."""
        return jobs.gpus

    def start_memory(self, jobs: int) -> Memory:
        """Memory of a policy that has decided nothing yet; `jobs` bounds seq from above."""
        return {}

    def decide(self, view: View, memory: Memory) -> Decision:
        raise NotImplementedError

    def notes(self, jobs: JobTable, start_s: Floats) -> list[str]:
        """What a user should be told once, at the end of a run, in one line each."""
        return []

    def said(self, memory: Memory, seq: NDArray[np.int64]) -> Mapping[str, Floats]:
        """Numbers of these jobs that the decision rested on, for the record: from the memory as the decision left it."""
        return {}

    def explain(self, record: DecisionRecord, seq: int) -> Reason:
        """Why this job is where it is, from the stored record alone."""
        row = record.row(seq)
        verdict = Verdict(int(record.verdict[row]))
        return self.passed_over(record, row) if verdict is Verdict.POLICY_ZERO else SENTENCES[verdict](float(record.short_gpus[row]))

    def passed_over(self, record: DecisionRecord, row: int) -> Reason:
        """Why a job that waits is given nothing now. A policy that goes by a number of each job says it; others, who has the GPUs."""
        held = record.columns["held_gpus"]
        holders = {"holders": float((held > 0).sum()), "held_gpus": float(held.sum()), "gpus": float(record.columns["gpus"][row])}
        if not holders["holders"]:
            return Reason("policy-zero", "the policy gives it nothing now, though nobody runs", holders)
        hold = "holds" if holders["holders"] == 1 else "hold"
        who = f"{counted(holders['holders'], 'job')} {hold} {counted(holders['held_gpus'], 'GPU')}"
        return Reason("policy-zero", f"the plan that is best by this policy has nothing for it now: {who}", holders)


def counted(number: float, noun: str) -> str:
    """1 GPU, 2 GPUs, 0.5 GPUs"""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


SENTENCES: Mapping[Verdict, Callable[[float], Reason]] = {
    Verdict.NONE: lambda _: Reason("none", "no decision has seen it yet"),
    Verdict.KEPT: lambda _: Reason("kept", "it runs on"),
    Verdict.STARTED: lambda _: Reason("started", "it was started by this decision"),
    Verdict.CAPACITY: lambda gpus: Reason("capacity", f"{counted(gpus, 'GPU')} short behind the jobs before it", {"short_gpus": gpus}),
    Verdict.FRAGMENTED: lambda _: Reason("fragmented", "enough GPUs are free, but not on nodes that hold its gang"),
    Verdict.QUOTA: lambda _: Reason("quota", "its queue has used its guaranteed share"),
    Verdict.HELD: lambda _: Reason("held", "it is not offered to the policy yet"),
    Verdict.BLOCKED: lambda _: Reason("blocked", "a job before it in the order must start first"),
    Verdict.PINNED: lambda _: Reason("pinned", "it runs, and may not be preempted"),
    Verdict.REJECTED: lambda _: Reason("rejected", "the policy does not admit it"),
    Verdict.MIN_RUN: lambda _: Reason("min-run", "it runs, and has not yet had the least time it is granted"),
    Verdict.SPARED: lambda _: Reason("spared", "it runs, and has been preempted as often as a job may be"),
}


class Compilable:
    """A function that the engine may compile, kept as plain Python until it does."""

    def __init__(self, python: Callable[..., Any]) -> None:
        self.python = python
        self.__doc__ = python.__doc__
        self.__name__ = python.__name__


def key_function(python: Callable[..., None]) -> Compilable:
    """Declare a list policy's order as code that can be compiled: one for both loops.

    key(jobs, rows, n, now_s, params, shared, per_job, out): write three floats a job into out[i], smaller first, for job
    jobs[rows[i]], i < n. Running jobs come first (of a `stateful` policy in the order of the last walk), then those no walk
    has kept waiting; a waiting job's key must be finite and stay the same while it waits. Fields of a job: see
    `engine/state.py`; `attained_gpu_s` and `remaining_s` are as of now. `params` is `key_params()`; `shared` and
    `per_job[seq]` are the policy's memory.
    """
    return Compilable(python)


def wakeup_function(python: Callable[..., float]) -> Compilable:
    """wakeup(jobs, rows, n, now_s, params, shared, per_job): when the ranks of the running jobs next change by themselves."""
    return Compilable(python)


class ListPolicy(Policy[P]):
    """A policy that only ranks; the engine walks the order and counts capacity."""

    blocking: ClassVar[bool] = False  # stop at the first job that does not fit or cannot be placed
    stateful: ClassVar[bool] = False  # the key must see every event, jobs waiting or not
    key: ClassVar[Compilable | None] = None
    wakeup: ClassVar[Compilable | None] = None

    def rank(self, view: View, memory: Memory) -> Array:
        """Keys (jobs,) or (jobs, k), smaller first; +inf = nothing now. Ties go to the earlier row."""
        raise NotImplementedError(f"{type(self).__name__} has neither rank() nor a key function")

    def passed_over(self, record: DecisionRecord, row: int) -> Reason:
        return Reason("policy-zero", "it has no place in the policy's order now")

    def next_wakeup_s(self, view: View, memory: Memory) -> float:
        """When ranks next change with no event; asked after the decision has been carried out."""
        return np.inf

    def key_params(self) -> Floats:
        """The parameters as the key function reads them."""
        return np.zeros(1)

    def blocks(self) -> bool:
        return bool(getattr(self.params, "blocking", self.blocking))

    def is_stateful(self) -> bool:
        return self.stateful

    def not_before_s(self, jobs: JobTable) -> Floats | None:
        """Offer no job to the walk before this time; None = from its eligible time on."""
        return None

    def locality(self, jobs: JobTable, fewest_nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], float] | None:
        """(nodes, patience in seconds): a gang waits for so few nodes that long after it arrived; then it takes any it may."""
        return None


C = TypeVar("C", bound=type[Policy[Any]])


def policy(*, name: str, paper: str, needs: tuple[str, ...] = (), params: type[Any] = NoParams,
           presets: Mapping[str, Preset] | None = None, bibtex: str = "") -> Callable[[C], C]:
    """Declare a policy: how the command line calls it, where it comes from, what it needs to know."""

    def declare(cls: C) -> C:
        cls.name, cls.paper, cls.needs, cls.params_type, cls.bibtex = name, paper, needs, params, bibtex
        cls.presets = dict(presets or {})
        return cls

    return declare


def check(condition: bool, problem: str) -> None:
    """Refuse a parameter value: `problem` is one line that says what is wrong."""
    if not condition:
        raise ParamError(problem)
