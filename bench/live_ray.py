"""Starts and preemption on a real Ray, ours and Ray's own side by side. Prints a table.

    make bench-ray        (PYTHONPATH=src .venv-ray/bin/python bench/live_ray.py [--times N])

A small cluster of this machine, two nodes of four declared GPUs, is started for it and ended after it. By turns: Ray alone (a placement
group, its actors, their first answer) and a job of ours (from the acceptance of its submission to the exec of its first process), each
on one node and as a gang of two. Nothing is asserted: a machine that is busy misses budgets.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
os.environ |= {"RAY_SCHEDULER_EVENTS": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import ray as plain
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from ray_cluster import RayCluster

from trainmaster.live.client import Client

IDLE_S = 5.0
RUNS_S = 8.0  # a job, before it is stopped for another: by default none is in its first seconds (rules: min_run_s)
RULES = "rules: {min_run_s: 0, most_preemptions: 0}\n"
YIELDS = """
echo '{}' > $TRAINMASTER_CONTROL/registered
while ! [ -e $TRAINMASTER_CONTROL/stop ]; do sleep 0.01; done
echo '{"step": 1, "saved_step": 1}' > $TRAINMASTER_CONTROL/a && mv $TRAINMASTER_CONTROL/a $TRAINMASTER_CONTROL/ack.0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    cluster = RayCluster()
    try:
        cluster.bring_up("n1", "n2")
        plain.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        with tempfile.TemporaryDirectory() as folder, Up(Path(folder), cluster.address) as up:
            rows = measure(up, times)
        plain.shutdown()
    finally:
        cluster.stop()
    print(f"\n{'on Ray, seconds (median, least to most)':66}{'measured':>28}   budget")
    for what, values, budget in rows:
        spread = f"{statistics.median(values):.3f}  ({min(values):.3f} to {max(values):.3f})"
        print(f"{what:66}{spread:>28}   {budget}")


def measure(up: Up, times: int) -> list[tuple[str, list[float], str]]:
    rows: list[tuple[str, list[float], str]] = []
    for nodes, name in ((1, "one GPU"), (2, "a gang on two nodes")):
        alone, ours = [], []
        for _ in range(times):  # by turns, so that a busy minute counts for both
            alone.append(timed(lambda nodes=nodes: ray_alone(nodes)))
            ours.append(up.start_s(nodes))
        above = statistics.median(ours) - statistics.median(alone)
        rows.append((f"{name}: placement group, actors, first answer: Ray alone", alone, ""))
        rows.append((f"{name}: submission to the first process: Trainmaster", ours, f"0.3 above Ray alone: {above:+.3f}"))
    controller_s, bridge_s = up.cost_s(jobs=20)
    rows.append(("processor time of the controller, a job", [controller_s], "0.02"))
    rows.append(("processor time of its bridge to Ray, a job", [bridge_s], ""))
    preempted = [up.preemption_s() for _ in range(times)]
    rows.append(("from asking a job to stop to the winner's first process", preempted, "2, beside the job's own checkpoint"))
    return rows


def timed(call: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s


class Actor:
    def answer(self) -> bool:
        return True


def ray_alone(nodes: int) -> None:
    group = plain.util.placement_group([{"GPU": 1}] * nodes, strategy="STRICT_SPREAD" if nodes > 1 else "PACK")
    group.wait(10)
    actors = [
        plain.remote(Actor).options(num_gpus=1, num_cpus=0, scheduling_strategy=PlacementGroupSchedulingStrategy(group, index)).remote()
        for index in range(nodes)
    ]
    plain.get([actor.answer.remote() for actor in actors])
    plain.util.remove_placement_group(group)


class Up:
    """`trainmaster up` on that cluster."""

    def __init__(self, folder: Path, address: str) -> None:
        self.state = folder / "state"
        (folder / "up.yaml").write_text(RULES)
        self.argv = [
            sys.executable, "-m", "trainmaster.cli.main", "up", "--state", str(self.state), "--port", "0", "--backend", "ray",
            "--address", address, "--config", str(folder / "up.yaml"),
        ]  # fmt: skip

    def __enter__(self) -> Up:
        self.process = subprocess.Popen(self.argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not (self.state / "address").exists():
            assert self.process.poll() is None, "trainmaster up has ended"
            time.sleep(0.1)
        self.client = Client.of_state(self.state)
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def submit(self, *command: str, **more: Any) -> int:
        job = {"command": list(command), "workdir": "/tmp", "env": {"PATH": os.environ["PATH"]}, **more}
        return self.client.submit(job)[0]

    def start_s(self, nodes: int) -> float:
        id = self.submit("true", gpus=nodes, nodes=nodes)
        self.client.wait(id, 60)
        waited_s: float = self.client.attempts(id)[0]["start_s"] - self.client.job(id)["submit_s"]
        return waited_s

    def preemption_s(self) -> float:
        """A job that has had the whole of both nodes for a while and yields at once, for one that goes before it."""
        loser = self.submit("/bin/sh", "-c", YIELDS, gpus=8, nodes=2, ranks="node")
        while not self.client.job(loser)["preemptible"]:
            time.sleep(0.05)
        time.sleep(RUNS_S)
        winner = self.submit("true", gpus=8, nodes=2, priority=10)
        self.client.wait(winner, 60)
        asked_s: float = next(event["at_s"] for event in self.client.events(loser)[0] if event["state"] == "PREEMPTING")
        started_s: float = self.client.attempts(winner)[0]["start_s"]
        self.client.cancel([loser])
        self.client.wait(loser, 60)
        return started_s - asked_s

    def cost_s(self, jobs: int) -> tuple[float, float]:
        """Of a job, in the controller and in its bridge, above what they use while nothing happens."""
        before, began_s = self.cpu_s(), time.monotonic()
        time.sleep(IDLE_S)
        idle = [(after - first) / (time.monotonic() - began_s) for first, after in zip(before, self.cpu_s(), strict=True)]
        before, began_s = self.cpu_s(), time.monotonic()
        ids = [self.submit("true") for _ in range(jobs)]
        for id in ids:
            self.client.wait(id, 120)
        took_s = time.monotonic() - began_s
        used = [after - first for first, after in zip(before, self.cpu_s(), strict=True)]
        controller_s, bridge_s = ((one - rate * took_s) / jobs for one, rate in zip(used, idle, strict=True))
        return controller_s, bridge_s

    def cpu_s(self) -> tuple[float, float]:
        """Of the controller, and of its bridge."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        bridges = [int(pid) for task in children.parents[1].iterdir() for pid in (task / "children").read_text().split()]
        return _cpu_s(self.process.pid), sum(map(_cpu_s, bridges))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
