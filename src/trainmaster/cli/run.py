"""trainmaster run: run a command as a job and stay with it: its output here, its exit code ours, Ctrl-C cancels it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress

from trainmaster.cli import submission
from trainmaster.cli.connection import connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.words import ending, exit_status
from trainmaster.errors import Conflict
from trainmaster.live.client import Client
from trainmaster.live.submission.options import OPTIONS
from trainmaster.live.submission.request import Draft

GROUP = "run jobs"
DESCRIPTION = """Queue a job, show its output as it comes, and exit with its exit code. Ctrl-C cancels it; a second one leaves at once."""
EXAMPLES = """examples:
  trainmaster run -- python train.py
  trainmaster run --gpus 2 --time 30m -- pytest tests/gpu"""
TABLE = (*OPTIONS, *submission.OF_THE_CALL)


def arguments(parser: ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.usage = "trainmaster run [options] (FILE [ARGUMENTS] | -- COMMAND ...)"
    submission.show_options(parser, TABLE)


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    return submission.parse(parser, argv, TABLE)


def run(args: Namespace, out: Output) -> int:
    return attached(submission.drafted(args.words, args.asked), args, out)


def attached(draft: Draft, args: Namespace, out: Output) -> int:
    """Submit it and stay with it to its end."""
    submission.remarks(draft, out)
    if draft.call.get("dry_run"):
        out.say(draft.check().model_dump_json(indent=2) + "\n")
        return 0
    if "array" in draft.fields:
        raise Conflict("--array: many jobs have no one output to show; trainmaster submit --wait waits for them")
    with connect(args) as client:
        job = submission.submitted(client, draft, out)[0]
        out.note(f"job {job}: queued (trainmaster why {job} tells what it waits for)")
        try:
            if not args.json:
                stream(client, job, follow=True)
            record = client.wait(job)
        except BaseException:  # interrupted, or nobody reads our output any more: the job was to end with us
            client.close()  # an answer may be half read
            out.note(f"cancelling job {job}")
            with suppress(Conflict):  # it has just ended
                client.cancel([job])
            raise
        if args.json:
            out.say(as_json(record))
        if exit_status(record):
            out.note(ending(record))
        return exit_status(record)


def stream(client: Client, job: int, *, rank: str = "0", attempt: int | None = None, follow: bool = False, tail: int | None = None) -> None:
    """A log to standard output, byte for byte."""
    binary = getattr(sys.stdout, "buffer", None)
    for chunk in client.logs(job, rank=rank, attempt=attempt, follow=follow, tail=tail):
        if binary is not None:
            binary.write(chunk)
            binary.flush()
        else:  # a stream of text in its place
            sys.stdout.write(chunk.decode(errors="replace"))
