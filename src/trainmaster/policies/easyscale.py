"""EasyScale: jobs on whatever GPUs guaranteed jobs leave, with results that do not depend on how many they are.

Li et al., "EasyScale: Elastic Training with Consistent Accuracy and Improved Utilization on GPUs", SC 2023, sections 3.4 and 5
(arXiv 2208.14228).

    EST         an EasyScaleThread, a logical worker: a job has W of them, as many as it asked for GPUs, on any number of GPUs
    c, A        ESTs a GPU does in unit time; ESTs it is assigned, sum A >= W
    step        max A / c over its GPUs, so throughput W / step; waste = 1 - throughput / sum c
    plan        numbers of GPUs by type; dropped if it wastes more than `most_waste`
    score       (speed-up after / speed-up before - 1) / GPUs added + 1                                     [section 5: intra-job]

Jobs of service class "guaranteed" hold what they ask for, by arrival, and are never touched. All others are elastic: each with
nothing first gets its smallest plan, by arrival; then, round by round, every job proposes its best larger plan (GPUs of one
type, at most doubling it), and the highest scores are served, one a job a round. They shrink at once, the last first, when a
guaranteed job comes.
Determinism: D1 holds across numbers of GPUs of one type, D2 across types, at a cost. A job mixes types only with `mix=true`;
without it, it stays on the type where it began.
Not here: the cost of D2, which depends on the model; engine rates are the profile's, which time-slices ideally.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainmaster.policies.base import Decision, Floats, Line, Memory, Policy, View, check, policy
from trainmaster.policies.speeds import accelerator_of, least_elastic

if TYPE_CHECKING:
    from trainmaster.workload.jobs import JobTable

Plan = Mapping[str, int]  # GPUs by type
BIBTEX = """@inproceedings{easyscale,
  author = {Li, Mingzhen and Xiao, Wencong and Yang, Hailong and Sun, Biao and Zhao, Hanyu and Ren, Shiru and Luan, Zhongzhi and Jia,
            Xianyan and Liu, Yi and Li, Yong and Lin, Wei and Qian, Depei},
  title = {{EasyScale}: Elastic Training with Consistent Accuracy and Improved Utilization on {GPUs}}, booktitle = {SC}, year = {2023}}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    most_waste: float = 0.30  # of a plan's capability
    mix: bool = False  # a job may use several types at once (determinism level D2)

    def __post_init__(self) -> None:
        check(0 <= self.most_waste < 1, "most_waste is from 0 to below 1")


@policy(name="easyscale", paper="Li et al., SC 2023", needs=("profile",), params=Params, bibtex=BIBTEX)
class EasyScale(Policy[Params]):
    def least_gpus(self, jobs: JobTable) -> Floats:
        guaranteed = jobs.service_class.text() == "guaranteed"
        return np.where(guaranteed, jobs.gpus, least_elastic(jobs))

    def decide(self, view: View, memory: Memory) -> Decision:
        jobs = view.jobs
        guaranteed = jobs.table.service_class.text()[jobs.row] == "guaranteed"
        spare = Counter({name: int(gpus) for name, gpus in view.capacity_gpus.items()})
        lines = []
        for job in sorted(np.flatnonzero(guaranteed).tolist(), key=lambda job: (not jobs.running[job], jobs.submit_s[job], jobs.seq[job])):
            type_ = self.type_held(view, job) or self.first_type(view, job, spare)
            if type_ is not None and spare[type_] >= jobs.gpus[job]:
                spare[type_] -= int(jobs.gpus[job])
                lines.append(Line(int(jobs.row[job]), float(jobs.gpus[job]), type=type_ or None))
        elastic = np.flatnonzero(~guaranteed).tolist()
        plans = share_out(
            [int(jobs.gpus[job]) for job in elastic], [self.capability(view, job) for job in elastic],
            [self.plan_held(view, job) for job in elastic], spare, self.params.most_waste, mix=self.params.mix,
            least=np.nan_to_num(jobs.min_gpus[elastic], nan=1.0).astype(int).tolist(),
        )  # fmt: skip
        for job, plan in zip(elastic, plans, strict=True):
            lines += [Line(int(jobs.row[job]), float(n), type=type_ or None) for type_, n in plan.items() if n]
        return Decision(lines=tuple(lines))

    def capability(self, view: View, job: int) -> dict[str, float]:
        """Of one GPU of each type that the job accepts, relative to the first."""
        row = int(view.jobs.row[job])
        accepted = view.jobs.table.accept_sets[view.jobs.table.accept_set[row]]
        types = [name for name in view.capacity_gpus if not accepted or not name or name in accepted]
        alone = {name: float(view.profile.speeds(row, name, 1, 1, view.done(row))[1]) for name in types}
        first = alone.get(accelerator_of(view, row), 0.0) or max(alone.values(), default=0.0) or 1.0
        return {name: speed / first for name, speed in alone.items() if speed > 0} or dict.fromkeys(types, 1.0)

    def plan_held(self, view: View, job: int) -> dict[str, int]:
        if not view.jobs.running[job]:
            return {}
        plan = Counter[str]()
        for node, gpus in zip(*view.holdings(int(view.jobs.row[job])), strict=True):
            plan[str(view.nodes.type[node])] += int(gpus)
        return dict(plan)

    def type_held(self, view: View, job: int) -> str | None:
        return next(iter(self.plan_held(view, job)), None)

    def first_type(self, view: View, job: int, spare: Mapping[str, int]) -> str | None:
        accepted = view.jobs.table.accept_sets[view.jobs.table.accept_set[view.jobs.row[job]]]
        return next((t for t, n in spare.items() if n >= view.jobs.gpus[job] and (not accepted or not t or t in accepted)), None)


