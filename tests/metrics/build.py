"""RunResults made by hand: jobs, and what each held when; and large made-up ones for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.engine.result import FINISHED, UNFINISHED, Allocations, RunResult
from trainmaster.workload.jobs import GPU_MILLI, Job, JobTable

Holding = tuple[float, float, Mapping[int, float]]  # from, to, GPUs by node


def cluster(nodes: int, gpus: int) -> Cluster:
    return Cluster.of([Node(gpus=gpus)] * nodes)


def job(id: str, submit_s: float = 0.0, gpus: float = 1.0, **more: Any) -> Job:
    return Job(id=id, submit_s=submit_s, gpus=gpus, work=more.pop("work", 1.0), **more)


def run(
    jobs: Sequence[Job], held: Mapping[str, Sequence[Holding]], on: Cluster, *, unfinished: Mapping[str, str] | None = None, **fields: Any
) -> RunResult:
    """Each job finishes when its last holding ends, but for `unfinished` ({id: state}); alone, it would run as long as it held."""
    table = JobTable.of(jobs)
    row_of = {name: row for row, name in enumerate(table.id)}
    rows, never = len(table), unfinished or {}
    holdings = sorted(((start, end, row_of[name], gpus) for name, list_ in held.items() for start, end, gpus in list_), key=lambda h: h[0])
    columns: dict[str, Any] = {
        "start_s": np.full(rows, np.nan),
        "finish_s": np.full(rows, np.nan),
        "held_s": np.zeros(rows),
        "attained_gpu_s": np.zeros(rows),
        "nodes": np.zeros(rows, np.int32),
    }
    for start, end, row, gpus in holdings:
        columns["start_s"][row] = np.fmin(columns["start_s"][row], start)
        columns["finish_s"][row] = np.nan if table.id[row] in never else np.fmax(columns["finish_s"][row], end)
        columns["held_s"][row] += end - start
        columns["attained_gpu_s"][row] += (end - start) * sum(gpus.values())
        columns["nodes"][row] = len(gpus)
    columns["alone_s"] = columns["held_s"].copy()
    columns["state"] = np.asarray([never.get(name, FINISHED if name in held else UNFINISHED) for name in table.id], object)
    columns["allocations"] = Allocations(
        job=np.asarray([row for _, _, row, _ in holdings], np.int32),
        start_s=np.asarray([start for start, _, _, _ in holdings], float),
        end_s=np.asarray([end for _, end, _, _ in holdings], float),
        offset=np.cumsum([0, *(len(gpus) for *_, gpus in holdings)]),
        node=np.asarray([node for *_, gpus in holdings for node in gpus], np.int32),
        gpu_milli=np.asarray([round(GPU_MILLI * g) for *_, gpus in holdings for g in gpus.values()], np.int64),
    )
    return _result(table, on, columns | fields)


def made_up(rows: int, label: str = "fifo", seed: int = 0, nodes: int = 64, wait_s: float = 600.0, **fields: Any) -> RunResult:
    """A result of `rows` jobs that looks like a real one but obeys no policy (GPUs may be overcommitted); the jobs depend on rows alone."""
    jobs_rng, rng = np.random.default_rng(1), np.random.default_rng(seed + 2)
    gpus = jobs_rng.choice([1, 2, 4, 8, 16, 32], rows, p=[0.7, 0.1, 0.1, 0.06, 0.03, 0.01])
    submit_s = np.sort(jobs_rng.uniform(0, 60 * 86_400.0, rows))
    run_s = jobs_rng.lognormal(7.0, 2.0, rows)
    recorded_s = submit_s + jobs_rng.choice([0, 1], rows) * jobs_rng.lognormal(5.0, 2.0, rows)
    table = JobTable.build(
        submit_s=submit_s,
        work=run_s,
        gpus=gpus,
        queue=[f"vc{code}" for code in jobs_rng.integers(0, 14, rows)],
        user=[f"user{code}" for code in jobs_rng.integers(0, 300, rows)],
        recorded_start_s=recorded_s,
    )
    start_s = submit_s + rng.choice([0, 0, 1], rows) * rng.lognormal(np.log(wait_s), 1.5, rows) * np.sqrt(gpus)
    order, spans = np.argsort(start_s, kind="stable"), np.maximum(gpus // 8, 1)
    offset = np.append(0, np.cumsum(spans[order]))
    first = rng.integers(0, nodes, rows)[order]
    node = np.repeat(first, spans[order]) + np.arange(offset[-1]) - np.repeat(offset[:-1], spans[order])
    columns = {
        "start_s": start_s,
        "finish_s": start_s + run_s,
        "held_s": run_s.copy(),
        "attained_gpu_s": run_s * gpus,
        "alone_s": run_s.copy(),
        "nodes": spans.astype(np.int32),
        "state": np.full(rows, FINISHED, object),
        "allocations": Allocations(
            job=order.astype(np.int32),
            start_s=start_s[order],
            end_s=(start_s + run_s)[order],
            offset=offset,
            node=(node % nodes).astype(np.int32),
            gpu_milli=np.repeat((gpus // spans)[order] * GPU_MILLI, spans[order]),
        ),
    }
    return _result(table, cluster(nodes, 8), columns | {"label": label, "policy": label, "seed": seed} | fields)


def _result(table: JobTable, on: Cluster, columns: dict[str, Any]) -> RunResult:
    rows = len(table)
    defaults: dict[str, Any] = {
        "label": "fifo",
        "policy": "fifo",
        "params": {"rules": {}},
        "oracle": False,
        "placement": "packed",
        "round_s": 0.0,
        "restart_cost_s": 0.0,
        "seed": 0,
        "load": 1.0,
        "window": None,
        "reason": np.full(rows, "", object),
        "gpu_type": np.full(rows, "", object),
        **{name: np.zeros(rows) for name in ("overhead_gpu_s", "lost_gpu_s")},
        **{name: np.zeros(rows, np.int32) for name in ("preemptions", "migrations", "resizes", "failures")},
        "capacity_s": np.asarray([0.0]),
        "capacity_gpus": np.asarray([float(on.gpus)]),
        "decisions": 7,
        "wall_s": 0.5,
        "peak_rss_mib": 100.0,
    }
    return RunResult(jobs=table, cluster=on, **(defaults | columns))
