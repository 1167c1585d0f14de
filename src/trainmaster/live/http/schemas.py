"""What requests and answers hold beyond the records of `control` and `spec`. Unknown fields are refused, sizes bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from trainmaster.live.control import AskedFor, AttemptRecord, EventRecord, JobRecord, NodeRecord, QueueRecord, Scenario
from trainmaster.live.http.auth import Role
from trainmaster.live.spec import Amount, JobSpec, Moment, Name, Seconds, Strict, Word

LARGEST_ID = 2**53 - 1  # what JSON readers and databases agree on
MAX_SPECS = 10_000
MAX_IDS = 10_000
MAX_FILTER = 1_000  # values of one filter in a query

Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]
Line = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f]*$")]
Setting = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f=]+=[^\x00-\x1f]*$")]
Spec = Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=r"^[^\x00-\x1f]+$")]


# --------------------------------------------------------------------------------------------------- requests


class Bulk(Strict):
    jobs: list[JobSpec] = Field(min_length=1, max_length=MAX_SPECS)


class Ids(Strict):
    ids: list[Id] = Field(min_length=1, max_length=MAX_IDS)


class Change(Strict):
    """What may be changed of a job that has not ended; what is left out stays."""

    priority: float | None = Field(default=None, ge=-1e6, le=1e6, allow_inf_nan=False)
    queue: Word | None = None
    limit_s: Seconds | None = None
    estimate_s: Seconds | None = None
    gpus: Amount | None = None
    name: Name | None = None
    preemptible: bool | None = None


class Signal(Strict):
    number: int = Field(ge=1, le=64)


class Drain(Strict):
    reason: Line = ""


class PolicyChange(Strict):
    name: Word
    settings: list[Setting] = Field(default=[], max_length=100)  # PARAM=VALUE


class Column(Strict):
    """One column of a what-if: the live state with this changed."""

    label: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")]
    policy: Word | None = None
    settings: list[Setting] = Field(default=[], max_length=100)
    add_nodes: Spec | None = None
    job: Id | None = None
    priority: float | None = Field(default=None, ge=-1e6, le=1e6, allow_inf_nan=False)
    gpus: Amount | None = None
    queue: Word | None = None

    def scenario(self) -> Scenario:
        return Scenario(**{**self.model_dump(), "settings": tuple(self.settings)})


class WhatIf(Strict):
    scenarios: list[Column] = Field(min_length=1, max_length=20)


class NewToken(Strict):
    user: Word
    role: Role = Role.USER
    name: Line = ""
    expires_s: Moment | None = None


# --------------------------------------------------------------------------------------------------- answers


class Error(BaseModel):
    error: str  # one line: what is wrong, where, what to do


@dataclass(frozen=True, slots=True)
class Submitted:
    id: int  # of an array: its first job
    ids: list[int]
    notes: list[str]  # what whoever submits should know, e.g. that it can never fit this cluster


@dataclass(frozen=True, slots=True)
class SubmittedAll:
    ids: list[int]  # in the order of the request, arrays expanded
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Jobs:
    jobs: list[JobRecord]


@dataclass(frozen=True, slots=True)
class Asked:
    asked: list[AskedFor]


@dataclass(frozen=True, slots=True)
class Attempts:
    attempts: list[AttemptRecord]


@dataclass(frozen=True, slots=True)
class Events:
    events: list[EventRecord]
    next: int  # `after` of the next request: there may be ids above it that were not yours to see


@dataclass(frozen=True, slots=True)
class Nodes:
    nodes: list[NodeRecord]


@dataclass(frozen=True, slots=True)
class Queues:
    queues: list[QueueRecord]


@dataclass(frozen=True, slots=True)
class LogFiles:
    attempt: int
    bytes: dict[str, int]  # rank -> size


@dataclass(frozen=True, slots=True)
class Shell:
    argv: list[str]


@dataclass(frozen=True, slots=True)
class Changed:
    changed: list[str]


@dataclass(frozen=True, slots=True)
class Person:
    user: str
    role: Role


@dataclass(frozen=True, slots=True)
class LoginCode:
    path: str  # to be opened in a browser, once, within ten minutes


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    user: str
    role: Role
    name: str
    created_s: float
    expires_s: float | None
    revoked_s: float | None


@dataclass(frozen=True, slots=True)
class Tokens:
    tokens: list[Token]


@dataclass(frozen=True, slots=True)
class Issued:
    id: int
    token: str  # shown here and never again


class Status(BaseModel):
    """One look at the whole."""

    model_config = ConfigDict(extra="allow")

    version: str
    since_s: float
    policy: str
    backend: dict[str, Any]
    gpus: float
    gpus_used: float
    jobs: dict[str, int]  # by state
    alerts: list[str]


class WhatIfAnswer(BaseModel):
    model_config = ConfigDict(extra="allow")

    runs: list[dict[str, Any]]  # as `simulate --json` has them
    conclusion: str


Verb = Literal["cancel", "suspend", "resume", "hold", "release", "requeue"]
