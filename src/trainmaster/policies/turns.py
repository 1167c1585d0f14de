"""From shares of time to turns: who holds which GPUs now, so that in the long run each job gets its share of each type.

    share[m, j]   the fraction of its time that job m should run on type j
    owed[m, j]    seconds: the sum of share x time, less what it held; carried from one solution to the next

`Leases` is what a user gets. Turns last `lease_s` and end together, so that a gang finds room; the largest claim goes first,
whatever its type:

    claim = owed + share x lease         what it will be owed when this turn ends

A job that arrives, or is entitled to GPUs that somebody holds without a claim, starts at once: between the ends of turns only
holders with a share stay. GPUs that nobody claims are given to jobs that have no turn, each where it runs fastest: that is not
charged, as it costs nobody anything. Where starting costs, a holder keeps its turn until another's claim exceeds its own by
`stay` such costs; else a restart would be paid at the end of nearly every turn.

`Rounds` is the artifact's, quirks included, for comparison with its figures (Gavel's simulator, commit c4fa400):

    priority = share / (time got / time all jobs got on that type), both since the last solution and from half a round on;
    ties by what is owed, then by share; each type's list is served to its end before the next type's, in the order in which the
    cluster names them, or shuffled at each round where the policy knows no rates

Shares are solved anew at a round's start if jobs came or ended, but not within `solve_every_s` of the last time; a job that came
since is passed over, yet GPUs are set aside for it. A round ends when the last of its jobs has run as many whole steps as fit in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Decision, Floats, Line, Memory, View

Ints = NDArray[np.int64]
Solve = Callable[[View, Memory], Floats]  # (jobs, types)

NO_TURN = -1


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
    stay: float  # restart costs
    fills: bool = True  # whether jobs without a claim may hold what is left

    def start_memory(self, jobs: int, types: int) -> Memory:
        nothing = {name: np.zeros((jobs, types)) for name in ("owed_s", "share")}
        return {**nothing, "at_s": 0.0, "turn_ends_s": -np.inf, "solved_for": None}

    def decide(self, view: View, memory: Memory, solve: Solve) -> Decision:
        jobs = view.jobs
        if not len(jobs):
            return Decision()
        self._account(view, memory)
        gpus = np.array(list(view.capacity_gpus.values()))
        solved_for = np.concatenate([jobs.seq, gpus])
        if not np.array_equal(solved_for, memory["solved_for"]):
            memory["share"][jobs.seq], memory["solved_for"] = solve(view, memory), solved_for
        share = memory["share"][jobs.seq]
        new_turn = view.now_s >= memory["turn_ends_s"]
        if new_turn:
            memory["turn_ends_s"] = view.now_s + self.lease_s
        turn = self._turns(view, share, memory["owed_s"][jobs.seq], gpus, new_turn)
        waits = (turn == NO_TURN).any()
        settled = not waits and bool((share[np.arange(len(jobs)), turn] > 1 - 1e-6).all())
        return Decision(lines=lines(view, turn), lease_s=None if settled else memory["turn_ends_s"] - view.now_s)

    def _account(self, view: View, memory: Memory) -> None:
        seq, passed_s, memory["at_s"] = view.jobs.seq, view.now_s - memory["at_s"], view.now_s
        held = view.held_type
        holders = np.flatnonzero(held != NO_TURN)
        memory["owed_s"][seq] += memory["share"][seq] * passed_s
        memory["owed_s"][seq[holders], held[holders]] -= passed_s
        memory["owed_s"][seq] = np.where(memory["share"][seq] > 0, memory["owed_s"][seq], 0.0)

    def _turns(self, view: View, share: Floats, owed_s: Floats, gpus: Floats, new_turn: bool) -> Ints:
        """The type of each job's turn."""
        jobs, held = view.jobs, view.held_type
        claims = share > SMALLEST_SHARE
        rows, running = np.arange(len(jobs)), held != NO_TURN
        entitled = running & claims[rows, held]
        turn = np.full(len(jobs), NO_TURN)
        if not new_turn:
            turn[entitled] = held[entitled]
        left = gpus - np.bincount(turn[turn != NO_TURN], jobs.gpus[turn != NO_TURN], len(gpus))
        claim_s = owed_s + share * self.lease_s
        claim_s[running, held[running]] += self.stay * jobs.state["restart_s"][running]
        job, type_ = np.nonzero(claims & (turn == NO_TURN)[:, None])
        first = np.lexsort((~(held[job] == type_), -claim_s[job, type_]))
        give(turn, left, jobs.gpus, job[first], type_[first])
        if self.fills:
            job, type_ = np.nonzero((view.rates > 0) & (turn == NO_TURN)[:, None])
            speed = view.rates[job, type_] / view.rates.max(axis=1)[job]
            first = np.lexsort((job, ~(held[job] == type_), -speed))
            give(turn, left, jobs.gpus, job[first], type_[first])
        return turn


