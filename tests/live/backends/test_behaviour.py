"""What every backend does, in the words of `live.backends.base`: the controller relies on nothing else."""

import ipaddress
import json
import os
import signal
import time
from pathlib import Path

import pytest

from trainmaster.live.backends.base import Seen

from .harness import Harness, alive

EVERY_BACKEND = ["local", pytest.param("slurm", marks=pytest.mark.slow), pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.ray])]
pytestmark = pytest.mark.parametrize("cluster", EVERY_BACKEND, indirect=True)


def test_a_job_ends_with_its_own_exit_code_and_its_output_is_in_its_log(cluster: Harness) -> None:
    seen, log = cluster.run(["sh", "-c", "echo to stdout; echo to stderr >&2; exit 3"])
    assert (seen.seen, seen.exit_code, seen.asked_to_stop) == (Seen.ENDED, 3, False)
    assert seen.started_s is not None and seen.ended_s is not None and seen.started_s <= seen.ended_s
    assert log == "to stdout\nto stderr\n"


def test_a_job_that_a_signal_ends_has_128_and_its_number(cluster: Harness) -> None:
    seen, _ = cluster.run(["sh", "-c", "kill -SEGV $$"])
    assert (seen.exit_code, seen.message) == (139, "ended by SIGSEGV")


@pytest.mark.parametrize(("command", "code"), [(["no-such-program"], 127), (["/etc"], 126)])
def test_a_command_that_cannot_be_run_ends_as_in_a_shell_and_says_so_in_the_log(cluster: Harness, command: list[str], code: int) -> None:
    seen, log = cluster.run(command)
    assert (seen.seen, seen.exit_code) == (Seen.ENDED, code)
    assert command[0] in log


def test_an_attempt_that_is_started_twice_runs_once(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "echo once >> out"])
    cluster.backend.start(attempt)
    cluster.until(attempt)
    cluster.backend.start(attempt)
    cluster.crash()
    cluster.backend.start(attempt)
    cluster.until(attempt)
    assert cluster.file("out") == "once"


def test_an_attempt_is_seen_until_it_is_forgotten_and_never_runs_again(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "echo once >> out"])
    cluster.until(attempt)
    cluster.backend.forget(attempt.job, 1)
    assert cluster.seen(attempt) is None
    assert "0" in cluster.backend.log_files(attempt.job, 1)
    cluster.backend.start(attempt)
    assert cluster.until(attempt).seen is Seen.REFUSED
    assert cluster.file("out") == "once"


def test_an_older_attempt_is_refused_after_a_newer_one(cluster: Harness) -> None:
    newer = cluster.start(["sh", "-c", "echo 2 >> out"], attempt=2)
    cluster.until(newer)
    older = cluster.start(["sh", "-c", "echo 1 >> out"], job=newer.job, attempt=1)
    refused = cluster.until(older)
    assert refused.seen is Seen.REFUSED and "superseded" in refused.message
    assert cluster.file("out") == "2"


def test_two_attempts_of_a_job_never_run_at_once(cluster: Harness) -> None:
    first = cluster.start(["sleep", "60"])
    cluster.running(first)
    second = cluster.start(["true"], job=first.job, attempt=2)
    assert cluster.until(second).seen is Seen.REFUSED
    assert cluster.running(first)


@pytest.mark.parametrize("gpus", [(5,), (4, 5)])
def test_what_does_not_fit_is_refused_with_a_reason_and_holds_nothing(cluster: Harness, gpus: tuple[int, ...]) -> None:
    refused = cluster.until(cluster.start(["true"], gpus=gpus))
    assert refused.seen is Seen.REFUSED and "free" in refused.message
    assert cluster.run(["true"], gpus=(4, 4))[0].exit_code == 0


def test_a_gang_starts_on_all_its_nodes_with_one_process_each(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "echo $SLURM_NODEID $SLURMD_NODENAME $SLURM_JOB_GPUS of $SLURM_JOB_NODELIST"], gpus=(2, 2))
    assert cluster.until(attempt).exit_code == 0
    assert [cluster.log(attempt, rank) for rank in ("0", "1")] == ["0 n1 0,1 of n1,n2\n", "1 n2 0,1 of n1,n2\n"]


