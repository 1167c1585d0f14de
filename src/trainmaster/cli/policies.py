"""trainmaster policies: list the scheduling policies, their papers and their parameters."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from trainmaster.cli.output import Output, as_json

if TYPE_CHECKING:
    from trainmaster.policies.base import Policy

GROUP = "simulate"
DESCRIPTION = """List the scheduling policies: what each is called, where it comes from, what it needs to know, and its
parameters with their defaults (--set LABEL.PARAM=VALUE)."""

NEEDS = """needs: oracle = it uses what no real cluster knows (a bound, not a choice), unless an estimate is chosen.
kind: list = it ranks jobs, plan = it plans the whole cluster; preemptive = it may stop running jobs."""


def arguments(parser: ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, NEEDS
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--json", action="store_true", help="the same as JSON")
    either.add_argument("--bibtex", action="store_true", help="the papers, to cite")


def run(args: Namespace, out: Output) -> int:
    from trainmaster.policies.registry import policies

    known = list(policies().values())
    if args.bibtex:
        out.say("".join(f"{entry}\n\n" for entry in dict.fromkeys(cls.bibtex.strip() for cls in known) if entry))
    elif args.json:
        out.say(as_json([described(cls) for cls in known]))
    else:
        out.say(_table([described(cls) for cls in known], out))
    return 0


def described(cls: type[Policy[Any]]) -> dict[str, Any]:
    """What there is to know about a policy before it runs."""
    from trainmaster.policies.base import ListPolicy

    return {
        "name": cls.name,
        "paper": cls.paper,
        "kind": "list" if issubclass(cls, ListPolicy) else "plan",
        "preemptive": cls.preemptive,
        "needs": list(cls.needs),
        "round_s": cls.round_s,
        "params": _defaults(cls.params_type),
        "presets": {name: preset.source for name, preset in cls.presets.items()},
    }


def _defaults(params: type[Any]) -> dict[str, Any]:
    values = params()
    return {field.name: _plain(getattr(values, field.name)) for field in fields(params)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def _table(known: list[dict[str, Any]], out: Output) -> str:
    import io

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("name", "paper", "kind", "needs", "parameters"):
        table.add_column(head, overflow="fold", no_wrap=head == "name")
    for policy in known:
        kind = f"{policy['kind']}, preemptive" if policy["preemptive"] else policy["kind"]
        params = [f"{name}={_typed(value)}" for name, value in policy["params"].items()]
        presets = [f"preset={'|'.join(policy['presets'])}"] if policy["presets"] else []
        table.add_row(policy["name"], policy["paper"], kind, ", ".join(policy["needs"]), "\n".join([*params, *presets]))
    console = Console(file=io.StringIO(), width=out.width, force_terminal=out.color, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _typed(value: Any) -> str:
    """As `--set` takes it."""
    if isinstance(value, list):
        return ",".join(map(_typed, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
