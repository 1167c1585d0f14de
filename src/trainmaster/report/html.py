"""The report: one HTML page that needs nothing but a browser.

Self-contained: Plotly, styles and data are inside, and its content security policy forbids every request, so it opens on a
plane and tells nobody. Traces are hostile: every text is escaped, and the embedded JSON cannot end its script element.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import PurePath
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from trainmaster import __version__
from trainmaster.engine.result import RunResult
from trainmaster.metrics.conclusion import conclusion
from trainmaster.metrics.readable import NOTHING, duration, number
from trainmaster.metrics.seeds import across_seeds
from trainmaster.metrics.summary import Summary, TraceInfo
from trainmaster.report.comparison import COLUMNS, Cell, Column, Row, compare
from trainmaster.report.elastic import elastic_figures
from trainmaster.report.figures import Drawing, Figure, figures
from trainmaster.report.palette import Look, looks

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
EXAMPLES = 3  # of jobs that cannot run

SECTIONS = (
    ("How long jobs take", ("jct", "queueing")),
    ("The cluster over time", ("gpus", "queue-length", "gpus-wanted")),
    ("Jobs that change size", ("sizes", "useful")),
    ("Deadlines and loans", ("deadlines", "loaned")),
    ("Who waits", ("by-size", "by-queue", "fairness", "shares", "recorded")),
    ("Where they ran", ("nodes",)),
)

escape = html.escape


def page(
    results: Sequence[RunResult], runs: Sequence[Summary], trace: TraceInfo, *, command: str, notes: Sequence[str] = ()
) -> str:  # fmt: skip
    """The page for `results` and their summaries, in the same order; `command` is what produced them, as typed; `notes` stand under
    the sentence.

    With several seeds the table has means and intervals, and the plots show the first seed of each policy.
    """
    colors = looks(runs)
    first: dict[str, Drawing] = {}
    for result, summary in zip(results, runs, strict=True):
        first.setdefault(result.label, Drawing(result, summary, colors[result.label]))
    drawings = list(first.values())
    drawn = [*figures(drawings), *elastic_figures(drawings)]
    sections = [(heading, [figure for figure in drawn if figure.id in ids]) for heading, ids in SECTIONS]
    title = f"{_count(len(drawings), 'policy', 'policies')} on {PurePath(trace.path).name}"
    body = [
        _header(title, drawings, runs, trace, notes),
        _table(runs, colors),
        _legend(drawings),
        *(_section(heading, some, drawings) for heading, some in sections if some),
        _how(drawings, runs, trace, command),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} – Trainmaster</title>
<link rel="icon" href="data:,">
<style>{_own("page.css")}</style>
</head>
<body>
<main>
{"".join(body)}
</main>
<script type="application/json" id="figures">{_embedded([_plain(figure, drawings) for figure in drawn])}</script>
<script>{get_plotlyjs()}</script>
<script>{_own("page.js")}</script>
</body>
</html>
"""


def _header(title: str, drawings: Sequence[Drawing], runs: Sequence[Summary], trace: TraceInfo, notes: Sequence[str]) -> str:
    result = drawings[0].result
    submit_s = result.jobs.submit_s
    noted = "".join(f'<p class="what">{escape(note)}</p>' for note in notes)
    facts = {
        "jobs": number(trace.jobs),
        "GPUs": number(result.cluster.gpus),
        "nodes": number(int(np.count_nonzero(result.cluster.present))),
        "GPU types": ", ".join(kind or "any" for kind in result.cluster.types) or "none",
        "of submissions": duration(float(np.ptp(submit_s))) if len(submit_s) else NOTHING,
    }
    return f"""<p class="over">Trainmaster report</p>
<h1>{escape(title)}</h1>
<p class="lead">{escape(conclusion(runs)).replace(" %", "&nbsp;%")}</p>
{noted}<dl class="facts">{"".join(f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in facts.items())}</dl>
"""


