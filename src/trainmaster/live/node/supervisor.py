"""The supervisor of one attempt: starts its ranks whole or not at all, stops them as asked, leaves nothing, writes down how it ended.

It is forked from the fork server, in a session of its own, and needs neither it nor the controller afterwards. What it is told comes by
the folder (see `folder`): plan.json, stop.json, and lines of JSON in the FIFO `commands` (a stop again, for a disk
too full for stop.json; a signal; that the job has something to say to the controller).

    asked to stop    `stop` and the flag in the control folder; then, by whether the job has registered a checkpoint:
                     yes   its own --signal at once, SIGTERM shortly before the deadline: it is expected to stop after the published step
                     no    its own --signal at once, SIGTERM that signal's lead later; without one, SIGTERM at once
                     cancelled, superseded, or it has had its signal: SIGTERM at once
    at the deadline  SIGKILL, to the whole tree

Deadlines run on the monotonic clock: a jump of the wall clock moves none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from trainmaster.live.node import cgroups, flag, limits, linux, remains
from trainmaster.live.node import folder as files
from trainmaster.live.node.log_bound import Bound

LOCK_WAIT_S = 5.0  # an older attempt's supervisor has said that it ended, and is about to go
GANG_GRACE_S = 5.0  # between SIGTERM and SIGKILL for the other ranks when one has failed
LAST_TERM_S = 5.0  # SIGTERM comes at least so long before SIGKILL, or a quarter of the grace
REMAINS_S = 10.0
LONGEST_S = 86400.0  # of one wait; the kernel takes no more than 24 days
LOGS_S = 2.0  # between looks at how large the logs are


class Refused(Exception):
    """It could not be started; the message says why."""


class Stopped(Exception):
    """It was asked to stop before any of its processes had started."""


class Rank:
    def __init__(self, pid: int, number: int) -> None:
        self.pid = pid
        self.number = number
        self.code: int | None = None


class Supervisor:
    def __init__(self, state: str, job: int, attempt: int) -> None:
        self.state, self.job, self.attempt = state, job, attempt
        self.folder = files.attempt_folder(state, job, attempt)
        self.own = self.folder  # where what concerns this node alone is; on a machine of several nodes, one folder
        self.control = f"{self.own}/{files.CONTROL}"
        plan = files.read_json(f"{self.folder}/{files.PLAN}")
        if plan is None:
            raise Refused(f"{self.folder}/{files.PLAN}: not there, or not whole")
        self.plan = plan
        self.ranks: list[Rank] = []
        self.setups: dict[int, int | None] = {}  # pid -> exit code
        self.ended: list[int] = []  # exit codes, first ended first
        self.started_s: float | None = None
        self.stop: dict[str, Any] | None = None
        self.bounds: list[Bound] = []  # of its logs
        self.logs_due_s = float("inf")  # monotonic
        self.due: list[tuple[float, str]] = []  # (monotonic seconds, what to do), ascending
        self.killed = False
        self.exceeded_gib: float | None = None  # memory for which some process of it was killed
        self.lock = -1

    def run(self) -> None:
        """Everything, to the end. Whoever comes second finds supervisor.json and leaves."""
        if not files.create_json(f"{self.own}/{files.SUPERVISOR}", self._who()):
            return
        self._listen()
        end = files.Reserved(f"{self.own}/{files.END}")
        outcome: dict[str, Any] = {}
        try:
            self._take_the_job()
            self._prepare()
            self._bound_logs()
            self._set_up()
            self._start()
            while any(rank.code is None for rank in self.ranks):
                self._step()
            self._let_groups_end()
        except Refused as refused:
            outcome = {"refused": str(refused)[:500]}
        except Stopped:
            outcome = {"exit_code": 128 + signal.SIGTERM, "message": "stopped before it had started"}
        except OSError as error:  # a full disk, no more processes
            outcome = {"refused": str(error)[:500]} if self.started_s is None else {"lost": f"its supervisor: {error}"[:500]}
        self._kill_tree()
        self._look_at_logs()
        if not outcome:
            code = self._exit_code()
            outcome = {"exit_code": code, "message": self._message(), "out_of_memory": bool(code) and self.exceeded_gib is not None}
        end.write(self._account(outcome))
        self._poke()
        os.close(self.lock) if self.lock >= 0 else None

    def _who(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "born": linux.birth(os.getpid())}

    def _account(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """What is written down at the end."""
        asked = None if self.stop is None else str(self.stop["reason"])[:40]
        return {**outcome, "started_s": self.started_s, "ended_s": time.time(), "asked": asked}

    # -- before the first process --------------------------------------------------------------------------------------------------

    def _take_the_job(self) -> None:
        """No other attempt of this job runs here from now on, and no newer one has been accepted."""
        self.lock = os.open(f"{files.job_folder(self.state, self.job)}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise Refused("an older attempt of this job still runs on this node") from None
                time.sleep(0.002)
        for other in files.attempts(self.state, self.job):
            path = files.attempt_folder(self.state, self.job, other)
            if other > self.attempt:
                raise Refused(f"attempt {other} of this job has been accepted: this one is superseded")
            plan = files.read_json(f"{path}/{files.PLAN}") if other < self.attempt else None
            if plan is not None and not os.path.exists(f"{path}/{files.END}") and not remains.clear(plan, REMAINS_S):
                raise Refused(f"processes of attempt {other} are still there and cannot be killed")

    def _prepare(self) -> None:
        os.makedirs(self.control, mode=0o700, exist_ok=True)
        raised = [0] * 8
        raised[flag.MARGIN], raised[flag.HIGHEST] = flag.MARGIN_STEPS, self.attempt
        files.write_bytes(f"{self.control}/flag", flag.pack(raised))
        os.makedirs(self.plan["checkpoint_dir"], mode=0o700, exist_ok=True)
        self._raise_fence(self.plan["checkpoint_dir"])
        if self.plan["cgroup"] is not None:
            cgroups.make(self.plan["cgroup"]["folder"])
            limits.make(self.plan["limits"])
        self._look()  # at a stop that came before this process did

    def _raise_fence(self, folder: str) -> None:
        """Shut out what an older attempt may still want to save; the library enters a new job's folder itself."""
        try:
            if _word(f"{folder}/owner") != str(self.job):
                return
            lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError):
            return  # no checkpoints of the library there
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if int(_word(f"{folder}/fence")) < self.attempt:
                files.write_bytes(f"{folder}/.fence.{os.getpid()}.tmp", str(self.attempt).encode())
                os.replace(f"{folder}/.fence.{os.getpid()}.tmp", f"{folder}/fence")
        except (OSError, ValueError):
            return  # the library says what is wrong with it, to those who read the job's log
        finally:
            os.close(lock)

    def _set_up(self) -> None:
        """The job's `setup`, once a node, before any rank."""
        for one in self.plan["setups"]:
            log = self._open_log(one)
            pid, ready = self._fork(partial(self._stand, one, log, -1, -1), one["argv"], {**self.plan["env"], **one["env"]})
            self._await_ready(ready)
            self.setups[pid] = None
            os.close(log[0])
        while None in self.setups.values():
            self._step()
        failed = [code for code in self.setups.values() if code]
        if failed:
            self.ended.append(failed[0])

    def _start(self) -> None:
        """All ranks stand before exec, or none gets there."""
        if self.ended:
            return  # its setup has failed: that is how the job ended
        self._look()
        logs = [self._open_log(one) for one in self.plan["ranks"]]
        wait, go = os.pipe()
        ready = []
        for one, log in zip(self.plan["ranks"], logs, strict=True):
            pid, status = self._fork(partial(self._stand, one, log, wait, go), one["argv"], {**self.plan["env"], **one["env"]})
            self.ranks.append(Rank(pid, one["rank"]))
            ready.append(status)
        for status in ready:
            self._await_ready(status)
        self._await_others()
        started_s = time.time()
        files.write_json(f"{self.own}/{files.STARTED}", {"at_s": started_s})
        self.started_s = started_s
        os.write(go, b"g" * len(self.ranks))
        for descriptor in {wait, go, *(one for log in logs for one in log)}:
            os.close(descriptor)
        self._poke()

    def _await_others(self) -> None:
        """All ranks stand here: there are no others."""

    def _open_log(self, one: dict[str, Any]) -> tuple[int, int]:
        """The log of a rank; where the job named files of its own, those, and the log is a link there."""
        log = f"{self.folder}/{one['log']}"
        if one["stdout"] is None:
            descriptor = os.open(f"{log}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            return descriptor, descriptor
        out = self._open_named(one["stdout"], f"{log}.log")
        return out, out if one["stderr"] is None else self._open_named(one["stderr"], f"{log}.err.log")

    def _open_named(self, path: str, link: str) -> int:
        """A file that the job named. Nothing that could make the supervisor wait for someone (a FIFO), and no device but null."""
        how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | (0 if self.plan["append"] else os.O_TRUNC)
        try:
            descriptor = os.open(path, how, 0o666 & ~self.plan["umask"])
        except OSError as error:
            raise Refused(f"its output file: {error}") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) and path != os.devnull:
            os.close(descriptor)
            raise Refused(f"its output file: {path} is not a regular file")
        os.set_blocking(descriptor, True)
        with contextlib.suppress(FileExistsError):
            os.symlink(path, link)
        return descriptor

    def _fork(self, before: Callable[[int, int], None], argv: list[str], env: dict[str, str]) -> tuple[int, int]:
        """A process that does `before`, with its parent's pid and the end of a pipe where it is to say that it is ready; then it is `argv`.
        Its pid, and the other end."""
        said, say = os.pipe()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(said)
            os.close(say)
            raise
        if pid:
            os.close(say)
            return pid, said
        try:
            before(parent, say)
        except BaseException as error:
            leave(say, str(error), 1)
        try:
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            leave(2, f"trainmaster: {argv[0]}: {error.strerror}\n", 127 if error.errno == errno.ENOENT else 126)
        except BaseException as error:
            leave(2, f"trainmaster: {argv[0]}: {error}\n", 126)

    def _stand(self, one: dict[str, Any], log: tuple[int, int], wait: int, go: int, parent: int, say: int) -> None:
        """Before exec, with everything done that may fail, until `wait` has a byte for it."""
        self._become(parent)
        self._go_in(one, log)
        os.write(say, b"ready")
        if go >= 0:
            os.close(go)  # else the end of the supervisor would go unseen here
            if os.read(wait, 1) != b"g":
                os._exit(1)

    def _become(self, parent: int) -> None:
        """What the child of a fork is at once. Signals are as a shell expects them, whatever Python or our parent ignores."""
        os.setsid()
        linux.die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)

    def _go_in(self, one: dict[str, Any], log: tuple[int, int]) -> None:
        """Where it is to run. A file system that hangs holds it here."""
        if self.plan["cgroup"] is not None:
            cgroups.enter(self.plan["cgroup"]["folder"])
            limits.enter(self.plan["limits"])
        os.chdir(one["cwd"])
        os.umask(self.plan["umask"])
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, standard in ((null, 0), (log[0], 1), (log[1], 2)):
            os.dup2(descriptor, standard)

    def _await_ready(self, said: int) -> None:
        with open(said, "rb", closefd=True, buffering=0) as pipe:
            answer = pipe.read(500)
        if answer != b"ready":
            raise Refused((answer or b"a process of it was killed before it started").decode(errors="replace"))

    # -- while it runs -------------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self.commands = files.make_fifo(f"{self.own}/{files.COMMANDS}")
        self.signals, write = os.pipe()
        for descriptor in (self.signals, write):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.poll = select.poll()
        self.poll.register(self.signals, select.POLLIN)
        self.poll.register(self.commands, select.POLLIN)

    def _step(self, at_most_s: float | None = None) -> None:
        """Wait for something, and see to it."""
        if self.due:
            until_due_s = min(max(0.0, self.due[0][0] - time.monotonic()), LONGEST_S)
            at_most_s = until_due_s if at_most_s is None else min(until_due_s, at_most_s)
        if self.bounds:
            until_logs_s = max(0.0, self.logs_due_s - time.monotonic())
            at_most_s = until_logs_s if at_most_s is None else min(until_logs_s, at_most_s)
        for descriptor, _ in self.poll.poll(None if at_most_s is None else at_most_s * 1000 + 1):
            if descriptor == self.signals:
                if signal.SIGTERM in os.read(self.signals, 4096):  # the machine is going down
                    self._ask({"reason": "node", "grace_s": self.plan["grace_s"]})
            elif descriptor == self.commands:
                self._obey(os.read(self.commands, 1 << 16))
            else:
                self._hear_of(descriptor)
        self._reap()
        while self.due and self.due[0][0] <= time.monotonic():
            self._do(self.due.pop(0)[1])
        if time.monotonic() >= self.logs_due_s:
            self._look_at_logs()

    def _bound_logs(self) -> None:
        """Of those that are ours: files that the job named are its user's affair."""
        if self.plan["log_limit"]:
            ours = (*self.plan["setups"], *self.plan["ranks"])
            named = sorted({one["stdout"] or f"{self.folder}/{one['log']}.log" for one in ours})
            self.bounds = [Bound(path, self.plan["log_limit"]) for path in named if path.startswith(f"{self.folder}/")]
            self.logs_due_s = time.monotonic() + LOGS_S

    def _look_at_logs(self) -> None:
        self.logs_due_s = time.monotonic() + LOGS_S
        try:
            for bound in self.bounds:
                bound.look()
        except OSError as error:
            self.bounds = []
            with contextlib.suppress(OSError), open(f"{self.folder}/system.log", "a", encoding="utf-8") as log:
                log.write(f"the middle of a log cannot be dropped on this file system ({error}): its limit does not hold\n")

    def _hear_of(self, descriptor: int) -> None:
        """Of what else is polled: nothing here."""

    def _obey(self, lines: bytes) -> None:
        for line in lines.splitlines():
            try:
                command = json.loads(line)
                if not isinstance(command, dict):
                    continue
                if "signal" in command:
                    self._signal(int(command["signal"]), bool(command.get("batch_only", False)))
                if "stop" in command:
                    self._ask(command["stop"])
                if "changed" in command:
                    self._poke()
                self._obey_more(command)
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                continue  # the job can write here too
        self._look()

    def _obey_more(self, command: dict[str, Any]) -> None:
        """What else it may be told: nothing here."""

    def _look(self) -> None:
        request = files.read_json(f"{self.folder}/{files.STOP}")
        if request is not None:
            with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
                self._ask(request)

    def _ask(self, request: dict[str, Any]) -> None:
        if request == self.stop:
            return
        now_s, grace_s, reason = time.monotonic(), max(0.0, float(request["grace_s"])), str(request["reason"])[:40]
        if not math.isfinite(grace_s):
            raise ValueError(grace_s)
        first, self.stop = self.stop is None, request
        if self.started_s is None:
            raise Stopped
        kill_s = min([now_s + grace_s] + [at_s for at_s, what in self.due if what == "kill"])
        grace_s = kill_s - now_s
        if first or reason == "superseded":
            with contextlib.suppress(OSError):  # on a full disk the flag alone has to do
                files.write_json(f"{self.control}/stop", {"reason": reason, "deadline_s": time.time() + grace_s})
            with contextlib.suppress(OSError):  # a job that has removed it hears the signals still
                flag.put(self.control, flag.ASKED, 2 if reason == "superseded" else 1)
        self.due = [(kill_s, "kill"), *(one for one in self.due if one[1] == "signal")]
        last_term_s = kill_s - min(LAST_TERM_S, grace_s / 4)
        own = None if self._had_its_signal(reason) else self.plan["signal"]
        if reason in ("cancel", "superseded"):
            self.due.append((now_s, "term"))
        elif own is not None:
            if first:
                self.due.append((now_s, "signal"))
            self.due.append((last_term_s if self._is_registered() else min(now_s + own["before_s"], last_term_s), "term"))
        elif self._is_registered():
            self.due.append((last_term_s, "term"))
        else:
            self.due.append((now_s, "term"))
        self.due.sort()
        self._poke()

    def _is_registered(self) -> bool:
        """Some rank has registered a checkpoint."""
        return os.path.exists(f"{self.control}/registered")

    def _had_its_signal(self, reason: str) -> bool:
        """At its limit the controller has sent it, so long before; and who has asked to be requeued has acted on it."""
        return reason == "limit" or os.path.exists(f"{self.control}/requeue")

    def _do(self, what: str) -> None:
        if what == "signal":
            self._signal(self.plan["signal"]["number"], self.plan["signal"]["batch_only"])
        elif what == "term":
            self._to_groups(signal.SIGTERM)
            self._to_groups(signal.SIGCONT)
        else:
            self._kill_all()

    def _signal(self, number: int, batch_only: bool = False) -> None:
        """As Slurm does: to the shell of a batch script only when that was asked for, else to what it started."""
        if not 1 <= number <= 64:
            return
        leaders = [rank.pid for rank in self.ranks if rank.code is None]
        if batch_only:
            linux.kill(leaders, number)
            return
        batch_shells = leaders if self.plan["script"] and number not in (signal.SIGSTOP, signal.SIGCONT) else []
        linux.kill([pid for pid in self._who_hears() if pid not in batch_shells], number)

    def _who_hears(self) -> list[int]:
        """Of a signal that is sent to all."""
        return linux.descendants(os.getpid())

    def _to_groups(self, number: int) -> None:
        """Those of its ranks; of one that has ended only while some process of ours is in it: else the number may be another's by now."""
        ours = _groups(linux.descendants(os.getpid())) if any(rank.code is not None for rank in self.ranks) else set()
        for rank in (rank for rank in self.ranks if rank.code is None or rank.pid in ours):
            with contextlib.suppress(OSError):
                os.killpg(rank.pid, number)

    def _kill_all(self) -> None:
        """Once, and again until nothing is left by `_kill_tree`."""
        self.killed = True
        if self.plan["cgroup"] is not None:
            with contextlib.suppress(OSError):
                cgroups.kill(self.plan["cgroup"]["kind"], self.plan["cgroup"]["folder"])
        tree = linux.descendants(os.getpid())
        linux.kill(tree, signal.SIGSTOP)  # so that none forks while the others are killed
        linux.kill(tree, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            self._child_ended(pid, code)

    def _child_ended(self, pid: int, code: int) -> None:
        if pid in self.setups:
            self.setups[pid] = code
        for rank in self.ranks:
            if rank.pid == pid:
                rank.code = code
                self._rank_ended(code)

    def _rank_ended(self, code: int) -> None:
        self.ended.append(code)
        if code and self.stop is None and not self.due:  # the others of its gang would wait for it for ever
            now_s = time.monotonic()
            self.due = [(now_s, "term"), (now_s + GANG_GRACE_S, "kill")]

    # -- at the end ----------------------------------------------------------------------------------------------------------------

    def _let_groups_end(self) -> None:
        """A shell that SIGTERM ended has left a process that saves: it has until the deadline. A daemon of its own session has not.

        A shell that ended by itself has seen to what it started: that is over with it, as in Slurm.
        """
        orphaned = [rank.pid for rank in self.ranks if (rank.code or 0) > 128]
        while self.stop is not None and not self.killed and not _groups(linux.descendants(os.getpid())).isdisjoint(orphaned):
            self._step(at_most_s=0.1)

    def _kill_tree(self) -> None:
        """Until nothing is left. Orphans come to this process: without a child nothing is left, but for who has entered the cgroup."""
        cgroup = self.plan["cgroup"]
        pause_s = 0.0005
        while True:
            self._reap()
            if not _has_children() and not (cgroup is not None and cgroups.members(cgroup["folder"])):
                break
            self._kill_all()
            time.sleep(pause_s)
            pause_s = min(0.1, pause_s * 1.5)
        if os.path.exists(f"{self.own}/entered"):  # a shell without a cgroup
            remains.clear({**self.plan, "cgroup": None}, REMAINS_S)
        self.exceeded_gib = limits.memory_exceeded(self.plan["limits"])
        if cgroup is not None:
            cgroups.remove(cgroup["folder"])
            limits.remove(self.plan["limits"])

    def _exit_code(self) -> int:
        """Of the first that failed: what the others did then is its consequence."""
        return next((code for code in self.ended if code), 0)

    def _message(self) -> str:
        code = self._exit_code()
        if self.started_s is None:
            return f"its setup ended with {code}"
        if code and self.exceeded_gib is not None:
            return f"out of memory: more than the {self.exceeded_gib:g} GiB that it asked for"
        if 128 < code <= 192:
            with contextlib.suppress(ValueError):
                return f"ended by {signal.Signals(code - 128).name}"
        return ""

    def _poke(self) -> None:
        files.poke(f"{self.state}/{files.WAKE}", f"{self.job} {self.attempt}")


def _word(path: str) -> str:
    """What stands in a small file of the job's, whatever the job has put in its place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 100).decode().strip()
    finally:
        os.close(descriptor)


def leave(descriptor: int, why: str, code: int) -> NoReturn:
    """The end of a forked child, whatever stands in `why`: one that returned would be a second supervisor."""
    try:
        os.write(descriptor, why.encode(errors="replace")[:500])
    finally:
        os._exit(code)


def supervise(state: str, job: int, attempt: int) -> None:
    """The whole life of a supervisor, in a process of its own that has just been forked."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the controller may have been started with some blocked
    linux.call_this_process(f"tm {job}.{attempt}")
    linux.adopt_orphans()
    try:
        Supervisor(state, job, attempt).run()
    except BaseException as error:  # a bug, or a disk that takes not even supervisor.json: in the fork server's log; seen as LOST
        print(f"supervisor of attempt {attempt} of job {job}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _groups(pids: list[int]) -> set[int]:
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(os.getpgid(pid))
    return found
