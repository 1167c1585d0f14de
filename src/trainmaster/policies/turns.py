"""From shares of time to turns: who holds which GPUs now, so that in the long run each job gets its share of each type.

    share[m, j]   the fraction of its time that job m should run on type j
    owed[m, j]    seconds: the sum of share x time, less what it held; carried from one solution to the next

`Leases` is what a user gets. Turns last `lease_s` and end together, so that a gang finds room; the largest claim goes first,
whatever its type:

    claim = owed + share x lease         what it will be owed when this turn ends

A job that arrives, or is entitled to GPUs that somebody holds without a claim, starts at once: between the ends of turns only
holders with a share stay. GPUs that nobody claims are given to jobs that have no turn, each where it runs fastest: that is not
charged, as it costs nobody anything. A holder keeps its turn until another's claim exceeds its own by `stay_s`: turns last about
that long, so restarts are few, jobs end one after the other instead of all late, and nobody falls behind its share by much more.

`Rounds` is the artifact's, quirks included, for comparison with its figures (Gavel's simulator, commit c4fa400):

    priority = share / time got since the last solution, and from half a round on (the artifact divides this by the time that all
    jobs got on the type, which changes no order: only jobs of one type are compared);
    ties by what is owed, then by share; each type's list is served to its end before the next type's, in the order in which the
    cluster names them, or shuffled at each round where the policy knows no rates

Shares are solved anew at a round's start if jobs came or ended, but not within `solve_every_s` of the last time; a job that came
since is passed over, yet GPUs are set aside for it. A round ends when the last of its jobs has run as many whole steps as fit in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Decision, Floats, Line, Memory, View

Ints = NDArray[np.int64]

NO_TURN = -1
NOBODY = -1
SMALLEST_SHARE = 1e-6  # an interior point leaves a little of everything


@dataclass(frozen=True)
class Pairs:
    """Two jobs beside each other on a type: a row a pair."""

    job: Ints
    other: Ints
    type: Ints
    share: Floats

    @classmethod
    def none(cls) -> Pairs:
        nobody = np.zeros(0, np.int64)
        return cls(nobody, nobody, nobody, np.zeros(0))


@dataclass(frozen=True)
class Shares:
    """The fraction of its time that each job should spend alone on each type, and each pair together."""

    alone: Floats  # (jobs, types)
    pairs: Pairs = field(default_factory=Pairs.none)


Solve = Callable[[View, Memory], Shares]


def take_turns(turns: Leases | Rounds, view: View, memory: Memory, solve: Solve) -> Decision:
    """Who runs now. Jobs on CPUs alone compete with nobody here."""
    if "share" not in memory:
        memory.update(turns.start_memory(memory["jobs"], len(view.capacity_gpus)))
    on_gpus = view.jobs.gpus > 0
    if on_gpus.all():
        return turns.decide(view, memory, solve)
    decision = turns.decide(view.only(on_gpus), memory, solve)
    return replace(decision, lines=(*decision.lines, *(Line(row, 0.0) for row in view.jobs.row[~on_gpus].tolist())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """Turns that end together, global order, decisions at events."""

    lease_s: float
    stay_s: float
    fills: bool = True  # whether jobs without a claim may hold what is left
    every_turn: bool = False  # shares are solved anew at each turn, not only when jobs or GPUs change
    by_speed: bool = True  # each where it runs fastest; false: where most are left, as the policy knows no rates

    def start_memory(self, jobs: int, types: int) -> Memory:
        nothing = {name: np.zeros((jobs, types)) for name in ("owed_s", "share")}
        return {**nothing, **no_pairs(jobs), "at_s": 0.0, "turn_ends_s": -np.inf, "solved_for": None}

    def decide(self, view: View, memory: Memory, solve: Solve) -> Decision:
        jobs = view.jobs
        if not len(jobs):
            return Decision()
        self._account(view, memory)
        gpus = np.array(list(view.capacity_gpus.values()))
        solved_for = np.concatenate([jobs.seq, gpus])
        new_turn = view.now_s >= memory["turn_ends_s"]
        if (new_turn and self.every_turn) or not np.array_equal(solved_for, memory["solved_for"]):
            shares = solve(view, memory)
            memory["share"][jobs.seq], memory["solved_for"] = shares.alone, solved_for
            keep_pairs(memory, jobs.seq, shares.pairs)
        if new_turn:
            memory["turn_ends_s"] = view.now_s + self.lease_s
        turn, partner = self._turns(view, memory, gpus, new_turn)
        memory["partner"][jobs.seq] = np.where(partner == NOBODY, NOBODY, jobs.seq[partner])
        whole = memory["share"][jobs.seq, turn] > 1 - 1e-6
        settled = bool((whole & (turn != NO_TURN)).all())
        return Decision(lines=lines(view, turn, partner), lease_s=None if settled else memory["turn_ends_s"] - view.now_s)

    def _account(self, view: View, memory: Memory) -> None:
        seq, passed_s, memory["at_s"] = view.jobs.seq, view.now_s - memory["at_s"], view.now_s
        held, partner = view.held_type, memory["partner"][view.jobs.seq]
        alone = np.flatnonzero((held != NO_TURN) & (partner == NOBODY))
        owed_s, share = memory["owed_s"][seq] + memory["share"][seq] * passed_s, memory["share"][seq]
        owed_s[alone, held[alone]] -= passed_s
        memory["owed_s"][seq] = np.where(share > 0, owed_s, 0.0)
        if len(memory["pair_share"]):
            together = memory["partner"][memory["pair_seq"][:, 0]] == memory["pair_seq"][:, 1]
            held_by_seq = np.full(len(memory["partner"]), NO_TURN)
            held_by_seq[seq] = held
            together &= held_by_seq[memory["pair_seq"][:, 0]] == memory["pair_type"]
            memory["pair_owed_s"] = memory["pair_owed_s"] + (memory["pair_share"] - together) * passed_s

    def _turns(self, view: View, memory: Memory, gpus: Floats, new_turn: bool) -> tuple[Ints, Ints]:
        """The type of each job's turn, and who is beside it."""
        jobs, held, seq = view.jobs, view.held_type, view.jobs.seq
        share, owed_s, before = memory["share"][seq], memory["owed_s"][seq], memory["partner"][seq]
        rows, running, claims = np.arange(len(jobs)), held != NO_TURN, share > SMALLEST_SHARE
        turn, partner = np.full(len(jobs), NO_TURN), np.full(len(jobs), NOBODY)
        pair, beside, pair_type, pair_s, pair_holds = self._pairs(view, memory)
        if not new_turn:
            stays = running & (before == NOBODY) & claims[rows, held]
            turn[stays] = held[stays]
            for one, other in ((pair, beside), (beside, pair)):
                turn[one[pair_holds]], partner[one[pair_holds]] = pair_type[pair_holds], other[pair_holds]
        counts = (turn != NO_TURN) & ((partner == NOBODY) | (partner > rows))  # a pair once
        left = gpus - np.bincount(turn[counts], gang_of(jobs.gpus, rows, partner)[counts], len(gpus))
        claim_s = owed_s + share * self.lease_s
        claim_s[running, held[running]] += self.stay_s
        job, type_ = np.nonzero(claims & (turn == NO_TURN)[:, None])
        holds = np.concatenate([held[job] == type_, pair_holds])
        largest = np.lexsort((~holds, -np.concatenate([claim_s[job, type_], pair_s])))
        other = np.concatenate([np.full(len(job), NOBODY), beside])
        job, type_ = np.concatenate([job, pair]), np.concatenate([type_, pair_type])
        give(turn, left, jobs.gpus, job[largest], type_[largest], partner, other[largest])
        if self.fills and left.any():
            job, type_ = np.nonzero((view.rates > 0) & (turn == NO_TURN)[:, None])
            better = view.rates[job, type_] / view.rates.max(axis=1)[job] if self.by_speed else left[type_]
            fastest = np.lexsort((job, ~(held[job] == type_), -better))
            give(turn, left, jobs.gpus, job[fastest], type_[fastest])
        return turn, partner

    def _pairs(self, view: View, memory: Memory) -> tuple[Ints, Ints, Ints, Floats, NDArray[np.bool_]]:
        """Of each pair: the jobs, the type, the claim, whether it runs so."""
        jobs, pair_seq = view.jobs, memory["pair_seq"]
        row = np.full(len(memory["partner"]), NOBODY)
        row[jobs.seq] = np.arange(len(jobs))
        one, other, type_ = row[pair_seq[:, 0]], row[pair_seq[:, 1]], memory["pair_type"]
        holds = (memory["partner"][pair_seq[:, 0]] == pair_seq[:, 1]) & (view.held_type[one] == type_) & (view.held_type[other] == type_)
        claim_s = memory["pair_owed_s"] + memory["pair_share"] * self.lease_s
        return one, other, type_, claim_s + self.stay_s * holds, holds


