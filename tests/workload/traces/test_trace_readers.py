"""Each reader on twenty invented jobs: job i is submitted, sized and long by plain arithmetic, so the figures can be redone."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from trainmaster.workload.jobs import JobTable
from trainmaster.workload.traces import Trace, formats, load_trace

SAMPLES = {path.stem: path for path in sorted((Path(__file__).parent / "samples").iterdir())}
ROWS = 20

SKIPPED = {
    "elasticflow": {},
    "gavel": {"zero-length": 1},
    "helios": {"asks for nothing": 1, "zero-length": 1},
    "lucid": {"asks for nothing": 1},
    "muri": {"zero-length": 1},
    "openb": {"never scheduled": 2},
    "pai2020": {"asks for nothing": 1},
    "philly": {"asks for nothing": 1, "zero-length": 1},
    "philly-json": {"never ran": 2, "still running": 1, "ends before it starts": 1, "zero-length": 1, "asks for nothing": 1},
    "pollux": {},
    "sacct": {"job step": 1, "never started": 2, "still running": 1, "zero-length": 1, "asks for nothing": 1},
    "swf": {"part of a job": 1, "no run time": 1, "no processors": 1, "zero-length": 1},
    "synergy": {},
    "tiresias": {"zero-length": 1},
    "trainmaster": {"zero-length": 1},
}


def sample(format: str) -> JobTable:
    return load_trace(SAMPLES[format]).jobs


def row(jobs: JobTable, id: str) -> int:
    return list(jobs.id).index(id)


def test_every_format_has_a_sample():
    assert set(SAMPLES) == set(SKIPPED) == set(formats())


@pytest.mark.parametrize("format", SKIPPED)
def test_auto_knows_the_format_and_no_row_is_lost(format):
    trace = load_trace(SAMPLES[format])

    assert trace.format == format
    assert trace.path == str(SAMPLES[format])
    assert trace.skipped == Counter(SKIPPED[format])
    assert len(trace.jobs) + sum(trace.skipped.values()) == ROWS


@pytest.mark.parametrize("format", SKIPPED)
def test_gzipped_under_any_name_it_reads_the_same(format, tmp_path):
    packed = tmp_path / "log"
    packed.write_bytes(gzip.compress(SAMPLES[format].read_bytes()))

    plain, trace = load_trace(SAMPLES[format], format), load_trace(packed)

    assert trace.format == format
    assert_same(trace, plain)


@pytest.mark.parametrize("format", [name for name in SKIPPED if name not in ("gavel", "synergy", "swf", "philly-json")])
def test_columns_may_come_in_any_order(format, tmp_path):
    separator = "|" if format == "sacct" else ","
    lines = [line.split(separator)[::-1] for line in SAMPLES[format].read_text().splitlines()]
    (tmp_path / "reversed").write_text("\n".join(separator.join(fields) for fields in lines))

    assert_same(load_trace(tmp_path / "reversed"), load_trace(SAMPLES[format]))


@pytest.mark.parametrize("end", ["\r\n", "\n\n"])
@pytest.mark.parametrize("format", [name for name in SKIPPED if name != "philly-json"])
def test_line_ends_blank_lines_and_a_byte_order_mark_change_nothing(format, end, tmp_path):
    text = "\ufeff" + SAMPLES[format].read_text().replace("\n", end)
    (tmp_path / "log").write_bytes(text.encode())

    assert_same(load_trace(tmp_path / "log"), load_trace(SAMPLES[format]))


@pytest.mark.parametrize(
    ("format", "columns"),
    {
        "philly": ["timestamp", "num_gpus", "duration"],
        "tiresias": ["submit_time", "num_gpu", "duration"],
        "muri": ["submit_time", "num_gpu", "iterations", "iteration_time"],
        "pollux": ["time", "num_replicas", "application"],
        "helios": ["submit_time", "gpu_num", "duration"],
        "lucid": ["submit_time", "gpu_num", "duration", "model", "dataset", "batchsize", "amp"],
        "pai2020": ["submit_time", "num_gpu", "duration", "num_inst"],
        "openb": ["creation_time", "deletion_time", "num_gpu", "gpu_milli"],
        "elasticflow": ["submit_time", "num_gpu", "duration", "ddl"],
        "sacct": ["Submit", "Start", "End", "AllocTRES"],
        "trainmaster": ["submit_s", "gpus", "work"],
    }.items(),
)
def test_submission_gpus_and_work_are_enough(format, columns, tmp_path):
    separator = "|" if format == "sacct" else ","
    frame = pl.read_csv(SAMPLES[format], separator=separator, infer_schema=False).select(columns)
    frame.filter(pl.col(columns[1]) != "0").write_csv(tmp_path / "few.csv", separator=separator)
    if format == "trainmaster":  # its CPU job is nothing without the CPUs
        frame.filter(pl.col("gpus") != "0").write_csv(tmp_path / "few.csv")

    trace = load_trace(tmp_path / "few.csv")

    assert trace.format == format
    assert set(trace.jobs.id) <= {str(number) for number in range(ROWS)}  # the row number is the id


def test_philly_counts_from_its_earliest_submission():
    trace = load_trace(SAMPLES["philly"])
    jobs = trace.jobs

    assert trace.zero_unix_s == 1585699200 + 3600  # 2020-04-01 01:00:00, the last line
    assert jobs.submit_s[0] == 0 and jobs.id[0] == "19"  # the row number is the id
    last = row(jobs, "0")
    assert (jobs.submit_s[last], jobs.work[last], jobs.gpus[last], jobs.queue[last]) == (19 * 3600, 60, 1, "d4e5f6")
    assert np.all(np.diff(jobs.submit_s) >= 0)


def test_philly_json_adds_up_attempts():
    trace = load_trace(SAMPLES["philly-json"])
    jobs = trace.jobs

    assert trace.zero_unix_s == 1585699200 + 1000
    twice = row(jobs, "application_02")  # attempts of 200 and 300 s: 60..260 and 400..700 after its submission
    assert (jobs.work[twice], jobs.recorded_start_s[twice], jobs.recorded_end_s[twice]) == (500, 1060, 1700)
    assert (jobs.user[twice], jobs.queue[twice], jobs.gpus[twice]) == ("u2", "vc0", 1)
    wide = row(jobs, "application_15")  # eight GPUs on each of two nodes
    assert jobs.gpus[wide] == 16
    logged_badly = row(jobs, "application_08")  # its first attempt has no times
    assert (jobs.work[logged_badly], jobs.recorded_start_s[logged_badly]) == (800, 7060)


def test_tiresias():
    jobs = sample("tiresias")

    assert list(jobs.id[:3]) == ["0", "1", "2"]
    assert (jobs.submit_s[2], jobs.gpus[2], jobs.work[2], jobs.model[2]) == (60, 2, 150, "vgg16")
    assert not jobs.work_in_steps.any() and np.isnan(jobs.recorded_start_s).all()


def test_muri_times_are_milliseconds_and_work_is_what_its_simulator_runs():
    jobs = sample("muri")

    assert (jobs.submit_s[2], jobs.gpus[2]) == (3, 2)
    assert jobs.work[2] == pytest.approx(3000 * 100 * 1.015 / 1000)
    assert (jobs.model[2], jobs.batch_size[2], jobs.service_class[2]) == ("vgg16", 16, "guaranteed")
    assert jobs.service_class[row(jobs, "4")] == "opportunistic"


def test_pollux_leaves_work_to_the_profiles():
    jobs = sample("pollux")

    assert np.isnan(jobs.work).all()
    assert (jobs.id[4], jobs.submit_s[4], jobs.model[4], jobs.gpus[4], jobs.batch_size[4]) == ("ncf-4", 480.5, "ncf", 4, 1024)


def test_gavel_counts_steps_and_keys_models_as_its_table_does():
    jobs = sample("gavel")

    assert jobs.work_in_steps.all()
    third = row(jobs, "2")
    assert (jobs.submit_s[third], jobs.gpus[third], jobs.work[third], jobs.weight[third]) == (500.5, 2, 3000, 5)
    assert (jobs.model[third], jobs.batch_size[third]) == ("ResNet-18 (batch size 16)", 16)
    assert jobs.model[row(jobs, "6")] == "CycleGAN" and np.isnan(jobs.batch_size[row(jobs, "6")])
    assert np.isnan(jobs.deadline_s).all()
    assert jobs.slo[row(jobs, "1")] == 1.5 and np.isnan(jobs.slo[third])  # of a run time that only a profile knows


def test_gavel_of_seven_columns(tmp_path):
    lines = ("A3C\tcd %s && python3 main.py\t--max-steps\t0\t700\t6.000000\t4", "LM (batch size 5)\tx\t-n\t1\t900\t9.5\t1")
    (tmp_path / "msr.trace").write_text("\n".join(lines))

    jobs = load_trace(tmp_path / "msr.trace").jobs

    assert (jobs.submit_s.tolist(), jobs.gpus.tolist(), jobs.work.tolist()) == ([6, 9.5], [4, 1], [700, 900])
    assert jobs.weight.tolist() == [1, 1]


def test_helios_keeps_cpu_jobs_and_recorded_times():
    trace = load_trace(SAMPLES["helios"])
    jobs = trace.jobs

    assert trace.zero_unix_s == 1585699200 + 600
    cpu_job = row(jobs, "5003")
    assert (jobs.gpus[cpu_job], jobs.cpus[cpu_job]) == (0, 6)
    fifth = row(jobs, "5005")
    assert (jobs.submit_s[fifth], jobs.gpus[fifth], jobs.cpus[fifth], jobs.work[fifth]) == (2400, 4, 24, 450)
    assert (jobs.recorded_start_s[fifth], jobs.recorded_end_s[fifth]) == (2475, 2925)
    assert (jobs.queue[fifth], jobs.user[fifth], jobs.name[fifth]) == ("vcB", "u1", "job5")


def test_lucid_joins_the_key_of_its_measured_configurations():
    jobs = sample("lucid")

    assert (jobs.model[0], jobs.batch_size[0]) == ("BERT SQuAD 32 0", 32)
    assert (jobs.model[1], jobs.queue[1], jobs.submit_s[1], jobs.work[1]) == ("ResNet50 ImageNet 64 1", "vcX", 300, 90)


def test_pai2020_multiplies_by_instances_and_keeps_estimates():
    jobs = sample("pai2020")

    gang = row(jobs, "1")
    assert (jobs.gpu_milli[gang], jobs.cpus[gang], jobs.submit_s[gang], jobs.work[gang]) == (1500, 18, 0, 200)
    assert jobs.gpu_milli[row(jobs, "2")] == 250
    cpu_job, instant = row(jobs, "5"), row(jobs, "9")
    assert (jobs.gpus[cpu_job], jobs.cpus[cpu_job]) == (0, 6)
    assert jobs.work[instant] == 1
    assert {name: values[gang] for name, values in jobs.estimates.items()} == {"user_dur": 400, "group_dur": 300, "group_gpu_dur": 220}
    assert jobs.accept_sets == ((),)


def test_openb_shares_types_and_units():
    jobs = sample("openb")

    shared, typed, cpu_pod = row(jobs, "pod-002"), row(jobs, "pod-003"), row(jobs, "pod-004")
    assert (jobs.gpu_milli[shared], jobs.cpus[shared], jobs.memory_gib[shared]) == (460, 8, 4)
    assert jobs.accept_sets[jobs.accept_set[typed]] == ("V100M16", "V100M32")
    assert (jobs.gpus[cpu_pod], jobs.service_class[cpu_pod]) == (0, "LS")
    assert (jobs.submit_s[shared], jobs.work[shared], jobs.recorded_start_s[shared], jobs.recorded_end_s[shared]) == (100, 990, 110, 1100)


def test_elasticflow_deadlines_and_best_effort():
    jobs = sample("elasticflow")

    assert (jobs.submit_s[3], jobs.gpus[3], jobs.work[3], jobs.deadline_s[3], jobs.model[3]) == (600, 1, 400, 1200, "vgg16")
    assert jobs.service_class[3] is None
    assert jobs.steps[3] == 2000
    assert np.isnan(jobs.deadline_s[5]) and jobs.service_class[5] == "best-effort"


def test_elasticflow_in_the_words_of_the_published_traces(tmp_path):
    (tmp_path / "raw.csv").write_text("job_id,submission_time,duration,num_gpu,deadline\nx,16566,3890,4,20000\n")

    trace = load_trace(tmp_path / "raw.csv")

    assert (trace.format, trace.jobs.submit_s[0], trace.jobs.work[0], trace.jobs.deadline_s[0]) == ("elasticflow", 16566, 3890, 20000)


def test_synergy_counts_iterations():
    jobs = sample("synergy")

    assert jobs.work_in_steps.all()
    assert (jobs.id[2], jobs.model[2], jobs.submit_s[2], jobs.work[2], jobs.gpus[2]) == ("2", "alexnet", 898.5, 3000, 2)


def test_swf_absences_and_recorded_times():
    jobs = sample("swf")

    first, no_wait, fallback = row(jobs, "1"), row(jobs, "2"), row(jobs, "9")
    assert (jobs.submit_s[first], jobs.recorded_start_s[first], jobs.recorded_end_s[first], jobs.limit_s[first]) == (40, 45, 145, 200)
    assert (jobs.user[first], jobs.account[first], jobs.queue[first]) == ("2", "2", "1")
    assert np.isnan(jobs.recorded_start_s[no_wait]) and np.isnan(jobs.limit_s[row(jobs, "4")])
    assert jobs.gpus[fallback] == 1  # allocated is absent, so what was requested
    assert jobs.memory_gib[row(jobs, "6")] == 1  # 1 GiB in KB, for one processor
    assert jobs.queue[row(jobs, "8")] is None


@pytest.mark.parametrize(
    ("header", "nodes", "gpus"),
    [
        ("; MaxNodes: 16\n; MaxProcs: 64\n", 16, 4),
        ("; MaxNodes: 24\n; MaxProcs: 64\n", 64, 1),  # 24 does not divide 64
        ("; MaxProcs: 64\n", 64, 1),
    ],
)
def test_swf_header_gives_the_cluster(header, nodes, gpus, tmp_path):
    (tmp_path / "log.swf").write_text(header + "1 0 0 60 1 -1 -1 1 -1 -1 1 -1 -1 -1 -1 -1 -1 -1\n")

    cluster = load_trace(tmp_path / "log.swf").cluster

    assert cluster is not None
    assert [node.gpus for node in cluster.nodes] == [gpus] * nodes


def test_swf_without_a_header_has_no_cluster(tmp_path):
    (tmp_path / "log.swf").write_text("1 0 0 60 1 -1 -1 1 -1 -1 1 -1 -1 -1 -1 -1 -1 -1\n")

    assert load_trace(tmp_path / "log.swf").cluster is None


def test_sacct_resources_times_and_limits():
    trace = load_trace(SAMPLES["sacct"])
    jobs = trace.jobs

    assert trace.zero_unix_s == 1709251200 + 60
    first = row(jobs, "9001")
    assert (jobs.gpus[first], jobs.cpus[first], jobs.memory_gib[first], jobs.work[first], jobs.limit_s[first]) == (1, 8, 16, 600, 86400)
    assert (jobs.submit_s[first], jobs.recorded_start_s[first], jobs.recorded_end_s[first]) == (0, 30, 630)
    assert (jobs.user[first], jobs.account[first], jobs.queue[first], jobs.service_class[first]) == ("user1", "acct1", "gpu", "normal")
    typed, cpu_job, mixed = row(jobs, "9002"), row(jobs, "9006"), row(jobs, "9010")
    assert jobs.accept_sets[jobs.accept_set[typed]] == ("a100",)
    assert (jobs.gpus[typed], jobs.memory_gib[typed]) == (1, 500 / 1024)
    assert (jobs.gpus[cpu_job], jobs.cpus[cpu_job], jobs.memory_gib[cpu_job]) == (0, 4, 2048)
    assert (jobs.gpus[mixed], jobs.memory_gib[mixed]) == (6, 1)  # 4 of h100 and 2 of v100
    assert np.isnan(jobs.limit_s[row(jobs, "9008")]) and np.isnan(jobs.limit_s[row(jobs, "9009")])
    delayed = row(jobs, "9012")
    assert jobs.eligible_s[delayed] - jobs.submit_s[delayed] == 20


def test_sacct_takes_unix_times(tmp_path):
    (tmp_path / "log").write_text("JobID|Submit|Start|End|State|AllocTRES\n7|1700000000|1700000010|1700000070|COMPLETED|gres/gpu=2\n")

    trace = load_trace(tmp_path / "log")

    assert (trace.zero_unix_s, trace.jobs.work[0], trace.jobs.gpus[0], trace.jobs.recorded_start_s[0]) == (1.7e9, 60, 2, 10)


def test_trainmaster_reads_every_field():
    jobs = sample("trainmaster")

    assert jobs.gpu_milli[row(jobs, "j2")] == 500
    assert jobs.gpus[row(jobs, "j3")] == 0 and jobs.cpus[row(jobs, "j3")] == 8
    assert jobs.work_in_steps[row(jobs, "j4")] and jobs.model[row(jobs, "j4")] == "bert"
    assert jobs.accept_sets[jobs.accept_set[row(jobs, "j5")]] == ("v100", "a100")
    assert jobs.deadline_s[row(jobs, "j6")] == 99999
    assert (jobs.min_gpus[row(jobs, "j7")], jobs.max_gpus[row(jobs, "j7")]) == (2, 16)
    assert not jobs.preemptible[row(jobs, "j8")] and jobs.preemptible[row(jobs, "j9")]
    assert jobs.priority[row(jobs, "j9")] == 1
    assert jobs.work[row(jobs, "j20")] == np.inf
    first = row(jobs, "j1")
    assert (jobs.submit_s[first], jobs.limit_s[first], jobs.memory_gib[first], jobs.estimates["rf"][first]) == (10, 2000, 32, 900)


def test_trainmaster_parquet_is_the_same_as_its_csv(tmp_path):
    pl.read_csv(SAMPLES["trainmaster"]).write_parquet(tmp_path / "jobs")

    assert_same(load_trace(tmp_path / "jobs"), load_trace(SAMPLES["trainmaster"]))


def assert_same(trace: Trace, other: Trace) -> None:
    ours, theirs = trace.jobs, other.jobs
    assert trace.skipped == other.skipped and trace.zero_unix_s == other.zero_unix_s
    for name in ("id", "submit_s", "gpu_milli", "work", "cpus", "limit_s", "deadline_s", "recorded_start_s", "eligible_s"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("user", "queue", "model", "service_class"):
        assert list(getattr(ours, name).text()) == list(getattr(theirs, name).text())
