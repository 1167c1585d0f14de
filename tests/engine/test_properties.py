"""What must hold of every schedule, whatever the policy and the workload."""

import dataclasses
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.workloads import (
    cases,
    clusters,
    of_many_kinds,
    of_many_nodes,
    of_queues,
    restless,
    sixteen_small_jobs,
    that_change,
    with_quotas,
    workloads,
)
from schedules import Schedule, prepare, schedule_of, simulate
from trainmaster.engine.faults import Faults
from trainmaster.engine.result import FINISHED, REJECTED, UNFINISHED, UNSCHEDULABLE
from trainmaster.policies.base import Compilable, ListPolicy, Policy, Samples
from trainmaster.policies.gavel import Gavel
from trainmaster.policies.registry import policies

# Parameters that are times, on the scale of these workloads: what doubles when all times double.
TIMES_OF_POLICIES = {
    "las": {"quantum_s": 30.0},
    "tiresias-las": {"limits_gpu_s": (20.0, 90.0)},
    "tiresias-gittins": {"limits_gpu_s": (20.0, 90.0), "quantum_gpu_s": 40.0, "samples": (15.0, 30.0, 30.0, 60.0, 200.0)},
    "yarn-capacity": {"locality_wait_s": 20.0},
    "gandiva-fair": {"quantum_s": 20.0},
    "themis": {"lease_s": 30.0},
    "optimus": {"interval_s": 60.0},
    "pollux": {"interval_s": 60.0},
    "sia": {"interval_s": 60.0},
    "afs-p": {"quantum_s": 60.0},
    "slurm": {"bf_interval": 10.0, "bf_window": 100.0, "bf_resolution": 5.0, "PriorityCalcPeriod": 1.0, "group_s": 5.0, "tick_s": 1.0,
              "second_s": 1.0, "batch_sched_delay": 3.0, "sched_min_interval": 2.0},
}
TIMES_OF_GAVEL = {"lease_s": 20.0, "stay_s": 30.0, "solve_every_s": 60.0}
TIMES_OF_POLICIES |= {name: TIMES_OF_GAVEL for name, cls in policies().items() if issubclass(cls, Gavel)}
# Policies that plan with measured speeds change the sizes of gangs: what holds of them is in policies/test_elastic_contract.py.
NAMES = [name for name, cls in policies().items() if "profile" not in cls.needs]
LIST_POLICIES = [name for name, cls in policies().items() if issubclass(cls, ListPolicy)]


def registered(name: str, times: float = 1.0) -> Policy:
    """Any policy of the registry, its times multiplied."""
    cls = policies()[name]
    values = {key: tuple(times * v for v in value) if isinstance(value, tuple) else times * value
              for key, value in TIMES_OF_POLICIES.get(name, {}).items()}  # fmt: skip
    if name == "slurm":  # all that moves its order; the two times are text, in minutes
        values |= {"PriorityMaxAge": f"{2 * times:g}", "PriorityDecayHalfLife": f"{10 * times:g}", "PriorityWeightAge": 1000.0}
        values |= {"PriorityWeightFairshare": 500.0, "PriorityWeightJobSize": 100.0}
    if "samples" in values:
        values["samples"] = Samples(values=values["samples"])
    return cls(**values)


@pytest.mark.parametrize("name", policies())
def test_every_parameter_that_is_a_time_is_known_here(name):
    times = {field.name for field in dataclasses.fields(policies()[name].params_type) if field.name.endswith("_s")}

    assert times <= set(TIMES_OF_POLICIES.get(name, {}))


def with_limits_and_records(**more: st.SearchStrategy) -> st.SearchStrategy:
    """Jobs that every policy takes: with a time limit and a recorded start."""
    return workloads(**more, limit_s=st.sampled_from([20.0, 60.0, 100.0]), recorded_start_s=st.integers(0, 90).map(float))


# ------------------------------------------------------------------------------------------------- GPUs


