"""The states of the random number generators of a process, as JSON: Python's, NumPy's and PyTorch's, those that are loaded.

JSON and not pickle: a checkpoint is read from a folder that others may be able to write.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from typing import Any

State = dict[str, Any]


def capture(generators: Sequence[Any] = ()) -> State:
    """`generators`: torch.Generator objects beside the global ones, in an order that a resumed run repeats."""
    state: State = {}
    if random := sys.modules.get("random"):
        version, words, gauss = random.getstate()
        state["python"] = [version, list(words), gauss]
    if numpy := sys.modules.get("numpy"):
        kind, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
        state["numpy"] = [kind, keys.tolist(), int(position), int(has_gauss), float(cached)]
    if torch := sys.modules.get("torch"):
        state["torch"] = _text(torch.get_rng_state())
        if torch.cuda.is_initialized():
            state["cuda"] = [_text(one) for one in torch.cuda.get_rng_state_all()]
    state["generators"] = [_text(generator.get_state()) for generator in generators]
    return state


def restore(state: State, generators: Sequence[Any] = ()) -> None:
    if "python" in state:
        import random

        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
    if "numpy" in state and (numpy := sys.modules.get("numpy")):
        kind, keys, position, has_gauss, cached = state["numpy"]
        numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    if "torch" in state and (torch := sys.modules.get("torch")):
        torch.set_rng_state(_tensor(torch, state["torch"]))
        if torch.cuda.is_available():
            for device, text in zip(range(torch.cuda.device_count()), state.get("cuda", ()), strict=False):
                torch.cuda.set_rng_state(_tensor(torch, text), device)
        for generator, text in zip(generators, state["generators"], strict=False):
            generator.set_state(_tensor(torch, text))


def _text(state: Any) -> str:
    return base64.b64encode(bytes(state.tolist())).decode("ascii")


def _tensor(torch: Any, text: str) -> Any:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
