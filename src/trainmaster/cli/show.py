"""trainmaster show JOB: everything about one job, and its attempts."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.references import one
from trainmaster.cli.table import Column, pairs, table
from trainmaster.cli.words import amount, elapsed, out_of_memory, ran_s, stamp
from trainmaster.live.client import Json

GROUP = "look at them"
COLUMNS = (
    Column("ATTEMPT", right=True), Column("STATE"), Column("NODES", drop=3), Column("START", drop=1), Column("TIME", right=True, drop=2),
    Column("EXIT", right=True), Column("STEP", right=True, drop=5), Column("SAVED", right=True, drop=6), Column("LOST", right=True, drop=4),
    Column("REASON"),
)  # fmt: skip


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", help="id or name")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        job = client.job(one(client, args.job))
        attempts, spec = client.attempts(job["id"]), client.spec(job["id"])
    if args.json:
        out.say(as_json({**job, "tries": attempts, "spec": spec}))
        return 0
    now_s = time.time()
    out.say(pairs(_facts(job, spec, now_s)))
    if attempts:
        out.say("\n" + table(COLUMNS, [_row(attempt, now_s) for attempt in attempts], out))
    return 0


def _facts(job: Json, spec: Json, now_s: float) -> list[tuple[str, str]]:
    command = " ".join(spec["command"]) if spec["command"] else f"a script of {len(spec['script'].splitlines())} lines"
    kind = f" {job['gpu_type']}" if job["gpu_type"] else f" of {' or '.join(spec['gpu_types'])}" if spec["gpu_types"] else ""
    array = f"index {job['array_index']} of array {job['array_job']}" if job["array_job"] is not None else ""
    steps = "" if job["step"] is None else f"{job['step']:,}" + ("" if job["saved_step"] is None else f", saved {job['saved_step']:,}")
    facts = [
        ("job", f"{job['id']} {job['name']}"),
        ("user", job["user"] + (f", account {job['account']}" if job["account"] else "")),
        ("queue", job["queue"] or "default"),
        ("state", ("OUT_OF_MEMORY" if out_of_memory(job) else job["state"]) + (f" ({job['reason']})" if job["reason"] else "")),
        ("exit code", "" if job["exit_code"] is None else str(job["exit_code"])),
        ("command", command),
        ("folder", spec["workdir"]),
        ("GPUs", amount(job["gpus"]) + kind),
        ("nodes", ", ".join(job["nodes"])),
        ("array", array),
        ("waits for", ", ".join(job["after"])),
        ("priority", f"{job['priority']:g}"),
        ("submitted", stamp(job["submit_s"])),
        ("started", stamp(job["start_s"])),
        ("ended", stamp(job["finish_s"])),
        ("ran", elapsed(ran_s(job, now_s)) if job["start_s"] is not None else ""),
        ("time limit", elapsed(job["limit_s"])),
        ("expected", stamp(job["eta_s"])),
        ("preemptible", "yes" if job["preemptible"] else "no"),
        ("preemptions", f"{job['preemptions']}, {job['lost_steps']:,} steps lost" if job["preemptions"] or job["lost_steps"] else ""),
        ("failures", str(job["failures"]) if job["failures"] else ""),
        ("steps", steps),
        ("labels", ", ".join(f"{name}={value}" for name, value in job["labels"].items())),
    ]
    return [(name, value) for name, value in facts if value]


def _row(attempt: Json, now_s: float) -> list[str]:
    numbers = [attempt["exit_code"], attempt["step"], attempt["saved_step"], attempt["lost_steps"]]
    code, step, saved, lost = ("" if number is None else f"{number:,}" for number in numbers)
    start_s, end_s = attempt["start_s"], attempt["end_s"]
    ran = "" if start_s is None else elapsed((now_s if end_s is None else end_s) - start_s)
    nodes = ",".join(attempt["nodes"])
    return [str(attempt["attempt"]), attempt["state"], nodes, stamp(start_s), ran, code, step, saved, lost, attempt["reason"]]
