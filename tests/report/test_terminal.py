"""The table in the terminal."""

from __future__ import annotations

from metrics.build import cluster, job, made_up, run
from trainmaster.engine.result import UNSCHEDULABLE
from trainmaster.metrics.summary import summarize
from trainmaster.report.comparison import compare
from trainmaster.report.terminal import text

LABELS = ("recorded", "fifo-with-quite-a-long-label", "tiresias-las")


def runs(seeds: int = 1, **fields: object) -> list[dict]:
    results = [
        made_up(200, label, seed, wait_s=4000.0 / (rank + 1), **fields) for seed in range(seeds) for rank, label in enumerate(LABELS)
    ]
    return [summarize(result) for result in (*results, made_up(200, "srtf", 9, wait_s=10.0, oracle=True))]


def test_policies_stand_side_by_side_within_a_hundred_columns():
    shown = text(runs())

    assert max(map(len, shown.splitlines())) <= 100
    starts = [line.split()[1][:8] for line in shown.splitlines() if line.startswith(("●", "○"))]
    assert starts[:4] == [label[:8] for label in (*LABELS, "srtf")]  # a long label goes on below
    assert "baseline" in shown
    assert shown.index("○  srtf") < shown.index("oracle")
    assert "\x1b[" not in shown
    assert "\x1b[" in text(runs(), color=True)


def test_it_ends_with_the_conclusion():
    assert "tiresias-las has the least average JCT without cheating" in text(runs()).replace("\n", " ")


def test_the_best_figure_is_one_of_a_policy_that_does_not_cheat():
    recorded, _, tiresias, oracle = compare(runs())

    assert tiresias.cells[0].best
    assert not oracle.cells[0].best
    assert oracle.cells[0].value < tiresias.cells[0].value
    assert recorded.baseline
    assert recorded.against_baseline == ""
    assert tiresias.against_baseline.startswith("−")


def test_several_seeds_show_a_mean_and_its_interval():
    rows = compare(runs(seeds=3)[:-1])

    assert len(rows) == 3
    assert all(row.cells[0].interval.startswith("± ") for row in rows)
    assert "± " in text(runs(seeds=3))


def test_jobs_that_could_not_run_and_notes_are_said_and_cannot_control_the_terminal():
    result = run(
        [job("big", gpus=9), job("a")], {"a": [(0.0, 1.0, {0: 1.0})]}, cluster(1, 4), unfinished={"big": UNSCHEDULABLE}, notes=("x\x1b[2J",)
    )
    shown = text([summarize(result)])

    assert "can never fit this cluster: 1 job under fifo" in shown
    assert "fifo: x�[2J" in shown
