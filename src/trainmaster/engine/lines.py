"""From a whole-cluster policy's Decision to what changes: the fewest stops and moves that make the cluster what it says.

    1. close the nodes that are given back, ask for those that are wanted; reject; stop who has no line
    2. who is given something else than it holds gives its GPUs back, but for those that only grow
    3. of these, who can stay on (some of) the same GPUs does: another share, another config, fewer GPUs
    4. in the order of the lines: start, grow, move; partner groups as one, at their first line
    5. nodes that are given back, and empty now, are gone

Partners share GPUs: the largest of a group (of equals one that runs, then the first) is placed as any gang, by its share of each GPU;
the others go inside its GPUs. If it finds no room, the next is placed. Growing is all or nothing: who finds no room for it
keeps what it holds, or moves as a whole where that gives it all. Who must move and finds no room waits (a preemption).

A change of GPUs is a resize, of nodes alone a migration; both cost what the model says, or a restart. A change of share or config
alone costs only what the model says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trainmaster.engine import kernels
from trainmaster.engine.fitting import anew, grown, holds, in_place, inside, is_inside, only_grows
from trainmaster.engine.result import REJECTED
from trainmaster.engine.state import ENDED, RESERVED, WAITING
from trainmaster.engine.wants import Want, read
from trainmaster.errors import InputError, InvariantBroken
from trainmaster.policies.base import Decision, Line, Verdict
from trainmaster.workload.jobs import GPU_MILLI
from trainmaster.workload.perf.base import Allocation

if TYPE_CHECKING:
    from trainmaster.engine.core import Engine


@dataclass(slots=True)
class Unit:
    """A partner group, or one job by itself."""

    wants: list[Want]  # the largest first
    host: int | None = None  # whose GPUs they share


@dataclass(slots=True)
class Changes:
    """One decision while it is carried out."""

    engine: Engine
    loose: set[int] = field(default_factory=set)  # rows that gave their GPUs back and have none yet
    grows: set[int] = field(default_factory=set)

    # ------------------------------------------------------------------------------------------ 2: give back

    def compare(self, unit: Unit) -> None:
        """Who of a unit gives its GPUs back."""
        jobs, clock = self.engine.state.jobs, self.engine.state.clock
        first = unit.wants[0].row
        first_stays = False
        for want in unit.wants:
            row = want.row
            if not jobs[row]["running"]:
                continue
            if holds(self.engine, want) and (not first_stays or is_inside(self.engine, row, first)):
                first_stays |= row == first
            elif only_grows(self.engine, want):
                self.grows.add(row)
            else:
                kernels.give_back(clock, np.int32(row))
                self.loose.add(row)

    # ------------------------------------------------------------------------------------------ 3: in place

    def stay(self, unit: Unit) -> None:
        """Those of a unit that can stay where they are; partners only beside the one they belong to."""
        for want in unit.wants:
            row = want.row
            if row in self.loose:
                begin = int(self.engine.clock["n_parts"])
                if in_place(self.engine, want):
                    if unit.host is None or self._on_gpus_of(unit.host, begin):
                        self._change(want, begin, moved=False)
                    else:
                        kernels.drop_parts(self.engine.state.clock, begin)
            if unit.host is None:
                if row in self.loose or not self.engine.state.jobs[row]["running"]:
                    return  # who comes first is placed first
                unit.host = row

    def _on_gpus_of(self, host: int, begin: int) -> bool:
        S = self.engine.state
        theirs = S.parts_of(int(S.jobs[host]["allocation"]))["slot"]
        mine = S.parts["slot"][begin : self.engine.clock["n_parts"]]
        return bool((mine >= 0).all() and np.isin(mine, theirs).all())

    # ------------------------------------------------------------------------------------------ 4: start, grow, move

    def place(self, unit: Unit) -> None:
        engine, S = self.engine, self.engine.state
        for want in unit.wants:
            row, begin, host = want.row, int(engine.clock["n_parts"]), unit.host
            if row in self.grows:
                self._grow(want)
            elif S.jobs[row]["phase"] == WAITING:
                self._start(want, begin, host)
            elif host is not None and host != row and row not in self.loose and not is_inside(engine, row, host):
                kernels.give_back(S.clock, np.int32(row))  # it ran where its partner no longer is
                self.loose.add(row)
            if row in self.loose:
                self._move(want, begin, host)
            if host is None and S.jobs[row]["running"]:
                unit.host = row

    def _start(self, want: Want, begin: int, host: int | None) -> None:
        engine, job = self.engine, self.engine.state.jobs[want.row]
        if anew(engine, want) if host is None else inside(engine, want, host):
            self._note(want, begin)
            kernels.start_parts(engine.state.clock, np.int32(want.row), begin)
        else:
            job["verdict"], job["short_milli"] = Verdict.FRAGMENTED, 0

    def _move(self, want: Want, begin: int, host: int | None) -> None:
        """Where it was, if that is free after all; else anew, or onto its partner's GPUs."""
        if host is None and in_place(self.engine, want):
            self._change(want, begin, moved=False)
        elif anew(self.engine, want) if host is None else inside(self.engine, want, host):
            self._change(want, begin, moved=True)
        else:
            self._stop(want.row)

    def _grow(self, want: Want) -> None:
        clock, row = self.engine.state.clock, np.int32(want.row)
        begin = int(self.engine.clock["n_parts"])
        kernels.give_back(clock, row)
        if grown(self.engine, want) or anew(self.engine, want):
            self._change(want, begin, moved=True)
        else:
            kernels.take_again(clock, row)

    def _stop(self, row: int) -> None:
        job = self.engine.state.jobs[row]
        self.loose.discard(row)
        self.engine.given.pop(row, None)
        job["preemptions"] += job["phase"] != RESERVED
        kernels.stop_empty(self.engine.state.clock, np.int32(row))
        job["verdict"], job["short_milli"] = Verdict.FRAGMENTED, 0

    def _change(self, want: Want, begin: int, *, moved: bool) -> None:
        """A job that gave its GPUs back has those taken since `begin`."""
        engine, row = self.engine, want.row
        job, before = engine.state.jobs[row], engine.allocation(row)
        promised = job["phase"] == RESERVED
        after = self._note(want, begin)
        resized = after.total_gpus != before.total_gpus
        if engine.traits.change_s is not None:
            cost_s = engine.traits.change_s(row, before, after)
        else:
            cost_s = float(job["restart_s"]) if resized or moved else 0.0
        restarts = resized or moved or after.config != before.config
        kernels.change_parts(engine.state.clock, np.int32(row), begin, cost_s, restarts)
        if engine.handover is not None and not restarts and not promised:
            engine.handover.reshape(row)
        job["resizes"] += resized and not promised
        job["migrations"] += moved and not resized and not promised
        self.loose.discard(row)

    def _note(self, want: Want, begin: int) -> Allocation:
        """What a job is given besides its parts; returns all of it."""
        job = self.engine.state.jobs[want.row]
        job["share_milli"], job["config"] = want.share_milli, want.config
        after = self.engine.allocation(want.row, begin)
        job["as_asked"] = want.gpu_milli == job["milli"] and want.share_milli == GPU_MILLI and want.config < 0 and not after.types
        self.engine.given[want.row] = want.lines
        return after


