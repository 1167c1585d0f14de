"""Gavel: policies as linear programs over effective throughput, on accelerators that differ.

Narayanan et al., "Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads", OSDI 2020, sections 4 and 5.

    T[m, j]   rate of job m's gang on type j          X[m, j]   share of its time there
    s, w      gang, weight                            N[j], M   GPUs of a type, jobs
    throughput(m) = sum_j T X                         sum_j X <= 1;  sum_m s X <= N[j]
    Tbar(m) = sum_j T N[j] / sum N                    the same job on the cluster's mix

    gavel-isolated           X = N / (M s), at most all of its time: a static n-th of everything
    gavel-fifo               in order of arrival, each on the fastest type with room; the first that finds none stops the rest
    gavel-max-min            max min_m  s throughput / (w Tbar): what least attained service becomes where types differ
    gavel-max-min-agnostic   the same with every T = 1
    gavel-water-filling      the same, then again over those that can still gain: max-min in every rank; entities share by
                             weight, and inside one its jobs share (`fair`) or queue (`fifo`)
    gavel-ftf                min max_m  (age + left / throughput) / (isolated so far + left / isolated throughput)
    gavel-makespan           max min_m  throughput / left
    gavel-max-throughput     max sum_m throughput / T of its fastest type
    gavel-min-cost           the same per dollar of the types used
    gavel-slo                the same per dollar, every deadline that can be kept kept

With `packed`, two jobs may also be beside each other on one gang's GPUs (gavel-max-min-packed is gavel-max-min so).
Shares become turns in turns.py, programs are solved in linear.py. After a max-min the level reached is kept and what is left
goes where it speeds jobs up most: the paper leaves that open, its artifact to chance. `left` comes from `estimate`.

preset `artifact`: the published simulator's constants and habits. Not reproduced: its `fifo`, which a stray variable sends to one
type, and packing that fails on mixed gangs. What it does with the last feasible makespan (5 % above the least) is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainmaster.cluster.prices import usd_an_hour
from trainmaster.policies import sia_artifact
from trainmaster.policies.base import (
    Decision,
    DecisionRecord,
    EngineRules,
    Floats,
    Memory,
    Policy,
    Preset,
    Reason,
    View,
    check,
    counted,
    policy,
)
from trainmaster.policies.central import MARGIN, middle, where_ecos_stops
from trainmaster.policies.linear import ALONE, Options, Solution, group, most_gain, raise_level
from trainmaster.policies.turns import Leases, Pairs, Rounds, Shares, take_turns

Ints = NDArray[np.int64]

PAPER = "Narayanan et al., OSDI 2020"
SOURCE = "stanford-futuredata/gavel, commit c4fa400"
SLACK = 1.0 - 1e-7  # a floor that the last program reached can be asked of the next one


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    lease_s: float = 360.0  # turns end so often
    stay_s: float = 4_500.0  # by so much a claim must exceed a holder's to end its turn
    rounds: bool = False  # the artifact's mechanism instead of leases
    solve_every_s: float = 1_920.0  # and how soon after a solution it solves again


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingParams(Params):
    packed: bool = False  # two jobs beside each other on one gang's GPUs, where the performance model knows what that does


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateParams(PackingParams):
    estimate: str = "oracle"  # of the time left: limit | predicted | a column of the trace | oracle: the truth; then it cheats


@dataclass(frozen=True, slots=True, kw_only=True)
class WaterFillingParams(PackingParams):
    entities: str = "none"  # who shares by weight first: user | queue | account | app; a queue's weight is the cluster file's
    within: str = "fair"  # fair | fifo: how an entity's jobs share its part


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputParams(PackingParams):
    relative: bool = True  # to the job's fastest type; false: in steps, so that models of short steps win


@dataclass(frozen=True, slots=True, kw_only=True)
class SumParams(ThroughputParams):
    lifelong: bool = False  # claims count all the time that a job ever got, and each round is solved anew: as Sia's authors ran it


@dataclass(frozen=True, slots=True, kw_only=True)
class CostParams(ThroughputParams):
    prices: tuple[str, ...] = ()  # TYPE:USD an hour; others from cluster/prices.py


@dataclass(frozen=True, slots=True, kw_only=True)
class SloParams(CostParams):
    stay_s: float = 0.0  # a deadline does not wait for others' turns
    estimate: str = "oracle"


ENTITIES = ("none", "user", "queue", "account", "app")
WORTH_JOINING = 1.5  # what two do together, in parts of what each does alone
PRICED = 1e-5  # of the largest price: below, it is the interior point's dust
TINY = 1e-9
MOST_STEPS = 50
MOST_PARTNERS = 16  # of each kind and type: all pairs of thousands of kinds would be millions
ARTIFACT = {"artifact": Preset(params={"rounds": True}, rules=EngineRules(own_rounds=True), source=SOURCE)}
IN_STEPS = {"artifact": Preset(params={"rounds": True, "relative": False}, rules=EngineRules(own_rounds=True), source=SOURCE)}

P = TypeVar("P", bound=Params)


class Gavel(Policy[P]):
    """Shares of time for all active jobs whenever they change; turns by what each is owed."""

    knows_rates = True
    fills = True  # jobs without a share may hold what is left
    every_turn = False  # shares change with time, not only with jobs

    def validate(self, restart_cost_s: float) -> None:
        check(self.params.lease_s > 0, f"lease_s must be positive, not {self.params.lease_s:g}")
        check(self.params.stay_s >= 0 and self.params.solve_every_s >= 0, "stay_s and solve_every_s must not be negative")

    def start_memory(self, jobs: int) -> Memory:
        return {"jobs": jobs}

    def decide(self, view: View, memory: Memory) -> Decision:
        return take_turns(self._turns(), view, memory, self.shares)

    def said(self, memory: Memory, seq: Ints) -> Mapping[str, Floats]:
        if "share" not in memory:
            return {}
        share = memory["share"][seq]
        claim = share / memory["got_s"][seq] if self.params.rounds else memory["owed_s"][seq] + share * self.params.lease_s
        return {"share": share.sum(axis=1), "claim": claim.max(axis=1, initial=0.0)}

    def passed_over(self, record: DecisionRecord, row: int) -> Reason:
        share, claim = (record.columns.get(name) for name in ("share", "claim"))
        if share is None or claim is None or not share[row] > 0:
            return super().passed_over(record, row)
        more = float((claim > claim[row]).sum())
        owed = f"{counted(more, 'job')} {'is' if more == 1 else 'are'} owed more" if more else "the turns of others have not ended"
        mine = f"its share is {share[row]:.2g} of the time on {counted(float(record.columns['gpus'][row]), 'GPU')}"
        return Reason("not-its-turn", f"{mine}, and it is not its turn: {owed}", {"share": float(share[row]), "owed_more": more})

    def _turns(self) -> Leases | Rounds:
        p = self.params
        if p.rounds:
            return Rounds(round_s=p.lease_s, solve_every_s=p.solve_every_s, shuffles=not self.knows_rates, fills=self.fills)
        return Leases(lease_s=p.lease_s, stay_s=p.stay_s, fills=self.fills, every_turn=self.every_turn, by_speed=self.knows_rates)

    @abstractmethod
    def shares(self, view: View, memory: Memory) -> Shares:
        """(jobs, types): the share of its time that each job should spend on each type."""


# ------------------------------------------------------------------------------------------------- without a program


@policy(name="gavel-isolated", paper=PAPER, params=Params, presets=ARTIFACT)
class Isolated(Gavel[Params]):
    knows_rates = False

    def shares(self, view: View, memory: Memory) -> Shares:
        return Shares(isolated(view))


@policy(name="gavel-fifo", paper=PAPER, params=PackingParams, presets=ARTIFACT)
class Fifo(Gavel[PackingParams]):
    """Packed: the first that finds no room joins one that runs alone, if the two then do half as much again as one."""

    fills = False

    def shares(self, view: View, memory: Memory) -> Shares:
        left, share, found = gpus_of(view), np.zeros(view.rates.shape), list[tuple[int, int, int]]()
        for m, (gang, rates) in enumerate(zip(view.jobs.gpus, view.rates, strict=True)):
            fitting = np.where(left >= gang, rates, 0.0)
            if fitting.any():
                fastest = int(fitting.argmax())
                share[m, fastest] = 1.0
                left[fastest] -= gang
            elif self.params.packed and (joined := self._joins(view, m, share)):
                share[joined[0]] = 0.0
                found.append((*joined, m))
            else:
                break
        if not found:
            return Shares(share)
        one, type_, other = np.array(found).T
        return Shares(share, Pairs(np.minimum(one, other), np.maximum(one, other), type_, np.ones(len(found))))

    def _joins(self, view: View, m: int, share: Floats) -> tuple[int, int] | None:
        """Who gains most from being beside a job, and on which type it runs."""
        alone = [(int(n), int(j)) for n, j in np.argwhere(share > 0) if view.jobs.gpus[n] >= view.jobs.gpus[m] and view.rates[m, j] > 0]
        done = [sum(beside(view, m, n, j)) for n, j in alone]
        return alone[int(np.argmax(done))] if max(done, default=0.0) > WORTH_JOINING else None


# ------------------------------------------------------------------------------------------------- max-min fairness


@policy(name="gavel-max-min", paper=PAPER, params=Params, presets=ARTIFACT)
class MaxMin(Gavel[Params]):
    packed = False

    def shares(self, view: View, memory: Memory) -> Shares:
        options, kind = kinds(view, self.level_of(view), packed=self.packed)
        best = raise_level(options, runnable(options), central=self.params.rounds)
        return options.shares(self.one_of_the_best(options, best), kind)

    def one_of_the_best(self, options: Options, best: Solution) -> Floats:
        level = best.level * runnable(options)
        return middle(options, best.y, level * (1 - MARGIN)) if self.params.rounds else fastest_above(options, level)

    def level_of(self, view: View) -> Floats:
        return fair_level(view, view.rates)


@policy(name="gavel-max-min-agnostic", paper=PAPER, params=Params, presets=ARTIFACT)
class MaxMinAgnostic(MaxMin):
    knows_rates = False

    def level_of(self, view: View) -> Floats:
        return fair_level(view, np.where(view.rates > 0, 1.0, 0.0))

    def one_of_the_best(self, options: Options, best: Solution) -> Floats:
        """The middle: at any other optimum somebody would have more of a type than others, and which one is better is not known."""
        return middle(options, best.y, best.level * runnable(options) * (1 - MARGIN))


@policy(name="gavel-max-min-packed", paper=PAPER, params=Params, presets=ARTIFACT)
class MaxMinPacked(MaxMin):
    packed = True

    def one_of_the_best(self, options: Options, best: Solution) -> Floats:
        return best.y if self.params.rounds else super().one_of_the_best(options, best)


@policy(name="gavel-water-filling", paper=PAPER, params=WaterFillingParams, presets=ARTIFACT)
class WaterFilling(Gavel[WaterFillingParams]):
    def validate(self, restart_cost_s: float) -> None:
        super().validate(restart_cost_s)
        check(self.params.entities in ENTITIES, f"entities must be one of {', '.join(ENTITIES)}, not {self.params.entities}")
        check(self.params.within in ("fair", "fifo"), f"within must be fair or fifo, not {self.params.within}")

    def shares(self, view: View, memory: Memory) -> Shares:
        entity, entity_weight = self._entities(view)
        level = fair_level(view, view.rates)
        fifo = self.params.within == "fifo" and self.params.entities != "none"
        more = [entity, np.arange(len(entity))] if fifo else [entity]
        options, kind = kinds(view, level, *more, packed=self.params.packed)
        _, first = np.unique(kind, return_index=True)
        if self.params.entities == "none":
            return options.shares(fill(options, lambda open_: open_ * 1.0), kind)
        own = view.jobs.table.weight[view.jobs.row][first]

        def claims(open_: NDArray[np.bool_]) -> NDArray[Any]:
            """An entity's weight goes to those of its kinds that can still gain: shared, or the first of them."""
            share = np.where(open_, 1.0 if fifo else own * options.jobs, 0.0)
            if fifo:
                earlier = np.array([(open_ & (entity[first] == entity[f]) & (first < f)).any() for f in first])
                share[earlier] = 0.0
            of_entity = np.bincount(entity[first], share, len(entity_weight))[entity[first]]
            alike = np.divide(share, of_entity, out=np.zeros(len(share)), where=of_entity > 0)
            return alike * entity_weight[entity[first]] / options.jobs

        return options.shares(fill(options, claims), kind)

    def _entities(self, view: View) -> tuple[Ints, Floats]:
        """The entity of each job, and the weight of each."""
        if self.params.entities == "none":
            return np.zeros(len(view.jobs), np.int64), np.ones(1)
        labels = getattr(view.jobs.table, self.params.entities)
        codes = labels.codes[view.jobs.row].astype(np.int64)
        codes[codes < 0] = len(labels.names)  # those without one are an entity too
        return codes, np.array([getattr(view.queues.get(name), "weight", 1.0) for name in (*labels.names, "")])


