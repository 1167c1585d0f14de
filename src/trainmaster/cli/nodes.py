"""trainmaster nodes [drain|resume NODE...]: the nodes, what is free on them, and taking one out of use."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.table import Column, table
from trainmaster.cli.words import amount
from trainmaster.errors import InputError
from trainmaster.live.client import Json

GROUP = "the cluster"
COLUMNS = (
    Column("NODE"), Column("STATE"), Column("TYPE", drop=2), Column("GPUS", right=True), Column("FREE", right=True),
    Column("CPUS", right=True, drop=4), Column("GIB", right=True, drop=5), Column("QUEUES", drop=6), Column("JOBS", drop=3),
    Column("REASON", drop=1),
)  # fmt: skip
STYLES = {"idle": "green", "down": "red", "drained": "yellow", "draining": "yellow"}


def arguments(parser: ArgumentParser) -> None:
    parser.description = "Without a verb, lists them. A node that is drained gets no new jobs; those on it go on. Operators may drain."
    parser.usage = "trainmaster nodes [[drain|resume] NODE...] [--reason TEXT] [options]"
    parser.add_argument("verb", nargs="?", choices=("drain", "resume"), help="drain: give it no new jobs; resume: use it again")
    parser.add_argument("nodes", metavar="NODE", nargs="*", help="their names")
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, for those who wonder")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    if args.verb and not args.nodes:
        raise InputError(f"which nodes? trainmaster nodes {args.verb} NODE")
    with connect(args) as client:
        for node in args.nodes:
            if args.verb == "drain":
                client.drain(node, args.reason)
            else:
                client.resume_node(node)
        nodes = [node for node in client.nodes() if not args.nodes or node["name"] in args.nodes]
    out.say(as_json(nodes) if args.json else table(COLUMNS, [_row(node) for node in nodes], out, [_style(node) for node in nodes]))
    return 0


def _style(node: Json) -> str:
    return STYLES.get(node["state"], "")


def _row(node: Json) -> list[str]:
    others = f"{amount(node['others_gpus'])} GPUs used by others" if node["others_gpus"] else ""
    return [
        node["name"], node["state"], node["type"], amount(node["gpus"]), amount(node["free_gpus"]),
        "" if node["cpus"] is None else amount(node["cpus"]), "" if node["memory_gib"] is None else f"{node['memory_gib']:.0f}",
        ",".join(node["queues"]), ",".join(map(str, node["jobs"])), "; ".join(filter(None, (node["reason"], others))),
    ]  # fmt: skip
