"""trainmaster requeue JOB...: stop running jobs and queue them again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trainmaster.cli.changing import add_jobs, change
from trainmaster.cli.output import Output
from trainmaster.live.client import Client

GROUP = "change them"


def arguments(parser: ArgumentParser) -> None:
    parser.description = "Each starts again from its last checkpoint, if it has one."
    add_jobs(parser)


def run(args: Namespace, out: Output) -> int:
    return change(args, out, Client.requeue, "queued again")
