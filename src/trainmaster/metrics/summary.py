"""The figures of a run, as `simulate --json` writes them: names, order and definitions are a contract (the design, section 7).

Every mean is over the measured jobs that have the figure: completion times and queueing over those that finished, waits
over those that started. A figure that no job has is None.

    jct                    finish - submit
    wait                   first start - eligible
    queue                  finish - eligible - seconds holding its allocation (GPUs, or CPUs alone)
    bounded slowdown       max(1, (finish - eligible) / max(run time alone, 10 s))
    makespan               last finish - first submission
    gpu_utilization        GPU-seconds held / GPU-seconds there, from first submission to last finish, by whatever job
    productive_utilization the same times the share of all held GPU-seconds that was neither restart cost nor lost work
    ftf                    fairness.py
    deadlines_met          of the jobs with a deadline, the share that finished by it; one refused or unfinished did not

With a window, "measured" jobs are those submitted in it: they are counted, and the span of makespan and utilization is
theirs. Added to the contract, after its fields: oracle, unfinished, notes, jain_index and by_tenant (tenants.py; null and {} where the
trace names fewer than two).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainmaster import __version__
from trainmaster.cluster.cluster import Cluster
from trainmaster.engine.result import FINISHED, REJECTED, UNFINISHED, UNSCHEDULABLE, RunResult
from trainmaster.metrics.fairness import finish_time_fairness
from trainmaster.metrics.seeds import across_seeds
from trainmaster.metrics.series import capacity, gpus_in_use, measured_jobs, span_s
from trainmaster.metrics.tenants import BINS, Tenants, jain_index
from trainmaster.workload.jobs import GPU_MILLI, Floats, Ints

SLOWDOWN_FLOOR_S = 10.0

Summary = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceInfo:
    """Where the jobs came from, and the rows that were left out, counted by reason."""

    path: str
    format: str
    jobs: int
    skipped: Mapping[str, int]


def document(trace: TraceInfo, cluster: Cluster, runs: Sequence[Summary], seed: int) -> dict[str, Any]:
    """All that `--json` writes. With several seeds, `seeds` adds each figure's mean and 95 % interval."""
    averages = across_seeds(runs)
    return {
        "trainmaster": __version__,
        "seed": seed,
        "trace": {"path": trace.path, "format": trace.format, "jobs": trace.jobs, "skipped": dict(trace.skipped)},
        "cluster": {"gpus": cluster.gpus, "nodes": int(np.count_nonzero(cluster.present)), "types": cluster.gpus_by_type()},
        "runs": list(runs),
        **({"seeds": averages} if any(average["seeds"] > 1 for average in averages) else {}),
    }


def summarize(result: RunResult) -> Summary:
    measured = measured_jobs(result)
    times = JobTimes.of(result)
    jct_s, queue_s = times.jct_s[measured], times.queue_s[measured]
    ftf = finish_time_fairness(result)[measured]
    state = result.state[measured]
    span = span_s(result)
    utilization = _utilization(result, span)

    def total(column: NDArray[Any]) -> Any:
        return column[measured].sum().item()

    return {
        "label": result.label,
        "policy": result.policy,
        "params": _plain(result.params),
        "placement": result.placement,
        "round_s": result.round_s,
        "seed": result.seed,
        "load": result.load,
        "window": _plain(result.window),
        "jobs": int(np.count_nonzero(measured)),
        "finished": int(np.count_nonzero(state == FINISHED)),
        "unschedulable": int(np.count_nonzero(state == UNSCHEDULABLE)),
        "rejected": int(np.count_nonzero(state == REJECTED)),
        "avg_jct_s": _mean(jct_s),
        "median_jct_s": _percentile(jct_s, 50),
        "p95_jct_s": _percentile(jct_s, 95),
        "p99_jct_s": _percentile(jct_s, 99),
        "makespan_s": None if span is None else span[1] - span[0],
        "avg_wait_s": _mean(times.wait_s[measured]),
        "avg_queue_s": _mean(queue_s),
        "p99_queue_s": _percentile(queue_s, 99),
        "avg_bounded_slowdown": _mean(times.bounded_slowdown[measured]),
        "gpu_utilization": utilization,
        "productive_utilization": None if utilization is None else utilization * _productive_share(result),
        "avg_ftf": _mean(ftf),
        "max_ftf": _percentile(ftf, 100),
        "deadlines_met": _deadlines_met(result, measured),
        "preemptions": total(result.preemptions),
        "migrations": total(result.migrations),
        "resizes": total(result.resizes),
        "failures": total(result.failures),
        "lost_gpu_s": total(result.lost_gpu_s),
        "overhead_gpu_s": total(result.overhead_gpu_s),
        "decisions": result.decisions,
        "by_queue": _by_queue(result, times, measured),
        "by_size": _by_size(result, times, measured),
        "wall_s": result.wall_s,
        "peak_rss_mib": result.peak_rss_mib,
        "oracle": result.oracle,
        "unfinished": int(np.count_nonzero(state == UNFINISHED)),
        "notes": list(result.notes),
        **_tenants(result, span),
    }


