"""Policies by their words, for a live cluster: one that needs what nobody here knows, such as when a job will end, is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from trainmaster.engine.policy_files import described
from trainmaster.errors import ParamError
from trainmaster.policies.base import EngineRules, Policy
from trainmaster.policies.registry import Readers, find_policy, make_policy

NOT_LIVE = {
    "goodput": "how fast its jobs learn by GPUs and batch size",
    "losses": "the losses of its jobs' steps",
    "work": "how much work a job has left",
}
ESTIMATES = ("user", "predicted", "limit")  # columns of live/table.py


def chosen(name: str, settings: Sequence[str], readers: Readers | None = None) -> tuple[Policy[Any], EngineRules]:
    """A policy, and what its preset asks of the engine. `settings`: PARAM=VALUE, or POLICY.PARAM=VALUE. Raises ParamError.

    `readers` open what is a file, for who started the controller; a request, which comes from anywhere, has none.
    """
    if readers is None and ".py:" in name:
        raise ParamError(f"--policy {name}: a file is loaded where the program starts (simulate, up), not for a request")
    values: dict[str, str] = {}
    for setting in settings:
        left, sign, value = setting.partition("=")
        if not sign:
            raise ParamError(f"--set {setting}: write PARAM=VALUE")
        values[left.removeprefix(f"{name}.")] = value
    cls = find_policy(name)
    policy, preset = make_policy(cls, values, name, readers)
    for need in policy.needs:
        if need in NOT_LIVE:
            raise ParamError(f"--policy {name}: it plans by {NOT_LIVE[need]}, which no live cluster knows")
    if policy.cheats():
        if not any(field.name == "estimate" for field in fields(cls.params_type)):
            raise ParamError(f"--policy {name}: it needs the true run times, which no live cluster knows")
        raise ParamError(f"--policy {name}: it would need the true run times; choose --set {name}.estimate={'|'.join(ESTIMATES)}")
    return policy, preset.rules


def parameters(policy: Policy[Any]) -> dict[str, Any]:
    return described({field.name: getattr(policy.params, field.name) for field in fields(policy.params)})
