"""Gandiva-fair: its stride and its trades, by hand; and what no trade may do."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules import cluster, job, prepare, simulate
from trainmaster.cluster.cluster import Cluster, Node, QueueSpec
from trainmaster.policies.gandiva_fair import GandivaFair
from trainmaster.policies.profiled import fastest_first, gains
from trainmaster.policies.stride import Local, balance, central
from trainmaster.policies.trading import by_job, fair_shares, water_fill
from trainmaster.policies.trading import trade as trade_by_gain
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.speeds import Speeds

QUANTUM_S = 60.0


def trade(holds, speed, demand=None):
    """Among users whose jobs run so fast on each type, and can use all they hold."""
    fastest = np.argsort(-speed.mean(axis=0), kind="stable").tolist()
    return trade_by_gain(holds, speed[:, None, :] / speed[:, :, None], np.full(len(holds), np.inf) if demand is None else demand, fastest)


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


def moves(run, id: str) -> int:
    """How often a job changed nodes."""
    nodes = [tuple(node for node, _ in h.parts) for h in run.holdings if h.id == id]
    return sum(a != b for a, b in itertools.pairwise(nodes))


# ------------------------------------------------------------------------------------------------- one node

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


def of_queues(gpus, **tickets):
    return Cluster.of([Node(gpus=gpus)], queues={name: QueueSpec(weight=weight) for name, weight in tickets.items()})


def test_twice_the_tickets_give_twice_the_gpu_time():
    jobs = [job("x", 0, 1, 1e4, queue="X"), job("y", 0, 1, 1e4, queue="Y")]

    run = simulate(jobs, of_queues(1, X=2, Y=1), GandivaFair(quantum_s=QUANTUM_S, tickets="queue"))

    assert who_runs(run, 6) == ["x", "y", "x", "x", "y", "x"]


def test_twice_the_tickets_over_two_jobs_give_each_job_as_much_as_the_others_one():
    jobs = [job("x1", 0, 1, 1e4, queue="X"), job("x2", 0, 1, 1e4, queue="X"), job("y", 0, 1, 1e4, queue="Y")]

    run = simulate(jobs, of_queues(2, X=2, Y=1), GandivaFair(quantum_s=QUANTUM_S, tickets="queue"))

    assert who_runs(run, 6) == ["x1x2", "x1y", "x2y"] * 2
    assert gpu_quanta(run, 6 * QUANTUM_S) == {"x1": 4, "x2": 4, "y": 4}


@settings(max_examples=40)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.integers(1, 4))
def test_pass_order_gives_tickets_shares_of_gpu_time_within_a_quantum(tickets, gpus):
    """Of what any two have had together, each has its part by tickets; nobody can use more than one GPU."""
    queues = {f"q{i}": float(weight) for i, weight in enumerate(tickets)}
    jobs = [job(name, 0, 1, 30 * QUANTUM_S, queue=name) for name in queues]
    share = water_fill(float(gpus), np.array(tickets, float), np.ones(len(tickets)))

    run = simulate(jobs, of_queues(gpus, **queues), GandivaFair(quantum_s=QUANTUM_S, tickets="queue"))

    for quanta in range(1, 31):
        had = gpu_quanta(run, quanta * QUANTUM_S)
        for (a, of_a), (b, of_b) in itertools.combinations(zip(queues, share, strict=True), 2):
            assert had.get(a, 0.0) == pytest.approx((had.get(a, 0.0) + had.get(b, 0.0)) * of_a / (of_a + of_b), abs=1 + 1e-6)


# ------------------------------------------------------------------------------------------------- several nodes


def test_a_gang_wider_than_a_node_takes_turns_with_the_jobs_of_each_node():
    """Five users on 8 GPUs: the small ones can use one each and have a ticket each, the wide gang the other four, and GPU time so."""
    jobs = [*(job(id, 0, 1, 60 * QUANTUM_S, user=id) for id in "abcd"), job("W", 0, 8, 60 * QUANTUM_S, user="W")]

    run = simulate(jobs, "2x4", GandivaFair(quantum_s=QUANTUM_S))

    held = gpu_quanta(run, 60 * QUANTUM_S)
    assert held == {"W": 160, "a": 40, "b": 40, "c": 40, "d": 40}  # every third quantum all eight GPUs, in the others one


def test_in_the_central_stride_the_jobs_of_a_node_are_one_with_their_mean_pass():
    local = Local(np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([1.0, 1.0, 4.0]), np.array([1.0, 3.0, 4.0]), np.array([8.0, 0.0, 6.0]))
    anywhere, any_number = np.ones((1, 2), bool), np.zeros(1, np.int64)

    def where(wide_pass, gang=4.0):
        return central(local, np.array([9]), np.array([wide_pass]), np.array([gang]), anywhere, any_number, np.array([4.0, 4.0]))

    assert where(1.0) == {9: {0: 4.0}}  # before both nodes, whose passes are 2 and 6
    assert where(3.0) == {9: {1: 4.0}}  # the first node's jobs keep two GPUs; the second's come later
    assert where(7.0) == {}  # only two are left then
    assert where(7.0, gang=2.0) == {9: {0: 2.0}}


def test_jobs_move_until_tickets_per_gpu_are_equal_on_all_nodes():
    local = Local(np.arange(6), np.zeros(6, np.int64), np.ones(6), np.ones(6), np.zeros(6))

    home = balance(local, np.ones((6, 3), bool), np.array([4.0, 4.0, 4.0]))

    assert np.bincount(home, minlength=3).tolist() == [2, 2, 2]


def test_no_job_moves_to_a_node_that_it_may_not_use():
    local = Local(np.arange(4), np.zeros(4, np.int64), np.ones(4), np.ones(4), np.zeros(4))
    may = np.array([[True, False], [True, False], [True, True], [True, False]])

    assert balance(local, may, np.array([4.0, 4.0])).tolist() == [0, 0, 1, 0]


def test_when_jobs_end_on_one_node_those_that_wait_on_another_move_there():
    jobs = [*(job(f"s{i}", 0, 2, 300, user=f"s{i}") for i in range(2)), *(job(f"l{i}", 0, 2, 6_000, user=f"l{i}") for i in range(4))]

    run = simulate(jobs, "2x4", GandivaFair(quantum_s=QUANTUM_S))

    assert all(run.finish_s(f"l{i}") < 6_000 + 700 for i in range(4))  # six at 2/3 of the time till the short ones end; then at once
    assert sum(moves(run, f"l{i}") for i in range(4)) <= 8


def test_three_jobs_on_two_nodes_of_one_gpu_have_equal_time_in_the_long_run():
    jobs = [job(id, 0, 1, 240 * QUANTUM_S, user=id) for id in "abc"]

    run = simulate(jobs, "2x1", GandivaFair(quantum_s=QUANTUM_S))

    held = gpu_quanta(run, 240 * QUANTUM_S)
    for id in "abc":
        assert held[id] == pytest.approx(160, abs=12)  # passes drift apart by 10 quanta before two change places
    assert sum(moves(run, id) for id in "abc") < 60


def test_a_job_stays_on_its_node():
    jobs = [job(f"j{i}", 0, 1, 3_000, user=f"u{i}") for i in range(12)]

    run = simulate(jobs, "2x4", GandivaFair(quantum_s=QUANTUM_S))

    assert sum(moves(run, f"j{i}") for i in range(12)) <= 8  # towards the end, to GPUs that idle


def test_a_job_that_its_node_has_no_cpus_for_finds_another():
    on = Cluster.of([Node(gpus=2, cpus=2), Node(gpus=2, cpus=16)])
    jobs = [job("a", 0, 1, 1_000, user="a", cpus=2), job("b", 0, 1, 1_000, user="b", cpus=2), job("c", 0, 1, 1_000, user="c", cpus=2)]

    run = simulate(jobs, on, GandivaFair(quantum_s=QUANTUM_S))

    assert max(run.jct_s(id) for id in "abc") < 2_000


# ------------------------------------------------------------------------------------------------- several types


def on_types(speeds, jobs, on, **params):
    """`speeds`: model -> type -> speed."""
    profiles = Speeds.of("speeds", {"reference": "slow", "speeds": speeds})
    table, model = profiles.bind(JobTable.of(jobs), cluster(on))
    return simulate(table, on, GandivaFair(quantum_s=QUANTUM_S, **params), model=model)


def gpu_quanta_on(run, on, until_s):
    held: dict[tuple[str, str], float] = {}
    for h in run.holdings:
        seconds, type_ = min(h.end_s, until_s) - min(h.start_s, until_s), cluster(on).nodes[h.parts[0][0]].type
        key = h.id[0], type_
        held[key] = held.get(key, 0.0) + seconds * sum(milli for _, milli in h.parts) / 1000 / QUANTUM_S
    return held


GAINS = {"even": {"slow": 1.0, "fast": 1.2}, "keen": {"slow": 1.0, "fast": 3.0}}
LONG_S = 200 * QUANTUM_S
USERS = (("e", "even", 1.2), ("k", "keen", 3.0))


def two_users(jobs_each):
    return [job(f"{id}{i}", 0, 1, LONG_S * gain, user=id, model=model) for id, model, gain in USERS for i in range(jobs_each)]


MIXED = "1x4:fast+1x4:slow"


def test_once_jobs_have_shown_their_speed_ups_the_users_trade():
    """2 + 2 each; at 1.2 the keen user buys fast GPUs: 1.6667, for its two slow ones."""
    run = on_types(GAINS, two_users(8), MIXED)

    held = {key: quanta / 200 for key, quanta in gpu_quanta_on(run, MIXED, LONG_S).items()}
    assert held["k", "fast"] == pytest.approx(3.6667, abs=0.1)
    assert held["e", "fast"] == pytest.approx(0.3333, abs=0.1)
    assert held["e", "slow"] == pytest.approx(4.0, abs=0.1)
    assert held["k", "slow"] == pytest.approx(0.0, abs=0.1)


def test_before_anybody_has_run_on_both_types_nobody_trades():
    run = on_types(GAINS, two_users(4), MIXED)

    first = [h for h in run.holdings if h.start_s == 0]
    fast = [h.id[0] for h in first if h.parts[0][0] == 0]
    assert sorted(fast) == ["e", "e", "k", "k"]


def test_without_trades_every_user_keeps_its_share_of_every_type():
    run = on_types(GAINS, two_users(4), MIXED, trades=False)

    held = gpu_quanta_on(run, MIXED, LONG_S)
    assert all(quanta / 200 == pytest.approx(2.0, abs=0.1) for quanta in held.values())


def test_what_policies_know_of_speed_ups_comes_from_running_jobs_alone():
    profiles = Speeds.of("speeds", {"reference": "slow", "speeds": GAINS})
    table, model = profiles.bind(JobTable.of([job("k0", 0, 1, 1_000, user="k", model="keen")]), cluster("1x1:slow+1x1:fast"))
    run = prepare(table, "1x1:slow+1x1:fast", GandivaFair(quantum_s=QUANTUM_S), model=model)

    run.run()

    assert list(run.memory["seen"].values()) == [{"slow": 1.0, "fast": 3.0}]  # first where the cluster names it, then on the other


def test_a_gain_is_the_geometric_mean_of_the_jobs_that_have_run_on_both():
    rates = np.array([[1.0, 2.0], [2.0, 16.0], [5.0, 0.0], [0.0, 3.0]])

    gain = gains(rates, np.array([0, 0, 0, 1]), 2)

    assert gain[0] == pytest.approx(np.array([[1.0, 4.0], [0.25, 1.0]]))
    assert gain[1, 0, 1] == 0.0
    assert fastest_first(gain) == [1, 0]


# ------------------------------------------------------------------------------------------------- shares and trades


def test_what_a_user_cannot_use_goes_to_the_others():
    """8 GPUs, A and B with two gangs of two each, C with one (the paper's figure): C has 2 of its 2.67, the others 3 each."""
    shares = fair_shares(np.array([8.0]), np.ones(3), np.array([[4.0], [4.0], [2.0]]), np.array([4.0, 4.0, 2.0]), [0])

    assert shares[:, 0] == pytest.approx([3.0, 3.0, 2.0])


def test_who_needs_one_gpu_has_it_on_the_fastest_type():
    shares = fair_shares(np.array([4.0, 4.0]), np.ones(2), np.array([[1.0, 1.0], [8.0, 8.0]]), np.array([1.0, 8.0]), [1, 0])

    assert shares == pytest.approx(np.array([[0.0, 1.0], [4.0, 3.0]]))


def test_a_users_gpus_are_spread_over_its_jobs_with_as_few_types_each_as_can_be():
    runs, first = np.ones((4, 2), bool), np.zeros((4, 2))

    given = by_job(np.array([2.0, 2.0]), runs, np.ones(4), [0, 1], first)
    halves = by_job(np.array([1.0, 1.0]), runs, np.ones(4), [0, 1], first)

    assert given.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert halves.tolist() == [[0.5, 0], [0.5, 0], [0, 0.5], [0, 0.5]]


def test_three_users_trade_at_the_second_price():
    holds = trade(np.array([[0.33, 0.33], [0.33, 0.33], [0.34, 0.34]]), np.array([[1.0, 4.0], [1.0, 6.0], [1.0, 8.0]]))

    assert holds[:, 0] == pytest.approx([1.0, 0.0, 0.0], abs=1e-9)
    assert holds[:, 1] == pytest.approx([0.1908, 0.4125, 0.3967], abs=1e-4)
    assert holds @ [1, 0] + holds[:, 1] * [4, 6, 8] == pytest.approx([1.7633, 2.475, 3.1733], abs=1e-4)


def test_the_last_seller_sells_all_it_has():
    holds = trade(np.full((3, 2), 4.0), np.array([[1.0, 1.25], [1.0, 2.0], [1.0, 5.0]]))

    assert holds[:, 0] == pytest.approx([10.5, 1.5, 0.0])
    assert holds[:, 1] == pytest.approx([0.0, 6.0, 6.0])
    assert holds[:, 0] + holds[:, 1] * [1.25, 2, 5] == pytest.approx([10.5, 13.5, 30.0])


@pytest.mark.parametrize(("user", "says", "gets"), [(0, 1.9, 11.8), (1, 4.9, 14.388), (1, 6.0, 9.6), (1, 1.0, 8.8), (2, 1.9, 31.105)])
def test_who_misreports_its_speed_up_may_gain_or_lose(user, says, gets):
    """The price is not strategy-proof: these are figures, not promises."""
    true = np.array([1.25, 2.0, 5.0])
    said = true.copy()
    said[user] = says

    holds = trade(np.full((3, 2), 4.0), np.stack([np.ones(3), said], axis=1))

    assert holds[user, 0] + holds[user, 1] * true[user] == pytest.approx(gets, abs=1e-3)


def test_with_two_users_the_seller_gains_nothing():
    holds = trade(np.full((2, 2), 2.0), np.array([[1.0, 1.2], [1.0, 3.0]]))

    assert holds[:, 1] == pytest.approx([2 - 1.6667, 2 + 1.6667], abs=1e-4)
    assert holds[:, 0] + holds[:, 1] * [1.2, 3.0] == pytest.approx([4.4, 11.0])


def test_a_seller_is_paid_no_more_gpus_than_its_jobs_can_use():
    holds = trade(np.full((2, 2), 2.0), np.array([[1.0, 2.0], [1.0, 3.0]]), np.array([5.0, 4.0]))

    assert holds == pytest.approx(np.array([[4.0, 1.0], [0.0, 3.0]]))  # one fast for two slow: five in all


users = st.tuples(st.floats(0.01, 10), st.floats(0.5, 40), st.lists(st.floats(0.05, 10), min_size=3, max_size=3))


@given(st.lists(users, min_size=1, max_size=8), st.booleans())
def test_a_trade_costs_no_user_anything_and_keeps_every_gpu(users, limited):
    """With true reports; the mechanism is not strategy-proof."""
    weight, demand, speed = np.array([w for w, _, _ in users]), np.array([d for _, d, _ in users]), np.array([s for _, _, s in users])
    demand = demand if limited else np.full(len(users), np.inf)
    fastest = np.argsort(-speed.mean(axis=0), kind="stable").tolist()
    before = fair_shares(np.array([8.0, 4.0, 16.0]), weight, np.repeat(demand[:, None], 3, axis=1), demand, fastest)

    after = trade(before, speed, demand)

    assert (after >= -1e-9).all()
    assert after.sum(axis=0) == pytest.approx(before.sum(axis=0))
    assert (after.sum(axis=1) <= demand + 1e-6).all()
    was, now = (before * speed).sum(axis=1), (after * speed).sum(axis=1)
    assert (now >= was * (1 - 1e-6) - 1e-9).all()
    assert now.sum() >= was.sum() * (1 - 1e-9)


@given(st.floats(0, 50), st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 20)), min_size=1, max_size=8))
def test_water_reaches_one_level(amount, users):
    weight, most = (np.array(column) for column in zip(*users, strict=True))

    given_ = water_fill(amount, weight, most)

    assert given_.sum() == pytest.approx(min(amount, most.sum()), abs=1e-9)
    level = given_ / weight
    short = given_ < most - 1e-9
    assert not short.any() or level[short] == pytest.approx(level.max(), rel=1e-6)
