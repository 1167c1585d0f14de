"""What Slurm does when parts of it die or answers are lost: a job runs once, or is seen as lost and leaves nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import OVER, Harness, alive
from trainmaster.errors import BackendError
from trainmaster.live.backends.base import Attempt, Observation, Seen
from trainmaster.live.backends.slurm import SlurmBackend
from trainmaster.live.backends.slurm_parsing import Partition
from trainmaster.live.node import folder as files

from .conftest import NOT_OURS, SOMEONE, mend

ONCE = "echo $$ >> ran; while ! test -e go; do sleep 0.05; done; exit 4"


def let_go(cluster: Harness) -> None:
    (cluster.folder / "go").touch()


def runs(cluster: Harness) -> int:
    ran = cluster.folder / "ran"
    return len(ran.read_text().split()) if ran.exists() else 0


def slurm_jobs(slurm: Any) -> list[str]:
    return slurm.run("squeue", "-h", "-o", "%j").split()


# -- answers that are lost ----------------------------------------------------------------------------------------------------------------


def test_a_submission_whose_acknowledgement_is_lost_is_found_by_its_name(cluster: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm, submit, calls = cluster.backend.slurm, cluster.backend.slurm.submit, []

    def lost(asked: Any) -> int:
        calls.append(submit(asked))
        raise BackendError("sbatch: no answer within 12 s")

    monkeypatch.setattr(slurm, "submit", lost)
    attempt = cluster.start(["sh", "-c", ONCE])
    cluster.running(attempt)
    let_go(cluster)
    assert cluster.until(attempt).exit_code == 4
    assert (len(calls), runs(cluster)) == (1, 1)


@pytest.mark.slow
def test_a_submission_that_slurm_never_got_is_made_again(cluster: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm, submit, calls = cluster.backend.slurm, cluster.backend.slurm.submit, []

    def fails_first(asked: Any) -> int:
        calls.append(asked.name)
        if len(calls) == 1:
            raise BackendError("sbatch: no answer within 12 s")
        return submit(asked)

    monkeypatch.setattr(slurm, "submit", fails_first)
    let_go(cluster)
    assert cluster.run(["sh", "-c", ONCE])[0].exit_code == 4
    assert (len(calls), runs(cluster)) == (2, 1)


@pytest.mark.slow
def test_what_slurm_refuses_twice_while_it_answers_is_refused_in_its_words(cluster: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Partition(name="no-such-partition", default=False, up=True, most_min=None)
    monkeypatch.setattr(cluster.backend, "_partition", lambda *_: unknown)
    refused = cluster.until(cluster.start(["true"]))
    assert refused.seen is Seen.REFUSED and "sbatch" in refused.message, refused


@pytest.mark.slow
def test_a_job_that_slurm_has_twice_runs_once_and_the_other_goes(slurm: Any, cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", ONCE], gpus=(1,))
    cluster.running(attempt)
    part = cluster.backend._live[attempt.job, 1].parts[0]
    cluster.backend.slurm.submit(part.asked)  # as of a controller that was killed while its sbatch was on its way
    cluster.wait(lambda: len(slurm_jobs(slurm)) == 1 or None)
    let_go(cluster)
    assert cluster.until(attempt).exit_code == 4
    assert runs(cluster) == 1


@pytest.mark.slow
def test_a_job_of_this_controllers_name_that_it_does_not_know_is_cancelled(slurm: Any, cluster: Harness) -> None:
    attempt = cluster.start(["true"])
    part = cluster.backend._live[attempt.job, 1].parts[0]
    cluster.until(attempt)
    cluster.backend.forget(attempt.job, 1)
    slurm.run("sbatch", f"--job-name={part.asked.name}", "--output=/dev/null", "--wrap=sleep 60")
    assert cluster.wait_some(lambda: not slurm_jobs(slurm))


def test_a_name_that_another_user_could_have_given_and_a_reused_id_are_no_identity(slurm: Any, cluster: Harness) -> None:
    slurm.run("sbatch", f"--job-name={NOT_OURS}", "--output=/dev/null", "--wrap=sleep 60")  # another controller's job 1
    attempt = cluster.start(["sh", "-c", ONCE])
    cluster.running(attempt)
    let_go(cluster)
    assert cluster.until(attempt).exit_code == 4
    assert cluster.wait_some(lambda: slurm_jobs(slurm) == [NOT_OURS])


# -- the controller -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.05, *(pytest.param(age_s, marks=pytest.mark.slow) for age_s in (0, 0.3, 1, 3, 10))])
def test_a_controller_killed_after_a_submission_finds_the_job_again(cluster: Harness, after_s: float) -> None:
    attempt = cluster.start(["sh", "-c", ONCE])
    time.sleep(after_s)
    cluster.crash()
    cluster.backend.start(attempt)  # it is told again
    cluster.running(attempt)
    let_go(cluster)
    assert cluster.until(attempt).exit_code == 4
    assert runs(cluster) == 1


def test_a_job_that_ends_while_no_controller_watches_has_its_exit_code(slurm: Any, cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", ONCE])
    cluster.running(attempt)
    cluster.backend.drop()
    let_go(cluster)
    slurm.wait(lambda: not slurm_jobs(slurm), 20)
    cluster.crash()
    ended = cluster.until(attempt)
    assert (ended.seen, ended.exit_code) == (Seen.ENDED, 4)


@pytest.mark.slow
def test_a_controller_starts_while_slurm_is_away(slurm: Any, cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", ONCE])
    cluster.running(attempt)
    slurm.end("slurmctld", signal.SIGKILL)
    slurm.wait(lambda: not slurm.alive("slurmctld"), 5)
    cluster.crash()
    assert [node.name for node in cluster.backend.inventory()] == ["n1", "n2"]
    assert cluster.running(attempt)
    later = cluster.start(["true"])
    let_go(cluster)
    assert cluster.until(attempt).exit_code == 4  # its end needs no slurmctld
    mend(slurm)
    assert cluster.until(later).exit_code == 0


# -- slurmctld ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age_s", [1.5, *(pytest.param(age_s, marks=pytest.mark.slow) for age_s in (0.3, 3.0, 7.0))])
def test_slurmctld_killed_soon_after_a_submission_loses_the_job_or_keeps_it_but_never_runs_it_twice(
    slurm: Any, cluster: Harness, age_s: float
) -> None:
    """It saves its jobs every 5 s: a younger one is forgotten, or put back into the queue and started again."""

    def over_on_mended(one: Observation) -> bool:
        if "UnavailableNodes" in one.message:  # slurmd may drain its node of the first life after we have looked
            mend(slurm)
        return one.seen in OVER

    attempt = cluster.start(["sh", "-c", ONCE])
    cluster.running(attempt)
    started = cluster.file("ran")
    time.sleep(age_s)
    slurm.end("slurmctld", signal.SIGKILL)
    slurm.wait(lambda: not slurm.alive("slurmctld"), 5)
    slurm.start_controller()
    time.sleep(4)
    mend(slurm)  # it may have died again, of a job whose script it had not saved, or have drained a node
    seen = cluster.seen(attempt)
    if seen is not None and seen.seen is Seen.RUNNING and alive(int(started)):
        let_go(cluster)
        ended = cluster.until(attempt)
        assert (ended.seen, ended.exit_code) == (Seen.ENDED, 4) or ended.seen is Seen.LOST
    else:
        assert cluster.until(attempt).seen is Seen.LOST
        assert not alive(int(started))
        let_go(cluster)
        for number in (2, 3):  # the forgotten job's id is given anew: what slurmd says late of the first may end the second
            cluster.backend.forget(attempt.job, number - 1)
            ended = cluster.until(cluster.start(["sh", "-c", ONCE], job=attempt.job, attempt=number), over_on_mended)
            if ended.seen is not Seen.LOST:
                break
        assert ended.exit_code == 4, ended
    time.sleep(1)
    assert runs(cluster) <= 3


def test_a_second_life_of_an_attempt_ends_at_once_and_says_that_the_first_is_gone(slurm: Any, cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", ONCE])
    cluster.running(attempt)
    folder = files.attempt_folder(cluster.backend.state, attempt.job, 1)
    supervisor = files.read_json(f"{folder}/nodes/0/{files.SUPERVISOR}")
    assert supervisor is not None
    submit = cluster.backend._live[attempt.job, 1].parts[0].asked
    rank = int(cluster.file("ran"))
    cluster.backend.drop()
    os.kill(supervisor["pid"], signal.SIGKILL)
    slurm.wait(lambda: not slurm_jobs(slurm), 20)
    cluster.backend.slurm.submit(submit)
    slurm.wait(lambda: not slurm_jobs(slurm), 20)
    cluster.crash()
    lost = cluster.until(attempt)
    assert lost.seen is Seen.LOST and "second time" in lost.message
    assert runs(cluster) == 1 and not alive(rank)


# -- nodes --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_supervisor_that_is_killed_is_lost_and_takes_all_with_it(cluster: Harness) -> None:
    daemon = "(setsid sh -c 'trap \"\" TERM HUP; echo $$ > daemon; while :; do sleep 0.1; done' >/dev/null 2>&1 &)"
    attempt = cluster.start(["sh", "-c", f"{daemon}; {ONCE}"], gpus=(1, 1))
    cluster.running(attempt)
    daemon_pid = int(cluster.file("daemon"))
    os.kill(supervisor_of(cluster, attempt, 1), signal.SIGKILL)
    assert cluster.until(attempt).seen is Seen.LOST
    assert cluster.wait_some(lambda: not alive(daemon_pid))
    again = cluster.start(["sh", "-c", "exit 0"], job=attempt.job, attempt=2)
    assert cluster.until(again).exit_code == 0


def supervisor_of(cluster: Harness, attempt: Attempt, node: int) -> int:
    path = f"{files.attempt_folder(cluster.backend.state, attempt.job, attempt.attempt)}/nodes/{node}/{files.SUPERVISOR}"
    return int(cluster.wait(lambda: files.read_json(path))["pid"])


@pytest.mark.parametrize("comes_back", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_jobs_do_not_mind_that_slurmd_is_killed(slurm: Any, cluster: Harness, comes_back: bool) -> None:
    attempt = cluster.start(["sh", "-c", ONCE])
    cluster.running(attempt)
    slurm.end("slurmd.n1", signal.SIGKILL)
    slurm.wait(lambda: not slurm.alive("slurmd.n1"), 5)
    if comes_back:
        slurm.start_node("n1")
    time.sleep(0.5)
    let_go(cluster)
    ended = cluster.until(attempt)
    assert (ended.seen, ended.exit_code, runs(cluster)) == (Seen.ENDED, 4, 1)


@pytest.mark.slow
def test_a_stop_reaches_a_job_on_a_node_whose_slurmd_is_gone(slurm: Any, cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", ONCE])
    cluster.running(attempt)
    slurm.end("slurmd.n1", signal.SIGKILL)
    slurm.end("slurmctld", signal.SIGKILL)
    cluster.backend.stop(attempt.job, 1, grace_s=5, reason="preempt")
    ended = cluster.until(attempt)
    assert (ended.seen, ended.exit_code) == (Seen.ENDED, 128 + signal.SIGTERM)


@pytest.mark.slow
def test_a_node_that_slurm_gives_up_loses_its_job_which_ends_though_its_processes_had_lived_on(slurm: Any, cluster: Harness) -> None:
    """NODE_FAIL after SlurmdTimeout, while slurmstepd and all below it still run: they are fenced and end themselves."""
    attempt = cluster.start(["sh", "-c", ONCE])
    cluster.running(attempt)
    rank = int(cluster.file("ran"))
    slurm.end("slurmd.n1", signal.SIGKILL)
    slurm.wait(lambda: not slurm_jobs(slurm), 120)
    lost = cluster.until(attempt)
    assert lost.seen is Seen.LOST and not alive(rank)
    nodes = cluster.wait(lambda: [node for node in cluster.backend.inventory() if not node.up] or None)
    assert [node.name for node in nodes] == ["n1"]


# -- others -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gpus_of_jobs_that_are_not_ours_are_taken(slurm: Any, cluster: Harness) -> None:
    ours = cluster.start(["sleep", "60"], gpus=(1, 1))
    cluster.running(ours)
    slurm.run("sbatch", "--nodelist=n2", "--gres=gpu:2", "--output=/dev/null", f"--job-name={SOMEONE}", "--wrap=sleep 60")
    taken = cluster.wait(lambda: {node.name: node.others_gpus for node in cluster.backend.inventory()} == {"n1": 0, "n2": 2} or None)
    assert taken
    slurm.run("scancel", f"--name={SOMEONE}")
    assert cluster.wait_some(lambda: not any(node.others_gpus for node in cluster.backend.inventory()))


def test_other_users_jobs_are_refused(cluster: Harness) -> None:
    cluster.user = "somebody-else"
    refused = cluster.until(cluster.start(["true"]))
    assert refused.seen is Seen.REFUSED and "somebody-else" in refused.message


def test_a_gang_with_different_amounts_on_its_nodes_starts_whole(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "echo $SLURM_NODEID $SLURM_GPUS_ON_NODE $CUDA_VISIBLE_DEVICES"], gpus=(2, 1))
    assert cluster.until(attempt).exit_code == 0
    assert [cluster.log(attempt, rank) for rank in "01"] == ["0 2 0,1\n", "1 1 0\n"]


def test_srun_in_a_batch_script_starts_tasks_on_all_nodes_by_slurms_own(cluster: Harness) -> None:
    show = "echo $SLURM_PROCID/$SLURM_NTASKS $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $PWD"
    script = f"#!/bin/bash\necho $RANDOM >> ran\nsrun -l bash -c '{show}'\n"
    for gpus in ((2, 2), (2, 1)):
        attempt = cluster.start(script, gpus=gpus, ranks="batch")
        assert cluster.until(attempt).exit_code == 0, cluster.log(attempt)
        here, there = (",".join(map(str, range(count))) for count in gpus)
        said = sorted(cluster.log(attempt).splitlines())
        assert said == [f"0: 0/2 n1 {here} {cluster.folder}", f"1: 1/2 n2 {there} {cluster.folder}"]
    assert runs(cluster) == 2


@pytest.mark.slow
def test_tasks_of_srun_on_other_nodes_end_with_their_script_and_its_stop(cluster: Harness) -> None:
    task = "trap 'echo $SLURM_PROCID >> stopped; exit 9' TERM; echo $$ >> pids; while :; do sleep 0.05; done"
    (cluster.folder / "task").write_text(task)
    attempt = cluster.start("#!/bin/bash\nexec srun bash task\n", gpus=(1, 1), ranks="batch")
    assert cluster.wait_some(lambda: len(cluster.file("pids").split()) == 2)
    pids = cluster.file("pids").split()
    cluster.backend.stop(attempt.job, 1, grace_s=20, reason="preempt")
    assert cluster.until(attempt).exit_code == 9
    assert sorted((cluster.folder / "stopped").read_text().split()) == ["0", "1"]
    assert not any(alive(int(pid)) for pid in pids)


@pytest.mark.slow
def test_a_gang_that_waits_for_one_of_its_nodes_is_stopped_whole(slurm: Any, cluster: Harness) -> None:
    """2 GPUs of n1 and all of n2, where another has one: n1's supervisors wait, and go."""
    slurm.run("sbatch", "--nodelist=n2", "--gres=gpu:1", "--output=/dev/null", f"--job-name={SOMEONE}", "--wrap=sleep 60")
    slurm.wait(lambda: "R" in slurm.run("squeue", "-h", "-o", "%t"), 10)
    attempt = cluster.start(["sh", "-c", ONCE], gpus=(2, 4))
    supervisor = supervisor_of(cluster, attempt, 0)
    cluster.backend.stop(attempt.job, 1, grace_s=5, reason="cancel")
    ended: Observation = cluster.until(attempt)
    assert (ended.seen, ended.started_s, ended.asked_to_stop) == (Seen.ENDED, None, True)
    assert cluster.wait_some(lambda: not alive(supervisor) and slurm_jobs(slurm) == [SOMEONE])
    assert runs(cluster) == 0


def test_the_state_folder_is_this_controllers_own_name_on_the_cluster(tmp_path: Path, slurm: Any) -> None:
    names = []
    for folder in ("one", "two", "one"):
        backend = SlurmBackend(tmp_path / folder)
        backend.open(lambda: None)
        names.append(backend._site)
        backend.close()
    assert names[0] == names[2] != names[1]