def fill(options: Options, claims: Callable[[NDArray[np.bool_]], NDArray[Any]]) -> Floats:
    """Max-min, then again over those that can still gain, until none can. `claims`: what each kind weighs while these are open.

    A kind whose row has a price in the middle of the optimal face is at its level in every optimum: it cannot gain.
    """
    open_, level = runnable(options) > 0, np.zeros(len(options.jobs))
    y = np.zeros(len(options))
    while open_.any():
        claim = claims(open_)
        found = raise_level(options, claim, level * SLACK)
        y, level = found.y, level + claim * max(found.level, 0.0)
        price = found.price * claim
        open_ &= ~(price > PRICED * price.max()) & (claim > 0) | open_ & (claim == 0)
    return y


# ------------------------------------------------------------------------------------------------- by the work left


@policy(name="gavel-ftf", paper=PAPER, needs=("oracle",), params=EstimateParams, presets=ARTIFACT)
class FinishTimeFairness(Gavel[EstimateParams]):
    """Least largest rho. Its convex program is a search for rho: for one rho each job needs a rate, and raising all those
    rates by one factor is a max-min. The rates found give the next rho; the factor falls to 1 in a few steps.
    """

    def start_memory(self, jobs: int) -> Memory:
        mine = {"left_s": np.full(jobs, np.nan), "isolated_s": np.zeros(jobs), "isolated_speed": np.ones(jobs)}
        return super().start_memory(jobs) | mine

    def shares(self, view: View, memory: Memory) -> Shares:
        seq, speed, left_s = view.jobs.seq, speeds(view), remaining_s(view)
        isolated_speed = np.maximum((speed * isolated(view)).sum(axis=1), TINY)
        before_s = np.where(np.isnan(memory["left_s"][seq]), left_s, memory["left_s"][seq])
        memory["isolated_s"][seq] += (before_s - left_s) / memory["isolated_speed"][seq]
        memory["left_s"][seq], memory["isolated_speed"][seq] = left_s, isolated_speed
        age_s = view.now_s - view.jobs.submit_s
        alone_s = np.maximum(memory["isolated_s"][seq] + left_s / isolated_speed, TINY)
        return self._least_rho(view, speed, age_s, np.maximum(left_s, TINY), alone_s)

    def _least_rho(self, view: View, speed: Floats, age_s: Floats, left_s: Floats, alone_s: Floats) -> Shares:
        options, kind = kinds(view, speed, age_s, left_s, alone_s, packed=self.params.packed)
        _, first = np.unique(kind, return_index=True)
        age_s, left_s, alone_s = age_s[first], left_s[first], alone_s[first]
        runs = runnable(options)
        rate = np.where(runs > 0, options.of_one_job(options.equal()), 1.0)
        for _ in range(MOST_STEPS):
            rho = np.max((age_s + left_s / rate)[runs > 0] / alone_s[runs > 0])
            need = np.where(runs > 0, left_s / (rho * alone_s - age_s), 0.0)
            best = raise_level(options, need / need.max())
            if best.level <= need.max() * (1 + 1e-4):
                break
            rate = np.where(runs > 0, np.maximum(options.of_one_job(best.y), TINY), 1.0)
        if self.params.rounds:
            return options.shares(best.y, kind)
        return options.shares(fastest_above(options, need / need.max() * min(best.level, need.max())), kind)


