"""Helios: SenseTime clusters of 2020 (Hu et al., SC 2021), one CSV a cluster.

becomes   submit_time -> submit_s (dated);  gpu_num -> gpus;  cpu_num -> cpus;  duration -> work, seconds at those GPUs;
          vc (virtual cluster) -> queue;  user -> user;  jobname -> name;  start_time, end_time -> recorded_start_s, recorded_end_s
skipped   asks for nothing (no GPU, no CPU);  zero-length (duration = 0: never ran)
absent    model and GPU type; state, node_num and queue (seconds waited, which the start tells) are not read
"""

import numpy as np

from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "helios"
COLUMNS = ("gpu_num", "submit_time", "duration")
LUCID = {"batchsize", "amp"}  # its traces are Helios's, with a model for each job
UNKNOWN = ("None", "NaT", "Unknown")


def sniff(head: Head) -> bool:
    return head.csv_columns >= set(COLUMNS) and not head.csv_columns & LUCID


def read(source: Source) -> Trace:
    rows = source.csv(COLUMNS)
    gpus = rows.ints("gpu_num", at_least=0, at_most=MOST_GPUS)
    cpus = rows.floats("cpu_num", default=0, at_least=0)
    duration_s = rows.floats("duration", at_least=0)
    rows.skip_empty(gpus, cpus)
    rows.skip(duration_s == 0, "zero-length")
    return rows.trace(
        FORMAT,
        ids="job_id",
        dated=True,
        submit_s=rows.timestamps("submit_time"),
        gpus=gpus,
        cpus=cpus,
        work=duration_s,
        name=rows.text("jobname"),
        user=rows.labels("user"),
        queue=rows.labels("vc"),
        recorded_start_s=rows.timestamps("start_time", default=np.nan, absent=UNKNOWN),
        recorded_end_s=rows.timestamps("end_time", default=np.nan, absent=UNKNOWN),
    )