@given(st.one_of(
    cases(), cases(jobs=restless()), cases(jobs=of_queues(), on=with_quotas()), cases(jobs=of_many_kinds(), on=of_many_nodes()),
    cases(on=that_change()),
))  # fmt: skip
def test_no_gpu_is_overcommitted_and_no_gang_is_split(case):
    check_the_ledger(case.simulate())


@given(with_limits_and_records(), clusters(), st.sampled_from(NAMES))
def test_no_registered_policy_overcommits(jobs, on, name):
    check_the_ledger(simulate(jobs, on, registered(name)))


@given(cases())
def test_no_gpu_is_overcommitted_while_nodes_fail(case):
    check_the_ledger(case.simulate(faults=Faults(mtbf_s=80.0, mttr_s=15.0, checkpoint_s=10.0), seed=3))


def check_the_ledger(run: Schedule) -> None:
    for held in run.allocations:
        assert held.gpus_overcommitted() == []
        assert held.gangs_split() == []


# ------------------------------------------------------------------------------------------------- work


@given(cases(jobs=restless()))
def test_a_finished_job_has_done_its_work_and_no_more(case):
    run = case.simulate()

    for job in case.jobs:
        if not math.isnan(run.finish_s(job.id)):
            worked_s = sum(max(end_s - start_s - case.restart_cost_s, 0) for start_s, end_s in run.held(job.id))
            assert worked_s == pytest.approx(job.work, abs=1e-9)


@given(cases())
def test_work_that_a_failure_takes_is_done_again(case):
    run = case.simulate(faults=Faults(mtbf_s=80.0, mttr_s=15.0, checkpoint_s=10.0), seed=3)

    lost_s = dict(zip(run.fates, run.result.lost_gpu_s / run.result.jobs.gpus, strict=True))
    for job in case.jobs:
        if not math.isnan(run.finish_s(job.id)):
            worked_s = sum(max(end_s - start_s - case.restart_cost_s, 0) for start_s, end_s in run.held(job.id))
            assert worked_s == pytest.approx(job.work + lost_s[job.id], abs=1e-6)


@given(cases(jobs=restless()))
def test_the_accounts_of_a_job_follow_from_what_it_held(case):
    result = case.simulate().result

    held_s, gpu_s = defaultdict(float), defaultdict(float)
    for i, row in enumerate(result.allocations.job):
        seconds = result.allocations.end_s[i] - result.allocations.start_s[i]
        held_s[row] += seconds
        gpu_s[row] += seconds * result.allocations.gpu_milli[result.allocations.offset[i] : result.allocations.offset[i + 1]].sum() / 1000
    for row in range(len(result.jobs)):
        assert result.held_s[row] == pytest.approx(held_s[row], abs=1e-9)
        assert result.attained_gpu_s[row] == pytest.approx(gpu_s[row], abs=1e-9)
        assert 0 <= result.overhead_gpu_s[row] <= result.attained_gpu_s[row] + 1e-9


@given(st.one_of(cases(jobs=of_queues(), on=with_quotas()), cases(jobs=of_many_kinds(), on=of_many_nodes()), cases(on=that_change())))
def test_no_job_is_lost(case):
    result = case.simulate().result

    assert sorted(result.jobs.id) == sorted(job.id for job in case.jobs)
    for state, start_s, finish_s, reason in zip(result.state, result.start_s, result.finish_s, result.reason, strict=True):
        assert state in (FINISHED, UNSCHEDULABLE, REJECTED, UNFINISHED)
        assert (state == FINISHED) == (not math.isnan(finish_s)) == (reason == "")
        if state == UNSCHEDULABLE:
            assert math.isnan(start_s)


@given(with_limits_and_records(), clusters(), st.sampled_from(NAMES))
def test_every_registered_policy_finishes_what_fits(jobs, on, name):
    result = simulate(jobs, on, registered(name), restart_cost_s=3.0).result

    for job, state in zip(sorted(jobs, key=lambda job: job.submit_s), result.state, strict=True):
        assert state == (UNSCHEDULABLE if job.gpus > on.gpus else FINISHED)


