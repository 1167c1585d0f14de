"""Slurm: an attempt is a Slurm job on the nodes that were chosen, which runs our own supervisors.

start     writes the plan into the attempt's folder, has sbatch called          repeatable: looked up by name before it is called again
stop      writes the request there; scancel only for what is late               repeatable: the nearest deadline holds
observe   what is on disk, where the supervisors write; one squeue for all says whose job Slurm still has

Slurm says where and when, the folder says how it went: exit codes need no accounting database. What Slurm forgets or starts a second
time (a crash of slurmctld within 5 s of a submission does either) runs at most once: each node's `supervisor.json` is made once, and
whoever gives an attempt up makes it first (docs/slurm.md).

One thread calls Slurm's commands, each with a time limit; one listens to the folders. The controller waits for neither.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import math
import os
import secrets
import select
import shutil
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainmaster.cluster.scontrol import Listed, nodes_listed
from trainmaster.errors import BackendError, ClusterError, InputError
from trainmaster.live.backends import slurm_parsing as parsing
from trainmaster.live.backends.accepting import LOG_LIMIT, Accepting, Key, remove, umask
from trainmaster.live.backends.base import Attempt, Capabilities, NodeSeen, NodeShare, Observation
from trainmaster.live.backends.slurm_attempt import Launched, Part
from trainmaster.live.backends.slurm_commands import Slurm, Submission, step_into
from trainmaster.live.node import folder as files
from trainmaster.live.node import gang, lookalikes
from trainmaster.live.node.plan import plan as plan_of
from trainmaster.live.spec import JobSpec

POLL_S = 1.0  # between two looks at Slurm's queue, and so many times what a look takes, for slurmctld's sake
COST = 20.0
LONGEST_POLL_S = 10.0  # but a look that hung while slurmctld started says nothing of the next
NODES_S = 3.0  # between two looks at its nodes
LISTEN_S = 0.2  # between two looks at what supervisors on other machines have to say; those on this one are heard at once
SAY_S = 5.0  # a start that takes longer is said in its observation
FORCE_S = 10.0  # past a deadline: scancel, again and again
LINGER_S = 3.0  # a Slurm job whose attempt has ended goes by itself; after so long it is cancelled
MOST_FAILURES = 2  # of sbatch, for one Slurm job, while slurmctld answers; then it is refused
NO_MORE = "Slurm has it no more"
THERE = frozenset({"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED"})  # one empty answer of squeue's ends no jobs
TAIL = "import sys; sys.path.insert(0, sys.argv[1]); from trainmaster.live.node.gang import main; main(*sys.argv[2:])"
ROOT = Path(__file__).parents[3]
NODES_FILE, SITE_FILE = "slurm-nodes.json", "slurm-site.json"

log = logging.getLogger(__name__)


class SlurmBackend(Accepting[Launched]):
    name = "slurm"
    cannot = "cannot be handed to Slurm"
    capabilities = Capabilities(pin_nodes=True)

    def __init__(self, state_dir: Path | str, log_limit: int = LOG_LIMIT, clock: Callable[[], float] = time.time) -> None:
        """`state_dir`: on a file system that the nodes share, under the same path; `log_limit`: bytes of a rank's log, 0 = no limit."""
        super().__init__(state_dir, clock)
        self.slurm = Slurm(f"{self.state}/launch")
        self._user = getpass.getuser()
        self._umask, self._log_limit = umask(), log_limit
        self._work = threading.Condition(self._lock)
        self._listed: dict[str, tuple[Listed, str]] = {}  # node here -> as Slurm lists it, GPU type (a node of two types is two here)
        self._inventory: dict[str, NodeSeen] = {}
        self._others: dict[str, float] = {}  # as computed at the last look
        self._partitions: list[parsing.Partition] = []
        self._strangers: set[int] = set()  # jobs of this controller's name whose attempt it does not know
        self._cancel: set[int] = set()
        self._answered_s = -math.inf  # monotonic
        self._trouble = ""
        self._nodes_s = -math.inf
        self._look_s = 0.0
        self._threads: list[threading.Thread] = []
        self._closing = False

    # -- life ------------------------------------------------------------------------------------------------------------------------

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        try:
            for name in ("", "/jobs", f"/{files.LIVE}", "/bin", f"/{gang.NEWS}"):
                os.makedirs(f"{self.state}{name}", mode=0o700, exist_ok=True)
            lookalikes.install(f"{self.state}/bin")
            files.write_bytes(self.slurm.launch, b'#!/bin/sh\nexec "$@"\n')
            files.create_json(f"{self.state}/{SITE_FILE}", {"site": secrets.token_hex(4)})
            self._site = str((files.read_json(f"{self.state}/{SITE_FILE}") or {})["site"])
            self._fifo = files.make_fifo(f"{self.state}/{files.WAKE}")
        except OSError as error:
            raise BackendError(f"{self.state}: the Slurm backend cannot keep its state there: {error}") from None
        for key in files.accepted(self.state):  # by a controller before this one; of some perhaps no more than the mark was made
            self._find(key)
        try:
            self._look_at_nodes()
        except BackendError as problem:
            self._remember_nodes(problem)
        for what in (self._call_slurm, self._listen):
            self._threads.append(threading.Thread(target=what, name=f"slurm backend: {what.__name__}", daemon=True))
            self._threads[-1].start()

    def close(self) -> None:
        self.drop()

    def drop(self) -> None:
        """As a crash of the controller would: nobody is told."""
        with self._work:
            self._closing = True
            self._work.notify_all()
        files.poke(f"{self.state}/{files.WAKE}", "")
        for thread in self._threads:
            thread.join()
        if self._threads:
            os.close(self._fifo)
            self._threads.clear()

    def _find(self, key: Key) -> None:
        """An attempt that an earlier controller had accepted; what it had only begun to accept is as if it had never been."""
        folder = files.attempt_folder(self.state, *key)
        plan = files.read_json(f"{folder}/{files.PLAN}")
        if plan is None:
            remove(self._mark(key))
            return
        live = self._remember(key, plan)
        for part in live.parts:
            part.submitted = None  # its sbatch may have been called, and may still be on its way
        request = files.read_json(f"{folder}/{files.STOP}")
        if request is not None:
            live.stopping, live.deadline_s = True, time.monotonic() + request["grace_s"]
        live.refresh()
        live.poke()  # it may not have been told
        if request is not None and live.end is None and live.claim():
            self._stopped(live, request["reason"])

    def _remember(self, key: Key, plan: dict[str, Any]) -> Launched:
        nodes = plan["places"]
        parts = [
            Part(asked=Submission(**{**asked, "nodes": tuple(asked["nodes"]), "argv": tuple(asked["argv"])}),
                 nodes=[node for node, one in enumerate(nodes) if one["part"] == number])
            for number, asked in enumerate(plan["parts"])
        ]  # fmt: skip
        live = Launched(key=key, folder=files.attempt_folder(self.state, *key), nodes=nodes, parts=parts,
                        in_a_gang="RANK" in plan["ranks"][0]["env"], since_s=time.monotonic())  # fmt: skip
        self._live[key] = live
        return live

    # -- verbs -----------------------------------------------------------------------------------------------------------------------

    def inventory(self) -> list[NodeSeen]:
        with self._lock:
            return list(self._inventory.values())

    def stop(self, job: int, attempt: int, *, grace_s: float, reason: str) -> None:
        with self._work:
            live = self._known((job, attempt))
            if live is None or live.end is not None:
                return
            live.stopping = True
            live.ask_to_stop(reason, grace_s)
            if live.claim():
                self._stopped(live, reason)

    def signal(self, job: int, attempt: int, number: int, *, batch_only: bool = False) -> None:
        with self._lock:
            live = self._live.get((job, attempt))
            if live is not None and live.end is None:
                with contextlib.suppress(OSError):
                    files.write_json(f"{live.folder}/{gang.SIGNAL}{time.time_ns()}", {"signal": number, "batch_only": batch_only})
                live.refresh()
                live.poke()

    def observe(self) -> list[Observation]:
        with self._lock:
            for live in self._live.values():
                live.refresh()
            return [*(live.observation(self._message(live)) for live in self._live.values()), *self._refused.values()]

    def shell(self, job: int, attempt: int) -> Sequence[str]:
        with self._lock:
            live = self._known((job, attempt))
            if live is None or live.end is not None or live.started_s is None:
                raise BackendError(f"attempt {attempt} of job {job} does not run: there is nothing to enter")
            first, id = live.nodes[0]["slurm_node"], live.begun[0]["slurm_job"]
        return step_into(id, first, [*lookalikes.python("enter"), gang.own_folder(live.folder, 0)])

    def entrances(self) -> Iterator[tuple[Key, int]]:
        """Of attempts that run: the Slurm job of the first node."""
        with self._lock:
            for live in self._live.values():
                if live.end is None and live.started_s is not None:
                    yield live.key, int(live.begun[0]["slurm_job"])

    def slurm_name(self, node: str) -> str:
        """A node of two types is two here."""
        with self._lock:
            if node not in self._listed:
                raise BackendError(f"Slurm has no node {node}")
            return self._listed[node][0].name

    def report(self) -> dict[str, Any]:
        with self._lock:
            silent_s = time.monotonic() - self._answered_s
            return {
                "attempts": sum(live.end is None for live in self._live.values()), "runs_as": self._user,
                "slurm": f"no answer for {silent_s:.0f} s: {self._trouble}" if self._trouble else "answers",
                "partitions": [one.name for one in self._partitions],
                "mode": "personal: every job is submitted as this one user; other users' jobs are refused (--as-user: site mode)",
            }  # fmt: skip

    # -- accepting -------------------------------------------------------------------------------------------------------------------

    def _accept(self, attempt: Attempt) -> None:
        """From the moment plan.json is there it will run, whatever becomes of this process."""
        key = (attempt.job, attempt.attempt)
        if attempt.user != self._user:
            raise InputError(f"this controller submits to Slurm as {self._user}: it runs no jobs of {attempt.user} (docs/slurm.md)")
        self._check_number(attempt)
        places, submissions = self._submissions(attempt)
        whole_gpus = [range(int(share.gpus)) for share in attempt.shares]  # which ones, Slurm says on the node
        plan = plan_of(attempt, self.state, whole_gpus, port=0, cgroup=None, limits=[], umask=self._umask, log_limit=self._log_limit)
        plan |= {"places": places, "parts": [asdict(one) for one in submissions]}
        folder = self._make_folder(key)
        for name in (gang.GANG, gang.NODES, *(f"{gang.NODES}/{node}" for node in range(len(places)))):
            os.mkdir(f"{folder}/{name}", 0o700)
        if attempt.spec.script is not None:
            files.write_bytes(f"{folder}/script", attempt.spec.script.encode())
        files.write_json(f"{folder}/{files.PLAN}", plan)
        self._remember(key, plan)

    def _submissions(self, attempt: Attempt) -> tuple[list[dict[str, Any]], list[Submission]]:
        """Its nodes, and the Slurm jobs: one for all nodes with the same amounts, in the order of the shares."""
        spec, folder = attempt.spec, files.attempt_folder(self.state, attempt.job, attempt.attempt)
        held = self._held()
        groups: dict[tuple[Any, ...], list[NodeShare]] = {}
        nodes = []
        for share in attempt.shares:
            if share.node not in self._inventory:
                raise InputError(f"Slurm has no node {share.node}")
            if share.gpus != int(share.gpus):
                raise InputError(f"Slurm gives whole GPUs, not {share.gpus:g} of one")
            listed, type_name = self._listed[share.node]
            has = self._inventory[share.node].node.gpus
            if share.gpus > has - held[share.node]:
                raise InputError(f"{share.node} has not {share.gpus:g} of its {has} GPUs free ({held[share.node]:g} are held)")
            spelled = f"{listed.spelled[type_name]}:" if len(listed.rows) > 1 and type_name else ""
            gpus = f"{spelled}{int(share.gpus)}" if share.gpus else ""
            amounts = (gpus, math.ceil(share.cpus), math.ceil(share.memory_gib * 1024))
            part = list(groups).index(amounts) if amounts in groups else len(groups)
            groups.setdefault(amounts, []).append(share)
            nodes.append({"name": share.node, "slurm_node": listed.name, "address": listed.address, "part": part, "gpus": share.gpus})
        submissions = []
        for number, ((gpus, cpus, memory_mib), shares) in enumerate(groups.items()):
            names = tuple(self._listed[share.node][0].name for share in shares)
            partition = self._partition(attempt.queue, [share.node for share in shares])
            argv = (sys.executable, "-I", "-S", "-c", TAIL, str(ROOT), self.state, str(attempt.job), str(attempt.attempt), str(number))
            submissions.append(Submission(
                name=parsing.job_name(self._site, (attempt.job, attempt.attempt), number, attempt.name),
                partition=partition.name, nodes=names, gpus=gpus, cpus=cpus, memory_mib=memory_mib, limit_min=_limit_min(spec, partition),
                account=spec.account, qos=spec.qos, folder=self.state, output=f"{folder}/system.log", argv=argv,
            ))  # fmt: skip
        return nodes, submissions

    def _partition(self, queue: str | None, nodes: Sequence[str]) -> parsing.Partition:
        """That of the queue's name, else the default, else the first: of those that hold all these nodes."""
        hold = [one for one in self._partitions if all(one.name in self._listed[node][0].partitions for node in nodes)]
        for fits in (lambda one: one.name == queue, lambda one: one.default, lambda one: True):
            for one in hold:
                if one.up and fits(one):
                    return one
        raise InputError(f"no partition of Slurm's that is up holds {', '.join(nodes)}")

    def _held(self) -> dict[str, float]:
        held: dict[str, float] = defaultdict(float)
        for live in self._live.values():
            if live.end is None:
                for one in live.nodes:
                    held[one["name"]] += one["gpus"]
        return held

    def _begin(self, key: Key) -> None:
        self._work.notify_all()

    def _runs(self, key: Key) -> bool:
        return (live := self._known(key)) is not None and live.end is None

    def _tidy(self, key: Key, live: Launched) -> None:
        for name in os.listdir(live.folder):
            if name in (files.STOP, files.PLAN, "script") or name.startswith(gang.SIGNAL):
                remove(f"{live.folder}/{name}")
        for name in (gang.NODES, gang.GANG):
            shutil.rmtree(f"{live.folder}/{name}", ignore_errors=True)

    # -- seeing ----------------------------------------------------------------------------------------------------------------------

    def _known(self, key: Key) -> Launched | None:
        live = self._live.get(key)
        if live is not None:
            live.changed = True
            live.refresh()
        return live

    def _stopped(self, live: Launched, reason: str) -> None:
        """None of its nodes has begun, and none will."""
        live.write_end({"exit_code": 128 + signal.SIGTERM, "message": "stopped before it had started", "asked": reason,
                        "ended_s": self._clock()})  # fmt: skip
        self._cancel_rows(live)
        self._wake()

    def _message(self, live: Launched) -> str:
        if live.end is not None:
            return ""
        if live.lost is not None:
            return f"given up: {live.lost}; what is left of it is being ended"
        now_s = time.monotonic()
        if live.stopping and now_s > live.deadline_s + 1:
            return f"not gone {now_s - live.deadline_s:.0f} s past its deadline"
        if live.started_s is None and now_s - live.since_s > SAY_S:
            for part in live.parts:
                if part.error:
                    return part.error
                if part.rows and part.rows[0].waits:
                    return f"Slurm has it {part.rows[0].state}: {part.rows[0].reason}"
            return f"not started after {now_s - live.since_s:.0f} s" + (f"; Slurm: {self._trouble}" if self._trouble else "")
        return ""

    # -- the thread that listens -----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._fifo, select.POLLIN)
        while not self._closing:
            poll.poll(LISTEN_S * 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._fifo, 1 << 16)  # who pokes leaves a file too
            try:
                self._hear()
                self._bury()
            except Exception:  # seen by the operator; the next round tries again
                log.exception("slurm backend")

    def _hear(self) -> None:
        news = os.listdir(f"{self.state}/{gang.NEWS}")
        for name in news:
            remove(f"{self.state}/{gang.NEWS}/{name}")  # first: what is written from now on leaves it anew
        with self._lock:
            for name in news:
                job, _, attempt = name.partition(".")
                if job.isdecimal() and attempt.isdecimal() and (live := self._live.get((int(job), int(attempt)))) is not None:
                    live.changed = True
        if news:
            self._wake()

    def _bury(self) -> None:
        """Attempts that were given up end when their last node has ended, or is known to be gone."""
        with self._lock:
            doubtful = [live for live in self._live.values() if live.lost is not None and live.end is None]
            late = [live for live in self._live.values() if live.end is None and time.monotonic() > live.deadline_s + FORCE_S]
            for live in late:
                if time.monotonic() > live.forced_s + FORCE_S:
                    live.forced_s = time.monotonic()
                    self._cancel_rows(live)
        for live in doubtful:
            with self._lock:
                live.changed = True
                live.refresh()
                gone = live.silent(time.monotonic())
            if len(live.ends) + len(live.claimed) + len(gone) < len(live.nodes):
                continue
            left = [node for node in gone if gang.is_dead(live.begun[node])]  # on this machine: it can be seen to
            if all(gang.clear(gang.own_folder(live.folder, node), 0.5) for node in left):
                with self._lock:
                    self._buried(live, bool(gone))
                self._wake()

    def _buried(self, live: Launched, gone: bool) -> None:
        if live.end is None:
            by_us = any(end["asked"] == "superseded" for end in live.ends.values())
            live.lost, why = None, live.lost
            if gone or by_us or live.claimed or not live.ends:
                live.write_end({"lost": why, "ended_s": self._clock(), "asked": "asked" if live.stopping else None})
            else:  # they had all ended by themselves
                live.changed = True
                live.refresh()

    # -- the thread that calls Slurm -------------------------------------------------------------------------------------------------

    def _call_slurm(self) -> None:
        while True:
            with self._work:
                while not self._closing and not self._due():
                    self._work.wait(max(0.01, self._look_s - time.monotonic()))
                if self._closing:
                    return
                waiting = self._waiting()
                cancel, self._cancel = sorted(self._cancel), set()
            try:
                for live, part in waiting:
                    if self._closing or (live.end is None and not self._submit(live, part)):
                        break
                if cancel:
                    self.slurm.cancel(cancel)
                if time.monotonic() >= self._look_s:
                    self._look()
            except BackendError as problem:
                self._failed(problem)
            except Exception as problem:  # seen by the operator; the next round tries again
                log.exception("slurm backend")
                self._failed(BackendError(f"{type(problem).__name__}: {problem}"))

    def _due(self) -> bool:
        return bool(self._cancel) or time.monotonic() >= self._look_s or bool(self._waiting())

    def _waiting(self) -> list[tuple[Launched, Part]]:
        """What sbatch is to be called for. While slurmctld does not answer it would hang for seconds: nothing, until a look succeeds."""
        if self._trouble:
            return []
        return [(live, part) for live in self._live.values() if live.end is None for part in live.parts if part.submitted is False]

    def _failed(self, problem: BackendError) -> None:
        with self._lock:
            self._trouble = str(problem)
            self._look_s = time.monotonic() + POLL_S
            for part in (part for live in self._live.values() for part in live.parts if part.submitted is None):
                part.failures = 0  # slurmctld was away: that says nothing of what was submitted
        self._wake()

    def _submit(self, live: Launched, part: Part) -> bool:
        """False: a look comes before anything else is submitted. Without slurmctld each would hang for seconds."""
        part.submitted = None
        try:
            part.id = self.slurm.submit(part.asked)
        except BackendError as problem:  # it may have been taken: the next look says
            with self._lock:
                part.failures += 1
                part.error = str(problem)
                self._look_s = 0.0
            return False
        with self._lock:
            part.submitted, part.error = True, ""
            if live.end is not None:  # stopped meanwhile
                self._look_s = 0.0
        return True

    def _look(self) -> None:
        began_s = time.monotonic()
        with self._lock:
            began_before = {live.key: set(live.begun) for live in self._live.values()}  # what starts during the look is no news of it
        rows = self.slurm.jobs()
        by_part: dict[tuple[Key, int], list[parsing.Row]] = defaultdict(list)
        for row in rows:
            if (whose := parsing.known(row.name, self._site)) is not None:
                by_part[whose].append(row)
        doubtful = []
        with self._lock:
            for live in list(self._live.values()):
                for number, part in enumerate(live.parts):
                    part.rows = sorted(by_part.pop((live.key, number), []), key=lambda row: row.id)
                doubtful += self._compare(live, began_before.get(live.key, set()))
            strangers = {row.id for rows in by_part.values() for row in rows if row.state != "COMPLETING"}
            self._cancel |= strangers & self._strangers  # seen twice: not one that is just about to go
            self._strangers = strangers
        for live, part, why in doubtful:
            how = self.slurm.how_it_ended(part.id, part.asked.name) if part.id is not None else ""
            if why == NO_MORE and how.partition(" ")[0] in THERE:
                log.warning("squeue does not show job %s, which scontrol says is %s: nothing is made of it", part.id, how)
                continue
            with self._lock:
                self._give_up(live, part, f"{why}: {how}" if how else why)
        if began_s >= self._nodes_s:
            self._look_at_nodes()
        now_s = time.monotonic()
        with self._lock:
            self._answered_s, self._trouble = now_s, ""
            self._look_s = now_s + min(POLL_S + COST * (now_s - began_s), LONGEST_POLL_S)
        self._wake()

    def _compare(self, live: Launched, began_before: set[int]) -> list[tuple[Launched, Part, str]]:
        """What Slurm has of an attempt, with what the attempt says itself. What is to be given up, and why."""
        live.changed |= live.started_s is None
        live.refresh()
        if live.end is not None:
            if time.monotonic() > live.ended_s + LINGER_S:
                self._cancel_rows(live)
            return []
        if live.lost is not None:
            self._cancel_rows(live)
            return []
        doubtful = []
        for part in live.parts:
            begun = [live.begun[node] for node in part.nodes if node in live.begun]
            if part.submitted is None and not part.rows and not begun:
                if part.failures < MOST_FAILURES:
                    part.submitted = False  # Slurm has not taken it: again
                    continue
                self._refuse(live, part.error)
                return []
            if part.submitted is False:
                continue
            part.submitted = True
            ours = {int(one["slurm_job"]) for one in begun}
            kept = [row for row in part.rows if row.id in ours] if begun else part.rows[:1]
            self._cancel |= {row.id for row in part.rows if row not in kept}  # of a submission that was made twice
            part.id = next(iter(ours), kept[0].id if kept else part.id)
            if not kept:
                doubtful.append((live, part, NO_MORE))
            elif kept[0].waits and not began_before.isdisjoint(part.nodes):
                doubtful.append((live, part, "Slurm has put it back into its queue"))
        return doubtful

    def _give_up(self, live: Launched, part: Part, why: str) -> None:
        """Nothing of it starts any more, and what runs ends itself; then it is lost, to be tried again under a new number."""
        live.changed = True
        live.refresh()
        if live.end is not None or all(node in live.ends for node in part.nodes):
            return  # it has just ended
        nobody = live.claim()
        live.refresh()
        if live.end is not None:
            return
        live.lost = why
        self._cancel_rows(live)
        if nobody:
            self._buried(live, gone=True)
            self._wake()
        else:
            live.ask_to_stop("superseded", 0.0)

    def _refuse(self, live: Launched, error: str) -> None:
        if live.claim():
            live.write_end({"refused": error, "ended_s": self._clock()})
        else:
            live.lost = error  # other nodes of it have begun
            live.ask_to_stop("superseded", 0.0)
        self._cancel_rows(live)
        self._wake()

    def _cancel_rows(self, live: Launched) -> None:
        ids = {row.id for part in live.parts for row in part.rows}
        if ids:
            self._cancel |= ids
        elif live.end is not None and any(part.submitted for part in live.parts):
            self._look_s = 0.0  # submitted, and not seen yet
        with self._work:
            self._work.notify_all()

    # -- nodes -----------------------------------------------------------------------------------------------------------------------

    def _look_at_nodes(self) -> None:
        seen = {"nodes": self.slurm.nodes(), "partitions": self.slurm.partitions()}
        self._take(seen)
        self._nodes_s = time.monotonic() + NODES_S
        with contextlib.suppress(OSError):
            files.write_json(f"{self.state}/{NODES_FILE}", seen)

    def _remember_nodes(self, problem: BackendError) -> None:
        """A controller that starts while Slurm is away goes on with what was there."""
        seen = files.read_json(f"{self.state}/{NODES_FILE}")
        if seen is None:
            raise problem from None  # the first start: there is nothing to go on with
        self._trouble = str(problem)
        self._take(seen)

    def _take(self, seen: dict[str, str]) -> None:
        try:
            listed = nodes_listed(seen["nodes"], "scontrol show node")
        except ClusterError as error:
            raise BackendError(str(error)) from None
        with self._lock:
            self._partitions = parsing.partitions(seen["partitions"])
            self._take_nodes(listed)

    def placed(self) -> Iterator[tuple[Key, str, float]]:
        """GPUs of nodes that Slurm has given to attempts of ours by now."""
        with self._lock:
            for live in self._live.values():
                for one in live.nodes:
                    rows = live.parts[one["part"]].rows
                    if rows and not rows[0].waits:
                        yield live.key, one["name"], one["gpus"]

    def _take_nodes(self, nodes: Sequence[Listed]) -> None:
        ours: dict[str, float] = defaultdict(float)
        for _, name, gpus in self.placed():
            ours[name] += gpus
        for listed in nodes:
            for row in listed.rows:
                name, before = str(row.name), self._inventory.get(str(row.name))
                others = max(0.0, listed.used_gpus.get(row.type, 0) - ours[name])
                # a job of ours may begin or end between the two calls: others are believed when seen twice
                stands = before is None or others == self._others.get(name)
                self._others[name] = others
                just_restarted = before is not None and "UNKNOWN" in listed.state.upper()  # slurmctld waits for it to register
                up = before.up if just_restarted and before is not None else listed.unusable is None
                self._listed[name] = (listed, row.type)
                reason = "" if up else f"Slurm: {listed.state}"
                if others and stands and listed.state.rstrip("*").upper() == "IDLE":  # 22.05 does, after a second life of a job
                    reason = f"Slurm says it is idle, and counts {others:g} of its GPUs as used: `scontrol reconfigure` has it count anew"
                self._inventory[name] = NodeSeen(
                    name=name, node=row, up=up, reason=reason,
                    others_gpus=others if stands or before is None else before.others_gpus,
                )  # fmt: skip
        there = {str(row.name) for listed in nodes for row in listed.rows}
        for name in [name for name in self._inventory if name not in there]:
            del self._inventory[name]  # its controller keeps it as one that is down


def _limit_min(spec: JobSpec, partition: parsing.Partition) -> int | None:
    """For `sbatch --time`: a net under our own limit, which comes first. Not above what its partition allows: who asks for just that much
    would be refused, or wait for ever."""
    if spec.limit_s is None:
        return None
    wanted_min, own_min = math.ceil((spec.limit_s + spec.grace_s) / 60) + 1, math.ceil(spec.limit_s / 60)
    return wanted_min if partition.most_min is None else max(own_min, min(wanted_min, partition.most_min))
