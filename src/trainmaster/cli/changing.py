"""What the verbs that change jobs share: which jobs are meant, and what is said when it is done."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.references import all_of, pages
from trainmaster.cli.words import plural
from trainmaster.errors import InputError
from trainmaster.live.client import Client

AT_ONCE = 1_000  # ids a request

Verb = Callable[[Client, Sequence[int]], None]


def add_jobs(parser: ArgumentParser, *, every: str | None = None) -> None:
    parser.add_argument("jobs", metavar="JOB", nargs="*", help="ids or names; the id of an array means all of it, 12_3 one of it")
    parser.add_argument("-n", "--name", metavar="NAME", action="append", default=[], help="all of your jobs of this name")
    if every is not None:
        parser.add_argument("--all", action="store_true", help=every)
    add_common(parser)


def change(args: Namespace, out: Output, verb: Verb, done: str) -> int:
    with connect(args) as client:
        ids = meant(client, args)
        for first in range(0, len(ids), AT_ONCE):
            verb(client, ids[first : first + AT_ONCE])
        if args.json:
            jobs = [job for first in range(0, len(ids), AT_ONCE) for job in client.jobs(ids=ids[first : first + AT_ONCE], all=True)]
            out.say(as_json(jobs))
        elif not ids:
            out.note("no job to change")
        else:
            out.say(f"{done} {f'job {ids[0]}' if len(ids) == 1 else plural(len(ids), 'job')}\n")
    return 0


def meant(client: Client, args: Namespace) -> list[int]:
    every = getattr(args, "all", False)
    if not (args.jobs or args.name or every):
        raise InputError("which jobs? give ids or names, or -n NAME" + (", or --all" if hasattr(args, "all") else ""))
    ids = all_of(client, args.jobs)
    if args.name or every:
        which = {"users": [client.whoami()["user"]], **({} if every else {"names": args.name})}
        ids += [job["id"] for job in pages(client, **which)]
    return list(dict.fromkeys(ids))
