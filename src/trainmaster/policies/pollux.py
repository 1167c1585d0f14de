"""Pollux: GPUs and batch sizes together, for the goodput of all jobs.

Qiao et al., "Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized Deep Learning", OSDI 2021, sections 3 and 4.

    goodput    throughput x statistical efficiency, by GPUs, nodes and batch; fitted while the job runs (`perf/goodput.py`)
    speed-up   of a job: its best goodput there / its goodput on a fair share of the GPUs, on one node;
               x max(age - restarts x cost, 0) / (age + cost) where it would have to move       [section 4.2.1: restart penalty]
    fitness    power mean of the speed-ups, exponent `fairness`: below 0, the worst-off count most

Every round the fitness is made as large as can be found over all placements; no two gangs that span nodes share a node
(interference avoidance), and a job gets no more than twice the GPUs it has been seen on, so that its fit is believed in
steps. A job that has reported nothing yet gets one GPU. Its batch follows by itself: the best one where it is, anew each round.

autoscale  utility = sum of speed-ups against one GPU / GPUs there; outside [low_utility, high_utility] the cluster is given as many
           nodes of the `autoscale` entry named so as bring it nearest to their middle                    [section 4.2.2, cloud]

Default search: `kernels/allotment.py`, which finds as much fitness as the paper's genetic one or more in all but 2 of 8,018
decisions, in a third of its time or less (docs/elastic.md).
`search=genetic` (and the preset) is the artifact's NSGA-II. GPU types are not told apart: see Sia.
Not here: the change of batch between rounds, at the end of an epoch; here it waits for the round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainmaster.policies.base import Array, Decision, EngineRules, Floats, Line, Memory, Policy, Preset, View, check, policy
from trainmaster.policies.goodput import Fits, count_moves, worth_if_moved
from trainmaster.policies.speeds import least_elastic

if TYPE_CHECKING:
    from trainmaster.workload.jobs import JobTable

Ints = NDArray[np.int64]

UNALLOCATED = 1e-3  # added to every speed-up, so that a job without GPUs is dear and not infinitely so


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    fairness: float = -1.0  # exponent of the power mean
    interval_s: float = 60.0  # what has been observed is looked at so often, events or not
    search: str = "neighbourhood"  # neighbourhood | genetic
    steps: int = 8_000  # of the neighbourhood search, and as many again for every 20 jobs
    population: int = 100  # of the genetic one
    generations: int = 100
    avoid_interference: bool = True  # at most one gang that spans nodes on a node
    most_gpus: int = 64  # of a job
    most_nodes: int = 16
    autoscale: str | None = None  # name of the cluster file's entry
    low_utility: float = 0.35
    high_utility: float = 0.65

    def __post_init__(self) -> None:
        check(self.search in ("neighbourhood", "genetic"), f"search: {self.search!r} is not neighbourhood or genetic")
        check(self.steps >= 0 and self.population > 1 and self.generations > 0, "steps, population and generations count from 0, 2 and 1")
        check(0 < self.low_utility < self.high_utility < 1, "low_utility and high_utility lie in this order between 0 and 1")
        check(self.most_gpus > 0 and 0 < self.most_nodes <= 64, "most_gpus counts from 1, most_nodes from 1 to 64")


PRESETS = {
    "artifact": Preset(params={"search": "genetic"}, rules=EngineRules(due_grid_s=1.0), source="petuum/adaptdl, branch osdi21-artifact")
}


@policy(name="pollux", paper="Qiao et al., OSDI 2021", needs=("profile", "goodput"), params=Params, presets=PRESETS)
class Pollux(Policy[Params]):
    round_s = 60.0

    def start_memory(self, jobs: int) -> Memory:
        return {**Fits.start(jobs), "restarts": np.zeros(jobs), "started": np.zeros(jobs)}

    def least_gpus(self, jobs: JobTable) -> Floats:
        return least_elastic(jobs)

    def decide(self, view: View, memory: Memory) -> Decision:
        jobs = view.jobs
        fits = Fits(memory, view)
        fits.observe()
        order = np.lexsort((jobs.seq, jobs.submit_s, jobs.attained_gpu_s, ~jobs.state["pinned"].astype(bool)))
        if not len(order):
            return Decision()
        base = placements(view, order, self.params.most_nodes)
        capacity = np.where(view.nodes.up, view.nodes.gpus, 0).astype(np.int64)
        speed, most = self.speed_ups(view, fits, order, capacity)
        terms = self.loss(speed * worth_if_moved(view, memory, order)[:, None, None])
        held = (base[:, :, 1] * (base[:, :, 0] >= 0)).sum(axis=1)
        spans = (base[:, 1, 0] >= 0).astype(int)
        stay = self.loss(speed[np.arange(len(order)), spans, held])
        pinned = jobs.state["pinned"][order].astype(bool) & (held > 0)
        if pinned.any():
            capacity -= dense(base[pinned], len(capacity)).sum(axis=0)
        free = ~pinned
        rows = base.copy()
        rows[free] = self.place(view, memory, order[free], terms[free], stay[free], speed[free], base[free], most[free], capacity)
        rows[(rows[:, :, 1] * (rows[:, :, 0] >= 0)).sum(axis=1) < np.nan_to_num(jobs.min_gpus[order], nan=0.0), :, 0] = -1
        lines = self.lines(view, memory, fits, order, base, rows)
        want, vacate = self.scaled(view, speed, terms, most, rows)
        return Decision(lines=tuple(lines), lease_s=self.params.interval_s, want_nodes=want, vacate=vacate)

    def speed_ups(self, view: View, fits: Fits, order: Array, capacity: Ints) -> tuple[Floats, Ints]:
        """[job, spans nodes, GPUs] against a fair share on one node, scaled so that a node's worth is 1; and the most GPUs of each."""
        total, jobs = int(capacity.sum()), len(order)
        fair = max(-(-total // jobs), 1)
        scale = len(capacity) / max(total, 1)
        known = fits.known(order)
        most = np.minimum(fits.most_gpus(order), max(min(self.params.most_gpus, total), 1))
        speed = np.zeros((jobs, 2, int(most.max()) + 1))
        speed[~known] = np.arange(speed.shape[2]) / fair  # nothing is known: linear
        table, (_, _, limits) = fits.table(order[known], most[known]), fits.columns(order[known])
        share = np.minimum(fair, limits[:, 1] // limits[:, 2])
        base = fits.goodputs(order[known], share)
        speed[known, :, : table.shape[2]] = table / base[:, None, None]
        sizes, least = np.arange(speed.shape[2]), view.jobs.min_gpus[order][:, None]
        speed.swapaxes(0, 1)[:, (sizes > most[:, None]) | (sizes < least)] = 0.0
        return speed * scale, most

    def loss(self, speed: Floats) -> Floats:
        """What a job adds to the sum whose least value is the largest power mean."""
        power, values = self.params.fairness, speed + UNALLOCATED
        return -np.log(values) if power == 0 else values**power * (1.0 if power < 0 else -1.0)

    def place(self, view: View, memory: Memory, order: Array, terms: Floats, stay: Floats, speed: Floats, base: Ints, most: Ints,
              capacity: Ints) -> Ints:
        """Where each job goes: (node, GPUs) parts, -1 ends."""
        if not len(order):
            return base
        params, seed = self.params, int(view.rng.integers(1 << 31))
        if params.search == "neighbourhood":
            from trainmaster.policies.kernels.allotment import search

            steps = params.steps * (20 + len(order)) // 20
            rows, _ = search(terms, stay, base, most, capacity, params.avoid_interference, steps, seed)
            return np.asarray(rows)
        from trainmaster.policies.kernels.evolution import evolve

        nodes, seq = len(capacity), view.jobs.seq[order]
        present = dense(base, nodes)
        people = recalled(memory, seq, present)
        people, costs = evolve(people, present, terms, stay, speed, most, capacity, params.avoid_interference, params.most_nodes,
                               params.population, params.generations, seed)  # fmt: skip
        memory["population"], memory["population_seq"] = people, seq.copy()
        return sparse(people[int(np.argmin(costs))], base.shape[1])

    def scaled(self, view: View, speed: Floats, terms: Floats, most: Ints, rows: Ints) -> tuple[dict[str, int], tuple[int, ...]]:
        """(nodes wanted, nodes given back): none of either where the cluster does not scale."""
        name, nodes = self.params.autoscale, view.nodes
        if name is None:
            return {}, ()
        from trainmaster.policies.kernels.allotment import search

        group = (nodes.label == name) | (nodes.type == name)
        here, use = np.flatnonzero(group & nodes.up), dense(rows, len(nodes.gpus)).sum(axis=0)
        others = np.where(nodes.up & ~group, nodes.gpus, 0).astype(np.int64)
        candidates = np.concatenate([here, np.flatnonzero(group & ~nodes.up)])

        def utility(count: int, placed: Ints | None = None) -> float:
            capacity = others.copy()
            capacity[candidates[:count]] = nodes.gpus[candidates[:count]]
            if placed is None:
                nowhere = np.full_like(rows, -1)
                placed, _ = search(terms, np.full(len(terms), np.inf), nowhere, most, capacity, self.params.avoid_interference, 300, 0)
            gpus, spans = (placed[:, :, 1] * (placed[:, :, 0] >= 0)).sum(axis=1), (placed[:, 1, 0] >= 0).astype(int)
            alone = np.maximum(speed[:, 0, 1], 1e-12)
            return float((speed[np.arange(len(gpus)), spans, gpus] / alone).sum()) / max(int(capacity.sum()), 1)

        wanted, least = len(here), 0 if others.any() else 1
        if not self.params.low_utility <= utility(len(here), rows) <= self.params.high_utility:
            middle = (self.params.low_utility + self.params.high_utility) / 2
            low, high = least, len(candidates)  # utility falls with the number of nodes
            while low < high:
                count = (low + high) // 2
                low, high = (count + 1, high) if utility(count) > middle else (low, count)
            wanted = min((max(low - 1, least), low), key=lambda count: abs(utility(count) - middle))
        leaving = np.flatnonzero(group & nodes.vacating).tolist() if wanted <= len(here) else []
        leaving += here[np.argsort(use[here], kind="stable")][: max(len(here) - wanted, 0)].tolist()
        return {name: wanted}, tuple(leaving)

    def lines(self, view: View, memory: Memory, fits: Fits, order: Array, base: Ints, rows: Ints) -> list[Line]:
        lines = []
        for job, before, after in zip(order.tolist(), base, rows, strict=True):
            parts = [(int(node), int(gpus)) for node, gpus in after if node >= 0]
            if not parts:
                continue
            count_moves(view, memory, job, [(int(node), int(gpus)) for node, gpus in before if node >= 0], parts)
            config = fits.config(job, len(parts), sum(gpus for _, gpus in parts))
            lines += [Line(int(view.jobs.row[job]), float(gpus), node=node, config=config) for node, gpus in parts]
        return lines


# ------------------------------------------------------------------------------------------------- rows and matrices


def placements(view: View, order: Array, most_nodes: int) -> Ints:
    """[job, part, (node, GPUs)] of what these jobs hold; -1 ends."""
    held = {i: view.holdings(int(view.jobs.row[job])) for i, job in enumerate(order.tolist()) if view.jobs.running[job]}
    base = np.zeros((len(order), max([most_nodes, *(len(nodes) for nodes, _ in held.values())]), 2), np.int64)
    base[:, :, 0] = -1
    for i, (nodes, gpus) in held.items():
        base[i, : len(nodes), 0], base[i, : len(nodes), 1] = nodes, gpus
    return base


def dense(rows: Ints, nodes: int) -> NDArray[np.int16]:
    """[job, node] GPUs."""
    matrix = np.zeros((len(rows), nodes + 1), np.int16)
    np.put_along_axis(matrix, np.where(rows[:, :, 0] < 0, nodes, rows[:, :, 0]), rows[:, :, 1].astype(np.int16), axis=1)
    return np.ascontiguousarray(matrix[:, :nodes])


def sparse(matrix: NDArray[np.int16], most_nodes: int) -> Ints:
    rows = np.zeros((len(matrix), most_nodes, 2), np.int64)
    rows[:, :, 0] = -1
    for row, gpus in zip(rows, matrix, strict=True):
        nodes = np.flatnonzero(gpus)
        row[: len(nodes), 0], row[: len(nodes), 1] = nodes, gpus[nodes]
    return rows


def recalled(memory: Memory, seq: Ints, present: NDArray[np.int16]) -> NDArray[np.int16]:
    """The last population with a row a job of now; where the jobs are, before the first."""
    if "population" not in memory or memory["population"].shape[2] != present.shape[1]:
        return present[None]
    place = {job: row for row, job in enumerate(memory["population_seq"].tolist())}
    old = np.array([place.get(job, -1) for job in seq.tolist()])
    people = np.where((old >= 0)[:, None], memory["population"][:, old], 0)
    return np.concatenate([present[None], people.astype(np.int16)])
