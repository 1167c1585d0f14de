"""trainmaster whatif: the live cluster, forked into the twin: under another policy, with more nodes, with a job changed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.references import one
from trainmaster.cli.scenarios import side_by_side
from trainmaster.errors import InputError
from trainmaster.live.client import Client, Json

GROUP = "the cluster"
OF_A_JOB = ("priority", "gpus", "queue")
EXAMPLES = """examples:
  trainmaster whatif --policy fifo,srtf
  trainmaster whatif --add-nodes 2x8:h100
  trainmaster whatif --job 7 --priority 10
  trainmaster whatif --job 7 --gpus 2 --policy las      both at once, in one column"""


def arguments(parser: ArgumentParser) -> None:
    parser.description = "Beside the cluster as it is, one column a policy, or one with all the other changes. Nothing is changed."
    parser.epilog = EXAMPLES
    parser.add_argument("--policy", metavar="NAME,...", action="append", default=[], help="under these policies")
    parser.add_argument("--set", metavar="PARAM=VALUE", action="append", default=[], help="a parameter of that policy; repeatable")
    parser.add_argument("--add-nodes", metavar="SPEC", help="with these nodes too, e.g. 2x8:h100")
    parser.add_argument("--job", metavar="JOB", help="with this job changed:")
    parser.add_argument("--priority", metavar="X", help="its priority")
    parser.add_argument("--gpus", metavar="N", help="its GPUs")
    parser.add_argument("--queue", metavar="NAME", help="its queue")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        scenarios = _scenarios(client, args)
        answer = client.whatif(scenarios)
    out.say(as_json(answer) if args.json else side_by_side(answer, out))
    return 0


def _scenarios(client: Client, args: Namespace) -> list[Json]:
    from trainmaster.live.submission import gpus, options

    changes: dict[str, Any] = {
        "add_nodes": args.add_nodes,
        "job": None if args.job is None else one(client, args.job),
        "priority": args.priority and options.number(args.priority, "--priority"),
        "gpus": args.gpus and gpus.count(args.gpus, "--gpus"),
        "queue": args.queue,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if args.job is None and changes.keys() & set(OF_A_JOB):
        raise InputError("--priority, --gpus and --queue are of a job: --job JOB says which")
    if args.job is not None and not changes.keys() & set(OF_A_JOB):
        raise InputError("--job: what of it? give --priority, --gpus or --queue")
    policies = [name for text in args.policy for name in text.split(",") if name]
    if not policies and not changes:
        raise InputError("what if what? give --policy, --add-nodes, or --job with a change (trainmaster whatif --help)")
    if args.set and len(policies) != 1:
        raise InputError("--set: goes with one --policy")
    words = [f"+ {args.add_nodes}"] if args.add_nodes else []
    if args.job is not None:
        words.append(f"job {args.job}: " + ", ".join(f"{name} {changes[name]}" for name in OF_A_JOB if name in changes))
    labels = [", ".join([*words, policy])[:100] for policy in policies] or [", ".join(words)[:100]]
    columns = [{"label": label, **changes} for label in labels]
    for column, policy in zip(columns, policies, strict=False):
        column |= {"policy": policy, "settings": args.set}
    return columns
