"""Elastic policies: CPU time beside the budgets, and what their searches are worth. Writes the tables of docs/elastic.md anew.

    python bench/elastic.py [--quick]     --quick leaves out the runs of whole workloads

Everything runs in one process each, on one core; what is compared is CPU time, which a busy machine changes less than the wall's.
Public workloads and profiles come from the folder TRAINMASTER_DATA (default ../shared/data); without it only what needs none is run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from trainmaster.api.request import Request
from trainmaster.api.session import Session
from trainmaster.cluster.spec import parse_cluster
from trainmaster.engine.core import Setup
from trainmaster.engine.loop import Simulation, simulate_policy
from trainmaster.policies.elasticflow import ElasticFlow
from trainmaster.policies.kernels.allotment import search
from trainmaster.policies.lyra import fewest_preempted, flexible, reclaim
from trainmaster.policies.pollux import PRESETS, Pollux, dense
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.profiles import load_profiles
from trainmaster.workload.traces import load_trace

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs/elastic.md"
DATA = Path(os.environ.get("TRAINMASTER_DATA", HERE.parent / "../shared/data"))
WORKLOADS = DATA / "sia/workloads/pollux-workloads"


class Enough(Exception):
    """All decisions that were asked for are made."""


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        print(json.dumps(CHILDREN[sys.argv[2]](*json.loads(sys.argv[3]))))
        return
    whole = "--quick" not in sys.argv[1:] and WORKLOADS.is_dir()
    write("speed", ["| what | CPU s | budget |", "|---|---|---|", *speed(whole)])
    if whole:
        columns = ("workload", "decisions", "jobs, mean", "fitness, genetic", "ours", "ours as good", "worst", "ms, genetic", "ours")
        write("quality", [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *quality()])
    write("reclaim", ["| servers, jobs on them | asked back | preempted, the paper's rule | fewest possible | rule is optimal in |",
                      "|---|---|---|---|---|", *reclaiming()])  # fmt: skip


def write(name: str, rows: list[str]) -> None:
    """Print a table, and put it into the page between its marks."""
    print("\n".join(rows), flush=True)
    marked = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
    text = PAGE.read_text(encoding="utf-8")
    assert marked.search(text), f"{PAGE} has no place for the table {name!r}"
    PAGE.write_text(marked.sub(lambda m: m[1] + "\n".join(rows) + m[2], text), encoding="utf-8")


def child(name: str, *arguments: Any) -> Any:
    argv = [sys.executable, str(Path(__file__).resolve()), "--child", name, json.dumps(arguments)]
    return json.loads(subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout)


# ------------------------------------------------------------------------------------------------- CPU time


def speed(whole: bool) -> Iterator[str]:
    def row(what: str, seconds: float, budget_s: float) -> str:
        return f"| {what} | {seconds:.3g} | {budget_s:g}{'' if seconds <= budget_s else ', not met'} |"

    if whole:
        for policy, preset, budget_s in (("optimus", "pollux-artifact", 2), ("tiresias-las", "pollux-artifact", 2), ("sia", "artifact", 20),
                                         ("pollux", "artifact", 60), ("pollux", "", 60)):  # fmt: skip
            name = f"{policy}, {f'preset {preset}' if preset else 'default'}"
            yield row(f"160 jobs of Pollux's workload 1 on 16x4, rounds of 60 s: {name}", child("workload", policy, preset), budget_s)
        yield row("pollux: one decision for 1,000 jobs on 1,000 nodes of 8", child("pollux_decision", 1_000), 10)
    yield row("elasticflow: admission of one job among 1,000", child("admission", 1_000), 0.05)
    yield row("lyra: knapsack for 500 elastic jobs and 3,500 GPUs", child("knapsack", 500, 3_500), 0.5)


def workload(policy: str, preset: str) -> float:
    """CPU seconds of the second run of the same process: the first one loads the compiled code."""
    request = Request(
        trace=str(WORKLOADS / "workload-1.csv"), format="pollux", profiles=str(DATA / "sia/profiles"), cluster="16x4", round_s=60.0,
        restart_cost_s=30.0, policies=((None, policy),), settings=(f"{policy}.preset={preset}",) if preset else (),
    )  # fmt: skip
    return median(simulated_s(request) for _ in range(2 if policy == "pollux" else 4))


def simulated_s(request: Request) -> float:
    session = Session.of(request)
    [task] = session.tasks()
    loaded, entrant = session.source.at(0), task.entrant
    begin = time.process_time()
    simulate_policy(loaded.jobs, loaded.cluster, entrant.policy, task.setup, model=loaded.model, rules=entrant.rules)
    return time.process_time() - begin


def timed(policy: Any, method: str, calls: int) -> list[float]:
    """CPU seconds of each call of a method, as the run goes on; it is ended after so many."""
    inner, seconds = getattr(policy, method), list[float]()

    def watched(*arguments: Any) -> Any:
        begin = time.process_time()
        answer = inner(*arguments)
        seconds.append(time.process_time() - begin)
        if len(seconds) == calls:
            raise Enough
        return answer

    setattr(policy, method, watched)
    return seconds


def pollux_decision(jobs: int) -> float:
    on = parse_cluster(f"{jobs}x8:rtx")
    tables = [load_trace(DATA / f"sia/workloads/sia-philly/workload-{w}.csv").jobs for w in range(1, 9)]
    rows = [(w, row) for w, table in enumerate(tables) for row in range(len(table))][:jobs]
    model = [tables[w].model.text()[row] for w, row in rows]
    table = JobTable.build(submit_s=np.zeros(jobs), gpus=np.ones(jobs), work=np.full(jobs, np.nan), work_in_steps=True, model=model)
    bound, profile = load_profiles(DATA / "sia/profiles").bind(table, on)
    policy = Pollux()
    seconds = timed(policy, "decide", 6)
    with suppress(Enough):
        Simulation(bound, on, policy, Setup(round_s=60.0), model=profile).run()
    return median(seconds[1:])  # the first one compiles


def admission(jobs: int) -> float:
    """Each second one more job with a deadline, beside so many that are admitted."""
    rng = np.random.default_rng(0)
    submit_s = np.concatenate([np.zeros(jobs), np.arange(1.0, 22.0)])
    table = JobTable.build(submit_s=submit_s, gpus=np.ones(len(submit_s)), work=rng.uniform(100, 10_000, len(submit_s)))
    due_s = submit_s + rng.uniform(2, 20, len(submit_s)) * table.work
    policy = ElasticFlow()
    seconds = timed(policy, "admit", 22)
    with suppress(Enough):
        Simulation(table.replace(deadline_s=due_s), parse_cluster("128x8"), policy, Setup(round_s=0.0)).run()
    return median(seconds[2:])


def knapsack(jobs: int, gpus: int) -> float:
    rng = np.random.default_rng(0)
    most = rng.integers(2, 33, jobs)
    left = [float(work) / np.maximum(np.arange(n + 1), 1e-9) ** float(power)
            for n, work, power in zip(most, rng.uniform(1e3, 1e6, jobs), rng.uniform(0.5, 1, jobs), strict=True)]  # fmt: skip
    flexible(4, [left[0][:3]], np.ones(1, np.int64), np.full(1, 2))  # loads what is compiled
    begin = time.process_time()
    flexible(gpus, left, np.ones(jobs, np.int64), most.astype(np.int64))
    return time.process_time() - begin


CHILDREN: dict[str, Callable[..., Any]] = {
    "workload": workload, "pollux_decision": pollux_decision, "admission": admission, "knapsack": knapsack,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- Pollux's search


class Both(Pollux):
    """The artifact's search decides, with its population from round to round; ours answers the same questions beside it."""

    asked: list[tuple[int, float, float, float, float]]  # jobs, fitness and CPU seconds of both

    def place(self, view, memory, order, terms, stay, speed, base, most, capacity):  # type: ignore[no-untyped-def]
        steps, seed = self.params.steps * (20 + len(order)) // 20, view.decision
        begin = time.process_time()
        _, ours = search(terms, stay, base, most, capacity, self.params.avoid_interference, steps, seed)
        between = time.process_time()
        rows = super().place(view, memory, order, terms, stay, speed, base, most, capacity)
        end = time.process_time()
        theirs = cost_of(rows, base, terms, stay, len(capacity))
        self.asked.append((len(order), len(order) / theirs, len(order) / float(ours), end - between, between - begin))
        return rows


