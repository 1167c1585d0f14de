"""Linear programs over shares of time: sparse arrays handed to HiGHS, nothing between.

    columns   an option: a kind of job, alone or beside another kind, on a type of accelerator
              y = time all jobs of that kind (all such pairs) spend so, as a fraction of time     [jobs, or pairs]
    rows      a job has one second a second:   sum of y over its kind's options <= jobs of the kind
              a type has so many GPUs:         sum of gang x y over its options <= GPUs

Jobs whose figures are equal are one kind: the program grows with the kinds. Nothing is lost, as every objective here treats equal
jobs equally and any solution can be averaged over them.

Which optimum: these programs have many. An interior point without crossover ends near the middle of the optimal face, so that
equal claims get equal shares; a simplex vertex would give one job all of a type and its twin none. Only where that fails, the
simplex method solves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.turns import SMALLEST_SHARE, Pairs, Shares

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ALONE = -1


def group(*columns: NDArray[Any]) -> tuple[Ints, Ints]:
    """Number rows by equal figures: (kind of each row, first row of each kind)."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        if len(column) and (column != column[0]).any():
            values, inverse = np.unique(column, return_inverse=True)
            code = np.unique(code * len(values) + inverse, return_inverse=True)[1]
    _, first, kind = np.unique(code, return_index=True, return_inverse=True)
    return kind.reshape(-1), first


@dataclass(frozen=True, slots=True)
class Entries:
    """A sparse matrix, entry by entry."""

    row: Ints
    column: Ints
    value: Floats

    @classmethod
    def of(cls, kind: Ints, paired: Ints, other: Ints, mine: Floats, others: Floats) -> Entries:
        """An entry an option in the row of its kind, and for pairs one in the row of the other; a pair of one kind counts twice."""
        twins = paired[other[paired] == kind[paired]]
        mine = mine.copy()
        mine[twins] += others[twins]
        paired = np.setdiff1d(paired, twins)
        row, column = np.concatenate([kind, other[paired]]), np.concatenate([np.arange(len(kind)), paired])
        return cls(row, column, np.concatenate([mine, others[paired]]))

    def above(self, below: Entries, first_row: int = 0) -> Entries:
        """Both, the rows of the second counted from `first_row`."""
        row = np.concatenate([self.row, below.row + first_row])
        return Entries(row, np.concatenate([self.column, below.column]), np.concatenate([self.value, below.value]))


@dataclass(frozen=True)
class Options:
    """What may be done, a row an option, and the limits on it."""

    jobs: Floats  # of each kind
    gpus: Floats  # of each type
    kind: Ints
    other: Ints  # the kind beside it, ALONE = none
    type: Ints
    gang: Floats
    rate: Floats  # of one job of `kind`, as it is measured in the objective
    other_rate: Floats

    @classmethod
    def alone(cls, jobs: Floats, gang: Floats, rate: Floats, gpus: Floats) -> Options:
        """Each kind on each type where it runs: `rate` is (kinds, types)."""
        kind, type_ = np.nonzero((rate > 0) & (gang[:, None] <= gpus))
        nothing = np.zeros(len(kind))
        return cls(jobs, gpus, kind, np.full(len(kind), ALONE), type_, gang[kind], rate[kind, type_], nothing)

    def beside(self, pairs: Floats) -> Options:
        """And pairs: rows of (kind, other kind, type, gang, rate, the other's rate)."""
        kind, other, type_ = pairs[:, :3].astype(np.int64).T
        added = {"kind": kind, "other": other, "type": type_, "gang": pairs[:, 3], "rate": pairs[:, 4], "other_rate": pairs[:, 5]}
        return replace(self, **{name: np.concatenate([getattr(self, name), column]) for name, column in added.items()})

    def __len__(self) -> int:
        return len(self.kind)

    @cached_property
    def limits(self) -> Entries:
        """The rows that every program has: a kind's time, then a type's GPUs."""
        kinds = Entries.of(self.kind, self._paired, self.other, np.ones(len(self)), np.ones(len(self)))
        types = Entries(len(self.jobs) + self.type, np.arange(len(self)), self.gang)
        return kinds.above(types)

    @cached_property
    def most(self) -> Floats:
        """Their upper bounds."""
        return np.concatenate([self.jobs, self.gpus])

    @cached_property
    def throughput(self) -> Entries:
        """A row a kind: what one job of it gets of each option's y."""
        mine = self.rate / self.jobs[self.kind]
        return Entries.of(self.kind, self._paired, self.other, mine, self.other_rate / self.jobs[self.other])

    @cached_property
    def _paired(self) -> Ints:
        return np.flatnonzero(self.other != ALONE)

    def of_one_job(self, y: Floats) -> Floats:
        """Throughput of one job of each kind."""
        each = self.throughput
        return np.bincount(each.row, each.value * y[each.column], len(self.jobs)).astype(np.float64)

    def equal(self) -> Floats:
        """y that shares each type equally among the kinds that may use it alone: feasible, nothing more."""
        alone = self.other == ALONE
        weight = np.where(alone, self.jobs[self.kind], 0.0)
        of_type = np.bincount(self.type, weight * self.gang, len(self.gpus))[self.type]
        fraction = np.minimum(self.gpus[self.type] / np.maximum(of_type, 1e-300), 1.0)
        options = np.bincount(self.kind[alone], minlength=len(self.jobs))[self.kind]
        return weight * fraction / np.maximum(options, 1)

    def shares(self, y: Floats, kind: Ints) -> Shares:
        """Of each job, whose kind is given: of what its kind does, an equal part; of a pair of kinds, each two of theirs."""
        used = np.flatnonzero((self.other != ALONE) & (y > SMALLEST_SHARE))
        if not len(used):
            return Shares(self.table(y)[kind])
        members = [np.flatnonzero(kind == k) for k in range(len(self.jobs))]
        found = []
        for o in used.tolist():
            one, other = np.meshgrid(members[self.kind[o]], members[self.other[o]], indexing="ij")
            one, other = one.reshape(-1), other.reshape(-1)
            if self.kind[o] == self.other[o]:
                one, other = one[one < other], other[one < other]
            found.append((one, other, np.full(len(one), self.type[o]), np.full(len(one), y[o] / len(one))))
        one, other, type_, share = (np.concatenate(column) for column in zip(*found, strict=True))
        return Shares(self.table(y)[kind], Pairs(np.minimum(one, other), np.maximum(one, other), type_, share))

    def table(self, y: Floats) -> Floats:
        """(kinds, types): the share of its time that one job of a kind spends alone on a type."""
        shares = np.zeros((len(self.jobs), len(self.gpus)))
        alone = self.other == ALONE
        shares[self.kind[alone], self.type[alone]] = y[alone] / self.jobs[self.kind[alone]]
        return shares


