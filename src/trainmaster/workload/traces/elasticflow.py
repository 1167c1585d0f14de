"""ElasticFlow: traces of its simulator and of microsoft/elasticflow-traces (Gu et al., ASPLOS 2023), one CSV.

becomes   submit_time or submission_time -> submit_s;  num_gpu -> gpus, what the user asked for;  duration -> work, seconds
          at those GPUs;  ddl or deadline -> deadline_s;  model_name -> model;  batch_size (global)
          iteration or num_iteration -> steps, which scaling curves count (`--profiles`)
          best_effort = 1 -> no deadline, service_class "best-effort"
skipped   zero-length (duration = 0)
absent    user, queue, CPUs, GPU type
"""

import numpy as np

from trainmaster.workload.jobs import Labels
from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "elasticflow"
COLUMNS = ("num_gpu", "duration")
SUBMIT = ("submit_time", "submission_time")
DEADLINE = ("ddl", "deadline")
STEPS = ("iteration", "num_iteration")
OWN = {"submission_time", "num_iteration", *DEADLINE}


def sniff(head: Head) -> bool:
    columns = head.csv_columns
    return columns >= set(COLUMNS) and bool(columns & set(SUBMIT)) and bool(columns & OWN)


def read(source: Source) -> Trace:
    rows = source.csv(COLUMNS)
    duration_s = rows.floats("duration", at_least=0)
    best_effort = rows.flags("best_effort")
    deadline_s = np.fmin(*(rows.floats(name, default=np.nan) for name in DEADLINE))
    steps = np.fmin(*(rows.floats(name, default=np.nan, at_least=0) for name in STEPS))
    rows.skip(duration_s == 0, "zero-length")
    return rows.trace(
        FORMAT,
        ids="job_id",
        submit_s=rows.floats(rows.either(*SUBMIT), at_least=0),
        gpus=rows.ints("num_gpu", at_least=1, at_most=MOST_GPUS),
        work=duration_s,
        model=rows.labels("model_name"),
        batch_size=rows.floats("batch_size", default=np.nan, at_least=1),
        steps=steps,
        deadline_s=np.where(best_effort, np.nan, deadline_s),
        service_class=Labels(np.where(best_effort, 0, -1).astype(np.int32), ("best-effort",)),
    )
