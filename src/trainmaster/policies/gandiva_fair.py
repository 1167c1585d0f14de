"""Gandiva-fair: users share GPU time by tickets, and trade the fast GPUs that some use better than others.

Chaudhary et al., "Balancing Efficiency and Fairness in Heterogeneous GPU Clusters for Deep Learning", EuroSys 2020, sections 3 and 4.

    stride    each quantum jobs run in the order of (pass, submission), all that fit; one that runs advances by GPUs / tickets; one
              that does not fit keeps its pass, so it comes first next time
    tickets   a user's are divided over its jobs; a newcomer starts at the least pass of those here
    trade     buyer = the user with the highest speed-up fast / slow, seller = the lowest, among those that hold some of both;
              price = the next speed-up below the buyer's; fast GPUs traded = min(seller's fast, buyer's slow / price)

A user's tickets on a type are the GPUs of it that it holds after trading, from a fair share of every type on. Each type is one
stride over all its nodes: gangs may span nodes here unless a job says otherwise, so no node's load needs balancing. Types are
filled from the fastest down; what nobody with tickets can use goes to whoever it fits. Speed-ups are those of the performance model.

Not strategy-proof (who understates its speed-up may gain), and nobody claims it. With two users the seller gains nothing.
A digest of the paper has a pass advance by 1 / tickets, fair in quanta and not in GPU time: `by_gpus=false`. Its quantum is a minute
(from memory); here a start costs half of that, so it is longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Decision, DecisionRecord, Floats, Memory, Policy, Reason, View, check, counted, policy
from trainmaster.policies.turns import NO_TURN, give, place_all

Ints = NDArray[np.int64]
NOTHING = 1e-9  # GPUs: less is held by nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    quantum_s: float = 360.0
    by_gpus: bool = True  # a pass advances by GPUs / tickets; false: by 1 / tickets
    trades: bool = True
    tickets: str = "user"  # whose: user | queue; a queue's weight in the cluster file is its number of tickets


@policy(name="gandiva-fair", paper="Chaudhary et al., EuroSys 2020", params=Params)
class GandivaFair(Policy[Params]):
    def validate(self, restart_cost_s: float) -> None:
        check(self.params.quantum_s > 0, f"quantum_s must be positive, not {self.params.quantum_s:g}")
        check(self.params.tickets in ("user", "queue"), f"tickets must be user or queue, not {self.params.tickets}")

    def start_memory(self, jobs: int) -> Memory:
        return {"jobs": jobs, "at_s": 0.0, "ends_s": -np.inf}

    def decide(self, view: View, memory: Memory) -> Decision:
        if "pass" not in memory:
            memory["pass"] = np.full((memory["jobs"], len(view.capacity_gpus)), np.nan)
            memory["tickets"] = np.zeros_like(memory["pass"])
        decision = place_all(view, lambda few: self._turns(few, memory))
        waits = len(decision.lines) < len(view.jobs)
        rotates = waits or len(view.capacity_gpus) > 1
        return Decision(lines=decision.lines, lease_s=memory["ends_s"] - view.now_s if rotates and len(view.jobs) else None)

    def said(self, memory: Memory, seq: Ints) -> Mapping[str, Floats]:
        if "pass" not in memory:
            return {}
        passes, tickets = memory["pass"][seq], memory["tickets"][seq]
        return {"pass": np.where(tickets > NOTHING, passes, np.inf).min(axis=1, initial=np.inf), "tickets": tickets.sum(axis=1)}

    def passed_over(self, record: DecisionRecord, row: int) -> Reason:
        passes, tickets = (record.columns.get(name) for name in ("pass", "tickets"))
        if passes is None or tickets is None or not np.isfinite(passes[row]):
            return super().passed_over(record, row)
        less = float((passes < passes[row]).sum())
        some = f"{counted(less, 'job')} {'has' if less == 1 else 'have'} had less of theirs"
        had = some if less else "the turns of others have not ended"
        mine = f"its tickets are worth {tickets[row]:.2g} GPUs all the time"
        return Reason("not-its-turn", f"{mine}, and it is not its turn: {had}", {"tickets": float(tickets[row]), "had_less": less})

    def _turns(self, view: View, memory: Memory) -> Ints:
        """The type of each job's turn."""
        jobs, seq, held = view.jobs, view.jobs.seq, view.held_type
        self._advance(view, memory)
        new_quantum = view.now_s >= memory["ends_s"]
        if new_quantum:
            memory["ends_s"] = view.now_s + self.params.quantum_s
        gpus, turn = np.array(list(view.capacity_gpus.values()), np.float64), np.full(len(jobs), NO_TURN)
        memory["tickets"][seq] = self._tickets(view, gpus)
        passes, tickets = memory["pass"][seq], memory["tickets"][seq]
        if not new_quantum:
            turn[:] = held
        running = turn != NO_TURN
        left: Floats = gpus - np.bincount(turn[running], jobs.gpus[running], len(gpus))
        fastest = np.argsort(-view.rates.mean(axis=0), kind="stable") if len(jobs) else np.arange(len(gpus))
        for entitled in (True, False):
            for j in fastest.tolist():
                mine = np.flatnonzero((view.rates[:, j] > 0) & ((tickets[:, j] > NOTHING) == entitled))
                order = mine[np.argsort(passes[mine, j], kind="stable")]
                give(turn, left, jobs.gpus, order, np.full(len(order), j))
        return turn

    def _advance(self, view: View, memory: Memory) -> None:
        """Passes of those who ran; newcomers start at the least pass of each type."""
        seq, held, passes = view.jobs.seq, view.held_type, memory["pass"]
        passed_s, memory["at_s"] = view.now_s - memory["at_s"], view.now_s
        ran = np.flatnonzero(held != NO_TURN)
        tickets = memory["tickets"][seq[ran], held[ran]]
        ran, tickets = ran[tickets > NOTHING], tickets[tickets > NOTHING]
        amount = view.jobs.gpus[ran] if self.params.by_gpus else np.ones(len(ran))
        passes[seq[ran], held[ran]] += amount / tickets * (passed_s / self.params.quantum_s)
        new = np.isnan(passes[seq, 0])
        here = passes[seq[~new]]
        passes[seq[new]] = here.min(axis=0) if len(here) else 0.0

    def _tickets(self, view: View, gpus: Floats) -> Floats:
        """(jobs, types): GPUs that each job's user holds after trading, by its number of jobs."""
        jobs = view.jobs
        labels = getattr(jobs.table, self.params.tickets)
        names, user, count = np.unique(labels.codes[jobs.row], return_inverse=True, return_counts=True)
        weight = np.ones(len(names))
        if self.params.tickets == "queue":
            weight = np.array([getattr(view.queues.get(labels.names[code] if code >= 0 else ""), "weight", 1.0) for code in names.tolist()])
        holds = weight[:, None] / max(weight.sum(), NOTHING) * gpus
        if self.params.trades and len(gpus) > 1:
            relative = view.rates / np.maximum(view.rates.max(axis=1, keepdims=True), NOTHING)
            speed = np.stack([np.bincount(user, relative[:, j], len(names)) for j in range(len(gpus))], axis=1) / count[:, None]
            holds = trade(holds, speed)
        return holds[user] / count[user][:, None]


def trade(holds: Floats, speed: Floats) -> Floats:
    """(users, types) GPUs after trading, where speed[u, j] is how fast user u's jobs run there.

    For every two types, the slower from the slowest up and the faster from the fastest down. A pair is traded among users whose
    jobs run on both.
    """
    holds, order = holds.copy(), np.argsort(speed.mean(axis=0), kind="stable").tolist()
    for at, slow in enumerate(order):
        for fast in reversed(order[at + 1 :]):
            runs = (speed[:, slow] > 0) & (speed[:, fast] > 0)
            gain = np.divide(speed[:, fast], speed[:, slow], out=np.zeros(len(speed)), where=runs)
            while len(some := np.flatnonzero(runs & (holds[:, slow] > NOTHING) & (holds[:, fast] > NOTHING))) > 1:
                ranked = some[np.argsort(gain[some], kind="stable")]
                seller, buyer, price = ranked[0], ranked[-1], gain[ranked[-2]]
                if gain[seller] == gain[buyer]:
                    break
                traded = min(holds[seller, fast], holds[buyer, slow] / price)
                holds[[seller, buyer], fast] += -traded, traded
                holds[[seller, buyer], slow] += traded * price, -traded * price
    return holds
