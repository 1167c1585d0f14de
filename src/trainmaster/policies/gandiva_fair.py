"""Gandiva-fair: users share GPU time by tickets, and trade the fast GPUs that some use better than others.

Chaudhary et al., "Balancing Efficiency and Fairness in Heterogeneous GPU Clusters for Deep Learning", EuroSys 2020.

    entitled   a user to GPUs of each type: a fair share of every one, then traded                                   trading.py
               its jobs to equal parts of them, as whole on one type as can be
    runs       each quantum, by stride on every node and a central one; jobs move so that nodes are equally full     stride.py
    learns     how much faster each user's jobs are on which type, from those that have run on both                  profiled.py

A kind of job that has not been seen on a type goes first there, or is tried out there where GPUs idle. Types are filled from the
fastest down; then jobs without a turn take GPUs that are left, wherever they are, first those who are entitled to some: nothing idles
beside a job that fits. A job that names no user is a user of its own. One that was refused its node (by CPUs, memory, or a machine that
broke) looks for another home.

A digest of the paper has a pass advance by 1 / tickets, fair in quanta and not in GPU time: `by_gpus=false`. Its quantum is a minute
(from memory); here a start costs half of that, so it is longer. Not here: packing jobs onto GPUs that would idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Decision, DecisionRecord, Floats, Line, Memory, Policy, Reason, View, check, counted, policy
from trainmaster.policies.profiled import fastest_first, gains, kinds, known_rates, learn
from trainmaster.policies.stride import NOWHERE, Bools, Local, Parts, balance, central, emptiest, in_turn, spread
from trainmaster.policies.trading import NOTHING, by_job, fair_shares, trade
from trainmaster.policies.turns import NO_TURN, give

Ints = NDArray[np.int64]

STAYS = 3.0  # quanta by which another's pass must be smaller to take a type from who has tickets on several


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    quantum_s: float = 360.0
    by_gpus: bool = True  # a pass advances by GPUs / tickets; false: by 1 / tickets
    trades: bool = True
    tickets: str = "user"  # whose: user | queue; a queue's weight in the cluster file is its number of tickets


@policy(name="gandiva-fair", paper="Chaudhary et al., EuroSys 2020", params=Params)
class GandivaFair(Policy[Params]):
    memory_version = 2

    def validate(self, restart_cost_s: float) -> None:
        check(self.params.quantum_s > 0, f"quantum_s must be positive, not {self.params.quantum_s:g}")
        check(self.params.tickets in ("user", "queue"), f"tickets must be user or queue, not {self.params.tickets}")

    def start_memory(self, jobs: int) -> Memory:
        nowhere = {name: np.full(jobs, NOWHERE) for name in ("asked", "refused")}
        return {"jobs": jobs, "at_s": 0.0, "ends_s": -np.inf, "seen": {}, **nowhere}

    def decide(self, view: View, memory: Memory) -> Decision:
        if "pass" not in memory:
            shape = memory["jobs"], len(view.capacity_gpus)
            memory |= {"pass": np.full(shape, np.nan), "tickets": np.zeros(shape), "home": np.full(shape, NOWHERE)}
        on_gpus = view.jobs.gpus > 0
        cpus_alone = tuple(Line(row, 0.0) for row in view.jobs.row[~on_gpus].tolist())
        few = view if on_gpus.all() else view.only(on_gpus)
        if not len(few.jobs):
            return Decision(lines=cpus_alone)
        decision = self._quantum(few, memory)
        return replace(decision, lines=(*decision.lines, *cpus_alone))

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

    def _quantum(self, view: View, memory: Memory) -> Decision:
        jobs, seq = view.jobs, view.jobs.seq
        learn(memory["seen"], view)
        self._advance(view, memory)
        rates = known_rates(memory["seen"], view)
        fastest, memory["tickets"][seq] = self._entitled(view, rates)
        site = Site.of(view, memory["tickets"][seq])
        self._refused(view, site, memory)
        new_quantum = view.now_s >= memory["ends_s"]
        if new_quantum:
            memory["ends_s"] = view.now_s + self.params.quantum_s
        memory["home"][seq] = site.homes(memory["home"][seq], memory["pass"][seq], memory["refused"][seq], balanced=new_quantum)
        places = {} if new_quantum else {i: held(view, i) for i in np.flatnonzero(jobs.running).tolist()}
        turns = Turns(site, memory["home"][seq], self._order(view, memory), places)
        for j in fastest:
            turns.by_stride(j, new_quantum)
        turns.what_is_left(fastest, view)
        if new_quantum:
            turns.try_out(rates, kinds(view), view)
        memory["home"][seq] = turns.home
        memory["asked"][seq] = NOWHERE
        for i, parts in turns.places.items():
            memory["asked"][seq[i]] = next(iter(parts))
        entitled = memory["tickets"][seq] > NOTHING
        type_ = np.array([site.type[next(iter(turns.places[i]))] if i in turns.places else NO_TURN for i in range(len(jobs))])
        there = np.arange(len(jobs)), type_
        settled = jobs.running & (type_ != NO_TURN) & (entitled.sum(axis=1) == 1) & entitled[there] & (rates[there] > 0)
        return Decision(lines=lines(view, turns.places), lease_s=None if settled.all() else memory["ends_s"] - view.now_s)

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

    def _order(self, view: View, memory: Memory) -> Floats:
        """Passes; who changes between types does so more slowly, as every change is a start."""
        seq, held_type = view.jobs.seq, view.held_type
        passes = memory["pass"][seq].copy()
        changes = np.flatnonzero((held_type != NO_TURN) & ((memory["tickets"][seq] > NOTHING).sum(axis=1) > 1))
        passes[changes, held_type[changes]] -= STAYS
        return passes

    def _entitled(self, view: View, rates: Floats) -> tuple[Sequence[int], Floats]:
        """Types from the fastest down, and (jobs, types) tickets: GPUs that each job is entitled to."""
        jobs, gpus = view.jobs, np.array(list(view.capacity_gpus.values()))
        labels = getattr(jobs.table, self.params.tickets)
        codes = labels.codes[jobs.row]
        names, of_job = np.unique(np.where(codes >= 0, codes, len(labels.names) + jobs.seq), return_inverse=True)
        user, weight = of_job.astype(np.int64), np.ones(len(names))
        if self.params.tickets == "queue":
            queues = [view.queues.get(name) for name in labels.names]
            by_queue = np.array([1.0 if queue is None else max(queue.weight, NOTHING) for queue in queues])
            weight = np.where(names < len(queues), by_queue[np.minimum(names, len(queues) - 1)], 1.0) if queues else weight
        gain = gains(rates, user, len(names))
        fastest, runs = fastest_first(gain), (view.rates > 0) & (jobs.gpus[:, None] <= gpus)
        demand = np.bincount(user, jobs.gpus * runs.any(axis=1), len(names)).astype(np.float64)
        usable = np.stack([np.bincount(user, jobs.gpus * mine, len(names)) for mine in runs.T], axis=1).astype(np.float64)
        holds = fair_shares(gpus, weight, usable, demand, fastest)
        if self.params.trades:
            holds = trade(holds, gain, demand, fastest)
        tickets, first = np.zeros(runs.shape), to_be_seen_first(rates, runs)
        several = np.bincount(user) > 1
        tickets[~several[user]] = holds[user[~several[user]]]
        for u in np.flatnonzero(several).tolist():
            mine = np.flatnonzero(user == u)
            tickets[mine] = by_job(holds[u], runs[mine], jobs.gpus[mine], fastest, first[mine])
        return fastest, tickets

    def _refused(self, view: View, site: Site, memory: Memory) -> None:
        """Who did not get what it was given last time avoids that node."""
        seq = view.jobs.seq
        asked = memory["asked"][seq]
        refused = np.flatnonzero((asked != NOWHERE) & ~view.jobs.running)
        memory["refused"][seq[refused]] = asked[refused]
        memory["refused"][seq[view.jobs.running]] = NOWHERE
        homes = memory["home"][seq[refused]]
        memory["home"][seq[refused]] = np.where(homes == asked[refused, None], NOWHERE, homes)


def to_be_seen_first(rates: Floats, runs: Bools) -> Floats:
    """(jobs, types) who takes of a type first, smaller first: what was not seen on it or runs nowhere else, then what gains most; last
    what was seen on it and not on another."""
    seen = rates > 0
    order = np.zeros(rates.shape)
    for j in range(rates.shape[1]):
        others = np.delete(np.arange(rates.shape[1]), j)
        elsewhere = rates[:, others].max(axis=1, initial=0.0)
        gain = np.divide(rates[:, j], elsewhere, out=np.ones(len(rates)), where=elsewhere > 0)
        unseen_elsewhere = (runs[:, others] & ~seen[:, others]).any(axis=1)
        order[:, j] = np.where(unseen_elsewhere, 1.0, -gain / (1.0 + gain))
        order[~seen[:, j] | ~runs[:, others].any(axis=1), j] = -np.inf
    return order


# ------------------------------------------------------------------------------------------------- where jobs may be


@dataclass(frozen=True)
class Site:
    """The nodes, and what each job may use of them."""

    type: Ints  # of each node; -1 = closed
    gpus: Floats  # of each node that is open
    gang: Floats  # of each job
    tickets: Floats  # (jobs, types)
    most_nodes: Ints  # of each job
    open_to: Bools  # (jobs, nodes)

    @classmethod
    def of(cls, view: View, tickets: Floats) -> Site:
        nodes, jobs, types = view.nodes, view.jobs, list(view.capacity_gpus)
        type_ = np.array([types.index(name) if up else NO_TURN for name, up in zip(nodes.type.tolist(), nodes.up.tolist(), strict=True)])
        pools, sort = np.unique(jobs.pools, axis=0, return_inverse=True)
        open_to = np.array([np.isin(nodes.pool, mine[mine >= 0]) & nodes.up for mine in pools])[sort.reshape(-1)]
        return cls(type_, np.where(nodes.up, nodes.gpus, 0.0), jobs.gpus, tickets, jobs.table.max_nodes[jobs.row].astype(np.int64), open_to)

    def fits(self, jobs: Ints, j: int) -> Bools:
        """(jobs, nodes) of a type that hold the whole gang."""
        return self.open_to[jobs] & (self.type == j) & (self.gpus >= self.gang[jobs, None])

    def homes(self, home: Ints, passes: Floats, refused: Ints, *, balanced: bool) -> Ints:
        """(jobs, types): the node of each type where a job that is entitled there runs; wide gangs have none."""
        home = np.where(self.tickets > NOTHING, home, NOWHERE)
        for j in range(home.shape[1]):
            jobs = np.flatnonzero(self.tickets[:, j] > NOTHING)
            fits = self.fits(jobs, j)
            there = (home[jobs, j] != NOWHERE) & fits[np.arange(len(jobs)), home[jobs, j]]
            home[jobs[~there], j] = NOWHERE
            load = np.bincount(home[jobs[there], j], self.tickets[jobs[there], j], len(self.gpus)).astype(np.float64)
            for at in np.flatnonzero(~there & fits.any(axis=1)).tolist():
                i, may = jobs[at], fits[at].copy()
                if refused[i] != NOWHERE and may.sum() > 1:
                    may[refused[i]] = False
                home[i, j] = emptiest(self.tickets[i, j], load, self.gpus, may)
                load[home[i, j]] += self.tickets[i, j]
            local = self.local(jobs, home, passes, j)
            if balanced and len(local.job):
                home[local.job, j] = balance(local, self.fits(local.job, j), self.gpus)
        return home

    def local(self, jobs: Ints, home: Ints, passes: Floats, j: int) -> Local:
        jobs = jobs[home[jobs, j] != NOWHERE]
        return Local(jobs, home[jobs, j], self.gang[jobs], self.tickets[jobs, j], passes[jobs, j])


# ------------------------------------------------------------------------------------------------- turns


@dataclass
class Turns:
    """Who runs where, one type after the other."""

    site: Site
    home: Ints
    passes: Floats
    places: dict[int, Parts]  # job -> its GPUs by node

    def __post_init__(self) -> None:
        self.free: Floats = self.site.gpus.copy()
        for parts in self.places.values():
            for node, gpus in parts.items():
                self.free[node] -= gpus

    def by_stride(self, j: int, new_quantum: bool) -> None:
        site = self.site
        waits = np.ones(len(site.gang), bool)
        waits[list(self.places)] = False
        jobs = np.flatnonzero(waits & (site.tickets[:, j] > NOTHING))
        local = site.local(jobs, self.home, self.passes, j)
        wide = jobs[self.home[jobs, j] == NOWHERE]
        if new_quantum and len(wide):
            free = np.where(site.type == j, self.free, 0.0)
            given = central(local, wide, self.passes[wide, j], site.gang[wide], site.open_to[wide], site.most_nodes[wide], free)
            self.places |= given
            self.free[site.type == j] = free[site.type == j]
        turn = np.full(len(site.gang), NO_TURN)
        order = in_turn(local, len(self.free))
        give(turn, self.free, site.gang, local.job[order], local.home[order])
        self.places |= {i: {int(turn[i]): float(site.gang[i])} for i in np.flatnonzero(turn != NO_TURN).tolist()}

    def what_is_left(self, fastest: Sequence[int], view: View) -> None:
        """GPUs that would idle, to those without a turn."""
        site = self.site
        waits = np.ones(len(site.gang), bool)
        waits[list(self.places)] = False
        jobs = np.flatnonzero(waits & (site.gang <= self.free.sum()))
        entitled = (site.tickets[jobs] > NOTHING).any(axis=1)
        for i in jobs[np.lexsort((jobs, self.passes[jobs].min(axis=1, initial=0.0), ~entitled))].tolist():
            for j in fastest:
                room = np.where(site.open_to[i] & (site.type == j), self.free, 0.0)
                if view.rates[i, j] > 0 and (parts := self._fit(i, room, view)):
                    self._take(i, j, parts)
                    break

    def try_out(self, rates: Floats, kinds: Sequence[str], view: View) -> None:
        """One job of each kind goes for this quantum to a type that its kind was not seen on, if GPUs idle there."""
        tried = set[tuple[str, int]]()
        for i in list(self.places):
            for j in np.flatnonzero((rates[i] == 0) & (view.rates[i] > 0)).tolist():
                here = self.places[i]
                idle = np.where(self.site.open_to[i] & (self.site.type == j), self.free, 0.0)
                if (kinds[i], j) in tried or self.site.type[next(iter(here))] == j or not (parts := self._fit(i, idle, view)):
                    continue
                tried.add((kinds[i], j))
                for node, gpus in here.items():
                    self.free[node] += gpus
                self._take(i, j, parts)
                break

    def _fit(self, i: int, room: Floats, view: View) -> Parts:
        """Where it is, on one node, the tightest, or on several."""
        gang = float(self.site.gang[i])
        if room.sum() < gang:
            return {}
        mine = held(view, i) if view.jobs.running[i] else {}
        if mine and all(room[node] >= gpus for node, gpus in mine.items()):
            return mine
        one = np.flatnonzero(room >= gang)
        if len(one):
            return {int(one[np.argmin(room[one])]): gang}
        return spread(gang, room, int(self.site.most_nodes[i]))

    def _take(self, i: int, j: int, parts: Parts) -> None:
        self.places[i] = parts
        for node, gpus in parts.items():
            self.free[node] -= gpus
        if self.home[i, j] != NOWHERE and len(parts) == 1:  # idle GPUs there: it moves for good
            self.home[i, j] = next(iter(parts))


def held(view: View, i: int) -> Parts:
    """Where a running job is."""
    return dict(zip(*view.holdings(int(view.jobs.row[i])), strict=True))


def lines(view: View, places: dict[int, Parts]) -> tuple[Line, ...]:
    """Who stays first."""
    types, rows, running = view.nodes.type.tolist(), view.jobs.row.tolist(), view.jobs.running
    order = sorted(places, key=lambda i: (not running[i], i))
    return tuple(Line(rows[i], gpus, type=types[node], node=node) for i in order for node, gpus in places[i].items())
