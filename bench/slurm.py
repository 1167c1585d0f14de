"""What Trainmaster costs on top of Slurm, on a real one (scripts/slurm_cluster.py; needs root and Slurm's packages). Prints a table.

    python bench/slurm.py [--jobs N]

From a submission to the first process, ours beside a plain sbatch, one at a time on an idle cluster; the controller's time for a job;
from the submission of a job that is preferred to its first process, past one that checkpoints and stops. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from slurm_cluster import SmallCluster

from trainmaster.live.client import Client

CHECKPOINTS = r"""
step=0
echo '{"rank": 0}' > $TRAINMASTER_CONTROL/r.tmp && mv $TRAINMASTER_CONTROL/r.tmp $TRAINMASTER_CONTROL/registered
while ! test -e $TRAINMASTER_CONTROL/stop; do sleep 0.05; step=$((step + 1)); done
echo "{\"step\": $step, \"saved_step\": $step}" > $TRAINMASTER_CONTROL/a.tmp && mv $TRAINMASTER_CONTROL/a.tmp $TRAINMASTER_CONTROL/ack.0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder:
        slurm = SmallCluster(Path(folder) / "slurm", nodes=2, gpus=4, prefix="bench")
        slurm.start()
        try:
            with controller(Path(folder), slurm) as (client, pid):
                measure(Path(folder), slurm, client, pid, jobs)
        finally:
            slurm.stop()


def measure(folder: Path, slurm: SmallCluster, client: Client, pid: int, jobs: int) -> None:
    print(f"{'from the submission to the first process, s':50}{'median':>9}{'worst':>9}")
    gang = ("--nodes=2", "--ntasks-per-node=1")
    for what, one in {
        "one GPU, sbatch": lambda: plain(folder, slurm, "exec date +%s.%N"),
        "one GPU, Trainmaster": lambda: ours(client, gpus=1),
        "two nodes, sbatch and srun": lambda: plain(folder, slurm, "srun --mpi=none date +%s.%N", *gang),
        "two nodes, Trainmaster": lambda: ours(client, gpus=2, nodes=2),
    }.items():
        waited_s = []
        for _ in range(jobs):
            slurm.wait(lambda: not slurm.run("squeue", "-h"), 30)
            time.sleep(random.uniform(0.5, 1.5))  # slurmctld starts jobs at once or at the end of its second: out of step with it
            waited_s.append(one())
        print(f"{what:50}{statistics.median(waited_s):9.2f}{max(waited_s):9.2f}")
    before_s = cpu_s(pid)
    ids = client.submit_all([job("true") for _ in range(10 * jobs)])
    began_s = time.monotonic()
    wait_for(client, ids)
    took_s = time.monotonic() - began_s
    print(f"{'the controller, CPU ms a job':50}{(cpu_s(pid) - before_s) / len(ids) * 1e3:9.1f}")
    print(f"{'one-line jobs a second, 8 GPUs':50}{len(ids) / took_s:9.1f}")
    waited_s = [preempted(client) for _ in range(max(3, jobs // 4))]
    print(f"{'preferred job, past one that stops, s':50}{statistics.median(waited_s):9.2f}{max(waited_s):9.2f}")


def job(*command: str, **more: Any) -> dict[str, Any]:
    return {"command": list(command), "workdir": "/tmp", "env": {"PATH": os.environ["PATH"]}, **more}


def ours(client: Client, **amounts: Any) -> float:
    began_s = time.time()
    (id,) = client.submit(job("true", **amounts))
    wait_for(client, [id])
    (attempt,) = client.attempts(id)
    return float(attempt["start_s"] - began_s)


def plain(folder: Path, slurm: SmallCluster, line: str, *options: str) -> float:
    said = folder / "said"
    said.unlink(missing_ok=True)
    (folder / "script").write_text(f"#!/bin/sh\n{line}\n")
    began_s = time.time()
    slurm.run("sbatch", "--gres=gpu:1", f"--output={said}", "--chdir=/tmp", *options, str(folder / "script"))
    assert slurm.wait(lambda: said.exists() and said.read_text().strip(), 30)
    return min(map(float, said.read_text().split())) - began_s


def preempted(client: Client) -> float:
    (first,) = client.submit(job("sh", "-c", CHECKPOINTS, gpus=8, preemptible=True))
    until(lambda: client.job(first)["state"] == "RUNNING")
    time.sleep(3)
    began_s = time.time()
    (winner,) = client.submit(job("sleep", "1", gpus=8))
    wait_for(client, [winner])
    client.cancel([first])
    wait_for(client, [first])
    return float(client.attempts(winner)[0]["start_s"] - began_s)


def wait_for(client: Client, ids: list[int]) -> None:
    client.wait(max(ids))  # answered when it has ended: to ask again and again would cost the controller what is measured here
    until(lambda: not {job["id"] for job in client.jobs()} & set(ids))


def until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.05)


def cpu_s(pid: int) -> float:
    """Its own, and that of the commands it called."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def controller(folder: Path, slurm: SmallCluster) -> Iterator[tuple[Client, int]]:
    state, config = folder / "state", folder / "config.yaml"
    config.write_text("rules: {min_run_s: 0}\n")
    where = ["--state", str(state), "--port", "0", "--config", str(config), "--policy", "las", "--set", "quantum_s=1"]
    command = [sys.executable, "-m", "trainmaster.cli.main", "up", "--backend", "slurm", *where]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr, env={**os.environ, **slurm.env}) as process:
        try:
            until(lambda: (state / "address").exists())
            yield Client.of_state(state), process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


if __name__ == "__main__":
    main()
