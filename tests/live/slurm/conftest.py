"""The Slurm backend under the harness of the behaviour tests, and the cluster under it."""

import getpass
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import Harness
from live.slurm.accounts import Site
from live.slurm.cluster import why_not
from trainmaster.live.backends.slurm import SlurmBackend

SOMEONE, NOT_OURS = "someone", "tm-00000000-1.1.0-job"  # names of jobs that a test submits by itself


@pytest.fixture
def cluster(slurm: Any, tmp_path: Path) -> Iterator[Harness]:
    """Two nodes of four GPUs, all daemons up before and after."""
    work = tmp_path / "work"
    work.mkdir()
    daemons = pids(slurm)
    harness = Harness(lambda: SlurmBackend(tmp_path / "state"), work, user=getpass.getuser())
    yield harness
    mend(slurm)
    harness.end_all()
    for name in (SOMEONE, NOT_OURS):
        slurm.run("scancel", f"--name={name}")
    assert slurm.wait(lambda: not slurm.run("squeue", "-h", fails=True), 30), slurm.run("squeue", "-h", fails=True)
    harness.backend.close()
    if pids(slurm) != daemons:  # a slurmctld that lost its state gives ids again that slurmd still knows: the next test begins anew
        slurm.stop()
        slurm.start()


def pids(slurm: Any) -> list[int | None]:
    return [slurm.pid(daemon) for daemon in ("slurmctld", *(f"slurmd.{name}" for name in slurm.names))]


def counts_gpus_of_nobody(node: str) -> bool:
    """Slurm 22.05 may, once slurmctld was killed and a job began a second life: it gives these GPUs to nobody until it counts anew."""
    return " State=IDLE " in node and re.search(r"GresUsed=gpu:\w+:[1-9]", node) is not None


def mend(slurm: Any) -> None:
    """What a test has killed is there again; what Slurm drained because of it (a second life of a job: "Duplicate jobid") is resumed."""
    for name in slurm.names:
        if not slurm.alive(f"slurmd.{name}"):
            slurm.start_node(name)

    def whole() -> bool:
        if not slurm.alive("slurmctld"):  # or it was, and died of what it found: a job whose script it had not saved
            slurm.start_controller()
        states = dict(line.split() for line in slurm.run("sinfo", "-h", "-N", "-o", "%N %T", fails=True).splitlines())
        for name in (name for name, state in states.items() if state.startswith(("drain", "down"))):
            slurm.run("scontrol", "update", f"nodename={name}", "state=resume", fails=True)
        if any(map(counts_gpus_of_nobody, slurm.run("scontrol", "show", "node", "-d", "-o", fails=True).splitlines())):
            slurm.run("scontrol", "reconfigure", fails=True)
        return set(states) == set(slurm.names) and set(states.values()) <= {"idle", "mixed", "allocated", "completing"}

    assert slurm.wait(whole, 40), slurm.run("sinfo", "-N", "-o", "%N %T %E", fails=True)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Of site mode."""
    absent = [name for name in ("sudo", "visudo", "useradd") if shutil.which(name) is None]
    if reason := f"{', '.join(absent)} not installed" if absent else why_not():
        pytest.skip(reason)
    before, made = os.environ.get("SLURM_CONF"), Site()
    try:
        made.begin()
        yield made
    finally:
        made.end()
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
