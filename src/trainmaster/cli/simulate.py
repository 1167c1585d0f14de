"""trainmaster simulate: replay a trace under scheduling policies and compare them."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any

from trainmaster.cli.output import Output, as_json

if TYPE_CHECKING:
    from trainmaster.api.request import Request
    from trainmaster.api.session import Run, Session

GROUP = "simulate"
DESCRIPTION = """Replay a trace under scheduling policies, compare them, and say in one sentence which is best.

Without --policy: fifo, easy-backfill where the trace has time limits, tiresias-las, srtf (an oracle), and
recorded, what really happened, where the trace has starts."""

EXAMPLES = """examples:
  trainmaster simulate                                          a generated week, the default policies
  trainmaster simulate --trace synthetic:philly --report week.html
  trainmaster simulate --trace my_sacct.txt --cluster 16x8 --policy fifo,easy-backfill,tiresias-las
  trainmaster simulate --trace jobs.csv --cluster 9x4:v100+9x4:k80 --profiles throughputs.json
  trainmaster simulate --policy short=las,long=las --set short.quantum_s=60 --set long.quantum_s=3600
  trainmaster simulate --trace synthetic --load 0.9 --seeds 10 --workers 4 --json -

A trace is told by its content; `sacct -a -X -P -o ...` output, SWF and the public traces are known.
`trainmaster policies` lists the policies and their parameters."""


def arguments(parser: ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.usage = "trainmaster simulate [--trace PATH] [--cluster SPEC] [--policy NAME,...] [options]"
    add = parser.add_argument_group("what to replay").add_argument
    add("--trace", metavar="PATH", default="synthetic", help="a trace file, or synthetic[:philly|helios|pai] (default: synthetic)")
    add("--format", metavar="NAME", default="auto", help="its format, or a reader in a .py file (default: auto, told by content)")
    add("--jobs", metavar="N", type=_whole, help="the first N jobs; for synthetic, as many")
    add("--load", metavar="X", type=_number, default=1.0, help="divide the times between arrivals by X; for synthetic, the load itself")
    add("--window", metavar="A:B", help="measure only jobs submitted from A to B: seconds, or e.g. 1d:8d")
    add("--profiles", metavar="PATH", help="measured performance of the models, for traces that count steps")

    add = parser.add_argument_group("on what").add_argument
    add("--cluster", metavar="SPEC", help="16x4:v100 (16 nodes of 4), 9x4:v100+9x4:k80, a YAML file, or `scontrol show node -o` output")
    add("--placement", metavar="NAME", default="packed", help="packed, spread, first-fit, random or skew (default: packed)")
    add("--faults", metavar="SPEC", help="node failures: mtbf=30d,mttr=2h,checkpoint=30m")

    add = parser.add_argument_group("under what").add_argument
    add("--policy", metavar="[LABEL=]NAME,...", action="append", default=[], help="names, or path/to/mine.py:Name")
    add("--set", metavar="LABEL.PARAM=VALUE", action="append", default=[], help="a parameter of a policy, or its preset; repeatable")
    add("--round", metavar="S", type=_number, help="decide every S seconds; 0 at every event (default: the policy's own)")
    add("--start-delay", metavar="S", type=_number, default=0.0, help="between giving a job its GPUs and its start (default: 0)")
    add("--stop-delay", metavar="S", type=_number, default=0.0, help="between asking a job to stop and its GPUs being free (default: 0)")
    add("--restart-cost", metavar="S", type=_number, help="idle seconds of a start, resume, move or resize (default: by model, else 30)")

    add = parser.add_argument_group("how often").add_argument
    add("--seed", metavar="N", type=_whole, default=0, help="of everything that depends on chance (default: 0)")
    add("--seeds", metavar="N", type=_whole, default=1, help="N seeds from --seed on: means and 95 %% intervals")
    add("--workers", metavar="N", type=_whole, default=1, help="policies and seeds in N processes (default: 1)")

    add = parser.add_argument_group("what comes out").add_argument
    add("--json", metavar="FILE", help="every figure; - for standard output, and nothing else there")
    add("--report", metavar="FILE.html", help="a page with tables and plots that opens without a network")
    add("--jobs-out", metavar="FILE", help="a row a job and policy, .csv or .parquet")
    add("--timeline-out", metavar="FILE", help="a row an allocation, .csv or .parquet")
    add("--quiet", action="store_true", help="no table, notes or progress")


def run(args: Namespace, out: Output) -> int:
    from trainmaster.api.files import check_table_name, claimed
    from trainmaster.api.session import Session

    request = _request(args)
    flags = {"--json": args.json, "--report": args.report, "--jobs-out": args.jobs_out, "--timeline-out": args.timeline_out}
    paths = {flag: path for flag, path in flags.items() if path is not None and (flag, path) != ("--json", "-")}
    for flag in ("--jobs-out", "--timeline-out"):
        if flag in paths:
            check_table_name(flag, paths[flag])
    with claimed(paths, [args.trace, args.cluster, args.profiles]) as files:
        with out.status() as doing:
            session = Session.of(request, doing)
        runs = _simulate(session, out, keep=bool(paths.keys() - {"--json"}))
        _write(session, runs, files, out)
        _show(session, runs, args, out)
    return 0


def _request(args: Namespace) -> Request:
    from trainmaster.api.request import Request, parse_policies, parse_window
    from trainmaster.engine.faults import Faults

    return Request(
        trace=args.trace,
        format=args.format,
        profiles=args.profiles,
        cluster=args.cluster,
        policies=tuple(contestant for text in args.policy for contestant in parse_policies(text)),
        settings=tuple(args.set),
        placement=args.placement,
        round_s=args.round,
        restart_cost_s=args.restart_cost,
        start_delay_s=args.start_delay,
        stop_delay_s=args.stop_delay,
        seed=args.seed,
        seeds=args.seeds,
        jobs=args.jobs,
        load=args.load,
        window=parse_window(args.window) if args.window is not None else None,
        faults=Faults.parse(args.faults) if args.faults is not None else None,
        workers=args.workers,
    )


def _simulate(session: Session, out: Output, *, keep: bool) -> list[Run]:
    if not out.shows_progress:
        return session.run(keep=keep)
    from trainmaster.cli.progress import bar

    labels = [task.entrant.label for task in sorted(session.tasks(), key=lambda task: task.number)]
    with bar(labels, session.source.info.jobs) as progress:
        return session.run(keep=keep, progress=progress)


def _write(session: Session, runs: list[Run], files: dict[str, Any], out: Output) -> None:
    from trainmaster.api.session import results_of
    from trainmaster.metrics.frames import jobs_frame, timeline_frame

    if file := files.get("--json"):
        file.write_text(as_json(session.document(runs)))
    if file := files.get("--jobs-out"):
        file.write_table(jobs_frame(list(results_of(runs))))
    if file := files.get("--timeline-out"):
        file.write_table(timeline_frame(list(results_of(runs))))
    if file := files.get("--report"):
        from trainmaster.report.html import page

        summaries = [run.summary for run in runs]
        file.write_text(page(list(results_of(runs)), summaries, session.source.info, command=out.command))


def _show(session: Session, runs: list[Run], args: Namespace, out: Output) -> None:
    skipped = session.source.info.skipped
    if skipped:
        out.note(f"{args.trace}: rows left out: " + ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(skipped.items())))
    for note in session.notes(runs):
        out.note(f"note: {note}")
    if args.json == "-":
        out.say(as_json(session.document(runs)))
    elif not out.quiet:
        from trainmaster.report.terminal import text

        out.say(text([run.summary for run in runs], width=out.width, color=out.color))
        if args.report is not None:
            out.note(f"report: {args.report}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a whole number") from None
