"""The database behind the store: SQLite or PostgreSQL by URL, one connection that writes and a pool of those that read.

SQLite runs in WAL mode: readers see the last commit and never wait for the writer. Writers begin with BEGIN IMMEDIATE, so that a
transaction either has the database or fails before it has done anything. `synchronous` decides what a loss of power may take: see
`Store.open`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, TimeoutError

from trainmaster.errors import InputError
from trainmaster.live.store.errors import StoreUnavailable

BUSY_S = 3.0  # how long a statement waits for another's lock before the store counts as unavailable
READERS = 8
NETWORK = {"tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}  # ms, s, s

# SQLite's primary result codes for what the world can do; any other error is a mistake in a statement of ours.
SQLITE_OUTSIDE = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_INTERRUPT,
}  # fmt: skip
# PostgreSQL's SQLSTATE classes, likewise: connection, read-only or timed out transaction, serialization, resources, lock not
# available, intervention by an operator, system error.
POSTGRES_OUTSIDE = ("08", "25006", "25P03", "40", "53", "55P03", "57", "58")


class Database:
    """Engines for one URL. `where` names it without a password."""

    def __init__(self, url: str, synchronous: str) -> None:
        self.url = parse_url(url)
        self.where = self.url.render_as_string(hide_password=True)
        self.writer, self.reader = sqlite_engines(self.url, synchronous) if self.is_sqlite else postgres_engines(self.url)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def outside(self) -> Iterator[None]:
        """What the world does to the database inside this block is raised as StoreUnavailable."""
        try:
            yield
        except TimeoutError as error:
            raise StoreUnavailable(f"{self.where}: all {READERS} connections are busy; try again") from error
        except DBAPIError as error:
            if not is_outside(error):
                raise
            raise StoreUnavailable(f"{self.where}: {first_line(error)}; nothing was written, try again") from error

    def close(self) -> None:
        self.writer.dispose()
        self.reader.dispose()


def parse_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise InputError(f"--store {text}: not a database URL; write sqlite:////path/to/file or postgresql://user@host/name") from error
    backend = url.get_backend_name()
    if backend == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise InputError(f"--store {text}: a store in memory survives nothing; name a file: sqlite:////path/to/file")
        return url
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    raise InputError(f"--store {text}: {backend} is not supported; use sqlite:////path/to/file or postgresql://user@host/name")


def is_outside(error: DBAPIError) -> bool:
    """Whether the world did this, not a statement of ours."""
    if error.connection_invalidated:
        return True
    cause: Any = error.orig
    if isinstance(cause, sqlite3.Error):
        code: int | None = getattr(cause, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in SQLITE_OUTSIDE
    state: str | None = getattr(cause, "sqlstate", None)
    if state is None:  # psycopg: no answer from a server at all
        return type(cause).__name__ in ("OperationalError", "ConnectionTimeout", "InterfaceError")
    return state.startswith(POSTGRES_OUTSIDE)


def first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]


def sqlite_engines(url: URL, synchronous: str) -> tuple[Engine, Engine]:
    def engine(begin: str, size: int, **pragmas: Any) -> Engine:
        made = create_engine(url, pool_size=size, max_overflow=0, connect_args={"timeout": BUSY_S, "check_same_thread": False})

        @event.listens_for(made, "connect")
        def configure(connection: sqlite3.Connection, record: object) -> None:
            connection.isolation_level = None  # the driver would begin transactions by itself, and late
            for name, value in pragmas.items():
                connection.execute(f"PRAGMA {name} = {value}")

        @event.listens_for(made, "begin")
        def start(connection: Any) -> None:
            connection.exec_driver_sql(begin)

        return made

    return (
        engine("BEGIN IMMEDIATE", 1, journal_mode="WAL", synchronous=synchronous, foreign_keys="ON"),
        engine("BEGIN", READERS, query_only="ON"),
    )


def postgres_engines(url: URL) -> tuple[Engine, Engine]:
    """A session that hangs in a transaction is ended by the server, so that a stopped controller cannot block its successor."""

    def engine(size: int, **settings: Any) -> Engine:
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        return create_engine(
            url, pool_size=size, max_overflow=0, pool_pre_ping=True,
            connect_args={"connect_timeout": 3, "options": options, **NETWORK},
        )  # fmt: skip

    shared = {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "10s"}
    return (
        engine(1, lock_timeout=f"{BUSY_S:g}s", synchronous_commit="on", **shared),
        engine(READERS, default_transaction_read_only="on", default_transaction_isolation="repeatable\\ read", **shared),
    )
