"""The page: complete, self-contained, small, and harmless whatever a trace contains."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from metrics.build import cluster, job, made_up, run
from trainmaster.engine.result import REJECTED, RunResult
from trainmaster.metrics.summary import TraceInfo, summarize
from trainmaster.report.figures import CURVE_POINTS, Drawing, distribution, figures
from trainmaster.report.html import page
from trainmaster.report.palette import looks

EVERY_FIGURE = ["jct", "queueing", "gpus", "queue-length", "gpus-wanted", "by-size", "by-queue", "fairness", "shares", "recorded", "nodes"]
HOSTILE = "</script><script>document.documentElement.dataset.owned=1</script><img src=x onerror='document.documentElement.dataset.owned=1'>"


def report(*results: RunResult, skipped: dict[str, int] | None = None, command: str = "trainmaster simulate") -> str:
    trace = TraceInfo(path="traces/philly.csv", format="philly", jobs=len(results[0].jobs), skipped=skipped or {})
    return page(results, [summarize(result) for result in results], trace, command=command)


def embedded(text: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)[1])


def three_policies(rows: int, **fields: object) -> list[RunResult]:
    return [
        made_up(rows, "recorded", 0, wait_s=9000.0, **fields),
        made_up(rows, "tiresias-las", 1, wait_s=900.0, **fields),
        made_up(rows, "srtf", 2, wait_s=90.0, oracle=True, **fields),
    ]


def hostile_run() -> RunResult:
    jobs = [job("a" + HOSTILE, queue=HOSTILE, user=HOSTILE, name=HOSTILE), job("b", queue="<b>&amp;", gpus=2), job("c" + HOSTILE)]
    held = {jobs[0].id: [(1.0, 10.0, {0: 1.0})], "b": [(0.0, 10.0, {1: 2.0})]}
    refused = {jobs[2].id: REJECTED}
    reason = np.array([HOSTILE] * 3, object)
    return run(
        jobs,
        held,
        cluster(2, 2),
        unfinished=refused,
        label=HOSTILE,
        policy=HOSTILE,
        notes=(HOSTILE,),
        reason=reason,
        params={HOSTILE: HOSTILE},
    )


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_everything_is_on_the_page():
    text = report(*three_policies(300), skipped={"zero-length": 12}, command="trainmaster simulate --trace <x>")

    assert [figure["id"] for figure in embedded(text)] == EVERY_FIGURE
    for words in (
        "Three policies on philly.csv",
        "tiresias-las has the least average JCT",
        "12 zero-length",
        "512 GPUs on 64 nodes",
        "--trace &lt;x&gt;",
    ):
        assert words in text
    assert (
        text.index("tiresias-las has the least")
        < text.index("Side by side")
        < text.index("How long jobs take")
        < text.index("How this was run")
    )
    assert text.count('class="svg"') == len(EVERY_FIGURE)


def test_it_stays_small_and_says_what_it_thinned_out_with_as_many_jobs_as_philly():
    text = report(*three_policies(82_247))

    assert len(text.encode()) < 6_000_000
    assert "exact at up to 500 of its jobs" in text
    assert "averages over 400 bins" in text


def test_many_policies_fit_as_well():
    assert len(report(*(made_up(5000, f"policy-{seed}", seed) for seed in range(40))).encode()) < 6_000_000


def test_nothing_is_fetched():
    text = report(*three_policies(50))
    tags = Tags(text).found

    assert "default-src 'none'" in text
    for tag, attributes in tags:
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith("data:"), tag


def test_a_hostile_trace_is_only_text():
    plain, hostile = (
        Tags(report(run([job("a", queue="q"), job("b", queue="r", gpus=2)], {"a": [(1.0, 10.0, {0: 1.0})]}, cluster(2, 2)))),
        Tags(report(hostile_run())),
    )

    assert [tag for tag, _ in hostile.found].count("script") == [tag for tag, _ in plain.found].count("script")
    assert not [attributes for tag, attributes in hostile.found if tag == "img" or any(name.startswith("on") for name in attributes)]
    queues = next(figure for figure in embedded(report(hostile_run())) if figure["id"] == "by-queue")
    shares = next(figure for figure in embedded(report(hostile_run())) if figure["id"] == "shares")
    assert not any("<" in words for figure in (queues, shares) for words in figure["specs"][""]["layout"]["yaxis"]["ticktext"])


def test_figures_without_their_data_are_left_out():
    text = report(run([job("a")], {"a": [(1.0, 10.0, {0: 1.0})]}, cluster(1, 1)))

    left_out = ("by-queue", "fairness", "shares", "recorded")
    assert [figure["id"] for figure in embedded(text)] == [name for name in EVERY_FIGURE if name not in left_out]


def test_a_run_in_which_nothing_happened_still_has_a_page():
    assert "none to recommend" in report(run([job("a", gpus=9)], {}, cluster(1, 1)))


def test_the_same_runs_give_the_same_bytes():
    assert report(*three_policies(100)) == report(*three_policies(100))


def test_a_window_and_several_seeds_are_explained():
    text = report(*(made_up(300, "fifo", seed, window=(0.0, 1e6)) for seed in range(3)))

    assert "jobs submitted from 0 s to 11 d 14 h after" in text
    assert "Means over 3 seeds" in text
    assert "the plots show the first of each policy: 0" in text


@pytest.mark.parametrize("rows", [0, 1, 7, CURVE_POINTS, 40_000])
def test_every_point_of_a_curve_is_exact(rows):
    values = np.sort(np.random.default_rng(3).choice([0.0, 0.5, 2.0, 1e3, 1e5], rows) * np.random.default_rng(4).integers(1, 99, rows))
    x, y = distribution(values, CURVE_POINTS)

    assert len(x) <= CURVE_POINTS
    assert y.tolist() == [np.mean(values <= point) for point in x]
    if rows:
        assert y[-1] == 1


def test_one_colour_a_policy_in_every_figure():
    results = three_policies(200)
    runs = [summarize(result) for result in results]
    colors = looks(runs)
    drawn = figures([Drawing(result, summary, colors[result.label]) for result, summary in zip(results, runs, strict=True)])

    assert len({look.color for look in colors.values()}) == 3
    for figure in drawn:
        for policy, spec in figure.specs.items():
            for trace in spec["data"]:
                label = policy or trace.get("meta")
                color = (
                    trace.get("color") or trace.get("fillcolor", "")[:7] or trace.get("line", trace.get("marker"))["color"]
                    if "role" not in trace
                    else None
                )
                assert color in (None, colors[label].color) if label else "role" in trace
    assert colors["srtf"].dash == "dot"
