"""Gavel: its programs on clusters small enough to check by hand, and what must hold of every solution."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.workloads import workloads
from schedules import cluster, job, schedule_of, simulate
from trainmaster.engine.core import Setup
from trainmaster.engine.loop import Simulation
from trainmaster.errors import ParamError
from trainmaster.policies.central import MARGIN, middle, where_ecos_stops
from trainmaster.policies.gavel import (
    ARTIFACT,
    MOST_PARTNERS,
    Fifo,
    FinishTimeFairness,
    Gavel,
    Isolated,
    Makespan,
    MaxMin,
    MaxMinAgnostic,
    MaxMinPacked,
    MaxThroughput,
    MinCost,
    Slo,
    WaterFilling,
    best_partners,
    fastest_above,
    fill,
    runnable,
)
from trainmaster.policies.linear import ALONE, Options, group, most_gain, raise_level
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.gavel import Gavel as GavelProfiles

ON_TWO_TYPES = "1x1:v100+1x1:k80"
# `fast` gains from a V100, `even` does not; two of a kind beside each other do 0.8 each
RATES = {
    "v100": {"('fast', 1)": {"null": 4.0, "('fast', 1)": [3.2, 3.2]}, "('even', 1)": {"null": 1.0, "('even', 1)": [0.8, 0.8]}},
    "k80": {"('fast', 1)": {"null": 1.0, "('fast', 1)": [0.4, 0.4]}, "('even', 1)": {"null": 1.0, "('even', 1)": [0.4, 0.4]}},
}


def on_types(jobs, on, policy, **setup):
    """A run with the rates above; `work` is in steps."""
    table, model = GavelProfiles.of("rates.json", RATES).bind(JobTable.of(jobs), cluster(on))
    simulation = Simulation(table, cluster(on), policy, Setup(**({"restart_cost_s": 0.0} | setup)), model=model)
    return schedule_of(simulation, simulation.run())


def steps(id, model, work, submit_s=0, **more):
    return job(id, submit_s, 1, work, model=model, work_in_steps=True, **more)


def seconds_on(run, id, on=ON_TWO_TYPES):
    """Seconds held by type."""
    held: dict[str, float] = {}
    for h in run.holdings:
        if h.id == id:
            type_ = cluster(on).nodes[h.parts[0][0]].type
            held[type_] = held.get(type_, 0.0) + h.end_s - h.start_s
    return held


# ------------------------------------------------------------------------------------------------- by hand


def test_each_job_runs_where_it_gains_most():
    run = on_types([steps("even", "even", 1_000), steps("fast", "fast", 4_000)], ON_TWO_TYPES, MaxMin())

    assert seconds_on(run, "fast") == {"v100": 1_000.0}
    assert seconds_on(run, "even") == {"k80": 1_000.0}


def test_without_rates_two_jobs_share_both_types_equally():
    run = on_types([steps("a", "even", 7_200), steps("b", "even", 7_200)], ON_TWO_TYPES, MaxMinAgnostic())

    assert run.jct_s("a") == run.jct_s("b") == 7_200.0


def test_isolated_gives_an_nth_of_every_type():
    run = on_types([steps("a", "fast", 1e6), steps("b", "fast", 1e6), steps("end", "even", 1.0, submit_s=7_199)], ON_TWO_TYPES, Isolated())

    a, b = ({t: min(s, 3_600) for t, s in seconds_on(run, id).items()} for id in "ab")
    assert a.keys() == b.keys() == {"v100", "k80"}


def test_fifo_takes_the_fastest_type_with_room_and_the_head_blocks():
    run = on_types([steps("a", "fast", 400), steps("b", "fast", 400), steps("c", "even", 10)], ON_TWO_TYPES, Fifo())

    assert seconds_on(run, "a") == {"v100": 100.0}
    assert run.held("c")[0][0] == 100.0  # both are taken until a ends


def test_makespan_serves_who_has_most_left():
    run = on_types([steps("short", "even", 3_600), steps("long", "even", 10_800)], "1x1:v100", Makespan())

    assert max(run.jct_s("short"), run.jct_s("long")) == pytest.approx(14_400.0)
    assert run.jct_s("short") > 10_000.0  # it ends with the long one, near enough


def test_max_throughput_gives_all_to_who_makes_most_of_it():
    run = on_types([steps("fast", "fast", 4_000), steps("even", "even", 1_000)], ON_TWO_TYPES, MaxThroughput())

    assert seconds_on(run, "fast") == {"v100": 1_000.0}


def test_min_cost_moves_a_job_that_gains_nothing_to_the_cheap_type():
    run = on_types([steps("even", "even", 1_000)], ON_TWO_TYPES, MinCost(prices=("v100:3", "k80:1")))

    assert seconds_on(run, "even") == {"k80": 1_000.0}


def test_min_cost_refuses_a_type_without_a_price():
    with pytest.raises(ParamError, match="none above 0 is known for moonshot"):
        simulate([job("a", 0, 1, 10)], "1x1:moonshot+1x1:k80", MinCost())


def test_a_deadline_comes_before_what_is_cheapest():
    jobs = [steps("free", "fast", 40_000), steps("due", "fast", 4_000, deadline_s=1_400.0)]

    run = on_types(jobs, "1x1:v100", Slo())

    assert run.finish_s("due") <= 1_400.0


def test_deadlines_that_cannot_all_be_kept_are_kept_from_the_earliest_on():
    jobs = [steps("first", "even", 1_000, deadline_s=1_000.0), steps("second", "even", 1_000, deadline_s=1_900.0)]

    run = on_types(jobs, "1x1:v100", Slo())

    assert run.finish_s("first") == 1_000.0


def test_slos_of_a_trace_are_deadlines():
    """On a V100 `due` runs for 1,000 s; 1.4 times that after its submission it is due, so it cannot wait for the other."""
    jobs = [steps("free", "fast", 40_000), steps("due", "fast", 4_000, submit_s=10, slo=1.4)]

    run = on_types(jobs, "1x1:v100", Slo())

    assert run.finish_s("due") <= 10 + 1_400.0


def test_finish_time_fairness_lets_the_older_job_catch_up():
    run = on_types([steps("old", "even", 3_600), steps("young", "even", 3_600, submit_s=1_800)], "1x1:v100", FinishTimeFairness())

    assert run.finish_s("old") < run.finish_s("young")


PACKING = [Fifo, WaterFilling, FinishTimeFairness, Makespan, MaxThroughput, MinCost, Slo]


@pytest.mark.parametrize("policy", [MaxMinPacked(), *(kind(packed=True) for kind in PACKING)], ids=lambda policy: policy.name)
@pytest.mark.parametrize("preset", [False, True], ids=["leases", "rounds"])
def test_two_that_fit_beside_each_other_share_a_gpu(policy, preset):
    if preset:
        policy = type(policy)(replace(policy.params, rounds=True))

    run = on_types([steps("a", "fast", 3_200), steps("b", "fast", 3_200)], "1x1:v100", policy)

    assert run.finish_s("a") == run.finish_s("b") == pytest.approx(1_000)


@pytest.mark.parametrize("policy", PACKING)
def test_nobody_shares_a_gpu_unless_asked_to(policy):
    run = on_types([steps("a", "fast", 3_200), steps("b", "fast", 3_200)], "1x1:v100", policy())

    assert max(run.finish_s("a"), run.finish_s("b")) == 1_600


class EvenBeside:
    """Whoever shares its GPUs runs at 0.8, whatever the gangs."""

    by_neighbours = True

    def rates_by_type(self, jobs, types):
        return np.ones((len(jobs), len(types)))

    def rate(self, row, allocation, done, neighbours):
        return (0.8 if neighbours else 1.0), np.inf

    def beside(self, row, other, accelerator):
        return 0.8


@pytest.mark.parametrize("policy", [kind(packed=True) for kind in (Fifo, Makespan, MaxThroughput)], ids=lambda policy: policy.name)
def test_a_small_gang_shares_the_gpus_of_a_large_one(policy):
    jobs = [job("two", 0, 2, 800, model="a"), job("one", 0, 1, 800, model="b")]

    run = simulate(jobs, "1x2", policy, model=EvenBeside())

    assert run.finish_s("two") == run.finish_s("one") == 1_000


@given(st.lists(st.sampled_from([1, 1, 2, 4]), min_size=2, max_size=7), st.sampled_from([MaxMinPacked, *PACKING]))
@settings(max_examples=30)
def test_mixed_gangs_share_gpus_and_no_gpu_is_promised_twice(gangs, policy):
    jobs = [job(f"j{i}", 20 * i, gang, 400 + 50 * i, model="abc"[i % 3]) for i, gang in enumerate(gangs)]

    run = simulate(jobs, "2x4", policy() if policy is MaxMinPacked else policy(packed=True), model=EvenBeside())

    assert all(np.isfinite(run.finish_s(j.id)) for j in jobs)
    assert not any(instant.gpus_overcommitted() for instant in run.allocations)


def test_each_kind_is_offered_its_best_partners_and_equal_ones_by_turns():
    gain = np.full((40, 40), 1.5)
    gain[3, 30] = gain[30, 3] = 1.9

    chosen = best_partners(gain)
    offered = (chosen | chosen.T).sum(axis=1)

    assert chosen[3, 30]
    assert offered.min() >= MOST_PARTNERS
    assert offered.max() <= 2 * MOST_PARTNERS


def test_two_that_hamper_each_other_take_turns():
    run = on_types([steps("a", "even", 3_600), steps("b", "even", 3_600)], "1x1:k80", MaxMinPacked())

    assert max(run.finish_s("a"), run.finish_s("b")) == 7_200.0


def test_entities_share_by_weight_and_queue_inside_one():
    jobs = [job(f"a{i}", 0, 1, 1e5, user="a") for i in range(3)] + [job("b", 0, 1, 1e5, user="b")]

    run = simulate([*jobs, job("end", 36_000, 1, 1, user="b")], "1x1", WaterFilling(entities="user", within="fifo"))

    held = {id: sum(min(e, 36_000) - min(s, 36_000) for s, e in run.held(id)) for id in ("a0", "a1", "b")}
    assert held["a0"] == pytest.approx(18_000, abs=720)
    assert held["b"] == pytest.approx(18_000, abs=720)
    assert held["a1"] <= 720


def test_a_job_that_comes_starts_at_once_on_a_free_gpu():
    run = simulate([job("a", 0, 1, 1_000), job("b", 100, 1, 1_000)], "1x2", MaxMin())

    assert run.held("b") == [(100, 1_100)]


def test_leases_end_together_so_that_a_gang_finds_room():
    """Four GPUs for a seventh of the time are worth one for four sevenths: its first turn comes with the seventh lease."""
    run = simulate([job("gang", 10, 4, 1_000), *(job(f"s{i}", 7 * i, 1, 3_000) for i in range(6))], "1x4", MaxMin(stay_s=360.0))

    assert run.held("gang")[0][0] == 7 * 360.0


def test_a_holder_keeps_its_turn_until_another_is_owed_more_by_as_much_as_stay_says():
    jobs = [job("a", 0, 1, 20_000), job("b", 0, 1, 20_000)]

    short, long = (simulate(jobs, "1x1", MaxMin(stay_s=stay_s)) for stay_s in (0.0, 3_600.0))

    assert max(e - s for s, e in short.held("a")[:-1]) <= 2 * 360.0
    assert min(e - s for s, e in long.held("a")[:-1]) >= 1_800.0  # a claim grows by half a second a second, and falls by as much


# ------------------------------------------------------------------------------------------------- the artifact's rounds


def test_the_artifact_lets_a_gpu_idle_beside_a_job_that_it_has_not_planned_for():
    """Its solutions are at least 1,920 s apart; two of three GPUs are busy, and the third waits for the next one."""
    jobs = [job("a", 0, 1, 10_000), job("b", 0, 1, 10_000), job("d", 360, 1, 100), job("c", 500, 1, 100)]
    preset = ARTIFACT["artifact"]

    run = simulate(jobs, "1x3:v100", MaxMin(**preset.params), rules=preset.rules, round_s=360.0)

    assert run.held("d") == [(360, 460)]
    assert run.jct_s("c") >= 1_800.0


# ------------------------------------------------------------------------------------------------- solutions


@st.composite
def fleets(draw, pairs=False):
    """Options of a few kinds on three types, and which of them are pairs."""
    kinds = draw(st.integers(1, 6))
    numbers = st.floats(0.1, 4.0)
    jobs = np.array(draw(st.lists(st.integers(1, 5), min_size=kinds, max_size=kinds)), float)
    gang = np.array(draw(st.lists(st.sampled_from([1.0, 1.0, 2.0, 4.0]), min_size=kinds, max_size=kinds)))
    rate = np.array(draw(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=kinds, max_size=kinds)))
    options = Options.alone(jobs, gang, rate, np.array([4.0, 4.0, 8.0]))
    if not pairs:
        return options
    rows = []
    for a in range(kinds):
        for b in range(a, kinds):
            if gang[a] == gang[b] and (a != b or jobs[a] > 1):
                part = draw(st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0)))
                rows += [(a, b, j, gang[a], part[0] * rate[a, j], part[1] * rate[b, j]) for j in range(3)]
    return options, options.beside(np.array(rows).reshape(-1, 6))


def check_feasible(options: Options, y) -> None:
    assert (y >= -1e-6).all()
    time = np.bincount(options.kind, y, len(options.jobs))
    paired = options.other != ALONE
    time += np.bincount(options.other[paired], y[paired], len(options.jobs))
    gpus = np.bincount(options.type, y * options.gang, len(options.gpus))
    assert (time <= options.jobs + 1e-6).all()
    assert (gpus <= options.gpus + 1e-6).all()


@given(fleets())
def test_solutions_are_feasible_and_keep_the_level(options):
    best = raise_level(options, runnable(options))
    vertex = raise_level(options, runnable(options), central=False)

    assert best.level == pytest.approx(vertex.level, rel=1e-5)
    for y in (best.y, vertex.y, fastest_above(options, best.level * runnable(options)), fill(options, lambda open_: open_ * 1.0)):
        check_feasible(options, y)
        assert (options.of_one_job(y) >= best.level * (1 - 1e-5) - 1e-6).all()


@given(fleets())
def test_the_middle_keeps_the_level_and_gives_equal_jobs_equal_shares(options):
    best = raise_level(options, runnable(options))

    y = middle(options, best.y, best.level * runnable(options) * (1 - MARGIN))

    check_feasible(options, y)
    assert (options.of_one_job(y) >= best.level * (1 - 2 * MARGIN)).all()


@given(fleets())
def test_an_early_stop_is_feasible(options):
    options = replace(options, jobs=np.ones(len(options.jobs)))  # it is handed job by job
    best = raise_level(options, runnable(options))

    check_feasible(options, where_ecos_stops(options, 0.9 * best.level * runnable(options)))


@given(fleets(pairs=True))
def test_packing_is_never_worse_than_not_packing(both):
    alone, packed = both

    level, packed_level = (raise_level(options, runnable(options)) for options in (alone, packed))

    check_feasible(packed, packed_level.y)
    assert packed_level.level >= level.level * (1 - 1e-5)
    gain = most_gain(alone, alone.rate) @ alone.rate
    assert most_gain(packed, packed.rate + packed.other_rate) @ (packed.rate + packed.other_rate) >= gain * (1 - 1e-6)


@given(fleets())
def test_water_filling_cannot_raise_anybody_without_lowering_somebody_below(options):
    y = fill(options, lambda open_: open_ * 1.0)
    reached = options.of_one_job(y)

    for kind, level in enumerate(reached):
        claim = np.zeros(len(reached))
        claim[kind] = 1.0
        floor = np.where(claim > 0, 0.0, np.minimum(reached, level * (1 + 1e-6)))
        one, two = (raise_level(options, claim, floor * (1 - slack)).level for slack in (1e-5, 2e-5))
        assert 2 * one - two <= level * (1 + 1e-3)  # what is left without the slack, of which a gang of four makes a thousandfold


def test_jobs_of_equal_figures_are_one_kind():
    kind, first = group(np.array([1.0, 1.0, 2.0, 1.0]), np.array([3.0, 3.0, 3.0, 4.0]))

    assert kind[0] == kind[1]
    assert len(set(kind.tolist())) == len(first) == 3


@settings(max_examples=15)
@given(workloads(most=12), st.sampled_from([MaxMin, Isolated, WaterFilling, Makespan, MaxThroughput]), st.sampled_from([0.0, 90.0]))
def test_no_gpu_waits_beside_a_job_that_fits(jobs, policy: type[Gavel], round_s):
    run = simulate(jobs, "1x4", policy(lease_s=20.0), round_s=round_s)

    starts = sorted({s for h in run.holdings for s in (h.start_s, h.end_s)})
    for at_s in starts:
        if round_s:
            continue
        held = {h.id for h in run.holdings if h.start_s <= at_s < h.end_s}
        free = 4 - sum(run.fates[id].milli for id in held) / 1000
        waiting = [f for f in run.fates.values() if f.submit_s <= at_s < f.finish_s and f.id not in held]
        assert not [f.id for f in waiting if f.milli / 1000 <= free], at_s
