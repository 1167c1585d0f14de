"""Who takes part: policies with their labels and parameters.

    --policy long=tiresias-las,srtf --set long.limits_gpu_s=3600,36000
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainmaster.api.request import Contestant
from trainmaster.engine.policy_files import READERS
from trainmaster.errors import ParamError
from trainmaster.policies.base import EngineRules, Policy
from trainmaster.policies.registry import find_policy, make_policy
from trainmaster.workload.jobs import JobTable


@dataclass(frozen=True, slots=True)
class Entrant:
    """One policy, ready to run. Another process makes it again from its words: its class may live in a file of the user's."""

    label: str
    policy: Policy[Any]
    rules: EngineRules | None  # of its preset; None = the policy's own
    words: tuple[str, tuple[tuple[str, str], ...]] | None  # name and settings; None = an instance from Python

    @property
    def file(self) -> str | None:
        """The file of a policy from outside the package."""
        return self.words[0].rpartition(":")[0] if self.words and ".py:" in self.words[0] else None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.words is None:
            return Entrant, (self.label, self.policy, self.rules, None)
        return _named, (self.label, *self.words)


def entrants_of(contestants: Sequence[Contestant], settings: Sequence[str]) -> list[Entrant]:
    """In the order given; none of none. Raises ParamError for what is not known, by name; labels are unique."""
    classes = [(label, find_policy(word) if isinstance(word, str) else word) for label, word in contestants]
    labels = [label or policy.name for label, policy in classes]
    if repeated := next((label for label in labels if labels.count(label) > 1), None):
        raise ParamError(f'--policy: two policies are labelled "{repeated}"; tell them apart, e.g. a={repeated},b={repeated}')
    by_label: dict[str, dict[str, str]] = {label: {} for label in labels}
    for text in settings if labels else ():
        label, param, value = _setting(text, labels)
        by_label[label][param] = value
    found = []
    for label, (_, word) in zip(labels, contestants, strict=True):
        if isinstance(word, str):
            found.append(_named(label, word, tuple(by_label[label].items())))
        elif by_label[label]:
            raise ParamError(f"--set {label}: this policy is an instance; give its parameters where it is made")
        else:
            found.append(Entrant(label, word, None, None))
    return found


def default_contestants(jobs: JobTable) -> list[Contestant]:
    """What a trace can tell: first the baselines, and last what happened, where it is recorded."""
    words = ["fifo"]
    words += ["easy-backfill"] if not np.isnan(jobs.limit_s).any() else []
    words += ["tiresias-las", "srtf"]
    words += ["recorded"] if not np.isnan(jobs.recorded_start_s).all() else []
    return [(None, word) for word in words]


def _named(label: str, word: str, settings: tuple[tuple[str, str], ...]) -> Entrant:
    policy, preset = make_policy(find_policy(word), dict(settings), label, READERS)
    return Entrant(label, policy, preset.rules if "preset" in dict(settings) else None, (word, settings))


def _setting(text: str, labels: Sequence[str]) -> tuple[str, str, str]:
    target, equals, value = text.partition("=")
    label, dot, param = target.strip().rpartition(".")
    if not (equals and dot and label and param):
        raise ParamError(f"--set: {text!r} is not LABEL.PARAM=VALUE; e.g. --set {labels[0]}.blocking=true")
    if label not in labels:
        near = difflib.get_close_matches(label, labels, 1, 0.5)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(labels)}"
        raise ParamError(f'--set {target}: no policy here is labelled "{label}"; {hint}')
    return label, param, value
