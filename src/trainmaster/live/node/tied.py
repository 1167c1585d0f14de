"""The supervisor of one node's share of an attempt, where another process must stay beside it (an actor of Ray): a pipe ties the two.

    the pipe ends   its keeper has gone, or was told that this node is given up: the job is asked to save and stop, and killed
                    ORPHAN_GRACE_S later, before anybody may start it elsewhere
    hold            of a gang on several nodes: the processes of each stand before exec until the file `go` says that all do

    STATE/jobs/JOB/ATTEMPT/ready.json, go, wake     it stands there; all do; FIFO to the keeper: something has changed
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from trainmaster.live.node import folder as files
from trainmaster.live.node import linux
from trainmaster.live.node.supervisor import Supervisor

READY, GO, WAKE = "ready.json", "go", "wake"
ORPHAN_GRACE_S = 2.0
ORPHANED = "node"  # the reason of such a stop


class TiedSupervisor(Supervisor):
    def __init__(self, state: str, job: int, attempt: int, tie: int) -> None:
        super().__init__(state, job, attempt)
        self.tie = tie

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
