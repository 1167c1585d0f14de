"""From live jobs to the engine's job table: what a policy may know of them.

Work is endless: nobody knows when a real job will end. Estimates are columns: `user`, `predicted`, `limit`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainmaster.live.estimates import Estimates
from trainmaster.live.jobs import LiveJob
from trainmaster.live.rules import Rules
from trainmaster.workload.jobs import Floats, JobTable


def table_of(jobs: Sequence[LiveJob], rules: Rules, estimates: Estimates, work: Sequence[float] | float = np.inf) -> JobTable:
    """Rows by (submission, id); `seq` is the job's id. `work`: in seconds at what each asks for, where a fork guesses it."""
    rows = [job.row for job in jobs]
    needs = [job.needs for job in jobs]
    limits = [rules.default_limit_s if row.limit_s is None else row.limit_s for row in rows]
    known = [estimates.run_time(job) for job in jobs]
    predicted = [limit if found is None else found[0] for found, limit in zip(known, limits, strict=True)]
    user = [guess if row.estimate_s is None else row.estimate_s for row, guess in zip(rows, predicted, strict=True)]
    return JobTable.build(
        id=[str(row.id) for row in rows],
        seq=[row.id for row in rows],
        name=[row.name for row in rows],
        user=[row.user for row in rows],
        account=[row.account for row in rows],
        queue=[row.queue for row in rows],
        submit_s=[row.submit_s for row in rows],
        eligible_s=[row.eligible_s for row in rows],
        work=work if isinstance(work, float) else np.asarray(work),
        gpus=[row.gpus for row in rows],
        accepts=[each.gpu_types for each in needs] if any(each.gpu_types for each in needs) else None,
        nodes=[each.nodes or 0 for each in needs],
        cpus=[each.cpus for each in needs],
        memory_gib=[each.memory_gib for each in needs],
        min_gpus=_numbers([each.min_gpus for each in needs]),
        max_gpus=_numbers([each.max_gpus for each in needs]),
        limit_s=limits,
        deadline_s=_numbers([row.deadline_s for row in rows]),
        priority=[row.priority + rules.queue(row.queue).priority - job.overuse for row, job in zip(rows, jobs, strict=True)],
        preemptible=[row.preemptible for row in rows],
        estimates={"user": user, "predicted": predicted},
    )


def _numbers(values: list[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values])
