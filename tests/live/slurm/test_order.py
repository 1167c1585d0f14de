"""The twin's `slurm` and the real Slurm start the same jobs in the same order, and let them wait as long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from live.slurm.cluster import why_not
from live.slurm.order import Ran, compared, order_apart, parse_log, ran_side_by_side, waits_apart, workload

SEEDS = range(1, 6)
BEYOND = 0.02  # what the twin may differ by, over what Slurm differs by from itself


def ran(*starts_s: float) -> list[Ran]:
    return [Ran(0.0, start_s, start_s + 1) for start_s in starts_s]


def test_one_pair_of_three_in_the_other_order_is_a_third():
    assert order_apart(ran(1, 2, 3), ran(2, 1, 3)) == pytest.approx(1 / 3)
    assert order_apart(ran(1, 1, 3), ran(2, 1, 3)) == 0  # who started in the same second has no order


def test_the_log_says_when_jobs_came_started_and_ended_and_when_slurm_looked():
    log = """\
[2026-11-25T20:08:30.000] debug:  sched: Running job scheduler for default depth.
[2026-11-25T20:08:31.250] _slurm_rpc_submit_batch_job: JobId=7 InitPrio=193 usec=323
[2026-11-25T20:08:32.000] debug:  sched: Running job scheduler for default depth.
[2026-11-25T20:08:32.001] sched: Allocate JobId=7 NodeList=n1 #CPUs=1 Partition=urgent
[2026-11-25T20:08:34.500] debug:  sched/backfill: _attempt_backfill: beginning
[2026-11-25T20:08:36.125] _job_complete: JobId=7 WEXITSTATUS 0
[2026-11-25T20:08:36.126] _job_complete: JobId=7 done
"""
    real = parse_log(log, [7])

    came_s = real.ran[0].submit_s
    assert [real.ran[0].start_s - came_s, real.ran[0].end_s - came_s] == pytest.approx([0.751, 4.876])
    assert np.subtract(real.looks_s, came_s) == pytest.approx([0.75])  # those before the first job do not count
    assert np.subtract(real.cycles_s, came_s) == pytest.approx([3.25])


def test_a_mean_wait_of_three_instead_of_two_is_a_half_apart():
    assert waits_apart(ran(1, 2, 3), ran(2, 3, 4)) == 0.5


def test_a_seed_always_gives_the_same_workload():
    assert workload(3) == workload(3) != workload(4)
    assert len(workload(3)) == 200


@pytest.mark.slow
def test_the_twin_differs_from_slurm_little_more_than_slurm_from_itself(tmp_path: Path) -> None:
    """Some three minutes a seed. With the clock of the run it is nearly the same schedule, whatever Slurm's own spread is."""
    if reason := why_not():
        pytest.skip(reason)
    told = [compared(seed, ran_side_by_side(seed, tmp_path), tmp_path / "slurm.conf") for seed in SEEDS]
    for one in told:
        print(one)
    mean = {name: float(np.mean([one[name] for one in told])) for name in told[0] if name.startswith(("waits", "order"))}

    for what in ("order", "waits"):
        assert mean[f"{what}_measured"] <= mean[f"{what}_itself"] + BEYOND
        assert mean[f"{what}_recorded"] <= BEYOND