@policy(name="gavel-makespan", paper=PAPER, needs=("oracle",), params=EstimateParams, presets=ARTIFACT)
class Makespan(Gavel[EstimateParams]):
    def shares(self, view: View, memory: Memory) -> Shares:
        left_s = np.maximum(remaining_s(view), TINY)
        options, kind = kinds(view, speeds(view), left_s, packed=self.params.packed)
        _, first = np.unique(kind, return_index=True)
        longest_s = left_s.max()
        claim = left_s[first] / longest_s * runnable(options)
        best = raise_level(options, claim)
        if self.params.rounds and self.params.packed:
            return options.shares(best.y, kind)
        if self.params.rounds:  # in steps and job by job, as that solver was handed it
            by_job, job = kinds(view, view.rates, np.arange(len(left_s)))
            steps = np.zeros(len(job))
            steps[job] = left_s * view.jobs.state["alone_rate"]
            return by_job.shares(where_ecos_stops(by_job, steps * runnable(by_job) / bisected(longest_s / best.level)), job)
        return options.shares(fastest_above(options, claim * best.level), kind)


def bisected(least_s: float) -> float:
    """The makespan that the artifact's bisection stops at."""
    low_s, high_s, last_s = 100.0, 1e6, 1e6
    while (high_s - low_s) / low_s > 0.05:
        middle_s = (low_s + high_s) / 2
        if middle_s >= least_s:
            high_s = last_s = middle_s
        else:
            low_s = middle_s
    return max(last_s, least_s)