def cost_of(rows: Any, base: Any, terms: Any, stay: Any, nodes: int) -> float:
    matrix, present = dense(rows, nodes), dense(base, nodes)
    gpus, spans = matrix.sum(axis=1), ((matrix > 0).sum(axis=1) > 1).astype(int)
    moved = terms[np.arange(len(rows)), spans, gpus]
    return float(np.where((matrix == present).all(axis=1), stay, moved).sum())


def quality() -> Iterator[str]:
    for number in range(1, 9):
        on = parse_cluster("16x4")
        jobs, model = load_profiles(DATA / "sia/profiles").bind(load_trace(WORKLOADS / f"workload-{number}.csv").jobs, on)
        policy = Both(**PRESETS["artifact"].params)
        policy.asked = []
        Simulation(jobs, on, policy, Setup(round_s=60.0), model=model, rules=PRESETS["artifact"].rules).run()
        n, theirs, ours, their_s, our_s = (np.array(column) for column in zip(*policy.asked, strict=True))
        as_good = float((ours >= theirs * (1 - 1e-9)).mean())
        yield (f"| {number} | {len(n):,} | {n.mean():.1f} | {theirs.mean():.4f} | {ours.mean():.4f} | {as_good:.1%} | "
               f"{(ours / theirs).min() - 1:+.2%} | {their_s.mean() * 1e3:.1f} | {our_s.mean() * 1e3:.1f} |")  # fmt: skip


# ------------------------------------------------------------------------------------------------- Lyra's reclaiming


def reclaiming(repeats: int = 50) -> Iterator[str]:
    """Jobs on one to four servers, drawn at random."""
    for servers, jobs, wanted in ((8, 8, 3), (20, 25, 6), (60, 80, 15)):
        rng, greedy, exact = np.random.default_rng(0), list[int](), list[int]()
        for _ in range(repeats):
            where = [rng.choice(servers, int(rng.integers(1, 5)), replace=False).tolist() for _ in range(jobs)]
            tenants = {s: [(j, len(on)) for j, on in enumerate(where) if s in on] for s in range(servers)}
            for rule, found in ((reclaim, greedy), (fewest_preempted, exact)):
                found.append(len({j for s in rule(tenants, wanted) for j, _ in tenants[s]}))
        same = mean(a == b for a, b in zip(greedy, exact, strict=True))
        gain = 1 - mean(exact) / mean(greedy)
        fewest = f"{mean(exact):.2f} ({gain:.1%} fewer)"
        yield f"| {servers}, {jobs} | {wanted} | {mean(greedy):.2f} | {fewest} | {same:.0%} of {repeats} draws |"


if __name__ == "__main__":
    main()
