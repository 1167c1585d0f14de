"""Gavel: traces of its simulator (Narayanan et al., OSDI 2020). Tab-separated, no header, ten columns a job.

becomes   job type -> model, as it keys the throughput table ("ResNet-18 (batch size 256)"), and the batch size in it ->
          batch_size;  total steps -> work, in steps;  scale factor -> gpus;  priority weight -> weight;  SLO -> slo, negative = none:
          a multiple of the run time, from which --profiles makes deadline_s;  arrival -> submit_s
skipped   zero-length (no steps)
absent    ids (the row number is the id, as in its simulator), user, queue. Command, directory, name of the steps flag and
          "needs data" are not read.

The seven-column form of its traces/msr folder (job type, command, steps flag, needs data, total steps, arrival, scale
factor), which the published simulator no longer parses, is read too.
"""

import numpy as np
import polars as pl

from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source, is_number
from trainmaster.workload.traces.trace import Trace

FORMAT = "gavel"
TEN = ("job type", "command", "directory", "steps flag", "needs data", "steps", "scale factor", "weight", "slo", "arrival")
SEVEN = ("job type", "command", "steps flag", "needs data", "steps", "arrival", "scale factor")


def sniff(head: Head) -> bool:
    fields = head.lines[0].split("\t") if head.lines else []
    numbers = fields[4:] if len(fields) == len(TEN) else fields[3:] if len(fields) == len(SEVEN) else []
    return bool(numbers) and all(is_number(number) for number in numbers)


def read(source: Source) -> Trace:
    width = source.head.text.partition("\n")[0].count("\t") + 1
    rows = source.csv((), separator="\t", names=SEVEN if width == len(SEVEN) else TEN, quotes=False)
    steps = rows.floats("steps", at_least=0)
    rows.skip(steps == 0, "zero-length")
    batch_size = rows.frame["job type"].str.extract(r"\(batch size (\d+)\)").cast(pl.Float64).fill_null(np.nan)
    slo = rows.floats("slo", default=-1.0)
    return rows.trace(
        FORMAT,
        submit_s=rows.floats("arrival", at_least=0),
        gpus=rows.ints("scale factor", at_least=1, at_most=MOST_GPUS),
        work=steps,
        work_in_steps=True,
        model=rows.required_labels("job type"),
        batch_size=batch_size.to_numpy(),
        slo=np.where(slo < 0, np.nan, slo),
        weight=rows.floats("weight", default=1.0, at_least=0),
    )
