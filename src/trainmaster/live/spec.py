"""What a person asks for: one job, or an array of them, as it was submitted. It never changes; what becomes of it is a `JobRecord`.

Amounts are of the whole job: `gpus` is the gang on all its nodes together. Every front end (flags, YAML, `#SBATCH` lines, the API)
ends here, so that a field is checked once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from trainmaster.cluster.accelerators import with_memory

MAX_GPUS = 1_000_000
MAX_ARRAY = 100_000
MAX_INDEX = 4_000_000  # Slurm's own bound on MaxArraySize
LEAST_GPUS = LEAST_CPUS = 0.001  # the ledger counts thousandths

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f/\\]+$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.@:+-]+$")]  # queue, account, type
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]  # an argument, variable or path ends at a NUL
Variable = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00=]+$")]
Seconds = Annotated[float, Field(ge=0, le=10 * 366 * 86_400, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]  # Unix seconds, of a year that calendars know
Amount = Annotated[float, Field(ge=0, le=MAX_GPUS, allow_inf_nan=False)]


class Strict(BaseModel):
    """An unknown field is a mistake that is said, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StopSignal(Strict):
    """`--signal=B:USR1@120`: this signal so long before the job is stopped, for its limit or for another job."""

    number: int = Field(ge=1, le=64)
    before_s: Seconds = 60.0
    batch_only: bool = False  # B: to the batch shell alone, not to its children


class Retry(Strict):
    """Start again after a failure of the job itself. Lost nodes and preemptions cost no try."""

    max: int = Field(default=0, ge=0, le=1_000)
    exit_codes: tuple[int, ...] = ()  # () = any but 0


class Dependency(Strict):
    """What must have happened to another job first."""

    kind: Literal["after", "afterany", "afterok", "afternotok"]  # started, ended, succeeded, ended otherwise
    job: int = Field(ge=1)


class Array(Strict):
    """`--array=0-99%8`: one job an index, at most `limit` of them at a time."""

    indices: tuple[Annotated[int, Field(ge=0, le=MAX_INDEX)], ...] = Field(min_length=1, max_length=MAX_ARRAY)
    limit: int | None = Field(default=None, ge=1)


class JobSpec(Strict):
    """One submission. Exactly one of `command` and `script`."""

    name: Name | None = None
    command: tuple[Text, ...] | None = None  # argv, run without a shell
    script: Text | None = Field(default=None, max_length=4 << 20)  # text of a batch script, run by its #! line or /bin/sh
    script_args: tuple[Text, ...] = ()
    setup: Text | None = Field(default=None, max_length=1 << 20)  # shell text that runs first on every node
    workdir: Text = Field(default="/", max_length=4_096)
    env: dict[Variable, Text] = Field(default_factory=dict)  # the whole environment, but what the backend adds
    snapshot: Text | None = None  # a copy of the files that git knows, in which it runs instead of workdir

    gpus: Amount = 1.0  # the gang; below 1: a fraction of one GPU; 0: CPUs alone
    gpu_types: tuple[Word, ...] = ()  # any of these; () = any
    gpu_memory_gib: Amount | None = None  # at least so much on each GPU
    nodes: int | None = Field(default=None, ge=1, le=100_000)  # exactly so many, evenly; None = wherever it fits
    min_gpus: Amount | None = None  # elastic: between the two
    max_gpus: Amount | None = None
    cpus: Amount = 0.0
    memory_gib: Amount = 0.0

    queue: Word | None = None  # None = the default queue
    account: Word | None = None
    qos: Word | None = None
    priority: float = Field(default=0.0, ge=-1e6, le=1e6, allow_inf_nan=False)  # larger goes first
    hold: bool = False
    begin_s: Moment | None = None
    limit_s: Seconds | None = None  # wall-clock limit, enforced
    estimate_s: Seconds | None = None  # how long its user thinks it takes
    deadline_s: Moment | None = None

    preemptible: bool | None = None  # None = once it has registered a checkpoint, or if its queue says so
    requeue: bool = True  # it may run again after a node or supervisor was lost, or at somebody's wish
    grace_s: Seconds = 30.0  # between asking it to stop and SIGKILL
    signal: StopSignal | None = None
    retry: Retry = Retry()
    # one process a node with all its GPUs; one a GPU; or, as a script of sbatch runs, one on the first node: `srun` in it starts the rest
    ranks: Literal["node", "gpu", "batch"] = "node"
    array: Array | None = None
    after: tuple[Dependency, ...] = ()

    ray_driver: bool = False  # a program of Ray, which places tasks of its own on the GPUs that it was given

    output: Text | None = Field(default=None, max_length=4_096)  # file pattern as of sbatch: %j, %x, %A, %a; None = the job's log alone
    error: Text | None = Field(default=None, max_length=4_096)
    append: bool = True  # output files of a later attempt are appended to
    checkpoint_dir: Text | None = Field(default=None, max_length=4_096)  # None = a folder of the job's own
    labels: dict[Text, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> JobSpec:
        if self.min_gpus is not None and self.max_gpus is not None and self.min_gpus > self.max_gpus:
            raise ValueError("min_gpus is above max_gpus")
        if (self.command is None) == (self.script is None):
            raise ValueError("give either a command or a script")
        if self.command is not None and (not self.command or not self.command[0]):
            raise ValueError("the command is empty")
        if self.gpus == 0 and self.cpus == 0:
            raise ValueError("asks for no GPU and no CPU")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: a gang takes whole GPUs, not {self.gpus:g}")
        if 0 < self.gpus < LEAST_GPUS or 0 < self.cpus < LEAST_CPUS:
            raise ValueError(f"gpus, cpus: the least of a GPU is {LEAST_GPUS:g}, and of a CPU {LEAST_CPUS:g}; 0 = none")
        for name, bound in (("min_gpus", self.min_gpus), ("max_gpus", self.max_gpus)):
            if bound is not None and (bound < 1 or bound != int(bound)):
                raise ValueError(f"{name}: an elastic job takes whole GPUs, at least one, not {bound:g}")
        if not within(self.gpus, self.min_gpus, self.max_gpus):
            raise ValueError(f"gpus: {self.gpus:g} is not between min_gpus and max_gpus")
        if self.nodes is not None and self.gpus >= 1 and self.gpus % self.nodes:
            raise ValueError(f"{self.gpus:g} GPUs do not spread evenly over {self.nodes} nodes")
        if self.nodes is not None and self.nodes > 1:
            if 0 < self.gpus < 1:
                raise ValueError(f"nodes: part of one GPU does not lie on {self.nodes} nodes")
            if self.min_gpus is not None or self.max_gpus is not None:
                raise ValueError("nodes: an elastic job lies on as many nodes as it takes; give one number of GPUs, or no number of nodes")
        if self.gpu_memory_gib and not with_memory(self.gpu_types, self.gpu_memory_gib):
            which = " or ".join(self.gpu_types) if self.gpu_types else "accelerator"
            raise ValueError(f"gpu_memory_gib: no {which} is known to have {self.gpu_memory_gib:g} GiB")
        return self


def within(gpus: float, min_gpus: float | None, max_gpus: float | None) -> bool:
    """None = no such bound."""
    return (min_gpus is None or gpus >= min_gpus) and (max_gpus is None or gpus <= max_gpus)