def test_a_gang_that_cannot_start_whole_leaves_nothing(cluster: Harness) -> None:
    (cluster.folder / "out-1").mkdir()  # rank 1's output file cannot be opened
    attempt = cluster.start(["sh", "-c", "echo ran >> ran"], gpus=(2, 2), output="out-%t")
    refused = cluster.until(attempt)
    assert refused.seen is Seen.REFUSED and "out-1" in refused.message
    assert not (cluster.folder / "ran").exists()


def test_when_one_rank_fails_its_gang_ends_with_that_code(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "test $SLURM_PROCID = 1 && exit 9; sleep 60"], gpus=(1, 1))
    assert cluster.until(attempt).exit_code == 9


def test_gpus_are_given_once_and_are_free_again_when_their_job_is_gone(cluster: Harness) -> None:
    show = "echo $CUDA_VISIBLE_DEVICES; exec sleep 60"
    attempts = [cluster.start(["sh", "-c", show], gpus=(count,)) for count in (2, 1, 1, 0)]
    for attempt in attempts:
        cluster.running(attempt)
    shown = [cluster.wait(lambda one=attempt: cluster.log(one) or None).strip() for attempt in attempts]
    assert sorted(",".join(shown[:3]).split(",")) == ["0", "1", "2", "3"] and shown[3] == ""
    cluster.crash()  # who holds what is known again
    assert cluster.until(cluster.start(["true"], gpus=(1,))).seen is Seen.REFUSED
    cluster.backend.stop(attempts[0].job, 1, grace_s=0, reason="cancel")
    cluster.until(attempts[0])
    assert cluster.run(["sh", "-c", show.partition(";")[0]], gpus=(2,))[1].strip() == shown[0]


def test_fractions_share_one_gpu_where_the_backend_shares(cluster: Harness) -> None:
    show = "echo $CUDA_VISIBLE_DEVICES; exec sleep 60"
    if not cluster.backend.capabilities.share:
        refused = cluster.until(cluster.start(["true"], gpus=(0.5,)))
        assert refused.seen is Seen.REFUSED and "whole GPUs" in refused.message
        return
    attempts = []
    for count in (2, 0.5, 0.5, 0.25):
        attempts.append(cluster.start(["sh", "-c", show], gpus=(count,)))
        cluster.running(attempts[-1])  # what starts at once may be given its GPU in any order
    assert [cluster.wait(lambda one=attempt: cluster.log(one) or None).strip() for attempt in attempts] == ["0,1", "2", "2", "3"]
    cluster.crash()
    assert cluster.until(cluster.start(["true"], gpus=(1,))).seen is Seen.REFUSED


# -- stopping ---------------------------------------------------------------------------------------------------------------------------


def test_a_cancelled_job_gets_sigterm(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "trap 'echo asked; exit 7' TERM; echo ready > ready; while :; do sleep 0.01; done"])
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=20, reason="cancel")
    ended = cluster.until(attempt)
    assert (ended.seen, ended.exit_code, ended.asked_to_stop, ended.acknowledged) == (Seen.ENDED, 7, True, False)
    assert "asked\n" in cluster.log(attempt)


def test_a_job_that_ignores_sigterm_is_killed_at_the_deadline(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "trap '' TERM; echo ready > ready; sleep 60; sleep 60"])
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=0.4, reason="preempt")
    assert cluster.until(attempt, lambda one: one.seen is not Seen.RUNNING).seen is Seen.DRAINING
    assert cluster.until(attempt).exit_code == 128 + signal.SIGKILL


def test_stop_may_be_repeated_and_the_nearest_deadline_holds(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "trap '' TERM; echo ready > ready; sleep 60"])
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=1000, reason="preempt")
    cluster.backend.stop(attempt.job, 1, grace_s=0, reason="cancel")
    cluster.backend.stop(attempt.job, 1, grace_s=1000, reason="cancel")
    cluster.until(attempt)
    cluster.backend.stop(attempt.job, 1, grace_s=0, reason="cancel")
    cluster.backend.stop(4711, 1, grace_s=0, reason="cancel")  # never known: gone, then


def test_a_job_is_stopped_before_it_has_started(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "echo ran > ran"], setup="sleep 60")
    cluster.backend.stop(attempt.job, 1, grace_s=30, reason="cancel")
    ended = cluster.until(attempt)
    assert (ended.seen, ended.asked_to_stop, ended.started_s) == (Seen.ENDED, True, None)
    assert not (cluster.folder / "ran").exists()