# ------------------------------------------------------------------------------------------------- by total throughput


IN_SIA = Preset(params={"lifelong": True, "relative": False}, rules=sia_artifact.RULES, source=sia_artifact.SOURCE)


@policy(name="gavel-max-throughput", paper=PAPER, params=SumParams, presets={**IN_STEPS, "sia-artifact": IN_SIA})
class MaxThroughput(Gavel[SumParams]):
    def decide(self, view: View, memory: Memory) -> Decision:
        if self.params.lifelong:
            return sia_artifact.round_of_gavel(view, memory, self.shares, view.round_s or self.params.lease_s)
        return super().decide(view, memory)

    def shares(self, view: View, memory: Memory) -> Shares:
        options, kind = kinds(view, speeds(view) if self.params.relative else view.rates, packed=self.params.packed)
        return options.shares(most_gain(options, scaled(options.rate + options.other_rate)), kind)


@policy(name="gavel-min-cost", paper=PAPER, params=CostParams, presets=IN_STEPS)
class MinCost(Gavel[CostParams]):
    def shares(self, view: View, memory: Memory) -> Shares:
        options, kind = kinds(view, speeds(view) if self.params.relative else view.rates, packed=self.params.packed)
        return options.shares(most_gain(options, per_dollar(options, view, self.params)), kind)


