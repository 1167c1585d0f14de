"""trainmaster events [JOB]: what happened, oldest first."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.references import one
from trainmaster.cli.words import stamp
from trainmaster.cluster.wording import printable
from trainmaster.live.client import Json

GROUP = "look at them"
POLL_S = 1.0
PAGE = 1_000


def arguments(parser: ArgumentParser) -> None:
    parser.description = "The rows of the append-only events table. Follow with -f; --json prints one object a line then."
    parser.add_argument("job", nargs="?", help="id or name; without it, everything")
    parser.add_argument("-f", "--follow", action="store_true", help="and what happens from now on")
    parser.add_argument("--after", metavar="N", type=int, default=0, help="only events after number N")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        job = one(client, args.job) if args.job is not None else None
        after, gathered = args.after, []
        while True:
            events, after = client.events(job, after=after, limit=PAGE)
            if args.json and not args.follow:
                gathered += events
            else:
                out.say("".join(_line(event, args.json) for event in events))
                out.flush()
            if len(events) == PAGE:
                continue
            if not args.follow:
                break
            time.sleep(POLL_S)
    if args.json:
        out.say(as_json(gathered))
    return 0


def _line(event: Json, as_object: bool) -> str:
    if as_object:
        return as_json(event, lines=True)
    who = [f"job {event['job']}"] if event["job"] is not None else []
    who += [f"attempt {event['attempt']}"] if event["attempt"] is not None else []
    by = f"by {event['actor']}" if event["actor"] else ""
    words = [*who, event["kind"], event["state"] or "", event["reason"], by]
    return f"{event['id']:>6}  {stamp(event['at_s'])}  {printable('  '.join(word for word in words if word))}\n"