def test_nothing_is_left_of_a_job_not_even_a_daemon_of_its_own_session(cluster: Harness) -> None:
    daemon = "(setsid sh -c 'trap \"\" TERM HUP; echo $$ > daemon; while :; do sleep 0.1; done' >/dev/null 2>&1 &)"
    attempt = cluster.start(["sh", "-c", f"{daemon}; while ! test -s daemon; do sleep 0.01; done; exit 0"])
    assert cluster.until(attempt).exit_code == 0
    assert not alive(int(cluster.file("daemon")))


def test_a_process_that_still_saves_when_sigterm_has_ended_its_shell_may_finish(cluster: Harness) -> None:
    (cluster.folder / "saver.py").write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), open('saved', 'w').write('all'), exit(0)))\n"
        "open('ready', 'w').write('yes')\n"
        "while True: time.sleep(1)\n"
    )
    attempt = cluster.start("$PYTHON saver.py\n")
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=20, reason="preempt")
    assert cluster.until(attempt).exit_code == 128 + signal.SIGTERM
    assert (cluster.folder / "saved").read_text() == "all"


def test_its_own_signal_comes_before_sigterm(cluster: Harness) -> None:
    script = "trap 'echo USR1' USR1; trap 'echo TERM; exit 0' TERM; echo ready > ready; while :; do sleep 0.01; done"
    attempt = cluster.start(["sh", "-c", script], signal={"number": signal.SIGUSR1, "before_s": 0.3})
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=20, reason="preempt")
    cluster.until(attempt)
    assert [line for line in cluster.log(attempt).splitlines() if line in ("USR1", "TERM")] == ["USR1", "TERM"]


@pytest.mark.parametrize(("batch_only", "who"), [(True, "shell"), (False, "child")])
def test_a_signal_goes_to_the_batch_shell_only_when_that_was_asked_for(cluster: Harness, batch_only: bool, who: str) -> None:
    script = (
        "#!/bin/bash\ntrap 'echo shell > who; exit' USR1\n"
        "bash -c 'trap \"echo child > who; exit\" USR1; echo ready > ready; while :; do sleep 0.01; done' &\nwait; wait\n"
    )
    attempt = cluster.start(script, signal={"number": signal.SIGUSR1, "before_s": 20, "batch_only": batch_only})
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=25, reason="preempt")
    assert cluster.file("who") == who


def test_a_signal_reaches_a_running_job(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "trap 'echo got it; exit 5' USR2; echo ready > ready; while :; do sleep 0.01; done"])
    cluster.file("ready")
    cluster.backend.signal(attempt.job, 1, signal.SIGUSR2)
    assert cluster.until(attempt).exit_code == 5


TRAINING = """
import json, mmap, os, struct, time
control = os.environ["TRAINMASTER_CONTROL"]
rank = int(os.environ.get("RANK", 0))
flag = mmap.mmap(os.open(f"{control}/flag", os.O_RDWR), 64)

def say(name, **content):
    with open(f"{control}/{name}.{rank}.tmp", "w") as file:
        json.dump(content, file)
    os.replace(f"{control}/{name}.{rank}.tmp", f"{control}/{name}")

if rank == 0:
    say("registered", rank=0, at_s=time.time())
for step in range(1, 1_000_000):
    time.sleep(0.005)
    asked, stop_step, margin, _ = struct.unpack("<4q", flag[:32])
    if step % 10 == 1 and rank == 0:
        say("progress", step=step, saved_step=None, rate=200.0, metrics={"loss": 1 / step, "bad": "x"}, at_s=time.time())
    if asked and rank == 0 and not stop_step:
        flag[8:16] = struct.pack("<q", step + margin)
    if stop_step and step >= stop_step:
        say(f"ack.{rank}", step=step, saved_step=step if rank == 0 else None, at_s=time.time())
        raise SystemExit(0)
"""


def test_a_training_job_stops_at_the_published_step_and_is_seen_as_preempted(cluster: Harness) -> None:
    (cluster.folder / "training.py").write_text(TRAINING)
    attempt = cluster.start("exec $PYTHON training.py\n")
    running = cluster.until(attempt, lambda one: one.checkpointed and (one.step or 0) > 10)
    assert (running.seen, running.rate, set(running.metrics)) == (Seen.RUNNING, 200.0, {"loss"})
    cluster.backend.stop(attempt.job, 1, grace_s=30, reason="preempt")
    ended = cluster.until(attempt)
    assert (ended.seen, ended.exit_code, ended.asked_to_stop, ended.acknowledged) == (Seen.ENDED, 0, True, True)
    assert ended.step == ended.saved_step and ended.step is not None and ended.step > 10


