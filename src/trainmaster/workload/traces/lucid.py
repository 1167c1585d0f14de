"""Lucid: the traces of its simulator (Hu et al., ASPLOS 2023): Helios or Philly jobs, each given a measured model. One CSV.

becomes   submit_time -> submit_s (dated);  gpu_num -> gpus;  cpu_num -> cpus;  duration -> work, seconds alone on those GPUs;
          vc -> queue;  user -> user;  jobname -> name;  batchsize -> batch_size
          model, dataset, batchsize, amp -> model, these four in this order with blanks between ("ResNet50 ImageNet 64 1"):
          the key of the measured configurations and of the pairs (amp: 1 is mixed precision)
skipped   asks for nothing (no GPU, no CPU);  zero-length (duration = 0)
absent    GPU type, start and end; speed, gpu_util, gmem_util, gmem repeat the measured configuration; state is not read
"""

import polars as pl

from trainmaster.workload.jobs import Labels
from trainmaster.workload.traces.columns import MOST_GPUS, Columns
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "lucid"
COLUMNS = ("gpu_num", "submit_time", "duration", "model", "dataset", "batchsize", "amp")


def sniff(head: Head) -> bool:
    return head.csv_columns >= set(COLUMNS)


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
        model=_model(rows),
        batch_size=rows.ints("batchsize", at_least=1),
    )


def _model(rows: Columns) -> Labels | None:
    key = pl.concat_str([pl.col(name).str.strip_chars() for name in ("model", "dataset", "batchsize", "amp")], separator=" ")
    keyed = Columns(rows.frame.select(model=key), rows.path, rows.lines)
    return keyed.required_labels("model")
