"""Themis: the apps that are worst off bid for the GPUs whose leases have ended.

Mahajan et al., "Themis: Fair and Efficient GPU Cluster Scheduling", NSDI 2020, sections 3 to 5.

    rho       T_shared / T_ideal, above 1 = worse off than with a cluster of its own, one N-th as large
    T_shared  time since arrival + work left / speed under a candidate allocation
    T_ideal   W / min(R / N, d): W GPU-seconds of work, R GPUs, d those the app can use, N apps contending on average over its life
    V         1 / rho with a bundle added to what the app holds: its bid, bundle by bundle

    1. the share 1 - f of the apps with the worst rho sees the free GPUs
    2. disjoint bundles with the largest product of V win: first the most apps with V > 0, then the largest product of those
    3. app i keeps the part c_i = product of the other winners' V as chosen / the largest product they could have without i; the rest
       of its bundle is the hidden payment, so that no app gains by asking for more than it needs
    4. what is left is leased at random: apps outside the auction first, those that were running before others

An app is the jobs of one `app`, or one job. Bundles are whole gangs, in order: what runs, then by submission. A part c of a gang is no
gang: it is kept with probability c (`rounding=chance`), or never (`down`, as published: then step 4 does most of the work). Losers get
V = 0 and would make every c 0, so c counts winners alone. Leases end together, or large gangs would never find room. On GPUs that
differ, each type is auctioned by itself, the fastest first.
From memory: the lease of 20 minutes. `ideal=slots` is another reading, N W / min(R, d).
Since 1 / rho with time elapsed is not linear in the bundle, the proof that truth is best does not carry over to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Decision, DecisionRecord, Floats, Memory, Policy, Reason, View, check, counted, policy
from trainmaster.policies.turns import NO_TURN, place_all

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    estimate: str = "oracle"  # of the time left: limit | predicted | a column of the trace | oracle: the truth; then it cheats
    f: float = 0.8  # the share of apps that does not see an offer: large is fair, small places better
    lease_s: float = 1_200.0
    rounding: str = "chance"  # chance | down: of a gang of which a part is kept
    ideal: str = "share"  # share | slots: what T_ideal is


@policy(name="themis", paper="Mahajan et al., NSDI 2020", needs=("oracle",), params=Params)
class Themis(Policy[Params]):
    memory_version = 2  # rho of each job

    def validate(self, restart_cost_s: float) -> None:
        p = self.params
        check(0 <= p.f < 1, f"f must be at least 0 and below 1, not {p.f:g}")
        check(p.lease_s > 0, f"lease_s must be positive, not {p.lease_s:g}")
        check(p.rounding in ("chance", "down"), f"rounding must be chance or down, not {p.rounding}")
        check(p.ideal in ("share", "slots"), f"ideal must be share or slots, not {p.ideal}")

    def start_memory(self, jobs: int) -> Memory:
        times = {"at_s": 0.0, "ends_s": -np.inf, "apps_s": 0.0, "apps": 0}
        return {**times, "work_s": np.full(jobs, np.nan), "apps_before_s": np.zeros(jobs), "rho": np.ones(jobs)}

    def said(self, memory: Memory, seq: Ints) -> Mapping[str, Floats]:
        return {"rho": memory["rho"][seq]}

    def passed_over(self, record: DecisionRecord, row: int) -> Reason:
        rho = record.columns["rho"]
        worse = float((rho > rho[row]).sum())
        mine = f"its app ends {rho[row]:.2g} times as late as on its fair share"
        others = f"the auction gave the GPUs to others; {counted(worse, 'job')} {'is' if worse == 1 else 'are'} worse off"
        return Reason("not-its-turn", f"{mine}, and {others}", {"rho": float(rho[row]), "worse_off": worse})

    def decide(self, view: View, memory: Memory) -> Decision:
        decision = place_all(view, lambda few: self._turns(few, memory))
        waits = len(decision.lines) < len(view.jobs)
        return Decision(lines=decision.lines, lease_s=memory["ends_s"] - view.now_s if waits else None)

    def _turns(self, view: View, memory: Memory) -> Ints:
        """The type of each job's lease."""
        jobs, held = view.jobs, view.held_type
        apps = Apps.of(view, memory, self.params.ideal)
        ended = view.now_s >= memory["ends_s"]
        turn = np.full(len(jobs), NO_TURN) if ended else held.copy()
        if ended:
            memory["ends_s"] = view.now_s + self.params.lease_s
        gpus = np.array(list(view.capacity_gpus.values()), np.float64)
        leased = turn != NO_TURN
        left: Floats = gpus - np.bincount(turn[leased], jobs.gpus[leased], len(gpus))
        rho = apps.rho(np.ones(len(jobs), bool))
        memory["rho"][jobs.seq] = rho[apps.app]
        worst = np.argsort(-rho, kind="stable")
        bidders = worst[: int(np.ceil((1 - self.params.f) * len(worst) - 1e-9))]
        by_speed = np.argsort(-view.rates.mean(axis=0), kind="stable").tolist() if len(jobs) else []
        for j in by_speed:
            self._auction(view, apps, bidders, j, turn, left)
        self._leftover(view, apps, bidders, by_speed, turn, left)
        return turn

    def _auction(self, view: View, apps: Apps, bidders: Ints, j: int, turn: Ints, left: Floats) -> None:
        gpus, wanted = view.jobs.gpus, np.flatnonzero((turn == NO_TURN) & (view.rates[:, j] > 0) & (view.jobs.gpus <= left[j]))
        bids = [(app, mine) for app in bidders.tolist() if len(mine := wanted[apps.app[wanted] == app])]
        if not bids:
            return
        bids = [(app, mine[np.argsort(view.held_type[mine] != j, kind="stable")]) for app, mine in bids]
        sizes = [np.concatenate([[0], np.cumsum(np.ceil(gpus[mine]).astype(np.int64))]) for _, mine in bids]
        values = [apps.values(app, mine, j, turn) for app, mine in bids]
        chosen, keeps = auction(sizes, values, int(left[j]))
        for (_, mine), bundle, part in zip(bids, chosen, keeps, strict=True):
            budget = part * gpus[mine[:bundle]].sum()
            for m in mine[:bundle].tolist():
                if gpus[m] <= budget + 1e-9 or (self.params.rounding == "chance" and view.rng.random() < budget / gpus[m]):
                    turn[m] = j
                    left[j] -= gpus[m]
                budget = max(budget - gpus[m], 0.0)

    def _leftover(self, view: View, apps: Apps, bidders: Ints, by_speed: list[int], turn: Ints, left: Floats) -> None:
        jobs = view.jobs
        by_chance = view.rng.permutation(len(apps.elapsed_s))[apps.app]
        for m in np.lexsort((np.arange(len(jobs)), by_chance, ~jobs.running, np.isin(apps.app, bidders))).tolist():
            for j in sorted(by_speed, key=lambda j: view.held_type[m] != j):
                if turn[m] == NO_TURN and view.rates[m, j] > 0 and jobs.gpus[m] <= left[j]:
                    turn[m] = j
                    left[j] -= jobs.gpus[m]