def test_a_gang_is_preempted_when_all_its_ranks_have_acknowledged(cluster: Harness) -> None:
    (cluster.folder / "training.py").write_text(TRAINING.replace("time.sleep(0.005)", "time.sleep(0.02)"))
    attempt = cluster.start("exec $PYTHON training.py\n", gpus=(2, 2), ranks="gpu")
    cluster.until(attempt, lambda one: one.checkpointed)
    cluster.backend.stop(attempt.job, 1, grace_s=30, reason="preempt")
    ended = cluster.until(attempt)
    assert (ended.exit_code, ended.asked_to_stop, ended.acknowledged) == (0, True, True)


def test_a_job_that_was_asked_and_simply_ends_has_not_acknowledged(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "trap 'exit 0' TERM; echo ready > ready; while :; do sleep 0.01; done"])
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=30, reason="preempt")
    ended = cluster.until(attempt)
    assert (ended.exit_code, ended.asked_to_stop, ended.acknowledged) == (0, True, False)


def test_the_control_folder_says_why_and_until_when(cluster: Harness) -> None:
    before_s = time.time()
    attempt = cluster.start(
        [
            "sh",
            "-c",
            "trap '' TERM; echo ready > ready; cd $TRAINMASTER_CONTROL; while ! test -s stop; do sleep 0.01; done; cat stop",
        ]
    )
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=30, reason="suspend")
    cluster.until(attempt)
    stop = json.loads(cluster.log(attempt))
    assert stop["reason"] == "suspend"
    assert before_s + 30 < stop["deadline_s"] < time.time() + 30


@pytest.mark.parametrize(
    "words", ['{"step": -3, "rate": 1e999, "metrics": {"a": NaN, "b": 2}}', "[1, 2", '{"step": "9", "metrics": 7}', "[" * 20_000]
)
def test_what_a_job_reports_is_not_taken_on_trust(cluster: Harness, words: str) -> None:
    (cluster.folder / "words").write_text(words)
    seen, _ = cluster.run(["sh", "-c", "cp words $TRAINMASTER_CONTROL/progress; mkfifo $TRAINMASTER_CONTROL/ack.0"])
    assert (seen.exit_code, seen.step, seen.rate) == (0, None, None)
    assert set(seen.metrics) <= {"b"}


def test_many_short_jobs_at_once_all_come_to_their_own_end(cluster: Harness) -> None:
    waiting = [cluster.attempt(["sh", "-c", f"exit {number % 3}"]) for number in range(cluster.many)]
    codes, running = {}, 0
    while len(codes) < cluster.many:
        while waiting and running < 4:
            cluster.backend.start(waiting.pop())
            running += 1
        for one in cluster.backend.observe():
            if one.ended_s is not None:
                codes[one.job] = (one.seen, one.exit_code)
                cluster.backend.forget(one.job, one.attempt)
                running -= 1
        cluster.changed.wait(0.05)
        cluster.changed.clear()
    assert codes == {number + 1: (Seen.ENDED, number % 3) for number in range(cluster.many)}


# -- faults -----------------------------------------------------------------------------------------------------------------------------


def test_a_controller_that_comes_back_finds_running_and_ended_attempts(cluster: Harness) -> None:
    running = cluster.start(["sh", "-c", "echo ready > ready; while ! test -e go; do sleep 0.01; done; exit 4"])
    over = cluster.start(["sh", "-c", "exit 6"])
    cluster.file("ready")
    cluster.until(over)
    meanwhile = cluster.start(["sh", "-c", "while ! test -e away; do sleep 0.01; done; echo gone > gone; exit 8"])
    cluster.running(meanwhile)
    cluster.backend.drop()
    (cluster.folder / "away").touch()
    cluster.file("gone")
    cluster.crash()
    assert cluster.until(over).exit_code == 6
    assert cluster.until(meanwhile).exit_code == 8
    assert cluster.running(running)
    (cluster.folder / "go").touch()
    assert cluster.until(running).exit_code == 4


