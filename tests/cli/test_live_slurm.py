"""The look-alikes of Slurm's commands: what tools that call them send and read."""

import os
import subprocess

import pytest

from trainmaster.live.states import State

submitit = pytest.importorskip("submitit.slurm.slurm")


def submit(trainmaster, tmp_path, text="#!/bin/bash\ntrue\n", *flags):
    (tmp_path / "job.sh").write_text(text)
    answer = trainmaster("slurm", "sbatch", *flags, "job.sh")
    assert answer.status == 0, answer.err
    return answer


def test_sbatch_answers_as_tools_expect_and_writes_where_sbatch_does(trainmaster, cluster, tmp_path):
    assert submit(trainmaster, tmp_path).out == "Submitted batch job 1\n"
    assert submit(trainmaster, tmp_path, "#!/bin/bash\n#SBATCH -q high\ntrue\n", "--parsable", "-a", "0-1").out == "2\n"

    assert (cluster.control.specs[1].output, cluster.control.specs[2].output) == ("slurm-%j.out", "slurm-%A_%a.out")
    assert (cluster.control.specs[2].qos, cluster.control.specs[1].name) == ("high", "job.sh")
    assert trainmaster("slurm", "sbatch", "--wrap", "echo hi", "-J", "w").out == "Submitted batch job 4\n"
    assert cluster.control.specs[4].script.endswith("\necho hi\n")


def test_a_submission_of_submitit_is_understood_and_its_answer_read(trainmaster, cluster, tmp_path):
    executor = submitit.SlurmExecutor.__new__(submitit.SlurmExecutor)
    executor.folder, executor.python = tmp_path / "log", "python"
    executor.parameters = {
        "time": 90, "gpus_per_node": 2, "cpus_per_task": 4, "mem": "8GB", "nodes": 1, "ntasks_per_node": 2, "signal_delay_s": 30,
        "partition": "research", "map_count": 3, "array_parallelism": 2,
    }  # fmt: skip
    text = executor._make_submission_file_text(executor._submitit_command_str, "x")

    answer = submit(trainmaster, tmp_path, text)

    assert submitit.SlurmExecutor._get_job_id_from_submission_command(answer.out) == "1"
    spec = cluster.control.specs[1]
    assert (spec.gpus, spec.cpus, spec.memory_gib, spec.limit_s, spec.queue) == (2, 8, 8, 5400, "research")
    assert (spec.array.indices, spec.array.limit, spec.env["SLURM_NTASKS"]) == ((0, 1, 2), 2, "2")
    assert (spec.signal.number, spec.signal.before_s, spec.signal.batch_only) == (12, 30, False)  # USR2
    assert spec.output.endswith("/log/%A_%a_0_log.out") and spec.append


def test_what_submitit_asks_of_sacct_is_what_it_can_read(trainmaster, cluster, tmp_path):
    submit(trainmaster, tmp_path, "#!/bin/bash\n#SBATCH --array=0-1\ntrue\n")
    submit(trainmaster, tmp_path)
    cluster.control.run(1)
    cluster.control.run(3)
    cluster.control.end(3, State.FAILED, exit_code=1)

    out = trainmaster("slurm", "sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", "1", "-j", "3").out
    info = submitit.SlurmInfoWatcher().read_info(out)

    assert {job: told["State"] for job, told in info.items()} == {"1_0": "RUNNING", "1_1": "PENDING", "3": "FAILED"}
    assert info["1_0"]["NodeList"] == "node-1"
    assert submitit.SlurmInfoWatcher().read_info(trainmaster("slurm", "sacct", "-o", "JobID,State", "--parsable2", "-j", "77").out) == {}


def test_scancel_ends_or_signals(trainmaster, cluster, tmp_path):
    submit(trainmaster, tmp_path, "#!/bin/bash\n#SBATCH --array=0-1\ntrue\n")
    cluster.control.run(1)

    assert trainmaster("slurm", "scancel", "1_0", "--signal", "SIGTERM").status == 0
    assert cluster.control.history[-1].reason == "signal 15"
    assert trainmaster("slurm", "scancel", "1_0").status == 0
    assert trainmaster("slurm", "scancel", "1_0").status == 0  # what has ended is not an error
    assert [str(record.state) for record in cluster.control.records.values()] == ["CANCELLED", "PENDING"]
    assert trainmaster("slurm", "scancel", "--me").status == 0
    assert cluster.control.records[2].state is State.CANCELLED
    assert trainmaster("slurm", "scancel").status == 2


def test_scancel_ends_only_what_all_of_its_options_name(trainmaster, cluster, tmp_path):
    submit(trainmaster, tmp_path, "#!/bin/bash\ntrue\n", "-J", "mine", "-p", "main")

    for other in (("--user", "bob"), ("-n", "another"), ("-p", "debug"), ("-t", "RUNNING"), ("-t", "PREEMPTED")):
        assert trainmaster("slurm", "scancel", "1", *other).status == 0
        assert cluster.control.job(1).state is State.PENDING, other
    trainmaster("slurm", "scancel", "1", "--me", "-n", "other,mine", "-p", "main", "-t", "PD")
    assert cluster.control.job(1).state is State.CANCELLED


