"""Pollux and Sia: the workloads of their simulators (Qiao et al., OSDI 2021; Jayaram Subramanya et al., SOSP 2023), one CSV.

becomes   time -> submit_s;  application -> model;  num_replicas -> gpus, what a rigid scheduler gives;  batch_size (global);
          name -> id
skipped   nothing
absent    work: it is known once performance profiles are bound (`--profiles`), NaN until then; user, queue, CPUs, GPU type
"""

import numpy as np

from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "pollux"
COLUMNS = ("time", "application", "num_replicas")


def sniff(head: Head) -> bool:
    return head.csv_columns >= set(COLUMNS)


def read(source: Source) -> Trace:
    rows = source.csv(COLUMNS)
    return rows.trace(
        FORMAT,
        ids="name",
        submit_s=rows.floats("time", at_least=0),
        gpus=rows.ints("num_replicas", at_least=1, at_most=MOST_GPUS),
        work=np.full(len(rows), np.nan),
        model=rows.required_labels("application"),
        batch_size=rows.floats("batch_size", default=np.nan, at_least=1),
    )
