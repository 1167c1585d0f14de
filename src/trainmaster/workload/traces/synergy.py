"""Synergy: the replay format of its simulator (Mohan et al., OSDI 2022): no header, five comma-separated fields a job.

becomes   job_id, model name -> model, arrival -> submit_s, iterations -> work, in steps, GPUs -> gpus, in this order
skipped   zero-length (no iterations)
absent    user, queue, GPU type; CPUs and memory are the policy's to choose, from a profile of the model
"""

from trainmaster.workload.traces.columns import MOST_GPUS
from trainmaster.workload.traces.source import Head, Source, is_number
from trainmaster.workload.traces.trace import Trace

FORMAT = "synergy"
FIELDS = ("job_id", "model", "arrival", "iterations", "gpus")


def sniff(head: Head) -> bool:
    jobs = [line.split(",") for line in head.lines if line.strip()]
    return bool(jobs) and all(_is_job(fields) for fields in jobs[:10])


def read(source: Source) -> Trace:
    rows = source.csv((), names=FIELDS)
    steps = rows.floats("iterations", at_least=0)
    rows.skip(steps == 0, "zero-length")
    return rows.trace(
        FORMAT,
        ids="job_id",
        submit_s=rows.floats("arrival", at_least=0),
        gpus=rows.ints("gpus", at_least=1, at_most=MOST_GPUS),
        work=steps,
        work_in_steps=True,
        model=rows.required_labels("model"),
    )


def _is_job(fields: list[str]) -> bool:
    return len(fields) == len(FIELDS) and not is_number(fields[1]) and all(map(is_number, fields[2:]))
