"""Plots of runs in which jobs change size, have deadlines or run on servers that are loaned; each where there is something to show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainmaster.engine.result import RunResult
from trainmaster.metrics.readable import number, percent
from trainmaster.metrics.series import allocated_milli, mean_by_group, measured_jobs
from trainmaster.metrics.steps import Steps
from trainmaster.report.figures import (
    SERIES_BINS,
    Drawing,
    Figure,
    Spec,
    axis_of,
    bins_s,
    centres,
    each,
    label,
    line_of,
    series,
    short,
    time_unit,
)
from trainmaster.workload.jobs import GPU_MILLI, Floats, Ints

SHOWN_JOBS = 40  # of those whose GPUs changed most often
LATEST = 2.0  # of the time a job was given: beyond, it counts as so late


def elastic_figures(drawings: Sequence[Drawing]) -> list[Figure]:
    drawn = (_sizes, _useful, _deadlines, _loaned)
    return [figure for draw in drawn if (figure := draw(drawings)) is not None]


def _sizes(drawings: Sequence[Drawing]) -> Figure | None:
    """GPUs of the jobs that changed size most often."""
    if not any(drawing.result.resizes.any() for drawing in drawings):
        return None
    edges_s = bins_s(drawings, each(SERIES_BINS // 2, drawings))
    scale, name = time_unit(drawings)
    specs = {}
    for drawing in drawings:
        result = drawing.result
        rows = np.sort(np.argsort(-result.resizes, kind="stable")[: min(SHOWN_JOBS, int((result.resizes > 0).sum()))])
        gpus = _gpus_of(result, rows, edges_s)
        heat: Spec = {
            "type": "heatmap", "x": short(centres(edges_s) / scale, 5), "y": [label(str(result.jobs.id[row])) for row in rows.tolist()],
            "z": [[None if value == 0 else round(value, 2) for value in row] for row in gpus.tolist()],
            "color": drawing.look.color, "zmin": 0, "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 0.9, "title": {"text": "GPUs"}},
            "hovertemplate": "%{y}: %{z} GPUs<extra></extra>",
        }  # fmt: skip
        resized = f"{number(int(result.resizes.sum()))} resizes in all, of {number(int((result.resizes > 0).sum()))} jobs."
        layout = {"xaxis": axis_of(name) | {"showgrid": False}, "yaxis": {"showgrid": False, "type": "category"}, "height": 460}
        specs[drawing.label] = {"data": [heat], "layout": layout | {"hovermode": "closest"}, "note": resized}
    note = f"The {SHOWN_JOBS} jobs that changed size most often, by submission, averaged over {len(edges_s) - 1} bins."
    return Figure("sizes", "GPUs of a job over time", note, specs, wide=True)


def _gpus_of(result: RunResult, rows: Ints, edges_s: Floats) -> Floats:
    held = result.allocations
    place = np.full(len(result.jobs), -1)
    place[rows] = np.arange(len(rows))
    mine = place[held.job] >= 0
    gpus = allocated_milli(held)[mine] / GPU_MILLI
    return mean_by_group(place[held.job[mine]], held.start_s[mine], held.end_s[mine], gpus, edges_s, len(rows))


def _useful(drawings: Sequence[Drawing]) -> Figure | None:
    """GPUs in use, each counted by what its job got done with it."""
    if not any(drawing.result.resizes.any() for drawing in drawings):
        return None
    figure = series("useful", "Useful GPUs", "GPUs' worth of work", drawings, useful_gpus, wide=True)
    shares = ", ".join(f"{drawing.label} {percent(efficiency(drawing.result), 0)}" for drawing in drawings)
    note = "GPUs in use, each counted by the work its job did a GPU-second, against the job alone on what it asked for: more GPUs are each "
    note += f"less efficient, fewer GPUs, another type or batch may be more. Over all finished jobs: {shares}. " + figure.note
    return Figure(figure.id, figure.title, note, figure.specs, figure.wide)


def efficiency(result: RunResult) -> float | None:
    """Work done for every GPU-second held, against the jobs alone on what they asked for; None if nothing finished."""
    done = np.isfinite(result.finish_s) & (result.attained_gpu_s > 0)
    held_gpu_s = float(result.attained_gpu_s[done].sum())
    return float((result.alone_s * result.jobs.gpus)[done].sum()) / held_gpu_s if held_gpu_s else None


def useful_gpus(result: RunResult) -> Steps:
    done = np.isfinite(result.finish_s) & (result.attained_gpu_s > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        worth = np.where(done, result.alone_s * result.jobs.gpus / result.attained_gpu_s, 0.0)
    held = result.allocations
    milli = np.rint(allocated_milli(held) * worth[held.job])
    steps = Steps.of(np.concatenate([held.start_s, held.end_s]), np.concatenate([milli, -milli]))
    return Steps(steps.time_s, steps.value / GPU_MILLI)


def _deadlines(drawings: Sequence[Drawing]) -> Figure | None:
    """When jobs end, as a share of the time they were given."""
    jobs = drawings[0].result.jobs
    given = measured_jobs(drawings[0].result) & np.isfinite(jobs.deadline_s) & (jobs.deadline_s > jobs.submit_s)
    if not given.any():
        return None
    lines, met = [], []
    for drawing in drawings:
        taken = (drawing.result.finish_s - jobs.submit_s)[given] / (jobs.deadline_s - jobs.submit_s)[given]
        taken = np.sort(taken[np.isfinite(taken)])
        share = 100 * np.arange(1, len(taken) + 1) / int(given.sum())
        keep = np.unique(np.linspace(0, len(taken) - 1, 400).astype(int)) if len(taken) else np.zeros(0, int)
        lines.append(line_of(drawing) | {"x": short(np.minimum(taken, LATEST)[keep]), "y": short(share[keep])})
        met.append(f"{drawing.label} {percent(float((taken <= 1).sum() / given.sum()), 0)}")
    border: Spec = {"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot", "width": 1}}
    note = f"{number(int(given.sum()))} jobs have a deadline; at 1 it has come. In time: {', '.join(met)}. A curve that ends below 100 % "
    note += f"leaves out jobs that were refused or did not end; {LATEST:g} stands for later, too."
    layout: Spec = {"xaxis": axis_of("time taken / time given", [0, LATEST]), "yaxis": axis_of("% of jobs with a deadline", [0, 101])}
    layout |= {"shapes": [border]}
    return Figure("deadlines", "Deadlines", note, {"": {"data": lines, "layout": layout}}, wide=True)


def _loaned(drawings: Sequence[Drawing]) -> Figure | None:
    """Loaned servers: nodes with a label, in a cluster whose nodes come and go."""
    cluster = drawings[0].result.cluster
    loaned = np.array([bool(node.label) for node in cluster.nodes])
    if not loaned.any() or not cluster.timeline:
        return None

    def in_use(result: RunResult) -> Steps:
        held = result.allocations
        milli = np.where(loaned[held.node], held.gpu_milli, 0)
        begins = np.repeat(held.start_s, np.diff(held.offset)), np.repeat(held.end_s, np.diff(held.offset))
        steps = Steps.of(np.concatenate(begins), np.concatenate([milli, -milli]))
        return Steps(steps.time_s, steps.value / GPU_MILLI)

    labels = ", ".join(dict.fromkeys(str(node.label) for node in cluster.nodes if node.label))
    figure = series("loaned", "GPUs in use on loaned servers", "GPUs", drawings, in_use, wide=True)
    return Figure(figure.id, figure.title, f"Nodes labelled {labels}, which come and go. " + figure.note, figure.specs, figure.wide)