# ------------------------------------------------------------------------------------------------- who waits


@given(cases(names=["fifo-greedy", "sjf", "srtf", "srsf", "las", "tiresias-las"], rounds=(0,)))
def test_no_fitting_job_waits_under_a_work_conserving_policy(case):
    run = case.passing_over().simulate()

    for at_s, waiting, held in waits(run):
        free = run.cluster.gpus - sum(held.values())
        assert [id for id in waiting if run.fates[id].milli <= free * 1000] == [], f"at {at_s}"


@given(cases(workloads(queue=st.sampled_from("abc")), with_quotas(), names=["fifo-greedy", "srtf", "las", "tiresias-las"], rounds=(0,)))
def test_a_job_within_its_queues_quota_never_waits_for_gpus_that_borrowers_hold(case):
    run = case.passing_over().simulate()

    queue = {job.id: job.queue for job in case.jobs}
    quota = {name: spec.quota_gpus or 0 for name, spec in case.on.queues.items()}
    for at_s, waiting, held in waits(run):
        used = defaultdict(float)
        for id, gpus in held.items():
            used[queue[id]] += gpus
        free = run.cluster.gpus - sum(held.values())
        borrowed = {name: max(used[name] - quota.get(name, 0), 0) for name in used}
        for id in waiting:
            gpus, own = run.fates[id].milli / 1000, queue[id]
            if used[own] + gpus <= quota.get(own, 0):
                assert gpus > free + sum(amount for name, amount in borrowed.items() if name != own), f"{id} at {at_s}"


def waits(run: Schedule):
    """(time, who waits from then on, GPUs by holder), at every start, end and submission."""
    known = {fate.id: fate for fate, state in zip(run.fates.values(), run.result.state, strict=True) if state != UNSCHEDULABLE}
    times = {fate.submit_s for fate in known.values()} | {time for h in run.holdings for time in (h.start_s, h.end_s)}
    for at_s in sorted(times):
        held = {h.id: sum(milli for _, milli in h.parts) / 1000 for h in run.holdings if h.start_s <= at_s < h.end_s}
        waiting = [id for id, fate in known.items() if fate.submit_s <= at_s and not fate.finish_s <= at_s and id not in held]
        yield at_s, waiting, held


@given(with_limits_and_records(gangs=st.just(1)), st.sampled_from(NAMES))
def test_on_one_gpu_no_policy_has_a_smaller_average_jct_than_srtf(jobs, name):
    shortest = simulate(jobs, "1x1", registered("srtf")).average_jct_s()

    assert shortest <= simulate(jobs, "1x1", registered(name)).average_jct_s() * (1 + 1e-12)


