"""The jobs and the cluster of a request: from a trace, a generator or Python, with `--jobs`, `--load` and `--profiles` applied."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from trainmaster.api.request import SYNTHETIC, Request
from trainmaster.cluster.cluster import Cluster
from trainmaster.cluster.spec import parse_cluster
from trainmaster.errors import ClusterError, InputError, TraceError
from trainmaster.metrics.summary import TraceInfo
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.base import PerformanceModel, Profiles
from trainmaster.workload.perf.constant import Constant
from trainmaster.workload.perf.profiles import load_profiles
from trainmaster.workload.synth import DEFAULT_CLUSTERS, synthesize
from trainmaster.workload.traces import Trace, load_trace

CPU_ONLY = "cpu-only"  # a reason of `skipped`


@dataclass(frozen=True, slots=True)
class Workload:
    jobs: JobTable
    cluster: Cluster
    model: PerformanceModel


class Source(Protocol):
    """Where workloads come from; the same seed gives the same one, in any process."""

    @property
    def info(self) -> TraceInfo: ...

    @property
    def cluster(self) -> Cluster: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def at(self, seed: int) -> Workload: ...


def source_of(request: Request) -> Source:
    """Reads what there is to read. Raises InputError, one line."""
    profiles = Constant() if request.profiles is None else load_profiles(os.fspath(request.profiles))
    if request.synthetic is not None:
        return _generated(request, request.synthetic, profiles)
    return _loaded(request, profiles)


# ------------------------------------------------------------------------------------------------- generated


@dataclass(frozen=True, eq=False)
class Generated:
    """A workload of its own for every seed."""

    kind: str
    jobs: int | None
    load: float
    cluster: Cluster
    profiles: Profiles
    first_seed: int
    notes: tuple[str, ...] = ()

    @property
    def info(self) -> TraceInfo:
        name = f"{SYNTHETIC}:{self.kind}" if self.kind else SYNTHETIC
        return TraceInfo(path=name, format=SYNTHETIC, jobs=len(self.at(self.first_seed).jobs), skipped={})

    def at(self, seed: int) -> Workload:
        return _generate(self, seed)


@lru_cache(maxsize=2)
def _generate(source: Generated, seed: int) -> Workload:
    by_type = source.cluster.gpus_by_type()
    made = synthesize(source.kind, jobs=source.jobs, cluster_gpus=sum(by_type.values()), max_gang=max(by_type.values(), default=0),
                      load=source.load, seed=seed)  # fmt: skip
    jobs, model = source.profiles.bind(made.jobs, source.cluster)
    return Workload(jobs, source.cluster, model)


def _generated(request: Request, kind: str, profiles: Profiles) -> Generated:
    given = DEFAULT_CLUSTERS.get(kind, "1x1") if request.cluster is None else request.cluster
    cluster = given if isinstance(given, Cluster) else parse_cluster(given)
    source = Generated(kind, request.jobs, request.load, cluster, profiles, request.seed)
    source.at(request.seed)
    return source


# ------------------------------------------------------------------------------------------------- from a trace


@dataclass(frozen=True)
class Loaded:
    """One workload, whatever the seed."""

    workload: Workload
    info: TraceInfo
    notes: tuple[str, ...]

    @property
    def cluster(self) -> Cluster:
        return self.workload.cluster

    def at(self, seed: int) -> Workload:
        return self.workload


def _loaded(request: Request, profiles: Profiles) -> Loaded:
    given = None if request.cluster is None or isinstance(request.cluster, Cluster) else parse_cluster(request.cluster)
    trace = _trace(request)
    cluster = request.cluster if isinstance(request.cluster, Cluster) else given or trace.cluster
    if cluster is None:
        raise ClusterError(f"{trace.path}: does not say what cluster it ran on; give one with --cluster, e.g. --cluster 16x4:v100")
    skipped, jobs, notes = Counter(trace.skipped), trace.jobs, []
    if cluster is trace.cluster and trace.cluster_note:
        notes.append(trace.cluster_note)
    cpu_only = jobs.gpu_milli == 0
    if cpu_only.any() and not cluster.declares_cpus:
        skipped[CPU_ONLY] += int(cpu_only.sum())
        if cpu_only.all():
            raise TraceError(f"{trace.path}: all {len(jobs):,} jobs ask for CPUs alone, and no node of the cluster declares cpus")
        jobs = jobs.take(np.flatnonzero(~cpu_only))
    if request.jobs is not None:
        jobs = jobs.take(np.arange(min(request.jobs, len(jobs))))
    if request.load != 1.0:
        if not np.isnan(jobs.recorded_start_s).all():
            notes.append(f"at --load {request.load:g} the recorded starts no longer hold: left out")
        jobs = with_load(jobs, request.load)
    if cluster.left_out:
        notes.append("nodes left out of the cluster: " + ", ".join(f"{nodes:,} {reason}" for reason, nodes in cluster.left_out.items()))
    bound, model = profiles.bind(jobs, cluster)
    return Loaded(Workload(bound, cluster, model), _info(trace, len(bound), skipped), tuple(notes))


def _trace(request: Request) -> Trace:
    trace = request.trace
    if isinstance(trace, str | os.PathLike):
        return load_trace(trace, request.format)
    jobs = trace if isinstance(trace, JobTable) else JobTable.of(trace)
    if not len(jobs):
        raise InputError("there are no jobs to simulate")
    return Trace(jobs=jobs, format="python", path="jobs")


def with_load(jobs: JobTable, load: float) -> JobTable:
    """Inter-arrival times divided by `load`, about the first submission.

    A deadline stays as long after its submission as it was. What was recorded belongs to the load at which it was recorded.
    """
    first_s = float(jobs.submit_s[0])
    submit_s = first_s + (jobs.submit_s - first_s) / load
    absent = np.full(len(jobs), np.nan)
    scaled = jobs.replace(
        submit_s=submit_s,
        eligible_s=np.maximum(first_s + (jobs.eligible_s - first_s) / load, submit_s),
        deadline_s=jobs.deadline_s - jobs.submit_s + submit_s,
        recorded_start_s=absent,
        recorded_end_s=absent,
    )
    return scaled.take(np.lexsort((scaled.seq, scaled.submit_s)))


def _info(trace: Trace, jobs: int, skipped: Counter[str]) -> TraceInfo:
    return TraceInfo(path=trace.path, format=trace.format, jobs=jobs, skipped=dict(skipped))
