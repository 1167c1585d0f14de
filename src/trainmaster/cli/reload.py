"""trainmaster reload: let the controller read its configuration file again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json

GROUP = "the cluster"


def arguments(parser: ArgumentParser) -> None:
    parser.description = "Says what has changed, a line each. A file with a mistake changes nothing. Admins may."
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        changed = client.reload()
    out.say(as_json({"changed": changed}) if args.json else "".join(f"{line}\n" for line in changed or ["nothing has changed"]))
    return 0
