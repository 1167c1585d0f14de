"""The generator: its marginals are the published ones, its load is exact, and a seed is a workload."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainmaster.errors import ParamError
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.synth import STREAMS, SYNTHETIC, Synthetic, default_jobs, helios, philly, synthesize
from trainmaster.workload.synth.limits import ROUND_LIMITS_S
from trainmaster.workload.synth.marginals import DAY_S, HOUR_S, WEEK_S, Rhythm

DATA = Path(os.environ.get("TRAINMASTER_DATA", "none"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="TRAINMASTER_DATA names no folder")

LARGE = 200_000  # jobs: the standard error of a share is at most 0.11 %


@pytest.fixture(scope="module")
def large() -> dict[str, Synthetic]:
    """Every kind, on a cluster where every gang fits; the arrivals take some days."""
    return {kind: synthesize(kind, jobs=LARGE, cluster_gpus=50_000, max_gang=50_000, load=0.9, seed=7) for kind in SYNTHETIC}


def gpu_s(jobs: JobTable) -> np.ndarray:
    return jobs.gpus * jobs.work


# --- what every kind promises ---


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(SYNTHETIC)),
    jobs=st.integers(2, 400),
    nodes=st.integers(1, 64),
    gpus_a_node=st.sampled_from([1, 2, 4, 8]),
    load=st.floats(0.01, 4.0),
    seed=st.integers(0, 2**32),
)
def test_any_workload_is_valid_and_offers_the_load_asked_for(kind, jobs, nodes, gpus_a_node, load, seed):
    cluster_gpus = nodes * gpus_a_node

    table, status, span_s = synthesize(kind, jobs=jobs, cluster_gpus=cluster_gpus, max_gang=cluster_gpus, load=load, seed=seed)

    assert len(table) == len(status) == jobs
    assert (np.diff(table.submit_s) >= 0).all() and (table.seq == np.arange(jobs)).all()
    assert (table.submit_s[0], table.submit_s[-1]) == (0.0, span_s)
    assert gpu_s(table).sum() / (cluster_gpus * span_s) == pytest.approx(load, rel=1e-9)
    assert (table.gpus > 0).all() and (table.gpus <= cluster_gpus).all()
    assert (table.gpus[table.gpus > 1] % 1 == 0).all()  # a gang takes whole GPUs
    assert (table.work >= 1).all() and (table.work % 1 == 0).all()
    assert (table.limit_s >= table.work).all() and np.isin(table.limit_s, ROUND_LIMITS_S).all()
    for labels in (table.user, table.queue, status):
        assert ((labels.codes >= -1) & (labels.codes < len(labels.names))).all()


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_a_seed_is_a_workload_to_the_byte(kind):
    one, same, other = (synthesize(kind, jobs=500, cluster_gpus=64, max_gang=64, load=0.8, seed=seed) for seed in (3, 3, 4))

    for column in ("submit_s", "work", "gpu_milli", "limit_s"):
        assert getattr(one.jobs, column).tobytes() == getattr(same.jobs, column).tobytes()
        assert getattr(one.jobs, column).tobytes() != getattr(other.jobs, column).tobytes()
    assert (one.jobs.user.text() == same.jobs.user.text()).all() and (one.jobs.queue.text() == same.jobs.queue.text()).all()
    assert one.status.codes.tobytes() == same.status.codes.tobytes()


def test_load_moves_the_arrivals_and_nothing_else():
    light, heavy = (synthesize("philly", jobs=500, cluster_gpus=64, max_gang=64, load=load, seed=3) for load in (0.5, 1.0))

    assert light.span_s == pytest.approx(2 * heavy.span_s)
    for column in ("work", "gpu_milli", "limit_s"):
        assert (getattr(light.jobs, column) == getattr(heavy.jobs, column)).all()


def test_another_marginal_does_not_reshuffle_the_others():
    small_gangs, all_gangs = (synthesize("helios", jobs=500, cluster_gpus=512, max_gang=gang, load=0.9, seed=3) for gang in (1, 512))

    assert (small_gangs.jobs.gpus == 1).all()
    assert (small_gangs.jobs.limit_s != all_gangs.jobs.limit_s).any()  # run times depend on the gang, and limits on run times
    assert (small_gangs.jobs.queue.text() == all_gangs.jobs.queue.text()).all()
    assert (small_gangs.jobs.user.text() == all_gangs.jobs.user.text()).all()
    assert len(set(STREAMS)) == len(STREAMS)


def test_a_gang_that_is_too_large_becomes_the_largest_counted_one_that_fits():
    jobs = synthesize("philly", jobs=LARGE, cluster_gpus=20, max_gang=20, load=0.9, seed=7).jobs

    assert jobs.gpus.max() == 16  # 24, 32, 64 and 128 have become 16
    above_12 = sum(count for gang, count in philly.GANGS.items() if gang > 12) / sum(philly.GANGS.values())
    assert (jobs.gpus == 16).mean() == pytest.approx(above_12, abs=0.001)


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_by_default_it_is_about_a_week(kind):
    spans_d = [synthesize(kind, jobs=None, cluster_gpus=1024, max_gang=1024, load=0.8, seed=seed).span_s / DAY_S for seed in range(5)]

    assert 5 < np.mean(spans_d) < 9
    assert default_jobs(kind, cluster_gpus=1024, load=0.8) == len(
        synthesize(kind, jobs=None, cluster_gpus=1024, max_gang=1024, load=0.8, seed=0).jobs
    )


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_one_job_is_submitted_at_zero(kind):
    assert synthesize(kind, jobs=1, cluster_gpus=8, max_gang=8, load=1.0, seed=0).jobs.submit_s.tolist() == [0.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "phily"}, r'no synthetic workload "phily"; there are synthetic, synthetic:philly'),
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"load": 0.0}, "--load must be a positive number"),
        ({"load": float("nan")}, "--load must be a positive number"),
        ({"cluster_gpus": 0}, "GPUs must be at least 1"),
        ({"max_gang": 0}, "largest gang must be at least 1"),
        ({"seed": -1}, "--seed must not be negative"),
    ],
)
def test_what_cannot_be_generated_is_refused_in_one_line(wrong, message):
    asked = {"kind": "philly", "jobs": 10, "cluster_gpus": 8, "max_gang": 8, "load": 1.0, "seed": 0} | wrong

    with pytest.raises(ParamError, match=message):
        synthesize(asked.pop("kind"), **asked)


# --- arrivals ---


def test_plain_arrivals_have_no_rhythm_and_the_others_have_their_day_and_week():
    for kind, marginals in SYNTHETIC.items():
        submit_s = marginals.rhythm.draw(np.random.default_rng(1), 400_000, 5 * WEEK_S)

        hours = np.bincount((submit_s % DAY_S // HOUR_S).astype(int), minlength=24) / 400_000 * 24
        weekdays = np.bincount((submit_s % WEEK_S // DAY_S).astype(int), minlength=7) / 400_000 * 7
        assert hours == pytest.approx(np.divide(marginals.rhythm.hours, np.mean(marginals.rhythm.hours)), abs=0.04)
        assert weekdays == pytest.approx(np.divide(marginals.rhythm.weekdays, np.mean(marginals.rhythm.weekdays)), abs=0.02)
        assert (hours.max() / hours.min() > 2) == (kind != "")


def test_a_workload_shows_its_rhythm(large):
    submit_s = synthesize("helios", jobs=20_000, cluster_gpus=1024, max_gang=1024, load=0.9, seed=5).jobs.submit_s

    hours = np.bincount((submit_s[submit_s < 7 * DAY_S] % DAY_S // HOUR_S).astype(int), minlength=24)
    assert hours[14:18].sum() > 5 * hours[4:8].sum()  # published: 6.682 to 0.884


def test_without_a_rhythm_the_gaps_are_exponential():
    gaps = np.diff(Rhythm().draw(np.random.default_rng(1), 200_000, 1e6))

    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.02)
    assert np.median(gaps) / gaps.mean() == pytest.approx(np.log(2), abs=0.01)


# --- Philly ---


def test_philly_has_the_gangs_and_run_times_of_the_public_trace(large):
    jobs = large["philly"].jobs

    for gang, published in ((1, 0.9317), (2, 0.0221), (4, 0.0227), (8, 0.0200), (16, 0.0024)):
        assert (jobs.gpus == gang).mean() == pytest.approx(published, abs=0.002)
    assert np.median(jobs.work) == pytest.approx(1_144, rel=0.03)
    assert np.quantile(jobs.work, 0.9) == pytest.approx(11_265, rel=0.05)
    assert np.quantile(jobs.work, 0.99) == pytest.approx(254_758, rel=0.1)
    assert jobs.work.max() <= 4_628_226
    assert gpu_s(jobs).mean() == pytest.approx(42_811, rel=0.08)  # 44,070 expected
    assert gpu_s(jobs)[jobs.gpus == 8].sum() / gpu_s(jobs).sum() == pytest.approx(0.484, abs=0.05)
    assert np.median(jobs.work[jobs.gpus == 8]) > 10 * np.median(jobs.work[jobs.gpus == 1])  # larger gangs run longer


def test_philly_ends_as_table_6_says(large):
    jobs, status, _ = large["philly"]

    assert status.names == ("completed", "killed", "failed")
    shares = np.bincount(status.codes) / len(jobs)
    of_gpu_time = np.bincount(status.codes, weights=gpu_s(jobs)) / gpu_s(jobs).sum()
    assert shares == pytest.approx([0.693, 0.135, 0.172], abs=0.004)
    assert of_gpu_time == pytest.approx([0.4453, 0.3769, 0.1776], abs=0.02)


def test_philly_has_its_virtual_clusters(large):
    jobs = large["philly"].jobs
    queue = jobs.queue.text()

    assert set(queue) <= set(philly.QUEUES)
    assert (queue == "6214e9").mean() == pytest.approx(0.501, abs=0.005)
    assert (queue[jobs.gpus > 1] == "11cb48").mean() == pytest.approx(1484 / 5620, abs=0.015)
    homes = {user: set(queue[jobs.user.codes == code]) for code, user in enumerate(jobs.user.names)}
    assert all(len(home) == 1 for home in homes.values())  # a user has one virtual cluster


# --- Helios ---


def test_helios_has_the_run_times_and_ends_of_venus(large):
    jobs, status, _ = large["helios"]

    assert np.median(jobs.work) == pytest.approx(204, rel=0.03)
    assert jobs.work.mean() == pytest.approx(13_040.6, rel=0.05)
    assert gpu_s(jobs).mean() == pytest.approx(98_526, rel=0.1)
    assert np.median(jobs.gpus) in (1, 2)  # 49.8 % of the counted jobs are of one GPU
    assert jobs.gpus.mean() == pytest.approx(5.67, abs=0.1)
    assert np.bincount(status.codes) / len(jobs) == pytest.approx([0.526, 0.272, 0.202], abs=0.004)
    of_gpu_time = np.bincount(status.codes, weights=gpu_s(jobs)) / gpu_s(jobs).sum()
    assert of_gpu_time == pytest.approx([0.516, 0.399, 0.085], abs=0.05)  # few jobs hold most
    assert (jobs.queue.text() == "vcEwI").mean() == pytest.approx(7603 / 23859, abs=0.005)


# --- PAI ---


def test_pai_shares_gpus_and_schedules_85_percent_of_its_instances_in_gangs(large):
    jobs = large["pai"].jobs

    assert (jobs.gpus < 1).mean() == pytest.approx(0.9375 * 0.4357, abs=0.01)
    assert jobs.work.mean() == pytest.approx(5_038.7, rel=0.04)
    assert np.median(jobs.work) == pytest.approx(655, rel=0.03)
    assert np.quantile(jobs.work, 0.95) == pytest.approx(16_987, rel=0.1)
    gangs = SYNTHETIC["pai"].gangs
    mean_instances = np.average(gangs.instances, weights=gangs.instance_weights)
    in_gangs = (1 - gangs.single_tasks) * mean_instances
    assert in_gangs / (in_gangs + gangs.single_tasks) == pytest.approx(0.85, abs=0.001)
    assert in_gangs + gangs.single_tasks == pytest.approx(7.5 / 1.2, rel=0.001)
    by_user = np.sort(np.bincount(jobs.user.codes))[::-1]
    assert by_user[:65].sum() / len(jobs) == pytest.approx(0.77, abs=0.02)  # the top 5 % of 1,300


# --- plain ---


def test_plain_is_gavels_continuous_trace(large):
    jobs = large[""].jobs

    assert [(jobs.gpus == gang).mean() for gang in (1, 2, 4, 8)] == pytest.approx([0.7, 0.1, 0.15, 0.05], abs=0.004)
    assert jobs.work.mean() / 3600 == pytest.approx(16.8, rel=0.02)
    assert (jobs.work <= 60_000).mean() == pytest.approx(0.8, abs=0.004)
    assert set(jobs.queue.codes) == set(jobs.user.codes) == {-1}


# --- limits ---


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_users_overestimate_and_most_who_failed_even_more(kind, large):
    jobs, status, _ = large[kind]
    long = jobs.work > HOUR_S  # where rounding up to five minutes hides nothing

    used = jobs.work / jobs.limit_s
    good = np.median(used[long & (status.codes <= 0)])
    assert 0.3 < good < 0.5  # half of the limit in the median, less what rounding up takes
    if status.names:
        assert np.median(used[long & (status.codes > 0)]) < good


# --- the numbers against the public traces themselves ---


@needs_data
def test_the_philly_tables_are_those_of_the_public_trace():
    with open(DATA / "sia/traces/philly.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    gpus, seconds = np.array([int(row["num_gpus"]) for row in rows]), np.array([float(row["duration"]) for row in rows])
    queue = np.array([row["cluster"] for row in rows])

    assert dict(zip(*np.unique(gpus, return_counts=True), strict=True)) == philly.GANGS
    for name, (singles, gangs) in philly.QUEUES.items():
        assert ((queue == name) & (gpus == 1)).sum() == singles and ((queue == name) & (gpus > 1)).sum() == gangs
    classes = np.searchsorted((1, 4, 8), gpus, side="left")
    for number, table in enumerate((philly.ONE, philly.TWO_TO_FOUR, philly.FIVE_TO_EIGHT, philly.MORE)):
        assert np.abs(np.quantile(seconds[classes == number], table.at) - table.seconds).max() <= 1
    long = seconds > philly.MARGINALS.statuses.long_s
    assert long.mean() == pytest.approx(philly.MARGINALS.statuses.long_jobs, abs=0.0001)
    assert (gpus * seconds)[long].sum() / (gpus * seconds).sum() == pytest.approx(philly.MARGINALS.statuses.long_gpu_time, abs=0.0001)

    hour = (np.array([row["timestamp"] for row in rows], "datetime64[s]") - np.datetime64("2017-09-20", "s")).astype(int) // 3600
    counts = np.bincount(hour[(hour >= 0) & (hour < 91 * 24)], minlength=91 * 24).reshape(91, 24)
    by_day = counts[counts.sum(axis=1) > 0]
    assert (by_day / by_day.sum(axis=1, keepdims=True)).mean(axis=0) * 24 == pytest.approx(np.array(philly.HOURS), abs=0.006)
    by_week = np.roll(counts.sum(axis=1).reshape(13, 7), 2, axis=1)  # 20 September 2017 was a Wednesday
    assert (by_week / by_week.sum(axis=1, keepdims=True)).mean(axis=0) * 7 == pytest.approx(np.array(philly.WEEKDAYS), abs=0.006)


@needs_data
def test_the_helios_tables_are_those_of_the_published_venus_counts():
    with gzip.open(DATA / "lucid/venus/cluster_throughput.csv.gz", "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))
    submitted, gpus = (np.array([int(row[column]) for row in rows]) for column in ("submit_gpu_job", "submit_gpu_num"))
    when = np.array([row["time"] for row in rows], "datetime64[s]").astype(np.int64)

    assert dict(zip(*np.unique(gpus[submitted == 1], return_counts=True), strict=True)) == helios.GANGS
    by_hour = np.bincount(when // 3600 % 24, weights=submitted, minlength=24)
    assert by_hour / by_hour.mean() == pytest.approx(np.array(helios.HOURS), abs=0.001)
    weekday = (when // 86400 + 3) % 7  # 1 January 1970 was a Thursday
    a_day = np.bincount(weekday, weights=submitted) / np.bincount(weekday)
    assert a_day / a_day.mean() == pytest.approx(np.array(helios.WEEKDAYS), abs=0.001)

    with open(DATA / "lucid/helios/helios_cluster_summary.csv", newline="") as lines:
        venus = next(row for row in csv.DictReader(lines) if row["id"] == "Venus")
    ends = ("complete", "cancel", "fail")
    assert tuple(float(venus[f"{end}_gpu_time"]) for end in ends) == helios.GPU_TIME
    assert tuple(float(venus[f"{end}_rate_gpu"]) for end in ends) == SYNTHETIC["helios"].statuses.of_jobs


@needs_data
def test_the_pai_requests_are_those_of_openb():
    with gzip.open(DATA / "openb/openb_pod_list_default.csv.gz", "rt", newline="") as lines:
        pods = [row for row in csv.DictReader(lines) if int(row["num_gpu"]) > 0]
    requests = np.array([int(pod["num_gpu"]) * int(pod["gpu_milli"]) / 1000 for pod in pods])
    seconds = np.array([float(pod["deletion_time"]) - float(pod["scheduled_time"]) for pod in pods if pod["scheduled_time"]])

    gangs = SYNTHETIC["pai"].gangs
    sizes, counts = np.unique(requests, return_counts=True)
    assert (tuple(sizes), tuple(counts)) == (gangs.requests, gangs.request_counts)
    assert np.quantile(seconds, [0.5, 0.9, 0.95]) == pytest.approx([655, 7_387, 16_987], rel=0.001)
    created = np.array([float(pod["creation_time"]) for pod in pods])
    late = created[created > created.max() - 30 * DAY_S]
    by_hour = np.bincount((late % DAY_S // HOUR_S).astype(int), minlength=24) / len(late) * 24
    assert by_hour == pytest.approx(np.array(SYNTHETIC["pai"].rhythm.hours), abs=0.006)
