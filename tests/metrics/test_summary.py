"""Every figure of the JSON, on schedules small enough to check by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.build import cluster, job, made_up, run
from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.engine.result import REJECTED, UNFINISHED, UNSCHEDULABLE, RunResult
from trainmaster.metrics.summary import TraceInfo, document, size_class, size_name, summarize

CONTRACT = (
    "label policy params placement round_s seed load window jobs finished unschedulable rejected avg_jct_s median_jct_s p95_jct_s "
    "p99_jct_s makespan_s avg_wait_s avg_queue_s p99_queue_s avg_bounded_slowdown gpu_utilization productive_utilization avg_ftf "
    "max_ftf deadlines_met preemptions migrations resizes failures lost_gpu_s overhead_gpu_s decisions by_queue by_size wall_s "
    "peak_rss_mib"
).split()


def three_jobs(**fields: object) -> RunResult:
    """Two nodes of two. a runs alone and is put aside for b; c waits for its GPU.

    a: 4 GPUs, submitted 0, holds 0-10 and 30-50      b: 4 GPUs, submitted 10, holds 10-30      c: 1 GPU, submitted 20, holds 50-60
    """
    everything = {0: 2.0, 1: 2.0}
    jobs = [job("a", 0, 4, queue="x"), job("b", 10, 4, queue="y"), job("c", 20, 1, queue="x")]
    held = {"a": [(0.0, 10.0, everything), (30.0, 50.0, everything)], "b": [(10.0, 30.0, everything)], "c": [(50.0, 60.0, {1: 1.0})]}
    return run(jobs, held, cluster(2, 2), **fields)


def test_the_json_has_the_contract_s_names_in_its_order():
    assert list(summarize(three_jobs()))[: len(CONTRACT)] == CONTRACT

    trace = TraceInfo(path="t.csv", format="philly", jobs=3, skipped={"zero-length": 2})
    whole = document(trace, cluster(2, 2), [summarize(three_jobs())], seed=5)
    assert list(whole) == ["trainmaster", "seed", "trace", "cluster", "runs"]
    assert whole["trace"] == {"path": "t.csv", "format": "philly", "jobs": 3, "skipped": {"zero-length": 2}}
    assert whole["cluster"] == {"gpus": 4, "nodes": 2, "types": {"": 4}}
    json.dumps(whole, allow_nan=False)


def test_completion_times_and_makespan():
    figures = summarize(three_jobs())

    assert figures["avg_jct_s"] == pytest.approx((50 + 20 + 40) / 3)
    assert figures["median_jct_s"] == 40
    assert figures["p95_jct_s"] == pytest.approx(49)  # linear between 40 and 50 at 1.9 of 2
    assert figures["p99_jct_s"] == pytest.approx(49.8)
    assert figures["makespan_s"] == 60


def test_a_wait_ends_at_the_first_start_and_queueing_counts_being_put_aside():
    figures = summarize(three_jobs())

    assert figures["avg_wait_s"] == pytest.approx((0 + 0 + 30) / 3)
    assert figures["avg_queue_s"] == pytest.approx((20 + 0 + 30) / 3)
    assert figures["p99_queue_s"] == pytest.approx(29.8)


def test_waiting_begins_when_a_job_is_eligible_and_completion_when_it_is_submitted():
    figures = summarize(run([job("a", 0, 1, eligible_s=100.0)], {"a": [(130.0, 150.0, {0: 1.0})]}, cluster(1, 1)))

    assert (figures["avg_jct_s"], figures["avg_wait_s"], figures["avg_queue_s"]) == (150, 30, 30)
    assert figures["avg_bounded_slowdown"] == pytest.approx(50 / 20)


def test_slowdown_has_a_floor_of_ten_seconds_below_and_of_one():
    short = run([job("a")], {"a": [(29.0, 30.0, {0: 1.0})]}, cluster(1, 1))  # 30 s for 1 s of work
    shorter = run([job("a")], {"a": [(1.0, 2.0, {0: 1.0})]}, cluster(1, 1))

    assert summarize(short)["avg_bounded_slowdown"] == 3
    assert summarize(shorter)["avg_bounded_slowdown"] == 1


def test_utilization_is_what_was_held_of_what_was_there():
    figures = summarize(three_jobs(overhead_gpu_s=np.array([20.0, 0, 0]), lost_gpu_s=np.array([0, 1.0, 0])))

    assert figures["gpu_utilization"] == pytest.approx((30 * 4 + 20 * 4 + 10 * 1) / (60 * 4))
    assert figures["productive_utilization"] == pytest.approx((210 - 21) / 240)
    assert (figures["overhead_gpu_s"], figures["lost_gpu_s"]) == (20, 1)


def test_utilization_follows_capacity_that_comes_and_goes():
    half_gone = three_jobs(capacity_s=np.array([0.0, 50.0]), capacity_gpus=np.array([4.0, 2.0]))

    assert summarize(half_gone)["gpu_utilization"] == pytest.approx(210 / (50 * 4 + 10 * 2))


def test_fairness_compares_with_an_nth_of_the_cluster_over_the_job_s_life():
    figures = summarize(three_jobs())

    # Jobs contending: 1 in 0-10, 2 in 10-20, 3 in 20-30, 2 in 30-50, 1 in 50-60.
    n_a, n_b, n_c = (10 + 20 + 30 + 40) / 50, (20 + 30) / 20, (30 + 40 + 10) / 40
    rho = [50 / (30 * n_a * 4 / 4), 20 / (20 * n_b * 4 / 4), 40 / (10 * max(1, n_c / 4))]
    assert figures["avg_ftf"] == pytest.approx(np.mean(rho))
    assert figures["max_ftf"] == pytest.approx(4.0)


def test_fairness_agrees_with_the_plain_definition_job_by_job():
    result = made_up(300, wait_s=86_400.0)
    jobs, gpus = result.jobs, result.cluster.gpus
    rho = []
    for start, end, alone_s, asked in zip(jobs.eligible_s, result.finish_s, result.alone_s, jobs.gpus, strict=True):
        together_s = np.minimum(end, result.finish_s) - np.maximum(start, jobs.eligible_s)  # with each job, itself too
        n = np.maximum(together_s, 0).sum() / (end - start)
        rho.append((end - start) / (alone_s * asked / min(gpus / n, asked)))

    assert summarize(result)["avg_ftf"] == pytest.approx(np.mean(rho))
    assert summarize(result)["max_ftf"] == pytest.approx(np.max(rho))


def test_cpu_only_jobs_hold_cpus_and_have_no_part_in_gpu_figures():
    node = Cluster.of([Node(gpus=1, cpus=8)])
    jobs = [job("cpu", 0, 0, cpus=4.0), job("gpu", 0, 1)]
    figures = summarize(run(jobs, {"cpu": [(5.0, 15.0, {0: 0.0})], "gpu": [(0.0, 20.0, {0: 1.0})]}, node))

    assert figures["avg_queue_s"] == 2.5
    assert figures["gpu_utilization"] == 1
    assert (figures["avg_ftf"], figures["max_ftf"]) == (1, 1)
    assert list(figures["by_size"]) == ["cpu", "1"]


def test_a_deadline_is_met_by_finishing_by_it_and_a_rejected_job_misses_it():
    jobs = [
        job(name, deadline_s=deadline_s) for name, deadline_s in (("in time", 10.0), ("late", 9.0), ("refused", 99.0), ("endless", 99.0))
    ]
    held = {"in time": [(0.0, 10.0, {0: 1.0})], "late": [(0.0, 10.0, {1: 1.0})], "endless": [(0.0, 10.0, {2: 1.0})]}
    result = run(
        [*jobs, job("free")],
        held | {"free": [(0.0, 1.0, {3: 1.0})]},
        cluster(4, 1),
        unfinished={"refused": REJECTED, "endless": UNFINISHED},
    )

    assert summarize(result)["deadlines_met"] == 0.25
    assert summarize(three_jobs())["deadlines_met"] is None


def test_states_are_counted_and_averages_leave_out_what_did_not_finish():
    jobs = [job("done"), job("huge", gpus=64), job("refused"), job("service"), job("waits")]
    held = {"done": [(2.0, 10.0, {0: 1.0})], "service": [(4.0, 100.0, {0: 1.0})]}
    states = {"huge": UNSCHEDULABLE, "refused": REJECTED, "service": UNFINISHED, "waits": UNFINISHED}
    figures = summarize(run(jobs, held, cluster(1, 2), unfinished=states))

    assert [figures[name] for name in ("jobs", "finished", "unschedulable", "rejected", "unfinished")] == [5, 1, 1, 1, 2]
    assert (figures["avg_jct_s"], figures["avg_queue_s"], figures["avg_wait_s"]) == (10, 2, 3)
    assert figures["gpu_utilization"] == pytest.approx((8 + 6) / 20)  # until the last finish
    assert figures["max_ftf"] == pytest.approx(10 / (8 * 3 / 2))  # three contend for two GPUs


def test_where_nothing_finished_there_are_no_figures():
    figures = summarize(run([job("a")], {}, cluster(1, 1)))

    for name in ("avg_jct_s", "p99_jct_s", "makespan_s", "avg_wait_s", "gpu_utilization", "productive_utilization", "max_ftf"):
        assert figures[name] is None
    assert figures["by_size"]["1"]["avg_jct_s"] is None
    assert figures["by_queue"] == {}


def test_a_window_measures_only_jobs_submitted_in_it():
    figures = summarize(three_jobs(window=(10.0, 20.0), preemptions=np.array([1, 2, 4], np.int32)))

    assert (figures["jobs"], figures["avg_jct_s"], figures["preemptions"], figures["window"]) == (1, 20, 2, [10.0, 20.0])
    assert (figures["makespan_s"], figures["gpu_utilization"]) == (20, 1)  # 10-30, by whatever job
    assert figures["avg_ftf"] == pytest.approx(20 / (20 * 2.5))  # the others contend all the same
    json.dumps(summarize(three_jobs(window=(10.0, np.inf))), allow_nan=False)


def test_groups_by_queue_and_by_size():
    figures = summarize(three_jobs())

    assert list(figures["by_queue"]) == ["x", "y"]
    assert figures["by_queue"]["x"]["avg_jct_s"] == 45
    assert figures["by_queue"]["y"]["avg_wait_s"] == 0
    assert {size: group["jobs"] for size, group in figures["by_size"].items()} == {"1": 1, "3-4": 2}
    assert figures["by_size"]["3-4"]["avg_queue_s"] == 10
    assert figures["by_size"]["3-4"]["gpu_s"] == 200


def test_size_classes_are_powers_of_two():
    milli = np.array([0, 500, 1000, 2000, 3000, 4000, 5000, 8000, 9000, 64_000, 65_000])

    assert [size_name(size) for size in size_class(milli)] == ["cpu", "<1", "1", "2", "3-4", "3-4", "5-8", "5-8", "9-16", "33-64", "65-128"]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_what_holds_for_every_result(rows, seed, random):
    result = made_up(rows, seed=seed)
    figures = summarize(result)

    for groups in (figures["by_size"], figures["by_queue"]):
        assert sum(group["jobs"] for group in groups.values()) == figures["jobs"] == rows
        assert sum(group["avg_jct_s"] * group["jobs"] for group in groups.values()) == pytest.approx(figures["avg_jct_s"] * rows)
    assert 0 < figures["productive_utilization"] <= figures["gpu_utilization"]
    assert figures["avg_queue_s"] == pytest.approx(figures["avg_wait_s"], abs=1e-6)  # nothing is preempted
    assert figures["max_ftf"] >= figures["avg_ftf"] - 1e-9

    shuffled = list(range(rows))
    random.shuffle(shuffled)
    again = summarize(permuted(result, np.array(shuffled)))
    for name in ("avg_jct_s", "p99_queue_s", "gpu_utilization", "avg_ftf", "max_ftf", "avg_bounded_slowdown"):
        assert again[name] == pytest.approx(figures[name])
    assert {size: group["jobs"] for size, group in again["by_size"].items()} == {
        size: group["jobs"] for size, group in figures["by_size"].items()
    }


def permuted(result: RunResult, order: np.ndarray) -> RunResult:
    """The same run with the job rows in another order."""
    rows = len(result.jobs)
    changed = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, np.ndarray) and len(value) == rows and not field.name.startswith("capacity"):
            changed[field.name] = value[order]
    held = dataclasses.replace(result.allocations, job=np.argsort(order).astype(np.int32)[result.allocations.job])
    return dataclasses.replace(result, jobs=result.jobs.take(order), allocations=held, **changed)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=20))
def test_utilization_never_exceeds_one_on_a_schedule_that_fits(shapes):
    """One GPU, one job after the other."""
    jobs, held, free_s = [], {}, 0.0
    for row, (submit_s, gap_s, run_s) in enumerate(shapes):
        start_s = max(free_s, float(submit_s)) + gap_s % 3
        free_s = start_s + run_s
        jobs.append(job(str(row), submit_s))
        held[str(row)] = [(start_s, free_s, {0: 1.0})]
    figures = summarize(run(jobs, held, cluster(1, 1)))

    assert 0 < figures["gpu_utilization"] <= 1
    assert figures["gpu_utilization"] * figures["makespan_s"] == pytest.approx(sum(run_s for *_, run_s in shapes))
