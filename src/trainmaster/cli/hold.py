"""trainmaster hold JOB...: keep waiting jobs from starting."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trainmaster.cli.changing import add_jobs, change
from trainmaster.cli.output import Output
from trainmaster.live.client import Client

GROUP = "change them"


def arguments(parser: ArgumentParser) -> None:
    parser.description = "Until they are released; what runs is not touched (suspend stops it)."
    add_jobs(parser)


def run(args: Namespace, out: Output) -> int:
    return change(args, out, Client.hold, "held")
