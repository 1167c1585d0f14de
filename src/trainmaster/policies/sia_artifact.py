"""What the Sia artifact's simulator does to every job, and how it runs Gavel (siasosp23/artifacts, commit aaf7a0d).

Its authors fitted it to their testbed: applications run slower than their profile says, and a start costs each its own time. Its
Gavel has these factors too, so none of its completion times compare with those of other simulators. They differ from Gavel's own
artifact in its rounds: shares are solved anew in each, a claim is share / (time a job ever got on the type / time all got there),
all types are served in one order, and who has no claim takes what is left by arrival.
"""

from __future__ import annotations

import numpy as np

from trainmaster.policies.base import Decision, EngineRules, Memory, View
from trainmaster.policies.turns import NO_TURN, Solve, give, lines

SOURCE = "siasosp23/artifacts, commit aaf7a0d"
RULES = EngineRules(
    due_grid_s=1.0,
    slowdown={"cifar10": 1.8, "ncf": 1.5, "imagenet": 1.2, "yolov3": 1.2, "bert": 1.2, "deepspeech2": 1.2},
    restart_s={"cifar10": 50.0, "ncf": 15.0, "imagenet": 250.0, "yolov3": 80.0, "bert": 120.0, "deepspeech2": 25.0},
)
DIGITS = 5  # of a share


def round_of_gavel(view: View, memory: Memory, solve: Solve, round_s: float) -> Decision:
    """One round. `memory["jobs"]` bounds seq; "got_s": seconds by job and type, half a round to begin with."""
    jobs, seq, types = view.jobs, view.jobs.seq, len(view.capacity_gpus)
    got_s = memory.setdefault("got_s", np.full((memory["jobs"], types), np.nan))
    turn = memory.setdefault("turn", np.full(memory["jobs"], NO_TURN))
    held = np.flatnonzero(turn != NO_TURN)
    got_s[held, turn[held]] += view.now_s - memory.get("at_s", 0.0)
    memory["at_s"] = view.now_s
    turn[held] = NO_TURN
    if not len(seq):
        return Decision()
    got_s[seq] = np.where(np.isnan(got_s[seq]), round_s / 2, got_s[seq])
    claim = np.round(solve(view, memory).alone, DIGITS) / (got_s[seq] / np.nansum(got_s, axis=0))
    job, type_ = np.meshgrid(np.arange(len(seq)), np.arange(types), indexing="ij")
    order = np.lexsort([job.ravel(), type_.ravel(), -claim.ravel()])
    order = order[view.rates.ravel()[order] > 0]
    chosen, left = np.full(len(seq), NO_TURN), np.array(list(view.capacity_gpus.values()))
    give(chosen, left, jobs.gpus, job.ravel()[order], type_.ravel()[order])
    turn[seq] = chosen
    return Decision(lines=lines(view, chosen), lease_s=round_s)
