"""AlloX: the least average completion time on resources that are interchangeable but not equal, as a matching.

Le, Sun, Chowdhury and Liu, "AlloX: Compute Allocation in Hybrid Clusters", EuroSys 2020, section 4.

    p[m, i]   seconds that job m takes on machine i          d[i]   seconds until machine i is free
    cost      d[i] + k p[m, i]: k-th from the last on its machine, a job delays itself and the k - 1 after it

A least-cost matching of jobs to (machine, position) is the order of least total completion time. It is made anew whenever jobs
arrive or end; who is first on a machine that is free starts, and runs to its end.

Fairness: only the share `alpha` of the waiting users enters, those that hold the fewest GPUs; again while theirs start, then twice as
many. At most `most_jobs` enter at once, by turns the shortest on each type.
Not in the paper: a gang counts as its longest worker on one machine, and starts when its type has room for all of it.

preset `artifact`: AlloX as Gavel's simulator has it, in that simulator's rounds: of the jobs without a machine the earliest `alpha`,
or as many as there are free GPUs, are matched with free GPUs alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
from trainmaster.policies.turns import NO_TURN, Rounds, Shares, give, place_all, take_turns

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    estimate: str = "oracle"  # of the time left: limit | predicted | a column of the trace | oracle: the truth; then it cheats
    alpha: float = 0.1  # share of the users that enter
    most_jobs: int = 50  # that enter
    rounds: bool = False  # as in Gavel's simulator


NOTHING = 1e-9  # of the longest time left: less counts as so much, so that who has none left has a place in the order
SOURCE = "stanford-futuredata/gavel, commit c4fa400"
ARTIFACT = Preset(params={"rounds": True, "alpha": 0.2}, rules=EngineRules(own_rounds=True), source=SOURCE)


@policy(name="allox", paper="Le et al., EuroSys 2020", needs=("oracle",), params=Params, presets={"artifact": ARTIFACT})
class Allox(Policy[Params]):
    def validate(self, restart_cost_s: float) -> None:
        check(0 < self.params.alpha <= 1, f"alpha must be above 0 and at most 1, not {self.params.alpha:g}")
        check(self.params.most_jobs > 0, f"most_jobs must be positive, not {self.params.most_jobs}")

    def start_memory(self, jobs: int) -> Memory:
        return {"jobs": jobs, "placed": np.full(jobs, NO_TURN)}

    def decide(self, view: View, memory: Memory) -> Decision:
        if self.params.rounds:
            turns = Rounds(round_s=360.0, solve_every_s=1_920.0, shuffles=False)
            return take_turns(turns, view, memory, self._shares_of_the_artifact)
        return place_all(view, self._turns)

    def passed_over(self, record: DecisionRecord, row: int) -> Reason:
        left_s = record.columns["remaining_s"]
        shorter = float((left_s < left_s[row]).sum())
        mine = f"with about {left_s[row]:,.0f} s left it adds least to the sum of all completion times if it waits"
        others = f"{counted(shorter, 'job')} {'has' if shorter == 1 else 'have'} less left"
        return Reason("not-its-turn", f"{mine}: {others}", {"left_s": float(left_s[row]), "shorter": shorter})

    # --------------------------------------------------------------------------------------------- the paper's

    def _turns(self, view: View) -> Ints:
        jobs, seconds = view.jobs, seconds_left(view)
        turn = view.held_type.copy()
        gpus, running = np.array(list(view.capacity_gpus.values()), np.float64), turn != NO_TURN
        left: Floats = gpus - np.bincount(turn[running], jobs.gpus[running], len(gpus))
        user, share = jobs.table.user.codes[jobs.row] + 1, self.params.alpha
        while left.any() and len(waiting := np.flatnonzero(turn == NO_TURN)):
            users, held = np.unique(user[waiting]), np.bincount(user, jobs.gpus * (turn != NO_TURN))
            users = users[np.argsort(held[users], kind="stable")]
            entering = waiting[np.isin(user[waiting], users[: int(np.ceil(share * len(users)))])]
            free_before = left.sum()
            give(turn, left, jobs.gpus, *self._matched(view, seconds, self._shortest(seconds, entering), turn))
            if left.sum() == free_before:
                if share >= 1:
                    break
                share *= 2
        return turn

    def _shortest(self, seconds: Floats, jobs: Ints) -> Ints:
        """At most `most_jobs`, by turns the shortest on each type."""
        if len(jobs) <= self.params.most_jobs:
            return jobs
        by_turns = np.argsort(seconds[jobs], axis=0, kind="stable").reshape(-1)
        _, first = np.unique(by_turns, return_index=True)
        return jobs[np.sort(by_turns[np.sort(first)][: self.params.most_jobs])]

    def _matched(self, view: View, seconds: Floats, jobs: Ints, turn: Ints) -> tuple[Ints, Ints]:
        """Who is first on a machine that is free, and its type."""
        free_in, types = machines(view, seconds, turn, most=len(jobs))
        chosen, machine, last = match(seconds[jobs][:, types], free_in)
        first = first_of_each(machine, last)
        first = first[free_in[machine[first]] <= 0]
        return jobs[chosen[first]], types[machine[first]]

    # --------------------------------------------------------------------------------------------- the artifact's

    def _shares_of_the_artifact(self, view: View, memory: Memory) -> Shares:
        seq, seconds = view.jobs.seq, seconds_left(view)
        placed, gpus = memory["placed"][seq], np.array(list(view.capacity_gpus.values()), np.int64)
        free = gpus - np.bincount(placed[placed != NO_TURN], minlength=len(gpus))
        unplaced = np.flatnonzero(placed == NO_TURN)
        unplaced = unplaced[: max(int(self.params.alpha * len(seq)), int(free.sum()))]
        types = np.repeat(np.arange(len(gpus)), np.maximum(free, 0))
        if len(types) and len(unplaced):
            chosen, machine, last = match(seconds[unplaced][:, types], np.zeros(len(types)))
            first = first_of_each(machine, last)
            placed[unplaced[chosen[first]]] = types[machine[first]]
        memory["placed"][seq] = placed
        return Shares((placed[:, None] == np.arange(len(gpus))).astype(np.float64))


# ------------------------------------------------------------------------------------------------- the matching


def match(seconds: Floats, free_in_s: Floats) -> tuple[Ints, Ints, Ints]:
    """(job, machine, position from the last) of the least total completion time; `seconds` is (jobs, machines)."""
    from scipy.optimize import linear_sum_assignment

    jobs, machines = seconds.shape
    cost = free_in_s[None, :, None] + seconds[:, :, None] * np.arange(1, jobs + 1)
    finite = np.isfinite(cost)
    never = 1.0 + 2.0 * cost[finite].sum() if finite.any() else 1.0
    runs = np.isfinite(seconds).any(axis=1) if machines else np.zeros(jobs, bool)
    job, column = linear_sum_assignment(np.where(finite, cost, never)[runs].reshape(int(runs.sum()), -1))
    return np.flatnonzero(runs)[job], column // jobs, column % jobs


def first_of_each(machine: Ints, last: Ints) -> Ints:
    """Of each machine, the one that is farthest from the last."""
    order = np.lexsort((-last, machine))
    return order[np.unique(machine[order], return_index=True)[1]]


def machines(view: View, seconds: Floats, turn: Ints, most: int) -> tuple[Floats, Ints]:
    """Of each type the `most` GPUs that are free first: in how many seconds, and the type."""
    jobs, free_in, types = view.jobs, [], []
    for j, gpus in enumerate(view.capacity_gpus.values()):
        holders = np.flatnonzero(turn == j)
        busy = np.repeat(seconds[holders, j], np.ceil(jobs.gpus[holders]).astype(np.int64))
        busy = np.sort(np.concatenate([np.zeros(max(int(gpus) - len(busy), 0)), busy]))[:most]
        free_in.append(busy)
        types.append(np.full(len(busy), j))
    return np.concatenate(free_in), np.concatenate(types)


def seconds_left(view: View) -> Floats:
    """(jobs, types), infinite where it does not run, or its gang finds no room at all."""
    left_s = view.oracle.remaining_s if view.jobs.estimates is None else view.jobs.remaining_s
    with np.errstate(divide="ignore"):
        least_s = NOTHING * left_s[np.isfinite(left_s)].max(initial=0.0)
        seconds: Floats = np.maximum(left_s, least_s)[:, None] * view.jobs.state["alone_rate"][:, None] / view.rates
    return np.where(view.jobs.gpus[:, None] <= np.array(list(view.capacity_gpus.values())), seconds, np.inf)
