"""trainmaster submit: queue a command, a batch script or a YAML file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from trainmaster.cli import submission
from trainmaster.cli.connection import connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.words import ending, exit_status, plural
from trainmaster.live.client import Client, Json
from trainmaster.live.submission.options import OPTIONS

GROUP = "run jobs"
DESCRIPTION = """Queue a job and return at once. It takes along this folder and this environment, and asks for one accelerator
unless it is told otherwise.

A script may have #SBATCH lines: sbatch's options are understood there and here, and what is not understood is said.
Options go before the file or `--`; what comes after belongs to the job."""
EXAMPLES = """examples:
  trainmaster submit -- python train.py --lr 0.1
  trainmaster submit --gpus 4 --time 2h --name resnet -- torchrun --nproc-per-node 4 train.py
  trainmaster submit train.sh                       a batch script, with its #SBATCH lines
  trainmaster submit job.yaml
  trainmaster submit --array 0-99%8 -d afterok:12 sweep.sh
  id=$(trainmaster submit -q -- python train.py)    the id alone
  trainmaster submit --wait -- make data            exits with the job's own exit code"""
TABLE = (*OPTIONS, submission.QUIET, submission.WAIT, *submission.OF_THE_CALL)


def arguments(parser: ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.usage = "trainmaster submit [options] (FILE [ARGUMENTS] | -- COMMAND ...)"
    submission.show_options(parser, TABLE)


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    return submission.parse(parser, argv, TABLE)


def run(args: Namespace, out: Output) -> int:
    draft = submission.drafted(args.words, args.asked)
    parsable = draft.call.get("parsable", False)
    out.quiet = parsable
    submission.remarks(draft, out)
    if draft.call.get("dry_run"):
        out.say(draft.check().model_dump_json(indent=2) + "\n")
        return 0
    with connect(args) as client:
        ids = submission.submitted(client, draft, out)
        if not draft.call.get("wait"):
            out.say(_told(client, ids, args, parsable))
            return 0
        out.say(f"{ids[0]}\n" if parsable else "" if args.json else f"submitted {_named(ids)}\n")
        out.flush()
        ended = [client.wait(job) for job in ids]
        if args.json:
            out.say(as_json(_document(ended)))
        for job in ended:
            if exit_status(job):
                out.note(ending(job))
        return next((status for job in ended if (status := exit_status(job))), 0)


def _told(client: Client, ids: list[int], args: Namespace, parsable: bool) -> str:
    if args.json:
        return as_json(_document([client.job(ids[0])], ids))
    return f"{ids[0]}\n" if parsable else f"submitted {_named(ids)}\n"


def _document(jobs: list[Json], ids: list[int] | None = None) -> Json:
    """The job (of an array its first), and the ids of all."""
    return {**jobs[0], "ids": ids or [job["id"] for job in jobs]}


def _named(ids: list[int]) -> str:
    return f"job {ids[0]}" if len(ids) == 1 else f"jobs {ids[0]} to {ids[-1]} (an array of {plural(len(ids), 'job')})"
