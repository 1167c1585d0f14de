"""What carries out decisions: one class a system (this machine, Slurm, Ray), told what to start and stop, asked what it sees.

    inventory   the nodes: what they have, their health, what others use of them
    start       an attempt at a job, on the nodes and amounts that were decided; safe to repeat
    stop        ask it to checkpoint and stop, then make it; safe to repeat, what is gone is stopped
    observe     every attempt it knows of, as it is now; after a crash of the controller this is how jobs are adopted

A backend decides nothing and writes no job state: the controller turns observations into transitions, in one table. Verbs
return at once; what they lead to is seen by `observe`. An attempt is known by (job, attempt) and nothing else: never by a pid or
an id of the system underneath, which are used again. `attempt` ascends by job and fences: what an older one still does is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainmaster.cluster.cluster import Node
from trainmaster.live.logs import Logs
from trainmaster.live.spec import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShare:
    """What an attempt holds of one node."""

    node: str
    gpus: float
    cpus: float = 0.0
    memory_gib: float = 0.0
    devices: tuple[int, ...] = ()  # which accelerators of the node, for backends that pin GPUs; () = the backend chooses


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a job. `shares` are in rank order: the first node is that of rank 0."""

    job: int
    attempt: int  # 1, 2, ...: the fencing number
    name: str
    user: str
    spec: JobSpec
    shares: tuple[NodeShare, ...]
    array_job: int | None = None  # id of the array's first job, and the index of this one
    array_index: int | None = None
    resumes: bool = False  # an earlier attempt has run
    queue: str | None = None


class Seen(enum.StrEnum):
    """How an attempt looks from outside. A word that a backend does not know becomes UNKNOWN, never a guess."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"  # asked to stop
    ENDED = "ended"  # exit_code is known, nothing of it is left
    LOST = "lost"  # gone without an exit code (supervisor killed, node gone); nothing of it is left, as far as can be known
    REFUSED = "refused"  # could not be started; `message` says why
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One attempt as it is now."""

    job: int
    attempt: int
    seen: Seen
    started_s: float | None = None  # exec of the first process, Unix seconds
    ended_s: float | None = None
    exit_code: int | None = None  # 128 + n if a signal n ended it
    asked_to_stop: bool = False  # the stop protocol had begun when it ended
    acknowledged: bool = False  # its ranks stopped as asked, with their work saved: asked_to_stop and this is preempted, not succeeded
    out_of_memory: bool = False  # some process of it was killed for using more than it asked for, and it failed
    requeue: bool = False  # the job wants to be run again when it ends (scontrol requeue)
    checkpointed: bool = False  # it has registered a checkpoint: it may be stopped for others
    step: int | None = None  # steps done, and saved in the last checkpoint
    saved_step: int | None = None
    rate: float | None = None  # steps a second, as it reports
    metrics: dict[str, float] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """One node: what it is, whether it can be used, and what others hold of it."""

    name: str
    node: Node
    up: bool = True
    reason: str = ""
    others_gpus: float = 0.0
    others_devices: tuple[int, ...] = ()  # which those are, where it is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    resize: bool = False
    suspend: bool = False
    pin_gpus: bool = False
    pin_nodes: bool = False
    share: bool = False
    drivers: bool = False  # runs programs that place tasks of their own in the system underneath


class Backend(Protocol):
    """Every method returns quickly and may be called again; errors of the outside are BackendError."""

    name: str
    capabilities: Capabilities

    def open(self, wake: Callable[[], None]) -> None:
        """Begin; `wake()` may be called from any thread when an observation has changed."""

    def inventory(self) -> list[NodeSeen]: ...

    def start(self, attempt: Attempt) -> None: ...

    def stop(self, job: int, attempt: int, *, grace_s: float, reason: str) -> None:
        """`reason`: preempt, suspend, cancel, limit, node, superseded. grace_s of 0: SIGKILL now."""

    def signal(self, job: int, attempt: int, number: int, *, batch_only: bool = False) -> None:
        """`batch_only`: to the shell of a batch script and not to what it started; without it, the other way round."""

    def observe(self) -> list[Observation]: ...

    def forget(self, job: int, attempt: int) -> None:
        """The controller has written down how it ended; logs stay, the rest may go."""

    def logs(self, job: int, attempt: int, user: str) -> Logs:
        """Of an attempt at a job of this user's that exists or existed."""

    def shell(self, job: int, attempt: int) -> Sequence[str]:
        """argv of an interactive shell inside a running attempt."""

    def close(self) -> None:
        """The controller goes; attempts stay."""

    def report(self) -> dict[str, Any]:
        """What an operator should know (cgroup version, GPUs found by, ...)."""
