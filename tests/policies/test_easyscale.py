"""EasyScale: plans, waste and scores by hand, and elastic jobs that make room at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import job, simulate
from trainmaster.policies.easyscale import EasyScale, assign, score, share_out, step, throughput, waste


@pytest.mark.parametrize(("gpus", "expected"), [(1, 1), (2, 2), (3, 8 / 3), (4, 4), (5, 4)])
def test_eight_workers_on_equal_gpus_go_as_fast_as_the_fullest_gpu(gpus, expected):
    assert throughput(8, [1.0] * gpus) == pytest.approx(expected)


def test_workers_are_assigned_by_capability_and_the_rest_is_waste():
    unequal = [3.0, 3.0, 1.0]

    assert assign(8, unequal) == [4, 3, 1]
    assert step([4, 3, 1], unequal) == pytest.approx(4 / 3)
    assert throughput(8, unequal) == pytest.approx(6)
    assert waste(8, [4, 3, 1], unequal) == pytest.approx(1 / 7)
    assert 8 / step([3, 3, 2], unequal) == pytest.approx(4)
    assert waste(8, [3, 3, 2], unequal) == pytest.approx(3 / 7)
    assert throughput(8, [3.0, 3.0]) == pytest.approx(6)  # the third GPU is useless


def test_a_number_of_workers_that_divides_well_wastes_nothing():
    assert assign(7, [3.0, 3.0, 1.0]) == [3, 3, 1]
    assert waste(7, [3, 3, 1], [3.0, 3.0, 1.0]) == pytest.approx(0)


def test_a_proposal_is_scored_by_speed_up_a_gpu():
    assert score(2, 8 / 3, 1) == pytest.approx(4 / 3)
    assert score(2, 4, 2) == pytest.approx(1.5)


def test_jobs_with_nothing_come_first_and_no_gpu_is_given_in_vain():
    one = {"": 1.0}

    assert share_out([8, 8], [one, one], [{}, {}], {"": 5}, 0.3, mix=False) == [{"": 3}, {"": 2}]
    assert share_out([8], [one], [{}], {"": 7}, 0.3, mix=False) == [{"": 4}]


def test_a_job_runs_on_its_minimum_or_not_at_all():
    one = {"": 1.0}

    assert share_out([8, 8], [one, one], [{"": 4}, {"": 4}], {"": 6}, 0.3, mix=False, least=[4, 4]) == [{"": 4}, {}]
    assert share_out([8], [one], [{}], {"": 4}, 0.3, mix=False, least=[2]) == [{"": 4}]


def test_a_job_without_d2_stays_on_its_type():
    two = {"v100": 3.0, "p100": 1.0}

    assert share_out([7], [two], [{"v100": 2}], {"v100": 2, "p100": 4}, 0.3, mix=False) == [{"v100": 2}]
    assert share_out([7], [two], [{"v100": 2}], {"v100": 2, "p100": 4}, 0.3, mix=True) == [{"v100": 2, "p100": 1}]


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4), st.integers(0, 4)), max_size=5),
    st.integers(0, 8), st.integers(0, 8), st.booleans(),
)  # fmt: skip
def test_no_gpu_is_given_twice_and_no_job_has_more_gpus_than_workers(jobs, v100, p100, mix):
    held = [{name: n for name, n in (("v100", a), ("p100", b)) if n and a + b <= w} for w, a, b in jobs]
    spare = {"v100": v100, "p100": p100}
    plans = share_out([w for w, _, _ in jobs], [{"v100": 3.0, "p100": 1.0}] * len(jobs), held, spare, 0.3, mix=mix)

    for name, most in spare.items():
        assert sum(plan.get(name, 0) for plan in plans) <= most
    assert all(sum(plan.values()) <= workers for plan, (workers, _, _) in zip(plans, jobs, strict=True))


def test_elastic_jobs_fill_what_is_left_and_shrink_at_once_for_a_guaranteed_one():
    jobs = [job("elastic", 0, 8, 100), job("guaranteed", 20, 4, 50, service_class="guaranteed")]
    run = simulate(jobs, "1x8", EasyScale())

    held = [(h.start_s, sum(milli for _, milli in h.parts) // 1000) for h in run.holdings if h.id == "elastic"]
    assert held == [(0, 8), (20, 4), (70, 8)]
    assert run.held("guaranteed") == [(20, 70)]
    assert run.finish_s("elastic") == 125  # 80 s of work left at 20, half of 50 s done by 70
