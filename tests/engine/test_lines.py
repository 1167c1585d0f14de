"""What a Decision's lines mean, on schedules that can be redone by hand: packing, resizes, migrations, configurations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from engine.scripts import Scripted, carried_out, on
from schedules import job, policy, prepare, simulate
from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.errors import InputError, InvariantBroken


@dataclass(frozen=True)
class Crowded:
    """In proportion to GPUs, and half as fast beside one other job, a third beside two. Configuration 1 is twice as fast as 0."""

    asked: dict[int, float]
    rate_cards: bool = True
    by_neighbours: bool = True
    fixed: bool = True
    cost_s: float | None = None

    def rates_by_type(self, jobs, types):
        return np.ones((len(jobs), len(types))) if self.fixed else None

    def rate(self, row, allocation, done, neighbours):
        return allocation.total_gpus / self.asked[row] * (1 + max(allocation.config, 0)) / (1 + len(neighbours)), math.inf


@dataclass(frozen=True)
class Costly(Crowded):
    """A resize costs 3 s, a migration 5, another configuration 1."""

    def change_s(self, row, before, after):
        if before.total_gpus != after.total_gpus:
            return 3.0
        return 5.0 if before.nodes != after.nodes else 1.0 if before.config != after.config else 0.0


def crowded(jobs, kind=Crowded, **more):
    return kind({row: each.gpus for row, each in enumerate(sorted(jobs, key=lambda each: each.submit_s))}, **more)


def half(gpus, **more):
    return on(gpus, share=0.5, partner=0, **more)


# ------------------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize("fixed", [True, False], ids=["rates by type", "rates asked"])
def test_partners_slow_each_other_while_both_run(fixed):
    a, b = job("a", 0, 2, 20), job("b", 0, 2, 10)

    run = carried_out([a, b], "1x2", {0: {"a": half(2), "b": half(2)}}, model=crowded([a, b], fixed=fixed))

    assert run.finish_s("b") == 20  # at half speed
    assert run.finish_s("a") == 30  # 10 done by 20, then alone at full speed
    assert run.result.attained_gpu_s.tolist() == [30, 20]  # two GPUs, half of each
    assert run.nodes("a") == [(0,)]


def test_a_partner_that_joins_moves_nobody_and_costs_nothing_to_the_one_that_runs():
    a, b = job("a", 0, 2, 20), job("b", 10, 2, 10)
    script = {0: {"a": on(2)}, 10: {"a": half(2), "b": half(2)}, 100: {}}

    run = carried_out([a, b], "2x2", script, restart_cost_s=4, model=crowded([a, b]))

    assert run.held("a") == [(0, 10), (10, 36)]  # 6 done by 10, 12 more by 34 at half speed, the last 2 alone
    assert run.nodes("a") == [(0,), (0,)] and run.nodes("b") == [(0,)]
    assert run.finish_s("b") == 34  # idle 10..14, 10 at half speed
    assert run.result.overhead_gpu_s.tolist() == [8, 4]
    assert run.result.resizes.tolist() == run.result.migrations.tolist() == [0, 0]


def test_a_gang_of_four_shares_its_gpus_with_two_gangs_of_two():
    jobs = [job("small", 0, 2, 50), job("tiny", 0, 2, 50), job("large", 0, 4, 100), job("alone", 0, 4, 30)]

    run = carried_out(jobs, "2x4", {0: {"small": half(2), "tiny": half(2), "large": half(4), "alone": 4}}, model=crowded(jobs))

    assert run.nodes("large") == run.nodes("small") == run.nodes("tiny") == [(0,)]
    assert run.nodes("alone") == [(1,)]
    assert run.finish_s("small") == run.finish_s("tiny") == 100  # each beside `large` alone
    assert run.finish_s("large") == pytest.approx(100 + 200 / 3)  # a third of its speed while both are there


def test_a_partner_whose_share_finds_no_room_waits():
    jobs = [job("a", 0, 1, 10), job("b", 0, 1, 10), job("c", 0, 1, 10)]

    run = carried_out(jobs, "1x2", {0: {"a": half(1), "b": half(1), "c": half(1)}})

    assert run.held("a") == run.held("b") == [(0, 10)]  # without a model that says so, nobody is slowed
    assert run.held("c") == [(10, 20)]


def test_a_running_job_moves_onto_the_gpus_of_its_new_partner():
    a, b = job("a", 0, 2, 100), job("b", 0, 2, 100)
    script = {0: {"a": 2, "b": 2}, 10: {"a": half(2), "b": half(2)}}

    run = carried_out([a, b], "2x2", script, restart_cost_s=5, model=crowded([a, b]))

    assert run.nodes("b") == [(1,), (0,)]
    assert run.result.migrations.tolist() == [0, 1]
    assert run.result.overhead_gpu_s.tolist() == [10, 10 + 5]


def test_partners_that_part_run_alone_again():
    a, b = job("a", 0, 2, 40), job("b", 0, 2, 40)
    script = {0: {"a": half(2), "b": half(2)}, 20: {"a": on(2), "b": on(2)}}

    run = carried_out([a, b], "2x2", script, restart_cost_s=0, model=crowded([a, b]))

    assert run.held("a") == [(0, 20), (20, 50)]  # 10 done at half speed, 30 left
    assert run.nodes("a") == [(0,), (0,)] and run.nodes("b") == [(0,), (1,)]


def test_where_the_largest_finds_no_room_the_next_is_placed():
    jobs = [job("running", 0, 2, 50), job("large", 5, 4, 10)]

    run = carried_out(jobs, "1x2+1x4", {0: {"running": on(2, node=0)}, 5: {"large": half(4), "running": half(2)}, 6: {"running": 2}})
    assert run.held("large") == [(5, 6)]

    run = carried_out([*jobs, job("other", 5, 2, 5)], "1x4", {0: {"running": 2}, 5: {"other": 2, "large": half(4), "running": half(2)}})
    assert run.held("running") == [(0, 5), (5, 50)]  # it keeps its GPUs, by halves
    assert run.held("large") == [(50, 60)]


def test_a_fraction_joins_a_gang_that_shares_its_gpus():
    jobs = [job("gang", 0, 2, 10), job("fraction", 0, 0.5, 10)]

    assert carried_out(jobs, "1x2", {0: {"gang": on(2, share=0.5), "fraction": 0.5}}).held("fraction") == [(0, 10)]
    assert carried_out(jobs, "1x2", {0: {"gang": on(2, share=0.6), "fraction": 0.5}}).held("fraction") == [(10, 20)]


# ------------------------------------------------------------------------------------------------- resizes


def test_a_job_grows_where_it_is_and_pays_a_restart():
    a = job("a", 0, 2, 100)

    run = carried_out([a], "2x4", {0: {"a": 2}, 10: {"a": 6}}, restart_cost_s=5, model=crowded([a]))

    assert run.held("a") == [(0, 10), (10, 15 + 95 / 3)]  # 5 done; then three times as fast
    assert [holding.parts for holding in run.holdings] == [((0, 2000),), ((0, 4000), (1, 2000))]
    assert run.result.resizes.tolist() == [1]
    assert run.result.attained_gpu_s[0] == pytest.approx(2 * 10 + 6 * (5 + 95 / 3))
    assert run.result.overhead_gpu_s[0] == 2 * 5 + 6 * 5
    assert run.fates["a"].preemptions == 0


def test_growing_is_all_or_nothing():
    jobs = [job("a", 0, 2, 100), job("b", 0, 2, 100)]

    run = carried_out(jobs, "1x4", {0: {"a": 2, "b": 2}, 10: {"a": 4, "b": 2}}, restart_cost_s=5)

    assert run.held("a") == [(0, 105)]
    assert run.result.resizes.tolist() == [0, 0]


def test_a_gang_that_may_not_spread_moves_as_a_whole_to_grow():
    jobs = [job("a", 0, 2, 40, max_nodes=1), job("b", 0, 2, 100)]

    run = carried_out(jobs, "2x4", {0: {"a": 2, "b": 2}, 10: {"a": 4, "b": 2}}, model=crowded(jobs))

    assert run.nodes("a") == [(0,), (1,)]
    assert run.finish_s("a") == 25
    assert run.result.resizes.tolist() == [1, 0]


def test_a_job_that_shrinks_gives_up_the_node_where_it_has_least():
    a = job("a", 0, 5, 100)

    run = carried_out([a, job("b", 10, 4, 5)], "2x4", {0: {"a": 5}, 10: {"a": 4, "b": 4}}, model=crowded([a, job("b", 10, 4, 5)]))

    assert [holding.parts for holding in run.holdings if holding.id == "a"] == [((0, 4000), (1, 1000)), ((0, 4000),)]
    assert run.held("b") == [(10, 15)]
    assert run.finish_s("a") == 10 + 90 * 5 / 4


def test_gpus_that_a_job_gives_up_can_be_given_out_before_it_in_the_same_decision():
    jobs = [job("a", 0, 4, 100), job("b", 10, 2, 5)]

    run = carried_out(jobs, "1x4", {0: {"a": 4}, 10: {"b": 2, "a": 2}})

    assert run.held("b") == [(10, 15)]


def test_chosen_nodes_are_where_a_job_goes():
    a = job("a", 0, 2, 100)
    script = {0: {"a": on(2, node=2)}, 10: {"a": [on(1, node=2), on(1, node=0)]}, 20: {"a": [on(1, node=2)]}}

    run = carried_out([a], "3x2", script, restart_cost_s=1, model=crowded([a]))

    assert [holding.parts for holding in run.holdings] == [((2, 2000),), ((2, 1000), (0, 1000)), ((2, 1000),)]
    assert run.result.migrations.tolist() == [1] and run.result.resizes.tolist() == [1]


def test_two_jobs_swap_their_nodes_in_one_decision():
    jobs = [job("a", 0, 2, 50), job("b", 0, 2, 50)]

    run = carried_out(jobs, "2x2", {0: {"a": on(2, node=0), "b": on(2, node=1)}, 10: {"a": on(2, node=1), "b": on(2, node=0)}})

    assert run.nodes("a") == [(0,), (1,)] and run.nodes("b") == [(1,), (0,)]
    assert run.result.migrations.tolist() == [1, 1]
    assert [fate.preemptions for fate in run.fates.values()] == [0, 0]


def test_a_gang_of_two_types_is_rated_by_the_whole_of_it():
    on_types = Cluster.of([Node(gpus=2, type="v100"), Node(gpus=2, type="t4")])
    a = job("a", 0, 2, 30)
    seen = []

    class Typed(Crowded):
        def rate(self, row, allocation, done, neighbours):
            seen.append(allocation)
            return sum(g * (2 if t == "v100" else 1) for g, t in zip(allocation.gpus, allocation.types, strict=True)), math.inf

    run = carried_out([a], on_types, {0: {"a": [on(1, type="v100"), on(1, type="t4")]}}, model=Typed({0: 2}))

    assert run.finish_s("a") == 10
    assert (seen[0].type, seen[0].types) == ("v100", ("v100", "t4"))


def test_a_job_never_runs_below_its_least_or_above_its_most():
    a = job("a", 0, 2, 100, min_gpus=2, max_gpus=4)

    assert carried_out([a], "1x8", {0: {"a": 2}, 10: {"a": 4}}).result.resizes.tolist() == [1]
    for gpus in (1, 5):
        with pytest.raises(InvariantBroken, match="runs on 2 to 4"):
            carried_out([a], "1x8", {0: {"a": 2}, 10: {"a": gpus}})


def test_cpus_go_with_the_gpus_or_as_the_line_says():
    nodes = Cluster.of([Node(gpus=8, cpus=8)])
    jobs = [job("a", 0, 2, 10, cpus=2), job("b", 0, 0, 10, cpus=4)]

    assert carried_out(jobs, nodes, {0: {"a": 4, "b": 0}}).held("b") == [(0, 10)]
    assert carried_out(jobs, nodes, {0: {"a": 6, "b": 0}}).held("b") == [(10 / 3, 10 / 3 + 10)]  # `a` is three times as fast
    assert carried_out(jobs, nodes, {0: {"a": on(6, cpus=1), "b": 0}}).held("b") == [(0, 10)]


def test_a_model_may_say_what_a_change_costs():
    a = job("a", 0, 1, 100)
    script = {0: {"a": on(1, node=0)}, 10: {"a": on(2, node=0)}, 20: {"a": on(2, node=1)}, 30: {"a": on(2, node=1, config=0)}}

    run = carried_out([a], "2x2", script, restart_cost_s=7, model=crowded([a], Costly))

    assert run.result.overhead_gpu_s.tolist() == [7 + 2 * 3 + 2 * 5 + 2 * 1]
    assert run.result.resizes.tolist() == run.result.migrations.tolist() == [1]


# ------------------------------------------------------------------------------------------------- configurations


def test_another_configuration_changes_the_rate_and_moves_nobody():
    a = job("a", 0, 1, 100)

    run = carried_out([a], "1x2", {0: {"a": on(1, config=0)}, 20: {"a": on(1, config=1)}}, restart_cost_s=10, model=crowded([a]))

    assert run.held("a") == [(0, 20), (20, 65)]  # 10 done by 20; then 90 at twice the speed, at once
    assert run.result.resizes.tolist() == run.result.migrations.tolist() == [0]


def test_a_change_during_a_restart_leaves_the_rest_of_it_to_pay():
    a = job("a", 0, 1, 100)

    run = carried_out([a], "1x2", {0: {"a": on(1, config=0)}, 4: {"a": on(1, config=1)}}, restart_cost_s=10, model=crowded([a]))

    assert run.finish_s("a") == 60
    assert run.result.overhead_gpu_s.tolist() == [10]


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([on(1), on(1, share=0.5)], "differ in share"),
        (on(2, share=0.0), "a share of 0 of 2 GPUs"),
        (on(1.5, share=0.5), "a share of 0.5 of 1.5 GPUs"),
        (on(2, node=7), "node 7; there are 1"),
        (on(2, type="h100"), "type 'h100', which no node has"),
        (on(2, config=1), "no rate cards"),
        (on(0), "0 GPUs, where it asks for 2"),
    ],
)
def test_lines_that_no_engine_can_carry_out_are_refused_in_one_line(lines, problem):
    with pytest.raises(InputError, match=problem):
        carried_out([job("a", 0, 2, 10)], "1x4", {0: {"a": lines}})


# ------------------------------------------------------------------------------------------------- what is observed


def test_running_jobs_show_their_rate_what_they_have_done_and_on_what():
    a, b = job("a", 0, 2, 100), job("b", 0, 1, 100)

    class Reporting(Crowded):
        def metrics(self, row, allocation, done):
            return {"noise": allocation.total_gpus * 10, "epoch": done // 10}

    def shown(view):
        seen = view.observed
        columns = (column.tolist() for column in (seen.seq, seen.row, seen.rate, seen.done))
        rows = zip(*columns, strict=True)
        return [(seq, rate, done, seen.allocation(row).total_gpus, seen.metrics(row)) for seq, row, rate, done in rows]

    script = Scripted({0: {"a": 2, "b": 1}, 25: {"a": 4, "b": 1}, 40: {}}, shown)
    prepare([a, b], "1x8", script, 20, model=crowded([a, b], Reporting)).run()

    assert script.seen[0] == []
    assert script.seen[1] == [(0, 1, 5, 2, {"noise": 20, "epoch": 0}), (1, 1, 5, 1, {"noise": 10, "epoch": 0})]
    assert script.seen[2] == [(1, 1, 20, 1, {"noise": 10, "epoch": 2})]  # the other has only idled on its four GPUs


def test_a_start_costs_what_the_model_says_unless_the_flag_is_given():
    a, b = job("a", 0, 1, 10), job("b", 0, 1, 10)

    class Slow(Crowded):
        def restart_s(self, jobs):
            return np.array([50.0, np.nan])

    run = simulate([a, b], "1x2", policy("fifo"), None, model=crowded([a, b], Slow))
    assert [run.finish_s(id) for id in "ab"] == [60, 40]

    run = simulate([a, b], "1x2", policy("fifo"), 5, model=crowded([a, b], Slow))
    assert [run.finish_s(id) for id in "ab"] == [15, 15]
