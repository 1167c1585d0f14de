"""Runs in several processes. Each is a fresh interpreter, so that nothing but what it is handed can change its figures."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

from trainmaster.api.session import Progress, Run, Task, run_task
from trainmaster.api.workload import Source
from trainmaster.errors import TrainmasterError

LOOK_EVERY_S = 0.1  # for progress

_reports: Queue[tuple[int, int, int]] | None = None  # a worker's way to its parent


@contextmanager
def in_processes(source: Source, tasks: list[Task], workers: int, keep: bool, progress: Progress | None) -> Iterator[Iterator[Run]]:
    """The runs of the tasks, in their order. On leaving early, by an error or Ctrl-C, the processes are ended."""
    context = multiprocessing.get_context("spawn")
    reports = context.Queue() if progress else None
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _start, (reports,))
    try:
        futures = [pool.submit(_work, source, task, keep) for task in tasks]
        yield _in_order(source, tasks, futures, reports, progress)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    pool.shutdown()


def _in_order(source: Source, tasks: list[Task], futures: list[Future[Run]], reports: Any, progress: Progress | None) -> Iterator[Run]:
    for task, future in zip(tasks, futures, strict=True):
        while progress and not future.done():
            try:
                progress(*reports.get(timeout=LOOK_EVERY_S))
            except Empty:
                continue
        try:
            run = future.result()
        except BrokenProcessPool:
            raise TrainmasterError("a worker process died, perhaps for want of memory; try fewer --workers") from None
        if run.result is not None:  # it came without what this process has already
            workload = source.at(task.setup.seed)
            run = replace(run, result=replace(run.result, jobs=workload.jobs, cluster=workload.cluster))
        yield run


# ------------------------------------------------------------------------------------------------- in a worker


def _start(reports: Queue[tuple[int, int, int]] | None) -> None:
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends its workers


def _work(source: Source, task: Task, keep: bool) -> Run:
    run = run_task(source, task, keep, None if _reports is None else _report)
    if run.result is None:
        return run
    absent: Any = None
    return replace(run, result=replace(run.result, jobs=absent, cluster=absent))


def _report(number: int, ended: int, jobs: int) -> None:
    assert _reports is not None
    _reports.put((number, ended, jobs))
