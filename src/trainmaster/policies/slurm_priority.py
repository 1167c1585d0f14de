"""A job's priority as Slurm's priority/multifactor makes it, and the usage that its fair share rests on.

https://slurm.schedmd.com/priority_multifactor.html, fair_tree.html and slurm.conf(5), release 22.05.

    priority   = sum of weight x factor, + the job's own `priority` (that is -nice), rounded down, at least 1
    age          seconds since it was eligible / PriorityMaxAge, at most 1
    job size     (nodes / all nodes + CPUs / all CPUs) / 2; PriorityFavorSmall: 1 - that; SMALL_RELATIVE_TO_TIME: by the minute of its limit
    partition    PriorityJobFactor / the largest of any partition
    QOS          its QOS' priority / the largest of any QOS
    TRES         for each type, asked / what the job's partition has
    fair share   of (account, user), from the usage U decayed with PriorityDecayHalfLife, and shares S:
                 NO_FAIR_TREE: 2^(-U_E / S / FairShareDampeningFactor), U_E(user) = U + (U(account) - U) x its share among its siblings
                 fair tree: rank / users, in the order of S / U (U and S among siblings) of accounts, then of users inside each;
                 equals share a rank, and accounts that are equal are one

Age and usage are those of the last whole PriorityCalcPeriod, as slurmctld recomputes priorities only then; a new job gets its own at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Floats

Ints = NDArray[np.int64]
Who = tuple[str, str]  # account, user

FACTORS = ("age", "fairshare", "job_size", "partition", "qos", "tres")  # in the order in which `sprio` prints them


@dataclass(frozen=True, slots=True)
class Sizes:
    """What jobs ask for, beside what there is."""

    nodes: Floats
    cpus: Floats
    limit_min: Floats
    all_nodes: float
    all_cpus: float


def job_size(sizes: Sizes, favor_small: bool, relative_to_time: bool) -> Floats:
    if relative_to_time:
        cpus = np.maximum(sizes.nodes * sizes.all_cpus / sizes.all_nodes, sizes.cpus)
        factor = cpus / np.maximum(sizes.limit_min, 1.0) / sizes.all_cpus
    else:
        factor = (sizes.nodes / sizes.all_nodes + sizes.cpus / sizes.all_cpus) / 2
    return 1.0 - factor if favor_small else factor


def age(waited_s: Floats, most_s: float) -> Floats:
    return np.clip(waited_s / most_s, 0.0, 1.0) if most_s > 0 else np.ones(len(waited_s))


def relative(value: Mapping[str, float], names: Sequence[str], missing: float) -> Floats:
    """Values by name, divided by the largest of all; `missing`: that of a name which is not among them."""
    most = max([*value.values(), missing], default=0.0)
    return np.array([value.get(name, missing) for name in names]) / most if most > 0 else np.zeros(len(names))


# ------------------------------------------------------------------------------------------------- usage


def decayed(usage: Floats, rate: Floats, passed_s: float, half_life_s: float) -> Floats:
    """Usage after `passed_s` seconds in which each grew by `rate` a second; half of it is left after a half-life (0 = all)."""
    if half_life_s <= 0 or np.isinf(half_life_s):
        return usage + rate * passed_s
    decay = np.log(2.0) / half_life_s
    left = np.exp(-decay * passed_s)
    return usage * left + rate * (1.0 - left) / decay


# ------------------------------------------------------------------------------------------------- fair share


def fair_share(who: Sequence[Who], usage: Floats, shares: Mapping[str, float], dampening: float, tree: bool) -> Floats:
    """The factor of each (account, user). `shares`: of "ACCOUNT" or "ACCOUNT/USER"; 1 where it says nothing."""
    if not who:
        return np.zeros(0)
    names = sorted({account for account, _ in who})
    account = np.array([names.index(name) for name, _ in who])
    of_account = np.array([shares.get(name, 1.0) for name in names])
    of_user = np.array([shares.get(f"{name}/{user}", 1.0) for name, user in who])
    used_by_account = np.bincount(account, usage, len(names)).astype(np.float64)
    account_share = _part(of_account, np.full(len(names), of_account.sum()))
    user_share = _part(of_user, np.bincount(account, of_user, len(names)).astype(np.float64)[account])
    if tree:
        account_level = _level(account_share, _part(used_by_account, np.full(len(names), used_by_account.sum())))
        user_level = _level(user_share, _part(usage, used_by_account[account]))
        return _ranks(account_level[account], user_level)
    total = np.full(len(who), usage.sum())
    own, of_parent = _part(usage, total), _part(used_by_account[account], total)
    effective = own + (of_parent - own) * user_share
    share = user_share * account_share[account]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share > 0, 2.0 ** -(effective / share / dampening), 0.0)


def _part(value: Floats, whole: Floats) -> Floats:
    return np.divide(value, whole, out=np.zeros(len(value)), where=whole > 0)


def _level(share: Floats, used: Floats) -> Floats:
    """S / U: who has used nothing is before all."""
    with np.errstate(over="ignore"):  # next to nothing: as good as nothing
        return np.where(share <= 0, 0.0, np.divide(share, used, out=np.full(len(share), np.inf), where=used > 0))


def _ranks(account_level: Floats, user_level: Floats) -> Floats:
    """rank / users: down the tree, the largest level first; equal users share the rank of the first of them."""
    users = len(user_level)
    order = np.lexsort((-user_level, -account_level)).tolist()
    factor, left = np.zeros(users), users
    for _, equal in groupby(order, key=lambda user: (account_level[user], user_level[user])):
        together = list(equal)
        factor[together] = left / users
        left -= len(together)
    return factor
