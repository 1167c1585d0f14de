"""trainmaster policy [NAME]: which policy decides; with a name, the twin's comparison and then the change."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.scenarios import side_by_side
from trainmaster.cli.table import pairs
from trainmaster.cli.words import stamp
from trainmaster.errors import Conflict, InputError
from trainmaster.live.client import Client, Json

GROUP = "the cluster"
EXAMPLES = """examples:
  trainmaster policy
  trainmaster policy srtf --dry-run
  trainmaster policy las --set quantum_s=600"""


def arguments(parser: ArgumentParser) -> None:
    parser.description = """The policy that decides now. With a name: what the twin says of the jobs that are here under both, and then the
change, from the next decision on. On a terminal it asks before. `trainmaster policies` lists them. Operators may."""
    parser.epilog = EXAMPLES
    parser.add_argument("name", nargs="?", help="the policy to change to")
    parser.add_argument("--set", metavar="PARAM=VALUE", action="append", default=[], help="a parameter of it; repeatable")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="the comparison alone")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        if args.name is None:
            if args.set or args.dry_run:
                raise InputError("of which policy? trainmaster policy NAME")
            out.say(_told(client.policy(), args))
            return 0
        comparison = _comparison(client, args, out)
        if comparison is not None and not args.json:
            out.say(side_by_side(comparison, out))
            out.flush()
        agreed = not args.dry_run and (args.yes or args.json or _agreed(args.name))
        changed = client.set_policy(args.name, args.set) if agreed else None
    if args.json:
        out.say(as_json({"comparison": comparison, "policy": changed}))
    elif changed is not None:
        out.say(f"{changed['name']} decides from now on\n")
    elif not args.dry_run:
        out.note("nothing is changed")
    return 0


def _comparison(client: Client, args: Namespace, out: Output) -> Json | None:
    """None on a cluster where nothing waits or runs."""
    try:
        return client.whatif([{"label": args.name, "policy": args.name, "settings": args.set}])
    except Conflict as idle:
        out.note(f"no comparison: {idle}")
        return None


def _told(policy: Json, args: Namespace) -> str:
    if args.json:
        return as_json(policy)
    params = ", ".join(f"{name}={value}" for name, value in policy["params"].items())
    last = policy["last_decision_ms"]
    facts = [
        ("policy", policy["name"]),
        ("parameters", params or "its defaults"),
        ("since", stamp(policy["since_s"])),
        ("decisions", f"{policy['decisions']:,}" + ("" if last is None else f", the last in {last:.1f} ms")),
    ]
    return pairs(facts)


def _agreed(name: str) -> bool:
    """Asked on a terminal alone: a script has said what it wants."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    sys.stderr.write(f"change to {name}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
