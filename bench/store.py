"""What the store takes on this machine: `python bench/store.py` (SQLite), `python bench/store.py postgresql://...` (an empty database).

10,000 jobs wait and 100,000 are in history, as in the issue's load. Medians; run it on an idle machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from trainmaster.live.control import JobFilter
from trainmaster.live.states import State
from trainmaster.live.store import NewEvent, NewJob, Store, decision_record
from trainmaster.policies.base import DecisionRecord

HISTORY, WAITING, SINGLE, BATCH, REPEATS = 100_000, 10_000, 400, 5_000, 7
SPEC = json.dumps({"command": ["python", "train.py"], "env": {f"VARIABLE_{i}": "value" * 10 for i in range(50)}})


def submit(store: Store, count: int, **columns: object) -> None:
    """One transaction, as the controller writes it: jobs and an event each."""
    with store.begin() as tx:
        (spec,) = tx.add_specs([SPEC])
        base = tx.next_job
        rows = [
            NewJob(spec=spec, name=f"job-{(base + i) % 500}", user=f"user-{(base + i) % 50}", queue="research", gpus=1.0,
                   submit_s=float(base + i), eligible_s=float(base + i), reason="capacity", **columns)  # type: ignore[arg-type]
            for i in range(count)
        ]  # fmt: skip
        tx.add_events([NewEvent(at_s=0.0, kind="submitted", job=id) for id in tx.add_jobs(rows)])


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def median_ms(action: Callable[[], object]) -> str:
    return f"{1e3 * statistics.median(seconds(action) for _ in range(REPEATS)):.1f} ms"


def per_second(count: int, action: Callable[[], object]) -> str:
    return f"{count / seconds(action):,.0f}/s"


def rows(url: str, synchronous: str) -> list[tuple[str, str]]:
    store = Store.open(url, owner="bench", now=time.time, synchronous=synchronous)  # type: ignore[arg-type]
    found = [("submissions one by one", per_second(SINGLE, lambda: [submit(store, 1) for _ in range(SINGLE)]))]
    groups = [16] * (SINGLE // 16)
    found.append(("submissions, 16 a commit", per_second(sum(groups), lambda: [submit(store, size) for size in groups])))
    done = {"state": State.SUCCEEDED, "finish_s": 1e9, "start_s": 1.0, "run_s": 60.0, "gpu_s": 60.0, "nodes": ("node-1",)}
    bulk = per_second(HISTORY, lambda: [submit(store, BATCH, **done) for _ in range(HISTORY // BATCH)])
    found.append((f"jobs in bulk, {BATCH:,} a commit", bulk))
    submit(store, WAITING - SINGLE - sum(groups))

    jobs = 10_000
    seq, verdict, short_gpus = np.arange(jobs), np.zeros(jobs, np.int8), np.random.default_rng(1).random(jobs)
    columns = {"attained_gpu_s": short_gpus * 7}
    record = DecisionRecord(decision=1, now_s=0.0, seq=seq, verdict=verdict, short_gpus=short_gpus, columns=columns)
    decisions = iter(range(1, 1_000))

    def decide() -> None:
        body = decision_record.encode(record)
        with store.begin() as tx:
            tx.put_decision(next(decisions), 0.0, "fifo", 1.0, body, body, 1)

    last = SINGLE + sum(groups) + HISTORY
    of_one = JobFilter(all=True, users=("user-7",), limit=100, after_id=last // 2)
    found += [
        (f"queue: all {WAITING:,} active jobs", median_ms(lambda: store.jobs(JobFilter()))),
        ("a page of 100 active jobs", median_ms(lambda: store.jobs(JobFilter(limit=100, after_id=last)))),
        ("a page of 100 of history", median_ms(lambda: store.jobs(JobFilter(all=True, limit=100, after_id=HISTORY // 2)))),
        ("a page of 100 of one user's history", median_ms(lambda: store.jobs(of_one))),
        ("one job", median_ms(lambda: store.job(last))),
        ("jobs by state", median_ms(store.counts)),
        ("usage of all of history", median_ms(store.usage)),
        ("start: active jobs, specs, attempts", median_ms(store.active_jobs)),
        (f"a decision over {jobs:,} jobs with its memory", median_ms(decide)),
    ]
    store.close()
    return found


def main() -> None:
    table = Table("", title=f"The store: {WAITING:,} jobs active, {HISTORY:,} in history")
    columns = []
    if len(sys.argv) > 1:
        table.add_column("PostgreSQL", justify="right")
        columns.append(rows(sys.argv[1], "FULL"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            for synchronous in ("FULL", "NORMAL"):
                table.add_column(f"SQLite, {synchronous}", justify="right")
                columns.append(rows(f"sqlite:///{folder}/{synchronous}.db", synchronous))
    for lines in zip(*columns, strict=True):
        table.add_row(lines[0][0], *(value for _, value in lines))
    Console().print(table)


if __name__ == "__main__":
    main()
