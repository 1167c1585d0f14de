"""The verbs about the cluster, its accounting and its tokens, against the real API."""

import pytest

from trainmaster.errors import Conflict
from trainmaster.live.client import Client
from trainmaster.live.states import State
from trainmaster.workload.traces.catalog import load_trace

FIELDS = (
    "JobIDRaw,User,Account,Partition,QOS,Submit,Eligible,Start,End,ElapsedRaw,TimelimitRaw,State,NNodes,NodeList,ReqTRES,AllocTRES"
)


def test_nodes_are_listed_drained_and_used_again(trainmaster, cluster):
    assert [line.split()[:5] for line in trainmaster("nodes").out.splitlines()[1:]] == [
        ["node-1", "idle", "h100", "4", "4"],
        ["node-2", "idle", "h100", "4", "4"],
    ]

    drained = trainmaster("nodes", "drain", "node-2", "--reason", "a fan").out.splitlines()
    assert drained[1].split()[:2] == ["node-2", "drained"] and drained[1].endswith("a fan")
    assert trainmaster("nodes", "--json").json[1]["reason"] == "a fan"
    assert trainmaster("nodes", "resume", "node-2").out.splitlines()[1].split()[1] == "idle"
    assert trainmaster("nodes", "drain").status == 2
    assert trainmaster("nodes", "drain", "node-9").err == "trainmaster: no node node-9\n"


def test_a_policy_is_changed_after_the_comparison_is_shown(trainmaster, cluster):
    assert "tiresias-las\n" in trainmaster("policy").out

    shown = trainmaster("policy", "fifo", "--dry-run")
    assert "as it is" in shown.out and "fifo" in shown.out and "nothing changes" in shown.out
    assert cluster.control.running_policy.name == "tiresias-las"

    changed = trainmaster("policy", "las", "--set", "quantum_s=60", "--yes")
    assert changed.out.endswith("las decides from now on\n")
    assert (cluster.control.running_policy.name, cluster.control.running_policy.params) == ("las", {"quantum_s": "60"})
    assert trainmaster("policy", "fifo", "--json").json["policy"]["name"] == "fifo"
    assert trainmaster("policy", "fifoo").status == 2


def test_a_policy_is_changed_where_there_is_nothing_to_compare(trainmaster, cluster, monkeypatch):
    def idle(scenarios):
        raise Conflict("nothing waits or runs: there is nothing to compare")

    monkeypatch.setattr(cluster.control, "whatif", idle)
    answer = trainmaster("policy", "fifo")

    assert (answer.status, answer.out) == (0, "fifo decides from now on\n")
    assert answer.err == "no comparison: nothing waits or runs: there is nothing to compare\n"


def test_a_person_who_does_not_agree_changes_nothing(trainmaster, cluster, monkeypatch):
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)

    answer = trainmaster("policy", "fifo")

    assert "change to fifo? [y/N]" in answer.err and "nothing is changed" in answer.err
    assert cluster.control.running_policy.name == "tiresias-las"


def test_what_if_has_a_column_a_scenario(trainmaster, cluster):
    trainmaster("submit", "-J", "one", "--", "true")

    assert [run["label"] for run in trainmaster("whatif", "--policy", "fifo,las", "--json").json["runs"]] == ["as it is", "fifo", "las"]
    runs = trainmaster("whatif", "--job", "one", "--priority", "5", "--add-nodes", "2x8:h100", "--json").json["runs"]
    assert [run["label"] for run in runs] == ["as it is", "+ 2x8:h100, job one: priority 5.0"]
    assert "average JCT" in trainmaster("whatif", "--policy", "fifo").out


@pytest.mark.parametrize("argv", [[], ["--priority", "5"], ["--job", "1"], ["--set", "a=1", "--add-nodes", "1x1"], ["--policy", "nope"]])
def test_a_what_if_that_asks_nothing_is_refused(trainmaster, cluster, argv):
    trainmaster("submit", "--", "true")
    assert trainmaster("whatif", *argv).status == 2


def test_reload_says_what_has_changed(trainmaster, cluster):
    assert trainmaster("reload").out == "queues: research: quota_gpus 4 -> 6\n"
    assert trainmaster("reload", "--json").json == {"changed": ["queues: research: quota_gpus 4 -> 6"]}


def test_tokens_are_made_listed_and_revoked(trainmaster, cluster, monkeypatch):
    made = trainmaster("token", "create", "bob", "--role", "viewer", "--name", "dashboard", "--expires", "365d")
    assert made.out.startswith("tm_") and "viewer" in made.err
    _, _, row = trainmaster("token", "list").out.splitlines()
    assert row.split()[1:4] == ["bob", "viewer", "dashboard"]

    monkeypatch.delenv("TRAINMASTER_STATE")
    monkeypatch.setenv("TRAINMASTER_URL", cluster.url)
    monkeypatch.setenv("TRAINMASTER_TOKEN", made.out.strip())
    assert trainmaster("submit", "--", "true").status == 1
    assert trainmaster("queue").status == 0
    monkeypatch.setenv("TRAINMASTER_STATE", str(cluster.state))
    assert trainmaster("token", "revoke", row.split()[0]).out == f"revoked {row.split()[0]}\n"
    monkeypatch.delenv("TRAINMASTER_STATE")
    assert "does not know this token" in trainmaster("queue").err