def _table(runs: Sequence[Summary], colors: Mapping[str, Look]) -> str:
    rows = compare(runs)
    most = [max((row.cells[index].value or 0.0 for row in rows), default=0.0) for index in range(len(COLUMNS))]
    heads = "".join(f'<th scope="col" title="{escape(column.meaning)}">{escape(column.head)}</th>' for column in COLUMNS)
    seeds = max(average["seeds"] for average in across_seeds(runs))
    about = "Best of the policies that do not cheat in bold. Bars compare within a column."
    about += f" Means over {seeds} seeds, ± half of the 95 % interval." if seeds > 1 else ""
    about += " An oracle knows what no real cluster knows: a bound, not a choice." if any(row.oracle for row in rows) else ""
    return f"""<section><h2>Side by side</h2><p class="what">{about}</p>
<div class="scroll"><table><thead><tr><th scope="col">policy</th>{heads}</tr></thead>
<tbody>{"".join(_row(row, colors[row.label].color, most) for row in rows)}</tbody></table></div></section>
"""


def _row(row: Row, color: str, most: Sequence[float]) -> str:
    tag = "oracle" if row.oracle else "baseline" if row.baseline else ""
    name = f'<span class="dot" style="--c:{color}"></span>{escape(row.label)}{f"""<span class="tag">{tag}</span>""" if tag else ""}'
    cells = "".join(
        _cell(cell, column, color, top, row.against_baseline if column.field == "avg_jct_s" else "")
        for cell, column, top in zip(row.cells, COLUMNS, most, strict=True)
    )
    return f'<tr class="{"oracle" if row.oracle else ""}"><td>{name}</td>{cells}</tr>'


def _cell(cell: Cell, column: Column, color: str, top: float, against: str) -> str:
    below = " ".join(filter(None, (cell.interval, against)))
    share = 0.0 if not cell.value or top <= 0 else 100 * cell.value / top
    bar = f'<span class="bar" style="width:{share:.1f}%;background:{color}"></span>' if column.best and cell.value is not None else ""
    return f"<td{' class=best' if cell.best else ''}>{escape(cell.text)}{bar}{f'<small>{escape(below)}</small>' if below else ''}</td>"


def _legend(drawings: Sequence[Drawing]) -> str:
    return f'<nav aria-label="policies shown">{"".join(_button(d, pressed=True) for d in drawings)}<span>click to hide or show</span></nav>'


def _button(drawing: Drawing, *, pressed: bool) -> str:
    label, kind = escape(drawing.label), "oracle" if drawing.result.oracle else ""
    dot = f'<span class="dot" style="--c:{drawing.look.color}"></span>'
    style = f'style="--c:{drawing.look.color}"'
    return f'<button type="button" class="{kind}" {style} data-policy="{label}" aria-pressed="{str(pressed).lower()}">{dot}{label}</button>'


def _section(heading: str, drawn: Sequence[Figure], drawings: Sequence[Drawing]) -> str:
    return (
        f'<section><h2>{escape(heading)}</h2><div class="grid">{"".join(_figure(figure, drawings) for figure in drawn)}</div></section>\n'
    )


def _figure(figure: Figure, drawings: Sequence[Drawing]) -> str:
    switch = ""
    if "" not in figure.specs and len(figure.specs) > 1:
        buttons = "".join(_button(drawing, pressed=position == 0) for position, drawing in enumerate(drawings))
        switch = f'<div class="switch" role="group" aria-label="policy">{buttons}</div>'
    own = "<b data-note></b> " if any("note" in spec for spec in figure.specs.values()) else ""
    return f"""<figure id="figure-{figure.id}" class="{"wide" if figure.wide else ""}">
<header><h3>{escape(figure.title)}</h3><button type="button" class="svg" title="Save this plot as SVG">SVG</button></header>
{switch}<div class="plot" id="plot-{figure.id}"></div><figcaption>{own}{escape(figure.note)}</figcaption></figure>
"""