def no_pairs(jobs: int) -> Memory:
    empty = {"pair_seq": np.zeros((0, 2), np.int64), "pair_type": np.zeros(0, np.int64)}
    return {**empty, "pair_share": np.zeros(0), "pair_owed_s": np.zeros(0), "partner": np.full(jobs, NOBODY)}


def keep_pairs(memory: Memory, seq: Ints, pairs: Pairs) -> None:
    """The pairs of a new solution; those that stay keep what they are owed."""
    size, types = len(memory["partner"]), int(max(pairs.type.max(initial=0), memory["pair_type"].max(initial=0))) + 1
    pair_seq = np.stack([seq[pairs.job], seq[pairs.other]], axis=1).reshape(-1, 2)
    code = (pair_seq[:, 0] * size + pair_seq[:, 1]) * types + pairs.type
    known = (memory["pair_seq"][:, 0] * size + memory["pair_seq"][:, 1]) * types + memory["pair_type"]
    _, now, before = np.intersect1d(code, known, assume_unique=True, return_indices=True)
    owed_s = np.zeros(len(code))
    owed_s[now] = memory["pair_owed_s"][before]
    memory["pair_seq"], memory["pair_type"], memory["pair_share"], memory["pair_owed_s"] = pair_seq, pairs.type, pairs.share, owed_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """The artifact's rounds."""

    round_s: float  # where `--round` is 0
    solve_every_s: float
    shuffles: bool  # the order of types, at every round
    fills: bool = True  # whether jobs of priority zero take what is left

    def start_memory(self, jobs: int, types: int) -> Memory:
        nothing = {name: np.zeros((jobs, types)) for name in ("owed_s", "share")}
        times = {"at_s": 0.0, "solved_s": 0.0, "ends_s": -np.inf, "solved_for": None}
        return {**nothing, **no_pairs(jobs), **times, "got_s": np.full((jobs, types), np.nan), "turn": np.full(jobs, NO_TURN),
                "pair_got_s": np.zeros(0)}  # fmt: skip

    def decide(self, view: View, memory: Memory, solve: Solve) -> Decision:
        seq, round_s = view.jobs.seq, view.round_s or self.round_s
        holders = np.flatnonzero(memory["turn"] != NO_TURN)  # by seq: those that ended just now are among them
        passed_s, memory["at_s"] = view.now_s - memory["at_s"], view.now_s
        alone = holders[memory["partner"][holders] == NOBODY]
        memory["got_s"][alone, memory["turn"][alone]] += passed_s
        first, second = memory["pair_seq"].T
        together = (memory["partner"][first] == second) & (memory["turn"][first] == memory["pair_type"])
        memory["pair_got_s"] = memory["pair_got_s"] + passed_s * together
        ended = np.setdiff1d(holders, seq)
        memory["turn"][ended] = NO_TURN
        left_alone = memory["partner"][ended]
        memory["partner"][ended] = memory["partner"][left_alone[left_alone != NOBODY]] = NOBODY
        if not len(seq):
            memory["solved_s"], memory["solved_for"], memory["ends_s"] = 0.0, None, -np.inf
            return Decision()
        turn = memory["turn"][seq]
        if view.now_s < memory["ends_s"] and (turn != NO_TURN).any():
            return Decision(lines=lines(view, turn, self._partners(seq, memory)), lease_s=memory["ends_s"] - view.now_s)
        fresh = np.isnan(memory["got_s"][seq, 0])
        memory["got_s"][seq[fresh]] = round_s / 2
        known = memory["solved_for"]
        if not np.array_equal(seq, known) and (memory["solved_s"] == 0 or view.now_s - memory["solved_s"] >= self.solve_every_s):
            memory["owed_s"][seq] += memory["share"][seq] * (view.now_s - memory["solved_s"]) - (memory["got_s"][seq] - round_s / 2)
            memory["got_s"][seq] = round_s / 2
            shares = solve(view, memory)
            memory["share"][seq], memory["solved_for"], memory["solved_s"] = shares.alone, seq, view.now_s
            keep_pairs(memory, seq, shares.pairs)
            memory["pair_got_s"] = np.full(len(shares.pairs.job), round_s / 2)
            known = seq
        turn, partner = self._turns(view, memory)
        turn[~np.isin(seq, known)] = NO_TURN  # their GPUs idle
        memory["turn"][seq], memory["partner"][seq] = turn, np.where(partner == NOBODY, NOBODY, seq[partner])
        running = np.flatnonzero(turn != NO_TURN)
        rate = view.rates[running, turn[running]]
        steps = np.floor(rate * round_s * (1 + 1e-12))
        length_s = np.max(np.where(steps > 0, steps / rate, round_s), initial=0.0) or round_s
        memory["ends_s"] = view.now_s + length_s
        return Decision(lines=lines(view, turn, partner), lease_s=length_s)

    def _partners(self, seq: Ints, memory: Memory) -> Ints:
        """Index of who is beside each job."""
        row = np.full(len(memory["partner"]) + 1, NOBODY)
        row[seq] = np.arange(len(seq))
        return row[memory["partner"][seq]]

    def _turns(self, view: View, memory: Memory) -> tuple[Ints, Ints]:
        jobs = view.jobs
        share, got_s, owed_s = (memory[name][jobs.seq] for name in ("share", "got_s", "owed_s"))
        runs = view.rates > 0
        priority = np.where(runs, share / got_s, 0.0)
        row = np.full(len(memory["partner"]), NOBODY)
        row[jobs.seq] = np.arange(len(jobs))
        pairs = row[memory["pair_seq"]]  # -1: ended, and not solved anew yet
        both, pair_priority = (pairs != NOBODY).all(axis=1), memory["pair_share"] / memory["pair_got_s"]
        left = np.array(list(view.capacity_gpus.values()))
        turn, partner = np.full(len(jobs), NO_TURN), np.full(len(jobs), NOBODY)
        types = view.rng.permutation(len(left)) if self.shuffles else np.arange(len(left))
        for j in types.tolist():
            alone = np.flatnonzero(runs[:, j] & (turn == NO_TURN) & (self.fills | (priority[:, j] > 0)))
            here = np.flatnonzero(both & (memory["pair_type"] == j))
            columns = [(share[alone, j], memory["pair_share"][here]), (owed_s[alone, j], memory["pair_owed_s"][here]),
                       (priority[alone, j], pair_priority[here])]  # fmt: skip
            first = np.lexsort([-np.concatenate(column) for column in columns])
            job, other = np.concatenate([alone, pairs[here, 0]]), np.concatenate([np.full(len(alone), NOBODY), pairs[here, 1]])
            give(turn, left, jobs.gpus, job[first], np.full(len(first), j), partner, other[first])
        return turn, partner


