"""trainmaster why JOB: what a job waits for, when it should start, and what would start it now."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.references import one
from trainmaster.cli.words import amount, clock, plural
from trainmaster.cluster.wording import printable
from trainmaster.live.client import Json

GROUP = "look at them"


def arguments(parser: ArgumentParser) -> None:
    parser.description = "From the recorded decision: the one thing in the way, who is ahead and why, and one change that would help."
    parser.add_argument("job", help="id or name")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        answer = client.why(one(client, args.job))
    out.say(as_json(answer) if args.json else told(answer, time.time()))
    return 0


def told(answer: Json, now_s: float) -> str:
    lines = [answer["text"]]
    if answer["place"] is not None:
        lines.append(f"place {answer['place']:,} of {answer['of']:,} in the order")
    for other in answer["ahead"]:
        size = plural(int(other["gpus"]), "GPU") if other["gpus"] == int(other["gpus"]) else f"{amount(other['gpus'])} GPU"
        lines.append(f"  after job {other['id']} ({other['user']}, {size}): {other['why']}")
    if answer["expected_start_s"] is not None:
        early, late = (clock(moment, now_s) for moment in answer["expected_start_s"])
        lines.append(f"should start {f'at {early}' if early == late else f'between {early} and {late}'} (from {answer['estimate_source']})")
    elif answer["place"] is not None:
        lines.append(f"when it starts is not known ({answer['estimate_source']})")
    if answer["counterfactual"]:
        lines.append(answer["counterfactual"])
    if answer["decision"] is not None and answer["decided_s"] is not None:
        lines.append(f"decision {answer['decision']:,}, {clock(answer['decided_s'], now_s)}")
    return "".join(f"{printable(line)}\n" for line in lines)
