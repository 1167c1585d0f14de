"""Central shares: of all that keep given floors, those in the middle. For kinds of jobs alone, without pairs.

A published figure is made with one optimum of many: the one at which its solver stops. Two of them are told apart here, both
found by Newton's method. The unknowns couple within a kind (its types) and, through a few rows, between kinds (the GPUs of each
type), so each step solves small systems, one a kind, and joins them by Woodbury's identity.

    middle              the analytic centre: the product of all that is left over is largest. Where a path-following method ends
                        when the objective had it converge to an optimal face
    where_ecos_stops    a homogeneous self-dual method, as in Domahidi, Chu and Boyd, "ECOS: an SOCP solver for embedded systems",
                        ECC 2013, with nothing to optimise: it stops soon after it is feasible, well off the centre
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.linear import Options

Floats = NDArray[np.float64]

MARGIN = 1e-4  # of a level: by so much less than the best is asked where the middle of the best is sought
CLOSE = 1e-8


@dataclass(frozen=True)
class Grid:
    """Coefficients as (kinds, types), of a share of one job's time. Rows, in this order: share >= 0, time, GPUs, floor."""

    there: NDArray[np.bool_]
    share: Floats
    time: Floats
    gpus: Floats
    rate: Floats

    @classmethod
    def of(cls, options: Options) -> Grid:
        shape = len(options.jobs), len(options.gpus)
        there, gpus, rate = np.zeros(shape, bool), np.zeros(shape), np.zeros(shape)
        at = options.kind, options.type
        there[at], gpus[at], rate[at] = True, options.gang * options.jobs[options.kind], options.rate
        return cls(there, there * 1.0, there * 1.0, gpus, rate)

    def solve(self, share: Floats, time: Floats, gpus: Floats, floor: Floats, right: Floats) -> Floats:
        """x of  (sum over rows of weight x row row') x = right;  right (kinds, types, m)."""
        types = len(gpus)
        blocks = np.where(self.there, share * self.share**2, 1.0)[:, :, None] * np.eye(types)
        blocks += np.einsum("i,ij,ik->ijk", time, self.time, self.time) + np.einsum("i,ij,ik->ijk", floor, self.rate, self.rate)
        joint = (self.gpus * np.sqrt(gpus))[:, :, None] * np.eye(types)
        solved = np.linalg.solve(blocks, np.concatenate([right, joint], axis=2))
        alone, by_joint = solved[:, :, : right.shape[2]], solved[:, :, right.shape[2] :]
        small = np.eye(types) + np.einsum("ijk,ijl->kl", joint, by_joint)
        return alone - by_joint @ np.linalg.solve(small, np.einsum("ijk,ijl->kl", joint, alone))


# ------------------------------------------------------------------------------------------------- the analytic centre


def middle(options: Options, y: Floats, floor: Floats) -> Floats:
    """The centre of the shares that give each job more than its floor, from a y that keeps the floors by some margin."""
    grid, jobs = Grid.of(options), options.jobs
    there, runs = grid.there, grid.there.any(axis=1)
    x = np.zeros(there.shape)
    inner = options.equal() / 2
    x[options.kind, options.type] = ((1 - MARGIN / 2) * y + MARGIN / 2 * inner) / jobs[options.kind]

    def left_over(x: Floats) -> tuple[Floats, Floats, Floats]:
        over = np.where(runs, (grid.rate * x).sum(axis=1) - floor, np.inf)
        return 1.0 - x.sum(axis=1), over, options.gpus - (grid.gpus * x).sum(axis=0)

    def log_product(x: Floats) -> float:
        time, over, gpus = left_over(x)
        if min(x[there].min(initial=1.0), time.min(), over.min(), gpus.min()) <= 0:
            return -np.inf
        each = np.log(np.where(there, x, 1.0)).sum(axis=1) + np.log(time) + np.log(np.where(runs, over, 1.0))
        return float(jobs @ each + np.log(gpus).sum())

    here = log_product(x)
    assert here > -np.inf, "the middle is sought from a point outside"
    for _ in range(100):
        time, over, gpus = left_over(x)
        share = 1 / np.where(there, x, np.inf)
        slope = jobs[:, None] * (share - grid.time / time[:, None] + grid.rate / over[:, None]) - grid.gpus / gpus
        step = grid.solve(jobs[:, None] * share**2, jobs / time**2, 1 / gpus**2, jobs / over**2, slope[:, :, None])[:, :, 0]
        gain, length = float((slope * step).sum()), 1.0
        if gain < 1e-6:
            break
        while (there_now := log_product(x + length * step)) < here + 0.1 * length * gain and length > 1e-9:
            length /= 2
        x, here = x + length * step, max(there_now, here)
    return x[options.kind, options.type] * jobs[options.kind]


# ------------------------------------------------------------------------------------------------- an early stop