def give(turn: Ints, left: Floats, gpus: Floats, job: Ints, type_: Ints, partner: Ints | None = None, other: Ints | None = None) -> None:
    """In this order, each job that has no turn yet takes one where it still fits; a pair, if neither has one."""
    others = np.full(len(job), NOBODY) if other is None else other
    gangs = gang_of(gpus, job, others)
    for begin in range(0, len(job), PIECE):  # most of a long list no longer fits when its turn comes
        piece = slice(begin, begin + PIECE)
        fits = np.flatnonzero((gangs[piece] <= left[type_[piece]]) & (turn[job[piece]] == NO_TURN)) + begin
        for m, n, j, gang in zip(job[fits].tolist(), others[fits].tolist(), type_[fits].tolist(), gangs[fits].tolist(), strict=True):
            if gang <= left[j] and turn[m] == NO_TURN and (n == NOBODY or turn[n] == NO_TURN):
                turn[m] = j
                left[j] -= gang
                if n != NOBODY:
                    assert partner is not None
                    turn[n], partner[m], partner[n] = j, n, m
        if not left.any():
            break


PIECE = 256


def gang_of(gpus: Floats, job: Ints, other: Ints) -> Floats:
    """GPUs of a job, or of the larger of two beside each other."""
    return np.where(other == NOBODY, gpus[job], np.maximum(gpus[job], gpus[other]))


