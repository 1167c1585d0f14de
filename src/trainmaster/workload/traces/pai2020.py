"""PAI: input of the simulator of Alibaba's cluster-trace-gpu-v2020 (Weng et al., NSDI 2022), one CSV.

becomes   submit_time -> submit_s;  num_gpu x num_inst -> gpus, fractions of a GPU allowed;  num_cpu x num_inst -> cpus;
          duration -> work, seconds at those GPUs, 0 becoming 1 as in its simulator;  user, group -> user, account;
          wait_time -> recorded_start_s and recorded_end_s
          user_dur, user_gpu_dur, group_dur, group_gpu_dur -> estimates of the run time, under these names
skipped   asks for nothing (no GPU, no CPU)
absent    model. gpu_type (CPU, MISC, T4, P100, V100) is what a job ran on; its simulator ignores it unless told otherwise,
          so no job is bound to a type here.

Several instances of a fraction of a GPU (0.5 x 3) fit only where fractions may span GPUs: a node that is `pooled`, as the
one big node of its simulator is. Its simulator rounds GPUs and CPUs to hundredths; here they keep a thousandth.
"""

import numpy as np

from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "pai2020"
COLUMNS = ("num_gpu", "submit_time", "duration")
OWN = {"num_inst", "num_cpu", "user_dur", "group_dur", "group_gpu_dur"}
ESTIMATES = ("user_dur", "user_gpu_dur", "group_dur", "group_gpu_dur")


def sniff(head: Head) -> bool:
    return head.csv_columns >= set(COLUMNS) and bool(head.csv_columns & OWN)


def read(source: Source) -> Trace:
    rows = source.csv(COLUMNS)
    instances = rows.ints("num_inst", default=1, at_least=1, at_most=MOST_GPUS)
    gpus = rows.floats("num_gpu", default=0, at_least=0, at_most=MOST_GPUS) * instances
    cpus = rows.floats("num_cpu", default=0, at_least=0) * instances
    submit_s = rows.floats("submit_time", at_least=0)
    duration_s = np.maximum(rows.floats("duration", at_least=0), 1)
    start_s = submit_s + rows.floats("wait_time", default=np.nan, at_least=0)
    rows.skip_empty(gpus, cpus)
    return rows.trace(
        FORMAT,
        ids="job_id",
        submit_s=submit_s,
        gpus=gpus,
        cpus=cpus,
        work=duration_s,
        user=rows.labels("user"),
        account=rows.labels("group"),
        recorded_start_s=start_s,
        recorded_end_s=start_s + duration_s,
        estimates={name: rows.floats(name, default=np.nan) for name in ESTIMATES if rows.has(name)},
    )
