"""Muri: traces of its simulator (Zhao et al., SIGCOMM 2022), one CSV. Its times are milliseconds.

becomes   submit_time / 1000 -> submit_s;  num_gpu -> gpus;  iterations x iteration_time x 1.015 / 1000 -> work, seconds
          alone on those GPUs;  model_name -> model;  batch_size (a GPU);  priority 0, 1 -> service_class "guaranteed",
          "opportunistic" (AntMan alone reads it)
skipped   zero-length (no iterations)
absent    user, queue, CPUs, GPU type. The stage times (resource_time_*) belong to the profile of (model, batch size, GPUs);
          interval is not read

The factor 1.015 is its simulator's: it runs jobs so, not for the trace's `duration` (checked on its two-job micro case, whose
first job of 10,000 x 107 ms needs 1,086.05 s). Its charge on every running job at every event is a rule of a preset.
"""

import numpy as np

from trainmaster.workload.jobs import Labels
from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "muri"
COLUMNS = ("num_gpu", "submit_time", "iterations", "iteration_time")
MS_PER_S = 1000
SLOWDOWN = 1.015
CLASSES = ("guaranteed", "opportunistic")


def sniff(head: Head) -> bool:
    return head.csv_columns >= set(COLUMNS)


def read(source: Source) -> Trace:
    rows = source.csv(COLUMNS)
    work_s = rows.floats("iterations", at_least=0) * rows.floats("iteration_time", at_least=0) * SLOWDOWN / MS_PER_S
    rows.skip(work_s == 0, "zero-length")
    return rows.trace(
        FORMAT,
        ids="job_id",
        submit_s=rows.floats("submit_time", at_least=0) / MS_PER_S,
        gpus=rows.ints("num_gpu", at_least=1, at_most=MOST_GPUS),
        work=work_s,
        model=rows.labels("model_name"),
        batch_size=rows.floats("batch_size", default=np.nan, at_least=1),
        service_class=Labels(rows.ints("priority", default=-1, at_least=0, at_most=1).astype(np.int32), CLASSES),
    )