def test_squeue_shows_elements_of_arrays_and_all_states_where_they_are_asked_for(trainmaster, cluster, tmp_path):
    submit(trainmaster, tmp_path, "#!/bin/bash\n#SBATCH -a 0-3\ntrue\n")
    cluster.control.run(1)
    cluster.control.end(1, State.SUCCEEDED, exit_code=0)

    def listed(*words):
        return trainmaster("slurm", "squeue", "-h", "-o", "%i", *words).out.split()

    assert (listed(), listed("-t", "all")) == (["1_1", "1_2", "1_3"], ["1_1", "1_2", "1_3", "1_0"])
    assert (listed("-j", "1_2"), listed("-j", "1_[0-1]"), listed("-j", "1_[0-1]", "-t", "all")) == (["1_2"], ["1_1"], ["1_1", "1_0"])
    assert (listed("-t", "PREEMPTED"), listed("-t", "NF,PD")) == ([], ["1_1", "1_2", "1_3"])


@pytest.mark.parametrize(
    "words", [("squeue", "-j", "foo"), ("squeue", "-o"), ("sacct", "-S"), ("scancel", "--signal"), ("squeue", "-j", "9" * 30)]
)
def test_a_mistake_in_a_look_alikes_options_is_one_line(trainmaster, cluster, words):
    answer = trainmaster("slurm", *words)
    assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1)


def test_sacct_without_a_delimiter_leaves_the_fields_as_they_are(trainmaster, cluster, tmp_path):
    submit(trainmaster, tmp_path)
    assert trainmaster("slurm", "sacct", "-n", "-P", "--delimiter", "", "-o", "JobID,JobName", "-j", "1").out == "1job.sh\n"
    submit(trainmaster, tmp_path, "#!/bin/bash\n#SBATCH -a 0-3\ntrue\n")
    assert trainmaster("slurm", "sacct", "-n", "-P", "-o", "JobID", "-j", "2_[1-2]").out.split() == ["2_1", "2_2"]


def test_squeue_formats(trainmaster, cluster, tmp_path):
    submit(trainmaster, tmp_path, "#!/bin/bash\n#SBATCH -J a-long-name -p gpu\ntrue\n")
    submit(trainmaster, tmp_path)
    cluster.control.run(2)

    assert trainmaster("slurm", "squeue", "-h", "-o", "%i %T").out == "2 RUNNING\n1 PENDING\n"
    assert trainmaster("slurm", "squeue", "--me", "--noheader", "--format=%.4i|%-8j|%.6j|%8t|").status == 2  # Slurm has no %-8j
    assert trainmaster("slurm", "squeue", "-h", "-j", "1", "-o", "%.4i|%.6j|%8t|%R").out == "   1|a-long|PD      |(capacity)\n"
    assert trainmaster("slurm", "squeue").out.splitlines()[0].split()[:3] == ["JOBID", "PARTITION", "NAME"]
    assert trainmaster("slurm", "squeue", "-u", "bob", "-h").out == ""


def test_scontrol_changes_a_job(trainmaster, cluster, tmp_path):
    submit(trainmaster, tmp_path)

    assert trainmaster("slurm", "scontrol", "hold", "1").status == 0
    assert cluster.control.records[1].reason == "held"
    assert "is not known here" in trainmaster("slurm", "scontrol", "show", "job", "1").err


def test_srun_outside_a_job_is_an_attached_job(trainmaster, cluster, monkeypatch):
    monkeypatch.setattr("trainmaster.cli.run.stream", lambda client, job, follow: cluster.control.run(job) or cluster.control.end(job))

    assert trainmaster("slurm", "srun", "-u", "-G", "2", "python", "train.py", "-n", "3").status == 0
    assert (cluster.control.specs[1].command, cluster.control.specs[1].gpus) == (("python", "train.py", "-n", "3"), 2)
    assert trainmaster("slurm", "srun", "-n", "2", "hostname").status == 2


@pytest.mark.skipif(os.name != "posix", reason="shell scripts")
def test_the_look_alikes_work_from_the_path(trainmaster, cluster, tmp_path, monkeypatch):
    folder = trainmaster("slurm", "install", "slurm bin").out.strip()
    monkeypatch.delenv("TRAINMASTER_STATE")  # they know where
    (tmp_path / "job.sh").write_text("#!/bin/sh\ntrue\n")
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(__import__("sys").path)}

    done = subprocess.run(["sbatch", "job.sh"], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "Submitted batch job 1\n", "")
    assert sorted(os.listdir(folder)) == ["sacct", "sbatch", "scancel", "scontrol", "squeue", "srun"]
