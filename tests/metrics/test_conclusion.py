"""The last sentence: best policy that does not cheat, its gain, who loses."""

from __future__ import annotations

from typing import Any

from trainmaster.metrics.conclusion import baseline_label, conclusion


def figures(
    label: str, avg_jct_s: float | None, *, oracle: bool = False, sizes: dict[str, float] | None = None, **more: Any
) -> dict[str, Any]:
    by_size = {size: {"avg_jct_s": jct_s, "jobs": 12} for size, jct_s in (sizes or {}).items()}
    return {
        "label": label,
        "policy": label,
        "oracle": oracle,
        "seed": 0,
        "finished": 100,
        "avg_jct_s": avg_jct_s,
        "by_queue": {},
        "by_size": by_size,
    } | more


def test_the_best_honest_policy_its_gain_and_who_pays():
    runs = [
        figures("fifo", 7200.0, sizes={"1": 7200.0, "33-64": 3600.0}),
        figures("las", 3600.0, sizes={"1": 1800.0, "33-64": 12_600.0}),
        figures("srtf", 1800.0, oracle=True),
    ]

    assert conclusion(runs) == (
        "las has the least average JCT without cheating: 1 h instead of 2 h under fifo (−50 %); "
        "jobs of 33–64 GPUs (12) lose most: 3 h 30 min instead of 1 h (×3.5)."
    )


def test_what_happened_is_the_baseline_where_it_was_recorded():
    runs = [figures("fifo", 100.0), figures("recorded", 400.0), figures("las", 200.0)]

    assert baseline_label(runs) == "recorded"
    assert "fifo has the least average JCT without cheating: 1 min 40 s instead of 6 min 40 s under recorded" in conclusion(runs)
    assert conclusion(runs).endswith("(−75 %); no queue or size class loses.")
    assert baseline_label([figures("srtf", 1.0, oracle=True)]) is None


def test_it_says_so_when_nothing_is_better():
    assert conclusion([figures("fifo", 100.0), figures("las", 120.0)]) == (
        "No policy improves on fifo, with an average JCT of 1 min 40 s; the nearest, las, has 2 min (+20 %)."
    )
    assert "the same average JCT" in conclusion([figures("fifo", 100.0), figures("las", 100.0)])
    assert "no other policy" in conclusion([figures("fifo", 100.0), figures("srtf", 1.0, oracle=True)])
    assert "none to recommend" in conclusion([figures("srtf", 1.0, oracle=True), figures("stuck", None)])


def test_an_average_over_fewer_jobs_is_said_to_be_one():
    assert "though it finishes 40 jobs fewer" in conclusion([figures("fifo", 100.0), figures("edf", 50.0, finished=60)])


def test_seeds_are_averaged_and_a_difference_within_chance_is_called_that():
    def seeds(label: str, *values: float) -> list[dict[str, Any]]:
        return [figures(label, value, seed=seed) for seed, value in enumerate(values)]

    assert "within chance" in conclusion([*seeds("fifo", 100.0, 120.0, 90.0), *seeds("las", 80.0, 130.0, 95.0)])
    clear = conclusion([*seeds("fifo", 100.0, 120.0, 90.0), *seeds("las", 50.0, 69.0, 41.0)])
    assert "within chance" not in clear
    assert "53 s instead of 1 min 43 s" in clear
