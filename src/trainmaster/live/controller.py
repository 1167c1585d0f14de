"""The controller: one thread that turns what people ask and what the backend sees into decisions, and writes all of it down first.

    turn   commands and observations change the jobs             -> one transaction
           the engine decides                                    -> one transaction, the policy's memory with it
           the backend is told to start and stop                 repeatable: after a crash it is told again

Nothing is done that is not committed, and nothing that was committed is forgotten: a controller that starts finds the jobs in the
store and the attempts at the backend, and goes on. What people asked is answered once it is committed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from trainmaster.cluster.cluster import Cluster, Node, QueueSpec
from trainmaster.engine.core import Setup
from trainmaster.engine.handover import Parts
from trainmaster.engine.snapshot import slots_of
from trainmaster.errors import BackendError, Conflict, InputError, NotFound
from trainmaster.live.backends.base import Attempt, Backend, NodeSeen, Observation, Seen
from trainmaster.live.estimates import Estimates
from trainmaster.live.fair_share import FairShare
from trainmaster.live.jobs import LiveJob, Needs
from trainmaster.live.ledger import Changes, Submission
from trainmaster.live.nodes import as_down, cluster_of, without_others
from trainmaster.live.offers import obstacle, standing
from trainmaster.live.packing import pack, unpack
from trainmaster.live.pins import Held, Pins
from trainmaster.live.recovery import shares_of, slots_held, snapshot_of
from trainmaster.live.rules import Rules
from trainmaster.live.scheduling import Acts, Made, Scheduling, bound_for
from trainmaster.live.spec import JobSpec
from trainmaster.live.states import State
from trainmaster.live.store import AttemptRow, CommitUnknown, LeaseLost, Store, StoreUnavailable, decision_record
from trainmaster.live.table import table_of
from trainmaster.live.transitions import Outcome, outcome_of
from trainmaster.policies.base import EngineRules, Memory, Policy
from trainmaster.workload.jobs import GPU_MILLI, JobTable

RECORD_ALL_UP_TO = 1_000  # jobs; with more, a decision's record is written at most so often:
RECORD_EVERY_S = 2.0
IDLE_SHARE = 6.0  # after a decision that took t, people's requests go first for so many times t
RETRY_S = 0.5  # between tries to reach a store that is away
RENEW_S = 5.0  # of the lease
MISSED_S = 5.0  # an attempt that the backend has not named for so long is missing
TABLE_S = 60.0  # estimates of waiting jobs are no older
AVOID = 2.0  # a node where a start failed is avoided for so many times the back-off
REMEMBER_S, MOST_REMEMBERED = 30 * 86_400.0, 5_000  # ended jobs that estimates are made of after a restart
GONE = frozenset({Seen.ENDED, Seen.LOST, Seen.REFUSED})
ASKED = frozenset({"preempt", "requeue", "suspend", "cancel", "limit", "hang"})

Command = Callable[["Controller", Changes], Any]
T = TypeVar("T")


class Controller:
    def __init__(self, store: Store, backend: Backend, policy: Policy[Any], *, policy_rules: EngineRules | None = None,
                 rules: Rules | None = None, queues: Mapping[str, QueueSpec] | None = None,
                 node_queues: Mapping[str, tuple[str, ...]] | None = None, setup: Setup | None = None,
                 now: Callable[[], float] = time.time) -> None:  # fmt: skip
        self.store, self.backend, self.rules = store, backend, rules or Rules()
        self.queues, self.node_queues = dict(queues or {}), dict(node_queues or {})
        base = setup or Setup()
        self.setup = replace(base, restart_cost_s=0.0, min_run_s=self.rules.min_run_s, most_preemptions=self.rules.most_preemptions)
        self.clock, self.last_now_s = now, 0.0
        self.jobs: dict[int, LiveJob] = {}  # all that have not ended
        self.offered: dict[int, LiveJob] = {}  # of these, those the engine has: they wait, hold GPUs or drain
        self.out: dict[int, LiveJob] = {}  # and those it has not: held, suspended, waiting for others or for their time
        self.holding: dict[int, LiveJob] = {}  # and those with a live attempt
        self.avoiding: dict[int, float] = {}  # jobs that avoid a node, and until when
        self.timed: dict[int, float] = {}  # of those out, when time alone lets them in
        self.needed: dict[int, State] = {}  # jobs that others depend on
        self.array_in: Counter[int] = Counter()  # elements of each array among the offered
        self.estimates = Estimates()
        self.fair_share = FairShare(self.rules.fair_share_half_life_s)
        self.nodes: list[NodeSeen] = []
        self.drained: dict[str, str] = {}
        self.cluster = Cluster.of([])
        self.table: JobTable | None = None  # of the offered jobs, as the engine was last given it
        self.changed: set[int] = set()  # jobs whose row of it is not as it was
        self.table_s = -np.inf
        self.acts = Acts()
        self.starts: list[tuple[LiveJob, AttemptRow]] = []  # what the backend is to be told once it is committed
        self.stops: list[tuple[LiveJob, AttemptRow]] = []
        self.forgotten: list[tuple[int, int]] = []  # attempts whose end is committed by then
        self.scheduling = Scheduling(policy, policy_rules, self.setup, self.acts)
        self.since_s = self.policy_since_s = self.now()
        self.made: Made | None = None
        self.decisions, self.recorded_s = 0, 0.0
        self.quiet_until = 0.0  # of time.monotonic(): no decision before
        self.stale = True  # the engine's jobs or nodes are not those of now
        self.recheck = True  # a job may have become ready to be offered
        self.alerts: dict[str, str] = {}
        self.commands: SimpleQueue[tuple[Command, Future[Any]]] = SimpleQueue()
        self.woken, self.stopping = threading.Event(), threading.Event()
        self.looked_s = self.renewed_s = -np.inf
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        self.on_decision: Callable[[Made], None] | None = None

    # ---------------------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Take up what the store and the backend know, and go on in a thread."""
        self.recover()
        self.thread = threading.Thread(target=self._run, name="controller", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Stop deciding. Jobs run on."""
        self.stopping.set()
        self.woken.set()
        if self.thread is not None:
            self.thread.join()
        self.backend.close()

    def wake(self) -> None:
        """Something is to be done, or seen."""
        self.looked_s = -np.inf
        self.woken.set()

    def now(self) -> float:
        """Never back: a clock that is set back stands still until it has caught up."""
        self.last_now_s = max(self.last_now_s, self.clock())
        return self.last_now_s

    def ask(self, command: Command) -> Future[Any]:
        """Run it in the controller's thread; done once what it changed is committed. Refused at once while the store is away."""
        answer: Future[Any] = Future()
        if "store" in self.alerts:
            answer.set_exception(StoreUnavailable(self.alerts["store"]))
            return answer
        self.commands.put((command, answer))
        self.woken.set()
        if self.failure is not None:
            self._refuse_commands(f"the controller has stopped: {self.failure}")
        return answer

    def _run(self) -> None:
        try:
            while not self.stopping.is_set():
                self.woken.wait(self.pause_s())
                self.woken.clear()
                self.turn()
        except BaseException as failure:
            self.failure = failure
            self._refuse_commands(f"the controller has stopped: {failure}")
            if not isinstance(failure, LeaseLost | StoreUnavailable):
                raise

    def pause_s(self) -> float:
        """Until something is due by itself."""
        quiet_s = max(self.quiet_until - time.monotonic(), 0.0)
        if self.stale or self.recheck:
            return quiet_s
        now_s = self.now()
        due_s = min(self.scheduling.next_s(), self._next_time_s(), self.looked_s + self.rules.poll_s, self.renewed_s + RENEW_S)
        return max(due_s - now_s, 0.0)

    # ---------------------------------------------------------------------------------------------------------- start-up

    def recover(self) -> None:
        """From the store's jobs and the backend's attempts to a controller that can take its first turn."""
        self.backend.open(self.wake)
        now_s = self.now()
        active = self.store.active_jobs()
        specs: dict[int, Needs] = {}
        for row in sorted(active.jobs, key=lambda row: row.id not in active.attempts):  # who holds GPUs counts in its array's limit first
            spec = specs.get(row.spec)
            if spec is None:
                spec = specs[row.spec] = Needs.of(JobSpec.model_validate_json(active.spec(row.spec)))
            live = active.attempts.get(row.id, ())
            self._enter(LiveJob(row, spec, attempt=live[-1] if live else None))
        self.drained = {mark.name: mark.reason for mark in self.store.nodes() if mark.drained}
        for ended in self.store.succeeded_last(now_s - REMEMBER_S, MOST_REMEMBERED):
            self.estimates.learn(ended.user, ended.name, ended.queue, ended.run_s)
        self.fair_share.take_up(self.store.meta("fair_share"))
        self._look_at_nodes()
        self._remember_nodes()
        changes = Changes(now_s)
        self._offer(changes)
        jobs = list(self.offered.values())
        table, last, kept = self._table(), self.store.decision(), self.store.policy_memory()
        self.decisions = last.id if last is not None else 0
        policy = self.scheduling.policy
        ours = kept is not None and kept.policy == policy.name and kept.version == policy.memory_version
        bound = bound_for(table)
        memory: Memory = unpack(kept.body, bound) if ours and kept is not None else policy.start_memory(bound)
        if kept is not None and not ours:
            changes.event("policy", reason=f"{policy.name} begins with a fresh memory: the stored one is of {kept.policy} {kept.version}")
        snapshot = snapshot_of(jobs, self.node_row, now_s, self.decisions, memory, bound)
        self._say_who_never_fits(self.scheduling.begin(snapshot, table, jobs, self.cluster))
        self.stale = False
        changes.event("controller", reason="started")
        self._commit(changes)
        for job in jobs:  # the controller before this one may have died between writing down and telling
            if job.attempt is not None and job.attempt.asked_s is not None:
                self.tell_stop(job, job.attempt)
        self._tell_starts([(job, job.attempt) for job in jobs
                           if job.attempt is not None and job.attempt.asked_s is None and job.attempt.start_s is None])  # fmt: skip

    # ---------------------------------------------------------------------------------------------------------- one turn

    def turn(self) -> None:
        """Everything that is due now."""
        now_s = self.now()
        changes = Changes(now_s)
        answers = self._obey(changes)
        made = self._note(self.scheduling.catch_up(now_s))
        if made is not None and self.stale:  # on the nodes that the engine knows, of which others may have taken some since
            self._set_nodes(self.nodes)
        self._observe(changes)
        self._check_times(changes)
        self._carry(changes, made)
        for submission in changes.submissions:
            for job in submission.jobs():
                self._enter(job)
            submission.answer.set_result(submission.ids)
        for answer, result in answers:
            answer.set_result(result)
        if time.monotonic() >= self.quiet_until:
            self._decide()
        if now_s - self.renewed_s >= RENEW_S:
            self._until_stored(self.store.renew)
            self.renewed_s = now_s

    def _obey(self, changes: Changes) -> list[tuple[Future[Any], Any]]:
        """What people asked since the last turn; (who waits, what for) once it is committed."""
        answers: list[tuple[Future[Any], Any]] = []
        while not self.commands.empty():
            try:
                command, answer = self.commands.get_nowait()
            except Empty:
                break
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                result = command(self, changes)
                self.take_acts(changes)  # the next command finds jobs as this one has left them
            except (NotFound, Conflict, InputError, BackendError, StoreUnavailable) as refusal:
                answer.set_exception(refusal)
            else:
                if isinstance(result, Submission):
                    result.answer = answer
                else:
                    answers.append((answer, result))
        return answers

    def _decide(self) -> None:
        """Offer what is ready, and decide."""
        now_s, began = self.now(), time.monotonic()
        changes = Changes(now_s)
        if self.recheck:
            self._offer(changes)
        if self.stale:
            self._say_who_never_fits(self.scheduling.renew(self._table(), list(self.offered.values()), self.cluster))
            self.stale = False
        made = self.scheduling.decide(now_s)
        took_s = time.monotonic() - began
        if made is not None:
            made = self._note(replace(made, took_ms=took_s * 1e3))
        if self.scheduling.problem:
            self.alerts["policy"] = f"nobody is started: {self.scheduling.problem}; choose another policy, or cancel what it cannot take"
        else:
            self.alerts.pop("policy", None)
        self._carry(changes, made)
        self.quiet_until = time.monotonic() + IDLE_SHARE * took_s

    def _say_who_never_fits(self, never: Mapping[int, str]) -> None:
        """By job, why; who is not among them may fit by now."""
        for job in self.offered.values():
            if job.attempt is None and job.id in never:
                job.row.reason = f"can never fit: {never[job.id]}"
            elif job.row.reason.startswith("can never fit"):
                job.row.reason = ""

    def _carry(self, changes: Changes, made: Made | None) -> None:
        """Write down what has changed and what the engine wants; then tell the backend."""
        self.take_acts(changes)
        self._commit(changes, made)
        for id, number in self.forgotten:  # first: what they held is for those that start
            self._tell(partial(self.backend.forget, id, number))  # one that is not is seen again, and forgotten then
        self._tell_starts(self.starts)
        for job, attempt in self.stops:
            self.tell_stop(job, attempt)
        self.starts.clear()
        self.stops.clear()
        self.forgotten.clear()

    def take_acts(self, changes: Changes) -> None:
        """What the engine told its executor, as changes of jobs; the backend is told once they are committed."""
        begun = {seq for seq, _ in self.acts.starts}
        for seq in self.acts.stops:
            if seq not in begun:
                self._ask_to_stop(changes, self.jobs[seq])
        if self.acts.starts:
            names = [node.name for node in self.nodes]
            pins = self._pins() if self.backend.capabilities.pin_gpus else None
            for seq, parts in self.acts.starts:
                self._begin(changes, self.jobs[seq], parts, names, pins)
        for seq in self.acts.stops:
            if seq in begun:  # decided upon before it was written down
                self._ask_to_stop(changes, self.jobs[seq])
        self.acts.stops.clear()
        self.acts.starts.clear()

    def _ask_to_stop(self, changes: Changes, job: LiveJob) -> None:
        attempt = job.attempt
        assert attempt is not None
        reason = attempt.reason or "preempt"
        changes.attempt(attempt, asked_s=changes.now_s, reason=reason, state=Seen.DRAINING.value)
        changes.state(job, State.COMPLETING if reason in ("cancel", "limit") else State.PREEMPTING, reason)
        job.warned = False
        self.stops.append((job, attempt))

    def _begin(self, changes: Changes, job: LiveJob, parts: Parts, names: list[str], pins: Pins | None) -> None:
        engine = self.scheduling.engine
        assert engine is not None
        slots, shares = slots_of(engine, parts), shares_of(parts, names)
        if pins is not None:
            shares = pins.pin(shares, slots)
        attempt = job.attempt = AttemptRow(
            job=job.id, attempt=job.row.attempts + 1, state=Seen.STARTING.value, shares=shares, claimed_s=changes.now_s
        )
        job.seen, job.warned = None, False
        self.holding[job.id] = job
        self.recheck |= job.id in self.needed  # some wait for no more than that
        changes.new_attempts.append(attempt)
        changes.job(
            job, attempts=attempt.attempt, nodes=tuple(share.node for share in attempt.shares),
            gpu_type=self.cluster.nodes[int(parts.node[0])].type or None,
            start_s=changes.now_s if job.row.start_s is None else job.row.start_s,
            engine=job.told | ({"slots": slots} if any(slot >= 0 for slot in slots) else {}),
        )  # fmt: skip
        changes.state(job, State.STARTING, "started", nodes=list(job.row.nodes), gpus=[share.gpus for share in attempt.shares])
        self.starts.append((job, attempt))

    def _pins(self) -> Pins:
        """For what the engine has just given: only who has something on the same nodes matters."""
        nodes = {row for _, parts in self.acts.starts for row in parts.node.tolist()}
        return Pins(self._held(nodes), self.nodes)

    def _held(self, nodes: Set[int]) -> Iterator[Held]:
        """What attempts that are on these nodes have in fact, and the GPUs that the ledger counts the shared ones on."""
        engine = self.scheduling.engine
        assert engine is not None and engine.handover is not None
        names = {self.nodes[row].name for row in nodes}
        for job in self.holding.values():
            if job.attempt is None or names.isdisjoint(job.row.nodes):
                continue
            if (parts := engine.handover.of(engine.row(job.id))) is not None:
                yield job.attempt.shares, slots_of(engine, parts)

    def _note(self, made: Made | None) -> Made | None:
        if made is not None:
            self.made, self.decisions = made, made.record.decision
            if self.on_decision is not None:
                self.on_decision(made)
        return made

    # ---------------------------------------------------------------------------------------------------------- what is seen

    def _observe(self, changes: Changes) -> None:
        if changes.now_s - self.looked_s < self.rules.poll_s:
            return
        self.looked_s = changes.now_s
        try:
            self._look_at_nodes(changes)
            seen = self.backend.observe()
            self.alerts.pop("backend", None)
        except BackendError as problem:
            self.alerts["backend"] = str(problem)
            return
        for observation in seen:
            job = self.jobs.get(observation.job)
            attempt = job.attempt if job is not None else None
            if job is None or attempt is None or attempt.attempt != observation.attempt:
                self._superseded(observation)
            elif observation.seen in GONE:
                self._gone(changes, job, attempt, observation)
            else:
                self._there(changes, job, attempt, observation)

        self._miss(changes, {(observation.job, observation.attempt) for observation in seen})

    def _miss(self, changes: Changes, known: set[tuple[int, int]]) -> None:
        """Attempts that the backend knows nothing of: it was not told, or lost them."""
        untold: list[tuple[LiveJob, AttemptRow]] = []
        for job in list(self.holding.values()):
            attempt = job.attempt
            assert attempt is not None
            told_s = attempt.claimed_s if attempt.asked_s is None else attempt.asked_s
            if (job.id, attempt.attempt) in known or changes.now_s - max(told_s, job.named_s) < MISSED_S:
                continue
            if attempt.start_s is None and not attempt.reason:
                untold.append((job, attempt))
            else:
                seen = Seen.REFUSED if attempt.start_s is None else Seen.LOST
                message = "the backend knows nothing of it"
                self._gone(changes, job, attempt, Observation(job=job.id, attempt=attempt.attempt, seen=seen, message=message))
        self._tell_starts(untold)

    def _superseded(self, seen: Observation) -> None:
        """An attempt that is not a job's present one: its end is known already, or it must end now."""
        if seen.seen in GONE:
            self._tell(lambda: self.backend.forget(seen.job, seen.attempt))
        else:
            self._tell(lambda: self.backend.stop(seen.job, seen.attempt, grace_s=0.0, reason="superseded"))

    def _there(self, changes: Changes, job: LiveJob, attempt: AttemptRow, seen: Observation) -> None:
        engine = self.scheduling.engine
        assert engine is not None
        job.seen, job.named_s = seen, changes.now_s
        if seen.seen in (Seen.RUNNING, Seen.DRAINING) and attempt.start_s is None and seen.started_s is not None:
            changes.attempt(attempt, start_s=seen.started_s, state=seen.seen.value)
            job.start_failures, job.failed_on, job.avoid = 0, [], None
            if attempt.asked_s is None:
                changes.state(job, State.RUNNING, "running")
                engine.started(job.id)
        if seen.checkpointed and not job.row.preemptible and job.needs.preemptible is None and not job.told:
            changes.job(job, preemptible=True)
            changes.event("checkpoint", job, reason="it has registered a checkpoint: it may be stopped for others")
            engine.set_pinned(job.id, False)
            self.changed.add(job.id)
        if seen.requeue and job.needs.requeue and not attempt.reason:
            attempt.reason = "requeue"
            engine.take_back(job.id)

    def _gone(self, changes: Changes, job: LiveJob, attempt: AttemptRow, seen: Observation) -> None:
        """Nothing is left of an attempt: what becomes of its job."""
        engine = self.scheduling.engine
        assert engine is not None
        outcome = outcome_of(job, seen)
        if job.id in self.acts.stops:  # it went before it was told to
            self.acts.stops.remove(job.id)
        end_s = max(min(seen.ended_s or changes.now_s, changes.now_s), attempt.claimed_s)
        held_s, gpus = end_s - attempt.claimed_s, sum(share.gpus for share in attempt.shares)
        told = seen if seen.step is not None or job.seen is None else job.seen  # what it has said last of its steps
        step, saved = (told.step, told.saved_step) if told.step is not None else (job.row.step, job.row.saved_step)
        again = outcome.state in (State.PENDING, State.RECOVERING, State.SUSPENDED)
        lost_steps = max((told.step or 0) - (told.saved_step or 0), 0) if again else 0
        started_s = seen.started_s if attempt.start_s is None else attempt.start_s
        changes.attempt(attempt, start_s=started_s, end_s=end_s, exit_code=seen.exit_code, state=seen.seen.value, step=told.step,
                        saved_step=told.saved_step, lost_steps=lost_steps, reason=outcome.reason)  # fmt: skip
        changes.job(
            job, run_s=job.row.run_s + held_s, gpu_s=job.row.gpu_s + held_s * gpus, step=saved if again else step, saved_step=saved,
            lost_steps=job.row.lost_steps + lost_steps, preemptions=job.row.preemptions + outcome.preempted,
            failures=job.row.failures + outcome.failure, tries=job.row.tries + outcome.retried, engine=job.told,
        )  # fmt: skip
        if self.fair_share.half_life_s > 0:
            self.fair_share.charge(job.row.user, held_s * gpus, changes.now_s)
            changes.meta["fair_share"] = self.fair_share.as_json()
        if outcome.state.ended:
            engine.ended(job.id)
            self.over(changes, job, outcome.state, outcome.reason, exit_code=seen.exit_code, finish_s=end_s)
        else:
            self._again(changes, job, outcome)
        job.attempt, job.seen = None, None
        self.holding.pop(job.id, None)
        self.alerts.pop(f"job {job.id}", None)
        if not outcome.state.ended:
            if obstacle(job, self.needed, Counter(), changes.now_s) is not None:
                self.withdraw(job)
            else:  # the engine offers only those again that it stopped by itself
                engine.offer(job.id)
        self.forgotten.append((job.id, attempt.attempt))

    def _again(self, changes: Changes, job: LiveJob, outcome: Outcome) -> None:
        """The job lives on without its attempt."""
        engine, attempt = self.scheduling.engine, job.attempt
        assert engine is not None and attempt is not None
        if job.row.state is State.RUNNING and outcome.state is State.PENDING:
            changes.state(job, State.RECOVERING, outcome.reason)
        changes.state(job, outcome.state, outcome.reason)
        if outcome.state is State.RECOVERING:
            changes.state(job, State.PENDING, outcome.reason)
        if outcome.failed_start:
            job.start_failures += 1
            backoff_s = min(self.rules.backoff_s * 2.0 ** (job.start_failures - 1), self.rules.most_backoff_s)
            job.retry_at_s = changes.now_s + backoff_s
            nodes = [share.node for share in attempt.shares]
            job.failed_on += nodes
            failed = max(nodes, key=job.failed_on.count)  # which of a gang's it was nobody says
            types = job.needs.gpu_types
            others = [node for node in self.nodes if node.up and node.name != failed and (not types or node.node.type in ("", *types))]
            if others:  # on the only one it has to be tried again
                job.avoid, self.avoiding[job.id] = failed, job.retry_at_s + AVOID * backoff_s
            engine.failed_to_start(job.id)
            if job.start_failures >= self.rules.most_start_failures:
                changes.job(job, held=True, reason=f"held after {job.start_failures} failed starts: {outcome.reason}")
                changes.event("held", job, reason=job.row.reason)
        elif attempt.asked_s is not None or attempt.reason in ASKED:
            engine.stopped(job.id)
        else:
            engine.lost(job.id)
        self.recheck = True

    def over(self, changes: Changes, job: LiveJob, state: State, reason: str, *, exit_code: int | None, finish_s: float,
             actor: str | None = None) -> None:
        """A job has ended, for good."""
        changes.job(job, exit_code=exit_code, finish_s=finish_s)
        changes.state(job, state, reason, actor)
        if state is State.SUCCEEDED:
            self.estimates.learn(job.row.user, job.row.name, job.row.queue, job.row.run_s)
        if job.id in self.needed:
            self.needed[job.id] = state
        self._leave(job)
        del self.jobs[job.id]
        self.out.pop(job.id, None)
        self.timed.pop(job.id, None)
        self.recheck = True

    # ---------------------------------------------------------------------------------------------------------- time

    def _next_time_s(self) -> float:
        """When a job's limit, start time-out, back-off or begin is next due."""
        return min((*map(self._due_s, self.holding.values()), *self.timed.values(), *self.avoiding.values()), default=np.inf)

    def _due_s(self, job: LiveJob) -> float:
        """When a holding job is next to be looked at, though nothing is heard of it."""
        attempt = job.attempt
        assert attempt is not None
        if attempt.asked_s is not None:
            return np.inf if job.warned else attempt.asked_s + job.needs.grace_s + self.rules.stop_alert_s
        if attempt.start_s is None:  # a controller that was away may not have told the backend
            return max(attempt.claimed_s, self.since_s) + self.rules.start_timeout_s
        if job.row.limit_s is None:
            return np.inf
        end_s = attempt.claimed_s + job.row.limit_s  # of this attempt: a requeued job has its whole limit again, as with Slurm
        lead_s = job.needs.signal.before_s if job.needs.signal is not None else 0.0
        return end_s if job.warned or not lead_s else end_s - lead_s

    def _check_times(self, changes: Changes) -> None:
        engine = self.scheduling.engine
        assert engine is not None
        for job in [job for job in self.holding.values() if self._due_s(job) <= changes.now_s]:
            attempt, signal = job.attempt, job.needs.signal
            assert attempt is not None
            if attempt.asked_s is not None:
                job.warned = True
                self.alerts[f"job {job.id}"] = f"job {job.id}: its stop is not acknowledged; its GPUs stay held"
                changes.event("alert", job, reason="its stop is not acknowledged; its GPUs stay held")
            elif attempt.start_s is None:
                attempt.reason = "hang"
                engine.take_back(job.id)
            elif signal is not None and not job.warned:
                job.warned = True
                self._tell(partial(self.backend.signal, job.id, attempt.attempt, signal.number, batch_only=signal.batch_only))
                changes.event("signal", job, reason=f"signal {signal.number}, {signal.before_s:g} s before its limit")
            else:
                attempt.reason = "limit"
                engine.take_back(job.id)
        for id in [id for id, until_s in self.avoiding.items() if until_s <= changes.now_s]:
            del self.avoiding[id]
            if id in self.jobs and self.jobs[id].avoid is not None:
                self.jobs[id].avoid, self.stale = None, True
        if self.fair_share.half_life_s > 0 and changes.now_s - self.table_s > TABLE_S:
            self.stale = True  # what was used is worth less by now
        self.recheck |= any(time_s <= changes.now_s for time_s in self.timed.values())

    # ---------------------------------------------------------------------------------------------------------- who is offered

    def _enter(self, job: LiveJob) -> None:
        """A job that the controller has not had."""
        self.jobs[job.id] = self.out[job.id] = job
        self.depend(job)
        if job.attempt is not None:
            self.holding[job.id] = job
        self.recheck = True

    def depend(self, job: LiveJob) -> None:
        """Watch the jobs that this one waits for."""
        for text in job.row.after:
            number = int(text.partition(":")[2])
            if number not in self.needed:
                try:
                    there = self.jobs.get(number)
                    self.needed[number] = standing(there.row if there is not None else self._read(partial(self.store.job, number)))
                except NotFound:
                    continue

    def _offer(self, changes: Changes) -> None:
        """Give the engine what is ready, in the order of submission."""
        self.recheck = False
        self.timed.clear()
        for number in self.needed:
            if number in self.jobs:
                self.needed[number] = standing(self.jobs[number].row)
        for job in list(self.out.values()):
            in_the_way = None if job.attempt is not None else obstacle(job, self.needed, self.array_in, changes.now_s)
            if in_the_way is None:
                self.offered[job.id] = self.out.pop(job.id)
                if job.row.array_job is not None:
                    self.array_in[job.row.array_job] += 1
                self.stale = True
                if job.attempt is None and job.row.reason:
                    job.row.reason = ""
            elif in_the_way.never:
                self.over(changes, job, State.CANCELLED, f"{in_the_way.reason} can never be met", exit_code=None, finish_s=changes.now_s)
            else:
                if job.row.state in (State.PENDING, State.SUSPENDED) and not job.row.reason.startswith("held"):
                    job.row.reason = in_the_way.reason
                if in_the_way.until_s < np.inf:
                    self.timed[job.id] = in_the_way.until_s

    def _leave(self, job: LiveJob) -> None:
        """The engine is to have this job no more."""
        if self.offered.pop(job.id, None) is not None:
            self.out[job.id] = job
            self.stale = self.recheck = True
            if job.row.array_job is not None:
                self.array_in[job.row.array_job] -= 1

    def withdraw(self, job: LiveJob) -> None:
        """A waiting job is not offered any more."""
        engine = self.scheduling.engine
        assert engine is not None
        if job.id in self.offered and job.id in engine.row_of:
            engine.take_back(job.id)
        if job.attempt is None:
            self._leave(job)

    # ---------------------------------------------------------------------------------------------------------- nodes and tables

    @property
    def node_row(self) -> dict[str, int]:
        return {node.name: row for row, node in enumerate(self.nodes)}

    def _look_at_nodes(self, changes: Changes | None = None) -> None:
        """A cluster that has changed is the engine's from the next decision on. A node that is seen no more is down, and keeps its row."""
        seen = {node.name: node for node in self.backend.inventory()}
        nodes = [seen.pop(node.name) if node.name in seen else as_down(node) for node in self.nodes]
        nodes += seen.values()
        if nodes == self.nodes and not self._crowded():
            return
        before = {node.name: node.up for node in self.nodes}
        for node in nodes:
            if changes is not None and before.get(node.name) != node.up:
                changes.event("node", reason=f"{node.name} is {'up' if node.up else 'down'}{': ' if node.reason else ''}{node.reason}")
        self._set_nodes(nodes)

    def _set_nodes(self, nodes: list[NodeSeen]) -> None:
        self.nodes = nodes
        self.cluster = cluster_of(nodes, self.drained, self.queues, self.node_queues, self._gpus_held())
        self.scheduling.close(np.flatnonzero(~self.cluster.present).tolist())
        self.stale = True

    def _remember_nodes(self) -> None:
        """Nodes that the backend names no more, though jobs held something there when the controller before this one went."""
        held = {share.node for job in self.holding.values() if job.attempt is not None for share in job.attempt.shares}
        if gone := sorted(held - self.node_row.keys()):
            self._set_nodes([*self.nodes, *(as_down(NodeSeen(name=name, node=Node(gpus=0, name=name))) for name in gone)])

    def _crowded(self) -> bool:
        """Others use GPUs that our jobs held when they came, and some of these may have gone since."""
        rows = zip(self.nodes, self.cluster.nodes, strict=True)
        crowded = {seen.name: row.gpus for seen, row in rows if row.gpus > without_others(seen)}
        held = self._gpus_held() if crowded else {}
        return any(held.get(name, 0.0) < gpus for name, gpus in crowded.items())

    def _gpus_held(self) -> dict[str, float]:
        """GPUs of each node that jobs have in fact, or that the engine has given them: the larger. A shared one is one, however much of
        it is held."""
        in_fact: Counter[str] = Counter()
        given: Counter[str] = Counter()
        shared: set[tuple[str, int]] = set()
        for job in self.holding.values():
            for share, slot in zip(job.attempt.shares, slots_held(job), strict=True) if job.attempt is not None else ():
                if slot < 0:
                    in_fact[share.node] += share.gpus  # type: ignore[assignment]
                else:
                    shared.add((share.node, slot))
        in_fact.update(node for node, _ in shared)
        engine = self.scheduling.engine
        if engine is not None:
            for row in np.flatnonzero(engine.state.jobs["running"]).tolist():
                parts = engine.parts(row)
                for node, milli, slot in zip(parts.node.tolist(), parts.milli.tolist(), parts.slot.tolist(), strict=True):
                    if slot < 0:
                        given[self.nodes[node].name] += milli / GPU_MILLI
            taken = np.flatnonzero(engine.state.slots)
            given.update(self.nodes[node].name for node in (np.searchsorted(engine.state.nodes["slot"], taken, side="right") - 1).tolist())
        return {name: max(in_fact[name], given[name]) for name in in_fact | given}

    def set_drained(self, node: str, reason: str | None) -> None:
        """A drained node takes nobody new; None = it is open again."""
        if reason is None:
            self.drained.pop(node, None)
        else:
            self.drained[node] = reason
        self._set_nodes(self.nodes)

    def change_policy(self, changes: Changes, policy: Policy[Any], rules: EngineRules, settings: list[str], actor: str) -> None:
        """From the next decision on. ParamError = it cannot decide here, and the present one goes on."""
        self.scheduling.try_out(policy, rules, self.cluster)
        self.scheduling.change_policy(policy, rules)
        self.policy_since_s, self.stale = changes.now_s, True
        changes.event("policy", reason=f"{policy.name} decides from now on", actor=actor, settings=settings)
        changes.meta["policy"] = {"name": policy.name, "settings": settings}

    def take_up(self, rules: Rules, queues: Mapping[str, QueueSpec], node_queues: Mapping[str, tuple[str, ...]]) -> None:
        """A configuration file that was read again. ParamError = the policy cannot decide with it, and nothing has changed."""
        cluster = cluster_of(self.nodes, self.drained, queues, node_queues, self._gpus_held())
        self.scheduling.try_out(self.scheduling.policy, self.scheduling.rules, cluster)
        self.rules, self.queues, self.node_queues, self.table = rules, dict(queues), dict(node_queues), None
        self.fair_share.half_life_s = rules.fair_share_half_life_s
        for job in self.jobs.values():
            job.overuse = 0.0  # weighed anew, if at all
        self.scheduling.setup = replace(self.setup, min_run_s=rules.min_run_s, most_preemptions=rules.most_preemptions)
        self.setup = self.scheduling.setup
        self._set_nodes(self.nodes)

    def _table(self) -> JobTable:
        """The offered jobs; made anew only where something has changed, and for all of them now and then: estimates move."""
        now_s = self.last_now_s
        if self.fair_share.half_life_s > 0:
            self._weigh_users(now_s)
        if self.table is None or now_s - self.table_s > TABLE_S:
            self.table, self.table_s = table_of(list(self.offered.values()), self.rules, self.estimates), now_s
        else:
            there = set(self.table.seq.tolist()) - self.changed
            more = [job for id, job in self.offered.items() if id not in there]
            kept = np.array([id in self.offered and id not in self.changed for id in self.table.seq.tolist()], bool)
            self.table = self.table.take(np.flatnonzero(kept))
            if more:
                self.table = self.table.and_then(table_of(more, self.rules, self.estimates))
        self.changed.clear()
        return self.table

    def _weigh_users(self, now_s: float) -> None:
        """By what each has used up to now."""
        holding: dict[str, float] = {}
        for job in self.holding.values():
            if job.attempt is not None:
                gpus = sum(share.gpus for share in job.attempt.shares)
                holding[job.row.user] = holding.get(job.row.user, 0.0) + gpus * (now_s - job.attempt.claimed_s)
        overuse = self.fair_share.overuse({job.row.user for job in self.offered.values()}, holding, now_s)
        for job in self.offered.values():
            if job.overuse != (level := overuse.get(job.row.user, 0.0)):
                job.overuse = level
                self.changed.add(job.id)

    # ---------------------------------------------------------------------------------------------------------- the backend

    def _tell_starts(self, starts: Sequence[tuple[LiveJob, AttemptRow]]) -> None:
        if not starts:
            return
        try:
            specs = self.store.specs([job.id for job, _ in starts])
        except StoreUnavailable as away:  # they are missed, and told then
            self.alerts["told"] = str(away)
            return
        for job, attempt in starts:
            row, spec = job.row, JobSpec.model_validate_json(specs[job.id])
            order = Attempt(job=row.id, attempt=attempt.attempt, name=row.name, user=row.user, spec=spec, shares=attempt.shares,
                            array_job=row.array_job, array_index=row.array_index, resumes=attempt.attempt > 1, queue=row.queue)  # fmt: skip
            self._tell(partial(self.backend.start, order))

    def tell_stop(self, job: LiveJob, attempt: AttemptRow) -> None:
        self._tell(lambda: self.backend.stop(job.id, attempt.attempt, grace_s=job.needs.grace_s, reason=attempt.reason))

    def _tell(self, verb: Callable[[], None]) -> None:
        """What it cannot take is said, and told again when the attempt is missed."""
        try:
            verb()
            self.alerts.pop("told", None)
        except BackendError as refusal:
            self.alerts["told"] = str(refusal)

    # ---------------------------------------------------------------------------------------------------------- the store

    def _commit(self, changes: Changes, made: Made | None = None) -> None:
        if not changes and made is None:
            return

        def write() -> None:
            try:
                self._write(changes, made)
            except CommitUnknown:
                raise
            except StoreUnavailable as away:  # nothing rests on submissions yet, and they may be what does not fit on the disk
                for submission in changes.submissions:
                    submission.answer.set_exception(away)
                changes.submissions.clear()
                raise

        self._until_stored(write)

    def _write(self, changes: Changes, made: Made | None) -> None:
        with self.store.begin() as tx:
            changes.write(tx)
            if made is None:
                return
            often = len(made.record.seq) <= RECORD_ALL_UP_TO or changes.now_s - self.recorded_s >= RECORD_EVERY_S
            policy, record = made.policy, decision_record.encode(made.record) if often else None
            memory = pack(made.memory, made.record.seq, self.scheduling.seq_bound)
            tx.put_decision(made.record.decision, changes.now_s, policy.name, made.took_ms, record, memory, policy.memory_version)
            if often:
                self.recorded_s = changes.now_s

    def _until_stored(self, write: Callable[[], None]) -> None:
        """A store that is away is waited for: jobs run on meanwhile, and nothing is done that is not written down."""
        while True:
            try:
                write()
                break
            except CommitUnknown as broken:
                if self._was_committed(broken):
                    break
            except StoreUnavailable as away:
                self._wait_for_store(away)
        self.alerts.pop("store", None)

    def _read(self, read: Callable[[], T]) -> T:
        while True:
            try:
                found = read()
                break
            except StoreUnavailable as away:
                self._wait_for_store(away)
        self.alerts.pop("store", None)
        return found

    def _was_committed(self, broken: CommitUnknown) -> bool:
        while True:
            try:
                return self.store.committed(broken)
            except StoreUnavailable as away:
                self._wait_for_store(away)

    def _wait_for_store(self, away: StoreUnavailable) -> None:
        self.alerts["store"] = str(away)
        self._refuse_commands(str(away))
        if self.stopping.wait(RETRY_S):
            raise away

    def _refuse_commands(self, why: str) -> None:
        """Of people who wait for the controller's thread: they know at once, and may ask again."""
        with suppress(Empty):
            while True:
                _, answer = self.commands.get_nowait()
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(StoreUnavailable(why))
