"""A placement narrows down, step by step, which node takes (the next part of) a gang.

    pick(counts, need) -> (lo, hi)

`counts[f]` nodes have f whole GPUs free for this job; the gang still needs `need`. The next part goes to a node with
lo..hi GPUs free: the first by number, or one by chance where the placement is `random`. (0, 0) = nowhere. So a strategy is
a few lines, works on any number of nodes, and compiles.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from trainmaster.errors import ParamError


def _none(model: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Placement:
    """One strategy: its name, its rule in plain Python (the engine compiles it), and whether chance decides ties."""

    name: str
    summary: str
    pick: Callable[..., tuple[int, int]]
    random: bool = False
    consolidated: Callable[[str], bool] = _none  # models whose gangs take the fewest nodes that can hold them

    @property
    def consolidates(self) -> bool:
        return self.consolidated is not _none


def placements() -> dict[str, Placement]:
    """Every placement by name: one file of this package each."""
    package = importlib.import_module("trainmaster.placement")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        placement = getattr(importlib.import_module(f"trainmaster.placement.{module.name}"), "PLACEMENT", None)
        if placement is not None:
            found[placement.name] = placement
    return found


@cache  # an engine is made for each decision of the live cluster that jobs came before
def find_placement(name: str) -> Placement:
    known = placements()
    if name not in known:
        near = get_close_matches(name, known, 1)
        raise ParamError(f'--placement: no placement "{name}"{f"; did you mean {near[0]!r}?" if near else ""} (one of {", ".join(known)})')
    return known[name]
