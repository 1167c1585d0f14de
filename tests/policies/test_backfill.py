"""Backfill: the rules on clusters small enough to check by hand, and two plain replays that must agree job by job."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given

from policies.helpers import limited, workloads
from schedules import job, simulate
from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.errors import ParamError
from trainmaster.policies.backfill import ConservativeBackfill, EasyBackfill
from trainmaster.workload.jobs import Job, JobTable

BOTH = (EasyBackfill, ConservativeBackfill)

# ------------------------------------------------------------------------------------------------- easy-backfill, by hand


@pytest.mark.parametrize("rule", BOTH)
def test_a_job_that_ends_by_the_shadow_time_starts_before_the_head(rule):
    jobs = [limited("first", 0, 3, 10), limited("head", 1, 4, 5), limited("short", 2, 1, 8)]

    run = simulate(jobs, "1x4", rule())

    assert run.held("first") == [(0, 10)]  # so the head is promised 10
    assert run.held("short") == [(2, 10)]  # 2 + 8 <= 10
    assert run.held("head") == [(10, 15)]


@pytest.mark.parametrize("rule", BOTH)
def test_a_job_that_would_delay_the_head_waits_though_its_gpu_is_free(rule):
    jobs = [limited("first", 0, 3, 10), limited("head", 1, 4, 5), limited("long", 2, 1, 9)]

    run = simulate(jobs, "1x4", rule())

    assert run.held("head") == [(10, 15)]
    assert run.held("long") == [(15, 24)]  # 2 + 9 > 10, and at 10 the head needs all four


def test_a_long_job_starts_on_extra_gpus_and_uses_them_up():
    jobs = [
        limited("first", 0, 5, 10),
        limited("head", 1, 7, 5),
        limited("long", 2, 1, 100),
        limited("longer", 2, 1, 100),
        limited("short", 2, 1, 8),
    ]

    run = simulate(jobs, "1x8", EasyBackfill())

    assert run.held("long") == [(2, 102)]  # at 10 all eight are free and the head needs seven: one extra
    assert run.held("short") == [(2, 10)]  # needs no extra: it ends in time
    assert run.held("head") == [(10, 15)]
    assert run.held("longer") == [(15, 115)]  # a GPU was free at 2, but no extra one


def test_a_job_that_ends_before_its_limit_moves_the_plan():
    jobs = [
        limited("first", 0, 3, 100, work_s=10),  # at 1 the head is promised 100
        limited("head", 1, 4, 5),
        limited("second", 2, 1, 50),  # 2 + 50 <= 100
        limited("third", 11, 3, 41),  # the first has ended at 10, so the promise is 52 now
        limited("fourth", 11, 3, 42),
    ]

    run = simulate(jobs, "1x4", EasyBackfill())

    assert run.held("second") == [(2, 52)]
    assert run.held("third") == [(11, 52)]  # 11 + 41 <= 52
    assert run.held("head") == [(52, 57)]
    assert run.held("fourth") == [(57, 99)]


def test_a_job_past_its_limit_is_expected_to_end_at_any_instant():
    jobs = [limited("overdue", 0, 3, 10, work_s=30), limited("head", 1, 4, 5), limited("short", 12, 1, 3)]

    run = simulate(jobs, "1x4", EasyBackfill())

    assert run.held("head") == [(30, 35)]
    assert run.held("short") == [(35, 38)]  # at 12 no end is after the shadow time


def test_a_job_past_its_limit_still_leaves_extra_gpus():
    jobs = [limited("overdue", 0, 3, 10, work_s=30), limited("head", 1, 3, 5), limited("long", 12, 1, 100)]

    run = simulate(jobs, "1x4", EasyBackfill())

    assert run.held("long") == [(12, 112)]
    assert run.held("head") == [(30, 35)]


@pytest.mark.parametrize("rule", BOTH)
def test_a_limit_includes_the_restart_cost(rule):
    jobs = [limited("first", 0, 3, 20, work_s=10), limited("head", 1, 4, 20, work_s=5), limited("short", 2, 1, 18, work_s=8)]

    run = simulate(jobs, "1x4", rule(), restart_cost_s=10)

    assert run.held("first") == [(0, 20)]
    assert run.held("short") == [(2, 20)]  # 2 + 18 <= 20
    assert run.held("head") == [(20, 35)]


@pytest.mark.parametrize("rule", BOTH)
def test_priority_goes_before_submission(rule):
    jobs = [limited("first", 0, 4, 10), limited("low", 1, 4, 5), limited("high", 1, 4, 5, priority=1)]

    run = simulate(jobs, "1x4", rule())

    assert run.held("high") == [(10, 15)]
    assert run.held("low") == [(15, 20)]


@pytest.mark.parametrize("rule", BOTH)
def test_a_waiting_job_is_told_what_it_lacks(rule):
    jobs = [limited("service", 0, 3, 100, work_s=math.inf), limited("head", 200, 4, 5), limited("next", 201, 1, 5)]

    result = simulate(jobs, "1x4", rule()).result

    assert result is not None
    assert list(result.reason) == [
        "a service: it has no end",
        "3 GPUs short behind the jobs before it",
        "a job before it in the order must start first",
    ]


# ------------------------------------------------------------------------------------------------- conservative-backfill, by hand


def test_conservative_keeps_a_promise_that_easy_does_not_make():
    jobs = [limited("first", 0, 2, 10), limited("head", 1, 3, 10), limited("second", 2, 4, 10), limited("long", 3, 1, 100)]

    easy, conservative = simulate(jobs, "1x4", EasyBackfill()), simulate(jobs, "1x4", ConservativeBackfill())

    assert easy.held("head") == conservative.held("head") == [(10, 20)]
    assert easy.held("long") == [(3, 103)]  # one extra GPU beside the head
    assert easy.held("second") == [(103, 113)]
    assert conservative.held("second") == [(20, 30)]
    assert conservative.held("long") == [(30, 130)]


def test_a_job_that_moves_forward_takes_nobodys_promise():
    jobs = [
        limited("half", 0, 2, 50),
        limited("other", 0, 2, 100, work_s=10),
        limited("all", 1, 4, 100),  # promised 100
        limited("early", 2, 2, 50),  # promised 50, in the hole before it
    ]

    run = simulate(jobs, "1x4", ConservativeBackfill())

    assert run.held("early") == [(10, 60)]
    assert run.held("all") == [(60, 160)]  # planned in order of submission it would start at 50, and `early` at 150


def test_a_job_fills_a_hole_that_is_just_long_enough():
    jobs = [limited("first", 0, 2, 10), limited("head", 1, 4, 10), limited("fits", 2, 2, 8), limited("too-long", 2, 2, 9)]

    run = simulate(jobs, "1x4", ConservativeBackfill())

    assert run.held("fits") == [(2, 10)]
    assert run.held("too-long") == [(20, 29)]


# ------------------------------------------------------------------------------------------------- several pools


@pytest.mark.parametrize("rule", BOTH)
def test_every_pool_of_nodes_has_a_line_of_its_own(rule):
    fast, slow = {"accepts": ("a100",)}, {"accepts": ("k80",)}
    jobs = [
        limited("fast-1", 0, 2, 10, **fast),
        limited("fast-2", 1, 4, 10, **fast),
        limited("slow-1", 1, 1, 30, **slow),
        limited("slow-2", 2, 2, 5, **slow),
        limited("slow-3", 3, 1, 28, **slow),  # would end at 31
        limited("slow-4", 3, 1, 27, **slow),  # ends at 30
    ]

    run = simulate(jobs, "1x4:a100+1x2:k80", rule())

    assert run.held("fast-2") == [(10, 20)]
    assert run.held("slow-1") == [(1, 31)]
    assert run.held("slow-3") == [(3, 31)]  # 3 + 28 <= 31
    assert run.held("slow-2") == [(31, 36)]
    assert run.held("slow-4") == [(36, 63)]


@pytest.mark.parametrize("rule", BOTH)
def test_a_job_that_may_use_several_types_waits_for_the_first_to_be_free_and_takes_no_promised_one(rule):
    jobs = [
        limited("a", 0, 2, 50, accepts=("a100",)),
        limited("b", 0, 2, 20, accepts=("k80",)),
        limited("either", 1, 2, 10),  # promised the k80s at 20
        limited("only-a100", 2, 3, 10, accepts=("a100",)),  # promised 50
        limited("long", 21, 1, 40),  # 21 + 40 > 50, and the a100 that is free is promised; a k80 is free at 30
    ]

    run = simulate(jobs, "1x3:a100+1x2:k80", rule())

    assert run.held("either") == [(20, 30)] and run.nodes("either") == [(1,)]
    assert run.held("long") == [(30, 70)] and run.nodes("long") == [(1,)]
    assert run.held("only-a100") == [(50, 60)]


def test_a_job_that_may_spread_over_its_queues_nodes_and_open_ones_is_refused():
    shared = Cluster.of([Node(gpus=4, queues=("q",)), Node(gpus=4)])

    with pytest.raises(ParamError, match="job x may spread over nodes of its queue and open ones"):
        simulate([limited("x", 0, 4, 10, queue="q")], shared, EasyBackfill())


def test_nodes_given_to_queues_are_clusters_of_their_own():
    owned = Cluster.of([Node(gpus=2, queues=("p",)), Node(gpus=2, queues=("q",))])
    jobs = [limited("p1", 0, 1, 10, queue="p"), limited("p2", 1, 2, 5, queue="p"), limited("q1", 2, 1, 50, queue="q")]

    run = simulate(jobs, owned, EasyBackfill())

    assert run.held("q1") == [(2, 52)]
    assert run.held("p2") == [(10, 15)]


# ------------------------------------------------------------------------------------------------- what it believes


@pytest.mark.parametrize("rule", BOTH)
def test_a_trace_without_limits_is_refused_with_the_other_choices(rule):
    with pytest.raises(ParamError, match=rf"{rule.name}.estimate=limit: the trace has no time limits; choose one of predicted, oracle"):
        simulate([job("x", 0, 1, 10)], "1x4", rule())


@pytest.mark.parametrize("rule", BOTH)
def test_it_cheats_only_when_it_is_told_the_true_run_times(rule):
    assert not rule().cheats() and not rule(estimate="predicted_s").cheats() and rule(estimate="oracle").cheats()
    assert "oracle" not in rule.needs


@pytest.mark.parametrize("rule", BOTH)
def test_the_oracle_plans_with_the_truth_and_the_restart_cost(rule):
    jobs = [job("first", 0, 3, 10), job("head", 1, 4, 5), job("short", 2, 1, 8), job("long", 2, 1, 9)]

    run = simulate(jobs, "1x4", rule(estimate="oracle"), restart_cost_s=3)

    assert run.held("first") == [(0, 13)]
    assert run.held("short") == [(2, 13)]  # 2 + 3 + 8 <= 13
    assert run.held("head") == [(13, 21)]
    assert run.held("long") == [(21, 33)]


def test_a_column_of_the_trace_can_stand_for_limits():
    jobs = [job("first", 0, 3, 10), job("head", 1, 4, 5), job("short", 2, 1, 8)]
    table = JobTable.of(jobs).replace(estimates={"predicted_s": JobTable.of(jobs).work + 1})

    run = simulate(table, "1x4", EasyBackfill(estimate="predicted_s"))

    assert run.held("short") == [(2, 10)]  # believed to end at 11, and the head to start at 11


def test_listing_policies_compiles_nothing():
    code = "import sys; from trainmaster.policies.registry import policies; policies(); sys.exit('numba' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------- the plain replays


@dataclass
class Replay:
    """One set of GPUs, event by event. `start_s`: when each job starts; `promise_s`: the first start it was promised."""

    jobs: Sequence[Job]
    gpus: float
    start_s: dict[str, float] = field(default_factory=dict)
    promise_s: dict[str, float] = field(default_factory=dict)
    planned_s: dict[str, float] = field(default_factory=dict)  # conservative: what was promised last

    def run(self, decide: Callable[[Replay, float, list[Job], list[Job]], None]) -> Replay:
        times = {j.submit_s for j in self.jobs}
        while times:
            now_s = min(times)
            times.remove(now_s)
            arrived = [j for j in self.jobs if j.submit_s <= now_s]
            running = [j for j in arrived if j.id in self.start_s and self.start_s[j.id] + j.work > now_s]
            waiting = sorted((j for j in arrived if j.id not in self.start_s), key=lambda j: -j.priority)
            decide(self, now_s, running, waiting)
            times |= {self.start_s[j.id] + j.work for j in waiting if j.id in self.start_s}
        return self

    def end_s(self, j: Job, now_s: float) -> float:
        """By its limit; one past its limit ends at the next instant."""
        assert j.limit_s is not None
        return max(self.start_s[j.id] + j.limit_s, math.nextafter(now_s, math.inf))


def easy(replay: Replay, now_s: float, running: list[Job], waiting: list[Job]) -> None:
    free, shadow_s, extra = replay.gpus - sum(j.gpus for j in running), None, 0.0
    for j in waiting:
        assert j.limit_s is not None
        if j.gpus <= free and (shadow_s is None or now_s + j.limit_s <= shadow_s or j.gpus <= extra):
            replay.start_s[j.id] = now_s
            running.append(j)
            free -= j.gpus
            if shadow_s is not None and now_s + j.limit_s > shadow_s:
                extra -= j.gpus
        elif shadow_s is None:  # the head
            ends = [(replay.end_s(other, now_s), other.gpus) for other in running]
            free_at = {time_s: free + sum(gpus for end_s, gpus in ends if end_s <= time_s) for time_s, _ in ends}
            shadow_s = min(time_s for time_s, gpus in free_at.items() if gpus >= j.gpus)
            extra = free_at[shadow_s] - j.gpus
            replay.promise_s.setdefault(j.id, shadow_s)


def conservative(replay: Replay, now_s: float, running: list[Job], waiting: list[Job]) -> None:
    held = [(now_s, replay.end_s(j, now_s), j.gpus) for j in running]
    for j in sorted(waiting, key=lambda j: replay.planned_s.get(j.id, math.inf)):
        assert j.limit_s is not None

        def fits(begin_s: float, end_s: float, gpus: float = j.gpus) -> bool:
            instants = [begin_s, *(begin for begin, _, _ in held if begin_s < begin < end_s)]  # use grows only where a job begins
            return all(gpus + sum(g for begin, end, g in held if begin <= t < end) <= replay.gpus for t in instants)

        begin_s = min(t for t in [now_s, *(end for _, end, _ in held)] if fits(t, t + j.limit_s))
        held.append((begin_s, begin_s + j.limit_s, j.gpus))
        replay.planned_s[j.id] = begin_s
        replay.promise_s.setdefault(j.id, begin_s)
        if begin_s == now_s:
            replay.start_s[j.id] = now_s


REPLAYS = ((EasyBackfill, easy), (ConservativeBackfill, conservative))


@pytest.mark.parametrize(("rule", "decide"), REPLAYS)
@given(jobs=workloads(gpus=6, overruns=True, priorities=True))
def test_the_engine_agrees_with_the_plain_replay(rule, decide, jobs):
    run, replay = simulate(jobs, "3x2", rule()), Replay(jobs, 6).run(decide)

    assert {id: fate.start_s for id, fate in run.fates.items()} == replay.start_s


@pytest.mark.parametrize(("rule", "decide"), REPLAYS)
@given(jobs=workloads(gpus=6))
def test_nobody_starts_later_than_first_promised_when_limits_hold(rule, decide, jobs):
    run, replay = simulate(jobs, "3x2", rule()), Replay(jobs, 6).run(decide)

    assert {id: promise_s for id, promise_s in replay.promise_s.items() if run.fates[id].start_s > promise_s} == {}


@pytest.mark.parametrize("rule", BOTH)
@given(jobs=workloads(gpus=6))
def test_no_gpu_is_overcommitted_when_all_is_predicted_from_nothing(rule, jobs):
    run = simulate(jobs, "3x2", rule(estimate="predicted"), restart_cost_s=3)

    assert all(not held.gpus_overcommitted() and not held.gangs_split() for held in run.allocations)
    assert all(fate.finish_s > 0 for fate in run.fates.values())
