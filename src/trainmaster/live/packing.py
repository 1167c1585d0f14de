"""Policy memory for the store: arrays by seq are kept for the active jobs alone, so that a decision writes what it is about."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.live.store.memory import decode, encode
from trainmaster.policies.base import Memory, Policy


def pack(memory: Memory, active: NDArray[np.int64], seq_bound: int) -> bytes:
    """`seq_bound`: the length of arrays by seq."""
    packed: dict[str, Any] = {"seq": active}
    for name, value in memory.items():
        by_seq = isinstance(value, np.ndarray) and value.ndim > 0 and len(value) == seq_bound
        packed[name] = {"by_seq": value[active]} if by_seq else {"whole": value}
    return encode(packed)


def unpack(body: bytes, policy: Policy[Any], seq_bound: int) -> Memory:
    """Jobs that were not active then have what a fresh memory gives them."""
    packed = decode(body)
    seq = packed.pop("seq")
    fresh = policy.start_memory(seq_bound)
    known = seq < seq_bound
    memory: Memory = {}
    for name, value in packed.items():
        if "whole" in value:
            memory[name] = value["whole"]
        else:
            memory[name] = fresh[name].copy()
            memory[name][seq[known]] = value["by_seq"][known]
    return memory
