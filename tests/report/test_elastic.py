"""Plots of elastic runs: there where there is something to show, and true to the allocations."""

import numpy as np
import pytest

from metrics.build import cluster, job, run
from trainmaster.cluster.yaml_file import cluster_from_yaml
from trainmaster.engine.result import REJECTED, RunResult
from trainmaster.metrics.summary import TraceInfo, summarize
from trainmaster.report.elastic import efficiency, elastic_figures, useful_gpus
from trainmaster.report.figures import Drawing
from trainmaster.report.html import page
from trainmaster.report.palette import looks


def drawn(*results: RunResult) -> list[Drawing]:
    summaries = [summarize(result) for result in results]
    colors = looks(summaries)
    return [Drawing(result, summary, colors[result.label]) for result, summary in zip(results, summaries, strict=True)]


def resized() -> RunResult:
    """Alone on the two GPUs that it asks for it would take 10 s; on one and then four it takes as many GPU-seconds and a quarter more."""
    held = {"a": [(0.0, 5.0, {0: 1.0}), (5.0, 10.0, {0: 4.0})]}
    return run([job("a", gpus=2)], held, cluster(1, 4), resizes=np.array([1], np.int32), alone_s=np.array([10.0]), label="pollux")


def test_rigid_runs_without_deadlines_and_loans_have_no_such_plots():
    assert elastic_figures(drawn(run([job("a")], {"a": [(0.0, 1.0, {0: 1.0})]}, cluster(1, 1)))) == []


def test_gpus_of_a_job_that_changed_size_are_shown_over_time():
    sizes = elastic_figures(drawn(resized()))[0]
    z = np.array(sizes.specs["pollux"]["data"][0]["z"], float)

    assert sizes.id == "sizes"
    assert (z[0, 0], z[0, -1]) == (1, 4)
    assert sizes.specs["pollux"]["note"] == "1 resizes in all, of 1 jobs."


def test_a_gpu_counts_by_the_work_that_its_job_did_with_it():
    assert efficiency(resized()) == pytest.approx(20 / 25)
    assert useful_gpus(resized()).at([1.0, 6.0]).tolist() == pytest.approx([0.8, 3.2])


def test_deadlines_are_shown_as_shares_of_the_time_given():
    jobs = [job("a", deadline_s=20.0), job("b", deadline_s=5.0), job("c", deadline_s=9.0)]
    held = {"a": [(0.0, 10.0, {0: 1.0})], "b": [(0.0, 10.0, {1: 1.0})]}
    figure, = elastic_figures(drawn(run(jobs, held, cluster(2, 1), unfinished={"c": REJECTED}, label="edf")))

    assert figure.specs[""]["data"][0]["x"] == [0.5, 2.0]
    assert "3 jobs have a deadline" in figure.note
    assert "edf 33" in figure.note


def test_loaned_servers_have_a_plot_of_their_own_and_the_page_has_all():
    on = cluster_from_yaml("nodes: [{count: 1, gpus: 1}]\ntimeline: [{at_s: 1, add: {count: 1, gpus: 4, label: spare}}]\n", "c.yaml")
    result = run([job("a", gpus=5)], {"a": [(1.0, 9.0, {0: 1.0, 1: 4.0})]}, on, label="lyra")
    figure, = elastic_figures(drawn(result))

    assert max(figure.specs[""]["data"][-1]["y"]) == 4
    assert "Nodes labelled spare" in figure.note
    text = page([result], [summarize(result)], TraceInfo(path="t", format="f", jobs=1, skipped={}), command="trainmaster")
    assert "Deadlines and loans" in text
    assert "Jobs that change size" not in text
