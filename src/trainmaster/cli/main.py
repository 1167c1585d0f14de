"""The command `trainmaster`: finds the verb, hands it the rest, and turns what goes wrong into one line.

A verb is a module here whose docstring begins with "trainmaster VERB", up to a colon and its summary; it has
`arguments(parser)` and `run(args, out) -> exit status`; `GROUP = "..."` says under which heading of the help it stands. One whose
command line is not argparse's has `parse(parser, argv)` too. Only the one that is used is imported.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import importlib.util
import io
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from trainmaster import __version__
from trainmaster.cli.output import Output
from trainmaster.cluster.wording import printable
from trainmaster.errors import InputError, TrainmasterError

DESCRIPTION = """A deep-learning cluster manager: replay a trace under published scheduling policies and compare them;
run the one that you chose on real jobs."""

EXAMPLES = """examples:
  trainmaster simulate --trace synthetic:philly --report report.html
  trainmaster simulate --trace my_sacct.txt --cluster 16x8 --policy fifo,tiresias-las
  trainmaster up                                   then, elsewhere:
  trainmaster submit --gpus 2 -- python train.py
  trainmaster queue

`trainmaster VERB --help` tells the rest."""

HELP_COLUMN, HELP_WIDTH = 30, 110
COLLECT_AFTER = (50_000, 10, 10)  # objects more: what a verb imports and reads lives to its end, and 10,000 jobs are searched in vain
INTERRUPTED, BROKEN_PIPE = 130, 141  # as a shell reports SIGINT and SIGPIPE

GROUPS = ("simulate", "run jobs", "look at them", "change them", "the cluster")  # the order of the help; others come last
ALIASES = {"ls": "queue", "ps": "queue"}
GROUP = re.compile(r'^GROUP = "(.+)"$', re.MULTILINE)
SUMMARY = re.compile(r'\s*"""trainmaster (\w+)[^:\n]*:\s*(.+?)\.?\s*("""|\n)')


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(re.sub(r"^argument (\S+): ", r"\1: ", message) + f" ({self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    gc.set_threshold(*COLLECT_AFTER)
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()  # None: closed by the caller
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ● gets a ?
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except TrainmasterError as error:
        return _complain(str(error), error.exit_status)
    except KeyboardInterrupt:
        # One that came while a dataclass was being made leaves a mark by which Python, when it ends, kills itself with SIGINT
        # in place of our status; running any string wipes it.
        exec("")
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has enough
        _silence_stdout()
        return BROKEN_PIPE
    except OSError as error:  # a full disk, a file that went away
        _silence_stdout()  # if that is what is full
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", 1)
    except MemoryError:
        return _complain("out of memory", 1)


def verbs() -> dict[str, str]:
    """Every verb and its summary, from the text of the files: nothing is imported."""
    return {verb: summary for listed in _grouped().values() for verb, summary in listed.items()}


def _grouped() -> dict[str, dict[str, str]]:
    """The verbs under their headings."""
    package = importlib.import_module("trainmaster.cli")
    found: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
    for module in pkgutil.iter_modules(package.__path__):
        source = _source(module.name)
        if match := SUMMARY.match(source):
            group = GROUP.search(source)
            found.setdefault(group[1] if group else "other", {})[match[1]] = match[2]
    return {group: listed for group, listed in found.items() if listed}


def _source(verb: str) -> str:
    """The text of a verb's file; nothing if there is none."""
    name = f"trainmaster.cli.{verb}"
    spec = importlib.util.find_spec(name) if verb.isidentifier() else None
    return getattr(spec.loader, "get_source", lambda _: None)(name) or "" if spec else ""


def _run(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        parser = _top()
        parser.parse_args(argv)
        parser.print_help()
        return 0
    verb, rest = ALIASES.get(argv[0], argv[0]), argv[1:]
    if not SUMMARY.match(_source(verb)):
        near = difflib.get_close_matches(verb, verbs(), 1, 0.5)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(sorted(verbs()))}"
        raise InputError(f'no verb "{verb}"; {hint} (trainmaster --help)')
    module = importlib.import_module(f"trainmaster.cli.{verb}")
    parser = Parser(prog=f"trainmaster {verb}", allow_abbrev=False, formatter_class=_help)
    module.arguments(parser)
    args = getattr(module, "parse", _parse)(parser, rest)
    status: int = module.run(args, Output(quiet=getattr(args, "quiet", False), command=["trainmaster", *argv]))
    return status


def _parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    args, unknown = parser.parse_known_args(argv)
    if unknown and not unknown[0].startswith("-"):
        parser.error(f"{unknown[0]!r} belongs to no option")
    if unknown:
        options = [text for action in parser._actions for text in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], options, 1, 0.5)
        parser.error(f"no option {unknown[0]}" + (f"; did you mean {near[0]}?" if near else ""))
    return args


def _top() -> Parser:
    grouped = _grouped()
    width = max(len(verb) for listed in grouped.values() for verb in listed)
    lines = [DESCRIPTION]
    for group, listed in grouped.items():
        lines += ["", f"{group}:", *(f"  {verb:<{width}}  {summary}" for verb, summary in listed.items())]
    parser = Parser(
        prog="trainmaster",
        usage="trainmaster VERB [options]",
        description="\n".join(lines),
        epilog=EXAMPLES,
        allow_abbrev=False,
        formatter_class=_help,
    )
    parser.add_argument("--version", action="version", version=f"trainmaster {__version__}")
    return parser


def _help(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=HELP_COLUMN, width=HELP_WIDTH)


def _complain(problem: str, status: int) -> int:
    print(f"trainmaster: {printable(' '.join(problem.split()))}", file=sys.stderr)
    return status


def _silence_stdout() -> None:
    """The interpreter flushes at exit, and would complain of the same pipe again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
