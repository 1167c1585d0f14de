"""Trainmaster's own format: a CSV or Parquet file whose columns are the fields of `Job`.

becomes   required: submit_s, gpus, work (seconds at those GPUs; steps where work_in_steps is true; `inf` for a service)
          optional: id, name, user, account, queue, app, eligible_s, accepts (types joined by "|"), max_nodes, nodes (exactly so
          many, as much on each), cpus, memory_gib, min_gpus, max_gpus, model, batch_size, steps (the work in steps, beside seconds),
          deadline_s, slo, limit_s, priority, weight, service_class, preemptible (true or false), recorded_start_s, recorded_end_s,
          seq (order among jobs submitted together)
          estimate_NAME -> estimates, a predicted run time in seconds under NAME
          Times are seconds from the trace's own zero. An empty field is absent.
skipped   zero-length (work = 0)
absent    nothing. Other columns are ignored, unless their name is a slip of one of these: then the file is refused.
          A job that asks for no GPU and no CPU is refused too: somebody wrote it by hand.
"""

import dataclasses
import difflib
from typing import Any

import numpy as np

from trainmaster.workload.jobs import GPU_MILLI, LABEL_COLUMNS, Job
from trainmaster.workload.traces.columns import MOST_GPUS, Columns
from trainmaster.workload.traces.source import PARQUET, Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "trainmaster"
COLUMNS = ("submit_s", "gpus", "work")
FIELDS = tuple(field.name for field in dataclasses.fields(Job))
ESTIMATE = "estimate_"
POSITIVE = ("min_gpus", "max_gpus", "batch_size", "steps", "slo", "limit_s")
TIMES = ("eligible_s", "deadline_s", "recorded_start_s", "recorded_end_s")


def sniff(head: Head) -> bool:
    return head.data.startswith(PARQUET) or head.csv_columns >= set(COLUMNS)


def read(source: Source) -> Trace:
    rows = source.parquet(COLUMNS) if source.head.data.startswith(PARQUET) else source.csv(COLUMNS)
    _refuse_slips(source, rows)
    gpus = rows.floats("gpus", at_least=0, at_most=MOST_GPUS)
    cpus = rows.floats("cpus", default=0, at_least=0)
    work = rows.floats("work", at_least=0, infinite=True)
    rows.refuse((np.rint(gpus * GPU_MILLI) == 0) & ~(cpus > 0), "gpus", "and no CPU: the job asks for nothing")
    nodes = rows.ints("nodes", default=0, at_least=0, at_most=MOST_GPUS)
    uneven = np.rint(gpus * GPU_MILLI) % (np.maximum(nodes, 1) * GPU_MILLI) > 0
    rows.refuse((nodes > 1) & uneven, "nodes", "nodes do not hold its GPUs evenly")
    rows.skip(work == 0, "zero-length")
    estimates = [name for name in rows.frame.columns if name.startswith(ESTIMATE)]
    optional: dict[str, Any] = {name: rows.labels(name) for name in LABEL_COLUMNS}
    optional |= {name: rows.floats(name, default=np.nan, at_least=0) for name in POSITIVE if rows.has(name)}
    optional |= {name: rows.floats(name, default=np.nan) for name in TIMES if rows.has(name)}
    return rows.trace(
        FORMAT,
        ids="id",
        seq=rows.ints("seq").astype(np.int64) if rows.has("seq") else None,
        submit_s=rows.floats("submit_s", at_least=0),
        gpus=gpus,
        cpus=cpus,
        memory_gib=rows.floats("memory_gib", default=0, at_least=0),
        work=work,
        work_in_steps=rows.flags("work_in_steps"),
        name=rows.text("name"),
        accepts=rows.text_lists("accepts"),
        max_nodes=rows.ints("max_nodes", default=0, at_least=0, at_most=MOST_GPUS),
        nodes=nodes,
        priority=rows.floats("priority", default=0),
        weight=rows.floats("weight", default=1, at_least=0),
        preemptible=rows.flags("preemptible", default=True),
        estimates={name.removeprefix(ESTIMATE): rows.floats(name, default=np.nan) for name in estimates},
        **optional,
    )


def _refuse_slips(source: Source, rows: Columns) -> None:
    for name in rows.frame.columns:
        if name not in FIELDS and (near := difflib.get_close_matches(name, FIELDS, 1, cutoff=0.8)):
            raise source.error(f'no column is named "{name}"; did you mean "{near[0]}"?', line=1)
