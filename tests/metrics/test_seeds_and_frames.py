"""Several seeds, and the data frames of --jobs-out and --timeline-out."""

from __future__ import annotations

import pytest

from metrics.build import cluster, job, run
from metrics.test_summary import three_jobs
from trainmaster.metrics.frames import jobs_frame, timeline_frame
from trainmaster.metrics.seeds import across_seeds, student_t
from trainmaster.metrics.summary import TraceInfo, document, summarize


@pytest.mark.parametrize(
    ("degrees", "t"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (1000, 1.96234)]
)
def test_student_t_is_that_of_the_tables(degrees, t):
    assert student_t(degrees) == pytest.approx(t, rel=1e-5)


def test_seeds_give_a_mean_and_an_interval_for_each_label():
    base = summarize(three_jobs())
    runs = [base | {"avg_jct_s": value, "seed": seed} for seed, value in enumerate((10.0, 12.0, 14.0))]
    (average,) = across_seeds(runs)

    half = 4.30265 * 2 / 3**0.5  # t(2) x standard deviation 2 / sqrt(3)
    assert (average["label"], average["seeds"]) == ("fifo", 3)
    assert average["figures"]["avg_jct_s"] == {"mean": 12, "low": pytest.approx(12 - half), "high": pytest.approx(12 + half)}
    assert average["figures"]["deadlines_met"] is None
    assert document(TraceInfo(path="t", format="f", jobs=3, skipped={}), cluster(1, 1), runs, 0)["seeds"] == [average]


def test_the_jobs_frame_has_the_contract_s_columns_and_nulls_for_what_never_happened():
    frame = jobs_frame([three_jobs(), run([job("late", 3.0, user="ann")], {}, cluster(1, 1), label="srtf")])

    assert ",".join(frame.columns) == (
        "job_id,label,user,queue,model,gpu_type,submit_s,eligible_s,start_s,finish_s,gpus,nodes,work_s,gpu_s,preemptions,state,reason"
    )
    assert frame.row(0)[:2] == ("a", "fifo")
    assert frame["gpu_s"].to_list() == [120, 80, 10, 0]
    late = frame.row(3, named=True)
    assert (late["user"], late["queue"], late["start_s"], late["finish_s"], late["state"]) == ("ann", None, None, None, "unfinished")


def test_the_timeline_frame_has_a_row_per_allocation():
    frame = timeline_frame([three_jobs()])

    assert ",".join(frame.columns) == "job_id,label,start_s,end_s,nodes,gpus"
    assert frame.rows()[0] == ("a", "fifo", 0.0, 10.0, "0;1", 4.0)
    assert frame.rows()[-1] == ("c", "fifo", 50.0, 60.0, "1", 1.0)
    assert len(timeline_frame([run([job("a")], {}, cluster(1, 1))])) == 0