@dataclass(frozen=True)
class Apps:
    """Who bids: a number an app, and what its rho is made of."""

    app: Ints  # of each job
    elapsed_s: Floats  # of each app
    ideal_s: Floats
    left_gpu_s: Floats
    gpus: Floats  # of each job
    speed: Floats  # (jobs, types), 1 = its fastest type

    @classmethod
    def of(cls, view: View, memory: Memory, ideal: str) -> Apps:
        jobs, now_s = view.jobs, view.now_s
        labels = jobs.table.app.codes[jobs.row]
        _, app = np.unique(np.where(labels >= 0, labels, len(jobs.table.app.names) + jobs.seq), return_inverse=True)
        memory["apps_s"] += memory["apps"] * (now_s - memory["at_s"])  # apps x seconds so far
        memory["at_s"], memory["apps"] = now_s, int(app.max(initial=-1)) + 1
        left_s = view.oracle.remaining_s if jobs.estimates is None else jobs.remaining_s
        new = np.isnan(memory["work_s"][jobs.seq])
        memory["work_s"][jobs.seq[new]], memory["apps_before_s"][jobs.seq[new]] = left_s[new], memory["apps_s"]
        born_s, apps = np.full(memory["apps"], np.inf), memory["apps"]
        np.minimum.at(born_s, app, jobs.submit_s)
        before_s = np.full(apps, np.inf)
        np.minimum.at(before_s, app, memory["apps_before_s"][jobs.seq])
        elapsed_s = now_s - born_s
        contending = np.where(elapsed_s > 0, (memory["apps_s"] - before_s) / np.where(elapsed_s > 0, elapsed_s, 1.0), float(apps))
        contending = np.maximum(contending, 1.0)
        work_gpu_s, usable, left_gpu_s = (np.bincount(app, column, apps).astype(np.float64) for column in (
            memory["work_s"][jobs.seq] * jobs.gpus, jobs.gpus, np.maximum(left_s, 1e-9) * jobs.gpus))  # fmt: skip
        total = sum(view.capacity_gpus.values())
        ideal_s = ideal_time(work_gpu_s, usable, total, contending, ideal)
        speed = view.rates / jobs.state["alone_rate"][:, None]
        return cls(app, elapsed_s, np.maximum(ideal_s, 1e-9), left_gpu_s, jobs.gpus, speed)

    def rho(self, runs: NDArray[np.bool_]) -> Floats:
        """Of each app, if these jobs ran on their fastest type."""
        speed = np.bincount(self.app, self.gpus * self.speed.max(axis=1, initial=0.0) * runs, len(self.elapsed_s))
        return (self.elapsed_s + self.left_gpu_s / np.maximum(speed, 1e-300)) / self.ideal_s

    def values(self, app: int, mine: Ints, j: int, turn: Ints) -> Floats:
        """V with none, one, two... of these jobs on this type, beside what the app holds."""
        holds = np.flatnonzero((self.app == app) & (turn != NO_TURN))
        more = np.concatenate([[0.0], np.cumsum(self.gpus[mine] * self.speed[mine, j])])
        speed = (self.gpus[holds] * self.speed[holds, turn[holds]]).sum() + more
        return value(float(self.elapsed_s[app]), float(self.left_gpu_s[app]), speed, float(self.ideal_s[app]))


