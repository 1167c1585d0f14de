"""Key, wake-up and pick functions compiled, in the form in which the kernels take them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import typeof_impl


def no_key(jobs, rows, n, now_s, params, shared, per_job, out):  # type: ignore[no-untyped-def]
    return


def never(jobs, rows, n, now_s, params, shared, per_job):  # type: ignore[no-untyped-def]
    return np.inf


@cache
def compiled(function: Callable[..., Any], signature: Any) -> Any:
    return Handle(njit(signature, cache=True)(function), signature)


class Handle(types.WrapperAddressProtocol):
    """A compiled function whose address is looked up once, not at each of the thousand calls that hand it over."""

    def __init__(self, dispatcher: Any, signature: Any) -> None:
        compiled = dispatcher.get_compile_result(signature)
        self.address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
        self.of, self.kind, self.numba_type = dispatcher, signature, types.FunctionType(signature)

    def __wrapper_address__(self) -> int:
        return int(self.address)

    def signature(self) -> Any:
        return self.kind


@typeof_impl.register(Handle)
def _(handle: Handle, context: Any) -> Any:
    """What numba would work out anew at each of those calls, at a tenth of a millisecond."""
    return handle.numba_type
