"""trainmaster queue: the jobs that run and wait, in order (also `ls`, `ps`)."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.table import Column, table
from trainmaster.cli.words import amount, clock, elapsed, nodes, ran_s
from trainmaster.errors import InputError
from trainmaster.live.client import Client, Json
from trainmaster.live.states import CODES, State

GROUP = "look at them"
DESCRIPTION = """Jobs that run, then those that wait in the order in which they are to start.

ST: PD pending, CF starting, R running, PR being preempted, S suspended, RS resizing, RQ recovering, CG completing; of ended ones
CD succeeded, F failed, CA cancelled, TO over its time limit. ETA: when it should start, or end; ? is not known."""
COLUMNS = (
    Column("ID", right=True),
    Column("NAME", drop=1),
    Column("USER", drop=3),
    Column("QUEUE", drop=4),
    Column("PRIO", right=True, drop=8),
    Column("ST"),
    Column("TIME", right=True, drop=2),
    Column("NODES", drop=7),
    Column("GPUS", right=True),
    Column("REASON", drop=5),
    Column("ETA", right=True, drop=6),
)
STYLES = {"RUNNING": "green", "PENDING": "", "FAILED": "red", "TIMEOUT": "red", "SUCCEEDED": "dim", "CANCELLED": "dim"}
WORDS = {code: state for state, code in CODES.items()}
WAITING = ("PENDING", "RECOVERING", "SUSPENDED")


def arguments(parser: ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.usage = "trainmaster queue [ID...] [options]"
    parser.add_argument("jobs", metavar="ID", nargs="*", help="these alone, ended ones too; ids or names")
    parser.add_argument("-a", "--all", action="store_true", help="ended ones too")
    parser.add_argument("-u", "--user", metavar="NAME,...", action="append", default=[], help="of these users")
    parser.add_argument("--me", action="store_true", help="of yourself")
    parser.add_argument("-p", "--queue", "--partition", metavar="NAME,...", action="append", default=[], help="in these queues")
    parser.add_argument("-t", "--states", metavar="ST,...", action="append", default=[], help="in these states: R, PENDING, ...")
    parser.add_argument("-n", "--name", metavar="NAME,...", action="append", default=[], help="of these names")
    parser.add_argument("--limit", metavar="N", type=int, help="so many at most")
    parser.add_argument("--no-header", action="store_true", help="without the line of heads")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        jobs = _asked(client, args)
        now_s = time.time()
    out.say(as_json(jobs) if args.json else listing(jobs, now_s, out, head=not args.no_header))
    return 0


def listing(jobs: list[Json], now_s: float, out: Output, *, head: bool = True) -> str:
    rows = [_row(job, now_s) for job in jobs]
    return table(COLUMNS, rows, out, [STYLES.get(job["state"], "yellow") for job in jobs], head=head)


def in_order(jobs: list[Json]) -> list[Json]:
    """Those that hold GPUs, those that wait in their order, those that have ended; by id within."""

    def rank(job: Json) -> tuple[int, float, int]:
        waits = job["state"] in WAITING
        place = job["place"] if job["place"] is not None else float("inf")
        return (2 if job["finish_s"] is not None else 1 if waits else 0, place if waits else 0.0, job["id"])

    return sorted(jobs, key=rank)


def states(texts: list[str]) -> list[str]:
    """State names from either spelling, in any case."""
    found = []
    for word in listed(texts):
        name = word.upper()
        if name in WORDS:
            found.append(str(WORDS[name]))
        elif name in State.__members__:
            found.append(name)
        else:
            raise InputError(f"--states: {word!r} is no state; {', '.join(f'{code} {state}' for state, code in CODES.items())}")
    return found


def listed(texts: list[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def _asked(client: Client, args: Namespace) -> list[Json]:
    which = {
        "users": listed(args.user) + ([client.whoami()["user"]] if args.me else []),
        "queues": listed(args.queue),
        "states": states(args.states),
        "names": listed(args.name),
        "all": args.all,
        "limit": args.limit,
    }
    if args.jobs:
        from trainmaster.cli.references import one

        which |= {"ids": [one(client, word) for word in args.jobs], "all": True}
    return in_order(client.jobs(**which))


def _row(job: Json, now_s: float) -> list[str]:
    index = f"[{job['array_index']}]" if job["array_index"] is not None else ""
    waits = job["state"] in WAITING
    eta = clock(job["eta_s"], now_s) or ("?" if waits else "")
    return [
        str(job["id"]), job["name"] + index, job["user"], job["queue"] or "default", f"{job['priority']:g}", CODES[State(job["state"])],
        elapsed(ran_s(job, now_s)), nodes(job["nodes"]) if not waits else "", amount(job["gpus"]), job["reason"],
        eta if job["finish_s"] is None else "",
    ]  # fmt: skip
