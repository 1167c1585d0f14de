"""trainmaster cancel JOB...: end jobs, waiting or running."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trainmaster.cli.changing import add_jobs, change
from trainmaster.cli.output import Output
from trainmaster.live.client import Client

GROUP = "change them"


def arguments(parser: ArgumentParser) -> None:
    parser.description = "A running job gets its grace time to end, then it and all its processes are killed."
    add_jobs(parser, every="all of your jobs")


def run(args: Namespace, out: Output) -> int:
    return change(args, out, Client.cancel, "cancelled")
