"""Failures of nodes, from one random stream a node, so that no policy changes another's luck."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainmaster.errors import ParamError

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Times between failures of a node and to its repair are exponential; a gang falls back to its last checkpoint."""

    mtbf_s: float
    mttr_s: float
    checkpoint_s: float  # a running job checkpoints so often; 0 = never, a failure loses all since its last start

    @classmethod
    def parse(cls, text: str) -> Faults:
        """`mtbf=30d,mttr=2h,checkpoint=30m`"""
        values = {"mttr": 3600.0, "checkpoint": 0.0}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(mtbf|mttr|checkpoint)=([0-9.]+)([smhd]?)\s*", part)
            try:
                value = float(match[2]) * UNITS_S[match[3] or "s"] if match else math.nan
            except ValueError:
                value = math.nan
            if match is None or not math.isfinite(value) or (value <= 0 and match[1] != "checkpoint"):
                raise ParamError(f"--faults: {part!r} is not mtbf=, mttr= or checkpoint= with a time; e.g. mtbf=30d,mttr=2h,checkpoint=30m")
            values[match[1]] = value
        if "mtbf" not in values:
            raise ParamError("--faults: mtbf is missing; e.g. mtbf=30d,mttr=2h,checkpoint=30m")
        return cls(mtbf_s=values["mtbf"], mttr_s=values["mttr"], checkpoint_s=values["checkpoint"])

    def events(self, nodes: int, seed: int) -> Iterator[tuple[float, int, bool]]:
        """(time, node, up) without end, in order of time."""
        streams = [np.random.Generator(np.random.Philox(key=[seed, node])) for node in range(nodes)]
        coming = [(stream.exponential(self.mtbf_s), node, False) for node, stream in enumerate(streams)]
        heapq.heapify(coming)
        while coming:
            time_s, node, up = coming[0]
            yield coming[0]
            heapq.heapreplace(coming, (time_s + streams[node].exponential(self.mtbf_s if up else self.mttr_s), node, not up))
