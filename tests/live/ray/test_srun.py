"""A batch script of several nodes on Ray: it runs on the first, and `srun` in it starts tasks on all, which go when they are to go."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import Harness, alive
from live.ray.cluster import small_cluster
from trainmaster.live.backends.base import Attempt, Seen
from trainmaster.live.backends.ray import RayBackend
from trainmaster.live.node import folder as files
from trainmaster.live.node.linux import free_port

pytestmark = [pytest.mark.slow, pytest.mark.ray]

class Site(Harness):
    def __init__(self, cluster: Any, folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        self.nodes = folder / "nodes"
        super().__init__(lambda: RayBackend(folder / "state", cluster.address, node_folder=self.nodes), work)

    def batch(self, script: str, **about: Any) -> Attempt:
        return self.start(f"#!/bin/bash\n{script}", ranks="batch", **{"gpus": (2, 2), **about})

    def lines(self, script: str, **about: Any) -> list[str]:
        attempt = self.batch(script, **about)
        assert self.until(attempt).exit_code == 0, self.log(attempt)
        return self.log(attempt).splitlines()

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"{text}\n")

    def pid(self, name: str) -> int:
        return int(self.file(name))

    def gone(self, *pids: int) -> None:
        self.wait(lambda: None if any(map(alive, pids)) else True)

    def cancel(self, attempt: Attempt, grace_s: float = 20) -> None:
        self.backend.stop(attempt.job, attempt.attempt, grace_s=grace_s, reason="cancel")


@pytest.fixture
def site(ray_cluster: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(ray_cluster, tmp_path)
    yield made
    made.close()


def test_a_script_runs_on_the_first_node_and_srun_in_it_on_all(site: Site) -> None:
    lines = site.lines(
        "echo script on $SLURMD_NODENAME\n"
        "srun sh -c 'echo task $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME $SLURM_NODEID gpus $CUDA_VISIBLE_DEVICES'\n"
        "srun -N1 -n1 -w n2 sh -c 'echo alone on $SLURMD_NODENAME; echo its errors >&2'\n"
        "srun --ntasks-per-node=2 --gpus-per-task=1 sh -c 'echo each $SLURM_PROCID $SLURM_LOCALID gpu $CUDA_VISIBLE_DEVICES'\n"
        "srun -l -n3 sh -c 'echo labelled $SLURM_LOCALID'\n"
        "srun -o out-%t -n2 sh -c 'echo $SLURMD_NODENAME'; cat out-0 out-1\n"
    )
    assert lines[0] == "script on n1"
    assert sorted(lines[1:3]) == ["task 0 of 2 on n1 0 gpus 0,1", "task 1 of 2 on n2 1 gpus 0,1"]
    assert sorted(lines[3:5]) == ["alone on n2", "its errors"]
    assert sorted(lines[5:9]) == ["each 0 0 gpu 0", "each 1 1 gpu 1", "each 2 0 gpu 0", "each 3 1 gpu 1"]
    assert sorted(lines[9:12]) == ["0: labelled 0", "1: labelled 1", "2: labelled 0"]
    assert lines[12:] == ["n1", "n2"]


def test_a_task_elsewhere_has_the_scripts_environment_and_folder_and_the_control_folder_of_its_own_node(site: Site) -> None:
    (site.folder / "below").mkdir()
    lines = site.lines(
        "export MINE='two words' PATH=/first:$PATH; unset HOME; cd below\n"
        "srun -N1 -n1 -w n2 sh -c 'pwd; echo $MINE ${HOME-no home}; echo $TRAINMASTER_CONTROL; echo $PATH; command -v srun'\n"
    )
    control = f"/node-n2/jobs/1/1/{files.CONTROL}"
    assert lines[:2] == [f"{site.folder}/below", "two words no home"]
    assert lines[2].endswith(control)
    here = f"{lines[2].removesuffix('/jobs/1/1/control')}/bin"
    assert lines[3].startswith(f"/first:{here}:") and lines[4] == f"{here}/srun"


def test_the_setup_of_a_script_runs_on_every_node_and_each_has_its_log(site: Site) -> None:
    attempt = site.batch("srun -N1 -n1 -w n2 cat made-on-n2\n", setup="echo setup on $SLURMD_NODENAME | tee made-on-$SLURMD_NODENAME")
    assert site.until(attempt).exit_code == 0, site.log(attempt)
    assert [site.log(attempt, log) for log in "01"] == ["setup on n1\nsetup on n2\n", "setup on n2\n"]


def test_srun_ends_with_the_largest_exit_code_wherever_that_was(site: Site) -> None:
    lines = site.lines(
        "srun sh -c 'exit $((SLURM_PROCID * 3 + 1))'; echo $?\nsrun -w n2 -N1 sh -c 'kill -9 $$'; echo $?\n"
        "srun -w n2 -N1 no-such-program; echo $?\nsrun -w n2 -N1 -D /no/such/folder true; echo $?\nsrun true; echo $?\n"
    )
    assert [line for line in lines if line.isdecimal()] == ["4", "137", "127", "2", "0"]
    assert any("no-such-program" in line for line in lines) and any("/no/such/folder" in line for line in lines)


def test_two_sruns_run_at_once_and_many_one_after_the_other(site: Site) -> None:
    meet = "touch {}; until test -e {}; do sleep 0.02; done; echo $SLURMD_NODENAME"
    lines = site.lines(
        f"srun -N1 -n1 -w n2 sh -c '{meet.format('a', 'b')}' &\nsrun -N1 -n1 -w n2 sh -c '{meet.format('b', 'a')}' &\nwait\n"
        "for i in $(seq 20); do srun sh -c 'echo $SLURM_PROCID'; done\nsrun --ntasks-per-node 24 sh -c 'echo many'\n"
    )
    assert lines[:2] == ["n2", "n2"]
    assert sorted(lines[2:42]) == ["0"] * 20 + ["1"] * 20
    assert lines[42:] == ["many"] * 48


def test_all_output_of_a_task_elsewhere_arrives_however_slowly_it_is_read(site: Site) -> None:
    task = "$PYTHON -c \"for i in range(2_000_000): print(f'{i:07}')\""
    lines = site.lines(
        f"srun -N1 -n1 -w n2 {task} | ( sleep 3; sha256sum )\n{task} | sha256sum\n"
        f"srun -N1 -n1 -w n2 {task} | head -n 1; echo ${{PIPESTATUS[0]}}\n"
    )
    assert lines[0] == lines[1]
    assert lines[2] == "0000000" and lines[3] != "0"  # nobody read on


def test_a_stop_reaches_the_tasks_of_every_node_once_and_then_nothing_is_left(site: Site) -> None:
    site.program("task", "trap 'echo asked; rm up' TERM; setsid sleep 9 & echo $! > daemon\ntouch up; while test -e up; do :; done; exit 3")
    attempt = site.batch("trap : TERM; srun -N1 -n1 -w n2 bash task; echo srun $?; exit 9\n")
    daemon = site.pid("daemon")
    site.wait(lambda: (site.folder / "up").exists() or None)
    site.cancel(attempt)
    ended = site.until(attempt)
    assert (ended.seen, ended.exit_code, ended.asked_to_stop) == (Seen.ENDED, 9, True)
    assert site.log(attempt).splitlines() == ["asked", "srun 3"]
    assert not alive(daemon)


@pytest.mark.parametrize("how", ["killed", "over"])
def test_nothing_is_left_on_any_node_when_the_script_is_killed_or_over(site: Site, how: str) -> None:
    site.program("task", "trap '' TERM; (setsid sleep 300 & echo $! > daemon &); echo $$ > pid; while :; do sleep 0.02; done")
    end = "wait" if how == "killed" else "until test -s daemon -a -s pid; do sleep 0.02; done; exit 6"
    attempt = site.batch(f"srun -N1 -n1 -w n2 bash task &\n{end}\n")
    pids = site.pid("pid"), site.pid("daemon")
    if how == "killed":
        site.cancel(attempt, 0.5)
    ended = site.until(attempt)
    assert ended.seen is Seen.ENDED and (how == "killed" or ended.exit_code == 6)
    assert not any(map(alive, pids))
    assert site.run(["true"], gpus=(4, 4))[0].exit_code == 0  # nor of its GPUs


def test_a_controller_that_dies_disturbs_no_srun_and_a_signal_reaches_its_tasks(site: Site) -> None:
    site.program("task", "trap 'echo heard; exit 0' USR1; touch up-$SLURM_PROCID; while :; do :; done")
    attempt = site.batch("srun bash task; echo after $?\n")
    for task in "01":
        site.wait(lambda task=task: (site.folder / f"up-{task}").exists() or None)
    site.crash()
    site.running(attempt)
    site.backend.signal(attempt.job, 1, signal.SIGUSR1)
    assert site.until(attempt).exit_code == 0
    assert site.log(attempt).splitlines() == ["heard", "heard", "after 0"]


def test_an_actor_that_is_lost_fails_the_srun_and_loses_the_attempt(site: Site) -> None:
    attempt = site.batch("trap : TERM; srun -N1 -n1 -w n2 sh -c 'echo $$ > pid; exec sleep 300'; echo srun $?\n")
    task = site.pid("pid")
    (path,) = site.nodes.glob(f"*/node-n2/jobs/{attempt.job}/1/{files.SUPERVISOR}")
    supervisor = (files.read_json(str(path)) or {})["pid"]
    actor = int(Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(actor, signal.SIGKILL)
    lost = site.until(attempt)
    assert lost.seen is Seen.LOST, lost
    assert not alive(task)
    said = site.log(attempt).splitlines()
    assert said[-1].startswith("srun ") and said[-1] != "srun 0", said
    again = replace(attempt, attempt=2, spec=attempt.spec.model_copy(update={"script": "#!/bin/sh\nsrun echo again\n"}))
    site.backend.start(again)
    assert (site.until(again).exit_code, site.log(again)) == (0, "again\nagain\n")


def test_a_node_that_is_lost_during_an_srun_loses_the_attempt_and_leaves_nothing(tmp_path: Path) -> None:
    cluster = small_cluster("n1", "n2")
    site = Site(cluster, tmp_path)
    try:
        attempt = site.batch("srun sh -c 'echo $$ > pid-$SLURM_PROCID; exec sleep 300'\n")
        pids = site.pid("pid-0"), site.pid("pid-1")
        cluster.kill("n2", "raylet")
        site.gone(pids[1])
        assert site.until(attempt).seen is Seen.LOST
        site.gone(*pids)
    finally:
        site.close()
        cluster.stop()


def test_a_multi_node_script_of_pytorchs_documentation_runs_unmodified(site: Site) -> None:
    pytest.importorskip("torch")
    (site.folder / "reduce.py").write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "sum = torch.tensor([dist.get_rank() + 1.0])\n"
        "dist.all_reduce(sum)\n"
        "print(f'rank {dist.get_rank()} of {dist.get_world_size()}: {sum.item():g}\\n', end='')\n"
        "dist.destroy_process_group()\n"
    )
    attempt = site.batch(
        "nodes=( $( scontrol show hostnames $SLURM_JOB_NODELIST ) )\nhead_node=${nodes[0]}\n"
        "head_node_ip=$(srun --nodes=1 --ntasks=1 -w \"$head_node\" sh -c 'echo 127.0.0.1')\n"
        "export LOGLEVEL=ERROR OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=lo\n"
        "srun $PYTHON -m torch.distributed.run --nnodes 2 --nproc_per_node 1 --rdzv_id $RANDOM --rdzv_backend c10d "
        f"--rdzv_endpoint $head_node_ip:{free_port('127.0.0.1')} reduce.py\n",
        gpus=(1, 1),
    )
    assert site.until(attempt).exit_code == 0, site.log(attempt)
    said = [line for line in site.log(attempt).splitlines() if line.startswith("rank")]
    assert sorted(said) == ["rank 0 of 2: 3", "rank 1 of 2: 3"]
