"""trainmaster resume JOB...: let suspended jobs go on."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trainmaster.cli.changing import add_jobs, change
from trainmaster.cli.output import Output
from trainmaster.live.client import Client

GROUP = "change them"


def arguments(parser: ArgumentParser) -> None:
    parser.description = "They wait for GPUs again, at the place that they had."
    add_jobs(parser)


def run(args: Namespace, out: Output) -> int:
    return change(args, out, Client.resume, "resumed")
