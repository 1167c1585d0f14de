"""`trainmaster simulate`: what it takes, what it writes, and the figures it passes on."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from trainmaster.api.workload import with_load
from trainmaster.workload.jobs import Job, JobTable

# The contract: fields may be added after these, none is renamed.
DOCUMENT = ["trainmaster", "seed", "trace", "cluster", "runs"]
RUN = (
    "label policy params placement round_s seed load window jobs finished unschedulable rejected avg_jct_s median_jct_s p95_jct_s "
    "p99_jct_s makespan_s avg_wait_s avg_queue_s p99_queue_s avg_bounded_slowdown gpu_utilization productive_utilization avg_ftf max_ftf "
    "deadlines_met preemptions migrations resizes failures lost_gpu_s overhead_gpu_s decisions by_queue by_size wall_s peak_rss_mib"
).split()
JOBS_OUT = (
    "job_id label user queue model gpu_type submit_s eligible_s start_s finish_s gpus nodes work_s gpu_s preemptions state reason"
).split()
ON = ["--trace", "two.csv", "--cluster", "1x4"]
TIMELINE_OUT = ["job_id", "label", "start_s", "end_s", "nodes", "gpus"]


def test_two_jobs_of_four_gpus_on_four_take_turns(trainmaster):
    answer = trainmaster("simulate", *ON, "--policy", "fifo,srtf", "--restart-cost", "0", "--json", "-")

    fifo, srtf = answer.runs()
    assert (fifo["avg_jct_s"], fifo["makespan_s"]) == ((100 + 110) / 2, 120)
    assert (srtf["avg_jct_s"], srtf["preemptions"]) == ((120 + 20) / 2, 1)


def test_json_has_the_fields_of_the_contract_in_their_order(trainmaster):
    document = trainmaster("simulate", "--trace", "two.csv", "--cluster", "1x4:v100", "--policy", "fifo", "--json", "-").json

    assert list(document) == DOCUMENT
    assert document["trace"] == {"path": "two.csv", "format": "trainmaster", "jobs": 2, "skipped": {}}
    assert document["cluster"] == {"gpus": 4, "nodes": 1, "types": {"v100": 4}}
    assert list(document["runs"][0])[: len(RUN)] == RUN
    assert document["runs"][0]["params"]["rules"]["restart_cost_s"] == 30


def test_json_on_standard_output_is_all_that_is_there(trainmaster):
    answer = trainmaster("simulate", *ON, "--policy", "fifo", "--json", "-")

    assert answer.err == "" and json.loads(answer.out)["runs"][0]["label"] == "fifo"


def test_a_run_ends_with_a_table_and_one_sentence(trainmaster):
    answer = trainmaster("simulate", "--trace", "busy.csv", "--cluster", "1x4", "--policy", "fifo,fifo-greedy")

    assert answer.status == 0 and answer.err == ""
    assert "fifo-greedy" in answer.out and answer.out.rstrip().endswith(".")


def test_quiet_says_nothing(trainmaster):
    answer = trainmaster("simulate", "--trace", "two.csv", "--cluster", "1x2", "--policy", "fifo", "--quiet", "--json", "out.json")

    assert (answer.status, answer.out, answer.err) == (0, "", "")
    assert sorted(os.listdir()) == ["busy.csv", "out.json", "two.csv"]


def test_the_same_seed_gives_the_same_and_another_seed_another(trainmaster):
    argv = ["simulate", "--trace", "synthetic", "--jobs", "60", "--policy", "fifo,srtf", "--json", "-", "--seed"]
    first, again, other = (trainmaster(*argv, seed).runs() for seed in ("1", "1", "2"))

    assert json.dumps(first) == json.dumps(again)
    assert [run["avg_jct_s"] for run in first] != [run["avg_jct_s"] for run in other]


def test_workers_change_nothing(trainmaster):
    argv = ["simulate", "--jobs", "60", "--cluster", "2x8", "--policy", "fifo,srtf", "--seeds", "2"]
    argv += ["--jobs-out", "jobs.csv", "--timeline-out", "timeline.csv", "--json", "-"]
    alone = trainmaster(*argv).runs(), Path("jobs.csv").read_bytes(), Path("timeline.csv").read_bytes()
    shared = trainmaster(*argv, "--workers", "2").runs(), Path("jobs.csv").read_bytes(), Path("timeline.csv").read_bytes()

    assert alone == shared


def test_a_policy_of_the_user_s_own_runs_in_workers_too(trainmaster):
    Path("mine.py").write_text(
        "from trainmaster.policies.base import ListPolicy, NoParams, policy\n\n"
        "@policy(name='mine', paper='mine')\n"
        "class Mine(ListPolicy[NoParams]):\n"
        "    def rank(self, view, memory):\n"
        "        return -view.jobs.submit_s\n"
    )
    answer = trainmaster("simulate", *ON, "--policy", "mine.py:Mine,fifo", "--workers", "2", "--json", "-")

    assert [run["label"] for run in answer.runs()] == ["mine", "fifo"]


def test_runs_come_policy_by_policy_with_their_seeds_in_order(trainmaster):
    document = trainmaster("simulate", "--jobs", "20", "--policy", "fifo,srtf", "--seeds", "3", "--seed", "5", "--json", "-").json

    assert [(run["label"], run["seed"]) for run in document["runs"]] == [(label, seed) for label in ("fifo", "srtf") for seed in (5, 6, 7)]
    assert [average["seeds"] for average in document["seeds"]] == [3, 3]


def test_seeds_without_chance_say_so(trainmaster):
    answer = trainmaster("simulate", *ON, "--policy", "fifo", "--seeds", "2")

    assert answer.err == "note: all 2 seeds gave the same figures: nothing in these runs depends on chance\n"


def test_labels_tell_two_of_one_policy_apart(trainmaster):
    argv = ["--policy", "a=las,b=las", "--set", "a.quantum_s=10", "--set", "b.quantum_s=1000", "--restart-cost", "0"]
    answer = trainmaster("simulate", *ON, *argv, "--json", "-")

    assert [(run["label"], run["policy"], run["params"]["quantum_s"]) for run in answer.runs()] == [("a", "las", 10), ("b", "las", 1000)]


def test_jobs_out_has_a_row_a_job_and_policy(trainmaster):
    trainmaster("simulate", *ON, "--policy", "fifo,srtf", "--jobs-out", "jobs.csv", "--quiet")

    with open("jobs.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == JOBS_OUT
    assert [(row["job_id"], row["label"], row["state"]) for row in rows] == [
        (job, label, "finished") for label in ("fifo", "srtf") for job in ("0", "1")
    ]


def test_timeline_out_has_a_row_an_allocation(trainmaster):
    argv = ["--policy", "srtf", "--restart-cost", "0", "--timeline-out", "timeline.parquet", "--quiet"]
    trainmaster("simulate", *ON, *argv)

    frame = pl.read_parquet("timeline.parquet")
    assert frame.columns == TIMELINE_OUT
    assert frame.select("job_id", "start_s", "end_s").rows() == [("0", 0, 10), ("1", 10, 30), ("0", 30, 120)]


def test_the_report_is_a_page_that_says_how_it_was_made(trainmaster):
    answer = trainmaster("simulate", *ON, "--policy", "fifo", "--report", "a page.html")

    assert answer.err == "report: a page.html\n"
    page = Path("a page.html").read_text()
    assert page.startswith("<!doctype html>") and "trainmaster simulate --trace two.csv" in page


def test_an_output_replaces_a_file_whole_and_keeps_its_mode(trainmaster, tmp_path):
    (tmp_path / "out.json").write_text("old")
    (tmp_path / "out.json").chmod(0o640)
    os.symlink("out.json", "link.json")
    trainmaster("simulate", *ON, "--policy", "fifo", "--quiet", "--json", "link.json")

    assert json.loads((tmp_path / "out.json").read_text())["seed"] == 0
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o640
    assert os.path.islink("link.json")


def test_an_output_may_be_a_device(trainmaster):
    answer = trainmaster("simulate", *ON, "--policy", "fifo", "--quiet", "--json", "/dev/null")

    assert answer.status == 0 and os.path.exists("/dev/null") and not os.path.isfile("/dev/null")


# ------------------------------------------------------------------------------------------------- the workload


def test_the_default_policies_are_those_that_the_trace_allows(trainmaster, tmp_path):
    bare = trainmaster("simulate", *ON, "--json", "-").runs()
    with_limits = trainmaster("simulate", "--trace", "busy.csv", "--cluster", "1x4", "--json", "-").runs()

    assert [run["label"] for run in bare] == ["fifo", "tiresias-las", "srtf"]
    assert [run["label"] for run in with_limits] == ["fifo", "easy-backfill", "tiresias-las", "srtf"]


def test_what_was_recorded_is_a_default_policy_unless_the_load_is_another(trainmaster, tmp_path):
    (tmp_path / "past.csv").write_text("submit_s,gpus,work,recorded_start_s\n0,4,100,\n5,4,100,150\n")
    argv = ["simulate", "--trace", "past.csv", "--cluster", "2x4", "--json", "-"]
    recorded = trainmaster(*argv).runs()[-1]
    refused = trainmaster(*argv, "--load", "2", "--policy", "recorded")

    assert (recorded["label"], recorded["makespan_s"], recorded["params"]["rules"]["restart_cost_s"]) == ("recorded", 250, 0)
    assert [run["label"] for run in trainmaster(*argv, "--load", "2").runs()] == ["fifo", "tiresias-las", "srtf"]
    assert refused.status == 2 and "at --load 2 the recorded starts no longer hold" in refused.err


def test_a_default_policy_that_refuses_the_cluster_is_left_out_with_the_reason(trainmaster, tmp_path):
    (tmp_path / "quota.yaml").write_text("nodes: [{count: 1, gpus: 4}]\nqueues: {a: {quota_gpus: 4}}\n")
    answer = trainmaster("simulate", "--trace", "busy.csv", "--cluster", "quota.yaml")

    assert answer.status == 0
    assert "easy-backfill left out: easy-backfill plans the whole cluster" in answer.err


def test_jobs_takes_the_first(trainmaster):
    document = trainmaster("simulate", "--trace", "busy.csv", "--cluster", "1x4", "--policy", "fifo", "--jobs", "7", "--json", "-").json

    assert document["trace"]["jobs"] == document["runs"][0]["jobs"] == 7


def test_a_generated_workload_has_a_cluster_and_as_many_jobs_as_asked(trainmaster):
    document = trainmaster("simulate", "--trace", "synthetic:philly", "--policy", "fifo", "--jobs", "50", "--json", "-").json

    assert document["trace"] == {"path": "synthetic:philly", "format": "synthetic", "jobs": 50, "skipped": {}}
    assert document["cluster"]["gpus"] > 0


def test_jobs_of_cpus_alone_are_set_aside_where_no_node_declares_cpus(trainmaster, tmp_path):
    (tmp_path / "mixed.csv").write_text("submit_s,gpus,cpus,work\n0,1,0,10\n0,0,2,10\n")
    (tmp_path / "cpus.yaml").write_text("nodes: [{count: 1, gpus: 4, cpus: 8}]\n")
    aside = trainmaster("simulate", "--trace", "mixed.csv", "--cluster", "1x4", "--policy", "fifo", "--json", "-").json
    run = trainmaster("simulate", "--trace", "mixed.csv", "--cluster", "cpus.yaml", "--policy", "fifo", "--json", "-").json

    assert (aside["trace"]["jobs"], aside["trace"]["skipped"]) == (1, {"cpu-only": 1})
    assert (run["trace"]["jobs"], run["trace"]["skipped"]) == (2, {})


def test_skipped_rows_are_said_with_their_reason(trainmaster, tmp_path):
    (tmp_path / "some.csv").write_text("submit_s,gpus,cpus,work\n0,1,0,10\n0,0,2,10\n0,1,0,0\n")
    answer = trainmaster("simulate", "--trace", "some.csv", "--cluster", "1x4", "--policy", "fifo")

    assert answer.err == "some.csv: rows left out: 1 cpu-only, 1 zero-length\n"


def test_a_window_measures_those_submitted_in_it(trainmaster):
    argv = ["--window", "100:200", "--json", "-"]
    run = trainmaster("simulate", "--trace", "busy.csv", "--cluster", "1x4", "--policy", "fifo", *argv).runs()[0]

    assert (run["window"], run["jobs"]) == ([100, 200], 10)  # one every 10 s


def test_load_divides_the_times_between_arrivals_and_keeps_deadlines_as_far():
    jobs = JobTable.of(
        [
            Job(id="a", submit_s=100, work=1, deadline_s=150, recorded_start_s=120, recorded_end_s=121),
            Job(id="b", submit_s=300, work=1, eligible_s=340, deadline_s=500),
        ]
    )
    twice = with_load(jobs, 2.0)

    assert twice.submit_s.tolist() == [100, 200]
    assert twice.eligible_s.tolist() == [100, 220]
    assert twice.deadline_s.tolist() == [150, 400]
    assert np.isnan(twice.recorded_start_s).all()  # nothing was recorded at this load


def test_load_reaches_the_run(trainmaster):
    argv = ["simulate", "--trace", "busy.csv", "--cluster", "1x4", "--policy", "fifo", "--json", "-", "--load"]
    light, heavy = (trainmaster(*argv, load).runs()[0] for load in ("0.1", "2"))

    assert (light["load"], heavy["load"]) == (0.1, 2)
    assert light["avg_queue_s"] < heavy["avg_queue_s"]


def test_faults_round_and_placement_reach_the_run(trainmaster):
    argv = ["--faults", "mtbf=10m,mttr=1m,checkpoint=1m", "--round", "60", "--placement", "spread", "--json", "-"]
    run = trainmaster("simulate", "--trace", "busy.csv", "--cluster", "2x4", "--policy", "fifo", *argv).runs()[0]

    assert run["failures"] > 0
    assert (run["round_s"], run["placement"]) == (60, "spread")


def test_a_file_of_samples_is_in_the_parameters_by_its_digest(trainmaster, tmp_path):
    (tmp_path / "past.csv").write_text("duration\n100\n200\n4000\n")
    argv = ["--policy", "tiresias-gittins", "--set", "tiresias-gittins.samples=past.csv", "--json", "-"]
    run = trainmaster("simulate", *ON, *argv).runs()[0]

    sha256 = "3a7b4287cef559dde3c05053d83d5401c0e19d7999e57147523ee128a097fae5"  # of the file above
    assert run["params"]["samples"] == {"path": "past.csv", "sha256": sha256, "values": 3}


def test_a_job_larger_than_the_cluster_is_unschedulable_and_the_rest_run(trainmaster, tmp_path):
    (tmp_path / "large.csv").write_text("submit_s,gpus,work\n0,64,10\n0,4,10\n")
    argv = ["simulate", "--trace", "large.csv", "--cluster", "1x4", "--policy", "fifo"]
    run, told = trainmaster(*argv, "--json", "-").runs()[0], trainmaster(*argv).err

    assert (run["jobs"], run["finished"], run["unschedulable"]) == (2, 1, 1)
    assert told == "note: job 0 can never fit: a gang of 64 on 1 node of 4 (4 GPUs)\n"


def test_the_installed_command_runs(trainmaster):
    argv = [sys.executable, "-m", "trainmaster.cli.main", "simulate", *ON, "--policy", "fifo"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)

    assert (done.returncode, done.stderr) == (0, "")
    assert "fifo" in done.stdout


# ------------------------------------------------------------------------------------------------- bad input

FILES = {
    "empty.csv": b"",
    "noise.bin": bytes(range(256)) * 20,
    "table.csv": b"name,colour\nanna,red\n",
    "negative.csv": b"submit_s,gpus,work\n0,1,10\n5,1,-3\n",
    "nothing.csv": b"submit_s,gpus,cpus,work\n0,0,0,10\n",
    "nan.csv": b"submit_s,gpus,work\nnan,1,10\n",
    "cpus.csv": b"submit_s,gpus,cpus,work\n0,0,2,10\n",
    "steps.csv": b"submit_s,gpus,work,work_in_steps\n0,1,10,true\n",
    "slip.yaml": b"nodes: [{count: 2, gpu: 8}]\n",
    "broken.py": b"import nowhere_at_all\n",
    "faulty.py": b"from trainmaster.policies.base import *\n@policy(name='f', paper='p')\nclass F(ListPolicy[NoParams]):\n"
    b"    def rank(self, view, memory):\n        return view.nonsense\n",
}
BAD = {
    "an empty file": (["--trace", "empty.csv"], "empty.csv: is empty"),
    "noise": (["--trace", "noise.bin"], "noise.bin: is no trace format"),
    "a CSV of something else": (["--trace", "table.csv"], "table.csv: is no trace format"),
    "a file of another format": ([*ON, "--format", "helios"], "it looks like format trainmaster"),
    "no such format": ([*ON, "--format", "helois"], 'did you mean "helios"?'),
    "no such file": (["--trace", "absent.csv"], "absent.csv: no such file"),
    "a folder": (["--trace", "."], "directory"),
    "a negative duration": (["--trace", "negative.csv", "--cluster", "1x4"], 'negative.csv:3: work: "-3" is below 0'),
    "a job of no GPU and no CPU": (["--trace", "nothing.csv", "--cluster", "1x4"], "nothing.csv:2"),
    "NaN": (["--trace", "nan.csv", "--cluster", "1x4"], 'nan.csv:2: submit_s: "nan"'),
    "CPUs alone": (["--trace", "cpus.csv", "--cluster", "1x4"], "all 1 jobs ask for CPUs alone"),
    "steps without profiles": (["--trace", "steps.csv", "--cluster", "1x4"], "--profiles PATH"),
    "no such workload": (["--trace", "synthetic:phily"], "synthetic:philly"),
    "no cluster": (["--trace", "two.csv"], "two.csv: does not say what cluster it ran on; give one with --cluster"),
    "a slip in the cluster": (["--trace", "two.csv", "--cluster", "1y4"], '--cluster: "1y4" is not'),
    "a slip in a cluster file": (["--trace", "two.csv", "--cluster", "slip.yaml"], 'did you mean "gpus"?'),
    "no such policy": ([*ON, "--policy", "tiresas"], 'no policy "tiresas"; did you mean "tiresias-las"?'),
    "an empty policy": ([*ON, "--policy", "fifo,"], "has an empty name"),
    "an empty label": ([*ON, "--policy", "=fifo"], "is not [LABEL=]NAME"),
    "a label twice": ([*ON, "--policy", "fifo,fifo"], 'two policies are labelled "fifo"'),
    "no such parameter": ([*ON, "--policy", "fifo", "--set", "fifo.blockin=1"], 'did you mean "blocking"?'),
    "no such label": ([*ON, "--policy", "fifo", "--set", "fif.blocking=1"], 'labelled "fif"; did you mean "fifo"?'),
    "a bad value": ([*ON, "--policy", "fifo", "--set", "fifo.blocking=perhaps"], "is not true or false"),
    "no parameter": ([*ON, "--policy", "fifo", "--set", "blocking"], "is not LABEL.PARAM=VALUE"),
    "no such preset": ([*ON, "--policy", "fifo", "--set", "fifo.preset=x"], 'no preset "x"'),
    "no such samples": ([*ON, "--policy", "tiresias-gittins", "--set", "tiresias-gittins.samples=absent.csv"], "absent.csv: no such file"),
    "samples of something else": ([*ON, "--policy", "tiresias-gittins", "--set", "tiresias-gittins.samples=table.csv"], '"duration"'),
    "backfill without limits": ([*ON, "--policy", "fifo,easy-backfill"], "the trace has no time limits"),
    "no policy file": ([*ON, "--policy", "absent.py:Mine"], "no file absent.py"),
    "a policy file that does not load": ([*ON, "--policy", "broken.py:Mine"], "broken.py cannot be loaded"),
    "a policy that fails": ([*ON, "--policy", "fifo,faulty.py:F"], "faulty.py:5: AttributeError"),
    "no such placement": ([*ON, "--placement", "pakced"], "did you mean 'packed'?"),
    "no such profiles": ([*ON, "--profiles", "absent.json"], "absent.json"),
    "profiles of something else": ([*ON, "--profiles", "two.csv"], "two.csv"),
    "faults": ([*ON, "--faults", "mtbf=often"], "--faults: 'mtbf=often'"),
    "a report in no folder": ([*ON, "--report", "absent/page.html"], "--report: absent/page.html cannot be written: no such file"),
    "a report that is a folder": ([*ON, "--report", "."], "--report: . cannot be written: is a directory"),
    "a table of unknown kind": ([*ON, "--jobs-out", "jobs.xlsx"], ".csv or .parquet"),
    "an output twice": ([*ON, "--json", "out.csv", "--jobs-out", "out.csv"], "another option too"),
    "an output over the trace": ([*ON, "--jobs-out", "two.csv"], "two.csv is an input"),
    **{f"--load {load}": ([*ON, "--load", load], "--load: ") for load in ("0", "-1", "nan", "inf", "much")},
    **{f"--window {window}": ([*ON, "--window", window], "--window: ") for window in ("5", "9:5", "5:5", "a:b", "nan:5", "")},
    **{f"--seeds {seeds}": ([*ON, "--seeds", seeds], "--seeds: ") for seeds in ("0", "-2", "1.5", "many")},
    **{f"--seed {seed}": ([*ON, "--seed", seed], "--seed: ") for seed in ("-1", "x", str(2**64))},
    **{f"--jobs {jobs}": ([*ON, "--jobs", jobs], "--jobs: ") for jobs in ("0", "x")},
    **{f"--workers {workers}": ([*ON, "--workers", workers], "--workers: ") for workers in ("0", "x")},
    **{f"--round {round_s}": ([*ON, "--round", round_s], "--round: ") for round_s in ("-1", "nan", "x")},
    **{f"--restart-cost {cost}": ([*ON, "--restart-cost", cost], "--restart-cost: ") for cost in ("-1", "inf")},
}


@pytest.mark.parametrize(("argv", "told"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_status_2(trainmaster, tmp_path, argv, told):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    answer = trainmaster("simulate", *argv)

    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("trainmaster: ") and answer.err.count("\n") == 1
    assert told in answer.err and "Traceback" not in answer.err
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before  # nothing overwritten, nothing left lying about


def test_an_output_that_cannot_be_written_is_found_before_the_simulation(trainmaster, monkeypatch):
    monkeypatch.setattr("trainmaster.api.session.simulate_policy", lambda *_, **__: pytest.fail("simulated"))

    assert trainmaster("simulate", *ON, "--policy", "fifo", "--report", "absent/page.html").status == 2


def test_a_figure_that_is_lost_late_does_not_take_the_others_along(trainmaster, monkeypatch):
    def full(self, text):
        raise OSError(28, "No space left on device", "page.html")

    trainmaster("simulate", *ON, "--policy", "fifo", "--quiet", "--json", "out.json")
    monkeypatch.setattr("trainmaster.report.html.page", lambda *_, **__: full(None, ""))
    answer = trainmaster("simulate", *ON, "--policy", "fifo", "--json", "out.json", "--report", "page.html")

    assert (answer.status, answer.err) == (1, "trainmaster: page.html: No space left on device\n")
    assert json.loads(Path("out.json").read_text())["runs"] and not os.path.exists("page.html")


def test_jobs_that_take_time_to_stop_delay_those_that_displace_them(trainmaster):
    asked = ["simulate", *ON, "--policy", "srtf", "--restart-cost", "0", "--start-delay", "5", "--stop-delay", "10", "--json", "-"]

    (run,) = trainmaster(*asked).runs()

    # the first runs 5..10 and has gone at 20; the second runs 25..45; the first again from 50 on, 95 s
    assert (run["avg_jct_s"], run["makespan_s"]) == ((145 + 35) / 2, 145)
