"""The end of a run in a terminal: policies side by side, then the sentence."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from trainmaster.cluster.wording import printable
from trainmaster.metrics.conclusion import conclusion
from trainmaster.metrics.readable import number
from trainmaster.metrics.summary import Summary
from trainmaster.report.comparison import COLUMNS, Row, compare
from trainmaster.report.palette import looks

# What fits 100 columns; a narrower terminal does without the last ones.
SHOWN = ("avg_jct_s", "median_jct_s", "avg_queue_s", "gpu_utilization", "p99_jct_s", "makespan_s", "preemptions")
COLUMN_WIDTH, POLICY_WIDTH = 11, 23


def text(runs: Sequence[Summary], *, width: int = 100, color: bool = False) -> str:
    """What `simulate` prints, as a string of lines no longer than `width`."""
    console = Console(file=io.StringIO(), width=width, force_terminal=color, color_system="truecolor" if color else None, highlight=False)
    with console.capture() as captured:
        console.print(renderable(runs, width))
    return captured.get()


def renderable(runs: Sequence[Summary], width: int = 100) -> RenderableType:
    rows = compare(runs)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column()  # the policy's colour
    table.add_column("policy", overflow="fold")
    table.add_column("jobs", justify="right")
    affordable = SHOWN[: max(3, (width - POLICY_WIDTH) // COLUMN_WIDTH)]
    shown = [index for index, column in enumerate(COLUMNS) if column.field in affordable]
    for index in shown:
        table.add_column(COLUMNS[index].head, justify="right")
    finished = {run["label"]: run["finished"] for run in reversed(runs)}
    colors = looks(runs)
    for row in rows:
        cells = [
            Text("\n".join(filter(None, (row.cells[i].text, row.cells[i].interval))), "bold" if row.cells[i].best else "") for i in shown
        ]
        if row.against_baseline:
            cells[0].append(f"\n{row.against_baseline}", style="not bold dim")
        table.add_row(Text("○" if row.oracle else "●", colors[row.label].color), _name(row), number(finished[row.label]), *cells)
    return Group(table, Text(), *_remarks(runs, rows), Text(printable(conclusion(runs)), style="bold"))


def _name(row: Row) -> Text:
    name = Text(printable(row.label), "bold" if row.baseline else "")
    kind = "oracle" if row.oracle else "baseline" if row.baseline else ""
    return name.append(f"\n{kind}", style="not bold dim") if kind else name


def _remarks(runs: Sequence[Summary], rows: Sequence[Row]) -> list[Text]:
    """What a reader must know about the figures, once each."""
    remarks: list[str] = []
    if any(row.oracle for row in rows):
        remarks.append("○ an oracle uses what no real cluster knows: a bound, not a choice")
    for state, words in (("unschedulable", "can never fit this cluster"), ("rejected", "were rejected"), ("unfinished", "did not finish")):
        counts = {run["label"]: run[state] for run in runs if run[state]}
        if counts:
            told = (f"{number(count)} {'job' if count == 1 else 'jobs'} under {label}" for label, count in counts.items())
            remarks.append(f"{words}: {', '.join(told)}")
    remarks += dict.fromkeys(f"{run['label']}: {note}" for run in runs for note in run["notes"])
    return [Text(printable(remark), style="dim") for remark in remarks]
