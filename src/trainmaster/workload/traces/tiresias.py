"""Tiresias: job traces of its simulator (Gu et al., NSDI 2019), one CSV.

becomes   submit_time -> submit_s;  num_gpu -> gpus;  duration -> work, seconds at those GPUs;  model_name -> model
skipped   zero-length (duration = 0)
absent    user, queue, CPUs, GPU type, start and end; iterations and interval are not read (no policy there does)

Its simulator cuts decimals of the duration; here they stay. The Muri and ElasticFlow simulators and PAI's have columns of
these names too: what only they have rules this format out.
"""

from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "tiresias"
COLUMNS = ("num_gpu", "submit_time", "duration")
OTHERS = {"iteration_time", "ddl", "deadline", "num_iteration"} | {"num_inst", "num_cpu", "user_dur", "group_dur", "group_gpu_dur"}


def sniff(head: Head) -> bool:
    return head.csv_columns >= set(COLUMNS) and not head.csv_columns & OTHERS


def read(source: Source) -> Trace:
    rows = source.csv(COLUMNS)
    duration_s = rows.floats("duration", at_least=0)
    rows.skip(duration_s == 0, "zero-length")
    return rows.trace(
        FORMAT,
        ids="job_id",
        submit_s=rows.floats("submit_time", at_least=0),
        gpus=rows.ints("num_gpu", at_least=1, at_most=MOST_GPUS),
        work=duration_s,
        model=rows.labels("model_name"),
    )
