"""Saving and loading what a PyTorch script trains: one file an object that has `state_dict()` and `load_state_dict()`.

Files are read with `weights_only=True`: a checkpoint cannot run code. What would not come back so is refused when it is registered.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from trainmaster.errors import InputError


def unwrapped(thing: Any) -> Any:
    """A checkpoint fits with DistributedDataParallel and without."""
    parallel = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    return thing.module if isinstance(thing, parallel) else thing


class States:
    """`objects`: name -> model, optimizer, scheduler, scaler, or anything else with the two methods."""

    def __init__(self, objects: dict[str, Any]) -> None:
        for name, thing in objects.items():
            if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
                raise InputError(f"torch_checkpoint: {name}: {type(thing).__name__} has no state_dict() and load_state_dict()")
        self.objects = {name: unwrapped(thing) for name, thing in objects.items()}

    def check(self) -> None:
        """A state that saves but does not load would lose the run at its first resume: say so before it starts."""
        for name, thing in self.objects.items():
            if isinstance(thing, torch.nn.Module):
                continue  # tensors, and large
            file = io.BytesIO()
            torch.save(thing.state_dict(), file)
            file.seek(0)
            try:
                torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # pickle.UnpicklingError, and whatever a state of an unknown class raises
                reason = str(error).partition("Unsupported")[2].partition("\n")[0] or type(error).__name__
                raise InputError(f"torch_checkpoint: {name}: its state_dict() holds more than tensors and plain values:{reason}") from None

    def save(self, folder: Path) -> None:
        for name, thing in self.objects.items():
            with open(folder / f"{name}.pt", "wb") as file:  # an own file: a full disk is then an OSError, not PyTorch's RuntimeError
                torch.save(thing.state_dict(), file)

    def load(self, folder: Path) -> None:
        for name, thing in self.objects.items():
            thing.load_state_dict(torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True))
