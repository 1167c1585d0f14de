"""One decision of a whole-cluster policy, among many jobs: a request as JSON on standard input, seconds a decision on standard output.

    {"policy": NAME, "jobs": N, "kinds": K, "gpus": G, "apps": A, "decisions": D}

N jobs of K kinds of model wait at the start, and another comes each second: every decision meets a changed set and solves anew.
G GPUs of each of three types (of one type where `apps` is given). What is timed is `decide`, on the view that the engine made.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from trainmaster.cluster.spec import parse_cluster
from trainmaster.engine.core import Setup
from trainmaster.engine.loop import Simulation, peak_rss_mib
from trainmaster.policies.registry import find_policy
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.gavel import Gavel

TYPES = ("v100", "p100", "k80")


class Enough(Exception):
    """All decisions that were asked for are made."""


def main() -> None:
    ask = json.load(sys.stdin)
    rng = np.random.default_rng(0)
    types = TYPES if "apps" not in ask else TYPES[:1]
    rates = {name: {f"('model {k}', 1)": {"null": float(rng.uniform(1, 10))} for k in range(ask["kinds"])} for name in types}
    count = ask["jobs"] + ask["decisions"] + 1
    table = JobTable.build(
        submit_s=np.concatenate([np.zeros(ask["jobs"]), np.arange(1.0, count - ask["jobs"] + 1)]), gpus=np.ones(count),
        work=rng.uniform(1e5, 1e7, count), work_in_steps=True, model=[f"model {k}" for k in rng.integers(0, ask["kinds"], count)],
        app=[f"app {a}" for a in rng.integers(0, ask["apps"], count)] if "apps" in ask else None,
    )  # fmt: skip
    cluster = parse_cluster("+".join(f"{ask['gpus'] // 4}x4:{name}" for name in types))
    jobs, model = Gavel.of("rates", rates).bind(table, cluster)
    policy, seconds = find_policy(ask["policy"])(), list[float]()
    decide = policy.decide

    def timed(view, memory):  # type: ignore[no-untyped-def]
        begin = time.perf_counter()
        decision = decide(view, memory)
        seconds.append(time.perf_counter() - begin)
        if len(seconds) > ask["decisions"]:
            raise Enough
        memory["ends_s"] = memory["turn_ends_s"] = -np.inf  # the next one begins a turn
        return decision

    policy.decide = timed
    try:
        Simulation(jobs, cluster, policy, Setup(restart_cost_s=0.0), model=model).run()
    except Enough:
        print(json.dumps({"seconds": seconds[1:], "rss_mib": peak_rss_mib()}))  # the first one imports the solver


if __name__ == "__main__":
    main()
