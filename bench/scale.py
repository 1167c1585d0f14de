"""The controller at a size that nobody has at hand: the real one, with its store, over simulated nodes. Prints a table.

    python bench/scale.py [--nodes N] [--jobs N] [--seconds S] [--policy NAME] [--store URL] [--profile]

Jobs come in bulk, then as fast as others start, so that the queue stays as long; at last all are cancelled. Nodes have 8 GPUs, jobs ask
for 1 to 64. Times are those of the controller's thread, by the clock and (CPU) its own, what it costs to simulate the nodes included. The
store is SQLite in a temporary folder, or URL: an empty database. `--profile` prints where the time goes. Nothing is asserted but that
every job ends once.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import resource
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from trainmaster.cli.main import COLLECT_AFTER
from trainmaster.cluster.cluster import Node
from trainmaster.engine.late import compile_all
from trainmaster.live.backends.simulated import SimulatedBackend
from trainmaster.live.control import JobFilter
from trainmaster.live.controller import Controller
from trainmaster.live.plane import Plane
from trainmaster.live.scheduling import Made
from trainmaster.live.spec import JobSpec
from trainmaster.live.store import Store
from trainmaster.policies.registry import find_policy

GPUS, GPU_SHARES = (1, 2, 4, 8, 16, 32, 64), (0.55, 0.1, 0.1, 0.15, 0.05, 0.03, 0.02)
RUN_S = (20.0, 100.0)  # uniform
BULK = 1_000  # jobs a request
SETTLE_S = 5.0


class Timed(Controller):
    """Keeps how long each part of its turns took, by the clock and of the thread's own time."""

    def __init__(self, *arguments: Any, profiled: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.took_s: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.profile = cProfile.Profile() if profiled else None

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        begin, cpu_s = time.perf_counter(), time.thread_time()
        yield
        self.took_s[what].append((time.perf_counter() - begin, time.thread_time() - cpu_s))

    def turn(self) -> None:
        with self.timing("turn"):
            super().turn()

    def _decide(self) -> None:
        self.began = time.perf_counter(), time.thread_time()
        decided = len(self.took_s["decision"])
        with self.timing("decide"):
            super()._decide()
        del self.began
        if len(self.took_s["decision"]) == decided:  # nothing was due
            self.took_s["decide"].pop()

    def _note(self, made: Made | None) -> Made | None:
        if made is not None:
            self.took_s["decisions"].append((0.0, 0.0))
        if made is not None and hasattr(self, "began"):  # not one for the time that has passed: of jobs and nodes that are known
            self.took_s["decision"].append((time.perf_counter() - self.began[0], time.thread_time() - self.began[1]))
        return super()._note(made)

    def _observe(self, changes: Any) -> None:
        with self.timing("observe"):
            super()._observe(changes)

    def _write(self, changes: Any, made: Any) -> None:
        with self.timing("commit"):
            super()._write(changes, made)

    def _run(self) -> None:
        if self.profile is None:
            super()._run()
        else:
            self.profile.runcall(super()._run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=10_000, help="that wait")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--policy", default="tiresias-las")
    parser.add_argument("--store", default=None, metavar="URL")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    gc.set_threshold(*COLLECT_AFTER)  # as `trainmaster up` does
    compile_all()
    with tempfile.TemporaryDirectory() as folder:
        rows = run(args, args.store or f"sqlite:///{folder}/store.db")
    table = Table("", "p50", "p99", "worst", "CPU p99", title=f"{args.nodes:,} nodes of 8 GPUs, {args.jobs:,} jobs wait, {args.policy}")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def run(args: argparse.Namespace, url: str) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(0)
    nodes = [Node(name=f"n{i:04}", gpus=8) for i in range(args.nodes)]
    backend = SimulatedBackend(nodes, run_s=lambda attempt: float(attempt.spec.command[1]), clock=time.time)  # type: ignore[index]
    store = Store.open(url, owner=f"{socket.gethostname()}:{os.getpid()}", now=time.time)
    controller = Timed(store, backend, find_policy(args.policy)(), profiled=args.profile)
    plane = Plane(controller)
    controller.start()
    try:
        begin = time.perf_counter()
        ids = []
        total = args.jobs + args.nodes * 8 // 4  # about so many jobs fill the cluster
        while len(ids) < total:
            ids += plane.submit(jobs(rng, min(BULK, total - len(ids))), "ada").result()
        taken_in_s = time.perf_counter() - begin
        time.sleep(SETTLE_S)
        for kept in (*controller.took_s.values(), backend.lags_s):
            kept.clear()
        events, began, cpu_s = last_event(plane), time.perf_counter(), time.process_time()
        answers_s = keep_up(plane, rng, ids, args.jobs, args.seconds)
        lasted_s, cpu_s, events = time.perf_counter() - began, time.process_time() - cpu_s, last_event(plane) - events
        measured = {name: list(took_s) for name, took_s in controller.took_s.items()}
        lags_s = list(backend.lags_s)
        waiting, holding = len(controller.offered) - len(controller.holding), len(controller.holding)
        begin = time.perf_counter()
        for first in range(0, len(ids), BULK):
            plane.cancel(ids[first : first + BULK], "ada").result()
        cancelled_s = time.perf_counter() - begin
        while controller.jobs and controller.failure is None:
            time.sleep(0.1)
        controller.stop()
        states = Counter(record.state.value for record in store.jobs(JobFilter(all=True)))
    finally:
        controller.stop()
        store.close()
    if controller.profile is not None:
        pstats.Stats(controller.profile, stream=sys.stderr).sort_stats("cumulative").print_stats(60)
    again = {job: times for job, times in backend.ended.items() if times > 1}
    assert not again and sum(states.values()) == len(ids) and set(states) <= {"SUCCEEDED", "CANCELLED"}, (again, states)
    return [
        row("a decision with new jobs or nodes, ms (budget of p99: 100)", measured["decision"]),
        row("the same, written down and told, ms", measured["decide"]),
        row("a look at all attempts and nodes, ms", measured["observe"]),
        row("a commit, ms", measured["commit"]),
        row("a turn of the loop, ms", measured["turn"]),
        row("a submission, asked to answered, ms", [(answer_s, np.nan) for answer_s in answers_s]),
        row("an attempt that ended, until its GPUs are free, ms", [(lag_s, np.nan) for lag_s in lags_s]),
        note(f"{len(measured['decisions']) / lasted_s:.1f} decisions, {events / lasted_s:,.0f} events, "
             f"{len(lags_s) / lasted_s:.1f} ends of attempts a second"),
        note(f"{waiting:,} wait and {holding:,} run at the end; {cpu_s / lasted_s:.0%} of a core"),
        note(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB, the simulated nodes among them"),
        note(f"{total / taken_in_s:,.0f} submissions and {len(ids) / cancelled_s:,.0f} cancellations a second, {BULK:,} in a request"),
    ]  # fmt: skip


def jobs(rng: np.random.Generator, count: int) -> list[JobSpec]:
    gpus, run_s = rng.choice(GPUS, count, p=GPU_SHARES), rng.uniform(*RUN_S, count)
    return [JobSpec(command=("sleep", f"{s:.3f}"), gpus=int(g), limit_s=200.0) for g, s in zip(gpus.tolist(), run_s.tolist(), strict=True)]


def keep_up(plane: Plane, rng: np.random.Generator, ids: list[int], waiting: int, seconds: float) -> list[float]:
    """As many jobs come, one by one, as others start; how long each took to be accepted."""
    answers_s, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        if len(plane.controller.jobs) - len(plane.controller.holding) < waiting:
            begin = time.perf_counter()
            ids += plane.submit(jobs(rng, 1), "ada").result()
            answers_s.append(time.perf_counter() - begin)
        else:
            time.sleep(0.01)
    return answers_s


def last_event(plane: Plane) -> int:
    store = plane.controller.store
    low, page = 0, store.events(after=0, limit=100_000)
    while page:
        low, page = page[-1].id, store.events(after=page[-1].id, limit=100_000)
    return low


def row(what: str, took_s: list[tuple[float, float]]) -> tuple[str, ...]:
    clock_ms, cpu_ms = 1e3 * np.array(took_s or [(np.nan, np.nan)]).T
    return (what, *(f"{ms:,.1f}" for ms in (*np.quantile(clock_ms, (0.5, 0.99, 1.0)), np.quantile(cpu_ms, 0.99))))


def note(text: str) -> tuple[str, ...]:
    return (text, "", "", "", "")


if __name__ == "__main__":
    main()
