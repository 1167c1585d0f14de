"""trainmaster import: the history of a Slurm cluster, written as a trace that `simulate` replays."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from trainmaster.cli.output import Output

if TYPE_CHECKING:
    from trainmaster.api.files import OutputFile

GROUP = "simulate"
WITHIN_S = 600.0
DESCRIPTION = """Ask sacct for the jobs of the past and write them as a trace (format sacct). It changes nothing there and needs no rights;
what you may not see is not in it. Without accounting (no slurmdbd) it takes what squeue shows now."""
EXAMPLES = """examples:
  trainmaster import --from slurm --since 90d -o trace.txt --cluster-out nodes.txt
  trainmaster simulate --trace trace.txt --cluster nodes.txt
  trainmaster import --from slurm --since 2026-11-01 > trace.txt"""


def arguments(parser: ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    add = parser.add_argument
    add("--from", dest="source", choices=("slurm",), required=True, help="where it comes from")
    add("--since", metavar="WHEN", default="30d", help="how far back: 30d (ago), 2026-11-01, now-7days (default: 30d)")
    add("-o", "--output", metavar="FILE", default="-", help="the trace; - for standard output (default)")
    add("--cluster-out", metavar="FILE", help="the nodes too, for simulate --cluster")


def run(args: Namespace, out: Output) -> int:
    from trainmaster.api.files import claimed
    from trainmaster.api.imports import slurm_trace
    from trainmaster.live.backends.slurm_reading import Reading

    paths = {flag: path for flag, path in (("-o", args.output), ("--cluster-out", args.cluster_out)) if path not in (None, "-")}
    with claimed(paths) as files:
        reading = Reading()
        trace = slurm_trace(reading, args.since, WITHIN_S)
        if "--cluster-out" in files:
            files["--cluster-out"].write_text(reading.nodes())
        _write(trace.text, files.get("-o"), out)
    for line in trace.notes:
        out.note(f"note: {line}")
    return 0


def _write(text: str, file: OutputFile | None, out: Output) -> None:
    if file is None:
        out.say(text)
    else:
        file.write_text(text)
