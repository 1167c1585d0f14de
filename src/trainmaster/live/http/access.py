"""Who sees and who touches what. One object a request: every route asks it, none asks the control plane about another's job.

    role       jobs seen              jobs touched    specs
    viewer     all                    none            without values of the environment
    user       own (see below)        own             own
    operator   all                    all             others' without values of the environment
    admin      all                    all             all

To a user another's job does not exist: the answer is that of an id that was never given out. With `open_queue` listings show a
line of it, without name, account, labels and dependencies. Node and policy events are everyone's, what they carry is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency

from trainmaster.errors import Forbidden, NotFound
from trainmaster.live.control import AskedFor, ControlPlane, EventRecord, JobFilter, JobRecord, NodeRecord, Scenario, WhyAnswer
from trainmaster.live.http.auth import Role, Who
from trainmaster.live.http.gate import who_of
from trainmaster.live.http.service import service_of
from trainmaster.live.http.settings import Settings
from trainmaster.live.spec import JobSpec

HIDDEN = "(hidden)"


class Access:
    """Its methods read, and may wait for the store: not for the event loop."""

    def __init__(self, control: ControlPlane, who: Who, settings: Settings) -> None:
        self.control, self.who, self.settings = control, who, settings

    def job(self, job: int) -> JobRecord:
        """NotFound if there is none that may be seen."""
        try:
            record = self.control.job(job)
        except NotFound:
            record = None
        if record is None or not (self.who.role.sees_all or record.user == self.who.user):
            raise NotFound(f"no job {job}")
        return record

    def touch(self, ids: Sequence[int]) -> list[int]:
        """The ids, once each, if every one may be changed by who asks."""
        wanted = list(dict.fromkeys(ids))
        mine = self.who.user if self.who.role is Role.USER else None
        found = self.control.jobs(JobFilter(ids=tuple(wanted), users=(mine,) if mine else (), all=True))
        if missing := set(wanted) - {record.id for record in found}:
            raise NotFound(f"no job {min(missing)}")
        return wanted

    def jobs(self, which: JobFilter) -> list[JobRecord]:
        if self.who.role.sees_all:
            return self.control.jobs(which)
        if self.settings.open_queue and not which.names:  # asking by name would tell the name
            return [record if record.user == self.who.user else _outline(record) for record in self.control.jobs(which)]
        if which.users and self.who.user not in which.users:
            return []
        return self.control.jobs(replace(which, users=(self.who.user,)))

    def seen(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Those of `ids` whose jobs may be seen."""
        wanted = tuple(ids)
        if self.who.role.sees_all or not wanted:
            return wanted
        return tuple(record.id for record in self.control.jobs(JobFilter(ids=wanted, users=(self.who.user,), all=True)))

    def events(self, events: Sequence[EventRecord]) -> list[EventRecord]:
        """Of all events, those that may be seen."""
        if self.who.role.sees_all:
            return list(events)
        mine = set(self.seen({event.job for event in events if event.job is not None}))
        return [
            event if event.job is not None else replace(event, data={}) for event in events if event.job is None or event.job in mine
        ]

    def nodes(self) -> list[NodeRecord]:
        """What is on them is theirs alone whose jobs they are."""
        nodes = self.control.nodes()
        if self.who.role.sees_all or self.settings.open_queue:
            return nodes
        mine = set(self.seen({job for node in nodes for job in node.jobs}))
        return [replace(node, jobs=tuple(job for job in node.jobs if job in mine)) for node in nodes]

    def status(self) -> dict[str, Any]:
        """Of the troubles of users' processes (Slurm's site mode), the own."""
        status = self.control.status()
        troubles = status["backend"].get("troubles")
        if troubles is None or self.who.role.sees_all:
            return status
        own = {user: trouble for user, trouble in troubles.items() if user == self.who.user}
        return {**status, "backend": {**status["backend"], "troubles": own}}

    def spec(self, job: int) -> JobSpec:
        owner, spec = self.job(job).user, self.control.spec(job)
        if owner == self.who.user or self.who.role.administers:
            return spec
        return spec.model_copy(update={"env": dict.fromkeys(spec.env, HIDDEN)})

    def asked(self, ids: Sequence[int]) -> list[AskedFor]:
        return self.control.asked(self.seen(ids))

    def why(self, job: int) -> WhyAnswer:
        self.job(job)
        answer = self.control.why(job)
        if self.who.role.sees_all or self.settings.open_queue:
            return answer
        mine = self.who.user
        ahead = tuple(other if other.get("user") == mine else {**other, "id": None, "user": None} for other in answer.ahead)
        return replace(answer, ahead=ahead)

    def whatif(self, scenarios: Sequence[Scenario]) -> dict[str, Any]:
        """Of what each tenant gets, who may see no others' jobs is told the own share, and those of queues."""
        answer = self.control.whatif(scenarios)
        if self.who.role.sees_all or self.settings.open_queue:
            return answer
        seen = {self.who.user, *(queue.name for queue in self.control.queues())}
        runs = [
            {**run, "by_tenant": {name: share for name, share in run["by_tenant"].items() if name in seen}} if "by_tenant" in run else run
            for run in answer["runs"]
        ]
        return {**answer, "runs": runs}


def _outline(record: JobRecord) -> JobRecord:
    return replace(record, name="", account=None, labels={}, after=(), nodes=(), reason="", exit_code=None)


async def access(request: Request) -> Access:
    service = service_of(request)
    return Access(service.control, who_of(request.scope), service.settings)


Caller = Annotated[Access, Depends(access)]


def _needs(allowed: frozenset[Role]) -> Dependency:
    async def check(request: Request) -> None:
        if (role := who_of(request.scope).role) not in allowed:
            raise Forbidden(f"a {role.value} may not do this: it takes {' or '.join(sorted(role.value for role in allowed))}")

    return Dependency(check)


SUBMITTER = _needs(frozenset(role for role in Role if role.submits))
OPERATOR = _needs(frozenset(role for role in Role if role.operates))
ADMIN = _needs(frozenset(role for role in Role if role.administers))