@policy(name="gavel-slo", paper=PAPER, needs=("oracle",), params=SloParams, presets=IN_STEPS)
class Slo(Gavel[SloParams]):
    """Deadlines are kept from the earliest on, as many as can be together; the artifact drops all if not all can.

    Turns are as long as a lease: where there is time, jobs are to end so long before they are due.
    """

    every_turn = True

    def shares(self, view: View, memory: Memory) -> Shares:
        speed, left_s, due_s = speeds(view), remaining_s(view), view.jobs.table.deadline_s[view.jobs.row] - view.now_s
        rate = speed if self.params.relative else view.rates
        options, kind = kinds(view, rate, np.nan_to_num(due_s, nan=-1.0), left_s, packed=self.params.packed)
        _, first = np.unique(kind, return_index=True)
        unit = 1.0 if self.params.relative else view.jobs.state["alone_rate"][first]
        with np.errstate(divide="ignore", invalid="ignore"):
            need = np.where(due_s > 0, left_s / due_s, np.inf)[first]  # speed it needs from now on
            early = np.where(due_s > self.params.lease_s, left_s / (due_s - self.params.lease_s), np.inf)[first]
        fastest = speed.max(axis=1)[first]
        possible = np.flatnonzero((need <= fastest) & (runnable(options) > 0))
        possible = possible[np.argsort(due_s[first][possible], kind="stable")]
        early = np.minimum(early, fastest)
        if not self.params.rounds and self._feasible(options, possible, early * unit):
            need = early
        kept = len(possible) if self._feasible(options, possible, need * unit) else 0
        if not kept and not self.params.rounds:
            beyond = len(possible)
            while beyond - kept > 1:
                middle_ = (kept + beyond) // 2
                kept, beyond = (middle_, beyond) if self._feasible(options, possible[:middle_], need * unit) else (kept, middle_)
        floor = np.zeros(len(options.jobs))
        floor[possible[:kept]] = (need * unit)[possible[:kept]]
        return options.shares(most_gain(options, per_dollar(options, view, self.params), floor * SLACK), kind)

    def _feasible(self, options: Options, kinds: Ints, need: Floats) -> bool:
        claim = np.zeros(len(options.jobs))
        claim[kinds] = need[kinds]
        return not claim.any() or raise_level(options, claim).level >= 1.0


