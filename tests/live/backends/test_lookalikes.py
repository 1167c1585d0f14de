"""Commands of Slurm's that a batch script finds on its PATH inside a job."""

import itertools
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.live.backends.base import Seen
from trainmaster.live.node.linux import free_port
from trainmaster.live.node.lookalikes import _expand, python

from .harness import Harness


@pytest.mark.parametrize(
    ("listed", "hosts"),
    [
        ("n1", "n1"),
        ("n[1-3],m", "n1 n2 n3 m"),
        ("gpu-[08-11,20]", "gpu-08 gpu-09 gpu-10 gpu-11 gpu-20"),
        ("r[1-2]n[1-2].cs", "r1n1.cs r1n2.cs r2n1.cs r2n2.cs"),
        ("n[5-3]", ""),
        ("", ""),
    ],
)
def test_hostnames_are_expanded_as_slurm_does(listed: str, hosts: str) -> None:
    shown = subprocess.run([*python("scontrol"), "show", "hostnames", listed], capture_output=True, text=True, check=True).stdout
    assert shown.split() == hosts.split()


@given(st.lists(st.from_regex(r"[a-z]{1,4}-?[0-9]{1,3}", fullmatch=True), min_size=1, max_size=6))
def test_a_plain_list_is_itself(names: list[str]) -> None:
    assert _expand(",".join(names)) == names


def test_a_list_of_more_hosts_than_there_can_be_takes_no_longer_than_its_bound() -> None:
    assert len(_expand("n[1-99999][1-99999][1-99999]")) == 100_000


@given(st.text("abc[]-,0123456789", max_size=30))
def test_no_list_however_broken_is_more_than_its_bound(listed: str) -> None:
    assert len(_expand(listed)) <= 100_000


def test_srun_runs_a_process_a_task_with_ranks_over_all_nodes(cluster: Harness) -> None:
    script = "#!/bin/bash\nsrun -l sh -c 'echo $SLURM_PROCID/$SLURM_NTASKS $SLURM_LOCALID on $SLURMD_NODENAME'\n"
    env = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "PATH": "/bin:/usr/bin"}
    attempt = cluster.start(script, gpus=(2, 2), env=env)
    assert cluster.until(attempt).exit_code == 0
    said = sorted(itertools.chain(*(cluster.log(attempt, rank).splitlines() for rank in "01")))
    assert said == ["0: 0/4 0 on n1", "1: 1/4 1 on n1", "2: 2/4 0 on n2", "3: 3/4 1 on n2"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-n 3", ["0 of 3", "1 of 3", "2 of 3"]),
        ("-n1", ["0 of 1"]),
        ("--ntasks=2 --cpus-per-task 4 --mem=1G --kill-on-bad-exit=1 -K", ["0 of 2", "1 of 2"]),
        ("-N 1 --ntasks-per-node=2 --gres gpu:1", ["0 of 2", "1 of 2"]),
        ("-lu -n1", ["0: 0 of 1"]),
        ("-u --export=ALL,MORE=1", ["0 of 1"]),
    ],
)
def test_sruns_options_that_say_how_many(cluster: Harness, options: str, said: list[str]) -> None:
    seen, log = cluster.run(f"srun {options} sh -c 'echo $SLURM_PROCID of $SLURM_NTASKS'\n")
    assert (seen.exit_code, sorted(log.splitlines())) == (0, said)


def test_an_option_that_srun_does_not_know_is_named(cluster: Harness) -> None:
    seen, log = cluster.run("srun --het-group=1 true\n")
    assert seen.exit_code == 1 and "--het-group" in log


def test_srun_ends_with_the_largest_exit_code_of_its_tasks(cluster: Harness) -> None:
    assert cluster.run("srun -n3 sh -c 'exit $((SLURM_PROCID * 2))'\n")[0].exit_code == 4
    assert cluster.run("srun no-such-program\n")[0].exit_code == 2


def test_a_task_that_fails_ends_the_others_where_srun_was_told_so(cluster: Harness) -> None:
    task = "test $SLURM_PROCID = 1 && { while ! test -e ready; do sleep 0.01; done; exit 3; }; (touch ready; sleep 60); exit 0"
    assert cluster.run(f"srun -n2 -K sh -c '{task}'\n")[0].exit_code == 128 + 15
    assert cluster.run("srun -n2 -K0 sh -c 'sleep 0.$((3 - SLURM_PROCID)); exit $((3 * SLURM_PROCID))'\n")[0].exit_code == 3


