"""What a decision wrote, as bytes and back: the columns from which `why` answers long after."""

from __future__ import annotations

from dataclasses import fields

from trainmaster.errors import InputError
from trainmaster.live.store import memory
from trainmaster.policies.base import DecisionRecord

NAMES = tuple(f.name for f in fields(DecisionRecord))


def encode(record: DecisionRecord) -> bytes:
    return memory.encode({name: getattr(record, name) for name in NAMES} | {"columns": dict(record.columns)})


def decode(data: bytes) -> DecisionRecord:
    values = memory.decode(data)
    if set(values) != set(NAMES):
        raise InputError(f"a decision record in the store has {sorted(values)}, not {sorted(NAMES)}: written by another version")
    return DecisionRecord(**values)
