"""One colour a policy, the same in the terminal, the tables and every plot.

Okabe and Ito's colours, told apart by colour-blind readers, without the yellow that vanishes on white. An oracle is
dotted or hollow wherever it appears; from the ninth policy on colours come again, dashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainmaster.metrics.summary import Summary

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")


@dataclass(frozen=True, slots=True)
class Look:
    color: str
    dash: str  # of Plotly
    marker: str  # of Plotly


def looks(runs: Sequence[Summary]) -> dict[str, Look]:
    """By label, in order of appearance."""
    oracle = {run["label"]: run["oracle"] for run in runs}
    return {
        label: Look(
            color=COLORS[position % len(COLORS)],
            dash="dot" if cheats else "solid" if position < len(COLORS) else "dash",
            marker="circle-open" if cheats else "circle" if position < len(COLORS) else "diamond",
        )
        for position, (label, cheats) in enumerate(oracle.items())
    }