def per_dollar(options: Options, view: View, params: CostParams) -> Floats:
    """What each option gains in a second, by what its GPUs cost; the artifact takes the price of one, whatever the gang."""
    price = np.array(usd_an_hour(view.capacity_gpus, params.prices))[options.type]
    return scaled((options.rate + options.other_rate) / (price * options.gang if params.relative else price))


def scaled(gain: Floats) -> Floats:
    return gain / gain.max(initial=TINY)


# ------------------------------------------------------------------------------------------------- common figures


def gpus_of(view: View) -> Floats:
    return np.array(list(view.capacity_gpus.values()), np.float64)


def isolated(view: View) -> Floats:
    """An n-th of every type: the share of its time that each job could use it."""
    share = gpus_of(view) / (len(view.jobs) * view.jobs.gpus[:, None])
    return share / np.maximum(share.sum(axis=1, keepdims=True), 1.0)


def speeds(view: View) -> Floats:
    """(jobs, types): rates as a fraction of the rate that a job's seconds are counted at, that of its fastest type."""
    return view.rates / view.jobs.state["alone_rate"][:, None]


def remaining_s(view: View) -> Floats:
    """Seconds left at speed 1, by the chosen estimate."""
    return view.oracle.remaining_s if view.jobs.estimates is None else view.jobs.remaining_s


def fair_level(view: View, rates: Floats) -> Floats:
    """(jobs, types): what a share of 1 counts for in max-min fairness."""
    gpus = gpus_of(view)
    mix = rates @ gpus / gpus.sum()
    weight = view.jobs.table.weight[view.jobs.row]
    return rates * np.divide(view.jobs.gpus, weight * mix, out=np.zeros(len(mix)), where=mix > 0)[:, None]