def test_a_stop_that_was_asked_for_before_the_crash_goes_on(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "trap '' TERM; echo ready > ready; sleep 60"])
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=1, reason="cancel")
    cluster.crash()
    ended = cluster.until(attempt)
    assert (ended.exit_code, ended.asked_to_stop) == (137, True)


def test_a_job_asks_to_be_run_again(cluster: Harness) -> None:
    attempt = cluster.start("scontrol requeue $SLURM_JOB_ID && sleep 60\n")
    assert cluster.until(attempt, lambda one: one.requeue).seen is Seen.RUNNING


def test_the_environment_is_the_submitters_and_slurms_look_alikes(cluster: Harness) -> None:
    spec = {
        "env": {
            "MINE": "yes",
            "SLURM_JOB_ID": "outer",
            "TRAINMASTER_STATE": "/secret",
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_NTASKS": "4",
            "PATH": "/bin:/usr/bin",
        }
    }
    array = {"array_job": 900, "array_index": 3, "array": {"indices": (1, 3, 5)}}
    attempt = cluster.start(["env", "-0"], gpus=(2, 2), attempt=2, job=901, resumes=True, queue="research", name="a job", **spec, **array)
    assert cluster.until(attempt).exit_code == 0
    env = dict(pair.split("=", 1) for pair in cluster.log(attempt, "1").split("\0") if pair)
    assert "TRAINMASTER_STATE" not in env
    assert {name: env[name] for name in env if name.startswith("SLURM")} == {
        "SLURM_JOB_ID": "901", "SLURM_JOBID": "901", "SLURM_JOB_NAME": "a job", "SLURM_JOB_USER": cluster.user,
        "SLURM_JOB_PARTITION": "research",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n1,n2", "SLURM_NODELIST": "n1,n2", "SLURMD_NODENAME": "n2",
        "SLURM_NODEID": "1", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_GPUS": "0,1", "SLURM_CLUSTER_NAME": "trainmaster",
        "SLURM_SUBMIT_DIR": str(cluster.folder), "SLURM_RESTART_COUNT": "1", "SLURM_ARRAY_JOB_ID": "900", "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "5",
    }  # fmt: skip
    ours = {name: env[f"TRAINMASTER_{name}"] for name in ("JOB_ID", "ATTEMPT", "RESUMES")}
    assert ours == {"JOB_ID": "901", "ATTEMPT": "2", "RESUMES": "1"}
    assert (env["MINE"], env["PWD"]) == ("yes", str(cluster.folder))
    assert Path(env["TRAINMASTER_CHECKPOINT_DIR"]).is_dir()


def test_one_process_a_gpu_with_torchruns_variables(cluster: Harness) -> None:
    show = (
        "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR $CUDA_VISIBLE_DEVICES $SLURM_PROCID $SLURM_LOCALID"
    )
    attempt = cluster.start(["sh", "-c", show], gpus=(1, 2), ranks="gpu")
    assert cluster.until(attempt).exit_code == 0
    shown = [cluster.log(attempt, rank).split() for rank in ("0", "1", "2")]
    (address,) = {line.pop(5) for line in shown}  # where rank 0 is, by whatever name its node has
    assert ipaddress.ip_address(address).is_loopback or cluster.backend.name != "local"
    assert shown == [
        ["0", "0", "3", "1", "0", "0", "0", "0"],
        ["1", "0", "3", "2", "1", "0,1", "1", "0"],
        ["2", "1", "3", "2", "1", "0,1", "2", "1"],
    ]


def test_a_script_is_run_by_its_first_line_with_its_arguments_in_the_working_directory(cluster: Harness) -> None:
    _, log = cluster.run("#!/usr/bin/env python3\nimport os, sys\nprint(sys.argv[1:], os.getcwd())\n", script_args=("a b", "$HOME"))
    assert log == f"['a b', '$HOME'] {cluster.folder}\n"
    _, log = cluster.run("echo $0 | tail -c 7; echo $1\n", script_args=("x",))
    assert log == "script\nx\n"


def test_a_setup_runs_once_a_node_before_any_rank(cluster: Harness) -> None:
    attempt = cluster.start(
        ["sh", "-c", "cat on-*"], gpus=(2, 1), ranks="gpu", setup="sleep 0.1; echo $SLURMD_NODENAME >> on-$SLURMD_NODENAME"
    )
    assert cluster.until(attempt).exit_code == 0
    assert [cluster.log(attempt, rank) for rank in "012"] == ["n1\nn2\n"] * 3


