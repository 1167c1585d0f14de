"""The plots of the page, as plain Plotly JSON: data and layout, without fonts and surfaces, which page.js adds.

What a plot cannot show whole it thins out honestly, and its note says how: curves of distributions are exact at the
points they keep, series keep the least, mean and greatest value of every bin, heat maps are exact averages. Text that
comes from a trace is escaped here, because Plotly reads tags in labels.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainmaster.engine.result import RunResult
from trainmaster.metrics.conclusion import size_words
from trainmaster.metrics.readable import DAY_S, HOUR_S, MINUTE_S, duration, number, percent
from trainmaster.metrics.series import capacity, gpus_in_use, gpus_waiting, jobs_waiting, measured_jobs, node_use
from trainmaster.metrics.steps import Steps
from trainmaster.metrics.summary import JobTimes, Summary
from trainmaster.metrics.tenants import Tenants
from trainmaster.report.palette import Look
from trainmaster.workload.jobs import Floats

MANY = 8  # policies; with more, curves and series get fewer points, so that the page stays small
CURVE_POINTS = 500  # of a distribution
SERIES_BINS = 400
SHOWN_SHARE = 0.999  # of jobs, in plots over time: a few endless ones would squeeze all others into a corner
HEAT_ROWS = 64
HEAT_CELLS = 60_000  # of all policies together
MOST_QUEUES = 16
FLOOR_S = 1.0  # a log axis has no zero: what is shorter counts as "up to 1 s"

TICKS_S = (1.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0, 864_000.0, 8_640_000.0)
TICK_WORDS = ("≤ 1 s", "10 s", "1 min", "10 min", "1 h", "1 d", "10 d", "100 d")

Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Drawing:
    """One run, its figures and its look."""

    result: RunResult
    summary: Summary
    look: Look

    @property
    def label(self) -> str:
        return self.result.label


@dataclass(frozen=True, slots=True)
class Figure:
    id: str
    title: str
    note: str  # how to read it, and what was left out
    specs: Mapping[str, Spec]  # one for all policies under "", or one a policy, to switch between
    wide: bool = False


def figures(drawings: Sequence[Drawing]) -> list[Figure]:
    """Every plot that these runs have the data for, in the order of the page."""
    drawn = (_completion, _queueing, _gpus, _queue_length, _gpus_wanted, _by_size, _by_queue, _fairness, _shares, _recorded, _nodes)
    return [figure for draw in drawn if (figure := draw(drawings)) is not None]


def _completion(drawings: Sequence[Drawing]) -> Figure:
    return _distribution("jct", "Time to completion", "from submission to finish", drawings, lambda times: times.jct_s)


def _queueing(drawings: Sequence[Drawing]) -> Figure:
    return _distribution("queueing", "Time spent waiting", "eligible, but without its GPUs", drawings, lambda times: times.queue_s)


def _distribution(id: str, title: str, axis: str, drawings: Sequence[Drawing], column: Callable[[JobTimes], Floats]) -> Figure:
    traces, at_once, longest_s, thinned = [], [], FLOOR_S, False
    points = each(CURVE_POINTS, drawings)
    for drawing in drawings:
        values_s = column(JobTimes.of(drawing.result))[measured_jobs(drawing.result)]
        values_s = np.sort(values_s[np.isfinite(values_s)])
        x, y = distribution(values_s, points)
        thinned |= len(values_s) > points
        longest_s = max(longest_s, float(x.max(initial=FLOOR_S)))
        at_once.append(f"{drawing.label} {percent(float(np.mean(values_s <= FLOOR_S)) if len(values_s) else None, 0)}")
        traces.append(line_of(drawing) | {"x": short(x), "y": short(100 * y, 5), "hovertemplate": "%{y:.1f} % within %{x:,.0f} s"})
    note = "Preemptions included. " if id == "queueing" else ""
    note += f"A curve begins at the share of jobs that need 1 s or less ({', '.join(at_once)})." if id == "queueing" else ""
    note += f" Each curve is exact at up to {points} of its jobs, denser in the tail." if thinned else ""
    return Figure(
        id,
        title,
        note.strip(),
        {"": {"data": traces, "layout": {"xaxis": axis_of(axis) | _log_time(longest_s), "yaxis": axis_of("% of jobs", [0, 101])}}},
    )


def distribution(sorted_s: Floats, points: int) -> tuple[Floats, Floats]:
    """Points (x, share of values <= x) of the distribution, all exact: every value of a few, of many a part, denser in the tail."""
    count = len(sorted_s)
    ranks = np.arange(count)
    if count > points:
        tail = count - np.geomspace(1, count, points // 2)
        ranks = np.unique(np.rint(np.concatenate([np.linspace(0, count - 1, points // 2), tail])).astype(np.int64))
    x = np.unique(np.maximum(sorted_s[ranks], FLOOR_S))
    return x, np.searchsorted(sorted_s, x, side="right") / max(count, 1)


def _gpus(drawings: Sequence[Drawing]) -> Figure:
    figure = series("gpus", "GPUs in use", "GPUs", drawings, gpus_in_use, wide=True)
    edges_s = bins_s(drawings, each(SERIES_BINS, drawings))
    there = capacity(drawings[0].result).binned(edges_s)[1]
    scale, _ = time_unit(drawings)
    limit = {
        "x": short(centres(edges_s) / scale, 5),
        "y": short(there),
        "type": "scatter",
        "mode": "lines",
        "name": "capacity",
        "role": "ink",
    }
    figure.specs[""]["data"].append(limit | {"line": {"dash": "dash", "width": 1, "shape": "hv"}, "hovertemplate": "%{y:,.4~g}"})
    return figure


def _queue_length(drawings: Sequence[Drawing]) -> Figure:
    return series("queue-length", "Jobs waiting", "jobs", drawings, jobs_waiting, wide=False)


def _gpus_wanted(drawings: Sequence[Drawing]) -> Figure:
    return series("gpus-wanted", "GPUs that they wait for", "GPUs", drawings, gpus_waiting, wide=False)


def series(id: str, title: str, unit: str, drawings: Sequence[Drawing], steps_of: Callable[[RunResult], Steps], *, wide: bool) -> Figure:
    edges_s = bins_s(drawings, each(SERIES_BINS, drawings))
    scale, name = time_unit(drawings)
    x = short(centres(edges_s) / scale, 5)
    bands, lines = [], []
    for drawing in drawings:
        least, mean, greatest = steps_of(drawing.result).binned(edges_s)
        outline = {"x": [*x, *reversed(x)], "y": [*short(greatest), *reversed(short(least))], "type": "scatter", "mode": "lines"}
        fill = {"fill": "toself", "fillcolor": f"{drawing.look.color}22", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        bands.append(outline | fill | {"name": label(drawing.label), "meta": drawing.label})
        lines.append(line_of(drawing, "linear") | {"x": x, "y": short(mean), "hovertemplate": "%{y:,.4~g}"})
    window = drawings[0].result.window
    shapes = [] if window is None else [_window_shape(window, edges_s, scale)]
    note = f"Lines are averages over {len(edges_s) - 1} bins of {duration(float(edges_s[1] - edges_s[0]))}, "
    note += "bands the least and greatest value in each."
    note += " The shaded span is the window that is measured." if shapes else ""
    note = note + _beyond(drawings, edges_s) if wide else "Bins, lines and bands as above."
    layout = {"xaxis": axis_of(name), "yaxis": axis_of(unit) | {"rangemode": "tozero"}, "hovermode": "x unified", "shapes": shapes}
    return Figure(id, title, note, {"": {"data": [*bands, *lines], "layout": layout}}, wide)


def _fairness(drawings: Sequence[Drawing]) -> Figure | None:
    edges_s = bins_s(drawings, each(SERIES_BINS // 4, drawings))
    tenants = [Tenants.of(drawing.result, edges_s) for drawing in drawings]
    if any(some is None for some in tenants):
        return None
    scale, name = time_unit(drawings)
    x = short(centres(edges_s) / scale, 5)
    lines = [
        line_of(drawing, "linear") | {"x": x, "y": short(some.jain_over_time()), "hovertemplate": "%{y:.3f}"}
        for drawing, some in zip(drawings, tenants, strict=True) if some is not None
    ]  # fmt: skip
    note = "Jain's index of what tenants hold against what each is owed just then (an equal share, or by the weights of their queues, "
    note += f"none more than it asks for): 1 = all fare alike. Averages over {len(edges_s) - 1} bins." + _beyond(drawings, edges_s)
    layout = {"xaxis": axis_of(name), "yaxis": axis_of("Jain's index", (0, 1.02)), "hovermode": "x unified"}
    return Figure("fairness", "Fairness between tenants", note, {"": {"data": lines, "layout": layout}}, wide=True)


def _shares(drawings: Sequence[Drawing]) -> Figure | None:
    """What each tenant received of what it was owed, over the whole run."""
    owed = drawings[0].summary["by_tenant"]
    if not owed:
        return None
    shown = list(owed)[:MOST_QUEUES]
    names = [label(_brief(tenant or "(none)")) for tenant in shown]
    ratios = [[drawing.summary["by_tenant"].get(tenant, {}).get("ratio") for tenant in shown] for drawing in drawings]
    traces = [
        _markers(drawing, row, [None if ratio is None else f"{ratio:.2f} of its share" for ratio in row])
        for drawing, row in zip(drawings, ratios, strict=True)
    ]
    note = "GPU time received over GPU time owed in the whole run, who is owed most first: below 1, a tenant had less than its share."
    note += f" {number(len(owed) - len(shown))} smaller tenants are not shown; the JSON has them." if len(owed) > len(shown) else ""
    most = max((ratio for row in ratios for ratio in row if ratio is not None), default=1.0)
    xaxis = axis_of("GPU time received / owed", (0.0, max(most * 1.05, 1.1)))
    return Figure("shares", "Shares of tenants", note, {"": {"data": traces, "layout": {"xaxis": xaxis} | _rows(names)}})


def _by_size(drawings: Sequence[Drawing]) -> Figure:
    sizes = list(drawings[0].summary["by_size"])
    names = [f"{size_words(size)} · {number(drawings[0].summary['by_size'][size]['jobs'])}" for size in sizes]
    note = "Average wait by what a job asks for; beside each size, its number of jobs."
    return _dots("by-size", "Who waits: by size", note, drawings, "by_size", sizes, names)


def _by_queue(drawings: Sequence[Drawing]) -> Figure | None:
    groups = drawings[0].summary["by_queue"]
    if not groups:
        return None
    queues = sorted(groups, key=lambda queue: -groups[queue]["gpu_s"])[:MOST_QUEUES]
    names = [f"{label(_brief(queue or '(none)'))} · {number(groups[queue]['jobs'])}" for queue in queues]
    left_out = len(groups) - len(queues)
    note = "Average wait by queue, those with the most GPU-time first; beside each, its number of jobs."
    note += f" {number(left_out)} smaller queues are not shown; the JSON has them." if left_out else ""
    return _dots("by-queue", "Who waits: by queue", note, drawings, "by_queue", queues, names)


def _dots(id: str, title: str, note: str, drawings: Sequence[Drawing], field: str, groups: list[str], names: list[str]) -> Figure:
    traces, longest_s = [], FLOOR_S
    for drawing in drawings:
        waits_s = [drawing.summary[field][group]["avg_queue_s"] for group in groups]
        longest_s = max([longest_s, *(wait_s for wait_s in waits_s if wait_s is not None)])
        x = [None if wait_s is None else max(wait_s, FLOOR_S) for wait_s in waits_s]
        traces.append(_markers(drawing, x, [duration(wait_s) for wait_s in waits_s]))
    layout = {"xaxis": axis_of("average time without its GPUs") | _log_time(longest_s)} | _rows(names)
    return Figure(id, title, note, {"": {"data": traces, "layout": layout}})


def _markers(drawing: Drawing, x: Sequence[float | None], text: Sequence[str | None]) -> Spec:
    """A dot a row."""
    look = drawing.look
    marker = {"color": look.color, "size": 11, "symbol": look.marker, "line": {"width": 2, "color": look.color}}
    return {"x": x, "y": list(range(len(x))), "type": "scatter", "mode": "markers", "name": label(drawing.label), "meta": drawing.label,
            "text": text, "hovertemplate": "%{text}", "marker": marker}  # fmt: skip


def _rows(names: list[str]) -> Spec:
    yaxis = {"tickvals": list(range(len(names))), "ticktext": names, "autorange": "reversed", "zeroline": False, "automargin": True}
    return {"yaxis": yaxis, "hovermode": "closest", "height": 130 + 26 * len(names)}


def _recorded(drawings: Sequence[Drawing]) -> Figure | None:
    """A count of jobs in each cell of recorded x simulated wait, both in quarters of a decade."""
    if not np.isfinite(drawings[0].result.jobs.recorded_start_s[measured_jobs(drawings[0].result)]).any():
        return None
    pairs_s = {drawing.label: _recorded_pairs_s(drawing.result) for drawing in drawings}
    longest_s = max([FLOOR_S, *(float(pair_s.max(initial=FLOOR_S)) for pair_s in pairs_s.values())])
    bins = int(np.ceil(4 * np.log10(longest_s))) + 1
    edges = np.arange(bins + 1) / 4 - 0.25  # of log10 seconds; the first bin is 1 s and less
    axis: Spec = {"tickvals": [float(np.log10(tick_s)) for tick_s in TICKS_S], "ticktext": list(TICK_WORDS), "tickangle": 0}
    axis |= {"showgrid": False, "zeroline": False, "range": [edges[0], edges[-1]]}
    layout = {"xaxis": axis | axis_of("recorded wait"), "yaxis": axis | axis_of("simulated wait"), "hovermode": "closest"}
    diagonal: Spec = {"x": [edges[0], edges[-1]], "y": [edges[0], edges[-1]], "type": "scatter", "mode": "lines", "role": "ink"}
    diagonal |= {"line": {"width": 1, "dash": "dot"}, "hoverinfo": "skip", "showlegend": False}
    specs = {}
    for drawing in drawings:
        simulated, recorded = np.ceil(4 * np.log10(np.maximum(pairs_s[drawing.label], FLOOR_S))).astype(np.int64)
        cells = np.bincount(simulated * bins + recorded, minlength=bins**2).reshape(bins, bins)
        heat = {
            "type": "heatmap",
            "x": edges.tolist(),
            "y": edges.tolist(),
            "z": cells.tolist(),
            "log": True,
            "hovertemplate": "%{text:,} jobs<extra></extra>",
            "color": drawing.look.color,
            "zmin": -0.7,  # one job is pale, not invisible
            "showscale": False,
        }
        specs[drawing.label] = {"data": [heat, diagonal], "layout": layout, "note": _agreement(pairs_s[drawing.label])}
    note = "Every job with a recorded start, in cells of a quarter decade; darker is more, on a log scale. On the line both agree."
    return Figure("recorded", "Recorded against simulated wait", note, specs)


def _recorded_pairs_s(result: RunResult) -> Floats:
    """(simulated, recorded) first waits of the jobs that have both."""
    jobs = result.jobs
    both = measured_jobs(result) & np.isfinite(jobs.recorded_start_s) & np.isfinite(result.start_s)
    return np.stack([result.start_s[both], jobs.recorded_start_s[both]]) - jobs.eligible_s[both]


def _agreement(pairs_s: Floats) -> str:
    later_s = pairs_s[0] - pairs_s[1]
    if not len(later_s):
        return "No job has both waits."
    near = np.abs(later_s) <= MINUTE_S
    shares = (np.mean(near), np.mean((later_s < 0) & ~near), np.mean((later_s > 0) & ~near))
    same, sooner, later = (percent(float(share), 0) for share in shares)
    return f"{same} of the jobs start within a minute of when they really did, {sooner} sooner, {later} later."


def _nodes(drawings: Sequence[Drawing]) -> Figure:
    cluster = drawings[0].result.cluster
    gpus = np.asarray([node.gpus for node in cluster.nodes])
    per_row = -(-len(gpus) // HEAT_ROWS)
    group = np.arange(len(gpus)) // per_row
    rows = int(group[-1]) + 1
    edges_s = bins_s(drawings, int(np.clip(HEAT_CELLS // (rows * len(drawings)), 30, 240)))
    scale, name = time_unit(drawings)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = {d.label: 100 * node_use(d.result, edges_s, group) / np.bincount(group, gpus)[:, None] for d in drawings}
    specs = {
        drawing.label: {
            "data": [
                {
                    "type": "heatmap",
                    "x0": float((edges_s[0] + edges_s[1]) / 2 / scale),  # of the first cell's centre
                    "dx": float((edges_s[1] - edges_s[0]) / scale),
                    "z": [[None if np.isnan(share) else round(share) for share in row] for row in shares[drawing.label].tolist()],
                    "y0": (per_row - 1) / 2,
                    "dy": per_row,
                    "zmin": 0,
                    "zmax": 100,
                    "color": drawing.look.color,
                    "colorbar": {"ticksuffix": " %", "thickness": 10, "outlinewidth": 0, "len": 0.9},
                    "hovertemplate": f"{'node' if per_row == 1 else 'nodes around'} %{{y}}: %{{z}} %<extra></extra>",
                }
            ],
            "layout": {
                "xaxis": axis_of(name) | {"showgrid": False},
                "yaxis": axis_of("node") | {"showgrid": False},
                "hovermode": "closest",
                "height": 460,
            },
        }
        for drawing in drawings
    }
    note = f"GPUs in use of each node's, averaged exactly over {len(edges_s) - 1} bins of {duration(float(edges_s[1] - edges_s[0]))}"
    note += f" and over {per_row} neighbouring nodes a row." if per_row > 1 else "."
    note += _beyond(drawings, edges_s)
    return Figure("nodes", "Every node over time", note, specs, wide=True)


def bins_s(drawings: Sequence[Drawing], bins: int) -> Floats:
    """The same bins for all policies: from the first submission until nearly all jobs have finished under each."""
    submit_s = drawings[0].result.jobs.submit_s
    first_s, last_s = (float(submit_s[0]), float(submit_s[-1])) if len(submit_s) else (0.0, 0.0)
    for drawing in drawings:
        finish_s = drawing.result.finish_s[np.isfinite(drawing.result.finish_s)]
        last_s = max(last_s, float(np.quantile(finish_s, SHOWN_SHARE, method="higher")) if len(finish_s) else last_s)
    return np.linspace(first_s, last_s if last_s > first_s else first_s + 1.0, bins + 1)


def centres(edges_s: Floats) -> Floats:
    return (edges_s[:-1] + edges_s[1:]) / 2


def each(most: int, drawings: Sequence[Drawing]) -> int:
    return min(most, most * MANY // len(drawings))


def _beyond(drawings: Sequence[Drawing], edges_s: Floats) -> str:
    """Says what the plots over time leave out."""
    later = {drawing.label: int(np.count_nonzero(drawing.result.finish_s > edges_s[-1])) for drawing in drawings}
    if not any(later.values()):
        return ""
    last_s = max(float(np.fmax.reduce(drawing.result.finish_s)) for drawing in drawings)
    after = f"The plot ends when {percent(SHOWN_SHARE)} of the jobs have finished under every policy"
    return f" {after}; at most {number(max(later.values()))} finish later, the last at {duration(last_s)}."


def time_unit(drawings: Sequence[Drawing]) -> tuple[float, str]:
    edges_s = bins_s(drawings, 1)
    span_s = edges_s[-1] - edges_s[0]
    for unit_s, name in ((DAY_S, "days"), (HOUR_S, "hours"), (MINUTE_S, "minutes")):
        if span_s > 3 * unit_s:
            return float(unit_s), f"{name} since the trace's zero"
    return 1.0, "seconds since the trace's zero"


def _window_shape(window: tuple[float, float], edges_s: Floats, scale: float) -> Spec:
    from_s, to_s = np.clip(window, edges_s[0], edges_s[-1]) / scale
    area = {"type": "rect", "xref": "x", "yref": "paper", "x0": float(from_s), "x1": float(to_s), "y0": 0, "y1": 1}
    return area | {"fillcolor": "#88888818", "line": {"width": 0}, "layer": "below"}


def line_of(drawing: Drawing, shape: str = "hv") -> Spec:
    style = {"color": drawing.look.color, "width": 2, "dash": drawing.look.dash, "shape": shape}
    return {"type": "scatter", "mode": "lines", "name": label(drawing.label), "meta": drawing.label, "line": style}


def axis_of(title: str, span: Sequence[float] | None = None) -> Spec:
    return {"title": {"text": title}} | ({} if span is None else {"range": list(span)})


def _log_time(longest_s: float) -> Spec:
    span = [-0.05, float(np.log10(max(longest_s, 10.0))) + 0.1]
    return {"type": "log", "tickvals": list(TICKS_S), "ticktext": list(TICK_WORDS), "range": span, "tickangle": 0}


def label(name: str) -> str:
    """Plotly reads tags and entities in text."""
    return html.escape(name, quote=False)


def _brief(name: str) -> str:
    """Some traces name queues by 40-digit hashes."""
    return name if len(name) <= 18 else f"{name[:16]}…"


def short(values: Floats, digits: int = 4) -> list[float]:
    """A few significant digits: what a plot can show, in a fraction of the bytes."""
    return [float(f"{value:.{digits}g}") for value in values.tolist()]
