"""trainmaster update JOB: change what was asked for: priority, queue, limit, GPUs, name."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.references import all_of
from trainmaster.errors import InputError

GROUP = "change them"


def arguments(parser: ArgumentParser) -> None:
    parser.description = "GPUs can be changed only while the job waits, the rest until it has ended."
    parser.add_argument("jobs", metavar="JOB", nargs="+", help="ids or names; the id of an array means all of it")
    parser.add_argument("--priority", metavar="X", help="larger goes first")
    parser.add_argument("-p", "--queue", "--partition", metavar="NAME", help="move it there")
    parser.add_argument("-t", "--time", metavar="TIME", help="its wall-clock limit: 2h, 1-12:00:00, 90 (minutes)")
    parser.add_argument("--estimate", metavar="TIME", help="how long it should take")
    parser.add_argument("-G", "--gpus", metavar="N", help="GPUs in all")
    parser.add_argument("-J", "--name", metavar="NAME", help="its name")
    parser.add_argument("--preemptible", choices=("yes", "no"), help="whether it may be stopped for another job")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    changes = _changes(args)
    if not changes:
        raise InputError("nothing to change: give --priority, --queue, --time, --estimate, --gpus, --name or --preemptible")
    with connect(args) as client:
        jobs = [client.update(job, **changes) for job in all_of(client, args.jobs)]
    told = ", ".join(f"{name} {value}" for name, value in changes.items())
    out.say(as_json(jobs) if args.json else "".join(f"job {job['id']}: {told}\n" for job in jobs))
    return 0


def _changes(args: Namespace) -> dict[str, Any]:
    from trainmaster.live.submission import durations, gpus, options

    changes = {
        "priority": args.priority and options.number(args.priority, "--priority"),
        "queue": args.queue and options.text(args.queue, "--queue"),
        "limit_s": args.time and _limit_s(args.time),
        "estimate_s": args.estimate and durations.duration_s(args.estimate, "--estimate"),
        "gpus": args.gpus and gpus.count(args.gpus, "--gpus"),
        "name": args.name and options.text(args.name, "--name"),
        "preemptible": None if args.preemptible is None else args.preemptible == "yes",
    }
    return {name: value for name, value in changes.items() if value is not None}


def _limit_s(text: str) -> float:
    from trainmaster.live.submission import durations

    limit_s = durations.limit_s(text, "--time")
    if not limit_s:  # Slurm's 0 is no limit; taken as it stands it would end the job at once
        raise InputError(f"--time {text}: a limit can be changed, not taken away; give a long one, e.g. 365d")
    return limit_s
