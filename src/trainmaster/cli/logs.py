"""trainmaster logs JOB: what a job wrote."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.references import one
from trainmaster.cli.run import stream

GROUP = "look at them"


def arguments(parser: ArgumentParser) -> None:
    parser.description = "The output of one rank of the newest attempt, byte for byte. Logs stay when a job is preempted, fails or ends."
    parser.add_argument("job", help="id or name")
    parser.add_argument("-f", "--follow", action="store_true", help="as it grows, through preemptions, until the job ends")
    parser.add_argument("--rank", metavar="R", default="0", help="of rank R (default: 0)")
    parser.add_argument("--attempt", metavar="N", type=int, help="of attempt N (default: the newest)")
    parser.add_argument("--system", action="store_true", help="what the supervisor wrote, in place of the job")
    parser.add_argument("-n", "--tail", metavar="N", type=int, help="the last N lines")
    parser.add_argument("--list", action="store_true", help="which logs there are, and their sizes in bytes")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        job = one(client, args.job)
        if args.list or args.json:
            files = client.log_files(job, args.attempt)
            lines = (f"attempt {files['attempt']}  rank {rank}  {size:,} bytes\n" for rank, size in sorted(files["bytes"].items()))
            out.say(as_json(files) if args.json else "".join(lines))
            return 0
        stream(client, job, rank="system" if args.system else args.rank, attempt=args.attempt, follow=args.follow, tail=args.tail)
    return 0