@dataclass(frozen=True, slots=True)
class Solution:
    y: Floats
    level: float  # the largest t of `raise_level`
    price: Floats  # of each kind's claim, >= 0: positive where it holds the level down


def raise_level(options: Options, claim: Floats, floor: Floats | None = None, *, central: bool = True) -> Solution:
    """The largest t with  throughput of a job >= floor + claim x t  for each kind. `central`: y is in the middle of the optimal face."""
    kinds, limits, last = len(options.jobs), len(options.most), len(options)
    wants = np.flatnonzero(claim)
    entries = options.limits.above(options.throughput, limits).above(Entries(wants, np.full(len(wants), last), -claim[wants]), limits)
    cost = np.zeros(last + 1)
    cost[last] = -1.0
    lower = np.concatenate([np.full(limits, -np.inf), np.zeros(kinds) if floor is None else floor])
    x, dual = solve(cost, entries, lower, np.concatenate([options.most, np.full(kinds, np.inf)]), central=central)
    return Solution(x[:last], float(x[last]), np.abs(dual[limits:]))


def most_gain(options: Options, gain: Floats, floor: Floats | None = None) -> Floats:
    """y of the largest gain . y, each job of a kind at least at its floor: a vertex, so that few shares are split. Raises Infeasible."""
    entries, lower, upper = options.limits, np.full(len(options.most), -np.inf), options.most
    if floor is not None:
        entries = entries.above(options.throughput, len(upper))
        lower, upper = np.concatenate([lower, floor]), np.concatenate([upper, np.full(len(floor), np.inf)])
    return solve(-gain, entries, lower, upper, central=False)[0]


# Nothing to presolve in programs as dense in sense as these; all-zero shares are nearly feasible, so primal simplex (4) starts well.
SETTINGS = (("output_flag", False), ("threads", 1), ("run_crossover", "off"), ("presolve", "off"), ("simplex_strategy", 4))
MANY = 1_000  # columns from which on an interior point is the faster method


class Infeasible(ValueError):
    """No shares of time satisfy all that is asked."""


def solve(cost: Floats, entries: Entries, lower: Floats, upper: Floats, *, central: bool = True) -> tuple[Floats, Floats]:
    """(x, duals of the rows): the least cost . x over x >= 0 with lower <= matrix x <= upper."""
    import highspy  # here, as listing policies must stay cheap
    from highspy._core import _Highs  # the solver alone: the class around it prints a banner and makes callbacks

    order = np.argsort(entries.column, kind="stable")
    program = highspy.HighsLp()
    program.num_row_, program.num_col_ = len(lower), len(cost)
    program.col_cost_, program.col_lower_, program.col_upper_ = cost, np.zeros(len(cost)), np.full(len(cost), np.inf)
    program.row_lower_, program.row_upper_ = lower, upper
    matrix = program.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kColwise
    matrix.start_ = np.concatenate([[0], np.cumsum(np.bincount(entries.column, minlength=len(cost)))]).astype(np.int32)
    matrix.index_, matrix.value_ = entries.row[order].astype(np.int32), entries.value[order]
    for solver in ("ipm", "simplex") if central or len(cost) > MANY else ("simplex", "ipm"):
        highs = _Highs()
        for option, value in (*SETTINGS, ("solver", solver)):
            highs.setOptionValue(option, value)
        highs.passModel(program)
        highs.run()
        status = highs.getModelStatus()
        if status == highspy.HighsModelStatus.kOptimal:
            found = highs.getSolution()
            return np.maximum(np.array(found.col_value), 0.0), np.array(found.row_dual)
    if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible):
        raise Infeasible
    raise AssertionError(f"a program over shares of time is always bounded, and HiGHS says {status}")
