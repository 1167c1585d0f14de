"""The sentence at the end of a run: which policy, what it gains, who pays for it.

best       of the policies that do not cheat (oracle), the one with the least average JCT; averages over seeds if several
baseline   `recorded` if it ran, for then the question is what the operator would gain over what happened; else the first
           policy given that does not cheat
loses      of all queues and size classes, the one whose average JCT grows most in proportion, however few its jobs are;
           growth below 1 % is not worth a name
no winner  over several seeds, when the 95 % interval of the paired difference reaches zero, the sentence says so
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainmaster.metrics.readable import change, duration, number
from trainmaster.metrics.seeds import half_width

BASELINE = "recorded"
WORTH_NAMING = 1.01


@dataclass(frozen=True, slots=True)
class _Policy:
    """One label over all its seeds."""

    label: str
    name: str
    oracle: bool
    runs: tuple[Mapping[str, Any], ...]

    @property
    def avg_jct_s(self) -> float:
        return float(np.mean([run["avg_jct_s"] for run in self.runs]))

    @property
    def finished(self) -> float:
        return float(np.mean([run["finished"] for run in self.runs]))


def conclusion(runs: Sequence[Mapping[str, Any]]) -> str:
    """One sentence about summaries, in the order in which the policies were given."""
    policies = [policy for policy in _policies(runs) if not policy.oracle]
    if not policies:
        return "Every policy that finished a job here is an oracle: there is none to recommend."
    baseline = _baseline_of(policies)
    best = min(policies, key=lambda policy: policy.avg_jct_s)  # of equals, the first given
    if len(policies) == 1:
        return f"{best.label} has an average JCT of {duration(best.avg_jct_s)}; there is no other policy here that does not cheat."
    if best is baseline:
        second = min((policy for policy in policies if policy is not baseline), key=lambda policy: policy.avg_jct_s)
        if second.avg_jct_s == best.avg_jct_s:
            return f"No policy improves on {baseline.label}: {second.label} has the same average JCT, {duration(best.avg_jct_s)}."
        return (
            f"No policy improves on {baseline.label}, with an average JCT of {duration(best.avg_jct_s)}; "
            f"the nearest, {second.label}, has {duration(second.avg_jct_s)} ({change(second.avg_jct_s, best.avg_jct_s)})."
        )
    gain = (
        f"{best.label} has the least average JCT without cheating: {duration(best.avg_jct_s)} instead of "
        f"{duration(baseline.avg_jct_s)} under {baseline.label} ({change(best.avg_jct_s, baseline.avg_jct_s)})"
    )
    return f"{gain}{_fewer_finished(best, baseline)}{_doubt(best, baseline)}; {_loser(best, baseline)}."


def baseline_label(runs: Sequence[Mapping[str, Any]]) -> str | None:
    """The label that the others are compared with; None if every policy cheats or finished nothing."""
    policies = [policy for policy in _policies(runs) if not policy.oracle]
    return _baseline_of(policies).label if policies else None


def _baseline_of(policies: Sequence[_Policy]) -> _Policy:
    return next((policy for policy in policies if policy.name == BASELINE), policies[0])


def _policies(runs: Sequence[Mapping[str, Any]]) -> list[_Policy]:
    """By label, in order; without those that finished nothing."""
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_label.setdefault(run["label"], []).append(run)
    return [
        _Policy(label, same[0]["policy"], same[0]["oracle"], tuple(same))
        for label, same in by_label.items()
        if all(run["avg_jct_s"] is not None for run in same)
    ]


def _fewer_finished(best: _Policy, baseline: _Policy) -> str:
    """An average over fewer jobs is no fair comparison, and says so."""
    fewer = baseline.finished - best.finished
    return f", though it finishes {number(fewer)} jobs fewer" if fewer >= 1 else ""


def _doubt(best: _Policy, baseline: _Policy) -> str:
    """Seeds are paired: the same seed gives both policies the same jobs."""
    ours, theirs = ({run["seed"]: run["avg_jct_s"] for run in policy.runs} for policy in (best, baseline))
    gains_s = [theirs[seed] - ours[seed] for seed in ours if seed in theirs]
    if len(gains_s) < 2 or np.mean(gains_s) > half_width(gains_s):
        return ""
    return f", but over {len(gains_s)} seeds the difference is within chance"


def _loser(best: _Policy, baseline: _Policy) -> str:
    worst: tuple[float, str] = (WORTH_NAMING, "no queue or size class loses")
    for field in ("by_queue", "by_size"):
        ours, theirs = _group_jct_s(best, field), _group_jct_s(baseline, field)
        for group, (before_s, jobs) in theirs.items():
            after_s = ours.get(group, (before_s, jobs))[0]
            if before_s > 0 and after_s / before_s > worst[0]:
                who = f"jobs of queue {group or '(none)'}" if field == "by_queue" else f"jobs of {size_words(group)}"
                loss = f"{duration(after_s)} instead of {duration(before_s)} ({change(after_s, before_s)})"
                worst = (after_s / before_s, f"{who} ({number(jobs)}) lose most: {loss}")
    return worst[1]


def size_words(size: str) -> str:
    return {"cpu": "CPUs alone", "1": "1 GPU", "<1": "less than 1 GPU"}.get(size, f"{size.replace('-', '–')} GPUs")


def _group_jct_s(policy: _Policy, field: str) -> dict[str, tuple[float, float]]:
    """(average JCT, jobs) of each group, averaged over the seeds in which it finished a job."""
    found: dict[str, list[tuple[float, float]]] = {}
    for run in policy.runs:
        for group, figures in run[field].items():
            if figures["avg_jct_s"] is not None:
                found.setdefault(group, []).append((figures["avg_jct_s"], figures["jobs"]))
    averages = {group: np.mean(pairs, axis=0) for group, pairs in found.items()}
    return {group: (float(jct_s), float(jobs)) for group, (jct_s, jobs) in averages.items()}