# ------------------------------------------------------------------------------------------------- plans


def throughput(workers: int, capabilities: Sequence[float]) -> float:
    """ESTs in unit time when they are assigned so that the slowest GPU is done soonest."""
    return workers / step(assign(workers, capabilities), capabilities) if capabilities else 0.0


def assign(workers: int, capabilities: Sequence[float]) -> list[int]:
    """ESTs of each GPU: one at a time to the GPU that would be done with it first, the more capable of equals."""
    assigned = [0] * len(capabilities)
    for _ in range(workers):
        at = min(range(len(capabilities)), key=lambda i: ((assigned[i] + 1) / capabilities[i], -capabilities[i], i))
        assigned[at] += 1
    return assigned


def step(assigned: Sequence[int], capabilities: Sequence[float]) -> float:
    return max(a / c for a, c in zip(assigned, capabilities, strict=True))


def waste(workers: int, assigned: Sequence[int], capabilities: Sequence[float]) -> float:
    """The part of its GPUs' capability that a plan leaves unused."""
    return 1 - workers / step(assigned, capabilities) / sum(capabilities)


def score(before: float, after: float, added: int) -> float:
    """Of a larger plan, by its throughput and the present one's."""
    return (after / before - 1) / added + 1


def unrolled(plan: Plan, capability: Mapping[str, float]) -> list[float]:
    return [capability[name] for name, count in plan.items() for _ in range(count)]


def is_thrifty(workers: int, plan: Plan, capability: Mapping[str, float], most_waste: float) -> bool:
    each = unrolled(plan, capability)
    return len(each) <= workers and waste(workers, assign(workers, each), each) <= most_waste + 1e-12


def proposal(workers: int, plan: Plan, capability: Mapping[str, float], spare: Mapping[str, int], most_waste: float, *,
             mix: bool) -> tuple[float, str, int] | None:
    """(score, type, GPUs added) of a job's best larger plan, if any makes it faster."""
    now, held = throughput(workers, unrolled(plan, capability)), sum(plan.values())
    best = None
    for name in capability:
        if not mix and name not in plan:
            continue
        for added in range(1, min(spare.get(name, 0), held) + 1):
            larger = {**plan, name: plan.get(name, 0) + added}
            after = throughput(workers, unrolled(larger, capability))
            if after > now * (1 + 1e-9) and is_thrifty(workers, larger, capability, most_waste):
                found = (score(now, after, added), name, added)
                best = found if best is None or found[0] > best[0] + 1e-12 else best
    return best


def share_out(workers: Sequence[int], capability: Sequence[Mapping[str, float]], held: Sequence[Plan], spare: Mapping[str, int],
              most_waste: float, *, mix: bool, least: Sequence[int] | None = None) -> list[dict[str, int]]:
    """The plan of each job, {} = none: those held as far as there is room, then first plans, then proposals by score.

    `least`: GPUs below which a job does not run.
    """
    least = least or [1] * len(workers)
    left, plans = Counter(spare), [dict(plan) for plan in held]
    for job, plan in enumerate(plans):  # in order of arrival, so that the last shrink first
        for name in list(plan):
            plan[name] = min(plan[name], left[name])
            left[name] -= plan[name]
            if not plan[name]:
                del plan[name]
        if sum(plan.values()) < least[job]:
            left.update(plan)
            plan.clear()
    for job, plan in enumerate(plans):
        if not plan and (free := [name for name in capability[job] if left[name] >= least[job]]):
            plan[free[0]] = least[job]
            left[free[0]] -= least[job]
    while True:
        offers = [
            (offer, job) for job, plan in enumerate(plans)
            if plan and (offer := proposal(workers[job], plan, capability[job], left, most_waste, mix=mix))
        ]  # fmt: skip
        served = False
        for (_, name, added), job in sorted(offers, key=lambda offer: (-offer[0][0], offer[1])):
            if added <= left[name]:
                plans[job][name] = plans[job].get(name, 0) + added
                left[name] -= added
                served = True
        if not served:
            return plans
