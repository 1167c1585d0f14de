"""Everything that is read from the store: plain tuples from the database into records, thousands at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ARRAY, Column, ColumnElement, Connection, Select, any_, bindparam, case, func, literal_column, or_, select, union_all

from trainmaster.errors import NotFound
from trainmaster.live.backends.base import NodeShare
from trainmaster.live.control import AskedFor, AttemptRecord, EventRecord, JobFilter, JobRecord
from trainmaster.live.states import State
from trainmaster.live.store import tables
from trainmaster.live.store.draft import draft_of
from trainmaster.live.store.rows import (
    ActiveJobs,
    AttemptRow,
    Copy,
    DecisionRow,
    JobRow,
    NodeMark,
    PolicyMemory,
    TokenRow,
    Usage,
    whole_spec,
)

STATE = {state.value: state for state in State}
ACTIVE = [state.value for state in State if not state.ended]
jobs, attempts, events, decisions, tokens = tables.jobs, tables.attempts, tables.events, tables.decisions, tables.tokens

RECORD_COLUMNS = [jobs.c[f.name] for f in fields(JobRecord) if f.name not in ("eta_s", "place")]
ROW_COLUMNS = [jobs.c[f.name] for f in fields(JobRow)]
ROW_NAMES = tuple(column.name for column in ROW_COLUMNS)
ATTEMPT_COLUMNS = [attempts.c[f.name] for f in fields(AttemptRow)]
EVENT_COLUMNS = [events.c[f.name] for f in fields(EventRecord)]
JobDraft = draft_of(JobRecord, [column.name for column in RECORD_COLUMNS])
ASKED = tuple(f.name for f in fields(AskedFor) if f.name != "id")
TOKEN_COLUMNS = [tokens.c[f.name] for f in fields(TokenRow)]


def active_jobs(connection: Connection) -> ActiveJobs:
    rows = connection.execute(select(*ROW_COLUMNS).where(tables.IS_ACTIVE).order_by(jobs.c.id))
    active = tuple(job_row(row) for row in rows.fetchall())
    wanted = select(jobs.c.spec).where(tables.IS_ACTIVE)
    bodies = {id: (body, env) for id, body, env in connection.execute(select(tables.specs).where(tables.specs.c.id.in_(wanted)))}
    digests = select(tables.specs.c.env).where(tables.specs.c.id.in_(wanted))
    stored = connection.execute(select(tables.environments).where(tables.environments.c.digest.in_(digests)))
    environments: dict[str, str] = {digest: body for digest, body in stored}  # noqa: C416 - a Row is no tuple to mypy
    live: dict[int, tuple[AttemptRow, ...]] = {}
    for row in connection.execute(select(*ATTEMPT_COLUMNS).where(tables.IS_LIVE).order_by(attempts.c.job, attempts.c.attempt)):
        live[row.job] = (*live.get(row.job, ()), attempt_row(row._mapping))
    return ActiveJobs(jobs=active, attempts=live, bodies=bodies, environments=environments)


def job(connection: Connection, id: int) -> JobRecord:
    row = connection.execute(select(*RECORD_COLUMNS).where(jobs.c.id == id)).first()
    if row is None:
        raise NotFound(f"no job {id}")
    return job_record(row)


def some_jobs(connection: Connection, which: JobFilter) -> list[JobRecord]:
    return [job_record(row) for row in connection.execute(listing(which, connection.dialect.name)).fetchall()]


def succeeded_last(connection: Connection, since_s: float, limit: int) -> list[JobRecord]:
    query = select(*RECORD_COLUMNS).where(jobs.c.finish_s >= since_s, jobs.c.state == State.SUCCEEDED.value)
    newest = connection.execute(query.order_by(jobs.c.finish_s.desc(), jobs.c.id.desc()).limit(limit)).fetchall()
    return [job_record(row) for row in reversed(newest)]


def listing(which: JobFilter, dialect: str) -> Select[Any]:
    """By id, ascending."""
    query = select(*RECORD_COLUMNS).order_by(jobs.c.id)
    states = tuple(state.value for state in which.states)
    wanted = {"id": which.ids, "name": which.names, "user": which.users, "queue": which.queues, "state": states}
    for name, values in wanted.items():
        if values:
            query = query.where(one_of(jobs.c[name], values, dialect))
    if not which.states and not which.all:
        query = query.where(tables.IS_ACTIVE)
    if which.since_s is not None:  # two searches by index; as an OR, SQLite would go through all of history
        ended, active = select(jobs.c.id).where(jobs.c.finish_s >= which.since_s), select(jobs.c.id).where(jobs.c.state.in_(ACTIVE))
        query = query.where(jobs.c.id.in_(union_all(ended, active)))
    if which.until_s is not None:
        query = query.where(jobs.c.submit_s < which.until_s)
    if which.after_id is not None:
        query = query.where(jobs.c.id > which.after_id)
    return query if which.limit is None else query.limit(which.limit)


def one_of(column: Column[Any], values: Sequence[Any], dialect: str) -> ColumnElement[bool]:
    """`IN` with one parameter, however many values: 100,000 are more than a statement may have parameters."""
    if len(values) == 1:  # read in the order of an index, so that a page of many is quick
        return column == values[0]
    if dialect == "sqlite":
        return column.in_(select(literal_column("value")).select_from(func.json_each(json.dumps(values))))
    return column == any_(bindparam(None, list(values), ARRAY(column.type)))


def counts(connection: Connection) -> dict[State, int]:
    return {STATE[state]: count for state, count in connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))}


def spec(connection: Connection, id: int) -> str:
    found = specs(connection, [id])
    if not found:
        raise NotFound(f"no job {id}")
    return found[id]


def specs(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    """By job, those that there are."""
    query = (
        select(jobs.c.id, tables.specs.c.body, tables.environments.c.body)
        .select_from(jobs.join(tables.specs).outerjoin(tables.environments))
        .where(one_of(jobs.c.id, ids, connection.dialect.name))
    )
    return {id: whole_spec(body, environment) for id, body, environment in connection.execute(query)}


def asked(connection: Connection, ids: Sequence[int]) -> list[AskedFor]:
    """A submission is read once for all jobs of it."""
    specs, dialect = tables.specs, connection.dialect.name
    found = connection.execute(select(jobs.c.id, jobs.c.spec).where(one_of(jobs.c.id, ids, dialect)).order_by(jobs.c.id)).fetchall()
    bodies = connection.execute(select(specs.c.id, specs.c.body).where(one_of(specs.c.id, [*{row.spec for row in found}], dialect)))
    told = {spec: json.loads(body) for spec, body in bodies}
    asked = {spec: {name: body[name] for name in ASKED} | {"gpu_types": tuple(body["gpu_types"])} for spec, body in told.items()}
    return [AskedFor(id=row.id, **asked[row.spec]) for row in found]


def copies(connection: Connection) -> list[Copy]:
    """Of all submissions ever that run in one. Only theirs are read: others have no such text."""
    specs = tables.specs
    active = func.max(case((jobs.c.finish_s.is_(None), 1), else_=0))
    query = (
        select(specs.c.body, active, func.max(jobs.c.finish_s))
        .select_from(jobs.join(specs))
        .where(specs.c.body.like('%"snapshot":"%'))
        .group_by(specs.c.id, specs.c.body)
    )
    rows = ((json.loads(body)["snapshot"], here, last_s) for body, here, last_s in connection.execute(query))
    return [Copy(place=place, active=bool(here), last_s=last_s or 0.0) for place, here, last_s in rows if place is not None]


def attempts_of(connection: Connection, id: int) -> list[AttemptRecord]:
    rows = connection.execute(select(*ATTEMPT_COLUMNS).where(attempts.c.job == id).order_by(attempts.c.attempt))
    return [attempt_record(attempt_row(row._mapping)) for row in rows]


def some_events(connection: Connection, id: int | None, after: int, limit: int) -> list[EventRecord]:
    query = select(*EVENT_COLUMNS).where(events.c.id > after).order_by(events.c.id).limit(limit)
    if id is not None:
        query = query.where(events.c.job == id)
    return [EventRecord(**{**row._mapping, "data": json.loads(row.data)}) for row in connection.execute(query)]


def decision(connection: Connection, id: int | None, at_s: float | None) -> DecisionRow | None:
    query = select(decisions)
    if id is not None:
        query = query.where(decisions.c.id == id)
    if at_s is not None:
        query = query.where(decisions.c.at_s <= at_s)
    row = connection.execute(query.order_by(decisions.c.id.desc()).limit(1)).first()
    return None if row is None else DecisionRow(**row._mapping)


def policy_memory(connection: Connection) -> PolicyMemory | None:
    memory = tables.policy_memory
    row = connection.execute(select(memory.c.decision, memory.c.policy, memory.c.version, memory.c.body)).first()
    return None if row is None else PolicyMemory(**row._mapping)


def ids_of_key(connection: Connection, actor: str, key: str) -> list[int] | None:
    keys = tables.request_keys
    text = connection.execute(select(keys.c.runs).where(keys.c.actor == actor, keys.c.key == key)).scalar()
    return None if text is None else [id for first, count in json.loads(text) for id in range(first, first + count)]


def node_marks(connection: Connection) -> list[NodeMark]:
    return [NodeMark(**row._mapping) for row in connection.execute(select(tables.nodes).order_by(tables.nodes.c.name))]


def meta(connection: Connection, key: str) -> Any:
    text = connection.execute(select(tables.meta.c.value).where(tables.meta.c.key == key)).scalar()
    return None if text is None else json.loads(text)


def find_token(connection: Connection, hash: str, now_s: float) -> TokenRow | None:
    row = connection.execute(
        select(*TOKEN_COLUMNS).where(
            tokens.c.hash == hash, tokens.c.revoked_s.is_(None), or_(tokens.c.expires_s.is_(None), tokens.c.expires_s > now_s)
        )
    ).first()
    return None if row is None else TokenRow(**row._mapping)


def all_tokens(connection: Connection) -> list[TokenRow]:
    return [TokenRow(**row._mapping) for row in connection.execute(select(*TOKEN_COLUMNS).order_by(tokens.c.id))]


def usage(connection: Connection, since_s: float | None) -> list[Usage]:
    keys = (jobs.c.user, jobs.c.queue, jobs.c.account)
    sums = (func.count().label("jobs"), func.sum(jobs.c.run_s).label("run_s"), func.sum(jobs.c.gpu_s).label("gpu_s"))
    query = select(*keys, *sums).group_by(*keys).order_by(*keys)
    if since_s is not None:
        query = query.where(or_(jobs.c.finish_s >= since_s, tables.IS_ACTIVE))
    return [Usage(**row._mapping) for row in connection.execute(query)]


# ------------------------------------------------------------------------------------------------- rows into records


def job_record(row: Iterable[Any]) -> JobRecord:
    draft = JobDraft(*row)
    decode(draft)
    draft.__class__ = JobRecord
    return draft


def job_row(values: Iterable[Any]) -> JobRow:
    row = JobRow(**dict(zip(ROW_NAMES, values, strict=True)))
    decode(row)
    row.engine = json.loads(row.engine)  # type: ignore[arg-type]
    return row


def decode(job: Any) -> None:
    """Text of the columns that are more than text."""
    job.state = STATE[job.state]
    job.nodes = words(job.nodes)
    job.after = words(job.after)
    job.labels = {} if job.labels == "{}" else json.loads(job.labels)


def words(text: str) -> tuple[str, ...]:
    return () if text == "[]" else tuple(json.loads(text))


def attempt_row(values: Any) -> AttemptRow:
    shares = tuple(share_of(*each) for each in json.loads(values["shares"]))
    return AttemptRow(**{**values, "shares": shares})


def share_of(node: str, gpus: float, cpus: float, memory_gib: float, devices: Sequence[int] = ()) -> NodeShare:
    return NodeShare(node=node, gpus=gpus, cpus=cpus, memory_gib=memory_gib, devices=tuple(devices))


def attempt_record(row: AttemptRow) -> AttemptRecord:
    return AttemptRecord(
        job=row.job, attempt=row.attempt, state=row.state, nodes=tuple(s.node for s in row.shares), gpus=tuple(s.gpus for s in row.shares),
        claimed_s=row.claimed_s, start_s=row.start_s, end_s=row.end_s, exit_code=row.exit_code, reason=row.reason, step=row.step,
        saved_step=row.saved_step, lost_steps=row.lost_steps,
    )  # fmt: skip
