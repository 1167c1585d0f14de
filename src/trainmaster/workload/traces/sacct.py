"""sacct: the accounting of a Slurm cluster, one job a line, fields separated by `|`, with a header. The command is COMMAND.

becomes   Submit -> submit_s (dated);  GPUs of AllocTRES, else of ReqTRES (gres/gpu=, else the sum of gres/gpu:TYPE=) -> gpus;
          cpu= and mem= there -> cpus, memory_gib;  ElapsedRaw, else End - Start -> work, seconds;  Eligible -> eligible_s;
          TimelimitRaw (minutes) -> limit_s;  Partition -> queue;  User, Account -> user, account;  QOS -> service_class;
          Start, End -> recorded_start_s, recorded_end_s;  JobIDRaw, else JobID -> id
          a type asked for (gres/gpu:TYPE in ReqTRES; in AllocTRES only where the file has no ReqTRES) -> accepts
skipped   job step (id with a dot: -X was forgotten);  never started (no Start);  still running (no End, or a state that is
          not an end);  zero-length;  asks for nothing (no GPU, no CPU)
cluster   with NodeList: the nodes that jobs were seen on, each with the most GPUs its jobs held at once (`cluster/seen.py`)
absent    model. A UNLIMITED or Partition_Limit time limit is absent.

Times are as Slurm prints them, read as UTC: a night on which clocks change is an hour off. Unix times (SLURM_TIME_FORMAT=%s)
have no such night.
"""

import numpy as np
import polars as pl

from trainmaster.cluster.cluster import Cluster
from trainmaster.cluster.seen import cluster_seen
from trainmaster.workload.jobs import Floats
from trainmaster.workload.traces.columns import MOST_GPUS, Columns, Mask
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

FORMAT = "sacct"
FIELDS = ("JobIDRaw", "User", "Account", "Partition", "QOS", "Submit", "Eligible", "Start", "End", "ElapsedRaw", "TimelimitRaw", "State",
          "NNodes", "NodeList", "ReqTRES", "AllocTRES")  # fmt: skip
COMMAND = f"sacct -a -X -P -S 2024-01-01 -o {','.join(FIELDS)}"
SEEN = "the cluster is what its jobs were seen to use: {nodes:,} nodes, {gpus:,} GPUs; --cluster gives the real one"
COLUMNS = ("Submit",)
TRES = ("AllocTRES", "ReqTRES")
ITS_OWN = {"Submit", "Eligible", "Start", "End", "ElapsedRaw", "TimelimitRaw", "State", "JobID", "JobIDRaw", "Partition", *TRES}

