"""One process of a training run: it counts steps, and between two of them looks whether it must save, report or stop.

The stop, for a gang (DESIGN section 8). Rank 0 sees that the attempt is asked to stop and publishes a step that lies ahead of every
rank. Each rank compares that number, in memory that it shares with its node, after each of its steps, and stops after exactly that
one: no rank waits for another, and no collective is added to a step. A step to save at is published in the same way, for
checkpoints by the clock; checkpoints every so many steps need no word between ranks.

A rank that has passed the published step when it sees it (only possible in a loop whose ranks do not wait for each other) stops after
the step it is in, writes its part for that step and says so in its acknowledgement: each rank then resumes from its own step.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from trainmaster.errors import InputError, TrainmasterError
from trainmaster.train import data as positions
from trainmaster.train import rng
from trainmaster.train.control import ASKED, HIGHEST_ATTEMPT, SAVE_STEP, STOP_STEP, SUPERSEDED, Control
from trainmaster.train.place import rank_and_world
from trainmaster.train.superseded import Superseded

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from trainmaster.train.store import Saved, Store

PROGRESS_S = 1.0
METRICS, METRIC_NAME = 100, 100  # so many, of names so long, are shown: the node reads no large file
RUN_AHEAD_STEPS = 1_000  # a GPU's launch queue holds about a thousand kernels; a rank further ahead does not wait for the others
DEADLINE_RESERVE_S = 0.5  # left of the time to stop, for the acknowledgement

Function: TypeAlias = "Callable[[Path], object]"


class Checkpoint:
    """What a script registered, and when it is written."""

    def __init__(self, store: Store, save: Function, load: Function, every_s: float | None, every_steps: int | None, every_rank: bool):
        self.store = store
        self.save = save
        self.load = load
        self.every_s = every_s
        self.every_steps = every_steps
        self.every_rank = every_rank


def attempt(environment: Mapping[str, str]) -> int:
    """The fencing number: 1, 2, ...; 0 outside Trainmaster."""
    return int(environment.get("TRAINMASTER_ATTEMPT", "0"))


class Run:
    """The state of this process. `step` counts steps done over all attempts; loops, epoch, passes and batch say where in the data it is."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.rank, self.world = rank_and_world(environment)
        self.attempt = attempt(environment)
        folder = environment.get("TRAINMASTER_CONTROL")
        self.control = Control(folder, self.rank, self.world) if folder else None
        self.checkpoint: Checkpoint | None = None

        self.step = 0
        self.loops = 0  # begins and ends of loops over epochs
        self.epoch = 0
        self.passes = 0  # that have ended, in this epoch or since the last loop
        self.batch = 0  # items of this pass that are done
        self.pass_rng: rng.State = {}
        self.generators: list[Any] = []
        self.pending: dict[str, Any] | None = None  # the part of the checkpoint whose place in the data is not reached yet
        self.saved: Saved | None = None

        self.resumed_step: int | None = None
        self.saved_step: int | None = None
        self.part_step: int | None = None  # the checkpoint that this rank has last written its part of
        self.metrics: dict[str, Any] = {}
        self.numbers: dict[str, float] = {}  # the last of each metric
        self.watching = self.control is not None
        self.obeyed_save_step = 0
        self.in_epochs = self.in_pass = False
        self.terminated = False
        self.next_progress_s = 0.0 if self.control else math.inf
        self.next_save_s = math.inf
        self.rate: float | None = None
        self.rate_since_s, self.rate_since_step = time.monotonic(), 0
        if self.control:
            self.control.steps[self.rank] = 0  # an earlier life of this attempt (torchrun's restarts) may have left more

    @property
    def resumed(self) -> bool:
        return self.resumed_step is not None

    # ---------------------------------------------------------------------------------------------- registering

    def register(
        self,
        save: Function,
        load: Function,
        *,
        directory: str | os.PathLike[str] | None,
        every_s: float | None,
        every_steps: int | None,
        keep: int,
        every_rank: bool,
    ) -> bool:
        """Register, and load the newest whole checkpoint; whether there was one. Without a directory to save in: nothing, False."""
        if self.checkpoint is not None or self.step or self.batch:
            raise TrainmasterError("tm.checkpoint: register one checkpoint, before the first step")
        if min(keep, 1 if every_steps is None else every_steps) < 1 or (every_s is not None and every_s <= 0):
            raise InputError("tm.checkpoint: every_steps and keep are at least 1, every_s is above 0")
        folder = self.environment.get("TRAINMASTER_CHECKPOINT_DIR") or directory
        if folder is None:
            return False
        if every_s is not None and self.world > 1 and self.control is None:
            raise InputError("tm.checkpoint: every_s: outside Trainmaster the ranks of a gang share no clock; use every_steps")
        restart = self.environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        from trainmaster.train.store import Store  # here, since a script that registers nothing need not wait for it

        store = Store(folder, self.environment.get("TRAINMASTER_JOB_ID"), self.attempt, restart, keep)
        self.checkpoint = Checkpoint(store, save, load, every_s, every_steps, every_rank)
        self.watching = True
        self._look_for_newer_attempt()
        try:
            store.open(clean=self.rank == 0)
            self.saved = store.newest()
        except Superseded as error:
            self._end_superseded(str(error))
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}: checkpoints cannot be kept there; name another folder") from None
        if self.rank == 0:
            for path, problem in store.broken:
                say(f"{path}: skipped: {problem}; it will be removed once another checkpoint is saved")
        if self.saved:
            self._restore(self.saved, load)
        if every_s:
            self.next_save_s = time.monotonic() + every_s
        if self.rank == 0:
            self._tell("registered", {"rank": self.rank, "at_s": time.time()})
        self._handle_sigterm()
        return self.resumed

    def _restore(self, saved: Saved, load: Function) -> None:
        part = saved.part(self.rank if self.rank < saved.world else 0)
        if self.rank >= saved.world:
            part.update(rng=None, pass_rng=None)
        if saved.world != self.world:
            part["batch"] = part["batch"] * saved.world // self.world
            if self.rank == 0:
                say(f"{saved.path} is of {saved.world} ranks, this run has {self.world}: it goes on, but not bit for bit")
        load(saved.shared)
        if part["rng"]:
            rng.restore(part["rng"])
        self.step, self.pending = part["step"], part
        self.resumed_step = self.saved_step = self.part_step = self.obeyed_save_step = saved.step
        self.rate_since_step = self.step
        if self.control:
            self.control.steps[self.rank] = self.step
        if self.rank == 0:
            say(f"resumed after step {self.step} from {saved.path}")

    # ---------------------------------------------------------------------------------------------- the loop

    def epochs(self, count: int) -> Iterator[int]:
        self.loops += 1
        first, going_on = 0, True
        if self.pending and self.loops <= self.pending["loops"]:
            first, going_on = self.pending["epoch"], self.loops == self.pending["loops"]
        self.in_epochs = True
        try:
            for epoch in range(first, count) if going_on else ():
                self.epoch, self.passes = epoch, 0
                yield epoch
            if self.terminated:  # during the last evaluation: no step looks any more
                self._stop(self.step, "SIGTERM", None, acknowledge=False)
        finally:
            self.loops += 1
            self.epoch = self.passes = 0
            self.in_epochs = False
            self._release_sigterm()

    def steps(self, data: Iterable[Any] | int | None, replay: bool) -> Iterator[Any]:
        items: Iterable[Any] = range(data) if isinstance(data, int) else range(sys.maxsize) if data is None else data
        if self.pending and (self.loops, self.passes) < (self.pending["loops"], self.pending["passes"]):
            self.passes += 1  # it had ended before the checkpoint
            self.pending["skipped"] = True
            return
        if self.in_pass and self.checkpoint:  # a place in two passes is no place that a resumed run would find
            raise TrainmasterError("tm.steps: a pass is still under way; one at a time: loop over what is inside it without tm.steps")
        batches = self._begin_pass(items, replay)
        self.in_pass = True
        try:
            self._look()
            for batch in batches:
                yield batch
                self.advance()
        finally:
            self.passes += 1
            self.batch = 0
            self.in_pass = False
            if self.rank == 0:
                self._write_progress()
            if not self.in_epochs:
                self._release_sigterm()

    def _begin_pass(self, items: Iterable[Any], replay: bool) -> Iterator[Any]:
        if self.checkpoint is None:
            return iter(items)
        self._handle_sigterm()
        self.generators = positions.generators_of(items)
        if self.pending is None:
            self.pass_rng = rng.capture(self.generators)
            return positions.from_start(items)
        part, self.pending = self.pending, None
        if part.get("skipped") and self.saved:  # what the script did between the passes that it skipped is undone
            self.checkpoint.load(self.saved.shared)
        if part["pass_rng"]:
            rng.restore(part["pass_rng"], self.generators)
            self.pass_rng = part["pass_rng"]
        else:
            self.pass_rng = rng.capture(self.generators)
        batches = positions.from_batch(items, part["batch"], replay)
        if part["rng"]:
            rng.restore(part["rng"], self.generators)
        self.batch = part["batch"]
        return batches

    def advance(self) -> int:
        """A step is done. Does not return if the run stops after it."""
        self.step += 1
        self.batch += 1
        if self.watching:
            self._look()
        return self.step

    def _look(self) -> None:
        """Between two steps. Everything here is local; what takes longer than a microsecond is behind an `if`."""
        step = self.step
        if control := self.control:
            control.steps[self.rank] = step
            flag = control.flag
            if flag[ASKED] or flag[SAVE_STEP] > self.obeyed_save_step or flag[HIGHEST_ATTEMPT] > self.attempt:
                self._obey(control)
        if self.terminated:
            self._stop(step, "SIGTERM", None, acknowledge=False)
        if (checkpoint := self.checkpoint) and checkpoint.every_steps and step % checkpoint.every_steps == 0:
            self._save(step)
        if self.rank == 0:
            now_s = time.monotonic()
            if now_s >= self.next_progress_s:
                self._write_progress()
            if now_s >= self.next_save_s and checkpoint and checkpoint.every_s:
                self._save_by_the_clock(checkpoint.every_s)

    # ---------------------------------------------------------------------------------------------- what is asked of it

    def should_stop(self) -> bool:
        return self.terminated or bool(self.control and self.control.flag[ASKED])

    def _obey(self, control: Control) -> None:
        self._look_for_newer_attempt()
        flag = control.flag
        if flag[ASKED] and self.checkpoint:  # without one, SIGTERM follows: stopping early would save nothing
            self._ignore_sigterm()
            self.terminated = False  # the flag says until when, and rank 0 after which step
            if self.rank == 0 and not flag[STOP_STEP]:
                flag[STOP_STEP] = max(1, self._step_ahead(control))
            if 0 < flag[STOP_STEP] <= self.step:
                reason, deadline_s = control.stop_reason()
                self._stop(flag[STOP_STEP], reason, deadline_s, acknowledge=True)
        if self.obeyed_save_step < flag[SAVE_STEP] <= self.step:
            self.obeyed_save_step = flag[SAVE_STEP]
            self._save(flag[SAVE_STEP])

    def _step_ahead(self, control: Control) -> int:
        """A step that no rank has passed. Alone: the one just done.

        Ranks that wait for each other in every step are at most one ahead of rank 0, and cannot move on before it does.
        """
        if self.world == 1:
            return self.step
        furthest = max(step for step in control.steps if step <= self.step + RUN_AHEAD_STEPS)
        return max(self.step + control.margin_steps, furthest + (1 if furthest <= self.step + 1 else control.margin_steps))

    def _look_for_newer_attempt(self) -> None:
        if self.control and (self.control.flag[ASKED] == SUPERSEDED or self.control.flag[HIGHEST_ATTEMPT] > self.attempt):
            self._end_superseded(f"attempt {self.attempt} is not the newest of this job any more")

    def _end_superseded(self, reason: str) -> NoReturn:
        """At once, without the script's own last words: they might write where the newer attempt does."""
        say(f"{reason}: it ends now and saves nothing", self.rank)
        sys.stdout.flush()
        os._exit(os.EX_TEMPFAIL)

    def _stop(self, stop_step: int, reason: str, deadline_s: float | None, *, acknowledge: bool) -> NoReturn:
        self._save(stop_step, deadline_s - DEADLINE_RESERVE_S if deadline_s else None)
        if self.rank == 0:
            self._write_progress()
        if acknowledge:  # not heard, an exit status of 0 would be taken for the end of the training
            acknowledge = self._tell(f"ack.{self.rank}", {"step": self.step, "saved_step": self.saved_step, "at_s": time.time()})
        if self.rank == 0:
            say(f"stopped after step {self.step} ({reason}); the last checkpoint is of step {self.saved_step}")
        raise SystemExit(0 if acknowledge else 128 + signal.SIGTERM)

    # SIGTERM. Alone, from a launcher or a person that knows no flag: stop after the step that runs. The ranks of a gang cannot agree on
    # a step without the flag, so there it keeps its meaning. After the flag it is the announcement of SIGKILL: saving goes on.

    def _handle_sigterm(self) -> None:
        if self.world == 1 and _sigterm_is(signal.SIG_DFL):
            signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True

    def _ignore_sigterm(self) -> None:
        if _sigterm_is(signal.SIG_DFL, self._terminate):
            signal.signal(signal.SIGTERM, _ignore)  # SIG_IGN would be inherited by programs that the script starts

    def _release_sigterm(self) -> None:
        if _sigterm_is(self._terminate):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # ---------------------------------------------------------------------------------------------- saving

    def _save_by_the_clock(self, every_s: float) -> None:
        if not self.control or self.world == 1:
            self._save(self.step)
        elif self.control.flag[SAVE_STEP] <= self.obeyed_save_step:  # else the last one published is still to come
            self.control.flag[SAVE_STEP] = self._step_ahead(self.control)
        self.next_save_s = time.monotonic() + every_s

    def _save(self, as_step: int, until_s: float | None = None) -> None:
        """This rank's part of the checkpoint `as_step`; rank 0 waits for the others' parts and commits it.

        A rank of a gang writes its part once: while rank 0 commits, a second one (the same step ends a pass and begins the next) would
        change what has been summed.
        A full disk costs this checkpoint, not the run: the older ones stay. An error of the script's own save function ends the run.
        """
        if not self.checkpoint or not self.step:
            return
        store = self.checkpoint.store
        if self.saved_step == self.step if self.world == 1 else self.part_step == as_step:
            return
        self.part_step = as_step
        try:
            draft = store.draft(as_step)
            if self.rank == 0 or self.checkpoint.every_rank:
                self.checkpoint.save(draft / "shared")
            store.add_part(draft, self.rank, self._part())
            if self.rank == 0:
                parts = store.parts(draft, self.world, until_s)
                self._compare(parts)
                store.commit(draft, as_step, self.world)
            self.saved_step = self.step
        except Superseded as error:
            self._end_superseded(str(error))
        except OSError as error:  # TimeoutError is one
            say(f"checkpoint of step {as_step} not saved: {error}; the last one is of step {self.saved_step}", self.rank)
            if self.rank == 0:
                store.discard(as_step)

    def _part(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "loops": self.loops,
            "epoch": self.epoch,
            "passes": self.passes,
            "batch": self.batch,
            "resumed_step": self.resumed_step,
            "pass_rng": self.pass_rng,
            "rng": rng.capture(self.generators),
        }

    def _compare(self, parts: list[dict[str, Any]]) -> None:
        for rank, part in enumerate(parts):
            if part["resumed_step"] != self.resumed_step:
                raise TrainmasterError(
                    f"rank {rank} resumed from step {part['resumed_step']}, rank 0 from step {self.resumed_step}: "
                    "they do not see the same checkpoints; put them on a file system that all nodes share"
                )
            if part["step"] != self.step:
                say(f"rank {rank} is at step {part['step']}, rank 0 at {self.step}: each resumes from its own")

    # ---------------------------------------------------------------------------------------------- reporting

    def report(self, metrics: Mapping[str, Any]) -> None:
        if self.rank == 0 and self.control:
            for name, value in metrics.items():
                self.metrics[name[:METRIC_NAME]] = value.detach() if hasattr(value, "detach") else value

    def _write_progress(self) -> None:
        """Numbers are fetched here, once a second: a metric on a GPU would otherwise make every step wait for it."""
        if not self.control:
            return
        now_s = time.monotonic()
        self.next_progress_s = now_s + PROGRESS_S
        if now_s - self.rate_since_s >= PROGRESS_S / 2:
            self.rate = (self.step - self.rate_since_step) / (now_s - self.rate_since_s)
            self.rate_since_s, self.rate_since_step = now_s, self.step
        for name, value in self.metrics.items():
            if name not in self.numbers and len(self.numbers) == METRICS:
                continue
            try:
                self.numbers[name] = float(value)
            except (TypeError, ValueError, RuntimeError, OverflowError) as error:
                say(f"metric {name}: {error}")
        self.metrics.clear()
        finite = {name: number for name, number in self.numbers.items() if math.isfinite(number)}  # JSON knows no others
        progress = {"step": self.step, "saved_step": self.saved_step, "rate": self.rate, "metrics": finite, "at_s": time.time()}
        self._tell("progress", progress)

    def _tell(self, name: str, content: dict[str, Any]) -> bool:
        """The node; whether it can hear it. A full disk ends no training."""
        try:
            if self.control:
                self.control.write(name, content)
        except OSError as error:
            say(f"the node is not told: {name}: {error}", self.rank)
            return False
        return self.control is not None


def _sigterm_is(*handlers: Any) -> bool:
    """Only the main thread may change a handler, and only ours or none is changed."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) in handlers


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def say(text: str, rank: int = 0) -> None:
    print(f"trainmaster: {f'rank {rank}: ' if rank else ''}{text}", file=sys.stderr, flush=True)
