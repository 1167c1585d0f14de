"""A whole program of Ray as a job: its tasks run on what the job was given, and go with it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import Harness, alive
from trainmaster.live.backends.base import Seen
from trainmaster.live.backends.ray import RayBackend

pytestmark = [pytest.mark.slow, pytest.mark.ray]

DRIVER = """
import json, os, time
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

ray.init(namespace=os.environ["TRAINMASTER_RAY_NAMESPACE"], log_to_driver=False)
group = ray.util.get_placement_group(os.environ["TRAINMASTER_PLACEMENT_GROUP"])
ours = PlacementGroupSchedulingStrategy(group)

@ray.remote(num_gpus=1, num_cpus=0, scheduling_strategy=ours)
class Task:
    def where(self):
        return os.environ["CUDA_VISIBLE_DEVICES"], ray.get_runtime_context().get_node_id(), os.getpid()

tasks = [Task.remote() for _ in range(3)]
with open("tasks.part", "w") as file:
    json.dump(ray.get([task.where.remote() for task in tasks]), file)
os.rename("tasks.part", "tasks")
while not os.path.exists("go"):
    time.sleep(0.05)
raise SystemExit(4)
"""


@pytest.fixture
def site(ray_cluster: Any, tmp_path: Path) -> Iterator[Harness]:
    work = tmp_path / "work"
    work.mkdir()
    (work / "driver.py").write_text(DRIVER)
    made = Harness(lambda: RayBackend(tmp_path / "state", ray_cluster.address, node_folder=tmp_path / "nodes"), work)
    yield made
    made.close()


def start(site: Harness) -> Any:
    env = {"PATH": os.environ["PATH"], "HOME": str(site.folder), "RAY_USAGE_STATS_ENABLED": "0"}
    return site.start([sys.executable, "driver.py"], gpus=(2, 1), ray_driver=True, env=env)


def test_its_tasks_run_on_the_gpus_of_the_job_and_nobody_else_is_counted(site: Harness) -> None:
    attempt = start(site)
    tasks = json.loads(site.file("tasks"))
    nodes = sorted(node for _, node, _ in tasks)
    assert len(set(nodes)) == 2 and len({(node, gpu) for gpu, node, _ in tasks}) == 3
    assert all(node.others_gpus == 0 for node in site.backend.inventory())
    refused = site.until(site.start(["true"], gpus=(3,)))
    assert refused.seen is Seen.REFUSED and "free" in refused.message
    (site.folder / "go").touch()
    assert site.until(attempt).exit_code == 4
    site.wait(lambda: None if any(alive(pid) for _, _, pid in tasks) else True)
    assert site.run(["true"], gpus=(4, 4))[0].exit_code == 0


def test_it_is_stopped_with_its_tasks(site: Harness) -> None:
    attempt = start(site)
    tasks = json.loads(site.file("tasks"))
    site.backend.stop(attempt.job, 1, grace_s=1, reason="cancel")
    assert site.until(attempt).asked_to_stop
    site.wait(lambda: None if any(alive(pid) for _, _, pid in tasks) else True)
