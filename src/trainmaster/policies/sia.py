"""Sia: goodput on mixed GPU types, one integer program a round.

Jayaram Subramanya et al., "Sia: Heterogeneity-aware, goodput-optimized ML-cluster scheduling", SOSP 2023, sections 3 and 4.

    configuration  (type, nodes, GPUs): a power of two inside a node, or whole nodes; so a placement always exists      [section 3.3];
                   a job whose user's bounds admit none of these runs on its minimum
    g[j, c]        goodput of job j in c / its least one in any c, x max(age - restarts x cost, 0) / (age + cost) if j is not in c
    x[j, c]        1 if j runs in c; at most one c a job; no type gives more GPUs than it has
    minimise       sum of x[j, c] g[j, c]^fairness + waiting_cost for every job that runs nowhere (fairness below 0)    [eq. 3]

Solved by HiGHS. Fits are Pollux's, one a type: each job is profiled on one GPU of every type before it starts (section 3.2), at
three batches, at no charge here; a type on which it has not run on several GPUs is taken to scale like one on which it has. A job
gets no more than twice the GPUs it has been seen on. One that is restarting stays where it is; one that waits loses nothing by starting.
Preset: the artifact's times on whole seconds, its factors that slow applications down, its restart costs by application, and jobs
that start unprofiled: what a type is worth where a job has not run is taken from where it has, by their speeds on one GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies import sia_artifact
from trainmaster.policies.base import Array, Decision, Floats, Line, Memory, Policy, Preset, View, check, policy
from trainmaster.policies.buddies import anyhow, buddies
from trainmaster.policies.goodput import Fits, Parts, count_moves, first_batch, worth_if_moved
from trainmaster.policies.speeds import least_elastic
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.goodput import Measured
from trainmaster.workload.perf.placements import pack

if TYPE_CHECKING:
    from trainmaster.workload.jobs import JobTable

Ints = NDArray[np.int64]

STARTING = 3  # phase of a job whose restart cost is not paid yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    fairness: float = -0.5  # exponent of the goodputs
    waiting_cost: float = 1.1  # of a job that runs nowhere; 1 is what the least configuration costs
    interval_s: float = 60.0  # what has been observed is looked at so often, events or not
    most_gpus: int = 64  # of a job
    profile_first: bool = True  # on one GPU of every type, before a job starts; false: known once it has run somewhere

    def __post_init__(self) -> None:
        check(self.fairness < 0, "fairness is below 0: the least goodput counts most")
        check(self.waiting_cost > 0 and self.interval_s > 0 and self.most_gpus > 0, "waiting_cost, interval_s and most_gpus are above 0")


@dataclass(frozen=True, slots=True)
class Configuration:
    accelerator: str
    nodes: int
    gpus: int


@policy(name="sia", paper="Jayaram Subramanya et al., SOSP 2023", needs=("profile", "goodput"), params=Params,
        presets={"artifact": Preset(params={"profile_first": False}, rules=sia_artifact.RULES, source=sia_artifact.SOURCE)})
class Sia(Policy[Params]):
    round_s = 60.0

    def start_memory(self, jobs: int) -> Memory:
        return {"fits": {}, "restarts": np.zeros(jobs), "started": np.zeros(jobs)}

    def least_gpus(self, jobs: JobTable) -> Floats:
        return least_elastic(jobs)

    def decide(self, view: View, memory: Memory) -> Decision:
        jobs = view.jobs
        if not len(jobs):
            return Decision()
        fits = self.fits(view, memory)
        nodes = {t: np.flatnonzero(view.nodes.up & (view.nodes.type == t)) for t in fits}
        standard = [c for t in fits for c in configurations(t, view.nodes.gpus[nodes[t]], self.params.most_gpus)]
        if not standard:
            return Decision()  # no node is there
        most = next(iter(fits.values())).most_gpus(np.arange(len(jobs)))
        accepted: Array = allowed(view, standard) & (np.array([c.gpus for c in standard]) <= most[:, None])
        bare: Array = accepted.sum(axis=1) == 0
        odd = [c for t in fits for c in odd_configurations(t, view.nodes.gpus[nodes[t]], jobs.min_gpus[bare])]
        insists: Array = bare[:, None] & (np.array([c.gpus for c in odd]) == jobs.min_gpus[:, None]) & allowed(view, odd)
        choices, accepted = standard + odd, np.concatenate([accepted, insists], axis=1)
        present = [self.present(view, choices, job) for job in range(len(jobs))]
        worth = goodputs(fits, choices, most) * accepted
        pinned = (jobs.state["pinned"].astype(bool) | (jobs.phase == STARTING)) & jobs.running
        for job in np.flatnonzero(pinned).tolist():
            here = np.arange(len(choices)) == present[job]
            worth[job] = np.where(here, max(worth[job, present[job]], 1e-9), 0.0) if present[job] >= 0 else worth[job]
        moved = np.where(jobs.running, worth_if_moved(view, memory, np.arange(len(jobs))), 1.0)  # who waits has nothing to lose
        cost = costs(worth, moved, present, self.params.fairness)
        capacity = {t: int(view.nodes.gpus[nodes[t]].sum()) for t in fits}
        chosen = solve(cost, choices, capacity, self.params.waiting_cost, pinned)
        return Decision(lines=tuple(self.lines(view, memory, fits, choices, chosen, nodes)), lease_s=self.params.interval_s)

    def fits(self, view: View, memory: Memory) -> dict[str, Fits]:
        """By type, profiled on one GPU and brought up to what has been observed."""
        found = {}
        for accelerator in view.capacity_gpus:
            known = memory["fits"].setdefault(accelerator, Fits.start(len(memory["restarts"])))
            fits = found[accelerator] = Fits(known, view, accelerator)
            for job in np.flatnonzero(~fits.known(np.arange(len(view.jobs)))).tolist() if self.params.profile_first else ():
                profile(view, fits, job)
            fits.observe()
        seen = np.max([memory["fits"][t]["seen_gpus"] for t in found], axis=0)
        for accelerator in found:  # what it has been seen on, whatever the type
            memory["fits"][accelerator]["seen_gpus"] = seen.copy()
        return found

    def present(self, view: View, choices: list[Configuration], job: int) -> int:
        """The configuration a job runs in, -1 = none."""
        if not view.jobs.running[job]:
            return -1
        on, gpus = view.holdings(int(view.jobs.row[job]))
        held = Configuration(str(view.nodes.type[on[0]]), len(on), int(sum(gpus)))
        return choices.index(held) if held in choices else -1

    def lines(self, view: View, memory: Memory, fits: dict[str, Fits], choices: list[Configuration], chosen: Ints,
              nodes: dict[str, Ints]) -> list[Line]:
        lines = []
        for accelerator, mine in nodes.items():
            gpus = np.array([choices[c].gpus if c >= 0 and choices[c].accelerator == accelerator else 0 for c in chosen.tolist()], np.int64)
            size, place = view.nodes.gpus[mine].astype(np.int64), {int(node): i for i, node in enumerate(mine.tolist())}
            held = {}
            for job in np.flatnonzero((gpus > 0) & view.jobs.running & (view.jobs.held_gpus == gpus)).tolist():
                on, counts = view.holdings(int(view.jobs.row[job]))
                if all(node in place for node in on):
                    held[job] = [(place[node], int(count)) for node, count in zip(on, counts, strict=True)]
            found = buddies(gpus, size, held) or buddies(gpus, size, {}) or anyhow(gpus, size, held)
            for job, parts in found.items():
                after = [(int(mine[i]), count) for i, count in parts]
                count_moves(view, memory, job, before(view, job), after)
                config = fits[accelerator].config(job, len(after), int(gpus[job]))
                lines += [Line(int(view.jobs.row[job]), float(count), node=node, config=config) for node, count in after]
        return lines


def before(view: View, job: int) -> Parts:
    if not view.jobs.running[job]:
        return []
    return [(node, int(gpus)) for node, gpus in zip(*view.holdings(int(view.jobs.row[job])), strict=True)]


def configurations(accelerator: str, node_gpus: Array, most: int) -> list[Configuration]:
    """Powers of two on one node, and whole nodes, of the nodes of one type."""
    if not len(node_gpus):
        return []
    size = int(node_gpus.max())
    inside = [Configuration(accelerator, 1, 1 << k) for k in range(size.bit_length()) if 1 << k <= min(size, most)]
    if size & (size - 1) and size <= most:
        inside.append(Configuration(accelerator, 1, size))
    whole = int((node_gpus == size).sum())
    return inside + [Configuration(accelerator, n, n * size) for n in range(2, whole + 1) if n * size <= most]


def odd_configurations(accelerator: str, node_gpus: Array, least: Array) -> list[Configuration]:
    """For jobs that no other configuration has enough GPUs for, or exactly as many: their minimum, on as few nodes as hold it."""
    largest_first = np.sort(node_gpus)[::-1].cumsum()
    sizes = sorted({int(gpus) for gpus in least[~np.isnan(least)].tolist() if gpus <= node_gpus.sum()})
    return [Configuration(accelerator, int(np.searchsorted(largest_first, gpus)) + 1, gpus) for gpus in sizes]


def profile(view: View, fits: Fits, job: int) -> None:
    """One GPU of this type at its smallest, its initial and its largest batch."""
    row, limits, accelerator = int(view.jobs.row[job]), fits.limits[job], str(fits.accelerator)
    initial, _ = first_batch(limits, 1)
    for atomic in sorted({limits.smallest_local, initial, limits.largest_local}):
        config = -1 if fits.fixed[job] is not None else pack(atomic, 0)
        seen = fits.profile.metrics(row, Allocation((0,), (1.0,), accelerator, config), view.done(row))
        fits.memory["stats"][view.jobs.seq[job]] = seen["grad_sqr"], seen["grad_var"]
        fits.add(int(view.jobs.seq[job]), Measured(1, 1, int(seen["atomic_batch"]), seen["pass_s"], seen["step_s"]))


def goodputs(fits: dict[str, Fits], choices: list[Configuration], most: Ints) -> Floats:
    """[job, configuration]: the best goodput there; 0 where it may not run.

    A type where a job has only run on one GPU scales like one where it has run on more; one where it has not run at all is that one,
    by their speeds on one GPU. A job that has run nowhere is worth as much on one GPU of any type.
    """
    everybody = np.arange(len(most))
    asked = {(choice.nodes > 1, choice.gpus) for choice in choices} | {(False, 1)}
    tables = {t: fit.table(everybody, most, asked) for t, fit in fits.items()}
    project(fits, tables)
    several = {t: np.array([any(point[1] > 1 for point in fit.memory["measured"].get(str(seq), ())) for seq in fit.view.jobs.seq.tolist()])
               for t, fit in fits.items()}  # fmt: skip
    worth = np.zeros((len(everybody), len(choices)))
    for c, choice in enumerate(choices):
        table, spans = tables[choice.accelerator], int(choice.nodes > 1)
        if choice.gpus >= table.shape[2]:
            continue
        worth[:, c] = table[:, spans, choice.gpus]
        if choice.gpus == 1:
            continue
        for other, shown in several.items():  # scales like a type on which it has been seen to
            known = shown & ~several[choice.accelerator] & (worth[:, c] > 0) & (tables[other][:, 0, 1] > 0)
            worth[known, c] = (table[:, 0, 1] * tables[other][:, spans, choice.gpus] / np.maximum(tables[other][:, 0, 1], 1e-300))[known]
    return worth


def project(fits: dict[str, Fits], tables: dict[str, Floats]) -> None:
    """Fill in the tables of types where a job has not run."""
    jobs = np.arange(len(next(iter(tables.values()))))
    known = {t: fit.known(jobs) for t, fit in fits.items()}
    for job in np.flatnonzero(~np.all(list(known.values()), axis=0)).tolist():
        source = next((t for t in fits if known[t][job]), None)
        for t, fit in fits.items():
            if source is None:
                tables[t][job, 0, 1] = 1.0
            elif not known[t][job]:
                row, profile = int(fit.view.jobs.row[job]), fit.profile
                tables[t][job] = tables[source][job] * (profile.speed_alone(row, t) / profile.speed_alone(row, source))


def allowed(view: View, choices: Sequence[Configuration]) -> Array:
    """[job, configuration]: whether its user accepts it."""
    jobs = view.jobs
    accepted = [jobs.table.accept_sets[jobs.table.accept_set[row]] for row in jobs.row.tolist()]
    types = np.array([[not names or not c.accelerator or c.accelerator in names for c in choices] for names in accepted], bool)
    gpus = np.array([c.gpus for c in choices])
    return types & ~(gpus < jobs.min_gpus[:, None]) & ~(gpus > jobs.max_gpus[:, None])


def costs(worth: Floats, moved: Floats, present: list[int], fairness: float) -> Floats:
    """[job, configuration]: what it adds to the sum; inf where it cannot run."""
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.where(worth > 0, worth, np.inf).min(axis=1, initial=np.inf)
        factor = np.repeat(np.maximum(moved, 1e-3)[:, None], worth.shape[1], axis=1)
        for job, c in enumerate(present):
            if c >= 0:
                factor[job, c] = 1.0
        return np.where(worth > 0, (worth / least[:, None] * factor) ** fairness, np.inf)


def solve(cost: Floats, choices: list[Configuration], capacity: dict[str, int], waiting_cost: float, must_run: Array) -> Ints:
    """The configuration of each job, -1 = none, at the least total cost."""
    jobs, columns = np.nonzero(np.isfinite(cost) & ((cost < waiting_cost) | must_run[:, None]))
    chosen = np.full(len(cost), -1, np.int64)
    if not len(jobs):
        return chosen
    types = list(capacity)
    type_of = np.array([types.index(choices[c].accelerator) for c in columns.tolist()])
    gpus = np.array([choices[c].gpus for c in columns.tolist()], np.float64)
    solution = highs(cost[jobs, columns] - waiting_cost, jobs, len(cost), type_of, gpus, [capacity[t] for t in types], must_run)
    taken = np.flatnonzero(solution > 0.5)
    chosen[jobs[taken]] = columns[taken]
    return chosen


def highs(gain: Floats, jobs: Array, n_jobs: int, type_of: Array, gpus: Floats, capacity: list[int], must_run: Array) -> Floats:
    """Binary x of least gain . x: one choice a job, as many GPUs as each type has. Often the relaxation is binary by itself."""
    from highspy import HighsLp, HighsVarType, MatrixFormat
    from highspy._core import _Highs  # the solver alone: the class around it prints a banner

    n = len(gain)
    program: Any = HighsLp()
    program.num_col_, program.num_row_ = n, n_jobs + len(capacity)
    program.col_cost_, program.col_lower_, program.col_upper_ = gain, np.zeros(n), np.ones(n)
    program.row_lower_ = np.concatenate([must_run.astype(np.float64), np.full(len(capacity), -np.inf)])
    program.row_upper_ = np.concatenate([np.ones(n_jobs), capacity])
    matrix = program.a_matrix_
    matrix.format_, matrix.start_ = MatrixFormat.kColwise, np.arange(0, 2 * n + 1, 2, dtype=np.int32)
    matrix.index_ = np.stack([jobs, n_jobs + type_of], axis=1).astype(np.int32).ravel()
    matrix.value_ = np.stack([np.ones(n), gpus], axis=1).ravel()
    solver: Any = _Highs()
    for option, value in (("output_flag", False), ("threads", 1), ("random_seed", 0), ("mip_rel_gap", 1e-4)):
        solver.setOptionValue(option, value)
    solver.passModel(program)
    solver.run()
    relaxed = np.array(solver.getSolution().col_value)
    if (np.abs(relaxed - np.rint(relaxed)) < 1e-6).all():
        return relaxed
    solver.clearSolver()  # begun from the basis of the relaxation, HiGHS 1.16 calls optimal what is not, 3 times in 1,000
    solver.changeColsIntegrality(n, np.arange(n, dtype=np.int32), np.full(n, int(HighsVarType.kInteger), np.uint8))
    solver.run()
    return np.array(solver.getSolution().col_value)
