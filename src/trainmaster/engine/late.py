"""Kernels that compile when they are first called: a run under a list policy needs few of them, and a first process waits for no other."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from numba import njit

_ALL: list[Late] = []


class Late:
    """A function with the signature it will be compiled for, once; a later process loads it from disk."""

    def __init__(self, function: Callable[..., Any], signature: Any) -> None:
        self.function, self.signature = function, signature
        self.compiled: Callable[..., Any] | None = None
        update_wrapper(self, function)
        _ALL.append(self)

    def __call__(self, *arguments: Any) -> Any:
        return (self.compiled or self.compile())(*arguments)

    def compile(self) -> Callable[..., Any]:
        self.compiled = njit(self.signature, cache=True, error_model="numpy")(self.function)
        return self.compiled


def late(signature: Any) -> Callable[[Callable[..., Any]], Late]:
    return lambda function: Late(function, signature)


def compile_all() -> None:
    """Now rather than at the first call: a controller does not let its first decision wait."""
    for kernel in _ALL:
        if kernel.compiled is None:
            kernel.compile()
