"""The formulas of `goodput.py`, compiled and cached on disk. Symbols and units as there."""

import math

import numpy as np
from numba import njit

from trainmaster.workload.perf.goodput import ALPHA_C, ALPHA_N, ALPHA_R, BETA_C, BETA_N, BETA_R, GAMMA, NOTHING_S, TRIED_BATCHES

ROUNDING = 1e-8  # what is a whole number but for this is that number


@njit("f8(f8[::1], b1, i8)", cache=True)
def sync_s(params, spans, gpus):  # type: ignore[no-untyped-def]
    if gpus <= 1:
        return NOTHING_S
    alpha, beta = (params[ALPHA_N], params[BETA_N]) if spans else (params[ALPHA_R], params[BETA_R])
    return alpha + beta * max(gpus - 2.0, NOTHING_S)


@njit("f8(f8, f8, f8)", cache=True)
def overlapped_s(pass_s, sync_s, gamma):  # type: ignore[no-untyped-def]
    """The gamma-norm of both; the longer one is taken out, so that no power overflows."""
    longer, shorter = max(pass_s, sync_s), min(pass_s, sync_s)
    return longer * math.exp(math.log1p(math.exp(gamma * math.log(shorter / longer))) / gamma)


@njit("UniTuple(f8, 2)(f8[::1], b1, i8, f8)", cache=True)
def step_times(params, spans, gpus, atomic):  # type: ignore[no-untyped-def]
    pass_s = params[ALPHA_C] + params[BETA_C] * atomic
    return pass_s, overlapped_s(pass_s, sync_s(params, spans, gpus), params[GAMMA])


@njit("Tuple((f8, i8, i8))(f8[::1], f8, f8, i8, i8, i8, i8, b1, i8)", cache=True)
def best_batch(params, grad_sqr, grad_var, initial, largest, smallest_local, largest_local, spans, gpus):  # type: ignore[no-untyped-def]
    """(goodput, atomic batch, accumulation steps); (0, 0, 0) where no batch is possible."""
    best, best_atomic, best_steps = 0.0, 0, 0
    if gpus < 1 or (spans and gpus < 2) or smallest_local * gpus > largest:
        return best, best_atomic, best_steps
    sync = sync_s(params, spans, gpus)
    alpha, beta, gamma = params[ALPHA_C], params[BETA_C], params[GAMMA]
    first = float(max(initial, smallest_local * gpus))
    ratio = math.log(largest / first) / (TRIED_BATCHES - 1)
    last_atomic, last_steps = -1, -1
    for i in range(TRIED_BATCHES):
        batch = float(largest) if i == TRIED_BATCHES - 1 else first * math.exp(ratio * i)
        local = batch / gpus
        steps = math.ceil(local / largest_local - ROUNDING) - 1
        if gpus == 1 and local > initial + ROUNDING:  # one atomic batch cannot tell its own variance
            steps = max(steps, 1)
        atomic = math.ceil(local / (steps + 1) - ROUNDING)
        if (atomic == last_atomic and steps == last_steps) or not smallest_local <= atomic <= largest_local:
            continue
        last_atomic, last_steps = atomic, steps
        batch = float(gpus * atomic * (steps + 1))
        scale = batch / initial
        pass_s = alpha + beta * atomic
        seconds = steps * pass_s + overlapped_s(pass_s, sync, gamma)
        gain = (grad_var + grad_sqr) / (grad_var / scale + grad_sqr)
        goodput = batch / seconds * gain / scale
        if goodput > best:
            best, best_atomic, best_steps = goodput, atomic, steps
    return best, best_atomic, best_steps


@njit("void(f8[:, ::1], f8[:, ::1], i8[:, ::1], i8[::1], b1[:, ::1], f8[:, :, ::1])", cache=True)
def fill_table(params, stats, limits, most_gpus, wanted, table):  # type: ignore[no-untyped-def]
    for job in range(len(params)):
        initial, largest, smallest_local, largest_local = limits[job]
        for spans in range(2):
            for gpus in range(1 + spans, most_gpus[job] + 1):
                if not wanted[spans, gpus]:
                    continue
                best, _, _ = best_batch(params[job], stats[job, 0], stats[job, 1], initial, largest, smallest_local, largest_local,
                                        spans == 1, gpus)  # fmt: skip
                table[job, spans, gpus] = best


@njit("Tuple((f8, f8[::1]))(f8[::1], b1[::1], f8[::1], f8[::1], f8[::1], f8[::1])", cache=True)
def loss(params, spans, gpus, atomic, log_pass, log_step):  # type: ignore[no-untyped-def]
    """What the fit minimises, and its gradient."""
    points, gamma = len(gpus), params[GAMMA]
    squares, of_pass, of_step = np.zeros(2), np.zeros(7), np.zeros(7)
    for i in range(points):
        pass_s = params[ALPHA_C] + params[BETA_C] * atomic[i]
        error = math.log(pass_s) - log_pass[i]
        squares[0] += error * error
        of_pass[ALPHA_C] += error / pass_s
        of_pass[BETA_C] += error * atomic[i] / pass_s

        sync, extra = NOTHING_S, max(gpus[i] - 2.0, NOTHING_S)
        alpha, beta = (ALPHA_N, BETA_N) if spans[i] else (ALPHA_R, BETA_R)
        if gpus[i] > 1:
            sync = params[alpha] + params[beta] * extra
        log_t = math.log(overlapped_s(pass_s, sync, gamma))
        error = log_t - log_step[i]
        squares[1] += error * error
        of_sync = 1.0 / (1.0 + (pass_s / sync) ** gamma)  # its part in T_opt^gamma
        of_step[ALPHA_C] += error * (1.0 - of_sync) / pass_s
        of_step[BETA_C] += error * (1.0 - of_sync) / pass_s * atomic[i]
        if gpus[i] > 1:
            of_step[alpha] += error * of_sync / sync
            of_step[beta] += error * of_sync / sync * extra
        of_step[GAMMA] += error * ((1.0 - of_sync) * math.log(pass_s) + of_sync * math.log(sync) - log_t) / gamma
    rmse_pass, rmse_step = math.sqrt(squares[0] / points), math.sqrt(squares[1] / points)
    between, within = params[BETA_N] / params[ALPHA_N], params[BETA_R] / params[ALPHA_R]
    value = rmse_pass + rmse_step + 1e-3 * (gamma - 1.0) ** 2 + 1e-2 * (between * between + within * within)
    slope = of_pass / points / max(rmse_pass, 1e-300) + of_step / points / max(rmse_step, 1e-300)
    slope[GAMMA] += 2e-3 * (gamma - 1.0)
    slope[BETA_N] += 2e-2 * between / params[ALPHA_N]
    slope[ALPHA_N] -= 2e-2 * between * between / params[ALPHA_N]
    slope[BETA_R] += 2e-2 * within / params[ALPHA_R]
    slope[ALPHA_R] -= 2e-2 * within * within / params[ALPHA_R]
    return value, slope
