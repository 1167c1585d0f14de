"""Why a job is where it is: the recorded decision's reason, its place, when it should start, and what would start it now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainmaster.errors import TrainmasterError
from trainmaster.live.control import WhyAnswer
from trainmaster.live.forecast import Forecaster, Fork
from trainmaster.live.jobs import LiveJob
from trainmaster.live.scheduling import Made
from trainmaster.live.states import State
from trainmaster.live.store import StoreUnavailable
from trainmaster.policies.base import Reason, Verdict

if TYPE_CHECKING:
    from trainmaster.live.controller import Controller

AHEAD = 5  # jobs before it that are named
HELD = frozenset({Verdict.KEPT, Verdict.STARTED, Verdict.PINNED, Verdict.MIN_RUN, Verdict.SPARED})  # said of who has GPUs, or is to have
PROMISED = Reason("reserved", "it has been given GPUs that others are still leaving: it starts when they have gone")
WORDS = {verdict: verdict.name.lower().replace("_", "-") for verdict in Verdict}


class Explainer:
    def __init__(self, controller: Controller, forecaster: Forecaster) -> None:
        self.controller, self.forecaster = controller, forecaster
        self.annotated: Made | None = None
        self.places: dict[int, int] = {}
        self.verdicts: dict[int, tuple[Verdict, float]] = {}

    def annotate(self, jobs: Iterable[LiveJob]) -> None:
        """Places, reasons and expected starts of those that wait, as of the last decision and the last forecast."""
        made = self.controller.made
        if made is not None and made is not self.annotated:
            self.annotated = made
            self.places = {id: place for place, id in enumerate(made.order.tolist(), 1)}
            record = made.record
            self.verdicts = {
                seq: (Verdict(verdict), short)
                for seq, verdict, short in zip(record.seq.tolist(), record.verdict.tolist(), record.short_gpus.tolist(), strict=True)
            }
        forecast = self.forecaster.last
        starts = forecast.starts_s if forecast is not None else {}
        promised = self._promised()
        for job in jobs:
            if job.attempt is None and job.id in self.verdicts and job.id in self.controller.offered:
                verdict, _ = self.verdicts[job.id]
                if job.id in promised:
                    job.row.reason = PROMISED.code
                elif verdict not in HELD and not job.row.reason.startswith("can never fit"):
                    job.row.reason = WORDS[verdict]
                job.place = self.places.get(job.id)
                job.eta_s = starts[job.id][0] if job.id in starts else None
            else:
                job.place, job.eta_s = None, self._end_s(job)
        if self.controller.thread is not None and len(self.controller.jobs) > len(self.controller.holding):
            self.forecaster.refresh_soon()

    def _promised(self) -> set[int]:
        """Jobs that wait for GPUs which others are still leaving."""
        engine = self.controller.scheduling.engine
        rows = [] if engine is None or engine.handover is None else list(engine.handover.claims)
        return set() if engine is None else set(engine.jobs.seq[rows].tolist())

    def _end_s(self, job: LiveJob) -> float | None:
        """When a running job should end."""
        if job.attempt is None or job.stop_reason is not None:
            return None
        known = self.controller.estimates.run_time(job)
        return None if known is None else max(job.attempt.claimed_s + known[0] - job.row.run_s, self.controller.clock())

    def why(self, id: int) -> WhyAnswer:
        job = self.controller.jobs.get(id)
        if job is None:
            record = self.controller.store.job(id)
            return self._answer(id, record.state, Reason("ended", f"it has ended: {record.state.value}, {record.reason}"))
        self.annotate([job])
        made = self.controller.made
        if job.attempt is not None:
            return self._answer(id, job.row.state, self._holding(job, made), made=made)
        if job.row.reason.startswith("can never fit"):
            return self._answer(id, job.row.state, Reason("unschedulable", f"it {job.row.reason}"))
        if id not in self.controller.offered or made is None or id not in self.verdicts:
            text = job.row.reason or "no decision has seen it yet"
            return self._answer(id, job.row.state, Reason(text.split(":")[0].split(" ")[0], SENTENCES.get(text, text)))
        if id in self._promised():
            return self._answer(id, job.row.state, PROMISED, made=made)
        if self.verdicts[id][0] in HELD:  # it held its GPUs then
            return self._answer(id, job.row.state, Reason("new", "it waits again, and no decision has seen it since"))
        reason = made.policy.explain(made.record, id)
        if self.verdicts[id][1] > 0 and (pinned := self._pinned_gpus()):
            more = f"jobs that have registered no checkpoint, and so are not stopped, hold {pinned:g}"
            reason = replace(reason, text=f"{reason.text}; {more}")
        forecast, fork = None, None
        try:
            forecast = self.forecaster.forecast()
            fork = self.forecaster.fork()
        except StoreUnavailable:
            pass  # an alert of its own says so
        except TrainmasterError as problem:
            self.controller.alerts["forecast"] = str(problem)
        expected = forecast.starts_s.get(id) if forecast is not None else None
        source = "unknown"
        if expected is not None and forecast is not None:
            source = "the twin, from where the cluster is now, with the estimates and limits of the jobs before it"
            source += "; of some nothing is known but this site's default limit" if forecast.guessed else ""
        return self._answer(id, job.row.state, reason, made=made, expected=expected, source=source,
                            counterfactual=None if fork is None else self._counterfactual(fork, job))  # fmt: skip

    def _holding(self, job: LiveJob, made: Made | None) -> Reason:
        if job.stop_reason is not None:
            return Reason(job.stop_reason, f"it is being stopped ({job.stop_reason}); its GPUs are its own until it is gone")
        verdict = self.verdicts.get(job.id, (Verdict.KEPT, 0.0))[0]
        if verdict is Verdict.PINNED or not job.row.preemptible:
            return Reason("pinned", "it runs, and is not stopped for others: it has registered no checkpoint and does not say it may be")
        if verdict in (Verdict.MIN_RUN, Verdict.SPARED) and made is not None:
            return made.policy.explain(made.record, job.id)
        return Reason("running", "it holds its GPUs; the policy may stop it for others, at a checkpoint")

    def _pinned_gpus(self) -> float:
        jobs = [job for job in list(self.controller.holding.values()) if not job.row.preemptible and job.stop_reason is None]
        return sum(share.gpus for job in jobs if job.attempt for share in job.attempt.shares)

    def _answer(self, id: int, state: State, reason: Reason, *, made: Made | None = None, expected: tuple[float, float] | None = None,
                source: str = "unknown", counterfactual: str | None = None) -> WhyAnswer:  # fmt: skip
        place = self.places.get(id) if made is not None else None
        return WhyAnswer(
            job=id, state=state, code=reason.code, text=reason.text, numbers=dict(reason.numbers), place=place,
            of=len(self.places) if place is not None else None, ahead=tuple(self._ahead(made, place)) if made and place else (),
            expected_start_s=expected, estimate_source=source, counterfactual=counterfactual,
            decision=made.record.decision if made else None, decided_s=made.record.now_s if made else None,
        )  # fmt: skip

    def _ahead(self, made: Made, place: int) -> Iterator[dict[str, Any]]:
        """The nearest few before it, nearest first."""
        for id in reversed(made.order[max(place - 1 - AHEAD, 0) : place - 1].tolist()):
            other = self.controller.jobs.get(id)
            if other is not None:
                why = made.policy.explain(made.record, id) if id in self.verdicts else Reason("new", "new")
                yield {"id": id, "user": other.row.user, "gpus": other.row.gpus, "why": why.text}

    def _counterfactual(self, fork: Fork, job: LiveJob) -> str | None:
        """The least change that would start it with the next decision."""
        for change, words in self._alternatives(job):
            if self.forecaster.would_start_now(fork, job.id, change):
                return f"would start now {words}"
        return None

    def _alternatives(self, job: LiveJob) -> Iterator[tuple[Mapping[str, Any], str]]:
        cluster = self.controller.cluster
        if job.needs.gpu_types:
            for name in cluster.types:
                if name not in job.needs.gpu_types:
                    yield {"gpu_types": (*job.needs.gpu_types, name)}, f"on {name or 'untyped nodes'}"
        for name in self.controller.queues:
            if name != job.row.queue:
                yield {"queue": name}, f"in queue {name}"
        yield {"priority": max(other.row.priority for other in list(self.controller.jobs.values())) + 1.0}, "at a higher priority"
        if job.needs.nodes is not None and job.needs.nodes > 1:
            yield {"nodes": None}, f"if it did not ask for {job.needs.nodes} nodes"
        gpus = int(job.row.gpus)
        while gpus > 1:
            gpus //= 2
            yield {"gpus": float(gpus)}, f"with {gpus} GPU{'s' if gpus > 1 else ''}"


SENTENCES = {
    "held": "it is held until somebody releases it",
    "suspended": "it is suspended until somebody resumes it",
    "begins later": "it is to begin later, as it asked",
}