def test_srun_ends_when_nobody_reads_its_labelled_lines_on(cluster: Harness) -> None:
    seen, log = cluster.run("#!/bin/bash\nsrun -l -n2 yes | head -n 1\necho ${PIPESTATUS[0]}\n")
    assert seen.exit_code == 0
    assert log.splitlines() in (["0: y", str(128 + 13)], ["1: y", str(128 + 13)])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("", ["0 in", "1 "]),
        ("--input=all", ["0 in", "1 "]),
        ("--input 1", ["0 ", "1 in"]),
        ("-i none", ["0 ", "1 "]),
        ("-i words", ["0 words", "1 words"]),
        ("-i words-%t", ["0 words 0", "1 words 1"]),
    ],
)
def test_what_sruns_tasks_read(cluster: Harness, option: str, said: list[str]) -> None:
    for name, text in (("words", "words"), ("words-0", "words 0"), ("words-1", "words 1")):
        (cluster.folder / name).write_text(f"{text}\n")
    seen, log = cluster.run(f"echo in | srun -n2 {option} sh -c 'read -r line; echo $SLURM_PROCID \"$line\"'\n")
    assert (seen.exit_code, sorted(log.splitlines())) == (0, said)


def test_a_file_or_a_folder_that_srun_has_not_is_named(cluster: Harness) -> None:
    for options, missing in (("-i no-such-file", "no-such-file"), ("-D no-such-folder", "no-such-folder")):
        seen, log = cluster.run(f"srun {options} true\n")
        assert (seen.exit_code, log) == (2, f"srun: error: {missing}: No such file or directory\n")


def test_many_tasks_with_files_of_their_own_need_no_more_open_files_than_one(cluster: Harness) -> None:
    assert cluster.run("ulimit -n 32; srun -n 40 -o out-%t -e err-%t -i /dev/null sh -c 'echo $SLURM_PROCID'\n")[0].exit_code == 0
    assert (cluster.folder / "out-39").read_text() == "39\n"


def test_a_steps_tasks_per_node_are_its_own(cluster: Harness) -> None:
    script = "srun -N2 -n3 sh -c 'echo $SLURM_STEP_TASKS_PER_NODE $SLURM_TASKS_PER_NODE'; echo $SLURM_TASKS_PER_NODE\n"
    seen, log = cluster.run(script, gpus=(1, 1), ranks="batch")
    assert (seen.exit_code, log.splitlines()) == (0, ["2,1 2,1"] * 3 + ["1(x2)"])


def test_srun_writes_each_task_to_its_own_file(cluster: Harness) -> None:
    attempt = cluster.start("srun --output out-%j-%t.txt --error err-%2t.txt -n2 sh -c 'echo $SLURM_PROCID; echo e >&2'\n")
    assert cluster.until(attempt).exit_code == 0
    assert [(cluster.folder / f"out-{attempt.job}-{task}.txt").read_text() for task in (0, 1)] == ["0\n", "1\n"]
    assert (cluster.folder / "err-01.txt").read_text() == "e\n"


def test_a_signal_before_the_stop_reaches_sruns_tasks_and_not_srun(cluster: Harness) -> None:
    """What Lightning and submitit do: on their signal they save, ask to be requeued, and go on until they are stopped."""
    save = "scontrol requeue $SLURM_JOB_ID; echo saved > saved"
    script = f"srun bash -c 'trap \"{save}\" USR1; echo ready > ready; while :; do sleep 0.02; done'\n"
    attempt = cluster.start(script, signal={"number": 10, "before_s": 30})
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=60, reason="preempt")
    draining = cluster.until(attempt, lambda one: one.requeue)
    assert draining.seen is Seen.DRAINING and cluster.file("saved") == "saved"


@pytest.mark.parametrize("which", ["$SLURM_JOB_ID", "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"])
def test_a_job_is_requeued_by_its_id_or_as_an_array_task(cluster: Harness, which: str) -> None:
    seen, log = cluster.run(f"scontrol requeue {which}\n", array_job=40, array_index=2)
    assert (seen.exit_code, seen.requeue, log) == (0, True, "")


def test_a_job_cannot_requeue_another(cluster: Harness) -> None:
    seen, log = cluster.run("scontrol requeue 4711\n")
    assert (seen.exit_code, seen.requeue) == (1, False) and "4711" in log


def test_a_job_is_shown_what_it_is(cluster: Harness) -> None:
    seen, log = cluster.run("scontrol show job $SLURM_JOB_ID\n", name="net")
    assert seen.exit_code == 0 and "JobName=net" in log and f"WorkDir={cluster.folder}" in log


def test_the_ordinary_head_of_a_multi_node_script_works(cluster: Harness) -> None:
    script = (
        "#!/bin/bash\n#SBATCH --nodes=2\nset -e\nnodes=($(scontrol show hostnames $SLURM_JOB_NODELIST))\nexport MASTER_ADDR=${nodes[0]}\n"
        "srun --ntasks-per-node=1 bash -c 'echo $SLURM_NODEID $MASTER_ADDR $SLURM_NNODES'\n"
    )
    attempt = cluster.start(script, gpus=(1, 1))
    assert cluster.until(attempt).exit_code == 0
    assert [cluster.log(attempt, rank) for rank in "01"] == ["0 n1 2\n", "1 n1 2\n"]


