"""Who is entitled to which GPUs: a fair share of every type by tickets, then traded at the second price.

Chaudhary et al., "Balancing Efficiency and Fairness in Heterogeneous GPU Clusters for Deep Learning", EuroSys 2020, section 4.

    share    of each type by tickets, no user more than its jobs can use; what one cannot use goes to the others. The fastest type is
             shared first, so that who needs little has it there
    trade    buyer = the user with the highest speed-up fast / slow that holds slow GPUs, seller = the lowest that holds fast ones;
             price = the next speed-up below the buyer's; fast GPUs traded = min(seller's fast, buyer's slow / price)

A price between both speed-ups costs nobody anything: the seller gets at least as much work out of what it is paid. That holds only
for GPUs that it can use, so a trade also ends where the seller holds as many as its jobs ask for. Whose speed-up is not known
does not trade. Not strategy-proof (who understates its speed-up may gain), and nobody claims it; the last buyer pays what the
seller's speed-up is, so that with two users the seller gains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Floats

NOTHING = 1e-9  # GPUs: less is held by nobody


def water_fill(amount: float, weight: Floats, most: Floats) -> Floats:
    """Parts of an amount by weight, none above its most; what one leaves goes to the others."""
    order = np.argsort(most / weight, kind="stable")
    full = most[order] / weight[order]  # the level at which each has its most
    before = np.concatenate([[0.0], np.cumsum(most[order][:-1])])
    level = (amount - before) / np.cumsum(weight[order][::-1])[::-1]  # if all from this one on share alike
    short = np.flatnonzero(level < full)
    return np.minimum(most, weight * (max(level[short[0]], 0.0) if len(short) else np.inf))


def fair_shares(gpus: Floats, weight: Floats, usable: Floats, demand: Floats, fastest_first: Sequence[int]) -> Floats:
    """(users, types) GPUs: `usable` by each user's jobs on each type, `demand` of all its jobs together."""
    holds = np.zeros(usable.shape)
    for j in fastest_first:
        holds[:, j] = water_fill(gpus[j], weight, np.minimum(usable[:, j], demand - holds.sum(axis=1)).clip(0.0))
    return holds


def trade(holds: Floats, gain: Floats, demand: Floats, fastest_first: Sequence[int]) -> Floats:
    """(users, types) GPUs after trading; gain[u, slow, fast] = how much faster user u's jobs run, 0 = not known.

    Of more than two types every pair is traded: the slower from the slowest up, the faster from the fastest down.
    """
    holds = holds.copy()
    for at, slow in enumerate(reversed(fastest_first)):
        for fast in fastest_first[: len(fastest_first) - at - 1]:
            _trade_pair(holds, gain[:, slow, fast], demand, slow, fast)
    return holds


def _trade_pair(holds: Floats, gain: Floats, demand: Floats, slow: int, fast: int) -> None:
    while True:
        room = demand - holds.sum(axis=1)
        buyers = np.flatnonzero((gain > 0) & (holds[:, slow] > NOTHING) & ((gain >= 1) | (room > NOTHING)))
        sellers = np.flatnonzero((gain > 0) & (holds[:, fast] > NOTHING) & ((gain <= 1) | (room > NOTHING)))
        if not len(buyers) or not len(sellers):
            return
        buyer, seller = buyers[np.argmax(gain[buyers])], sellers[np.argmin(gain[sellers])]
        if gain[seller] >= gain[buyer]:
            return
        price = gain[np.setdiff1d(np.append(buyers, seller), [buyer])].max()
        traded = min(holds[seller, fast], holds[buyer, slow] / price)
        if price != 1:  # who is paid in more GPUs than it gives needs room for them
            paid = seller if price > 1 else buyer
            traded = min(traded, room[paid] / abs(price - 1))
        if traded <= NOTHING:
            return
        holds[[seller, buyer], fast] += -traded, traded
        holds[[seller, buyer], slow] += traded * price, -traded * price


def by_job(holds: Floats, runs: NDArray[np.bool_], gang: Floats, fastest_first: Sequence[int], rank: Floats) -> Floats:
    """(jobs, types): one user's GPUs over its jobs, equal parts but none above its gang, split over as few types as can be.

    `rank[m, j]`: who takes of type j first. A job that is entitled to one type alone need not move.
    """
    left, given = water_fill(float(holds.sum()), np.ones(len(gang)), gang), np.zeros(runs.shape)
    for j in fastest_first:
        order = np.argsort(np.where(runs[:, j], rank[:, j], np.inf), kind="stable")
        order = order[runs[order, j]]
        before = np.cumsum(left[order]) - left[order]
        given[order, j] = np.clip(holds[j] - before, 0.0, left[order])
        left[order] -= given[order, j]
    return given
