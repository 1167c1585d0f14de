"""PAI: Alibaba's machine-learning platform, 2020; tasks of many instances, most of them on a part of a GPU.

Weng et al., "MLaaS in the Wild: Workload Analysis and Scheduling in Large-Scale Heterogeneous GPU Clusters", NSDI 2022.
Its trace was not at hand; what the paper's text and its simulator's published log do not give is measured on openb, the
trace of a later Alibaba cluster (Weng et al., ATC 2023: cluster-trace-gpu-v2023, pods with GPUs), and says so.

Not here: queues and how jobs end, of which we could confirm no number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainmaster.workload.jobs import Floats
from trainmaster.workload.synth import helios
from trainmaster.workload.synth.marginals import DAY_S, LognormalRunTimes, Marginals, Rhythm, Rng, Users, pick


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceGangs:
    """A task is `instances` times one request. A gang takes whole GPUs, so its sum is rounded up; one instance is not."""

    requests: tuple[float, ...]
    request_counts: tuple[float, ...]
    single_tasks: float  # the share of tasks with one instance
    instances: tuple[int, ...]  # of the others
    instance_weights: tuple[float, ...]

    def draw(self, rng: Rng, rows: int, max_gang: int) -> Floats:
        """A gang that is too large becomes `max_gang`."""
        request = np.asarray(self.requests)[pick(rng, self.request_counts, rows)]
        single = rng.random(rows) < self.single_tasks
        instances = np.asarray(self.instances)[pick(rng, self.instance_weights, rows)]
        return np.minimum(np.where(single, request, np.ceil(instances * request)), max_gang)


# openb, measured: 7,064 pods with GPUs. Its 95th percentile is one GPU, as section 3.2 has it for PAI; its median is one
# GPU too, where PAI's was half of one or less (both of PAI's restated by a lecture on the paper).
REQUESTS = {0.05: 7, 0.11: 24, 0.14: 1, 0.16: 74, 0.22: 62, 0.23: 140, 0.27: 4, 0.29: 1, 0.32: 328, 0.33: 7, 0.35: 6, 0.37: 47, 0.44: 2,
            0.46: 128, 0.47: 750, 0.48: 19, 0.55: 72, 0.59: 75, 0.65: 253, 0.81: 1078, 1.0: 3911, 2.0: 16, 4.0: 15, 8.0: 44}  # fmt: skip

# Section 3: 1.2 million tasks, 7.5 million instances, 85 % of them gang-scheduled. So the other 15 %, alone in their tasks,
# are 1.125 million tasks, and 75,000 tasks hold 85 instances each in the mean. Powers of two up to 256 with equal weights,
# and of 512 what makes the mean 85: the shape is ours. Every instance is taken to need the GPUs of its request.
TASKS, INSTANCES, GANG_SCHEDULED = 1.2e6, 7.5e6, 0.85
POWERS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
POWER_WEIGHTS = (*(0.1191,) * 8, 0.0474)

# openb, measured: 6,329 pods created in its last 30 days, by hour of its own clock, whose zero is not told.
HOURS = (1.39, 1.24, 1.0, 1.33, 1.19, 0.98, 0.87, 0.94, 0.74, 0.48, 0.69, 0.67,
         0.51, 0.44, 0.41, 0.55, 0.95, 1.35, 1.65, 1.44, 1.14, 1.32, 1.2, 1.52)  # fmt: skip

MARGINALS = Marginals(
    source="Weng et al., NSDI 2022, and openb",
    cluster="128x8",  # PAI had 6,742 GPUs; large enough here for its gangs
    mean_gpu_s=27_000,  # of this file's own marginals
    gangs=InstanceGangs(
        requests=tuple(REQUESTS),
        request_counts=tuple(REQUESTS.values()),
        single_tasks=INSTANCES * (1 - GANG_SCHEDULED) / TASKS,
        instances=POWERS,
        instance_weights=POWER_WEIGHTS,
    ),
    # Mean 5,038.7 s: the log of the simulator published with the trace, 20,000 jobs, average JCT less average wait. Median
    # 655 s: openb, measured. A lognormal through both has its 90th and 95th percentiles at 8,700 and 18,200 s; openb's
    # are at 7,387 and 16,987 s. "Seconds to weeks" (section 3.1): the cut-off, which hardly ever acts.
    run_times=LognormalRunTimes(median_s=655.0, sigma=2.02, longest_s=30 * DAY_S),
    # Over 1,300 users (section 3). The top 5 % submit 77 % of instances (remembered, unconfirmed): Zipf's exponent.
    users=Users(a_queue=1_300, exponent=1.2),
    rhythm=Rhythm(hours=HOURS, weekdays=helios.WEEKDAYS),  # openb is too short for a week of its own
)