def test_a_batch_script_runs_on_the_first_node_alone_and_srun_in_it_on_all(cluster: Harness) -> None:
    script = (
        "#!/bin/bash\necho script on $SLURMD_NODENAME\n"
        "srun sh -c 'echo task $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME $SLURM_NODEID gpus $CUDA_VISIBLE_DEVICES'\n"
        "srun -N1 -n1 -w n2 sh -c 'echo alone on $SLURMD_NODENAME'\n"
        "srun --ntasks-per-node=2 --gpus-per-task=1 sh -c 'echo each $SLURM_PROCID $SLURM_LOCALID gpu $CUDA_VISIBLE_DEVICES'\n"
    )
    attempt = cluster.start(script, gpus=(2, 2), ranks="batch")
    assert cluster.until(attempt).exit_code == 0

    lines = cluster.log(attempt).splitlines()
    assert lines[0] == "script on n1"
    assert sorted(lines[1:3]) == ["task 0 of 2 on n1 0 gpus 0,1", "task 1 of 2 on n2 1 gpus 0,1"]
    assert lines[3] == "alone on n2"
    assert sorted(lines[4:]) == ["each 0 0 gpu 0", "each 1 1 gpu 1", "each 2 0 gpu 0", "each 3 1 gpu 1"]
    assert list(cluster.backend.log_files(attempt.job, 1)) == ["0"]


def test_a_node_that_is_not_the_jobs_is_no_place_for_srun(cluster: Harness) -> None:
    seen, log = cluster.run("srun -w n7 true\n", gpus=(1, 1), ranks="batch")
    assert seen.exit_code == 1 and "--nodelist: n7 is not among the nodes of this job, n1,n2" in log


def test_a_multi_node_script_of_pytorchs_documentation_runs_unmodified(cluster: Harness) -> None:
    """Its head asks for the first node's address, and all ranks must hear of one rendezvous: $RANDOM is drawn once."""
    pytest.importorskip("torch")
    (cluster.folder / "reduce.py").write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "sum = torch.tensor([dist.get_rank() + 1.0])\n"
        "dist.all_reduce(sum)\n"
        "print(f'rank {dist.get_rank()} of {dist.get_world_size()}: {sum.item():g}\\n', end='')\n"  # in one write: torchrun has no buffer
        "dist.destroy_process_group()\n"
    )
    script = """#!/bin/bash
#SBATCH --job-name=multinode-example
#SBATCH --nodes=2
#SBATCH --ntasks=2
#SBATCH --gpus-per-task=1

nodes=( $( scontrol show hostnames $SLURM_JOB_NODELIST ) )
head_node=${nodes[0]}
head_node_ip=$(srun --nodes=1 --ntasks=1 -w "$head_node" sh -c 'echo 127.0.0.1')
export LOGLEVEL=ERROR OMP_NUM_THREADS=1

srun torchrun --nnodes 2 --nproc_per_node 1 --rdzv_id $RANDOM --rdzv_backend c10d --rdzv_endpoint $head_node_ip:PORT reduce.py
""".replace("PORT", str(free_port("127.0.0.1")))
    attempt = cluster.start(script, gpus=(1, 1), ranks="batch")

    assert cluster.until(attempt).exit_code == 0, cluster.log(attempt)
    said = [line for line in cluster.log(attempt).splitlines() if line.startswith("rank")]
    assert sorted(said) == ["rank 0 of 2: 3", "rank 1 of 2: 3"]


def test_a_submitit_function_runs_under_its_own_srun_line(cluster: Harness) -> None:
    """submitit's batch script, made by submitit, run here: the result comes back through its own files."""
    pickled = (
        "import sys; from submitit.core import utils; from submitit.slurm import slurm; import pathlib\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "utils.DelayedSubmission(divmod, 17, 5).dump(folder / f'{sys.argv[2]}_submitted.pkl')\n"
        "command = f'{sys.executable} -u -m submitit.core._submit {folder}'\n"
        "(folder / 'script.sh').write_text(slurm._make_sbatch_string(command, str(folder), time=5))\n"
    )
    attempt = cluster.attempt("true")
    subprocess.run([str(Path(python("srun")[0])), "-c", pickled, str(cluster.folder), str(attempt.job)], check=True)
    ran = cluster.start((cluster.folder / "script.sh").read_text(), job=attempt.job)
    ended = cluster.until(ran)
    assert ended.exit_code == 0, cluster.log(ran)
    result = "import sys, pickle; print(pickle.load(open(sys.argv[1], 'rb')))"
    where = cluster.folder / f"{attempt.job}_0_result.pkl"
    shown = subprocess.run([str(Path(python("srun")[0])), "-c", result, str(where)], check=True, capture_output=True, text=True).stdout
    assert shown == "('success', (3, 2))\n"