def carry_out(engine: Engine, decision: Decision) -> None:
    """Make the cluster what a whole-cluster policy wants."""
    S, clock = engine.state, engine.clock
    lines: dict[int, list[Line]] = {}
    for line in decision.lines:
        lines.setdefault(line.row, []).append(line)
    for row in decision.reject:
        reject(engine, row)
    capacity = engine.capacity
    if capacity is not None:
        capacity.close(decision.vacate)
        capacity.want(decision.want_nodes)
    elif decision.vacate or decision.want_nodes:
        raise InputError(f"--policy: {engine.policy.name} gives back or asks for nodes, which are fixed here")
    active = engine.active
    stop_others(engine, lines)
    units = differing(engine, {row: tuple(some) for row, some in lines.items()})
    engine.make_room([want.gpu_milli // GPU_MILLI + len(want.lines) for unit in units for want in unit.wants])
    changes = Changes(engine)
    for unit in units:
        changes.compare(unit)
    for unit in units:
        changes.stay(unit)
    running = S.jobs["running"][active] == 1
    S.jobs["verdict"][active] = np.where(running, Verdict.KEPT, Verdict.POLICY_ZERO if decision.verdict is None else decision.verdict)
    short_gpus = np.zeros(len(active)) if decision.short_gpus is None else decision.short_gpus
    S.jobs["short_milli"][active] = np.where(running, 0.0, np.rint(short_gpus * GPU_MILLI))
    for unit in units:
        changes.place(unit)
    if capacity is not None and capacity.closing:
        capacity.give_back()
    S.jobs["new"][active] = 0
    clock["n_fresh"] = 0
    if decision.lease_s is not None:
        if not decision.lease_s > 0:
            raise InvariantBroken(f"{engine.label}: a lease of {decision.lease_s} s")
        kernels.wake_later(S.clock, clock["now_s"] + decision.lease_s)


def stop_others(engine: Engine, lines: dict[int, list[Line]]) -> None:
    """Running jobs without a line stop, if they may and the policy preempts; lines of those that must stay count for nothing."""
    S = engine.state
    for row in engine.active[S.jobs["running"][engine.active] == 1].tolist():
        if row not in lines and not engine.policy.preemptive:
            continue
        if kernels.must_stay(S.clock, np.int32(row)):
            lines.pop(row, None)
        elif row not in lines:
            S.jobs[row]["preemptions"] += S.jobs[row]["phase"] != RESERVED  # a promise taken back stops nobody
            kernels.stop_job(S.clock, np.int32(row))
            engine.given.pop(row, None)
    kernels.compact(S.clock)


def differing(engine: Engine, lines: dict[int, tuple[Line, ...]]) -> list[Unit]:
    """Partner groups, and jobs by themselves that are given something else than before, in the order of their first lines."""
    jobs, units, groups = engine.state.jobs, list[Unit](), dict[int, Unit]()
    for row, some in lines.items():
        partner = some[0].partner
        if jobs[row]["running"]:
            if partner is None and engine.given.get(row) == some:
                continue
        elif jobs[row]["phase"] != WAITING:
            continue
        want = read(engine, row, some)
        unit = Unit([]) if partner is None else groups.setdefault(partner, Unit([]))
        if not unit.wants:
            units.append(unit)
        unit.wants.append(want)
    for unit in groups.values():
        unit.wants.sort(key=lambda want: (-want.gpu_milli, not jobs[want.row]["running"]))
    return units


def reject(engine: Engine, row: int) -> None:
    S = engine.state
    if S.jobs[row]["phase"] != WAITING:
        raise InvariantBroken(f"{engine.label}: job {engine.jobs.id[row]} is rejected but not waiting")
    S.jobs[row]["phase"], S.jobs[row]["verdict"] = ENDED, Verdict.REJECTED
    engine.outcome[row], engine.reason[row] = REJECTED, f"not admitted by {engine.policy.name}"
    engine.clock["n_waiting"] -= 1
    engine.clock["active_milli"] -= S.jobs[row]["milli"]
    engine.clock["finite_left"] -= bool(np.isfinite(engine.jobs.work[row]))
