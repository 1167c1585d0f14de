"""trainmaster acct: the accounting of jobs, with sacct's options and fields; what it prints is a trace."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from trainmaster.cli.accounting import BRIEF, DEFAULT, FIELDS, Layout, rows, with_requests
from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json

GROUP = "look at them"
DESCRIPTION = """Jobs that were there between -S (default: midnight; with -j, ever) and -E (now): yours, or with -a everybody's.

`trainmaster acct -a -X -P -S 2026-01-01 -o JobIDRaw,User,Account,Partition,QOS,Submit,Eligible,Start,End,ElapsedRaw,
TimelimitRaw,State,NNodes,NodeList,ReqTRES,AllocTRES > jobs.txt` writes a trace for `trainmaster simulate --trace jobs.txt`."""


def arguments(parser: ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.usage = "trainmaster acct [options]"
    add_options(parser, "--states")
    add_common(parser)


def add_options(parser: ArgumentParser, states: str) -> None:
    """sacct's. `states`: what its --state is called, which is the controller's folder to `acct`."""
    parser.add_argument("-S", "--starttime", metavar="TIME", help="from: 2026-11-25, 08:00, now-7days")
    parser.add_argument("-E", "--endtime", metavar="TIME", help="until")
    parser.add_argument("-a", "--allusers", action="store_true", help="of all users")
    parser.add_argument("-u", "--user", "--uid", metavar="NAME,...", action="append", default=[], help="of these users")
    parser.add_argument("-j", "--jobs", metavar="ID,...", action="append", default=[], help="these jobs; 12_3 one of an array")
    parser.add_argument("-s", states, metavar="ST,...", action="append", default=[], dest="states", help="in these states: CD, FAILED, ...")
    parser.add_argument("-r", "--partition", "--queue", metavar="NAME,...", action="append", default=[], help="in these queues")
    parser.add_argument("-A", "--accounts", metavar="NAME,...", action="append", default=[], help="of these accounts")
    parser.add_argument("--name", metavar="NAME,...", action="append", default=[], help="of these names")
    parser.add_argument("-o", "--format", metavar="FIELD,...", help=f"the fields, User%%20 is 20 wide (default: {DEFAULT})")
    parser.add_argument("-b", "--brief", action="store_true", help="JobID, State and ExitCode")
    parser.add_argument("-P", "--parsable2", action="store_true", help="fields separated by |")
    parser.add_argument("-p", "--parsable", action="store_true", help="the same, with a | at the end")
    parser.add_argument("--delimiter", metavar="X", default="|", help="what separates them in place of |")
    parser.add_argument("-n", "--noheader", action="store_true", help="without the line of names")
    parser.add_argument("-X", "--allocations", action="store_true", help="jobs without their steps: always so here")
    parser.add_argument("-e", "--helpformat", action="store_true", help="the names of all fields")


def run(args: Namespace, out: Output) -> int:
    if args.helpformat:
        out.say("".join(f"{name}\n" for name in FIELDS))
        return 0
    layout = Layout.of(BRIEF if args.brief and not args.format else args.format or DEFAULT)
    with connect(args) as client:
        jobs = rows(client, args, time.time())
        if layout.wants_requests and not args.json:
            jobs = with_requests(client, jobs)
    if args.json:
        out.say(as_json(jobs))
    elif args.parsable or args.parsable2:
        out.say(layout.separated(jobs, args.delimiter, closed=args.parsable, head=not args.noheader))
    else:
        out.say(layout.aligned(jobs, head=not args.noheader))
    return 0
