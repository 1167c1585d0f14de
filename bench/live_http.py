"""The HTTP side alone, before a control plane in memory: what the API, its checks and the client cost without a store or an engine.

    python bench/live_http.py

The server runs in a process of its own, as `trainmaster up` does; the client in this one. Nothing is asserted: budgets of the
live cluster are beside the figures (store and engine have to fit in as well).
"""

from __future__ import annotations

import http.client
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from live.http.fakes import Served  # noqa: E402
from trainmaster.live.client import Client  # noqa: E402
from trainmaster.live.http.server import Server  # noqa: E402

SUBMIT = {"command": ["python", "train.py"], "name": "resnet50", "env": {f"VARIABLE_{number}": "x" * 40 for number in range(40)}}  # 2 KiB
ONE_BY_ONE, CLIENTS, BULK, ARRAY = 1_500, 4, 10_000, 10_000


def main() -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url, token, cookie = ours.recv()
    listing, page = {"authorization": f"Bearer {token}"}, {"cookie": cookie}
    array, many = {**SUBMIT, "array": {"indices": list(range(ARRAY))}}, [{"command": ["true"]}] * BULK
    with Client(url, token) as client:
        before_s = processor_s(ours)
        rate("submissions one by one, one client", ONE_BY_ONE, lambda: one_by_one(client, ONE_BY_ONE), "at least 300")
        row("of which the server's processor, each", (processor_s(ours) - before_s) / ONE_BY_ONE * 1e3, "ms", "")
        rate(f"submissions one by one, {CLIENTS} clients", ONE_BY_ONE, lambda: at_once(url, token), "at least 300")
        rate(f"a list of {BULK:,} in one request", BULK, lambda: client.submit_all(many), "at least 2,000")
        while ids := [job["id"] for job in client.jobs(limit=BULK)]:
            client.cancel(ids)
        rate(f"an array of {ARRAY:,}", ARRAY, lambda: client.submit(array), "at least 2,000")
        latency("listing of 10,000 jobs, to its last byte", lambda: raw(url, "/api/v1/jobs", listing), "under 200")
        latency("listing of 10,000 jobs, as dicts in the client", client.jobs, "under 200")
        [last] = client.jobs(limit=1)
        latency("one job", lambda: client.job(last["id"]), "")
        latency("first page, 10,000 waiting", lambda: raw(url, "/", page), "under 200")
        latency("page of one of them", lambda: raw(url, f"/jobs/{last['id']}", page), "under 200")
    ours.send("stop")
    server.join()


def serve(pipe: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder), own_app=True, nodes=16, gpus=8)
        served.app.state.service = served.service
        server = Server(served.app)
        server.start()
        browser = served.browser("admin")
        pipe.send((server.url, served.token("admin"), "; ".join(f"{name}={value}" for name, value in browser.cookies.items())))
        while pipe.recv() != "stop":
            pipe.send(time.process_time())
        server.stop()


def one_by_one(client: Client, count: int) -> None:
    for _ in range(count):
        client.submit(SUBMIT)


def at_once(url: str, token: str) -> None:
    def work(_: int) -> None:
        with Client(url, token) as client:
            one_by_one(client, ONE_BY_ONE // CLIENTS)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))


def raw(url: str, path: str, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise SystemExit(f"{path}: {response.status}")
    connection.close()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def processor_s(server: Connection) -> float:
    server.send("processor")
    used_s: float = server.recv()
    return used_s


def rate(what: str, jobs: int, work: Callable[[], object], budget: str) -> None:
    row(what, jobs / seconds(work), "jobs/s", budget)


def latency(what: str, work: Callable[[], object], budget: str) -> None:
    work()
    taken_ms = sorted(seconds(work) * 1e3 for _ in range(15))
    row(what, statistics.median(taken_ms), f"ms (slowest of 15: {taken_ms[-1]:.0f})", budget)


def row(what: str, value: float, unit: str, budget: str) -> None:
    print(f"{what:50} {value:9,.1f} {unit:30} {budget}", flush=True)


if __name__ == "__main__":
    main()
