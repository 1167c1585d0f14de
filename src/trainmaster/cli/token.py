"""trainmaster token create|list|revoke: who may speak to the controller, and as what."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.table import Column, table
from trainmaster.cli.words import stamp
from trainmaster.errors import InputError
from trainmaster.live.client import Client

GROUP = "the cluster"
ROLES = """roles: viewer sees, user also submits and changes its own jobs, operator also others' jobs, nodes and the policy,
admin also tokens and the configuration."""
COLUMNS = (Column("ID", right=True), Column("USER"), Column("ROLE"), Column("NAME", drop=2), Column("EXPIRES", drop=1))


def arguments(parser: ArgumentParser) -> None:
    parser.description = "A token is shown once, when it is made; the controller keeps its hash alone."
    parser.epilog = ROLES
    parser.usage = (
        "trainmaster token create USER [--role ROLE] [--expires TIME] [--name TEXT]\n"
        "       trainmaster token list\n       trainmaster token revoke ID..."
    )
    parser.add_argument("verb", choices=("create", "list", "revoke"), help="what to do")
    parser.add_argument("about", metavar="USER | ID", nargs="*", help="for whom; which")
    parser.add_argument("--role", choices=("viewer", "user", "operator", "admin"), default="user", help="(default: user)")
    parser.add_argument("--expires", metavar="TIME", help="it works so long: 30d, 12h (default: until it is revoked)")
    parser.add_argument("--name", metavar="TEXT", default="", help="what it is for")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        return {"create": _create, "list": _list, "revoke": _revoke}[args.verb](client, args, out)


def _create(client: Client, args: Namespace, out: Output) -> int:
    if len(args.about) != 1:
        raise InputError("for whom? trainmaster token create USER")
    expires_s = None
    if args.expires:
        from trainmaster.live.submission.durations import duration_s

        expires_s = time.time() + duration_s(args.expires, "--expires", bare_s=1.0)
    issued = client.issue_token(args.about[0], args.role, args.name, expires_s)
    if not args.json:
        out.note(f"token {issued['id']} of {args.about[0]}, {args.role}; it is not shown again:")
    out.say(as_json(issued) if args.json else f"{issued['token']}\n")
    return 0


def _list(client: Client, args: Namespace, out: Output) -> int:
    tokens = client.tokens()
    rows = [[str(one["id"]), one["user"], one["role"], one["name"], stamp(one["expires_s"]) or "never"] for one in tokens]
    out.say(as_json(tokens) if args.json else table(COLUMNS, rows, out))
    return 0


def _revoke(client: Client, args: Namespace, out: Output) -> int:
    if not args.about or not all(word.isascii() and word.isdecimal() and len(word) < 16 for word in args.about):
        raise InputError("which? trainmaster token revoke ID (trainmaster token list tells)")
    for word in args.about:
        client.revoke_token(int(word))
    out.say(as_json({"revoked": [int(word) for word in args.about]}) if args.json else f"revoked {', '.join(args.about)}\n")
    return 0
