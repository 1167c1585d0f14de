"""The rules of time, starts, rounds, failures and capacity, on schedules that can be redone by hand.

Every case runs twice: compiled, and with the policy asked at each decision.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from schedules import cluster, job, policy, simulate
from trainmaster.cluster.cluster import CapacityChange, Cluster, Node
from trainmaster.engine.faults import Faults
from trainmaster.errors import InvariantBroken
from trainmaster.policies.base import EngineRules, ListPolicy, NoParams

FIFO, GREEDY, SRTF = policy("fifo"), policy("fifo-greedy"), policy("srtf")

# ------------------------------------------------------------------------------------------------- one instant


def test_gpus_that_a_completion_frees_go_to_an_arrival_of_the_same_instant(run):
    schedule = run([job("first", 0, 4, 10), job("second", 10, 4, 5)], "1x4", SRTF)

    assert schedule.held("first") == [(0, 10)]
    assert schedule.held("second") == [(10, 15)]
    assert schedule.fates["first"].preemptions == 0


def test_ties_go_by_submission_then_by_place_in_the_trace(run):
    late, early, earlier = job("late", 1, 1, 5), job("early", 0, 1, 5), job("earlier", 0, 1, 5, seq=-1)

    schedule = run([late, early, earlier], "1x1", SRTF)

    assert [schedule.held(id) for id in ("earlier", "early", "late")] == [[(0, 5)], [(5, 10)], [(10, 15)]]


def test_a_job_of_no_work_ends_when_it_starts(run):
    schedule = run([job("empty", 3, 1, 0), job("next", 3, 1, 2)], "1x1", FIFO)

    assert schedule.held("empty") == [(3, 3)]
    assert schedule.held("next") == [(3, 5)]


def test_queueing_starts_when_a_job_is_eligible(run):
    schedule = run([job("dependent", 0, 1, 5, eligible_s=20), job("free", 1, 1, 3)], "1x1", FIFO)

    assert schedule.held("free") == [(1, 4)]
    assert schedule.held("dependent") == [(20, 25)]


def test_completions_are_exact(run):
    assert run([job("third", 0.1, 1, 1 / 3)], "1x1", FIFO).finish_s("third") == 0.1 + 1 / 3


# ------------------------------------------------------------------------------------------------- restart costs


def test_a_start_costs_held_idle_seconds_that_count_as_attained(run):
    schedule = run([job("a", 0, 2, 10)], "1x4", FIFO, restart_cost_s=5)

    assert schedule.held("a") == [(0, 15)]
    assert schedule.result.attained_gpu_s[0] == 30
    assert schedule.result.overhead_gpu_s[0] == 10


def test_a_start_that_is_interrupted_begins_again(run):
    long, short = job("long", 0, 1, 20), job("short", 4, 1, 5)

    schedule = run([long, short], "1x1", SRTF, restart_cost_s=10)

    assert schedule.held("short") == [(4, 19)]
    assert schedule.held("long") == [(0, 4), (19, 49)]  # nothing done in the first 4 s; 10 s idle again, then all 20
    assert schedule.result.overhead_gpu_s[0] == 14
    assert schedule.fates["long"].preemptions == 1


def test_a_job_that_keeps_its_gpus_pays_nothing(run):
    schedule = run([job("kept", 0, 1, 20), *(job(f"j{i}", i, 1, 30) for i in range(1, 6))], "1x1", SRTF, restart_cost_s=10)

    assert schedule.held("kept") == [(0, 30)]


def test_preemption_loses_nothing_but_the_restart_cost(run):
    schedule = run([job("long", 0, 1, 20), job("short", 8, 1, 3)], "1x1", SRTF, restart_cost_s=2)

    assert schedule.held("long") == [(0, 8), (13, 29)]  # 6 s done; 2 s idle, 14 s left
    assert schedule.held("short") == [(8, 13)]


# ------------------------------------------------------------------------------------------------- rounds


def test_the_first_decision_of_rounds_is_at_one_round(run):
    assert run([job("a", 0, 1, 5)], "1x1", FIFO, round_s=10).held("a") == [(10, 15)]


def test_an_arrival_at_a_round_is_seen_there_and_one_after_it_at_the_next(run):
    schedule = run([job("at", 20, 1, 1), job("after", 20.5, 1, 1)], "1x2", FIFO, round_s=10)

    assert schedule.held("at") == [(20, 21)]
    assert schedule.held("after") == [(30, 31)]


def test_gpus_that_a_completion_frees_are_given_out_at_the_next_round(run):
    schedule = run([job("first", 0, 1, 7), job("second", 0, 1, 20)], "1x1", FIFO, round_s=10)

    assert schedule.held("first") == [(10, 17)]
    assert schedule.held("second") == [(20, 40)]


def test_a_completion_at_a_round_is_seen_there(run):
    schedule = run([job("first", 0, 1, 10), job("second", 0, 1, 5)], "1x1", FIFO, round_s=10)

    assert schedule.held("second") == [(20, 25)]


def test_rounds_of_a_tenth_of_a_second_are_multiples_not_sums(run):
    schedule = run([job("a", 0.25, 1, 1), job("b", 0.3, 1, 1)], "1x2", FIFO, round_s=0.1)

    assert schedule.held("a")[0][0] == 3 * 0.1
    assert schedule.held("b")[0][0] in (3 * 0.1, 4 * 0.1)  # 3 * 0.1 > 0.3: it is seen at the first multiple that is not before it
    assert schedule.held("b")[0][0] >= 0.3


def test_a_threshold_crossed_between_rounds_counts_at_the_next(run):
    long, short = job("long", 0, 1, 100), job("short", 1, 1, 10)

    schedule = run([long, short], "1x1", policy("tiresias-las", limits_gpu_s=(25.0,)), round_s=10)

    assert schedule.held("long") == [(10, 40), (50, 120)]  # crosses at 35
    assert schedule.held("short") == [(40, 50)]


# ------------------------------------------------------------------------------------------------- failures


@dataclass(frozen=True, kw_only=True)
class Planned(Faults):
    """Failures and repairs at given times: (time, node, up)."""

    plan: tuple[tuple[float, int, bool], ...]

    def events(self, nodes, seed):
        return iter(self.plan)


def planned(*plan: tuple[float, int, bool], checkpoint_s: float = 0.0) -> Planned:
    return Planned(mtbf_s=1, mttr_s=1, checkpoint_s=checkpoint_s, plan=plan)


def test_a_failure_puts_the_whole_gang_back_to_its_last_checkpoint(run):
    faults = planned((100, 1, False), (120, 1, True), checkpoint_s=30)

    schedule = run([job("gang", 0, 4, 200)], "2x2", FIFO, restart_cost_s=5, faults=faults)

    # at 100 it has worked 95 s, the last checkpoint was after 90; 110 s are left, and both nodes are there again at 120
    assert schedule.held("gang") == [(0, 100), (120, 235)]
    assert schedule.fates["gang"].failures == 1
    assert schedule.fates["gang"].preemptions == 0
    assert schedule.result.lost_gpu_s[0] == 4 * 5


def test_without_checkpoints_a_failure_loses_all_since_the_last_start(run):
    faults = planned((100, 0, False), (120, 0, True))

    schedule = run([job("gang", 0, 2, 200), job("urgent", 40, 2, 10)], "1x2", policy("srtf"), faults=faults)

    assert schedule.held("gang") == [(0, 40), (50, 100), (120, 280)]  # 40 s were saved when it was preempted; 50 s are lost
    assert schedule.result.lost_gpu_s[0] == 2 * 50


def test_a_failure_leaves_jobs_on_other_nodes_alone(run):
    schedule = run([job("a", 0, 2, 50), job("b", 0, 2, 50)], "2x2", FIFO, faults=planned((10, 0, False), (1000, 0, True)))

    assert schedule.nodes("a") == [(0,), (1,)]
    assert schedule.held("b") == [(0, 50)]
    assert schedule.held("a") == [(0, 10), (50, 100)]


def test_a_failure_acts_at_once_and_its_gang_starts_again_at_a_round(run):
    schedule = run([job("a", 0, 2, 50)], "2x2", FIFO, round_s=20, faults=planned((33, 0, False), (1000, 0, True)))

    assert schedule.held("a") == [(20, 33), (40, 90)]


def test_work_that_ends_in_the_instant_of_a_failure_is_done(run):
    schedule = run([job("a", 0, 2, 50)], "1x2", FIFO, faults=planned((50, 0, False), (60, 0, True)))

    assert schedule.held("a") == [(0, 50)]


def test_failures_do_not_depend_on_the_policy():
    faults = Faults(mtbf_s=500, mttr_s=50, checkpoint_s=0)
    jobs = [job(f"j{i}", 10 * i, 2, 300) for i in range(8)]

    capacity = []
    for name in ("fifo", "srtf", "las"):
        result = simulate(jobs, "4x2", policy(name), faults=faults, seed=5).result
        until_s = 900
        capacity.append([*zip(result.capacity_s[result.capacity_s < until_s], result.capacity_gpus, strict=False)])

    assert len(capacity[0]) > 2
    assert capacity[0] == capacity[1] == capacity[2]


@pytest.mark.parametrize("text, mtbf_s, mttr_s, checkpoint_s", [
    ("mtbf=30d,mttr=2h,checkpoint=30m", 30 * 86400, 7200, 1800), ("mtbf=100", 100, 3600, 0), ("checkpoint=0s, mtbf=1.5h", 5400, 3600, 0),
])  # fmt: skip
def test_faults_are_written_with_units(text, mtbf_s, mttr_s, checkpoint_s):
    assert Faults.parse(text) == Faults(mtbf_s=mtbf_s, mttr_s=mttr_s, checkpoint_s=checkpoint_s)


@pytest.mark.parametrize("text", ["", "mtbf", "mtbf=", "mtbf=1.2.3", "mtbf=-3", "mtbf=0", "mttr=2h", "mtbf=1h,repair=2h", "mtbf=1w"])
def test_faults_that_make_no_sense_are_refused_in_one_line(text):
    with pytest.raises(Exception, match=r"^--faults: .*mtbf=30d") as refused:
        Faults.parse(text)
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------------------------------------- nodes that come and go


def changing(nodes: list[Node], *timeline: CapacityChange) -> Cluster:
    later = {node for change in timeline for node in change.add}
    return Cluster(nodes=tuple(nodes), present=np.array([node not in later for node in range(len(nodes))]), timeline=timeline)


def test_nodes_that_join_are_given_out_at_once(run):
    on = changing([Node(gpus=2), Node(gpus=2)], CapacityChange(at_s=50, add=(1,)))

    schedule = run([job("gang", 0, 4, 10), job("small", 0, 2, 100)], on, GREEDY)

    assert schedule.held("small") == [(0, 100)]
    assert schedule.held("gang") == [(100, 110)]
    assert run([job("gang", 0, 4, 10)], on, FIFO).held("gang") == [(50, 60)]


def test_a_node_that_leaves_preempts_and_loses_nothing(run):
    on = changing([Node(gpus=2), Node(gpus=2)], CapacityChange(at_s=30, remove=(0,)))

    schedule = run([job("a", 0, 2, 50), job("b", 0, 2, 20)], on, FIFO, restart_cost_s=5)

    assert schedule.nodes("a") == [(0,), (1,)]
    assert schedule.held("a") == [(0, 30), (30, 60)]  # 25 s done, 5 s idle, 25 s
    assert schedule.fates["a"].preemptions == 1
    assert schedule.result.capacity_gpus.tolist() == [4, 2]


def test_a_job_whose_nodes_left_for_good_is_unfinished(run):
    on = changing([Node(gpus=4), Node(gpus=1)], CapacityChange(at_s=30, remove=(0,)))

    schedule = run([job("big", 0, 4, 50), job("small", 0, 1, 100)], on, FIFO)

    assert schedule.held("big") == [(0, 30)]
    assert schedule.held("small") == [(0, 100)]
    assert list(schedule.result.state) == ["unfinished", "finished"]


# ------------------------------------------------------------------------------------------------- exactly so many nodes


def test_a_gang_that_asks_for_so_many_nodes_lies_evenly_on_exactly_so_many(run):
    schedule = run([job("two", 0, 4, 10, nodes=2), job("anywhere", 0, 4, 10)], "3x4", FIFO)

    parts = {holding.id: holding.parts for holding in schedule.holdings}
    assert parts["two"] == ((0, 2000), (1, 2000))  # although one node would hold it
    assert parts["anywhere"] == ((2, 4000),)


def test_a_gang_waits_until_exactly_so_many_nodes_have_its_share_free(run):
    jobs = [job("a", 0, 3, 10), job("b", 0, 3, 20), job("pair", 1, 4, 5, nodes=2), job("one", 1, 2, 5, nodes=1)]
    schedule = run(jobs, "2x4", FIFO)  # 1 + 1 are free until 10, 4 + 1 until 20

    assert schedule.held("pair") == [(20, 25)]
    assert schedule.held("one") == [(20, 25)]  # fifo: behind it


def test_cpus_and_memory_lie_evenly_too_and_a_node_that_lacks_them_is_passed_over(run):
    on = Cluster.of([Node(gpus=4, cpus=cpus, memory_gib=64) for cpus in (8, 2, 8)])

    schedule = run([job("pair", 0, 2, 10, nodes=2, cpus=7, memory_gib=64), job("cpus", 0, 0, 10, nodes=3, cpus=3)], on, FIFO)

    assert schedule.nodes("pair") == [(0, 2)]  # 3.5 CPUs on each
    assert sorted(schedule.nodes("cpus")[0]) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------- what can never run


@pytest.mark.parametrize("never, words", [
    (job("j", 0, 9, 1), "a gang of 9"),
    (job("j", 0, 3, 1, max_nodes=1), "a gang of 3"),
    (job("j", 0, 6, 1, nodes=2), "a gang of 6, 3 on each of 2 nodes,"),
    (job("j", 0, 5, 1, nodes=5), "a gang of 5, 1 on each of 5 nodes,"),
    (job("j", 0, 1, 1, accepts=("t4",)), "type t4"),
    (job("j", 0, 0, 1, cpus=9), "9 CPUs"),
    (job("j", 0, 2, 1, cpus=40), "40 CPUs"),
])  # fmt: skip
def test_what_can_never_fit_is_said_and_the_rest_runs(run, never, words):
    on = Cluster.of([Node(gpus=2, type="v100", cpus=8)] * 4)

    schedule = run([never, job("fits", 0, 8, 5)], on, FIFO)

    assert list(schedule.result.state) == ["unschedulable", "finished"]
    assert words in schedule.result.reason[0]
    assert schedule.held("fits") == [(0, 5)]


def test_what_fits_only_once_nodes_have_joined_waits_for_them(run):
    on = changing([Node(gpus=1), Node(gpus=1)], CapacityChange(at_s=7, add=(1,)))

    assert run([job("pair", 0, 2, 5)], on, FIFO).held("pair") == [(7, 12)]


# ------------------------------------------------------------------------------------------------- order


def test_priority_sorts_before_the_policys_key(run):
    long, short = job("long", 0, 1, 50, priority=1), job("short", 0, 1, 5)

    schedule = run([long, short], "1x1", SRTF)

    assert schedule.held("long") == [(0, 50)]
    assert schedule.held("short") == [(50, 55)]


def test_an_arrival_of_higher_priority_displaces_under_a_preemptive_policy_only(run):
    jobs = [job("first", 0, 1, 10), job("urgent", 4, 1, 50, priority=2)]

    assert run(jobs, "1x1", SRTF).held("first") == [(0, 4), (54, 60)]
    assert run(jobs, "1x1", FIFO).held("first") == [(0, 10)]


def test_a_job_that_may_not_be_preempted_runs_to_its_end(run):
    schedule = run([job("pinned", 0, 1, 50, preemptible=False), job("short", 5, 1, 5)], "1x1", SRTF)

    assert schedule.held("pinned") == [(0, 50)]


def test_a_preemptive_walk_passes_over_what_does_not_fit_behind_better_jobs(run):
    """Three GPUs: `a` (2) runs; `b` (2) does not fit beside it, `c` (1) does, though it has more left."""
    schedule = run([job("a", 0, 2, 10), job("b", 0, 2, 20), job("c", 0, 1, 30)], "1x3", SRTF)

    assert schedule.held("b") == [(10, 30)]
    assert schedule.held("c") == [(0, 30)]


def test_a_job_without_nodes_gives_its_count_to_those_below(run):
    """One GPU is free on each node at 5: a gang of 2 that may not spread waits, and the longer jobs below it start."""
    keepers = [job("k1", 0, 1, 20, preemptible=False), job("k2", 0, 1, 30, preemptible=False)]
    gang, small, other = job("gang", 5, 2, 10, max_nodes=1), job("small", 5, 1, 40), job("other", 5, 1, 39)

    schedule = run([*keepers, gang, small, other], "2x2", SRTF, placement="spread")

    assert schedule.held("small")[0][0] == schedule.held("other")[0][0] == 5
    assert schedule.nodes("other") == [(0,)]  # first in order: beside k1
    assert schedule.held("gang") == [(44, 54)]  # at 20 k1 is gone, but other keeps its GPU and only small would yield: no node is free


def test_a_gang_that_was_placed_stays_in_though_one_that_asks_the_same_finds_no_nodes(run):
    """Found by the naive engine: `y` and `x` count as fitting on 1 + 2 free GPUs, only the first finds a node."""
    jobs = [job("s", 0, 1, 100), job("t", 0, 1, 100), job("y", 5, 2, 10, max_nodes=1), job("x", 5, 2, 11, max_nodes=1)]

    schedule = run(jobs, "1x1+1x3", SRTF)

    assert schedule.held("y") == [(5, 15)]
    assert schedule.held("x") == [(15, 26)]


def test_a_blocking_order_stops_at_a_job_that_finds_no_nodes(run):
    keepers = [job("k1", 0, 1, 20), job("k2", 0, 1, 30)]
    gang, small = job("gang", 5, 2, 10, max_nodes=1), job("small", 6, 1, 1)

    schedule = run([*keepers, gang, small], "2x2", FIFO, placement="spread")

    assert schedule.held("gang") == [(20, 30)]
    assert schedule.held("small") == [(20, 21)]


def test_consolidating_one_model_does_not_hold_up_another_of_the_same_demand(run):
    """Found by the naive engine: vgg16 must have one node, resnet50 may span two."""
    keepers = [job("k1", 0, 1, 50), job("e1", 0, 1, 10), job("k2", 0, 1, 50), job("e2", 0, 1, 10)]
    skewed, free = job("vgg", 1, 2, 10, model="vgg16"), job("resnet", 1, 2, 10, model="resnet50")

    schedule = run([*keepers, skewed, free], "2x2", GREEDY, placement="skew")

    assert schedule.held("resnet") == [(10, 20)]
    assert schedule.held("vgg") == [(50, 60)]


# ------------------------------------------------------------------------------------------------- services


def test_a_service_runs_on_what_is_idle_and_has_no_end(run):
    service, short = job("service", 0, 1, math.inf), job("short", 5, 1, 10)

    schedule = run([service, short], "1x1", SRTF)

    assert schedule.held("short") == [(5, 15)]
    assert schedule.held("service")[0] == (0, 5)
    assert list(schedule.result.state) == ["unfinished", "finished"]
    assert schedule.result.reason[0] == "a service: it has no end"


def test_a_run_ends_where_services_hold_what_the_others_need(run):
    schedule = run([job("service", 0, 2, math.inf), job("small", 1, 1, 5), job("big", 2, 4, 10)], "1x4", GREEDY)

    assert schedule.held("small") == [(1, 6)]
    assert list(schedule.result.state) == ["unfinished", "finished", "unfinished"]


def test_las_does_not_turn_round_for_ever_over_services_that_never_end(run):
    jobs = [job("service", 0, 1, math.inf, priority=1), job("big", 1, 2, 10)]

    schedule = run(jobs, "1x2", policy("las", quantum_s=50.0))

    assert list(schedule.result.state) == ["unfinished", "unfinished"]


def test_services_that_take_turns_do_not_keep_a_run_going_for_ever(run):
    """`finite` can never run beside the pinned service; the other two alternate each quantum."""
    services = [job("pinned", 0, 1, math.inf, preemptible=False), job("a", 0, 3, math.inf), job("b", 0, 3, math.inf)]

    schedule = run([*services, job("finite", 0, 4, 10)], "1x4", policy("las", quantum_s=20.0))

    assert set(schedule.result.state) == {"unfinished"}


# ------------------------------------------------------------------------------------------------- our own bugs stop the run


class WakesInThePast(ListPolicy):
    name, params_type = "wakes-in-the-past", NoParams

    def rank(self, view, memory):
        return view.jobs.submit_s

    def next_wakeup_s(self, view, memory):
        return view.now_s


def test_a_wake_up_that_is_not_in_the_future_is_a_bug():
    with pytest.raises(InvariantBroken, match="wake-up is not after"):
        simulate([job("a", 0, 1, 5), job("b", 0, 1, 5)], "1x1", WakesInThePast())


def test_the_view_is_read_only():
    class Writes(ListPolicy):
        name, params_type = "writes", NoParams

        def rank(self, view, memory):
            view.jobs.submit_s[:] = 0
            return view.jobs.submit_s

    with pytest.raises(ValueError, match="read-only"):
        simulate([job("a", 0, 1, 5)], "1x1", Writes())


def test_what_a_view_shows_is_up_to_the_instant():
    seen = []

    class Looks(ListPolicy):
        name, params_type, preemptive = "looks", NoParams, True

        def rank(self, view, memory):
            seen.append((view.now_s, view.jobs.attained_gpu_s.tolist(), view.jobs.remaining_s.tolist(), view.oracle.remaining_s.tolist(),
                         view.jobs.running.tolist(), view.free_gpus[""], view.nodes.free_gpus.tolist()))  # fmt: skip
            return view.jobs.submit_s

    simulate([job("a", 0, 2, 20), job("b", 8, 3, 5)], "2x2", Looks(), restart_cost_s=3)

    assert seen[0] == (0, [0], [20], [20], [False], 4, [2, 2])
    assert seen[1] == (8, [16, 0], [15, 5], [15, 5], [True, False], 2, [0, 2])
    assert seen[2] == (23, [0], [5], [5], [False], 4, [2, 2])


def test_the_same_policy_object_serves_two_runs():
    las = policy("las", quantum_s=20.0)
    jobs = [job(f"j{i}", 5 * i, 2, 60) for i in range(6)]

    assert simulate(jobs, "2x2", las).allocations_csv() == simulate(jobs, cluster("2x2"), las).allocations_csv()
    assert las.params == policy("las", quantum_s=20.0).params


def test_a_preset_may_slow_models_down_and_set_their_restart_costs():
    rules = EngineRules(slowdown={"bert": 1.5}, restart_s={"bert": 7.0})

    jobs = [job("a", 0, 1, 10, model="bert"), job("b", 0, 1, 10, model="other"), job("c", 0, 1, 10)]
    schedule = simulate(jobs, "1x4", GREEDY, 2.0, rules=rules)

    assert [schedule.finish_s(id) for id in "abc"] == [7 + 15, 12, 12]