def at(cluster, now_s):
    cluster.control.now_s = now_s


def history(trainmaster, cluster):
    """Three jobs: one of 2 GPUs for 100 s, one cancelled before it ran, one that runs."""
    from dataclasses import replace

    control = cluster.control
    size = ("-G", "h100:2", "-c", "8", "--mem", "64G", "-t", "1:00:00")
    trainmaster("submit", *size, "-p", "research", "-A", "lab", "--qos", "high", "--", "a")
    trainmaster("submit", "-J", "gone", "--", "b")
    trainmaster("submit", "--", "c")
    at(cluster, control.now_s + 10)
    control.run(1)
    control.run(3)
    trainmaster("cancel", "2")
    at(cluster, control.now_s + 100)
    control.records[1] = replace(control.records[1], run_s=100.0, gpu_s=200.0, gpu_type="h100")
    control.end(1)


def test_the_accounting_is_a_trace_that_simulate_reads(trainmaster, cluster, tmp_path):
    history(trainmaster, cluster)

    text = trainmaster("acct", "-a", "-X", "-P", "-S", "2020-01-01", "-o", FIELDS).out
    (tmp_path / "jobs.txt").write_text(text)
    trace = load_trace(str(tmp_path / "jobs.txt"))

    assert trace.format == "sacct"
    assert dict(trace.skipped) == {"never started": 1, "still running": 1}
    jobs = trace.jobs
    assert (len(jobs), list(jobs.gpus), list(jobs.work), list(jobs.memory_gib), list(jobs.cpus)) == (1, [2], [100], [64], [8])
    assert list(jobs.limit_s) == [3600]
    assert (jobs.queue.names[jobs.queue.codes[0]], jobs.user.names[jobs.user.codes[0]]) == ("research", "ana")


def test_the_accounting_speaks_sacct(trainmaster, cluster):
    history(trainmaster, cluster)
    ever = ("-S", "2020-01-01")

    assert trainmaster("acct", *ever, "-P", "-n", "-o", "jobid,state,exitcode,gpus,elapsed").out.splitlines() == [
        "1|COMPLETED|0:0|2|00:01:40",
        "2|CANCELLED|0:0|1|00:00:00",
        "3|RUNNING|0:0|1|00:00:00",
    ]
    assert trainmaster("acct", *ever, "-p", "-b", "-j", "1").out == "JobID|State|ExitCode|\n1|COMPLETED|0:0|\n"
    assert trainmaster("acct", *ever, "-n", "-o", "JobName%4,State%-10,User%3", "-j", "2").out == "gone CANCELLED  ana\n"
    assert [job["id"] for job in trainmaster("acct", *ever, "-s", "CA,RUNNING", "--json").json] == [2, 3]
    assert trainmaster("acct", *ever, "-u", "bob", "-n").out == ""
    assert trainmaster("acct", "-E", "2020-01-01", *ever, "-n").out == ""
    assert trainmaster("acct", "-o", "Jobs").err == "trainmaster: --format: no field 'Jobs'; did you mean JobID?\n"


def test_a_job_that_ran_out_of_memory_is_accounted_as_slurm_does(trainmaster, cluster):
    for _ in range(2):
        trainmaster("submit", "--", "a")
    for job, reason in ((1, "out of memory: more than the 2 GiB that it asked for"), (2, "exit 137")):
        cluster.control.run(job)
        cluster.control.end(job, State.FAILED, 137, reason)

    ever = ("-S", "2020-01-01", "-P", "-n", "-o", "JobID,State,ExitCode")
    assert trainmaster("acct", *ever).out == "1|OUT_OF_MEMORY|0:9\n2|FAILED|0:9\n"
    assert trainmaster("acct", *ever, "-s", "OOM").out == "1|OUT_OF_MEMORY|0:9\n"
    assert "OUT_OF_MEMORY (out of memory: more than the 2 GiB" in trainmaster("show", "1").out


def test_an_array_is_accounted_by_its_indices(trainmaster, cluster):
    trainmaster("submit", "-a", "3,7", "--", "true")

    assert trainmaster("acct", "-P", "-n", "-o", "JobID,JobIDRaw", "-j", "1").out == "1_3|1\n1_7|2\n"
    assert trainmaster("acct", "-P", "-n", "-o", "JobID,JobIDRaw", "-j", "1_7,99").out == "1_7|2\n"


def test_the_accounts_of_many_jobs_are_asked_for_in_one_request(trainmaster, cluster, monkeypatch):
    for cpus in range(1, 20):
        trainmaster("submit", "-c", f"{cpus}", "--", "a")
    asked, send = [], Client._send
    monkeypatch.setattr(Client, "_send", lambda self, *told: asked.append(told[1:3]) or send(self, *told))

    out = trainmaster("acct", "-P", "-n", "-o", "JobID,ReqCPUS", "-S", "2020-01-01").out

    assert out.splitlines() == [f"{cpus}|{cpus}" for cpus in range(1, 20)]
    assert [path for _, path in asked] == ["/whoami", "/jobs", "/jobs/asked"]


def test_what_others_asked_for_is_not_told(trainmaster, cluster):
    trainmaster("submit", "-c", "4", "--", "a")
    stranger = Client(cluster.url, cluster.token("bob"))

    assert stranger.asked([1, 2]) == []