NO_TIME = ("Unknown", "None", "N/A")
NO_LIMIT = ("UNLIMITED", "Partition_Limit", "INVALID")
NOT_ENDED = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "RESIZING")
SECONDS_PER_MINUTE = 60
GIB = {"": 2**-10, "K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10, "P": 2**20}  # Slurm's default unit is MiB


def sniff(head: Head) -> bool:
    return len(head.columns("|") & ITS_OWN) >= 2


def read(source: Source) -> Trace:
    rows = _rows(source)
    allocated = _tres(rows, *TRES)
    gpus = _count(allocated, r"(?:^|,)gres/gpu=(\d+(?:\.\d+)?)").fill_null(_typed_gpus(allocated)).fill_null(0)
    cpus = _count(allocated, r"(?:^|,)cpu=(\d+)").fill_null(0).to_numpy()
    memory = allocated.str.extract_groups(r"(?:^|,)mem=(?<size>[0-9.]+)(?<unit>[KMGTP]?)").struct.unnest()
    memory_gib = memory["size"].cast(pl.Float64, strict=False) * memory["unit"].replace_strict(GIB, default=0.0, return_dtype=pl.Float64)
    start_s = rows.timestamps("Start", default=np.nan, absent=NO_TIME)
    end_s = rows.timestamps("End", default=np.nan, absent=NO_TIME)
    elapsed_s = rows.floats("ElapsedRaw", default=np.nan, at_least=0)
    work_s = np.where(np.isnan(elapsed_s), end_s - start_s, elapsed_s)
    limit_minutes = rows.floats("TimelimitRaw", default=np.nan, at_least=0, absent=NO_LIMIT)

    ids = "JobIDRaw" if rows.has("JobIDRaw") else "JobID"
    rows.skip(_matches(rows, ids, r"\."), "job step")
    rows.skip(np.isnan(start_s) | _matches(rows, "State", "^PENDING"), "never started")
    rows.skip(np.isnan(end_s) | _matches(rows, "State", f"^({'|'.join(NOT_ENDED)})"), "still running")
    rows.refuse(work_s < 0, "End", "is before Start")
    rows.skip(work_s == 0, "zero-length")
    rows.refuse(gpus.to_numpy() > MOST_GPUS, allocated.name, "asks for too many GPUs")
    rows.skip_empty(gpus.to_numpy(), cpus)
    cluster = _cluster(rows, gpus, allocated, start_s, np.where(np.isnan(end_s), start_s + work_s, end_s))
    return rows.trace(
        FORMAT,
        cluster=cluster,
        cluster_note=SEEN.format(nodes=len(cluster.nodes), gpus=cluster.gpus) if cluster else "",
        ids=ids,
        dated=True,
        submit_s=rows.timestamps("Submit"),
        eligible_s=rows.timestamps("Eligible", default=np.nan, absent=NO_TIME),
        gpus=gpus.to_numpy(),
        cpus=cpus,
        memory_gib=memory_gib.fill_null(0).to_numpy(),
        accepts=_accepts(_tres(rows, *reversed(TRES))),
        work=work_s,
        limit_s=limit_minutes * SECONDS_PER_MINUTE,
        user=rows.labels("User"),
        account=rows.labels("Account"),
        queue=rows.labels("Partition"),
        service_class=rows.labels("QOS"),
        recorded_start_s=start_s,
        recorded_end_s=end_s,
    )


def _cluster(rows: Columns, gpus: pl.Series, allocated: pl.Series, start_s: Floats, end_s: Floats) -> Cluster | None:
    if not rows.has("NodeList"):
        return None
    kinds = allocated.str.extract(r"(?:^|,)gres/gpu:([^=,]+)=")
    return cluster_seen(rows.frame["NodeList"].fill_null(""), gpus.to_numpy(), kinds, start_s, end_s)


def _rows(source: Source) -> Columns:
    has = source.head.columns("|")
    missing = [" and ".join(names) for names in (("Submit",), ("Start", "End")) if not has >= set(names)]
    missing += [] if has & set(TRES) else [" or ".join(TRES)]
    if missing:
        raise source.error(f"lacks {', '.join(missing)}; the file is made by: {COMMAND}")
    return source.csv(COLUMNS, separator="|", quotes=False)


def _tres(rows: Columns, first: str, second: str) -> pl.Series:
    """The first of two columns, and the second where it is empty; never null."""
    columns = [rows.frame[name] for name in (first, second) if rows.has(name)]
    found = columns[0].replace("", None)
    return (found.fill_null(columns[1]) if len(columns) > 1 else found).fill_null("")


def _count(tres: pl.Series, pattern: str) -> pl.Series:
    return tres.str.extract(pattern).cast(pl.Float64)


def _typed_gpus(tres: pl.Series) -> pl.Series:
    counts = tres.str.extract_all(r"(?:^|,)gres/gpu:[^=,]+=\d+").list.eval(pl.element().str.extract(r"=(\d+)$").cast(pl.Float64))
    return counts.list.sum()


def _accepts(tres: pl.Series) -> list[tuple[str, ...]] | None:
    types = tres.str.extract_all(r"(?:^|,)gres/gpu:[^=,]+=").list.eval(pl.element().str.extract(r":([^=]+)="))
    return [tuple(row) for row in types] if types.list.len().sum() else None


def _matches(rows: Columns, name: str, pattern: str) -> Mask:
    if not rows.has(name):
        return np.zeros(len(rows), bool)
    return rows.frame[name].str.contains(pattern).fill_null(False).to_numpy()
