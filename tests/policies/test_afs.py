"""AFS: the paper's contest by hand, against enumeration, and in whole runs."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schedules import cluster, schedule_of, simulate
from schedules import job as plain_job
from trainmaster.engine.core import Setup
from trainmaster.engine.loop import Simulation
from trainmaster.policies.afs import AfsL, AfsP, share
from trainmaster.policies.kernels.contest import beats
from trainmaster.workload.jobs import Job, JobTable
from trainmaster.workload.perf.profiles import load_profiles

NONE = np.full(3, np.nan)


def contest(held: list[int], speeds: list[list[float]], left: list[float]) -> int:
    """Who wins of jobs that hold so many GPUs."""
    speed, winner = np.array(speeds, float), 0
    for challenger in range(1, len(left)):
        if beats(winner, challenger, np.array(held), speed, np.array(left, float), np.ones(len(left), np.int64)):
            winner = challenger
    return winner


def test_the_shorter_job_gains_more_unless_the_longer_one_scales_clearly_better():
    assert contest([1, 1], [[0, 1, 1.5], [0, 1, 1.8]], [10, 30]) == 0
    assert contest([1, 1], [[0, 1, 1.4], [0, 1, 1.8]], [10, 30]) == 1


CURVES = {"a": [1, 1.2, 1.3, 1.35], "b": [1, 1.95, 2.85, 3.7], "linear": [1, 2, 3, 4]}


def shares(gpus: int, curves: list[list[float]], left: list[float]) -> list[int]:
    width = gpus + 1
    speed = np.array([[0, *curve, *[curve[-1]] * width][: width] for curve in curves], float)
    return share(gpus, speed, np.array(left, float), NONE[: len(left)], NONE[: len(left)]).tolist()


def test_gpus_go_one_at_a_time():
    assert [shares(n, [CURVES["a"], CURVES["b"]], [10, 30]) for n in (1, 2, 3, 4)] == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert [shares(n, [CURVES["linear"]] * 2, [10, 30]) for n in (1, 2, 3, 4)] == [[1, 0], [2, 0], [2, 1], [3, 1]]


def test_three_jobs():
    curves, left = [[1, 1.5, 1.8, 2], [1, 1.8, 2.4, 2.8], [1, 1.95, 2.85, 3.7]], [10, 30, 60]

    assert [shares(n, curves, left) for n in (2, 4, 6)] == [[1, 1, 0], [2, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize(("order", "winner"), [("xyz", "z"), ("yzx", "x"), ("zxy", "y")])
def test_contests_go_round_in_a_circle_so_the_order_of_the_scan_counts(order, winner):
    second, left = {"x": 1.4, "y": 1.6, "z": 1.9}, {"x": 3, "y": 7, "z": 24}

    assert order[contest([1, 1, 1], [[0, 1, second[j]] for j in order], [left[j] for j in order])] == winner


@given(st.floats(1, 50), st.floats(1, 50), st.floats(1.01, 2), st.floats(1.01, 2))
def test_the_contest_agrees_with_enumeration_if_the_shorter_ends_first_either_way(w_a, w_b, p_a, p_b):
    assume(w_a < w_b / p_b)  # a holds one GPU and b the other two, and a still ends first

    def total_s(first_p: float, other_p: float) -> float:
        """Sum of completion times; afterwards b has all three."""
        return 2 * w_a / first_p + (w_b - w_a / first_p * other_p) / p_b

    to_a, to_b = total_s(p_a, 1.0), total_s(1.0, p_b)
    assume(abs(to_a - to_b) > 1e-9)
    assert contest([1, 1], [[0, 1, p_a], [0, 1, p_b]], [w_a, w_b]) == (0 if to_a < to_b else 1)


def test_re_sharing_when_a_job_ends_gives_the_mean_completion_time_of_the_paper_s_rule(tmp_path):
    (tmp_path / "a.csv").write_text("global_batch_size,1,2,3,4\n1,1,1.2,1.3,1.35\n")
    (tmp_path / "b.csv").write_text("global_batch_size,1,2,3,4\n1,1,1.95,2.85,3.7\n")
    steps = {"work_in_steps": True, "gpus": 1, "batch_size": 1, "submit_s": 0}
    jobs = [Job(id=name, work=work, model=name, **steps) for name, work in (("a", 10), ("b", 30))]
    table, model = load_profiles(tmp_path).bind(JobTable.of(jobs), cluster("1x4"))
    simulation = Simulation(table, cluster("1x4"), AfsL(), Setup(restart_cost_s=0), model=model)

    assert schedule_of(simulation, simulation.run()).average_jct_s() == pytest.approx(10.2027, abs=5e-5)


def test_two_linear_jobs_are_not_simply_shortest_first():
    run = simulate([plain_job("a", 0, 1, 10), plain_job("b", 0, 1, 30)], "1x4", AfsL())

    assert run.average_jct_s() == pytest.approx(6.6667, abs=5e-5)


def test_a_job_with_a_minimum_gets_it_at_once_or_nothing():
    speed = np.tile(np.arange(5.0), (2, 1))

    assert share(4, speed, np.array([10.0, 20]), np.array([3.0, 3]), NONE[:2]).tolist() == [4, 0]
    assert share(2, speed, np.array([10.0, 20]), np.array([3.0, np.nan]), NONE[:2]).tolist() == [0, 2]


def test_without_lengths_the_job_that_has_done_least_counts_as_the_shortest():
    run = simulate([plain_job("old", 0, 1, 400), plain_job("new", 50, 1, 20)], "1x2", AfsP())

    assert run.finish_s("new") < run.finish_s("old")


def sum_of_completions(shares: tuple[int, int], p_a: float, p_b: float) -> float:
    """Of jobs with 10 and 30 units left on three GPUs, one of which is to be given out; b has two when a has ended first."""
    speed_a, speed_b = (p_a, 1.0) if shares == (2, 1) else (1.0, p_b)
    a_ends = 10 / speed_a
    return 2 * a_ends + (30 - a_ends * speed_b) / p_b


def test_the_sums_behind_the_contest():
    assert sum_of_completions((2, 1), 1.5, 1.8) == pytest.approx(26.2963, abs=5e-5)
    assert sum_of_completions((1, 2), 1.5, 1.8) == pytest.approx(26.6667, abs=5e-5)
    assert sum_of_completions((2, 1), 1.4, 1.8) == pytest.approx(26.9841, abs=5e-5)


def test_three_jobs_in_a_whole_run(tmp_path):
    curves = {"a": (10, [1, 1.5, 1.8, 2]), "b": (30, [1, 1.8, 2.4, 2.8]), "c": (60, [1, 1.95, 2.85, 3.7])}
    for name, (_, curve) in curves.items():
        (tmp_path / f"{name}.csv").write_text(f"global_batch_size,1,2,3,4\n1,{','.join(map(str, curve))}\n")
    steps = {"work_in_steps": True, "gpus": 1, "batch_size": 1, "submit_s": 0}
    jobs = [Job(id=name, work=work, model=name, **steps) for name, (work, _) in curves.items()]
    table, model = load_profiles(tmp_path).bind(JobTable.of(jobs), cluster("1x4"))
    simulation = Simulation(table, cluster("1x4"), AfsL(), Setup(restart_cost_s=0), model=model)

    assert schedule_of(simulation, simulation.run()).average_jct_s() == pytest.approx(17.8362, abs=5e-5)
