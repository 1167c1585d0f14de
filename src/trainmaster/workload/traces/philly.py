"""Philly: the Microsoft cluster of 2017 (Jeon et al., USENIX ATC 2019), flattened to one CSV by the Pollux artifact.

becomes   timestamp -> submit_s (dated);  num_gpus -> gpus;  duration -> work, seconds at those GPUs;  cluster (a virtual
          cluster) -> queue
skipped   zero-length (duration = 0);  asks for nothing (num_gpus = 0)
absent    ids (the row number is the id), user, CPUs, model, GPU type, start and end. The file holds repeated rows: each is
          a job. The log itself, with users and attempts, is format philly-json.
"""

from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "philly"
COLUMNS = ("timestamp", "duration", "num_gpus")


def sniff(head: Head) -> bool:
    return head.csv_columns >= set(COLUMNS)


def read(source: Source) -> Trace:
    rows = source.csv(COLUMNS)
    gpus = rows.ints("num_gpus", at_least=0, at_most=MOST_GPUS)
    duration_s = rows.floats("duration", at_least=0)
    rows.skip(gpus == 0, "asks for nothing")
    rows.skip(duration_s == 0, "zero-length")
    return rows.trace(FORMAT, dated=True, submit_s=rows.timestamps("timestamp"), gpus=gpus, work=duration_s, queue=rows.labels("cluster"))