SMALLEST_SHARE = 1e-6  # an interior point leaves a little of everything


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
        return {**nothing, **times, "got_s": np.full((jobs, types), np.nan), "turn": np.full(jobs, NO_TURN), "all_got_s": np.zeros(types)}

    def decide(self, view: View, memory: Memory, solve: Solve) -> Decision:
        seq, round_s = view.jobs.seq, view.round_s or self.round_s
        holders = np.flatnonzero(memory["turn"] != NO_TURN)  # by seq: those that ended just now are among them
        passed_s, memory["at_s"] = view.now_s - memory["at_s"], view.now_s
        memory["got_s"][holders, memory["turn"][holders]] += passed_s
        memory["all_got_s"] += np.bincount(memory["turn"][holders], minlength=len(memory["all_got_s"])) * passed_s
        ended = np.setdiff1d(holders, seq)
        memory["turn"][ended] = NO_TURN
        if not len(seq):
            memory["solved_s"], memory["solved_for"], memory["ends_s"] = 0.0, None, -np.inf
            return Decision()
        turn = memory["turn"][seq]
        if view.now_s < memory["ends_s"] and (turn != NO_TURN).any():
            return Decision(lines=lines(view, turn), lease_s=memory["ends_s"] - view.now_s)
        fresh = np.isnan(memory["got_s"][seq, 0])
        memory["got_s"][seq[fresh]] = round_s / 2
        known = memory["solved_for"]
        if not np.array_equal(seq, known) and (memory["solved_s"] == 0 or view.now_s - memory["solved_s"] >= self.solve_every_s):
            memory["owed_s"][seq] += memory["share"][seq] * (view.now_s - memory["solved_s"]) - (memory["got_s"][seq] - round_s / 2)
            memory["got_s"][seq], memory["all_got_s"][:] = round_s / 2, len(seq) * round_s / 2
            memory["share"][seq], memory["solved_for"], memory["solved_s"] = solve(view, memory), seq, view.now_s
            known = seq
        turn = self._turns(view, memory)
        turn[~np.isin(seq, known)] = NO_TURN  # their GPUs idle
        memory["turn"][seq] = turn
        running = np.flatnonzero(turn != NO_TURN)
        rate = view.rates[running, turn[running]]
        steps = np.floor(rate * round_s * (1 + 1e-12))
        length_s = np.max(np.where(steps > 0, steps / rate, round_s), initial=0.0) or round_s
        memory["ends_s"] = view.now_s + length_s
        return Decision(lines=lines(view, turn), lease_s=length_s)

    def _turns(self, view: View, memory: Memory) -> Ints:
        jobs = view.jobs
        share, got_s, owed_s = (memory[name][jobs.seq] for name in ("share", "got_s", "owed_s"))
        runs = view.rates > 0
        priority = np.where(runs, share * memory["all_got_s"] / got_s, 0.0)
        left = np.array(list(view.capacity_gpus.values()))
        turn = np.full(len(jobs), NO_TURN)
        types = view.rng.permutation(len(left)) if self.shuffles else np.arange(len(left))
        for j in types.tolist():
            order = np.lexsort((-share[:, j], -owed_s[:, j], -priority[:, j]))
            order = order[runs[order, j] & (turn[order] == NO_TURN) & (self.fills | (priority[order, j] > 0))]
            give(turn, left, jobs.gpus, order, np.full(len(order), j))
        return turn


def give(turn: Ints, left: Floats, gpus: Floats, job: Ints, type_: Ints) -> None:
    """In this order, each job that has no turn yet takes one where it still fits."""
    room, most = left.tolist(), left.sum()
    for m, j, gang in zip(job.tolist(), type_.tolist(), gpus[job].tolist(), strict=True):
        if gang <= room[j] and turn[m] == NO_TURN:
            turn[m] = j
            room[j] -= gang
            most -= gang
            if most <= 0:
                break
    left[:] = room


def lines(view: View, turn: Ints) -> tuple[Line, ...]:
    types, given = list(view.capacity_gpus), np.flatnonzero(turn != NO_TURN)
    rows, gpus = view.jobs.row[given].tolist(), view.jobs.gpus[given].tolist()
    return tuple(Line(row, amount, type=types[j]) for row, amount, j in zip(rows, gpus, turn[given].tolist(), strict=True))
