"""SWF: the Standard Workload Format of the Parallel Workloads Archive (Feitelson et al.): eighteen numbers a job.

becomes   a processor counts as a GPU: processors allocated, else requested -> gpus;  submit time -> submit_s;  run time ->
          work, seconds;  requested time -> limit_s;  requested memory (KB a processor) -> memory_gib;  user, group -> user,
          account;  queue, else partition -> queue;  wait time -> recorded_start_s and recorded_end_s
          header: MaxProcs (and MaxNodes, where it divides it, else one a node) -> cluster;  UnixStartTime -> zero_unix_s
skipped   no run time (below 0);  zero-length (run time = 0);  no processors (0 or below);  part of a job (status 2, 3, 4:
          pieces of a job that has a line of its own)
absent    -1 anywhere is absent; average CPU time, used memory, executable, preceding job and think time are not read
"""

import re

import numpy as np
import polars as pl

from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.errors import TraceError
from trainmaster.workload.jobs import Labels
from trainmaster.workload.traces.columns import MOST_GPUS, Columns
from trainmaster.workload.traces.source import Head, Source, is_number
from trainmaster.workload.traces.trace import Trace

FORMAT = "swf"
FIELDS = ("job", "submit", "wait", "run", "allocated", "cpu time", "memory", "requested", "requested time", "requested memory",
          "status", "user", "group", "executable", "queue", "partition", "preceding", "think time")  # fmt: skip
PARTS = (2, 3, 4)
KIB_PER_GIB = 2**20
HEADER = re.compile(r";\s*(MaxProcs|MaxNodes|UnixStartTime):\s*(\d{1,18})\b")


def sniff(head: Head) -> bool:
    jobs = [line.split() for line in head.lines if line.strip() and not line.startswith(";")]
    return bool(jobs) and all(len(fields) == len(FIELDS) and all(map(is_number, fields)) for fields in jobs[:10])


def read(source: Source) -> Trace:
    lines = source.lines()
    rows = _jobs(lines)
    allocated, requested = rows.ints("allocated", at_most=MOST_GPUS), rows.ints("requested", at_most=MOST_GPUS)
    processors = np.where(allocated > 0, allocated, requested)
    submit_s, wait_s, run_s = rows.floats("submit", at_least=0), rows.floats("wait"), rows.floats("run")
    start_s = np.where(wait_s >= 0, submit_s + wait_s, np.nan)
    limit_s, memory_kib = rows.floats("requested time"), rows.floats("requested memory")
    rows.skip(np.isin(rows.ints("status"), PARTS), "part of a job")
    rows.skip(run_s < 0, "no run time")
    rows.skip(processors <= 0, "no processors")
    rows.skip(run_s == 0, "zero-length")
    header = _header(lines)
    return rows.trace(
        FORMAT,
        ids="job",
        cluster=_cluster(source, header),
        zero_unix_s=header["UnixStartTime"][0] or None if "UnixStartTime" in header else None,
        submit_s=submit_s,
        gpus=np.maximum(processors, 0),
        work=np.maximum(run_s, 0),
        memory_gib=np.maximum(memory_kib, 0) * np.maximum(processors, 0) / KIB_PER_GIB,
        user=_labels(rows, "user"),
        account=_labels(rows, "group"),
        queue=_labels(rows, "queue") or _labels(rows, "partition"),
        limit_s=np.where(limit_s > 0, limit_s, np.nan),
        recorded_start_s=start_s,
        recorded_end_s=start_s + np.maximum(run_s, 0),
    )


def _jobs(lines: Columns) -> Columns:
    text = lines.frame["line"]
    jobs = lines.take(((text != "") & ~text.str.starts_with(";")).to_numpy())
    if not len(jobs):
        raise TraceError(f"{lines.path}: has no jobs")
    fields = jobs.frame["line"].str.replace_all(r"\s+", " ").str.split(" ")
    jobs.refuse((fields.list.len() != len(FIELDS)).to_numpy(), "line", f"has not {len(FIELDS)} fields")
    frame = pl.DataFrame({name: fields.list.get(column) for column, name in enumerate(FIELDS)})
    return Columns(frame, jobs.path, jobs.lines)


def _labels(rows: Columns, name: str) -> Labels | None:
    return rows.labels(name, absent=("-1",))


def _header(lines: Columns) -> dict[str, tuple[int, int]]:
    """Header fields that are read: name -> (value, line)."""
    comments = lines.take(lines.frame["line"].str.starts_with(";").to_numpy())
    found = [(HEADER.match(text), int(line)) for text, line in zip(comments.frame["line"], comments.lines, strict=True)]
    return {match[1]: (int(match[2]), line) for match, line in found if match}


def _cluster(source: Source, header: dict[str, tuple[int, int]]) -> Cluster | None:
    processors, line = header.get("MaxProcs", (0, 0))
    if processors > MOST_GPUS:
        raise source.error(f"{processors} is above {MOST_GPUS:g}", line=line, field="MaxProcs")
    if not processors:
        return None
    nodes = header.get("MaxNodes", (0, 0))[0]
    a_node = processors // nodes if nodes and processors % nodes == 0 else 1
    return Cluster.of((Node(gpus=a_node),) * (processors // a_node))
