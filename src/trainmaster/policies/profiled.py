"""Speed-ups by type as jobs have shown them: what a policy may know that has no measurements from before.

Jobs of one kind (user, model and gang) are taken to be alike, as those of one hyper-parameter search are: what one of them shows on
a type tells of all. A kind that has run on one type only has no speed-up yet. Rates differ from one report to the next, so each is
smoothed; a gang that spans nodes shows what it has there, delays included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Floats, View

Ints = NDArray[np.int64]
SMOOTHING = 0.5  # weight of the newest report
Seen = dict[str, dict[str, float]]  # kind -> type -> work units a second; plain data, as it is a policy's memory


def learn(seen: Seen, view: View) -> None:
    """What jobs have shown on what they hold now."""
    types, held = list(view.capacity_gpus), view.held_type
    index = {row: i for i, row in enumerate(view.jobs.row.tolist())}
    names = kinds(view)
    for row, rate in zip(view.observed.row.tolist(), view.observed.rate.tolist(), strict=True):
        i = index.get(row, -1)
        if i >= 0 and rate > 0 and held[i] >= 0:
            rates, name = seen.setdefault(names[i], {}), types[held[i]]
            rates[name] = rate if name not in rates else rates[name] + SMOOTHING * (rate - rates[name])


def known_rates(seen: Seen, view: View) -> Floats:
    """(jobs, types) work units a second; 0 = not seen."""
    types, names = list(view.capacity_gpus), kinds(view)
    of_kind = {name: [seen.get(name, {}).get(type_, 0.0) for type_ in types] for name in set(names)}
    return np.array([of_kind[name] for name in names], np.float64).reshape(len(names), len(types))


def kinds(view: View) -> list[str]:
    table, rows = view.jobs.table, view.jobs.row
    users, models = ((*labels.names, "") for labels in (table.user, table.model))
    columns = table.user.codes[rows].tolist(), table.model.codes[rows].tolist(), view.jobs.gpus.tolist()
    return [f"{users[user]}\n{models[model]}\n{gang:g}" for user, model, gang in zip(*columns, strict=True)]


def gains(rates: Floats, user: Ints, users: int) -> Floats:
    """(users, types, types): rate on the second type / rate on the first, the geometric mean over a user's jobs that are known on both;
    0 = there are none."""
    with np.errstate(divide="ignore"):
        logs = np.log(rates)
    types, both = rates.shape[1], (rates > 0)[:, :, None] & (rates > 0)[:, None, :]
    ratio = np.where(both, logs[:, None, :] - np.where(rates > 0, logs, 0.0)[:, :, None], 0.0)
    count, total = np.zeros((users, types, types)), np.zeros((users, types, types))
    np.add.at(count, user, both)
    np.add.at(total, user, ratio)
    return np.where(count > 0, np.exp(total / np.maximum(count, 1)), 0.0)


def fastest_first(gain: Floats) -> Sequence[int]:
    """Types by how users gain from them; what nobody has shown counts as equal, and of equals the cluster's first comes first."""
    known = gain > 0
    score = np.where(known, np.log(np.where(known, gain, 1.0)), 0.0).sum(axis=(0, 1)) / np.maximum(known.sum(axis=(0, 1)), 1)
    return [int(j) for j in np.argsort(-score, kind="stable")]
