"""Goodput: its formulas by hand, its best batch against all batches, and what a fit makes of what it was shown."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.workload.perf.goodput import (
    ALPHA_C,
    ALPHA_N,
    ALPHA_R,
    BETA_N,
    BETA_R,
    BatchLimits,
    Measured,
    best_batch,
    fit,
    goodput_table,
    step_times,
)

PARAMS = np.array([0.1, 0.01, 0.4, 0.05, 0.2, 0.02, 1.0])  # gamma 1: nothing overlaps
LIMITS = BatchLimits(initial=32, largest=512, smallest_local=8, largest_local=64)


def test_without_overlap_a_step_is_the_pass_and_the_synchronisation():
    assert step_times(PARAMS, 1, 1, 10) == pytest.approx((0.2, 0.2))
    assert step_times(PARAMS, 1, 2, 10) == pytest.approx((0.2, 0.4))
    assert step_times(PARAMS, 1, 4, 10) == pytest.approx((0.2, 0.2 + 0.2 + 2 * 0.02))
    assert step_times(PARAMS, 3, 4, 10) == pytest.approx((0.2, 0.2 + 0.4 + 2 * 0.05))


def test_full_overlap_takes_as_long_as_the_longer_part():
    overlapped = np.array([*PARAMS[:6], 10.0])

    assert step_times(overlapped, 1, 2, 10)[1] == pytest.approx(0.2 * 2**0.1)


def test_a_gradient_without_noise_makes_more_than_the_initial_batch_worthless():
    choice = best_batch(PARAMS, 1.0, 0.0, LIMITS, 1, 2)

    assert (2 * choice.atomic * (choice.steps + 1), choice.steps) == (32, 0)
    assert choice.goodput == pytest.approx(32 / step_times(PARAMS, 1, 2, 16)[1])


def test_pure_noise_makes_every_sample_count_so_the_largest_throughput_wins():
    choice = best_batch(PARAMS, 0.0, 1.0, LIMITS, 1, 2)

    assert (choice.atomic, choice.steps) == (64, 3)
    assert choice.goodput == pytest.approx(512 / (3 * 0.74 + 0.94))


def test_a_lone_gpu_above_the_initial_batch_accumulates():
    alone, two = (best_batch(PARAMS, 0.0, 1.0, BatchLimits(8, 100, 8, 64), 1, gpus) for gpus in (1, 2))

    assert (alone.atomic, alone.steps) == (50, 1)  # 100 samples in 1.2 s; 64 at once, in 0.74 s, would be faster
    assert (two.atomic, two.steps) == (50, 0)


def test_more_gpus_than_the_largest_batch_has_smallest_locals_get_nothing():
    table = goodput_table(PARAMS[None], np.array([[1.0, 1.0]]), np.array([[32, 512, 8, 64]]), np.array([66]))

    assert LIMITS.most_gpus() == 64
    assert table[0, 0, 64] > 0
    assert table[0, 0, 65] == 0
    assert table[0, 1, 1] == 0  # one GPU on two nodes
    assert table[0, 1, 8] == best_batch(PARAMS, 1.0, 1.0, LIMITS, 2, 8).goodput


@given(
    st.lists(st.floats(1e-3, 1.0), min_size=6, max_size=6), st.floats(1.0, 10.0), st.floats(1e-3, 1e3),
    st.sampled_from([(1, 1), (1, 2), (1, 4), (2, 4), (4, 16)]),
)  # fmt: skip
def test_no_batch_of_whole_samples_on_the_grid_is_better_than_the_best(sizes, gamma, noise, gang):
    params, (nodes, gpus) = np.array([*sizes, gamma]), gang
    choice = best_batch(params, 1.0, noise, LIMITS, nodes, gpus)

    best = 0.0
    for batch in np.geomspace(max(32, 8 * gpus), 512, 50):
        steps = max(int(np.ceil(batch / gpus / 64 - 1e-8)) - 1, int(gpus == 1 and batch > 32 + 1e-8))
        atomic = int(np.ceil(batch / gpus / (steps + 1) - 1e-8))
        pass_s, step_s = step_times(params, nodes, gpus, atomic)
        total = gpus * atomic * (steps + 1)
        worth = (noise + 1) / (noise / (total / 32) + 1) / (total / 32)
        best = max(best, total / (steps * pass_s + step_s) * worth * (8 <= atomic <= 64))
    assert choice.goodput == pytest.approx(best, rel=1e-9)


def measure(*configurations: tuple[int, int, int], off: float = 0.0) -> list[Measured]:
    """What jobs of PARAMS would report, `off` by chance."""
    chance = np.random.default_rng(0)
    return [
        Measured(nodes, gpus, atomic, *np.multiply(step_times(PARAMS, nodes, gpus, atomic), chance.uniform(1 - off, 1 + off, 2)))
        for nodes, gpus, atomic in configurations
    ]


def test_one_measurement_leaves_every_way_to_grow_looking_free():
    params = fit(measure((1, 1, 32)))

    assert params[ALPHA_C] == pytest.approx(0.42 / 2)
    assert step_times(params, 1, 1, 32)[0] == pytest.approx(0.42, rel=1e-3)
    assert step_times(params, 1, 4, 32)[1] == pytest.approx(0.42, rel=1e-3)
    assert step_times(params, 4, 16, 32)[1] == pytest.approx(0.42, rel=1e-3)


def test_what_two_gpus_have_shown_is_the_least_that_two_nodes_cost():
    params = fit(measure((1, 1, 32), (1, 2, 32), (1, 4, 32)))

    assert params[ALPHA_N] >= 1.1 * params[ALPHA_R]
    assert params[BETA_N] >= 1.1 * params[BETA_R]


def test_a_fit_finds_again_what_it_was_shown_enough_of():
    shown = [(1, 1, 8), (1, 1, 64), (1, 2, 8), (1, 2, 64), (1, 4, 16), (2, 2, 16), (2, 8, 16), (4, 16, 64)]
    params = fit(measure(*shown, off=0.02))

    for nodes, gpus, atomic in (*shown, (1, 3, 32), (2, 6, 32), (4, 12, 8)):
        assert step_times(params, nodes, gpus, atomic) == pytest.approx(step_times(PARAMS, nodes, gpus, atomic), rel=0.05)


def test_the_gradient_of_the_fit_is_the_slope_of_its_loss():
    from trainmaster.workload.perf.goodput_kernels import loss

    shown = measure((1, 1, 8), (1, 4, 64), (2, 8, 16))
    args = (np.array([m.nodes > 1 for m in shown]), *(np.array(c, float) for c in zip(*((m.gpus, m.atomic) for m in shown), strict=True)),
            *(np.log(c) for c in zip(*((m.pass_s, m.step_s) for m in shown), strict=True)))  # fmt: skip
    at = np.array([0.2, 0.02, 0.3, 0.03, 0.15, 0.04, 2.0])
    _, slope = loss(at, *args)

    for place in range(7):
        step = np.eye(7)[place] * 1e-6
        assert slope[place] == pytest.approx((loss(at + step, *args)[0] - loss(at - step, *args)[0]) / 2e-6, rel=1e-5)
