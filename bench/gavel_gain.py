"""What leases gain over the artifact's rounds: docs/gavel.md's table, made anew.

    python bench/gavel_gain.py [POLICY...]     default: gavel-max-min

On each public Gavel trace, both at a restart cost of 0: the policy as it is by default (decisions at events, leases), and its preset
`artifact` at --round 360. Traces come from the folder TRAINMASTER_DATA (default ../shared/data).
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from trainmaster.api.request import Request
from trainmaster.api.session import Session
from trainmaster.engine.loop import simulate_policy
from trainmaster.metrics.summary import summarize

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs/gavel.md"
DATA = Path(os.environ.get("TRAINMASTER_DATA", HERE.parent / "../shared/data")) / "gavel"
SMALL = {"gt_n50_seed1_lam900": 4, "minimize_makespan": 8, "max_min_fairness": 8, "cont_n100_seed2_lam9000_prio": 4}
LARGE = 36  # GPUs of each type elsewhere


def measured(trace: Path, policy: str, artifact: bool) -> tuple[float, float]:
    """Average JCT in hours, and the largest rho."""
    gpus = SMALL.get(trace.stem, LARGE)
    request = Request(
        trace=str(trace), format="gavel", profiles=str(DATA / "simulation_throughputs.json"), restart_cost_s=0.0,
        cluster="+".join(f"{gpus}x1:{type_}" for type_ in ("v100", "p100", "k80")), policies=((None, policy),),
        settings=(f"{policy}.preset=artifact",) if artifact else (), round_s=360.0 if artifact else None,
    )  # fmt: skip
    session = Session.of(request)
    [task] = session.tasks()
    workload, entrant = session.source.at(0), task.entrant
    result = simulate_policy(workload.jobs, workload.cluster, entrant.policy, task.setup, model=workload.model, rules=entrant.rules)
    figures = summarize(result)
    return float(figures["avg_jct_s"]) / 3_600, float(figures["max_ftf"])


def main() -> None:
    rows = ["| trace | GPUs a type | policy | rounds: JCT, max ρ | leases: JCT, max ρ | JCT gained |", "|---|---|---|---|---|---|"]
    for trace in sorted((DATA / "traces").glob("*.trace")):
        for policy in sys.argv[1:] or ["gavel-max-min"]:
            (before_h, before_rho), (after_h, after_rho) = (measured(trace, policy, artifact) for artifact in (True, False))
            gain, gpus = 100 * (1 - after_h / before_h), SMALL.get(trace.stem, LARGE)
            both = f"{before_h:.2f} h, {before_rho:.2f} | {after_h:.2f} h, {after_rho:.2f}"
            rows.append(f"| {trace.stem} | {gpus} | `{policy}` | {both} | {gain:.1f} % |")
            print(rows[-1], flush=True)
    text, table = PAGE.read_text(encoding="utf-8"), "\n".join(rows)
    marked = re.compile(r"(<!-- gain -->\n).*?(\n<!-- end of gain -->)", re.DOTALL)
    PAGE.write_text(marked.sub(lambda m: m[1] + table + m[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
