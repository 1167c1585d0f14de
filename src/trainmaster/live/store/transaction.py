"""One write transaction: everything that changes the store, in statements made once and rows sent in bulk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from itertools import compress, groupby
from operator import attrgetter
from typing import Any, cast

from sqlalchemy import Connection, Executable, Table, and_, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import StatementError

from trainmaster.errors import InvariantBroken, TrainmasterError
from trainmaster.live.store import reads, tables
from trainmaster.live.store.rows import AttemptRow, NewEvent, NewJob

NUMBERED = (tables.jobs, tables.specs, tables.events, tables.tokens)
MAX_ENVIRONMENTS = 10_000
JOB_COLUMNS = tuple(f.name for f in fields(NewJob))
EVENT_COLUMNS = tuple(f.name for f in fields(NewEvent))
ATTEMPT_COLUMNS = tuple(f.name for f in fields(AttemptRow) if f.name != "shares")

job_values, event_values, attempt_values = attrgetter(*JOB_COLUMNS), attrgetter(*EVENT_COLUMNS), attrgetter(*ATTEMPT_COLUMNS)


class Known:
    """What the writer need not ask the database: the last ids given (rows are never deleted, and the epoch keeps every other writer
    away; an id of a transaction that was rolled back is not given again), and environments that are stored already."""

    def __init__(self, connection: Connection) -> None:
        self.last = {table: connection.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one() for table in NUMBERED}
        self.environments: set[str] = set()

    def take(self, table: Table, count: int) -> range:
        last: int = self.last[table]
        self.last[table] = last + count
        return range(last + 1, last + count + 1)

    def committed(self, environments: Iterable[str]) -> None:
        if len(self.environments) > MAX_ENVIRONMENTS:
            self.environments.clear()
        self.environments.update(environments)


class Transaction:
    """Made by `Store.begin`. After a statement has failed, every other is refused: the database may have rolled back already."""

    def __init__(self, connection: Connection, number: int, known: Known, now_s: float) -> None:
        self.number = number
        self.environments: dict[str, str] = {}  # digest -> JSON of those added here
        self._connection, self._known, self._now_s = connection, known, now_s
        self._failed: BaseException | None = None

    # ---------------------------------------------------------------------------------------------------------- jobs

    @property
    def next_job(self) -> int:
        """The id that the next added job will get."""
        return self._known.last[tables.jobs] + 1

    def add_specs(self, specs: Iterable[str]) -> list[int]:
        """JSON objects, as `JobSpec.model_dump_json` writes them -> spec ids. Equal environments are stored once."""
        rows, missing = [], []
        for text in specs:
            spec = json.loads(text)
            env = spec.pop("env", None)
            digest = None
            if env is not None:
                body = compact(env)
                digest = hashlib.sha256(body.encode()).hexdigest()
                if digest not in self._known.environments and digest not in self.environments:
                    self.environments[digest] = body
                    missing.append({"digest": digest, "body": body})
            rows.append({"body": compact(spec), "env": digest})
        self._insert_missing(tables.environments, missing)
        ids = self._known.take(tables.specs, len(rows))
        self._insert(tables.specs, [{"id": id, **row} for id, row in zip(ids, rows, strict=True)])
        return list(ids)

    def add_jobs(self, rows: Sequence[NewJob]) -> list[int]:
        """Their ids: contiguous, in the order of rows."""
        ids = self._known.take(tables.jobs, len(rows))
        values = [job_values(row) for row in rows]
        told = [any(row[i] is not None for row in values) for i in range(len(JOB_COLUMNS))]  # NULL need not be said: half the columns
        names = [name for name, is_told in zip(JOB_COLUMNS, told, strict=True) if is_told]
        said = ({"id": id, **dict(zip(names, compress(row, told), strict=True))} for id, row in zip(ids, values, strict=True))
        self._insert(tables.jobs, list(said))
        return list(ids)

    def update_jobs(self, changes: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """(id, columns that change). A later change of a job goes over an earlier one."""
        self._update(tables.jobs, ("id",), [((job,), values) for job, values in changes])

    def add_attempts(self, rows: Sequence[AttemptRow]) -> None:
        self._insert(
            tables.attempts,
            [{**dict(zip(ATTEMPT_COLUMNS, attempt_values(row), strict=True)), "shares": share_values(row.shares)} for row in rows],
        )

    def update_attempts(self, changes: Sequence[tuple[int, int, Mapping[str, Any]]]) -> None:
        """(job, attempt, columns that change)."""
        self._update(
            tables.attempts,
            ("job", "attempt"),
            [
                ((job, attempt), {**values, "shares": share_values(values["shares"])} if "shares" in values else values)
                for job, attempt, values in changes
            ],
        )

    def add_events(self, rows: Sequence[NewEvent]) -> list[int]:
        """Append to the events table; their ids."""
        ids = self._known.take(tables.events, len(rows))
        self._insert(
            tables.events,
            [{"id": id, **dict(zip(EVENT_COLUMNS, event_values(row), strict=True))} for id, row in zip(ids, rows, strict=True)],
        )
        return list(ids)

    # ---------------------------------------------------------------------------------------------------------- decisions

    def put_decision(
        self, id: int, at_s: float, policy: str, took_ms: float, record: bytes | None, memory: bytes, memory_version: int, keep: int = 1_000
    ) -> None:
        """A decision with the policy memory it left. Of decisions the last `keep` are kept, of memory the newest alone."""
        self._insert(tables.decisions, [{"id": id, "at_s": at_s, "policy": policy, "took_ms": took_ms, "record": record}])
        self._execute(FORGET_DECISIONS, {"oldest": id - keep})
        row = {"id": 1, "decision": id, "policy": policy, "version": memory_version, "body": memory}
        self._upsert(tables.policy_memory, ("id",), row)

    # ---------------------------------------------------------------------------------------------------------- the rest

    def remember_key(self, actor: str, key: str, ids: Sequence[int]) -> list[int]:
        """This request of this actor makes these jobs; if it has been seen before, those that it made then, and nothing is written."""
        row = {"actor": actor, "key": key, "at_s": self._now_s, "runs": as_runs(ids)}
        if self._execute(NEW_KEY[self._connection.dialect.name], row).rowcount == 1:  # -1: it is not told
            return list(ids)
        known = reads.ids_of_key(self._connection, actor, key)
        assert known is not None
        return known

    def set_node(self, name: str, drained: bool, reason: str, actor: str | None) -> None:
        row = {"name": name, "drained": drained, "reason": reason, "actor": actor, "at_s": self._now_s}
        self._upsert(tables.nodes, ("name",), row)

    def put_meta(self, key: str, value: Any) -> None:
        """A JSON value under a key of the controller's own."""
        self._upsert(tables.meta, ("key",), {"key": key, "value": value})

    def add_token(self, hash: str, user: str, role: str, name: str, expires_s: float | None) -> int:
        (id,) = self._known.take(tables.tokens, 1)
        self._insert(
            tables.tokens,
            [{"id": id, "hash": hash, "user": user, "role": role, "name": name, "created_s": self._now_s, "expires_s": expires_s}],
        )
        return id

    def revoke(self, token: int) -> bool:
        """Whether there was such a token that still held."""
        return bool(self._execute(REVOKE, {"token": token, "at": self._now_s}).rowcount)

    # ---------------------------------------------------------------------------------------------------------- statements

    def check(self) -> None:
        """Before COMMIT: raise what a statement has raised, even if its caller went on."""
        if self._failed is not None:
            raise self._failed

    def _execute(self, statement: Executable, values: Any) -> CursorResult[Any]:
        if self._failed is not None:
            raise self._failed
        try:
            return self._connection.execute(statement, values)
        except StatementError as error:
            self._failed = error.orig if isinstance(error.orig, TrainmasterError) else error  # a column refused the value
            raise self._failed from None

    def _insert(self, table: Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._execute(INSERTS[table], rows)

    def _insert_missing(self, table: Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._execute(dialect_insert(self._connection.dialect.name, table).on_conflict_do_nothing(), rows)

    def _upsert(self, table: Table, keys: tuple[str, ...], row: dict[str, Any]) -> None:
        self._execute(upsert(self._connection.dialect.name, table, keys, tuple(row)), row)

    def _update(self, table: Table, keys: tuple[str, ...], changes: Iterable[tuple[tuple[int, ...], Mapping[str, Any]]]) -> None:
        merged: dict[tuple[int, ...], dict[str, Any]] = {}
        for key, values in changes:
            merged.setdefault(key, {}).update(values)
        by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for key, values in merged.items():
            row = {f"new_{name}": value for name, value in values.items()}
            row |= {f"key_{name}": part for name, part in zip(keys, key, strict=True)}
            by_columns.setdefault(tuple(sorted(values)), []).append(row)
        for columns, rows in by_columns.items():
            if not columns:
                continue
            found = self._execute(update_of(table, keys, columns), rows).rowcount
            if found != len(rows):
                raise InvariantBroken(f"{table.name}: {len(rows)} rows to change {', '.join(columns)} of, {found} found")


# Making a statement takes longer than running it. There are as many as there are sets of columns that change together: some dozens.


@cache
def update_of(table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> Executable:
    statement = update(table).where(and_(*(table.c[name] == bindparam(f"key_{name}") for name in keys)))
    return statement.values({name: bindparam(f"new_{name}") for name in columns})


@cache
def upsert(dialect: str, table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> Executable:
    made = dialect_insert(dialect, table)
    others = {name: made.excluded[name] for name in columns if name not in keys}
    return cast("Executable", made.on_conflict_do_update(index_elements=keys, set_=others))


def dialect_insert(dialect: str, table: Table) -> Any:
    return (sqlite if dialect == "sqlite" else postgresql).insert(table)


COUNTED = {"preserve_rowcount": True}  # else of an INSERT SQLAlchemy says -1 on PostgreSQL
NEW_KEY = {  # by dialect
    "sqlite": sqlite.insert(tables.request_keys).on_conflict_do_nothing().execution_options(**COUNTED),
    "postgresql": postgresql.insert(tables.request_keys).on_conflict_do_nothing().execution_options(**COUNTED),
}
INSERTS = {table: insert(table) for table in tables.metadata.sorted_tables}
FORGET_DECISIONS = delete(tables.decisions).where(tables.decisions.c.id <= bindparam("oldest"))
REVOKE = (
    update(tables.tokens)
    .where(tables.tokens.c.id == bindparam("token"), tables.tokens.c.revoked_s.is_(None))
    .values(revoked_s=bindparam("at"))
)


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def share_values(shares: Iterable[Any]) -> list[list[Any]]:
    return [[s.node, s.gpus, s.cpus, s.memory_gib, s.devices] for s in shares]


def as_runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """[7, 8, 9, 4] -> [(7, 3), (4, 1)]: an array of 100,000 jobs is one run."""
    runs = []
    for _, group in groupby(enumerate(ids), lambda pair: pair[1] - pair[0]):
        members = [id for _, id in group]
        runs.append((members[0], len(members)))
    return runs
