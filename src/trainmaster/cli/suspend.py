"""trainmaster suspend JOB...: stop jobs until they are resumed; their GPUs go to others."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trainmaster.cli.changing import add_jobs, change
from trainmaster.cli.output import Output
from trainmaster.live.client import Client

GROUP = "change them"


def arguments(parser: ArgumentParser) -> None:
    parser.description = "A running job checkpoints first, if it can; a waiting one keeps its place and does not start."
    add_jobs(parser)


def run(args: Namespace, out: Output) -> int:
    return change(args, out, Client.suspend, "suspended")