def test_a_setup_that_fails_is_how_the_job_ends(cluster: Harness) -> None:
    seen, log = cluster.run(["sh", "-c", "echo ran"], setup="echo no such module; exit 12")
    assert (seen.seen, seen.exit_code, seen.started_s, log) == (Seen.ENDED, 12, None, "no such module\n")


def test_output_goes_to_the_files_that_were_asked_for(cluster: Harness) -> None:
    both = {"output": "%x-%j-%%-%3t.out", "error": "logs/%A_%a.err", "array_job": 7, "array_index": 2, "name": "net"}
    (cluster.folder / "logs").mkdir()
    attempt = cluster.start(["sh", "-c", "echo out; echo err >&2"], job=9, **both)
    assert cluster.until(attempt).exit_code == 0
    assert (cluster.folder / "net-9-%-000.out").read_text() == cluster.log(attempt) == "out\n"
    assert (cluster.folder / "logs/7_2.err").read_text() == cluster.log(attempt, "0.err") == "err\n"


@pytest.mark.parametrize(("append", "text"), [(True, "1\n2\n"), (False, "2\n")])
def test_a_later_attempt_appends_to_its_output_or_begins_anew(cluster: Harness, append: bool, text: str) -> None:
    first = cluster.start(["sh", "-c", "echo $TRAINMASTER_ATTEMPT"], output="out", append=append)
    cluster.until(first)
    cluster.until(cluster.start(["sh", "-c", "echo $TRAINMASTER_ATTEMPT"], job=first.job, attempt=2, output="out", append=append))
    assert (cluster.folder / "out").read_text() == text


def test_a_name_never_leads_an_output_file_out_of_its_folder(cluster: Harness) -> None:
    attempt = cluster.start(["echo", "here"], name="..", output="%x/out")
    refused = cluster.until(attempt)
    assert refused.seen is Seen.REFUSED and "_/out" in refused.message
    assert not (cluster.folder.parent / "out").exists()


def test_an_output_that_would_wait_for_a_reader_is_refused(cluster: Harness) -> None:
    os.mkfifo(cluster.folder / "pipe")
    assert cluster.until(cluster.start(["echo", "x"], output="pipe")).seen is Seen.REFUSED


def test_a_job_starts_with_the_signals_and_the_streams_of_a_shell(cluster: Harness) -> None:
    _, log = cluster.run(["sh", "-c", "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls -l /proc/self/fd | grep -v proc; umask"])
    blocked, ignored, *rest = log.splitlines()
    set_by_programs = ~(1 << 31 | 1 << 32)  # 32 and 33 are the C library's own: whoever started the tests may have left them ignored
    assert [int(line.split()[1], 16) & set_by_programs for line in (blocked, ignored)] == [0, 0]
    assert [line.split()[-3] for line in rest[1:-1]] == ["0", "1", "2"]
    assert "/dev/null" in rest[1] and int(rest[-1], 8) == _umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_working_directory_that_is_not_there_is_refused(cluster: Harness) -> None:
    refused = cluster.until(cluster.start(["true"], workdir="/no/such/folder"))
    assert refused.seen is Seen.REFUSED and "/no/such/folder" in refused.message


def test_a_snapshot_is_where_the_job_runs(cluster: Harness, tmp_path: Path) -> None:
    _, log = cluster.run(["sh", "-c", "pwd; echo $SLURM_SUBMIT_DIR"], snapshot=str(tmp_path))
    assert log == f"{tmp_path}\n{cluster.folder}\n"


def test_a_shell_enters_a_running_attempt_and_ends_with_it(cluster: Harness) -> None:
    import subprocess

    attempt = cluster.start(["sleep", "60"], env={"MINE": "yes", "PATH": "/bin:/usr/bin", "SHELL": "/bin/bash"})
    cluster.running(attempt)
    argv = [*cluster.backend.shell(attempt.job, 1), "echo $MINE $SLURM_JOB_ID $PWD; exec sleep 60"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == f"yes {attempt.job} {cluster.folder}\n"
        cluster.backend.stop(attempt.job, 1, grace_s=5, reason="cancel")
        cluster.until(attempt)
        assert inside.wait(10) in (-signal.SIGKILL, 128 + signal.SIGKILL)  # the second: through srun