@dataclass(frozen=True, slots=True)
class JobTimes:
    """The times of every job, by row; NaN where they do not apply."""

    jct_s: Floats
    wait_s: Floats
    queue_s: Floats
    bounded_slowdown: Floats

    @classmethod
    def of(cls, result: RunResult) -> JobTimes:
        in_system_s = result.finish_s - result.jobs.eligible_s
        return cls(
            jct_s=result.finish_s - result.jobs.submit_s,
            wait_s=result.start_s - result.jobs.eligible_s,
            queue_s=np.maximum(in_system_s - result.held_s, 0.0),  # rounding may leave -1e-9
            bounded_slowdown=np.maximum(in_system_s / np.maximum(result.alone_s, SLOWDOWN_FLOOR_S), 1.0),
        )


def size_class(gpu_milli: Ints) -> Ints:
    """Classes by powers of two: 0 = CPUs alone, 1 = less than one GPU, 2 = one GPU, 3 = two, 4 = 3-4, 5 = 5-8, ..."""
    with np.errstate(divide="ignore"):
        doublings = np.ceil(np.log2(gpu_milli / GPU_MILLI))
    return np.select([gpu_milli == 0, gpu_milli < GPU_MILLI], [0.0, 1.0], doublings + 2).astype(np.int64)


def size_name(size: int) -> str:
    """The class in GPUs: "cpu", "<1", "1", "2", "3-4", "5-8", ..."""
    if size < 4:
        return ("cpu", "<1", "1", "2")[size]
    return f"{2 ** (size - 3) + 1}-{2 ** (size - 2)}"


def _utilization(result: RunResult, span: tuple[float, float] | None) -> float | None:
    if span is None:
        return None
    ends_s = np.asarray(span)
    held_gpu_s, there_gpu_s = (float(np.diff(steps.integral(ends_s))[0]) for steps in (gpus_in_use(result), capacity(result)))
    return held_gpu_s / there_gpu_s if there_gpu_s > 0 else None


def _productive_share(result: RunResult) -> float:
    held_gpu_s = float(result.attained_gpu_s.sum())
    wasted_gpu_s = float(result.overhead_gpu_s.sum() + result.lost_gpu_s.sum())
    return 1.0 - wasted_gpu_s / held_gpu_s if held_gpu_s > 0 else 1.0


def _deadlines_met(result: RunResult, measured: NDArray[np.bool_]) -> float | None:
    with_deadline = measured & np.isfinite(result.jobs.deadline_s)
    if not with_deadline.any():
        return None
    met = result.finish_s[with_deadline] <= result.jobs.deadline_s[with_deadline]  # NaN, never finished, is False
    return float(np.mean(met))


def _by_queue(result: RunResult, times: JobTimes, measured: NDArray[np.bool_]) -> dict[str, Summary]:
    """By name, sorted; {} if the trace has no queues, "" for jobs without one in a trace that has some."""
    queue = result.jobs.queue
    if not queue.names:
        return {}
    groups = _groups(result, times, measured, queue.codes.astype(np.int64))
    return dict(sorted(("" if code < 0 else queue.names[code], figures) for code, figures in groups.items()))


def _by_size(result: RunResult, times: JobTimes, measured: NDArray[np.bool_]) -> dict[str, Summary]:
    """From small to large, the classes that occur."""
    groups = _groups(result, times, measured, size_class(result.jobs.gpu_milli))
    return {size_name(size): figures for size, figures in groups.items()}


def _groups(result: RunResult, times: JobTimes, measured: NDArray[np.bool_], group: Ints) -> dict[int, Summary]:
    """Figures by group number, ascending, from one sort of all measured rows."""
    rows = np.flatnonzero(measured)
    rows = rows[np.argsort(group[rows], kind="stable")]
    numbers, starts = np.unique(group[rows], return_index=True)
    return {
        int(number): {
            "jobs": len(members),
            "avg_jct_s": _mean(times.jct_s[members]),
            "median_jct_s": _percentile(times.jct_s[members], 50),
            "p95_jct_s": _percentile(times.jct_s[members], 95),
            "avg_wait_s": _mean(times.wait_s[members]),
            "avg_queue_s": _mean(times.queue_s[members]),
            "p95_queue_s": _percentile(times.queue_s[members], 95),
            "gpu_s": float(result.attained_gpu_s[members].sum()),
        }
        for number, members in zip(numbers, np.split(rows, starts)[1:], strict=True)
    }


def _tenants(result: RunResult, span: tuple[float, float] | None) -> Summary:
    """Most GPU time owed first."""
    tenants = None if span is None else Tenants.of(result, np.linspace(*span, BINS + 1))
    if tenants is None:
        return {"jain_index": None, "by_tenant": {}}
    owed_gpu_s, received_gpu_s = tenants.totals_gpu_s()
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = received_gpu_s / owed_gpu_s
    by_tenant = {
        tenants.names[i]: {"owed_gpu_s": float(owed_gpu_s[i]), "received_gpu_s": float(received_gpu_s[i]), "ratio": float(ratio[i])}
        for i in np.argsort(-owed_gpu_s, kind="stable") if owed_gpu_s[i] > 0
    }  # fmt: skip
    return {"jain_index": float(jain_index(ratio[owed_gpu_s > 0])), "by_tenant": by_tenant}


def _mean(values: Floats) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _percentile(values: Floats, percent: float) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.percentile(values, percent)) if len(values) else None


def _plain(value: Any) -> Any:
    """JSON values only: what has no number in JSON (an open level, an open window) becomes its name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