def ideal_time(work_gpu_s: Floats, usable_gpus: Floats, gpus: float, apps: Floats, reading: str = "share") -> Floats:
    if reading == "slots":
        return apps * work_gpu_s / np.minimum(gpus, usable_gpus)
    return work_gpu_s / np.minimum(gpus / apps, usable_gpus)


def value(elapsed_s: float, left_gpu_s: float, speed: Floats, ideal_s: float) -> Floats:
    """1 / rho at these speeds, in GPUs at full rate; 0 where nothing runs."""
    with np.errstate(divide="ignore"):
        return ideal_s / (elapsed_s + left_gpu_s / speed)


# ------------------------------------------------------------------------------------------------- the auction


def auction(sizes: Sequence[Ints], values: Sequence[Floats], gpus: int) -> tuple[list[int], list[float]]:
    """Of each bidder: the number of the bundle it wins, and the part of it that it keeps. Bundle 0 is nothing."""
    chosen = best(sizes, values, gpus)
    winners = [i for i, bundle in enumerate(chosen) if values[i][bundle] > 0]
    before, after = [tables([sizes[i] for i in some], [values[i] for i in some], gpus) for some in (winners, winners[::-1])]
    chosen_log = {i: float(np.log(values[i][chosen[i]])) for i in winners}
    keeps, total = [0.0] * len(sizes), sum(chosen_log.values())
    for at, i in enumerate(winners):
        others = before[at] + after[len(winners) - 1 - at][::-1]  # those before it on g GPUs, those after it on the rest
        without = float(others.max()) - (len(winners) - 1) * EACH
        keeps[i] = min(float(np.exp(total - chosen_log[i] - without)), 1.0)
    return chosen, keeps


EACH = 1e6  # what one more app with V > 0 counts, above any sum of logarithms


def tables(sizes: Sequence[Ints], values: Sequence[Floats], gpus: int) -> list[Floats]:
    """The score of the first 0, 1, 2... bidders on at most g GPUs."""
    rows = [np.zeros(gpus + 1)]
    for size, value_of in zip(sizes, values, strict=True):
        row = np.full(gpus + 1, -np.inf)
        for g, score in zip(size.tolist(), scores(value_of).tolist(), strict=True):
            if g <= gpus:
                np.maximum(row[g:], rows[-1][: gpus + 1 - g] + score, out=row[g:])
        rows.append(row)
    return rows


def scores(value_of: Floats) -> Floats:
    return np.where(value_of > 0, EACH + np.log(np.where(value_of > 0, value_of, 1.0)), 0.0)


def best(sizes: Sequence[Ints], values: Sequence[Floats], gpus: int) -> list[int]:
    """Bundles of the largest score; of equal ones the smaller bundle of the later bidder."""
    rows, chosen, left = tables(sizes, values, gpus), [], gpus
    for i in reversed(range(len(sizes))):
        fits = np.flatnonzero(sizes[i] <= left)
        score = rows[i][left - sizes[i][fits]] + scores(values[i][fits])
        bundle = int(fits[np.argmax(score)])
        chosen.append(bundle)
        left -= int(sizes[i][bundle])
    return chosen[::-1]
