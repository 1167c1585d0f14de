"""Gandiva-fair: its stride and its trades, by hand; and what no trade may do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import job, simulate
from trainmaster.cluster.cluster import Cluster, Node, QueueSpec
from trainmaster.policies.gandiva_fair import GandivaFair
from trainmaster.policies.trading import trade as trade_by_gain

QUANTUM_S = 60.0


def trade(holds, speed):
    """Among users whose jobs run so fast on each type, and can use all they hold."""
    fastest_first = np.argsort(-speed.mean(axis=0), kind="stable").tolist()
    return trade_by_gain(holds, speed[:, None, :] / speed[:, :, None], np.full(len(holds), np.inf), fastest_first)


def gpu_quanta(run, until_s: float) -> dict[str, float]:
    """GPU-quanta that each job held by then."""
    held: dict[str, float] = {}
    for h in run.holdings:
        seconds = min(h.end_s, until_s) - min(h.start_s, until_s)
        held[h.id] = held.get(h.id, 0.0) + seconds * sum(milli for _, milli in h.parts) / 1000 / QUANTUM_S
    return held


def who_runs(run, quanta: int) -> list[str]:
    """Names of those that run in the middle of each quantum, together."""
    middles = [(q + 0.5) * QUANTUM_S for q in range(quanta)]
    return ["".join(sorted(h.id for h in run.holdings if h.start_s <= at_s < h.end_s)) for at_s in middles]


FIVE = [job(id, 0, gpus, 1e4, user=id) for id, gpus in [("A", 1), ("B", 1), ("C", 1), ("D", 1), ("E", 4)]]


def test_a_gang_that_does_not_fit_comes_first_next_time_and_gets_its_share_of_gpu_time():
    run = simulate(FIVE, "1x4", GandivaFair(quantum_s=QUANTUM_S))

    assert who_runs(run, 10) == ["ABCD", "E", "ABCD", "ABCD", "ABCD", "ABCD", "E", "ABCD", "ABCD", "ABCD"]
    assert gpu_quanta(run, 600) == {"A": 8, "B": 8, "C": 8, "D": 8, "E": 8}


def test_passes_by_quanta_give_the_gang_four_times_the_gpu_time():
    run = simulate(FIVE, "1x4", GandivaFair(quantum_s=QUANTUM_S, by_gpus=False))

    assert gpu_quanta(run, 600) == {"A": 5, "B": 5, "C": 5, "D": 5, "E": 20}


def test_a_users_tickets_are_divided_over_its_jobs():
    jobs = [job("x1", 0, 1, 1e4, user="X"), job("x2", 0, 1, 1e4, user="X"), job("y", 0, 1, 1e4, user="Y")]

    run = simulate(jobs, "1x1", GandivaFair(quantum_s=QUANTUM_S))

    held = gpu_quanta(run, 12 * QUANTUM_S)
    assert held["x1"] + held["x2"] == pytest.approx(held["y"], abs=1)


def test_twice_the_tickets_give_twice_the_gpu_time():
    jobs = [job("x", 0, 1, 1e4, queue="X"), job("y", 0, 1, 1e4, queue="Y")]
    on = Cluster.of([Node(gpus=1)], queues={"X": QueueSpec(weight=2), "Y": QueueSpec(weight=1)})

    run = simulate(jobs, on, GandivaFair(quantum_s=QUANTUM_S, tickets="queue"))

    assert who_runs(run, 6) == ["x", "y", "x", "x", "y", "x"]


def test_three_users_trade_at_the_second_price():
    holds = trade(np.array([[0.33, 0.33], [0.33, 0.33], [0.34, 0.34]]), np.array([[1.0, 4.0], [1.0, 6.0], [1.0, 8.0]]))

    assert holds[:, 0] == pytest.approx([1.0, 0.0, 0.0], abs=1e-9)
    assert holds[:, 1] == pytest.approx([0.1908, 0.4125, 0.3967], abs=1e-4)
    assert holds @ [1, 0] + holds[:, 1] * [4, 6, 8] == pytest.approx([1.7633, 2.475, 3.1733], abs=1e-4)


def test_the_last_seller_sells_all_it_has():
    holds = trade(np.full((3, 2), 4.0), np.array([[1.0, 1.25], [1.0, 2.0], [1.0, 5.0]]))

    assert holds[:, 0] == pytest.approx([10.5, 1.5, 0.0])
    assert holds[:, 1] == pytest.approx([0.0, 6.0, 6.0])


def test_with_two_users_the_seller_gains_nothing():
    holds = trade(np.full((2, 2), 2.0), np.array([[1.0, 1.2], [1.0, 3.0]]))

    assert holds[:, 0] + holds[:, 1] * [1.2, 3.0] == pytest.approx([4.4, 11.0])


@given(st.lists(st.tuples(st.floats(0.01, 10), st.lists(st.floats(0.05, 10), min_size=3, max_size=3)), min_size=1, max_size=8))
def test_a_trade_costs_no_user_anything_and_keeps_every_gpu(users):
    """With true reports; the mechanism is not strategy-proof."""
    weight, speed = np.array([w for w, _ in users]), np.array([s for _, s in users])
    before = weight[:, None] / weight.sum() * np.array([8.0, 4.0, 16.0])

    after = trade(before, speed)

    assert (after >= -1e-9).all()
    assert after.sum(axis=0) == pytest.approx(before.sum(axis=0))
    was, now = (before * speed).sum(axis=1), (after * speed).sum(axis=1)
    assert (now >= was * (1 - 1e-6) - 1e-9).all()
    assert now.sum() >= was.sum() * (1 - 1e-9)