def where_ecos_stops(options: Options, floor: Floats) -> Floats:
    """Shares above the floors, as that solver finds them; each kind is one job. G x + s = h, s >= 0, its dual z >= 0."""
    plain = Grid.of(options)
    grid, rows, columns = equilibrated(plain)
    there, kinds = grid.there, len(floor)
    ends = np.cumsum([there.sum(), kinds, len(options.gpus)])
    h = np.concatenate([np.zeros(there.sum()), np.ones(kinds), options.gpus, -floor]) / rows

    def times(x: Floats) -> Floats:
        over = (grid.rate * x).sum(axis=1)
        return np.concatenate([-(grid.share * x)[there], (grid.time * x).sum(axis=1), (grid.gpus * x).sum(axis=0), -over])

    def transposed(v: Floats) -> Floats:
        share, time, gpus, over = np.split(v, ends)
        spread = np.zeros(there.shape)
        spread[there] = share
        return grid.time * time[:, None] + grid.gpus * gpus - grid.rate * over[:, None] - grid.share * spread

    def newton(weight: Floats, top: Floats, bottom: Floats) -> tuple[Floats, Floats]:
        """(x, z) of  G'z = top, G x - weight z = bottom."""
        share, time, gpus, over = np.split(1 / weight, ends)
        spread = np.ones(there.shape)
        spread[there] = share
        x = grid.solve(spread, time, gpus, over, (top + transposed(bottom / weight))[:, :, None])[:, :, 0]
        return x, (times(x) - bottom) / weight

    ones, nothing = np.ones(len(h)), np.zeros(there.shape)
    x = newton(ones, nothing, h)[0]
    z, tau, kappa = ones, np.ones(1), np.ones(1)
    s: Floats = h - times(x)
    s = s + (1.0 - s.min() if s.min() <= 0 else 0.0)
    for _ in range(100):
        rx, rz, rt = -transposed(z), s + times(x) - h * tau, kappa + h @ z
        mu = (s @ z + kappa * tau) / (len(h) + 1)
        if max(np.abs(rz).max() / max(1.0, np.abs(h).max()), np.abs(rx).max()) <= CLOSE * tau[0] and s @ z < CLOSE:
            break
        weight = s / z
        x2, z2 = newton(weight, nothing, h)
        sigma, length, push, pull = 0.0, 0.0, s, kappa * tau
        for corrects in (False, True):  # Mehrotra's predictor, then the step
            x1, z1 = newton(weight, (1 - sigma) * rx, push - (1 - sigma) * rz)
            dtau = ((1 - sigma) * rt - pull / tau + h @ z1) / (kappa / tau - h @ z2)
            dx, dz = x1 + dtau * x2, z1 + dtau * z2
            ds, dkappa = -push - weight * dz, -(pull + kappa * dtau) / tau
            length = room(np.concatenate([s, z, tau, kappa]), np.concatenate([ds, dz, dtau, dkappa]))
            if not corrects:
                sigma = max((1 - min(length, 1.0)) ** 3, 1e-4)
                push, pull = s - sigma * mu / z + ds * dz / z, kappa * tau + dkappa * dtau - sigma * mu
        length = 0.99 * min(length, 0.999)
        x, s, z, tau, kappa = x + length * dx, s + length * ds, z + length * dz, tau + length * dtau, kappa + length * dkappa
    shares = np.maximum(x / tau / columns, 0.0)
    return shares[options.kind, options.type] * options.jobs[options.kind]


def equilibrated(grid: Grid) -> tuple[Grid, Floats, Floats]:
    """Rows and columns scaled alike, three times over; the scales of the rows and (kinds, types) of the columns."""
    there = grid.there
    share, time, gpus, rate = grid.share, grid.time, grid.gpus, grid.rate
    columns, scales = np.ones(there.shape), [np.ones(there.shape), np.ones(len(time)), np.ones(gpus.shape[1]), np.ones(len(rate))]
    for _ in range(3):
        by_row = [np.where(there, share, 1.0), time.max(axis=1), gpus.max(axis=0), rate.max(axis=1)]
        by_row = [np.sqrt(np.where(largest > 0, largest, 1.0)) for largest in by_row]
        by_column = np.sqrt(np.where(there, np.max([share, time, gpus, rate], axis=0), 1.0))
        share, time = share / by_row[0] / by_column, time / by_row[1][:, None] / by_column
        gpus, rate = gpus / by_row[2] / by_column, rate / by_row[3][:, None] / by_column
        columns, scales = columns * by_column, [scale * more for scale, more in zip(scales, by_row, strict=True)]
    return Grid(there, share, time, gpus, rate), np.concatenate([scales[0][there], *scales[1:]]), columns


def room(v: Floats, step: Floats) -> float:
    """How far v may go this way and stay positive; no more than 10."""
    falls = step < 0
    return min(float(np.min(-v[falls] / step[falls], initial=10.0)), 10.0)
