"""What leases gain over the artifact's rounds: docs/gavel.md's tables, made anew.

    python bench/gavel_gain.py [--traces NAME,...] [POLICY...]     default: all public Gavel traces, all policies that have a preset
    python bench/gavel_gain.py --draws 8 [--traces NAME,...] [POLICY...]     instead: means over so many seeds and orders of the rows

On each trace, both at a restart cost of 0: the policy as it is by default (decisions at events, leases), and its preset `artifact` at
--round 360. What is measured replaces what bench/gavel_gain.json has of the same trace and policy; the page shows all of that file.
Traces come from the folder TRAINMASTER_DATA (default ../shared/data). All together take about two hours of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any

from trainmaster.api.request import Request
from trainmaster.api.session import Session
from trainmaster.engine.loop import simulate_policy
from trainmaster.metrics.summary import summarize

HERE = Path(__file__).resolve().parent
PAGE, MEASURED = HERE.parent / "docs/gavel.md", HERE / "gavel_gain.json"
DATA = Path(os.environ.get("TRAINMASTER_DATA", HERE.parent / "../shared/data")) / "gavel"
SMALL = {"gt_n50_seed1_lam900": 4, "minimize_makespan": 8, "max_min_fairness": 8, "cont_n100_seed2_lam9000_prio": 4}
LARGE = 36  # GPUs of each type elsewhere
POLICIES = (
    "gavel-max-min", "gavel-water-filling", "gavel-ftf", "gavel-makespan", "gavel-max-throughput", "gavel-max-min-packed", "allox",
    "gavel-fifo", "gavel-isolated", "gavel-max-min-agnostic",
)  # fmt: skip


def measured(trace: Path, policy: str, artifact: bool, seed: int = 0) -> dict[str, float]:
    gpus = SMALL.get(trace.stem, LARGE)
    request = Request(
        trace=str(trace), format="gavel", profiles=str(DATA / "simulation_throughputs.json"), restart_cost_s=0.0,
        cluster="+".join(f"{gpus}x1:{type_}" for type_ in ("v100", "p100", "k80")), policies=((None, policy),),
        settings=(f"{policy}.preset=artifact",) if artifact else (), round_s=360.0 if artifact else None, seed=seed,
    )  # fmt: skip
    session = Session.of(request)
    [task] = session.tasks()
    workload, entrant = session.source.at(seed), task.entrant
    result = simulate_policy(workload.jobs, workload.cluster, entrant.policy, task.setup, model=workload.model, rules=entrant.rules)
    figures = summarize(result)
    return {name: float(figures[name]) for name in ("avg_jct_s", "max_ftf")}


def drawn(trace: Path, policy: str, draws: int) -> str:
    """Who comes first among equals, and what a preset shuffles, is chance: how much that moves, and the difference beside it."""
    hours: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        shuffled = Path(folder) / trace.name  # of the same name: the cluster goes by it
        rows = trace.read_text(encoding="utf-8").splitlines()
        for seed in range(draws):
            random.Random(seed).shuffle(rows)
            shuffled.write_text("\n".join(rows) + "\n", encoding="utf-8")
            for artifact, found in hours.items():
                found.append(measured(shuffled, policy, artifact, seed)["avg_jct_s"] / 3_600)
    rounds, leases = hours[True], hours[False]
    differences = [ours - theirs for ours, theirs in zip(leases, rounds, strict=True)]
    told = (f"{name}: {statistics.mean(found):.2f} h (s.d. {statistics.stdev(found):.2f})" for name, found in
            (("rounds", rounds), ("leases", leases)))  # fmt: skip
    error = statistics.stdev(differences) / draws**0.5
    return f"{trace.stem} {policy} {' '.join(told)} difference: {statistics.mean(differences):.2f} h (s.e. {error:.2f})"


def page(found: dict[str, dict[str, Any]]) -> str:
    """Two tables, a row a trace and a column a policy."""

    def table(cell: Any) -> str:
        rows = [["trace", "GPUs a type", *(policy.removeprefix("gavel-") for policy in POLICIES)], ["---"] * (len(POLICIES) + 2)]
        for trace, of_policy in sorted(found.items()):
            cells = [cell(of_policy[policy]) if policy in of_policy else "" for policy in POLICIES]
            rows.append([trace, str(SMALL.get(trace, LARGE)), *cells])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def gained(both: Any) -> str:
        return f"{100 * (1 - both['leases']['avg_jct_s'] / both['rounds']['avg_jct_s']):.1f}"

    def fairness(both: Any) -> str:
        return f"{both['rounds']['max_ftf']:.1f} → {both['leases']['max_ftf']:.1f}"

    return f"Average completion time, % less:\n\n{table(gained)}\n\nThe largest ρ, rounds → leases:\n\n{table(fairness)}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--traces")
    parser.add_argument("--draws", type=int)
    parser.add_argument("policies", nargs="*", default=POLICIES)
    given = parser.parse_args()
    traces = sorted((DATA / "traces").glob("*.trace"), key=lambda trace: trace.stat().st_size)
    for trace in traces:
        if given.traces and trace.stem not in given.traces.split(","):
            continue
        for policy in given.policies:
            if given.draws:
                print(drawn(trace, policy, given.draws), flush=True)
                continue
            both = {name: measured(trace, policy, artifact) for name, artifact in (("rounds", True), ("leases", False))}
            found = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
            found.setdefault(trace.stem, {})[policy] = both
            MEASURED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
            print(trace.stem, policy, *(f"{name}: {figures['avg_jct_s'] / 3_600:.2f} h" for name, figures in both.items()), flush=True)
    if given.draws:
        return
    marked = re.compile(r"(<!-- gain -->\n).*?(\n<!-- end of gain -->)", re.DOTALL)
    tables = page(json.loads(MEASURED.read_text()))
    PAGE.write_text(marked.sub(lambda m: m[1] + tables + m[2], PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
