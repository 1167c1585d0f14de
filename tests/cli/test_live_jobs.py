"""The verbs that submit, look at and change jobs, against the real API."""

import os
import threading
import time

import pytest

from trainmaster.cli.main import main
from trainmaster.live.client import Client
from trainmaster.live.http.auth import Role
from trainmaster.live.states import State


def soon(what):
    """Waits until `what()` is true."""
    for _ in range(500):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 5 s")


def submit(trainmaster, *words):
    answer = trainmaster("submit", "-q", *words)
    assert (answer.status, answer.err) == (0, "")
    return int(answer.out)


def test_a_submission_says_the_id_and_takes_folder_and_environment_along(trainmaster, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS", "3")
    answer = trainmaster("submit", "--gpus", "2", "--", "python", "train.py", "--lr", "0.1")

    assert (answer.status, answer.out, answer.err) == (0, "submitted job 1\n", "")
    spec = cluster.control.specs[1]
    assert spec.command == ("python", "train.py", "--lr", "0.1")
    assert (spec.gpus, spec.workdir, spec.env["EPOCHS"], spec.name) == (2, str(tmp_path), "3", "python")
    assert "TRAINMASTER_STATE" not in spec.env


@pytest.mark.parametrize("flag", ["-q", "--parsable"])
def test_a_quiet_submission_prints_the_id_alone(trainmaster, cluster, flag):
    answer = trainmaster("submit", flag, "--mail-type=END", "--", "true")
    assert (answer.status, answer.out, answer.err) == (0, "1\n", "")


def test_a_batch_script_brings_its_sbatch_lines_and_the_command_line_wins(trainmaster, cluster, tmp_path):
    (tmp_path / "train.sh").write_text("#!/bin/bash\n#SBATCH -J fine --gres=gpu:a100:4 -t 30\n#SBATCH --mail-type=END\nsrun python t.py\n")

    answer = trainmaster("submit", "-J", "mine", "train.sh", "--lr", "1")

    assert answer.out == "submitted job 1\n"
    assert answer.err == "note: train.sh:3: --mail-type: no mail is sent; `trainmaster events` and the API tell what happens\n"
    spec = cluster.control.specs[1]
    assert (spec.name, spec.gpus, spec.gpu_types, spec.limit_s, spec.script_args) == ("mine", 4, ("a100",), 1800, ("--lr", "1"))
    assert spec.script.endswith("srun python t.py\n")


def test_a_mistake_in_a_script_names_file_line_and_option(trainmaster, cluster, tmp_path):
    (tmp_path / "train.sh").write_text("#!/bin/bash\n\n#SBATCH --reservation=night\n")

    answer = trainmaster("submit", "train.sh")

    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("trainmaster: train.sh:3: --reservation: is not known here")
    assert cluster.control.specs == {}


def test_a_field_that_the_controller_refuses_is_said_where_it_was_written(trainmaster, cluster, tmp_path):
    (tmp_path / "job.yaml").write_text("run: true\nqueue: a b\n")

    answer = trainmaster("submit", "job.yaml")

    assert answer.status == 2
    assert answer.err.startswith("trainmaster: job.yaml:2: queue: ")


def test_a_script_on_standard_input_is_submitted(trainmaster, cluster, monkeypatch, tmp_path):
    (tmp_path / "in.sh").write_text("#!/bin/sh\n#SBATCH -n 2\ntrue\n")
    with open(tmp_path / "in.sh") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert submit(trainmaster) == 1
    assert cluster.control.specs[1].env["SLURM_NTASKS"] == "2"


def test_to_wait_for_an_array_is_to_wait_for_all_of_it_and_names_are_ids(trainmaster, cluster):
    assert trainmaster("submit", "-a", "0-2", "-J", "prep", "--", "true").out == "submitted jobs 1 to 3 (an array of 3 jobs)\n"
    submit(trainmaster, "-J", "check", "--", "true")

    submit(trainmaster, "-d", "afterok:1,afterany:check", "--", "true")

    assert cluster.control.records[5].after == ("afterok:1", "afterok:2", "afterok:3", "afterany:4")


def test_what_would_be_submitted_can_be_seen_without_a_controller(trainmaster, monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINMASTER_STATE", str(tmp_path / "none"))

    answer = trainmaster("submit", "--dry-run", "-G", "a100:2", "--", "true")

    assert (answer.json["gpus"], answer.json["gpu_types"], answer.json["command"]) == (2.0, ["a100"], ["true"])


def test_without_a_controller_every_verb_says_so_in_one_line(trainmaster, monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINMASTER_STATE", str(tmp_path / "none"))
    for argv in (["queue"], ["submit", "--", "true"], ["why", "7"], ["nodes"], ["acct"], ["cancel", "7"]):
        answer = trainmaster(*argv)
        assert (answer.status, answer.out, answer.err.count("\n")) == (1, "", 1)
        assert "trainmaster up" in answer.err


def test_a_controller_that_has_gone_is_one_line_too(trainmaster, monkeypatch):
    monkeypatch.delenv("TRAINMASTER_STATE", raising=False)
    monkeypatch.setenv("TRAINMASTER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TRAINMASTER_TOKEN", "tm_x")

    answer = trainmaster("queue")

    assert answer.status == 1
    assert answer.err.startswith("trainmaster: no controller answers at http://127.0.0.1:9 (")


def test_a_url_and_a_token_find_a_controller_from_elsewhere(trainmaster, cluster, monkeypatch):
    monkeypatch.delenv("TRAINMASTER_STATE")
    monkeypatch.setenv("TRAINMASTER_URL", cluster.url)
    monkeypatch.setenv("TRAINMASTER_TOKEN", cluster.token("bob"))

    submit(trainmaster, "--", "true")

    assert cluster.control.records[1].user == "bob"
    assert trainmaster("token", "create", "eve").err.startswith("trainmaster: ")  # a user may not


def test_waiting_returns_the_job_s_own_exit_code(trainmaster, cluster):
    def end_it():
        soon(lambda: 1 in cluster.control.records)
        cluster.control.run(1)
        cluster.control.end(1, State.FAILED, exit_code=75, reason="exit code 75")

    worker = threading.Thread(target=end_it)
    worker.start()
    answer = trainmaster("submit", "--wait", "--", "false")
    worker.join()

    assert answer.status == 75
    assert answer.out == "submitted job 1\n"
    assert answer.err == "job 1 (false) failed, exit code 75: exit code 75\n"


def test_an_attached_run_shows_the_output_and_passes_the_exit_code_on(cluster, capfdbinary):
    def play():
        soon(lambda: 1 in cluster.control.records)
        cluster.control.run(1)
        cluster.control.log(1, b"epoch 1\n\xff\n")
        cluster.control.end(1, State.FAILED, exit_code=3)

    worker = threading.Thread(target=play)
    worker.start()
    status = main(["run", "--", "python", "train.py"])
    worker.join()

    assert status == 3
    assert capfdbinary.readouterr().out == b"epoch 1\n\xff\n"


def test_leaving_an_attached_run_cancels_its_job(trainmaster, cluster, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainmaster.cli.run.stream", interrupted)
    answer = trainmaster("run", "--", "sleep", "100")

    assert answer.status == 130
    assert cluster.control.records[1].state is State.CANCELLED


def test_the_queue_has_its_columns_and_no_colour_when_it_is_piped(trainmaster, cluster):
    submit(trainmaster, "-J", "wide", "-p", "research", "--priority", "2", "--", "true")
    submit(trainmaster, "-J", "runs", "--", "true")
    cluster.control.run(2)
    lines = trainmaster("queue").out.splitlines()

    assert lines[0].split() == ["ID", "NAME", "USER", "QUEUE", "PRIO", "ST", "TIME", "NODES", "GPUS", "REASON", "ETA"]
    assert lines[1].split()[:6] == ["2", "runs", "ana", "default", "0", "R"]
    assert lines[2].split()[:6] == ["1", "wide", "ana", "research", "2", "PD"]
    assert lines[2].split()[-2:] == ["capacity", "?"]
    assert "\x1b" not in "".join(lines)
    assert trainmaster("ls") == trainmaster("ps") == trainmaster("queue")


def test_a_narrow_terminal_does_without_columns_but_keeps_what_identifies_a_job(trainmaster, cluster, monkeypatch):
    submit(trainmaster, "-J", "x" * 30, "--", "true")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")

    head, job = trainmaster("queue").out.splitlines()

    assert all(len(line) <= 60 for line in (head, job))
    assert {"ID", "ST", "GPUS"} <= set(head.split()) and "PRIO" not in head.split()


def test_a_name_that_would_command_the_terminal_does_not_reach_it(trainmaster, cluster):
    from dataclasses import replace

    submit(trainmaster, "--", "true")
    cluster.control.records[1] = replace(cluster.control.records[1], reason="\x1b[31mred\nno")

    for verb in (["queue"], ["show", "1"], ["acct", "-o", "Reason", "-a"], ["acct", "-P", "-o", "Reason", "-a"]):
        assert "\x1b" not in trainmaster(*verb).out


def test_a_job_in_json_has_the_fields_of_the_contract(trainmaster, cluster):
    submit(trainmaster, "--", "true")
    cluster.control.run(1)
    cluster.control.end(1)
    contract = set("id name user queue state reason gpus submit_s start_s finish_s exit_code attempts preemptions lost_steps".split())

    (job,) = trainmaster("queue", "--all", "--json").json
    assert contract <= set(job)
    assert contract <= set(trainmaster("show", "1", "--json").json)
    assert contract <= set(trainmaster("submit", "--json", "--", "true").json)
    assert (job["state"], job["exit_code"], job["finish_s"]) == ("SUCCEEDED", 0, cluster.control.now_s)


def test_filters_of_the_queue(trainmaster, cluster):
    for queue, name in (("a", "one"), ("b", "two"), ("b", "three")):
        submit(trainmaster, "-p", queue, "-J", name, "--", "true")
    cluster.control.run(3)

    def names(*argv):
        return [job["name"] for job in trainmaster("queue", "--json", *argv).json]

    assert names("-p", "b") == ["three", "two"]
    assert names("-t", "R") == names("-t", "running") == ["three"]
    assert names("-n", "one,two") == ["one", "two"]
    assert names("-u", "bob") == []
    assert names("--me") == ["three", "one", "two"]
    assert names("two", "1") == ["one", "two"]
    assert trainmaster("queue", "-t", "XX").status == 2


def test_verbs_that_change_jobs_take_ids_names_and_arrays(trainmaster, cluster):
    submit(trainmaster, "-J", "one", "--", "true")
    submit(trainmaster, "-J", "sweep", "-a", "0-3", "--", "true")
    states = lambda: [str(record.state)[:2] for record in cluster.control.records.values()]  # noqa: E731

    assert trainmaster("cancel", "2_1").out == "cancelled job 3\n"
    assert states() == ["PE", "PE", "CA", "PE", "PE"]
    assert trainmaster("suspend", "one").out == "suspended job 1\n"
    assert trainmaster("resume", "1").out == "resumed job 1\n"
    assert trainmaster("cancel", "2").out == "cancelled 3 jobs\n"
    assert states() == ["PE", "CA", "CA", "CA", "CA"]
    assert trainmaster("hold", "one").out == "held job 1\n"
    assert cluster.control.records[1].reason == "held"
    assert trainmaster("release", "1").out == "released job 1\n"
    assert trainmaster("cancel", "--all").out == "cancelled job 1\n"
    assert trainmaster("cancel", "--all").err == "no job to change\n"


def test_a_name_of_several_jobs_is_not_guessed_at_by_a_verb_that_changes_them(trainmaster, cluster):
    for _ in range(2):
        submit(trainmaster, "-J", "twin", "--", "true")

    answer = trainmaster("cancel", "twin")
    assert (answer.status, answer.err) == (2, 'trainmaster: 2 jobs are called "twin": 1, 2; give an id, or -n twin for all of them\n')
    assert trainmaster("cancel", "-n", "twin").out == "cancelled 2 jobs\n"
    assert trainmaster("cancel").status == 2


def test_a_verb_that_the_state_forbids_is_one_line(trainmaster, cluster):
    submit(trainmaster, "--", "true")

    answer = trainmaster("requeue", "1")
    assert (answer.status, answer.err) == (1, "trainmaster: job 1 is PENDING: it cannot be requeued\n")
    assert trainmaster("why", "99").err == "trainmaster: no job 99\n"
    assert trainmaster("why", "nobody").err == 'trainmaster: no job is called "nobody" (trainmaster queue --all)\n'


def test_update_changes_what_was_asked_for(trainmaster, cluster):
    submit(trainmaster, "-J", "one", "--", "true")

    answer = trainmaster("update", "one", "--priority", "5", "-t", "1:00:00", "-p", "fast", "--preemptible", "yes")

    assert answer.out == "job 1: priority 5.0, queue fast, limit_s 3600.0, preemptible True\n"
    record = cluster.control.records[1]
    assert (record.priority, record.queue, record.limit_s, record.preemptible) == (5, "fast", 3600, True)
    assert trainmaster("update", "1", "--priority", "0", "--json").json[0]["priority"] == 0
    assert trainmaster("update", "1").status == 2
    assert trainmaster("update", "1", "-t", "soon").err.startswith('trainmaster: --time: "soon" is not a length of time')


def test_why_tells_the_constraint_the_place_the_time_and_a_way_out(trainmaster, cluster):
    submit(trainmaster, "-J", "first", "--gpus", "4", "--", "true")
    submit(trainmaster, "-J", "mine", "--gpus", "2", "--", "true")

    lines = trainmaster("why", "mine").out.splitlines()

    assert lines[0] == "job 2 waits for 2 GPUs; 1 is free"
    assert lines[1] == "place 2 of 2 in the order"
    assert lines[2] == "  after job 1 (ana, 4 GPUs): submitted earlier"
    assert lines[3].startswith("should start between ") and lines[3].endswith("(from limits of those that run)")
    assert lines[4] == "would start now with 1 GPU"
    assert trainmaster("why", "mine", "--json").json["counterfactual"] == "would start now with 1 GPU"


def test_show_has_the_job_and_its_attempts(trainmaster, cluster):
    submit(trainmaster, "-J", "one", "--gpus", "2", "--", "python", "train.py")
    cluster.control.run(1)
    cluster.control.preempt(1)
    cluster.control.run(1, "node-2")

    out = trainmaster("show", "one").out

    assert "command      python train.py\n" in out and "preemptions  1, 0 steps lost\n" in out
    assert [line.split()[:3] for line in out.splitlines()[-2:]] == [["1", "ended", "node-1"], ["2", "running", "node-2"]]


def test_events_are_listed_in_order(trainmaster, cluster):
    submit(trainmaster, "--", "true")
    cluster.control.run(1)

    assert [line.split("  ")[-2:] for line in trainmaster("events", "1").out.splitlines()][-1] == ["RUNNING", "started"]
    assert [event["kind"] for event in trainmaster("events", "--json").json] == ["submitted", "state"]


def test_logs_by_rank_attempt_and_tail(trainmaster, cluster):
    submit(trainmaster, "-J", "one", "--", "true")
    cluster.control.run(1)
    cluster.control.log(1, b"a\nb\nc\n")
    cluster.control.log(1, b"supervisor\n", rank="system")
    cluster.control.preempt(1)
    cluster.control.run(1)
    cluster.control.log(1, b"again\n")
    cluster.control.end(1)

    assert trainmaster("logs", "one").out == "again\n"
    assert trainmaster("logs", "-f", "one").out == "again\n"
    assert trainmaster("logs", "1", "--attempt", "1", "--tail", "2").out == "b\nc\n"
    assert trainmaster("logs", "1", "--attempt", "1", "--system").out == "supervisor\n"
    assert trainmaster("logs", "1", "--attempt", "1", "--list").out == "attempt 1  rank 0  6 bytes\nattempt 1  rank system  11 bytes\n"
    assert trainmaster("logs", "1", "--rank", "../../etc/passwd").status == 2


def test_who_follows_a_log_goes_on_when_the_controller_is_there_again(trainmaster, cluster):
    control = cluster.control
    trainmaster("submit", "--", "a")
    control.run(1)
    control.log(1, b"first\n")
    got = Client.of_state(cluster.state).logs(1, follow=True)

    assert next(got) == b"first\n"
    cluster.server.stop()
    control.log(1, b"meanwhile\n")
    control.preempt(1)
    control.run(1)
    control.log(1, b"second\n")
    cluster.again()
    rest = b""
    while rest != b"meanwhile\nsecond\n":
        rest += next(got)
    cluster.server.stop()
    control.end(1)
    cluster.again()
    assert list(got) == []


def test_a_connection_that_the_server_has_closed_is_made_anew_before_a_request_is_lost_on_it(trainmaster, cluster):
    trainmaster("submit", "--", "a")
    client = Client.of_state(cluster.state)
    client.job(1)
    cluster.server.stop()  # as it does with a connection that was idle for long
    cluster.again()

    client.hold([1])  # not sent twice, so it must not be sent in vain

    assert client.job(1)["reason"] == "held"


def test_a_shell_runs_what_the_controller_says(trainmaster, cluster, monkeypatch):
    submit(trainmaster, "--", "true")
    cluster.control.run(1)
    monkeypatch.setattr(cluster.control, "shell", lambda job: ["/bin/sh", "-c", "exit 7"])

    assert trainmaster("shell", "1").status == 7
    assert trainmaster("shell", "1", "--json").json == {"argv": ["/bin/sh", "-c", "exit 7"]}


def test_an_admin_submits_for_another_and_a_user_may_not(trainmaster, cluster, monkeypatch):
    submit(trainmaster, "--user", "bob", "--", "true")
    assert cluster.control.records[1].user == "bob"

    monkeypatch.setenv("TRAINMASTER_URL", cluster.url)
    monkeypatch.setenv("TRAINMASTER_TOKEN", cluster.token("bob", Role.USER))
    monkeypatch.delenv("TRAINMASTER_STATE")
    assert trainmaster("submit", "--user", "eve", "--", "true").status == 1
    assert trainmaster("cancel", "1").status == 0
    assert os.environ["TRAINMASTER_URL"] == cluster.url


def test_a_limit_of_nothing_is_no_change_of_a_limit(trainmaster, cluster):
    """To Slurm 0 is no limit; as it stands it would end the job at once."""
    trainmaster("submit", "--time", "1h", "--", "true")
    for none in ("0", "UNLIMITED"):
        answer = trainmaster("update", "1", "--time", none)
        assert (answer.status, answer.err.count("\n"), cluster.control.job(1).limit_s) == (2, 1, 3600)


def test_a_word_that_is_no_text_is_a_name_that_nothing_has(trainmaster, cluster):
    answer = trainmaster("why", "\udcff")
    assert (answer.status, answer.err) == (1, 'trainmaster: no job is called "�" (trainmaster queue --all)\n')


@pytest.mark.parametrize(("terminal", "styled"), [("xterm", True), ("dumb", False)])
def test_a_terminal_that_knows_no_colours_gets_none(trainmaster, cluster, monkeypatch, terminal, styled):
    trainmaster("submit", "--", "true")
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert ("\x1b" in trainmaster("queue").out) is styled
