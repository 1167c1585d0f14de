"""AlloX: the matching, and what it does on a cluster of a GPU and something slower."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import cluster, job, simulate
from trainmaster.policies.allox import Allox, first_of_each, match
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.gavel import Gavel as GavelProfiles

GPU, CPU = 0, 1


def test_the_long_on_the_gpu_last_and_the_one_that_suffers_least_elsewhere():
    seconds = np.array([[1.0, 4.0], [2.0, 3.0], [4.0, 20.0]])

    of_job, machine, last = match(seconds, np.zeros(2))

    assert dict(zip(of_job.tolist(), machine.tolist(), strict=True)) == {0: GPU, 1: CPU, 2: GPU}
    assert total(seconds, machine, last) == 9.0
    assert of_job[first_of_each(machine, last)].tolist() == [0, 1]  # J1 before J3 on the GPU


def test_on_the_gpu_alone_the_three_would_take_longer():
    assert total(np.array([[1.0], [2.0], [4.0]]), np.zeros(3, int), np.array([2, 1, 0])) == 11.0  # 1 + 3 + 7, shortest first


def test_three_jobs_on_a_gpu_and_a_cpu_end_after_nine_seconds_in_all():
    rates = {name: {f"('j{i}', 1)": {"null": 1.0 / s} for i, s in enumerate(of)} for name, of in (("gpu", (1, 2, 4)), ("cpu", (4, 3, 20)))}
    on = cluster("1x1:gpu+1x1:cpu")
    jobs, model = GavelProfiles.of("rates", rates).bind(
        JobTable.of([job(f"j{i}", 0, 1, 1, model=f"j{i}", work_in_steps=True) for i in range(3)]), on
    )

    run = simulate(jobs, on, Allox(alpha=1.0), model=model)

    assert [run.finish_s(f"j{i}") for i in range(3)] == pytest.approx([1, 3, 5])


def test_at_most_so_many_enter_by_turns_the_shortest_on_each_type():
    seconds = np.array([[1.0, 90.0], [2.0, 80.0], [3.0, 1.0], [4.0, 2.0], [5.0, 3.0]])

    assert Allox(most_jobs=4)._shortest(seconds, np.arange(5)).tolist() == [0, 1, 2, 3]
    assert Allox(most_jobs=2)._shortest(seconds, np.arange(5)).tolist() == [0, 2]


def total(seconds, machine, last) -> float:
    """Sum of completion times of a schedule that gives each job a machine and a position from the last."""
    return sum((position + 1) * seconds[j, m] for j, (m, position) in enumerate(zip(machine, last, strict=True)))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=5), st.integers(0, 5), st.integers(0, 5))
def test_no_order_on_two_machines_has_a_smaller_total(times, gpu_free_in, cpu_free_in):
    seconds, free_in = np.array(times, float), np.array([gpu_free_in, cpu_free_in], float)

    of_job, machine, last = match(seconds, free_in)

    found = total(seconds[of_job], machine, last) + free_in[machine].sum()
    assert found == pytest.approx(min(exhaustive(seconds, free_in)))


def exhaustive(seconds, free_in):
    for order in itertools.permutations(range(len(seconds))):
        for machines in itertools.product((GPU, CPU), repeat=len(seconds)):
            clock, done = list(free_in), 0.0
            for j, m in zip(order, machines, strict=True):
                clock[m] += seconds[j, m]
                done += clock[m]
            yield done


def test_on_equal_gpus_it_is_shortest_first_without_preemption():
    run = simulate([job("long", 0, 1, 100), job("mid", 1, 1, 50), job("short", 2, 1, 10)], "1x1", Allox())

    assert run.held("long") == [(0, 100)]
    assert run.held("short") == [(100, 110)]
    assert run.held("mid") == [(110, 160)]


def test_a_gang_is_not_sent_to_a_type_that_has_too_few_gpus_for_it():
    rates = {"small": {"('m', 4)": {"null": 9.0}}, "large": {"('m', 4)": {"null": 1.0}}}
    on = cluster("1x2:small+1x4:large")
    jobs, model = GavelProfiles.of("rates", rates).bind(JobTable.of([job("a", 0, 4, 100, model="m", work_in_steps=True)]), on)

    assert simulate(jobs, on, Allox(), model=model).held("a") == [(0, 100)]


def test_users_that_hold_the_least_enter_first():
    """One in two enters: the one that holds nothing, though the other's next job is shorter."""
    jobs = [job("a1", 0, 1, 100, user="a"), job("b1", 0, 1, 40, user="c"), job("a2", 1, 1, 5, user="a"), job("b2", 2, 1, 30, user="b")]

    run = simulate(jobs, "1x2", Allox(alpha=0.5))

    assert run.held("b2") == [(40, 70)]
    assert run.held("a2") == [(70, 75)]
