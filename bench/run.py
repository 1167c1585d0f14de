"""Times and memory: printed as tables, and written to bench/results.json with the machine's description.

    python bench/run.py [--quick]     --quick leaves the million jobs out

Every row is measured in a process of its own, its figure beside the budget that the twin was given. Nothing is asserted:
a machine that is busy with something else misses budgets. "simulation" is `wall_s` of the run: the loop alone, after loading.
Public traces come from the folder TRAINMASTER_DATA (default ../shared/data); what is not there is left out, and said so.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("TRAINMASTER_DATA", HERE.parent / "../shared/data"))
MIB_PER_GIB = 1024

# What a child process runs; its request and the number of repeats arrive as JSON on standard input.
SIMULATE = """
import json, sys
from trainmaster.api.request import Request
from trainmaster.api.session import Session
from trainmaster.engine.loop import peak_rss_mib, simulate_policy
request, repeats = json.load(sys.stdin)
request["policies"] = tuple(map(tuple, request["policies"]))
session = Session.of(Request(**request))
[task], seconds = session.tasks(), []
for _ in range(repeats):
    workload, entrant = session.source.at(task.setup.seed), task.entrant
    result = simulate_policy(workload.jobs, workload.cluster, entrant.policy, task.setup, model=workload.model, rules=entrant.rules)
    seconds.append(result.wall_s)
    del result
print(json.dumps({"seconds": seconds, "rss_mib": peak_rss_mib()}))
"""
LOAD = """
import json, sys, time
from trainmaster.engine.loop import peak_rss_mib
from trainmaster.workload.traces import load_trace
begin = time.perf_counter()
load_trace(json.load(sys.stdin))
print(json.dumps({"seconds": [time.perf_counter() - begin], "rss_mib": peak_rss_mib()}))
"""
TINY = ["-m", "trainmaster.cli.main", "simulate", "--trace", "synthetic:philly", "--jobs", "10", "--quiet"]


def main() -> None:
    made = {
        "Starting": starting,
        "Compiling (a process from start to end: ten jobs under the default policies)": compiling,
        "Loading": loading,
        "philly.csv, simulation": philly,
        "Smaller traces, simulation": smaller,
        "Gavel's traces on 36 GPUs of each of three types, simulation": gavel,
        "One decision among many jobs (p99)": decisions,
        "A million jobs, --load 0.9 --round 60, simulation": million,
    }
    tables = {}
    for title, make in made.items():
        if make is not million or "--quick" not in sys.argv[1:]:
            tables[title] = make()
            show(title, tables[title])
    out = HERE / "results.json"
    out.write_text(json.dumps({"machine": machine(), "tables": tables}, indent=1) + "\n")
    print(f"\n{out.relative_to(HERE.parent)} written")


# ------------------------------------------------------------------------------------------------- the tables


def starting() -> list[dict[str, Any]]:
    note("trainmaster --help")
    return [row("trainmaster --help", [process(["-m", "trainmaster.cli.main", "--help"]) for _ in range(20)], budget_s=0.3)]


def compiling() -> list[dict[str, Any]]:
    note("compilation into an empty cache, then from it")
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        first = row("first process ever: compiles, fills the cache", [process(TINY, environment)])
        later = row("later processes: load from the cache", [process(TINY, environment) for _ in range(5)])
    return [first, later]


def loading() -> list[dict[str, Any]]:
    trace = found("sia/traces/philly.csv")
    if trace is None:
        return []
    runs = [child(LOAD, trace) for _ in range(5)]
    return [row("load philly.csv, 82,247 jobs", [run["seconds"][0] for run in runs], runs[0]["rss_mib"], budget_s=1.0)]


def philly() -> list[dict[str, Any]]:
    trace = found("sia/traces/philly.csv")
    return [
        simulated(f"{cluster} {policy}", 10, budget_s=1.0, budget_mib=500, trace=trace, cluster=cluster, policy=policy)
        for cluster in ("64x8", "312x8")
        for policy in ("fifo-greedy", "srtf", "las", "tiresias-las")
        if trace is not None
    ]


def smaller() -> list[dict[str, Any]]:
    rows = []
    if trace := found("tiresias/muri2638_job.csv"):
        for policy in ("fifo-greedy", "srtf", "las", "tiresias-las"):
            rows.append(simulated(f"muri2638_job.csv on 32x4, {policy}", 50, budget_s=0.1, trace=trace, cluster="32x4", policy=policy))
    trace, profiles = found("sia/workloads/pollux-workloads/workload-1.csv"), found("sia/profiles")
    if trace and profiles:
        preset = ("tiresias-las.preset=pollux-artifact",)
        rows.append(simulated("pollux workload-1 on 16x4, tiresias-las, rounds of 60 s", 50, budget_s=1.0, trace=trace, cluster="16x4",
                              profiles=profiles, policy="tiresias-las", settings=preset, round_s=60.0))  # fmt: skip
    return rows


def gavel() -> list[dict[str, Any]]:
    profiles, rows = found("gavel/simulation_throughputs.json"), []
    for jobs, budget_s in ((1_000, 10.0), (3_000, 30.0)):
        trace = found(f"gavel/traces/cont_n{jobs}_seed0_lam1000.trace")
        if profiles and trace:
            rows.append(simulated(f"{jobs:,} jobs, gavel-max-min", 3, budget_s=budget_s, trace=trace, format="gavel", profiles=profiles,
                                  cluster="36x1:v100+36x1:p100+36x1:k80", policy="gavel-max-min", restart_cost_s=0.0))  # fmt: skip
    return rows


def decisions() -> list[dict[str, Any]]:
    rows = []
    for what, budget_s, request in (
        ("gavel-max-min, 10,000 jobs of 80 kinds, three types", 0.1, {"policy": "gavel-max-min", "jobs": 10_000, "kinds": 80, "gpus": 400}),
        ("gavel-ftf, 2,000 jobs, each its own kind", 2.0, {"policy": "gavel-ftf", "jobs": 2_000, "kinds": 80, "gpus": 200}),
        ("themis, 2,500 GPUs among 500 apps", 1.0, {"policy": "themis", "jobs": 5_000, "kinds": 10, "gpus": 2_500, "apps": 500}),
    ):
        note(what)
        argv, asked = [sys.executable, str(HERE / "decisions.py")], json.dumps(request | {"decisions": 100 if budget_s < 1 else 10})
        answer = json.loads(subprocess.run(argv, input=asked, stdout=subprocess.PIPE, text=True, check=True).stdout)
        rows.append(row(what, answer["seconds"], answer["rss_mib"], budget_s))
        rows[-1]["met"] = rows[-1]["p99_s"] <= budget_s
    return rows


def million() -> list[dict[str, Any]]:
    return [
        simulated(
            f"12500x8 {policy}",
            1,
            budget_s=120.0,
            budget_mib=3 * MIB_PER_GIB,
            trace="synthetic",
            jobs=1_000_000,
            load=0.9,
            cluster="12500x8",
            policy=policy,
            round_s=60.0,
        )
        for policy in ("fifo-greedy", "srtf", "tiresias-las")
    ]


# ------------------------------------------------------------------------------------------------- how a row is measured


def simulated(what: str, repeats: int, *, budget_s: float, budget_mib: float | None = None, policy: str, **request: Any) -> dict[str, Any]:
    note(what)
    run = child(SIMULATE, [{**request, "policies": [(None, policy)]}, repeats])
    return row(what, run["seconds"], run["rss_mib"], budget_s, budget_mib)


def child(code: str, request: Any) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def process(arguments: list[str], environment: Mapping[str, str] | None = None) -> float:
    """Seconds from start to end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=environment)
    return time.perf_counter() - begin


