"""What `submit`, `run` and the sbatch look-alike share: from words on the command line to the id of a job."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from trainmaster.cli.output import Output
from trainmaster.cli.references import members, one
from trainmaster.errors import InputError
from trainmaster.live.client import Client, Json
from trainmaster.live.submission import front
from trainmaster.live.submission.options import Option, mark, put, shown, split, tell, text
from trainmaster.live.submission.request import Asked, Context, Draft

CALL = "the call"
OF_THE_CALL = (
    Option(("--json",), mark("json"), None, "the job as JSON", CALL),
    Option(("--state",), put("state", text), "DIR", "the controller's folder", CALL),
    Option(("--user",), put("user", text), "NAME", "submit for another; admins may", CALL),
    Option(("--dry-run", "--test-only"), mark("dry_run"), None, "show what would be submitted, as JSON, and submit nothing", CALL),
)
QUIET = Option(("-q", "--parsable"), mark("parsable"), None, "print the id alone", CALL)
WAIT = Option(("-W", "--wait"), mark("wait"), None, "wait for its end, and exit with its exit code", CALL)
HELP = Option(("-h", "--help"), mark("help"), None, "show this help", CALL)


def show_options(parser: ArgumentParser, table: Sequence[Option]) -> None:
    """For the help alone: argparse cannot read them as sbatch does, with a script's own options after its name."""
    options = list(shown(table))
    for title in dict.fromkeys(option.group for option in options):
        add = parser.add_argument_group(title).add_argument
        for option in options:
            if option.group == title:
                told: dict[str, Any] = {"action": "store_true"} if option.value is None else {"metavar": option.value}
                add(*option.names, help=option.help.replace("%", "%%"), **told)


def parse(parser: ArgumentParser, argv: Sequence[str], table: Sequence[Option]) -> Namespace:
    """asked, and the words from the first that is no option: a file with its arguments, or `--` and a command."""
    asked = Asked()
    try:
        found, words = split(argv, (*table, HELP))
    except InputError as error:
        raise InputError(f"{error} ({parser.prog} --help)") from None
    tell(asked, found)
    if asked.get("help"):
        parser.print_help()
        raise SystemExit(0)
    return Namespace(asked=asked, words=words, state=asked.get("state"), json=asked.get("json", False))


def here() -> Context:
    try:
        workdir = os.getcwd()
    except FileNotFoundError:
        raise InputError("the folder we are in is gone; --workdir DIR says where the job runs") from None
    return Context(workdir=workdir, environ=os.environ, now_s=time.time())


def drafted(words: Sequence[str], asked: Asked) -> Draft:
    """Of the words that follow the options."""
    context = here()
    if words and words[0] == "--":
        return front.of_command(words[1:], asked, context)
    if words and words[0] != "-":
        return front.of_file(words[0], words[1:], asked, context)
    if not words and sys.stdin.isatty():
        raise InputError(f"nothing to submit: give a script, a YAML file, or {front.COMMAND}")
    script = front.text_of(sys.stdin.buffer.read(front.MOST_BYTES + 1), "standard input")
    if not script:
        raise InputError(f"nothing to submit: standard input is empty; give a script, a YAML file, or {front.COMMAND}")
    return front.of_script(script, "standard input", words[1:], asked, context)


def submitted(client: Client, draft: Draft, out: Output) -> list[int]:
    try:
        fields, user = with_jobs_looked_up(client, draft), draft.call.get("user")
        return client.submit(fields, user=user, note=lambda line: out.note(f"note: {line}"))
    except InputError as error:
        raise InputError(draft.located(str(error))) from None


def with_jobs_looked_up(client: Client, draft: Draft) -> Json:
    """The fields, with ids for the jobs that it waits for. To wait for an array is to wait for all of it."""
    after = []
    for awaited in draft.awaits:
        record = client.job(one(client, awaited.job))
        after += [{"kind": awaited.kind, "job": job["id"]} for job in members(client, record)]
    return {**draft.fields, "after": after} if after else draft.fields


def remarks(draft: Draft, out: Output) -> None:
    for note in draft.notes:
        out.note(f"note: {note}")
