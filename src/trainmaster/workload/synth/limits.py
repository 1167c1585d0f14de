"""Time limits as users give them: round, and too long.

No deep-learning trace publishes limits, so the batch systems' literature stands in.

round      20 values make up about 90 % of all estimates: Tsafrir, Etsion and Feitelson, "Modeling User Runtime Estimates",
           JSSPP 2005, abstract. Here they are all of them; which 20 is ours, as limits of days are usual for training.
too long   run time / limit is spread evenly over 0..1 for jobs that end well: Mu'alem and Feitelson, IEEE TPDS 12(6), 2001
           (remembered, unconfirmed). A job that was killed or failed had been given the limit of its whole run, and
           ended at a point of it that is uniform too: an assumption.
"""

from __future__ import annotations

import numpy as np

from trainmaster.workload.jobs import Floats, Labels
from trainmaster.workload.synth.marginals import DAY_S, HOUR_S, Rng

ROUND_LIMITS_S = np.array(
    [minutes * 60.0 for minutes in (5, 10, 15, 30)]
    + [hours * HOUR_S for hours in (1, 2, 3, 4, 6, 8, 12, 18)]
    + [days * DAY_S for days in (1, 2, 3, 5, 7, 14, 30, 60)]  # the last is above every run time drawn
)


def draw_limits(rng: Rng, work: Floats, status: Labels) -> Floats:
    """A limit of at least its work for every job."""
    accuracy, ended_at = 1.0 - rng.random((2, len(work)))  # in (0, 1]
    whole_run_s = np.where(status.codes > 0, work / ended_at, work)
    wanted_s = np.minimum(whole_run_s / accuracy, ROUND_LIMITS_S[-1])
    return ROUND_LIMITS_S[np.searchsorted(ROUND_LIMITS_S, wanted_s, side="left")]
