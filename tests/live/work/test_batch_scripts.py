"""Batch scripts as they are written for Slurm, submitted unmodified: their options, what they find inside, what they wait for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .cluster import Cluster, write

ORDINARY = r"""#!/bin/bash
#SBATCH --job-name=ordinary
#SBATCH --nodes=1
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=1
#SBATCH --gres=gpu:2
#SBATCH --mem=100M
#SBATCH -t 0-00:10:00
#SBATCH --mail-type=NONE
#SBATCH -o %x-%j.out
#SBATCH --error=%x-%j.err
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR=$head
echo "$SLURM_JOB_NAME on $SLURM_NNODES node(s), $SLURM_NTASKS tasks, GPUs $CUDA_VISIBLE_DEVICES, from $SLURM_SUBMIT_DIR: $1"
test "$head" = "$SLURMD_NODENAME"
echo "to standard error" >&2
srun bash -c 'echo "task $SLURM_PROCID of $SLURM_NTASKS, local $SLURM_LOCALID, head $MASTER_ADDR" > task.$SLURM_PROCID'
srun --ntasks=1 --exclusive sh -c 'exit 3' || echo "srun says $?"
"""


def test_an_ordinary_batch_script_runs_unmodified(up: Cluster, tmp_path: Path) -> None:
    (tmp_path / "ordinary.sh").write_text(ORDINARY)
    id = up.submit("ordinary.sh", "an argument", cwd=tmp_path)
    up.succeeded(id)
    node = up.client.nodes()[0]["name"]
    out = (tmp_path / f"ordinary-{id}.out").read_text().splitlines()
    assert out == [f"ordinary on 1 node(s), 2 tasks, GPUs 0,1, from {tmp_path}: an argument", "srun says 3"]
    assert (tmp_path / f"ordinary-{id}.err").read_text() == "to standard error\n"
    for rank in (0, 1):
        assert (tmp_path / f"task.{rank}").read_text() == f"task {rank} of 2, local {rank}, head {node}\n"


def test_an_array_runs_once_an_index_with_files_of_its_own_and_no_more_than_its_limit_at_a_time(up: Cluster, tmp_path: Path) -> None:
    body = ["#!/bin/sh", "#SBATCH --array=2-8:2%2", "#SBATCH -o out/%A_%a.txt", "date +%s.%N", "sleep 0.3", "date +%s.%N",
            "echo $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT, $SLURM_ARRAY_TASK_MIN to $SLURM_ARRAY_TASK_MAX"]  # fmt: skip
    write(tmp_path / "array.sh", body)
    (tmp_path / "out").mkdir()
    first = up.submit("--wait", "array.sh", cwd=tmp_path)
    outputs = {path.name: path.read_text().splitlines() for path in (tmp_path / "out").iterdir()}
    assert {name: lines[2] for name, lines in outputs.items()} == {f"{first}_{k}.txt": f"{k} of 4, 2 to 8" for k in (2, 4, 6, 8)}
    spans = sorted((float(lines[0]), float(lines[1])) for lines in outputs.values())
    assert all(sum(begin <= other < end for begin, end in spans) <= 2 for other, _ in spans)


def test_jobs_wait_for_one_another_as_told_and_those_that_never_can_run_end(up: Cluster, tmp_path: Path) -> None:
    good = up.submit("--", "sleep", "0.5", cwd=tmp_path)
    bad = up.submit("--", "sh", "-c", "sleep 0.5; exit 9", cwd=tmp_path)
    after = {
        "ok": up.submit("-d", f"afterok:{good}", "--", "sh", "-c", "date +%s.%N > ok", cwd=tmp_path),
        "any": up.submit("--dependency", f"afterany:{good}:{bad}", "--", "touch", "any", cwd=tmp_path),
        "not": up.submit(f"--dependency=afternotok:{bad}", "--", "touch", "not", cwd=tmp_path),
        "never": up.submit("-d", f"afterok:{bad}", "--", "touch", "never", cwd=tmp_path),
    }
    ended = {name: up.ended(id) for name, id in after.items()}
    states = {name: job["state"] for name, job in ended.items()}
    assert states == {"ok": "SUCCEEDED", "any": "SUCCEEDED", "not": "SUCCEEDED", "never": "CANCELLED"}
    assert ended["ok"]["start_s"] >= up.job(good)["finish_s"]
    assert "afterok" in ended["never"]["reason"] and not (tmp_path / "never").exists()
    assert up.job(bad)["exit_code"] == 9 and up.job(bad)["state"] == "FAILED"


def test_a_job_is_tried_again_for_the_exit_codes_it_names_and_no_others(up: Cluster, tmp_path: Path) -> None:
    write(tmp_path / "job.yaml", ["run: echo . >> tries; exit 7", "retry: {max: 2, exit_codes: [7, 8]}"])
    write(tmp_path / "other.yaml", ["run: echo . >> others; exit 9", "retry: {max: 2, exit_codes: [7, 8]}"])
    id, other = up.submit("job.yaml", cwd=tmp_path), up.submit("other.yaml", cwd=tmp_path)
    assert [up.ended(id)["state"], up.ended(other)["state"]] == ["FAILED", "FAILED"]
    assert (tmp_path / "tries").read_text() == ".\n" * 3 and up.job(id)["attempts"] == 3
    assert (tmp_path / "others").read_text() == ".\n" and up.job(other)["exit_code"] == 9


SIGNALLED = """#!/bin/bash
#SBATCH --signal=B:USR1@{lead}
#SBATCH --time={limit}
#SBATCH --requeue
save() {{ echo "the shell saves, on attempt ${{SLURM_RESTART_COUNT:-0}}" >> told; {then}; exit 0; }}
trap save USR1
[ -e told ] && {again}
python -c '
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: open("told", "a").write("the child heard\\n"))
open("ready", "w")
time.sleep(60)' &
wait
"""


def test_the_batch_shell_alone_gets_its_signal_before_the_limit_and_requeues(up: Cluster, tmp_path: Path) -> None:
    then = "scontrol requeue $SLURM_JOB_ID"
    (tmp_path / "signalled.sh").write_text(SIGNALLED.format(lead=8, limit="0:10", then=then, again="exit 0"))
    id = up.submit("signalled.sh", cwd=tmp_path)
    job = up.succeeded(id)
    assert (tmp_path / "told").read_text() == "the shell saves, on attempt 0\n", up.tell(id)
    assert job["attempts"] == 2 and job["preemptions"] == 0
    first = up.client.attempts(id)[0]
    ran_s = first["end_s"] - first["start_s"]
    assert 1.9 < ran_s < 9.9, up.tell(id)


def test_a_job_that_says_requeue_is_warned_by_its_own_signal_before_it_is_stopped_for_another(up: Cluster, tmp_path: Path) -> None:
    again = "{ echo again >> told; exit 0; }"
    (tmp_path / "signalled.sh").write_text(SIGNALLED.format(lead=120, limit="1:00:00", then="true", again=again))
    id = up.submit("--gpus", "4", "signalled.sh", cwd=tmp_path)
    up.until(lambda: (tmp_path / "ready").exists(), about=id)
    winner = up.submit("--gpus", "4", "--priority", "5", "--", "true")
    up.succeeded(winner)
    job = up.ended(id)
    assert (tmp_path / "told").read_text().startswith("the shell saves, on attempt 0\n"), up.tell(id)
    assert "the child heard" not in (tmp_path / "told").read_text()
    assert job["state"] == "SUCCEEDED"


def test_a_job_that_outlives_its_limit_is_timed_out(up: Cluster) -> None:
    id = up.submit("--time", "0:01", "--", "sleep", "60")
    assert up.ended(id)["state"] == "TIMEOUT"
    assert "TIMEOUT" in up.call("acct", "-j", str(id), "-o", "State", "-n")


def test_a_snapshot_runs_with_the_files_as_they_were_when_it_was_submitted(up: Cluster, tmp_path: Path) -> None:
    for words in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("secret\n")
    (tmp_path / "secret").write_text("not known to git")
    (tmp_path / "answer.txt").write_text("as it was")
    blocker = up.submit("--gpus", "4", "--", "sleep", "2")
    id = up.submit("--snapshot", "--", "sh", "-c", "cat answer.txt; test ! -e secret", cwd=tmp_path)
    (tmp_path / "answer.txt").write_text("changed since")
    up.succeeded(blocker)
    up.succeeded(id)
    assert up.output(id) == "as it was"


HOSTILE = ["a b  c", "$(touch pwned)", "; touch pwned", "'\"`", "<b>bold<b>", "--help", "%j%x", "naïve ☃", "\u202eevil"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_a_name_and_nothing_else(up: Cluster, tmp_path: Path, name: str) -> None:
    id = up.submit(f"--name={name}", "-o", "%x.%j.out", "--", "sh", "-c", 'printf %s "$SLURM_JOB_NAME"', cwd=tmp_path)
    up.succeeded(id)
    assert up.job(id)["name"] == name
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{id}.out"}
    assert (tmp_path / f"{name}.{id}.out").read_text() == name
    assert up.output(id) == name
    assert str(id) in up.call("queue", "--all") and str(id) in up.call("show", str(id))


@pytest.mark.parametrize("name", ["a/b", "../../etc/passwd", "a\nb", "", "x" * 201, "</script>"])
def test_a_name_that_could_be_a_path_or_a_line_is_refused(up: Cluster, name: str) -> None:
    up.call("submit", f"--name={name}", "--", "true", exits=2)
