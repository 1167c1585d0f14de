"""Twenty jobs at a time on a real Ray, and something is killed again and again: a rank, a supervisor, an actor, a node, the controller.

Every job comes to its own end once, no two attempts of a job ever run at once (each job says so itself, see live/faults/real.py), and
nothing is left on the nodes or in Ray. Ten faults here, a hundred as the slow test; `trainmaster up` is a process of its own.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from live.faults.real import Cluster
from live.ray.cluster import small_cluster
from trainmaster.live.client import Client
from trainmaster.live.node import folder as files
from trainmaster.live.node import linux

pytestmark = [pytest.mark.slow, pytest.mark.ray]
JOBS = 20  # that have not ended, at any time
NODES = ("n1", "n2")
KILLED = 137
TENTHS = {"rank": 2, "supervisor": 2, "actor": 2, "controller": 2, "bridge": 1, "node": 1}
LEFT = """
import sys, ray
ray.init(address=sys.argv[1], namespace="the test", log_to_driver=False, logging_level="ERROR")
left = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == sys.argv[2]]
left += [one["name"] for one in ray.util.placement_group_table().values() if one["state"] != "REMOVED" and sys.argv[2] in one["name"]]
print(*left)
"""


class OnRay(Cluster):
    def __init__(self, folder: Path, ray: Any) -> None:
        super().__init__(folder, "--policy", "las", "--set", "quantum_s=1", "--backend", "ray", "--address", ray.address)
        self.ray = ray

    def accelerators(self) -> list[str]:
        return []

    @property
    def namespace(self) -> str:
        return str((files.read_json(f"{self.state}/ray.json") or {})["namespace"])

    @property
    def nodes_folder(self) -> Path:
        return Path(f"/var/tmp/trainmaster-{os.getuid()}/{self.namespace}")

    def supervisors(self) -> list[int]:
        """That live now."""
        found = []
        for path in self.nodes_folder.glob(f"node-*/jobs/*/*/{files.SUPERVISOR}"):
            who = files.read_json(str(path))
            if who is not None and linux.birth(who["pid"]) == who["born"]:
                found.append(who["pid"])
        return found

    def nothing_in_ray(self) -> None:
        argv = [sys.executable, "-c", LEFT, self.ray.address, self.namespace]
        assert subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split() == []


class Faults:
    """One kind a method; True: there was something to kill."""

    def __init__(self, cluster: OnRay, rng: random.Random) -> None:
        self.cluster, self.rng = cluster, rng

    def one(self, kind: str) -> None:
        while not getattr(self, kind)():
            time.sleep(0.2)

    def _kill_one(self, pids: list[int]) -> bool:
        with suppress(ProcessLookupError):
            if pids:
                os.kill(self.rng.choice(pids), signal.SIGKILL)
                return True
        return False

    def rank(self) -> bool:
        return self._kill_one([pid for one in self.cluster.supervisors() for pid in linux.children(one)])

    def supervisor(self) -> bool:
        return self._kill_one(self.cluster.supervisors())

    def actor(self) -> bool:
        with suppress(OSError):
            return self._kill_one([int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                                   for pid in self.cluster.supervisors()])  # fmt: skip
        return False

    def controller(self) -> bool:
        self.cluster.kill()
        self.cluster.spawn()
        return True

    def bridge(self) -> bool:
        assert self.cluster.process is not None
        return self._kill_one(linux.children(self.cluster.process.pid))

    def node(self) -> bool:
        """Its raylet; the node comes back at once, or after Ray has found it dead."""
        ray, name = self.cluster.ray, self.rng.choice(NODES)
        ray.kill(name, "raylet")
        time.sleep(self.rng.choice([0.0, 30.0]))
        ray.end_node(name)
        ray.add(name)
        return True


def submit(cluster: OnRay, rng: random.Random, codes: dict[int, int]) -> None:
    code = rng.choice([0, 0, 0, 3])
    number = len(codes)
    spec = cluster.spec(
        f"j{number}", steps=rng.choice([5, 10, 30, 60]), gpus=rng.choice([0.5, 1, 1, 2, 4]), code=code, checkpoints=rng.random() < 0.6,
        nodes=1, retry={"max": 50, "exit_codes": [KILLED]}, priority=rng.choice([0, 0, 1]),  # on two nodes its command would run twice
    )  # fmt: skip
    (id,) = cluster.insist(lambda client: client.submit_all([spec], key=f"key-{number}"))
    codes[id] = code


def run(cluster: OnRay, seed: int, count: int) -> dict[str, Any]:
    rng = random.Random(f"ray faults {seed}")
    print(f"seed {seed}")
    began_s = time.monotonic()
    cluster.spawn()
    cluster.until_it_answers()
    codes: dict[int, int] = {}
    done: Counter[str] = Counter()
    faults = Faults(cluster, rng)

    def active(client: Client) -> int:
        return len(client.jobs())

    kinds = [kind for kind, share in TENTHS.items() for _ in range(share * count // 10)]
    rng.shuffle(kinds)
    for kind in kinds:
        for _ in range(JOBS - cluster.insist(active)):
            submit(cluster, rng, codes)
        time.sleep(rng.uniform(0.5, 3.0))
        faults.one(kind)
        done[kind] += 1
    cluster.ended(list(codes))
    assert cluster.stop() == 0, cluster.log()
    cluster.nothing_in_ray()
    records = cluster.check(lost=True)
    assert {record.id for record in records} == codes.keys()
    for record in records:
        assert record.exit_code == codes[record.id], record
    return {"seed": seed, "faults": dict(done), "jobs": len(records), "attempts": sum(record.attempts for record in records),
            "preemptions": sum(record.preemptions for record in records), "lost": sum(record.failures for record in records),
            "took_s": round(time.monotonic() - began_s)}  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[OnRay]:
    ray = small_cluster(*NODES)
    made = OnRay(tmp_path, ray)
    try:
        yield made
    finally:
        made.close()
        ray.stop()


def test_ten_random_faults_lose_no_job_and_run_none_twice(cluster: OnRay) -> None:
    print(run(cluster, seed=int(os.environ.get("TRAINMASTER_SEED", "1")), count=10))


@pytest.mark.skipif("TRAINMASTER_LONG" not in os.environ, reason="a quarter of an hour: TRAINMASTER_LONG=1")
def test_a_hundred_random_faults_lose_no_job_and_run_none_twice(cluster: OnRay) -> None:
    print(run(cluster, seed=int(os.environ.get("TRAINMASTER_SEED", "2")), count=100))