def kinds(view: View, rate: Floats, *more: NDArray[Any], packed: bool = False) -> tuple[Options, Ints]:
    """The options of each kind of job, and the kind of each job: equal gang, rates and what else is given.

    `packed`: and each beside another (or another of its kind) where the two together do more than either alone. What a pair does
    is asked of the performance model, where it knows; it depends on the models and the gangs.
    """
    jobs = view.jobs
    pairs = packed and view.beside is not None
    kind, first = group(jobs.gpus, *rate.T, *more, *([jobs.table.model.codes[jobs.row]] if pairs else []))
    options = Options.alone(np.bincount(kind).astype(np.float64), jobs.gpus[first], rate[first], gpus_of(view))
    return (options.beside(pairs_of_kinds(view, kind, first, rate)) if pairs else options), kind


def pairs_of_kinds(view: View, kind: Ints, first: Ints, rate: Floats) -> Floats:
    """Rows of (kind, other kind, type, gang, rate, the other's rate), for each kind the best partners."""
    jobs, last = view.jobs, np.zeros(len(first), np.int64)
    last[kind] = np.arange(len(kind))  # another of its kind, if there is one
    sort, first_of_sort = group(jobs.gpus[first], jobs.table.model.codes[jobs.row[first]])
    found = []
    for j in range(rate.shape[1]):
        part = np.array([[beside(view, int(first[a]), int(last[b]), j) for b in first_of_sort] for a in first_of_sort])
        mine, theirs = part[sort[:, None], sort[None, :]].transpose(2, 0, 1)
        runs = (view.rates[first, j] > 0)[:, None] & (view.rates[first, j] > 0)[None, :]
        gain = np.where(runs & (mine > 0) & (theirs > 0), mine + theirs, 0.0)
        gain[np.diag_indices(len(first))] *= last != first
        for a, b in zip(*np.nonzero(best_partners(gain)), strict=True):
            gang = max(jobs.gpus[first[a]], jobs.gpus[first[b]])
            found.append((a, b, j, gang, mine[a, b] * rate[first[a], j], theirs[a, b] * rate[first[b], j]))
    return np.array(found, np.float64).reshape(-1, 6)


def best_partners(gain: Floats) -> NDArray[np.bool_]:
    """(kinds, kinds) each pair once, of each kind those it does most with; equal ones turn by turn, so that not all want the same."""
    kinds_ = len(gain)
    turn = (np.arange(kinds_)[None, :] - np.arange(kinds_)[:, None]) % kinds_
    best = np.lexsort((turn, -gain), axis=1)[:, :MOST_PARTNERS]
    chosen = np.zeros(gain.shape, bool)
    np.put_along_axis(chosen, best, True, axis=1)
    return np.triu((chosen | chosen.T) & (gain > 1.0))


def beside(view: View, m: int, n: int, j: int) -> tuple[float, float]:
    """What two jobs do on the same GPUs of a type, each in parts of what it does alone."""
    assert view.beside is not None
    name, rows, alone = list(view.capacity_gpus)[j], view.jobs.row, view.rates[[m, n], j]
    if not alone.all():
        return 0.0, 0.0
    one, other = int(rows[m]), int(rows[n])
    return view.beside(one, other, name) / float(alone[0]), view.beside(other, one, name) / float(alone[1])


def runnable(options: Options) -> Floats:
    """1 for kinds that have an option: what fits nowhere now must not hold the others at nothing."""
    return np.where(np.bincount(options.kind, minlength=len(options.jobs)) > 0, 1.0, 0.0)


def fastest_above(options: Options, floor: Floats) -> Floats:
    """y that keeps these levels, and speeds jobs up most beyond them: each option counts as it compares with its kind's best."""
    best = np.zeros(len(options.jobs))
    np.maximum.at(best, options.kind, options.rate)
    others = np.where(options.other == ALONE, 0.0, options.other_rate / best[options.other])
    return most_gain(options, options.rate / best[options.kind] + others, floor * SLACK)
