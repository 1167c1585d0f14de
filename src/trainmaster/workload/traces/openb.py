"""openb: pods of Alibaba's cluster-trace-gpu-v2023 (Weng et al., USENIX ATC 2023), one CSV.

becomes   creation_time -> submit_s;  num_gpu x gpu_milli -> gpus (gpu_milli below 1000: a share of one GPU);  cpu_milli ->
          cpus;  memory_mib -> memory_gib;  deletion - scheduling time (creation, in a list without it) -> work, seconds;
          gpu_spec ("V100M16|V100M32") -> accepts;  qos -> service_class;  name -> id
          scheduled_time, deletion_time -> recorded_start_s, recorded_end_s
skipped   never scheduled (no scheduled_time: Pending);  still running (no deletion_time);  zero-length;  asks for nothing
absent    user, queue, model. pod_phase is not read: a pod that is Running has the end of the trace as its deletion

The lists with a share of multi-GPU pods (multigpuNN) have no times at all and cannot be replayed.
"""

import numpy as np

from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "openb"
COLUMNS = ("num_gpu", "gpu_milli", "creation_time", "deletion_time")
MILLI = 1000
MIB_PER_GIB = 1024


def sniff(head: Head) -> bool:
    return head.csv_columns >= {"num_gpu", "gpu_milli"}


def read(source: Source) -> Trace:
    rows = source.csv(COLUMNS)
    gpus = rows.ints("num_gpu", at_least=0, at_most=MOST_GPUS) * rows.floats("gpu_milli", at_least=0, at_most=MILLI) / MILLI
    cpus = rows.floats("cpu_milli", default=0, at_least=0) / MILLI
    submit_s = rows.floats("creation_time", at_least=0)
    start_s = rows.floats("scheduled_time", default=np.nan, at_least=0) if rows.has("scheduled_time") else submit_s
    end_s = rows.floats("deletion_time", default=np.nan, at_least=0)
    rows.refuse(end_s < start_s, "deletion_time", "is before the pod was scheduled")
    rows.skip(np.isnan(start_s), "never scheduled")
    rows.skip(np.isnan(end_s), "still running")
    rows.skip(end_s == start_s, "zero-length")
    rows.skip_empty(gpus, cpus)
    return rows.trace(
        FORMAT,
        ids="name",
        submit_s=submit_s,
        gpus=gpus,
        cpus=cpus,
        memory_gib=rows.floats("memory_mib", default=0, at_least=0) / MIB_PER_GIB,
        work=end_s - start_s,
        accepts=rows.text_lists("gpu_spec"),
        service_class=rows.labels("qos"),
        recorded_start_s=start_s if rows.has("scheduled_time") else None,
        recorded_end_s=end_s,
    )