# ------------------------------------------------------------------------------------------------- the same again


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(with_limits_and_records(), clusters(), st.sampled_from(["packed", "random"]), st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_bytes(name, jobs, on, placement, seed):
    first, second = (simulate(jobs, on, registered(name), 3.0, placement=placement, seed=seed) for _ in range(2))
    interpreted = simulate(jobs, on, registered(name), 3.0, placement=placement, seed=seed, interpreted=True)

    assert first.jobs_csv() == second.jobs_csv() == interpreted.jobs_csv()
    assert first.allocations_csv() == second.allocations_csv() == interpreted.allocations_csv()


def test_another_seed_places_elsewhere_under_random_placement():
    runs = [simulate(sixteen_small_jobs(), "8x2", registered("fifo-greedy"), placement="random", seed=seed) for seed in range(4)]

    assert len({run.allocations_csv() for run in runs}) == 4


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(with_limits_and_records(), clusters(), st.randoms(use_true_random=False))
def test_the_order_of_rows_in_the_input_changes_nothing(name, jobs, on, random):
    numbered = [dataclasses.replace(job, seq=seq) for seq, job in enumerate(jobs)]
    shuffled = random.sample(numbered, len(numbered))

    first, second = (simulate(rows, on, registered(name), 3.0) for rows in (numbered, shuffled))

    assert first.jobs_csv() == second.jobs_csv()
    assert first.allocations_csv() == second.allocations_csv()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(with_limits_and_records(), clusters(), st.sampled_from([0.0, 0.0, 5.0, 30.0]), st.sampled_from([0.0, 3.0]))
def test_doubling_every_time_doubles_every_jct(name, jobs, on, round_s, restart_cost_s):
    times = ("submit_s", "work", "limit_s", "recorded_start_s")
    doubled = [dataclasses.replace(job, **{time: 2 * getattr(job, time) for time in times}) for job in jobs]

    once = simulate(jobs, on, registered(name), restart_cost_s, round_s=round_s)
    twice = simulate(doubled, on, registered(name, times=2), 2 * restart_cost_s, round_s=2 * round_s)

    for job in jobs:
        assert twice.jct_s(job.id) == pytest.approx(2 * once.jct_s(job.id), rel=1e-9, nan_ok=True)


# ------------------------------------------------------------------------------------------------- what a policy may do


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(with_limits_and_records(), clusters())
def test_a_policy_does_not_write_to_what_it_is_shown(name, jobs, on):
    simulation = prepare(jobs, on, registered(name), interpreted=True)
    policy, state = simulation.policy, simulation.state

    def watched(function):
        def call(*arguments):
            before = state.jobs.tobytes(), state.nodes.tobytes()
            answer = function(*arguments)
            assert before == (state.jobs.tobytes(), state.nodes.tobytes())
            return answer

        return call

    instrument(simulation, watched)
    simulation.run()
    assert policy is simulation.policy


@pytest.mark.parametrize("name", [name for name in NAMES if "oracle" not in policies()[name].needs])
@settings(max_examples=20)
@given(jobs=with_limits_and_records(), on=clusters())
def test_a_policy_that_declares_no_oracle_decides_the_same_where_the_truth_is_hidden(name, jobs, on):
    honest = simulate(jobs, on, registered(name), interpreted=True)
    simulation = prepare(jobs, on, registered(name), interpreted=True)
    hide_the_truth(simulation)

    hidden = schedule_of(simulation, simulation.run())

    assert honest.allocations_csv() == hidden.allocations_csv()


def test_the_truth_is_what_an_oracle_needs():
    """The test above would notice a policy that looks: srtf does."""
    simulation = prepare(sixteen_small_jobs(), "1x2", registered("srtf"), interpreted=True)
    hide_the_truth(simulation)

    with pytest.raises(Exception, match="as NaN"):
        simulation.run()


def hide_the_truth(simulation) -> None:
    """Neither work left nor the time at which it ends is shown, but for estimates that the policy may believe."""

    def blindfolded(records: np.ndarray) -> np.ndarray:
        shown = np.array(records)
        shown["work_left"] = shown["due_s"] = np.nan
        shown["remaining_s"][np.isnan(shown["estimate_s"])] = np.nan
        return shown

    instrument(simulation, lambda function: lambda records, *rest: function(blindfolded(records).view(np.recarray), *rest))
    table = simulation.jobs.replace(work=np.full(len(simulation.jobs), np.nan))
    view = simulation.view

    def no_oracle():
        raise AssertionError(f"{simulation.policy.name} asked the oracle")

    def shown_view():
        seen = view()
        return dataclasses.replace(
            seen, jobs=dataclasses.replace(seen.jobs, table=table, state=blindfolded(seen.jobs.state)), true_remaining_s=no_oracle
        )

    simulation.view = shown_view


def instrument(simulation, wrap) -> None:
    """Wrap the plain Python of a list policy's key and wake-up, or `decide`, in this run alone."""
    policy = simulation.policy
    if isinstance(policy, ListPolicy) and policy.key is not None:
        simulation.key = Compilable(wrap(policy.key.python))
        if policy.wakeup is not None:
            policy.wakeup = Compilable(wrap(policy.wakeup.python))
    elif not isinstance(policy, ListPolicy) and wrap.__name__ == "watched":
        policy.decide = wrap(policy.decide)
