"""The supervisor of one node's share of an attempt, where another process must stay beside it (an actor of Ray): a pipe ties the two.

    the pipe ends   its keeper has gone, or was told that this node is given up: the job is asked to save and stop, and killed
                    ORPHAN_GRACE_S later, before anybody may start it elsewhere
    hold            of a gang on several nodes: the processes of each stand before exec until the file `go` says that all do
    keeps           a node of a batch script that is not its first: it runs the tasks that srun sends (see `steps`), until it is stopped

    STATE/jobs/JOB/ATTEMPT/ready.json, go, wake     it stands there; all do; FIFO to the keeper: something has changed
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from functools import partial
from typing import Any

from trainmaster.live.node import folder as files
from trainmaster.live.node import linux
from trainmaster.live.node.steps import TASK, checked
from trainmaster.live.node.supervisor import Refused, Supervisor, leave

READY, GO, WAKE = "ready.json", "go", "wake"
ORPHAN_GRACE_S = 2.0
ORPHANED = "node"  # the reason of such a stop


class TiedSupervisor(Supervisor):
    def __init__(self, state: str, job: int, attempt: int, tie: int) -> None:
        super().__init__(state, job, attempt)
        self.tie = tie
        self.tasks: dict[int, tuple[str, int]] = {}  # pid -> id, where its exit code is waited for

    def _listen(self) -> None:
        super()._listen()
        self.poll.register(self.tie, select.POLLIN)

    def _hear_of(self, descriptor: int) -> None:
        self.poll.unregister(descriptor)
        self._ask({"reason": ORPHANED, "grace_s": ORPHAN_GRACE_S})

    def _await_others(self) -> None:
        if not self.plan["hold"]:
            return
        files.write_json(f"{self.folder}/{READY}", {"at_s": time.time()})
        self._poke()
        while not os.path.exists(f"{self.folder}/{GO}"):
            self._step()

    def _let_groups_end(self) -> None:
        while self.plan["keeps"] and self.started_s is not None and not self.killed:
            self._step()
        super()._let_groups_end()

    # -- tasks -----------------------------------------------------------------------------------------------------------------------

    def _obey_more(self, command: dict[str, Any]) -> None:
        if str(command.get("start")).isdecimal():
            self._start_task(command["start"])
        if "kill" in command:
            for pid in [pid for pid, (id, _) in self.tasks.items() if id == command["kill"]]:
                tree = [pid, *linux.descendants(pid)]
                linux.kill(tree, signal.SIGSTOP)  # so that none forks while the others are killed
                linux.kill([-pid, *tree], signal.SIGKILL)  # its group: orphans in it are no descendants any more

    def _start_task(self, id: str) -> None:
        path = f"{self.folder}/{TASK}{id}"
        name = ""
        streams: list[int] = []
        try:
            for name in ("end", "err", "out"):
                streams.append(os.open(f"{path}.{name}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            end, err, out = streams
            task = checked(files.read_json(f"{path}.json"))
            name = task["env"].get("SLURMD_NODENAME", "")
            os.set_blocking(err, True)
            os.set_blocking(out, True)
            pid, ready = self._fork(partial(self._go_to, task, (out, err)), task["argv"], task["env"])
            self._await_ready(ready)
            self.tasks[pid] = (id, end)
        except (OSError, ValueError, Refused) as error:
            if len(streams) > 1:
                with contextlib.suppress(OSError):
                    os.set_blocking(streams[1], False)
                    os.write(streams[1], f"srun: error: {name}: {error}\n".encode(errors="replace"))
            if streams:  # else it is not waited for any more
                self._tell_code(streams[0], 2)
        finally:
            for stream in streams[1:]:
                os.close(stream)

    def _go_to(self, task: dict[str, Any], streams: tuple[int, int], parent: int, say: int) -> None:
        """In the child. It is ready before its folder is looked for: that may take for ever, and this node has to be able to end."""
        self._become(parent)
        os.write(say, b"ready")
        try:
            self._go_in(task, streams)
        except BaseException as error:
            leave(streams[1], f"srun: error: {task['env'].get('SLURMD_NODENAME', '')}: {error}\n", 2)

    def _tell_code(self, end: int, code: int) -> None:
        with contextlib.suppress(OSError):  # nobody waits for it
            os.write(end, str(code).encode())
        os.close(end)

    def _child_ended(self, pid: int, code: int) -> None:
        super()._child_ended(pid, code)
        if pid in self.tasks:
            self._tell_code(self.tasks.pop(pid)[1], code)

    def _to_groups(self, number: int) -> None:
        super()._to_groups(number)
        for pid in self.tasks:
            with contextlib.suppress(OSError):
                os.killpg(pid, number)

    # -- of a gang -------------------------------------------------------------------------------------------------------------------

    def _is_registered(self) -> bool:
        """Of a gang on several nodes: rank 0 has, on its own."""
        return super()._is_registered() or bool(self.stop is not None and self.stop.get("registered", False))

    def _poke(self) -> None:
        files.poke(f"{self.folder}/{WAKE}", "")


def main(state: str, job: int, attempt: int, tie: int) -> None:
    """In a process of its own."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # its keeper's threads may block some
    os.umask(0o077)
    os.setsid()
    linux.call_this_process(f"tm {job}.{attempt}")
    linux.adopt_orphans()
    try:
        TiedSupervisor(state, job, attempt, tie).run()
    except BaseException as error:  # a bug, or a disk that takes not even supervisor.json; seen as LOST
        print(f"supervisor of attempt {attempt} of job {job}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
