"""Tiresias: least attained GPU service, continuous or in a few levels, and by Gittins index where past jobs are known.

Gu et al., "Tiresias: A GPU Cluster Manager for Distributed Deep Learning", NSDI 2019, section 3.

    attained service  W = sum over the job's past of GPUs held x seconds            [GPU-seconds]   (2D attained service)
    las               by W, re-decided every quantum: continuous 2D-LAS (section 3.1)
    tiresias-las      by (level of W, running before waiting, submission): Discretized 2D-LAS (section 3.2)
    tiresias-gittins  inside a level by the Gittins index of W, larger first: 2D-Gittins (section 3.2)

Why it works: of jobs of unknown length, the one that has used little is likelier to be short. Levels keep jobs of like
service from preempting each other for ever; running before waiting does so inside a level.

`preset=artifact` follows the authors' simulator: limits 3,250 and 7,200 GPU-seconds, levels kept as lists (newcomers and
demoted jobs at the end; after each walk running jobs move ahead and stay there), crossings noticed at whole seconds.
Not here: the paper's promotion of jobs that have waited long (its PromoteKnob); the artifact's default has none either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainmaster.errors import ParamError
from trainmaster.policies.base import (
    DecisionRecord,
    EngineRules,
    Floats,
    ListPolicy,
    Memory,
    Preset,
    Reason,
    Samples,
    Verdict,
    check,
    key_function,
    policy,
    wakeup_function,
)

BIBTEX = """@inproceedings{tiresias,
  author = {Gu, Juncheng and Chowdhury, Mosharaf and Shin, Kang G. and Zhu, Yibo and Jeon, Myeongjae and Qian, Junjie and Liu, Hongqiang and Guo, Chuanxiong},
  title = {{Tiresias}: A {GPU} Cluster Manager for Distributed Deep Learning},
  booktitle = {16th USENIX Symposium on Networked Systems Design and Implementation (NSDI)},
  year = {2019}
}"""  # noqa: E501

# ------------------------------------------------------------------------------------------------- las


@dataclass(frozen=True, slots=True, kw_only=True)
class LasParams:
    quantum_s: float = 600.0  # between two of these, a running job is displaced only by arrivals with less
    blocking: bool = False  # stop at the first job that does not fit

    def __post_init__(self) -> None:
        check(self.quantum_s > 0, f"quantum_s must be above 0, not {self.quantum_s:g}")


@key_function
def least_attained(jobs, rows, n, now_s, params, shared, per_job, out):
    """(others before jobs that were waiting already, W, running before waiting); shared[0]: the next full re-decision."""
    full = now_s >= shared[0]
    for i in range(n):
        job = jobs[rows[i]]
        out[i, 0] = -1.0 if (job.running or job.new) and not full else 0.0
        out[i, 1] = job.attained_gpu_s
        out[i, 2] = 0.0 if job.running else 1.0


@wakeup_function
def next_quantum(jobs, rows, n, now_s, params, shared, per_job):
    """Quanta end at whole multiples; asked only while jobs wait."""
    shared[0] = (np.floor(now_s / params[0]) + 1.0) * params[0]
    return shared[0]


@policy(name="las", paper="Gu et al., NSDI 2019, section 3.1", params=LasParams, bibtex=BIBTEX)
class Las(ListPolicy[LasParams]):
    key, wakeup = least_attained, next_quantum

    def validate(self, restart_cost_s: float) -> None:
        fine = self.params.quantum_s > restart_cost_s  # else jobs that take turns never get past their restarts
        check(fine, f"las.quantum_s={self.params.quantum_s:g} must be longer than the restart cost of {restart_cost_s:g} s")

    def start_memory(self, jobs: int) -> Memory:
        return {"shared": np.zeros(1), "per_job": np.zeros((1, 1))}

    def key_params(self) -> Floats:
        return np.array([self.params.quantum_s])


# ------------------------------------------------------------------------------------------------- levels

# Parameters as the compiled key reads them: [levels are lists, running jobs go ahead, limits...]
LISTS, AHEAD, LIMITS = 0, 1, 2
# per_job[seq]: the level (-1 = not seen yet) and the place in its list. shared: front and back of each level's list.
LEVEL, PLACE = 0, 1

# A crossing is computed as a time; service read at that time may fall short of the limit by rounding.
REACHED = 1.0 - 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    limits_gpu_s: tuple[float, ...] = (11_520.0,)  # level k holds W < limits_gpu_s[k]; the last is open
    lists: bool = False  # levels are lists in which jobs keep their place (the artifacts), instead of submission order
    running_ahead: bool = True  # with lists: after each walk running jobs move ahead of waiting ones of their level
    blocking: bool = False  # stop at the first job that does not fit

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.limits_gpu_s, self.limits_gpu_s[1:], strict=False))
        check(len(self.limits_gpu_s) > 0 and ascending and self.limits_gpu_s[0] > 0, "limits_gpu_s must be ascending and above 0")


@key_function
def by_level(jobs, rows, n, now_s, params, shared, per_job, out):
    """(level, running before waiting, submission); with lists (level, place in its list)."""
    levels = len(params) - LIMITS + 1
    if params[LISTS] == 0.0:
        for i in range(n):
            job = jobs[rows[i]]
            level = 0
            while level < levels - 1 and job.attained_gpu_s >= params[LIMITS + level] * REACHED:
                level += 1
            out[i, 0] = level
            out[i, 1] = 0.0 if job.running else 1.0
            out[i, 2] = job.submit_s
        return
    if params[AHEAD] == 1.0:  # the walk before this one: its running jobs move ahead, order kept
        for level in range(levels):
            running = 0
            for i in range(n):
                job = jobs[rows[i]]
                if job.running and per_job[job.seq, LEVEL] == level:
                    running += 1
            shared[2 * level] -= running
            place = shared[2 * level]
            for i in range(n):
                job = jobs[rows[i]]
                if job.running and per_job[job.seq, LEVEL] == level:
                    per_job[job.seq, PLACE] = place
                    place += 1.0
    for i in range(n):  # newcomers go to the end of the first list, demoted jobs one list down, to its end
        job = jobs[rows[i]]
        level = int(per_job[job.seq, LEVEL])
        new = level < 0
        if new or (job.running and level < levels - 1 and job.attained_gpu_s >= params[LIMITS + level] * REACHED):
            level += 1
            per_job[job.seq, LEVEL] = level
            per_job[job.seq, PLACE] = shared[2 * level + 1]
            shared[2 * level + 1] += 1.0
        out[i, 0] = level
        out[i, 1] = per_job[job.seq, PLACE]
        out[i, 2] = 0.0


@wakeup_function
def next_crossing(jobs, rows, n, now_s, params, shared, per_job):
    """The next crossing of a limit by a running job: ranks change then, with no event."""
    wake_s = np.inf
    for i in range(n):
        job = jobs[rows[i]]
        if job.held_milli == 0:
            continue
        if params[LISTS] == 0.0:
            level = 0
            while level < len(params) - LIMITS and job.attained_gpu_s >= params[LIMITS + level] * REACHED:
                level += 1
        else:
            level = int(per_job[job.seq, LEVEL])
        if level < len(params) - LIMITS:
            room_gpu_s = params[LIMITS + level] - job.attained_gpu_s
            wake_s = min(wake_s, now_s + max(room_gpu_s, params[LIMITS + level] * 1e-10) / (job.held_milli / 1000.0))
    return wake_s


class Levels(ListPolicy[Any]):
    """What the two discretized policies share."""

    key, wakeup = by_level, next_crossing

    def is_stateful(self) -> bool:
        return self.params.lists

    def start_memory(self, jobs: int) -> Memory:
        per_job = np.full((max(jobs, 1), 2), -1.0)
        return {"shared": np.zeros(2 * (len(self.params.limits_gpu_s) + 1)), "per_job": per_job}

    def key_params(self) -> Floats:
        return np.array([float(self.params.lists), float(self.params.running_ahead), *self.params.limits_gpu_s])

    def explain(self, record: DecisionRecord, seq: int) -> Reason:
        reason = super().explain(record, seq)
        row = record.row(seq)
        if record.verdict[row] != Verdict.CAPACITY:
            return reason
        used_gpu_s = float(record.columns["attained_gpu_s"][row])
        level = int(np.searchsorted(self.params.limits_gpu_s, used_gpu_s, side="right"))
        text = f"on level {level}, having used {used_gpu_s:,.0f} GPU-s: {reason.text}"
        return Reason("lower-level", text, {"level": level, "used_gpu_s": used_gpu_s, **reason.numbers})


# Their simulator counts seconds; its threshold crossings are rounded up.
ARTIFACT = Preset(
    params={"limits_gpu_s": (3_250.0, 7_200.0), "lists": True},
    rules=EngineRules(wake_grid_s=1.0, restart_cost_s=0.0),
    source="Tiresias simulator, dlas-gpu, with demotion at the exact crossing",
)
POLLUX_ARTIFACT = Preset(
    params={"limits_gpu_s": (57_600.0,), "lists": True, "running_ahead": False},  # 16 GPU-hours
    rules=EngineRules(due_grid_s=1.0, placement="spread"),
    source="Pollux OSDI 2021 artifact, policy tiresias",
)


@policy(
    name="tiresias-las",
    paper="Gu et al., NSDI 2019, section 3.2",
    params=Params,
    presets={"artifact": ARTIFACT, "pollux-artifact": POLLUX_ARTIFACT},
    bibtex=BIBTEX,
)
class TiresiasLas(Levels):
    pass


# ------------------------------------------------------------------------------------------------- Gittins


@dataclass(frozen=True, slots=True, kw_only=True)
class GittinsParams(Params):
    samples: Samples | None = None  # GPU-seconds that past jobs took in all (a CSV with a column `duration`); required
    quantum_gpu_s: float = 3_250.0  # how far ahead the index looks
    whole_sizes: bool = False  # the artifact's index: just below the next size, and of whole sizes instead of what is left


@key_function
def by_gittins(jobs, rows, n, now_s, params, shared, per_job, out):
    """(level, Gittins index from large to small, running before waiting).

        index(W) = P(S <= W + D | S > W) / E[min(S - W, D) | S > W]        (section 3.2; S: past jobs' sizes, D: the quantum)

    shared: D, 1 for the artifact's index, then the sizes ascending and their running sums. The artifact's index is that
    just below the next size above W, and adds up S where this has S - W.
    """
    quantum, artifact, size = shared[0], shared[1] == 1.0, (len(shared) - 3) // 2
    sizes, sums = shared[2 : 2 + size], shared[2 + size :]
    levels = len(params) - LIMITS + 1
    for i in range(n):
        job = jobs[rows[i]]
        level = 0
        while level < levels - 1 and job.attained_gpu_s >= params[LIMITS + level] * REACHED:
            level += 1
        used = job.attained_gpu_s
        above = np.searchsorted(sizes, used, side="right")
        index = 0.0
        if above < size:
            if artifact:
                used = sizes[above] - 1.0
                above = np.searchsorted(sizes, used, side="right")
            within = np.searchsorted(sizes, used + quantum, side="right")
            soon, later = within - above, size - within
            spent = sums[within] - sums[above] + quantum * later
            index = soon / (spent if artifact else spent - soon * used)
        out[i, 0] = level
        out[i, 1] = -index
        out[i, 2] = 0.0 if job.running or params[AHEAD] == 0.0 else 1.0


@policy(
    name="tiresias-gittins",
    paper="Gu et al., NSDI 2019, section 3.2",
    needs=("samples",),
    params=GittinsParams,
    presets={
        "artifact": Preset(
            params={"limits_gpu_s": (3_250.0, 7_200.0), "whole_sizes": True, "running_ahead": False},
            rules=EngineRules(wake_grid_s=1.0, restart_cost_s=0.0),
            source="Tiresias simulator, dlas-gpu-gittins",
        )
    },
    bibtex=BIBTEX,
)
class TiresiasGittins(Levels):
    key = by_gittins

    def start_memory(self, jobs: int) -> Memory:
        samples = self.params.samples
        if samples is None:
            raise ParamError("--policy: tiresias-gittins needs the GPU-seconds of past jobs: --set tiresias-gittins.samples=FILE.csv")
        sizes = np.sort(np.array(samples.values))
        head = [self.params.quantum_gpu_s, float(self.params.whole_sizes)]
        return {"shared": np.concatenate([head, sizes, [0.0], np.cumsum(sizes)]), "per_job": np.zeros((1, 1))}