def _how(drawings: Sequence[Drawing], runs: Sequence[Summary], trace: TraceInfo, command: str) -> str:
    result = drawings[0].result
    skipped = ", ".join(f"{number(count)} {reason}" for reason, count in trace.skipped.items())
    types = ", ".join(f"{number(gpus)} × {kind or 'any type'}" for kind, gpus in result.cluster.gpus_by_type().items())
    seeds = sorted({run["seed"] for run in runs})
    items = [
        ("Command", f"<pre>{escape(command)}</pre>"),
        ("Trace", f"{escape(trace.path)} ({escape(trace.format)}), {number(trace.jobs)} jobs"),
        ("Rows left out", escape(skipped or "none")),
        (
            "Cluster",
            escape(f"{number(result.cluster.gpus)} GPUs on {number(int(np.count_nonzero(result.cluster.present)))} nodes: {types}"),
        ),
        ("Load", f"{result.load:g} × the trace's rate of arrivals"),
        ("Measured", escape(_measured(result))),
        (
            "Seeds",
            escape(", ".join(map(str, seeds)) + ("" if len(seeds) == 1 else f"; the plots show the first of each policy: {seeds[0]}")),
        ),
        ("Rules", f"<ul>{''.join(f'<li>{_rules(drawing)}</li>' for drawing in drawings)}</ul>"),
        ("Did not finish", _unfinished(drawings)),
        ("Noted", f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in _notes(runs))}</ul>" if _notes(runs) else ""),
        ("Versions", escape(f"Trainmaster {__version__}, Python {'.'.join(map(str, sys.version_info[:3]))}, NumPy {np.__version__}")),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{content}</dd>" for name, content in items if content)
    return f'<section><h2>How this was run</h2><dl class="how">{rows}</dl></section>\n'


def _measured(result: RunResult) -> str:
    if result.window is None:
        return "all jobs"
    ends = zip(("from", "to"), result.window, strict=True)
    words = " ".join(f"{word} {duration(end_s)}" for word, end_s in ends if np.isfinite(end_s))
    return f"jobs submitted {words} after the trace's zero; all jobs run" if words else "all jobs"


def _rules(drawing: Drawing) -> str:
    run = drawing.summary
    params = {name: value for name, value in run["params"].items() if name != "rules"}
    rules = run["params"].get("rules", {})
    decides = "at every event" if run["round_s"] == 0 else f"every {duration(run['round_s'])}"
    words = f"<b>{escape(run['label'])}</b>: {escape(run['policy'])}, placement {escape(run['placement'])}, decides {decides}, "
    words += f"a start costs {duration(drawing.result.restart_cost_s)}; {number(run['decisions'])} decisions in {duration(run['wall_s'])}"
    told = {"parameters": params, "rules": rules}
    return words + "".join(f"; {name} <code>{escape(json.dumps(value))}</code>" for name, value in told.items() if value)


def _unfinished(drawings: Sequence[Drawing]) -> str:
    lines = []
    for drawing in drawings:
        result = drawing.result
        reasons = [f"job {result.jobs.id[row]}: {result.reason[row]}" for row in np.flatnonzero(result.reason != "")[:EXAMPLES]]
        counts = [
            f"{number(drawing.summary[state])} {state}" for state in ("unschedulable", "rejected", "unfinished") if drawing.summary[state]
        ]
        if counts:
            lines.append(
                f"<li><b>{escape(drawing.label)}</b>: {', '.join(counts)}{escape(' (' + '; '.join(reasons) + ')' if reasons else '')}</li>"
            )
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _notes(runs: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(f"{run['label']}: {note}" for run in runs for note in run["notes"]))


def _plain(figure: Figure, drawings: Sequence[Drawing]) -> dict[str, Any]:
    return {
        "id": figure.id,
        "title": figure.title,
        "names": {d.label: escape(d.label, quote=False) for d in drawings},
        "specs": figure.specs,
    }


def _embedded(value: Any) -> str:
    """JSON that cannot end its script element or begin a comment in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _own(name: str) -> str:
    return resources.files("trainmaster.report").joinpath(name).read_text("utf-8")


def _count(count: int, one: str, many: str) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
    return f"{words[count] if count < len(words) else number(count)} {one if count == 1 else many}"
