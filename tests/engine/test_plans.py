"""Lines drawn at random: the engine and the naive one agree, byte for byte, on who holds what when, and on every account.

Works, times and rates are sums of powers of two, so that no order of the arithmetic matters.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.workloads import MORE, workloads
from naive import PLACEMENTS
from naive_plans import NaivePlans
from schedules import cluster, prepare, schedule_of
from trainmaster.engine.result import UNSCHEDULABLE
from trainmaster.policies.base import Decision, Line, NoParams, Policy, policy
from trainmaster.workload.jobs import JobTable

WHOLE = st.integers(0, 40).map(float)
CLUSTERS = st.sampled_from(["1x4", "2x2", "2x4", "3x2+1x4", "4x1+1x4"])
GANGS = st.sampled_from([1, 1, 2, 2, 4])


def rate_of(gpus, asked, config, neighbours):
    return gpus / asked * 2.0 ** max(config, 0) / (2 if neighbours else 1)


@dataclass(frozen=True)
class Model:
    asked: list[float]
    fixed: bool
    rate_cards: bool = True
    by_neighbours: bool = True

    def rates_by_type(self, jobs, types):
        return np.ones((len(jobs), len(types))) if self.fixed else None

    def rate(self, row, allocation, done, neighbours):
        return rate_of(allocation.total_gpus, self.asked[row], allocation.config, len(neighbours)), math.inf


def drawn_lines(seed, nodes, ids):
    """Lines for these jobs, the same whenever the same are active: gangs of other sizes, packed, on chosen nodes, or nothing."""
    chance = random.Random(f"{seed} {' '.join(ids)}")
    lines, group = [], 0
    for id in chance.sample(ids, len(ids)):
        what = chance.random()
        group += what < 0.3
        share = chance.choice([1.0, 0.5, 0.5, 0.25]) if what < 0.5 else 1.0
        partner = group if what < 0.5 else None
        gpus, config = chance.choice([1, 1, 2, 4]), chance.choice([-1, -1, -1, 0, 1])
        if 0.5 <= what < 0.6:
            share, gpus = 0.5, 1  # a fraction
        if what > 0.95:
            continue
        if what > 0.85:
            parts = [(chance.randrange(nodes), 1) for _ in range(gpus)]
            lines.append((id, [Line(-1, one, node=node, config=config) for node, one in parts]))
        else:
            lines.append((id, [Line(-1, gpus, share=share, partner=partner, config=config)]))
    return lines


def runs_somebody(plan, ids):
    """Else nothing would ever happen again."""
    return plan or [(ids[0], [Line(-1, 1)])]


@policy(name="drawn", paper="none", params=NoParams)
class Drawn(Policy[NoParams]):
    def __init__(self, plan):
        super().__init__()
        self.plan = plan

    def decide(self, view, memory):
        row_of = {str(view.jobs.table.id[row]): int(row) for row in view.jobs.row}
        said = self.plan(list(row_of))
        return Decision(lines=tuple(replace(line, row=row_of[id]) for id, some in said for line in some))


def check_both_agree(jobs, spec, seed, restart_cost_s, placement, fixed):
    table, on = JobTable.of(jobs), cluster(spec)

    def plan(ids):
        return runs_somebody(drawn_lines(seed, len(on.nodes), ids), ids) if ids else []

    fits = prepare(table, on, Drawn(plan)).outcome != UNSCHEDULABLE
    table = table.take(fits)
    simulation = prepare(table, on, Drawn(plan), restart_cost_s, placement=placement, model=Model(table.gpus.tolist(), fixed))
    fast = schedule_of(simulation, simulation.run())
    naive = NaivePlans(table, on, plan, rate_of, restart_cost_s, PLACEMENTS[placement])
    slow = naive.run()
    unended = {fate.id for fate in slow.fates.values() if math.isnan(fate.finish_s)}
    assert fast.allocations_csv() == slow.allocations_csv()
    assert fast.jobs_csv() == slow.jobs_csv()
    result = fast.result
    for name in ("resizes", "migrations", "attained_gpu_s", "overhead_gpu_s"):
        assert getattr(result, name).tolist() == [getattr(job, name) for job in naive.jobs], name
    assert set(result.jobs.id[result.state == "unfinished"]) == unended
    for instant in fast.allocations:
        assert instant.gpus_overcommitted() == []


drawn = given(
    workloads(12, gangs=GANGS, times=WHOLE, work=st.integers(1, 64).map(float), max_nodes=st.sampled_from([None, None, None, 1, 2])),
    CLUSTERS, st.integers(0, 10_000), st.sampled_from([0.0, 0.0, 4.0]), st.sampled_from(sorted(PLACEMENTS)), st.booleans(),
)  # fmt: skip


@drawn
def test_the_engine_agrees_with_the_naive_one_on_lines_of_all_kinds(jobs, spec, seed, restart_cost_s, placement, fixed):
    check_both_agree(jobs, spec, seed, restart_cost_s, placement, fixed)


@pytest.mark.slow
@settings(MORE)
@drawn
def test_they_agree_on_thousands_of_plans(jobs, spec, seed, restart_cost_s, placement, fixed):
    check_both_agree(jobs, spec, seed, restart_cost_s, placement, fixed)
