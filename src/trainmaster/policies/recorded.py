"""The trace's own schedule: every job starts when it really did, at restart cost 0.

    offered   at its recorded start, or when it is eligible if that is later or was not recorded
    order     recorded start, then submission; what does not fit is passed over and starts as soon as its GPUs are free

The real cluster may have been another one (nodes down, GPUs shared, limits of its own), so some jobs do not find their GPUs
free here: the run says how many, and by how much. A start recorded before its job was eligible (clocks of two machines, a
job that was submitted again) becomes a start when it is eligible, and is counted too.
"""

from __future__ import annotations

import numpy as np

from trainmaster.errors import ParamError
from trainmaster.policies.base import EngineRules, Floats, ListPolicy, NoParams, key_function, policy
from trainmaster.workload.jobs import JobTable


@key_function
def by_offer(jobs, rows, n, now_s, params, shared, per_job, out):
    for i in range(n):
        out[i, 0] = jobs[rows[i]].arrive_s
        out[i, 1] = 0.0
        out[i, 2] = 0.0


@policy(name="recorded", paper="the trace itself", params=NoParams)
class Recorded(ListPolicy[NoParams]):
    preemptive = False
    key = by_offer
    rules = EngineRules(restart_cost_s=0.0)

    def not_before_s(self, jobs: JobTable) -> Floats:
        if len(jobs) and np.isnan(jobs.recorded_start_s).all():
            raise ParamError(f"--policy: {self.name} replays the trace's own starts, and no job of this trace has one")
        return np.fmax(jobs.recorded_start_s, jobs.eligible_s)

    def notes(self, jobs: JobTable, start_s: Floats) -> list[str]:
        """How far the replay is from the record."""
        recorded, early = ~np.isnan(jobs.recorded_start_s), jobs.recorded_start_s < jobs.eligible_s
        ran = np.flatnonzero(recorded & ~np.isnan(start_s))
        behind_s = start_s[ran] - np.fmax(jobs.recorded_start_s, jobs.eligible_s)[ran]
        late_s = behind_s[behind_s > 0]
        said = f"{len(late_s):,} of {len(ran):,} jobs did not find their GPUs free at their recorded start"
        if len(late_s):
            said += f", and started later by {late_s.mean():,.0f} s on average, {late_s.max():,.0f} s at most"
        lines = [said]
        for which, what in ((early, "were recorded as started before they were eligible"), (~recorded, "have no recorded start")):
            if which.any():
                lines.append(f"{int(which.sum()):,} jobs {what}; they start when eligible")
        return lines
