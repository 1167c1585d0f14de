"""The live cluster under load, for real: `trainmaster up` in a process of its own, this one as its client. Prints a table.

    python bench/live.py [--queued N] [--history N]

Submissions one by one and in bulk, a listing and a page with many jobs queued, decisions meanwhile, one-line jobs a second,
from the acceptance of a job to its exec, the controller's memory. Nothing is asserted: a machine that is busy misses budgets.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainmaster.cli.main import COLLECT_AFTER
from trainmaster.live.client import Client
from trainmaster.live.states import State
from trainmaster.live.store import NewJob, Store

SLOTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--history", type=int, default=100_000)
    args = parser.parse_args()
    gc.set_threshold(*COLLECT_AFTER)  # as the command does, of which this is the client
    rows: list[tuple[str, float, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        with Cluster(Path(folder) / "idle") as idle:
            rows += latency(idle)
            rows += throughput(idle)
        loaded = Path(folder) / "loaded"
        fill(loaded, args.history)
        with Cluster(loaded) as cluster:
            rows += load(cluster, args.queued, args.history)
    print(f"\n{'the live cluster':66}{'measured':>12}   budget")
    for what, value, unit, budget in rows:
        print(f"{what:66}{value:12,.1f}   {unit:8} {budget}")


class Cluster:
    """`trainmaster up` on this machine."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __enter__(self) -> Cluster:
        command = [sys.executable, "-m", "trainmaster.cli.main", "up", "--state", str(self.state), "--port", "0", "--slots", str(SLOTS)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(600):
            if (self.state / "address").exists():
                break
            time.sleep(0.2)
        self.client = Client.of_state(self.state)
        return self

    def __exit__(self, *_: Any) -> None:
        waiting = [job["id"] for job in self.client.jobs()]
        for begin in range(0, len(waiting), 5_000):
            self.client.cancel(waiting[begin : begin + 5_000])
        time.sleep(2)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def rss_mib(self) -> float:
        line = next(line for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def wait_for(self, ids: list[int]) -> None:
        last = max(ids)
        while any(job["id"] <= last for job in self.client.jobs()):
            time.sleep(0.02)


def job(*command: str, **more: Any) -> dict[str, Any]:
    return {"command": list(command), "workdir": "/tmp", "env": {"PATH": os.environ["PATH"]}, **more}


def latency(cluster: Cluster) -> list[tuple[str, float, str, str]]:
    """From the API's acceptance to exec, one at a time on an idle cluster."""
    waited_ms = []
    for _ in range(60):
        (id,) = cluster.client.submit(job("true"))
        cluster.wait_for([id])
        (attempt,) = cluster.client.attempts(id)
        waited_ms.append((attempt["start_s"] - cluster.client.job(id)["submit_s"]) * 1e3)
        time.sleep(0.05)
    return [
        ("from acceptance to exec, idle cluster, median", statistics.median(waited_ms), "ms", "200"),
        ("the same, p99", statistics.quantiles(waited_ms, n=100, method="inclusive")[98], "ms", "500"),
    ]


def throughput(cluster: Cluster) -> list[tuple[str, float, str, str]]:
    begin = time.perf_counter()
    ids = cluster.client.submit_all([job("true") for _ in range(400)])
    cluster.wait_for(ids)
    return [(f"one-line jobs, {SLOTS} slots", len(ids) / (time.perf_counter() - begin), "jobs/s", "70; 30 will do")]


def load(cluster: Cluster, queued: int, history: int) -> list[tuple[str, float, str, str]]:
    client = cluster.client
    client.submit(job("sleep", "3600", gpus=SLOTS))
    rows = []
    begin = time.perf_counter()
    for _ in range(1_000):
        client.submit(job("true"))
    rows.append(("submissions one by one over HTTP, SQLite", 1_000 / (time.perf_counter() - begin), "a second", "300"))
    begin = time.perf_counter()
    client.submit_all([job("true") for _ in range(queued - 1_000)])
    rows.append(("submissions in one request", (queued - 1_000) / (time.perf_counter() - begin), "a second", "2,000"))
    name = f"with {queued:,} queued and {history:,} ended"
    rows.append((f"queue, {name}", median_ms(client.jobs), "ms", "200"))
    rows.append((f"one page of the queue, {name}", median_ms(browser(cluster)), "ms", "200"))
    for _ in range(100):  # decisions with arrivals
        client.submit(job("true"))
        time.sleep(0.1)
    took = decisions_ms(cluster)
    rows.append((f"a decision, {name}, p99", statistics.quantiles(took, n=100, method="inclusive")[98], "ms", "100"))
    rows.append(("resident memory of the controller", cluster.rss_mib(), "MiB", "400"))
    return rows


def decisions_ms(cluster: Cluster) -> list[float]:
    with sqlite3.connect(f"file:{cluster.state / 'store.db'}?mode=ro", uri=True) as database:
        return [took for (took,) in database.execute("SELECT took_ms FROM decisions ORDER BY id DESC LIMIT 100")]


def browser(cluster: Cluster) -> Callable[[], bytes]:
    """Logged in; each call reads the page of the queue."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    opener.open(cluster.client.login_url()).read()
    return lambda: opener.open(f"{cluster.client.url}/").read()


def median_ms(call: Any, times: int = 9) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) * 1e3


def fill(state: Path, history: int) -> None:
    """A store with so many ended jobs."""
    state.mkdir(parents=True)
    store = Store.open(f"sqlite:///{state / 'store.db'}", owner=f"{socket.gethostname()}:{os.getpid()}", now=time.time)
    now_s = time.time()
    for begin in range(0, history, 10_000):
        with store.begin() as tx:
            (spec,) = tx.add_specs(['{"command": ["true"]}'])
            ended = [
                NewJob(spec=spec, name=f"past-{i % 50}", user=f"u{i % 20}", gpus=1.0, submit_s=now_s - 1e6 + i, eligible_s=now_s - 1e6 + i,
                       state=State.SUCCEEDED, reason="exit 0", start_s=now_s - 9e5 + i, finish_s=now_s - 8e5 + i, run_s=100.0, exit_code=0)
                for i in range(begin, min(begin + 10_000, history))
            ]  # fmt: skip
            tx.add_jobs(ended)
    store.close()


if __name__ == "__main__":
    main()