def place_all(view: View, turns_of: Callable[[View], Ints], lease_s: float | None = None) -> Decision:
    """Each job on the type of its turn; jobs on CPUs alone always."""
    on_gpus = view.jobs.gpus > 0
    few = view if on_gpus.all() else view.only(on_gpus)
    alone = tuple(Line(row, 0.0) for row in view.jobs.row[~on_gpus].tolist())
    return Decision(lines=(*lines(few, turns_of(few)), *alone), lease_s=lease_s)


def lines(view: View, turn: Ints, partner: Ints | None = None) -> tuple[Line, ...]:
    types, given = list(view.capacity_gpus), np.flatnonzero(turn != NO_TURN)
    rows, gpus = view.jobs.row[given].tolist(), view.jobs.gpus[given].tolist()
    if partner is None or (partner == NOBODY).all():
        return tuple(Line(row, amount, type=types[j]) for row, amount, j in zip(rows, gpus, turn[given].tolist(), strict=True))
    group = np.where(partner == NOBODY, NOBODY, np.minimum(np.arange(len(turn)), partner))[given].tolist()
    return tuple(
        Line(row, amount, type=types[j]) if g == NOBODY else Line(row, amount, type=types[j], share=0.5, partner=g)
        for row, amount, j, g in zip(rows, gpus, turn[given].tolist(), group, strict=True)
    )