def row(what: str, seconds: list[float], rss_mib: float | None = None, budget_s: float | None = None,
        budget_mib: float | None = None) -> dict[str, Any]:  # fmt: skip
    """`met`: the median and the memory are within the budget; None = there is none."""
    median_s = statistics.median(seconds)
    p99_s = statistics.quantiles(seconds, n=100, method="inclusive")[98] if len(seconds) > 1 else median_s
    met = None if budget_s is None else median_s <= budget_s and (budget_mib is None or rss_mib is None or rss_mib <= budget_mib)
    return {"what": what, "repeats": len(seconds), "min_s": min(seconds), "median_s": median_s, "p99_s": p99_s, "max_s": max(seconds),
            "rss_mib": rss_mib, "budget_s": budget_s, "budget_mib": budget_mib, "met": met}  # fmt: skip


def found(path: str) -> str | None:
    whole = DATA / path
    if not whole.exists():
        note(f"left out: no {whole} (TRAINMASTER_DATA names the folder of public traces)")
    return str(whole) if whole.exists() else None


# ------------------------------------------------------------------------------------------------- what is shown


def show(title: str, rows: Iterable[Mapping[str, Any]]) -> None:
    print(f"\n{title}\n{'':58}{'n':>4}{'min':>9}{'median':>9}{'p99':>9}{'max':>9}{'MiB':>8}   budget")
    for r in rows:
        times = "".join(f"{r[name]:9.3f}" for name in ("min_s", "median_s", "p99_s", "max_s"))
        memory = f"{r['rss_mib']:8.0f}" if r["rss_mib"] is not None else f"{'':8}"
        budget = [f"{r[name]:g} {unit}" for name, unit in (("budget_s", "s"), ("budget_mib", "MiB")) if r[name] is not None]
        verdict = {True: ": met", False: ": NOT MET", None: ""}[r["met"]]
        print(f"{r['what']:<58}{r['repeats']:4}{times}{memory}   {', '.join(budget)}{verdict}")


def note(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False)
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_gib, 1),
        "load_average": list(os.getloadavg()),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numba", "numpy", "polars")},
        "git": revision.stdout.strip() or None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


if __name__ == "__main__":
    main()
