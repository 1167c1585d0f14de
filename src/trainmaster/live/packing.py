"""Policy memory for the store: arrays by seq are kept for the active jobs alone, so that a decision writes what it is about."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.engine.snapshot import BOUND
from trainmaster.live.store.memory import decode, encode
from trainmaster.policies.base import Memory


def pack(memory: Memory, active: NDArray[np.int64], seq_bound: int) -> bytes:
    """`seq_bound`: the length of arrays by seq; their last row is no job's."""
    packed: dict[str, Any] = {"seq": active}
    for name, value in memory.items():
        by_seq = isinstance(value, np.ndarray) and value.ndim > 0 and len(value) == seq_bound
        bound = name == BOUND and value == seq_bound
        packed[name] = {"bound": True} if bound else {"by_seq": value[active], "blank": value[-1:]} if by_seq else {"whole": value}
    return encode(packed)


def unpack(body: bytes, seq_bound: int) -> Memory:
    """Jobs that were not active then have what no job has had."""
    packed = decode(body)
    seq = packed.pop("seq")
    known = seq < seq_bound - 1
    memory: Memory = {}
    for name, value in packed.items():
        if "by_seq" in value:
            memory[name] = np.repeat(value["blank"], seq_bound, axis=0)
            memory[name][seq[known]] = value["by_seq"][known]
        else:
            memory[name] = seq_bound if "bound" in value else value["whole"]
    return memory
