"""trainmaster slurm install DIR: sbatch, squeue, scancel, sacct, srun and scontrol, for tools that call them.

Each look-alike in the folder calls `trainmaster slurm NAME ...`. They speak as Slurm's do where tools listen: "Submitted batch job 7",
`sacct -P`, `squeue -o`. Inside jobs the look-alikes of the node stand before these.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trainmaster.cli import submission
from trainmaster.cli.connection import connect, state_folder
from trainmaster.cli.output import Output
from trainmaster.cli.words import exit_status
from trainmaster.errors import InputError

GROUP = "run jobs"
EXAMPLES = """examples:
  trainmaster slurm install ~/slurm && export PATH=~/slurm:$PATH
  sbatch train.sh; squeue --me; scancel 7                  then, or a tool that calls them (submitit)"""
MODE = 0o755
ENDED_S = 300.0  # so long squeue shows what has ended, where all states are asked for (MinJobAge)


def arguments(parser: ArgumentParser) -> None:
    parser.description = __doc__ and __doc__.partition("\n\n")[2]
    parser.epilog = EXAMPLES
    parser.usage = "trainmaster slurm install DIR [--state DIR]\n       trainmaster slurm NAME ..."
    parser.add_argument("command", metavar="install | NAME", help="write the look-alikes into a folder; or be one of them")
    parser.add_argument("words", metavar="DIR | ...", nargs="*", help="the folder; or what the look-alike was called with")
    parser.add_argument("--state", metavar="DIR", help="the controller that they are to speak to")


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """What a look-alike was called with is its own to read."""
    if argv and argv[0] in COMMANDS:
        return Namespace(command=argv[0], words=list(argv[1:]), state=None, json=False)
    return parser.parse_args(argv)


def run(args: Namespace, out: Output) -> int:
    if args.command in COMMANDS:
        return COMMANDS[args.command](args, out)
    if args.command != "install" or len(args.words) != 1:
        raise InputError(f"slurm: what? install DIR, or one of {', '.join(COMMANDS)}")
    folder = install(Path(args.words[0]), state_folder(args))
    out.say(f"{folder}\n")
    out.note(f"{', '.join(COMMANDS)}: put them first with  export PATH={shlex.quote(str(folder))}:$PATH")
    return 0


def install(folder: Path, state: Path) -> Path:
    """The look-alikes, each a line of sh; `state` is where they look unless the environment says otherwise."""
    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        file = folder / name
        temporary = folder / f".{name}.new"
        temporary.write_text(
            "#!/bin/sh\n"
            f'[ -n "$TRAINMASTER_STATE$TRAINMASTER_URL" ] || export TRAINMASTER_STATE={shlex.quote(str(state.absolute()))}\n'
            f'exec {shlex.quote(sys.executable)} -m trainmaster.cli.main slurm {name} "$@"\n'
        )
        temporary.chmod(MODE)
        os.replace(temporary, file)
    return folder


# ------------------------------------------------------------------------------------------------ the look-alikes


def sbatch(args: Namespace, out: Output) -> int:
    from trainmaster.live.submission import front
    from trainmaster.live.submission.options import AS_SBATCH, split, tell
    from trainmaster.live.submission.request import Asked

    asked = Asked()
    found, words = split(args.words, AS_SBATCH)
    tell(asked, found)
    command = asked.get("wrap")
    draft = (
        front.of_script(f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{command}\n", "wrap", words, asked, submission.here())
        if command is not None
        else submission.drafted(words, asked)
    )
    draft.fields.setdefault("output", "slurm-%A_%a.out" if "array" in draft.fields else "slurm-%j.out")  # sbatch's own default
    submission.remarks(draft, out)
    if draft.call.get("dry_run"):
        draft.check()
        out.note("sbatch: this would be submitted")
        return 0
    with connect(args) as client:
        ids = submission.submitted(client, draft, out)
        out.say(f"{ids[0]}\n" if draft.call.get("parsable") else f"Submitted batch job {ids[0]}\n")
        if not draft.call.get("wait"):
            return 0
        out.flush()
        return max(exit_status(client.wait(job)) for job in ids)


def srun(args: Namespace, out: Output) -> int:
    """Outside a job: a job of one process, and its output here."""
    from trainmaster.cli.run import attached
    from trainmaster.live.submission import front
    from trainmaster.live.submission.options import AS_SBATCH, Option, ignored, silent, split, tell
    from trainmaster.live.submission.request import Asked

    asked = Asked()
    own = (
        Option(("-u", "--unbuffered", "-l", "--label"), silent),
        Option(("--pty",), ignored("no terminal is passed on; `trainmaster shell` opens one in a running job")),
        Option(("--mpi", "-K", "--kill-on-bad-exit"), silent, "X", optional=True),
    )
    found, words = split(args.words, (*AS_SBATCH, *own))
    tell(asked, found)
    if asked.get("tasks", 1) > 1 or asked.get("tasks_per_node", 1) > 1:
        raise InputError("srun: outside a job one process is started; several are what srun starts in a script of sbatch")
    command = words[1:] if words[:1] == ["--"] else words
    return attached(front.of_command(command, asked, submission.here()), args, out)


def scancel(args: Namespace, out: Output) -> int:
    from trainmaster.cli.accounting import listed, slurm_states
    from trainmaster.cli.references import all_of, pages
    from trainmaster.live.submission.signals import signal_number

    parser = _Reader(prog="scancel", allow_abbrev=False, add_help=False)
    parser.add_argument("jobs", nargs="*")
    parser.add_argument("-s", "--signal")
    parser.add_argument("-n", "--name", "--jobname", action="append", default=[])
    parser.add_argument("-u", "--user", action="append", default=[])
    parser.add_argument("-p", "--partition", action="append", default=[])
    parser.add_argument("-t", "--state", action="append", default=[])
    parser.add_argument("--me", action="store_true")
    for flag in (("-b", "--batch"), ("-f", "--full"), ("-Q", "--quiet"), ("-v", "--verbose")):
        parser.add_argument(*flag, action="store_true")
    asked = _read(parser, args.words)
    with connect(args) as client:
        ids = all_of(client, [word for text in asked.jobs for word in text.split(",")])
        which: dict[str, Any] = {"names": listed(asked.name), "users": listed(asked.user), "queues": listed(asked.partition)}
        if asked.me:
            which["users"] = [client.whoami()["user"]]
        if asked.state and not (states := sorted(slurm_states(asked.state) - {""})):
            return 0  # of Slurm's, which no job has here
        if asked.state:
            which["states"] = states
        if any(which.values()) and not asked.jobs:
            ids = [job["id"] for job in pages(client, **which)]
        elif not asked.jobs:
            raise InputError("scancel: which jobs? ids, or --me, --user, --name, --partition, --state")
        fields = {"names": "name", "users": "user", "queues": "queue", "states": "state"}
        jobs = [job for job in map(client.job, ids) if all(not words or job[fields[key]] in words for key, words in which.items())]
        if asked.signal is not None:
            number = signal_number(asked.signal, "--signal")
            for job in jobs:
                if job["state"] == "RUNNING":
                    client.signal(job["id"], number)
        elif left := [job["id"] for job in jobs if job["finish_s"] is None]:
            client.cancel(left)
    return 0


def sacct(args: Namespace, out: Output) -> int:
    from trainmaster.cli import acct

    parser = _Reader(prog="sacct", allow_abbrev=False, add_help=False)
    acct.add_options(parser, "--state")
    for flag in (("-D", "--duplicates"), ("-L", "--allclusters")):
        parser.add_argument(*flag, action="store_true")
    parser.add_argument("--units")
    asked = _read(parser, args.words)
    asked.json, asked.state = False, args.state
    return acct.run(asked, out)


def squeue(args: Namespace, out: Output) -> int:
    from trainmaster.cli import squeue_format
    from trainmaster.cli.accounting import listed, slurm_states
    from trainmaster.cli.queue import in_order
    from trainmaster.cli.references import indexed, members

    parser = _Reader(prog="squeue", allow_abbrev=False, add_help=False)
    for flags in (("-j", "--jobs"), ("-u", "--user", "--users"), ("-p", "--partition"), ("-n", "--name"), ("-t", "--states")):
        parser.add_argument(*flags, action="append", default=[])
    parser.add_argument("-o", "--format", default=squeue_format.DEFAULT)
    for flag in (("--me",), ("-h", "--noheader"), ("-r", "--array"), ("-a", "--all"), ("-l", "--long"), ("--start",)):
        parser.add_argument(*flag, action="store_true")
    asked = _read(parser, args.words)
    with connect(args) as client:
        which: dict[str, Any] = {"users": listed(asked.user), "queues": listed(asked.partition), "names": listed(asked.name)}
        which["users"] += [client.whoami()["user"]] if asked.me else []
        ids = dict(map(indexed, listed(asked.jobs)))
        every = "all" in map(str.lower, listed(asked.states))
        states = [] if every else sorted(slurm_states(asked.states) - {""})
        since_s = time.time() - ENDED_S if every and not ids else None
        none = bool(asked.states) and not every and not states  # of Slurm's, which no job has here
        jobs = [] if none else client.jobs(**which, ids=sorted(ids), all=bool(ids) or every, states=states, since_s=since_s)
        if ids:
            meant = [(other, ids[job["id"]]) for job in jobs for other in members(client, job)]
            jobs = [job for job, indices in meant if indices is None or job["array_index"] in indices]
            jobs = [job for job in jobs if every or states or job["finish_s"] is None]
    out.say(squeue_format.listing(in_order(jobs), asked.format, time.time(), head=not asked.noheader))
    return 0


def scontrol(args: Namespace, out: Output) -> int:
    """requeue, hold, release, suspend, resume."""
    from trainmaster.cli.references import all_of

    with connect(args) as client:
        verbs = {
            "requeue": client.requeue, "hold": client.hold, "release": client.release, "suspend": client.suspend, "resume": client.resume,
        }  # fmt: skip
        verb, *words = args.words or [""]
        if verb not in verbs or not words:
            raise InputError(f"scontrol: {shlex.join(args.words)!r} is not known here; {', '.join(verbs)} JOB are")
        verbs[verb](all_of(client, [job for word in words for job in word.split(",")]))
    return 0


COMMANDS: dict[str, Callable[[Namespace, Output], int]] = {
    "sbatch": sbatch, "srun": srun, "scancel": scancel, "sacct": sacct, "squeue": squeue, "scontrol": scontrol,
}  # fmt: skip


class _Reader(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}")


def _read(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    asked, unknown = parser.parse_known_args(words)
    if unknown:
        raise InputError(f"{parser.prog}: {unknown[0]} is not known here")
    return asked
