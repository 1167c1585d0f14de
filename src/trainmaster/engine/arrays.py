"""Lets compiled code write `S.jobs[row]` where S is the clock record: arrays are found by the addresses it carries.

A kernel that is handed forty arrays passes three hundred values at every call, and takes minutes to compile; handed one
record it takes seconds. Python keeps the arrays alive (`State`), so nothing here counts references.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic, overload_attribute

from trainmaster.engine.state import ARRAYS, CLOCK

RECORD = from_dtype(CLOCK)


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """A void pointer from an integer address."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), build


def expose(name: str, dtype: np.dtype[Any], axes: int) -> None:
    """Make `S.name` an array in compiled code."""
    at, n0, n1, n2 = f"{name}_at", f"{name}_n0", f"{name}_n1", f"{name}_n2"

    def line(S: Any) -> Any:
        return carray(pointer(getattr(S, at)), (getattr(S, n0),), dtype)

    def plane(S: Any) -> Any:
        return carray(pointer(getattr(S, at)), (getattr(S, n0), getattr(S, n1)), dtype)

    def space(S: Any) -> Any:
        return carray(pointer(getattr(S, at)), (getattr(S, n0), getattr(S, n1), getattr(S, n2)), dtype)

    def attribute(S: Any) -> Callable[[Any], Any] | None:
        return (line, plane, space)[axes - 1] if S == RECORD else None

    overload_attribute(types.Record, name)(attribute)


for _name, (_dtype, _axes) in ARRAYS.items():
    expose(_name, _dtype, _axes)
