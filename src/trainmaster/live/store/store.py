"""The store: one controller writes, under a lease; anybody reads.

    store = Store.open("sqlite:////home/me/.trainmaster/store.db", owner="host:4711", now=clock)
    with store.begin() as tx:                 # one transaction: all of it, or nothing
        (spec,) = tx.add_specs([json])
        ids = tx.add_jobs([NewJob(spec=spec, ...)])
    store.jobs(JobFilter(users=("ada",)))     # from any thread; never waits for the writer
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import Connection, RootTransaction, inspect
from sqlalchemy.exc import DBAPIError

from trainmaster.errors import InvariantBroken
from trainmaster.live.control import AskedFor, AttemptRecord, EventRecord, JobFilter, JobRecord
from trainmaster.live.states import State
from trainmaster.live.store import lease, migrate, reads, tables
from trainmaster.live.store.database import Database, first_line
from trainmaster.live.store.errors import CommitUnknown, StoreUnavailable
from trainmaster.live.store.lease import Lease
from trainmaster.live.store.rows import ActiveJobs, Copy, DecisionRow, NodeMark, PolicyMemory, TokenRow, Usage
from trainmaster.live.store.transaction import Known, Transaction


class Store:
    def __init__(self, database: Database, held: Lease, known: Known, now: Callable[[], float]) -> None:
        self._database, self._lease, self._known, self._now = database, held, known, now
        self._writing = threading.Lock()
        self._writing_thread: int | None = None
        self._unknown: CommitUnknown | None = None

    @classmethod
    def open(
        cls, url: str, *, owner: str, lease_s: float = 15.0, now: Callable[[], float], synchronous: Literal["FULL", "NORMAL"] = "NORMAL"
    ) -> Store:
        """Create or migrate it, and take the controller's lease, in one transaction. Conflict = another controller holds it.

        A killed process loses nothing, ever. `synchronous` is SQLite's: with NORMAL a loss of power may take the last transactions,
        whole ones from the end; it takes the jobs of this machine too. FULL waits for the disk at each commit: measured on a busy disk,
        105 to 380 submissions a second one by one against 430 to 880. PostgreSQL always waits.
        """
        database = Database(url, synchronous)
        try:
            with database.outside(), database.writer.begin() as connection:
                if not database.is_sqlite:
                    migrate.lock_postgres(connection)
                if inspect(connection).has_table(tables.lease.name):
                    lease.refuse_if_held(connection, database.where, now())
                migrate.upgrade(connection, database.where)
                held = lease.take(connection, owner, lease_s, now())
                known = Known(connection)
        except BaseException:
            database.close()
            raise
        lease.HELD.add(held.token)
        return cls(database, held, known, now)

    @property
    def where(self) -> str:
        """Its URL, without a password."""
        return self._database.where

    @property
    def epoch(self) -> int:
        """The fencing number of this controller."""
        return self._lease.epoch

    # ---------------------------------------------------------------------------------------------------------- writing

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        """One write transaction: committed at the end of the block, rolled back if it raises. Any thread, one at a time.

        StoreUnavailable = nothing of it was written; CommitUnknown = ask `committed` before trying again; LeaseLost = stop.
        """
        with self._writer() as (connection, scope):
            now_s = self._now()
            number = self._lease.fence(connection, now_s)
            self._settle(number - 1)
            tx = Transaction(connection, number, self._known, now_s)
            yield tx
            tx.check()
            try:
                scope.commit()
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                self._unknown = CommitUnknown(f"{self.where}: the connection broke at COMMIT ({first_line(error)})", number)
                raise self._unknown from error
            self._known.committed(tx.environments)

    def committed(self, unknown: CommitUnknown) -> bool:
        """Whether that transaction was committed after all."""
        if unknown.committed is None:
            self.renew()
        assert unknown.committed is not None
        return unknown.committed

    def renew(self) -> None:
        """Hold the lease for another term; so does every transaction."""
        with self._writer() as (connection, scope):
            self._settle(self._lease.renew(connection, self._now()))
            scope.commit()

    def _settle(self, transactions: int) -> None:
        """A commit of unknown outcome is among the committed ones, or its number is still free."""
        if self._unknown is not None:
            self._unknown.committed = transactions >= self._unknown.number
            self._unknown = None

    @contextmanager
    def _writer(self) -> Iterator[tuple[Connection, RootTransaction]]:
        if self._writing_thread == threading.get_ident():
            raise InvariantBroken("a transaction was begun inside another of the same thread")
        with self._writing, self._database.outside():
            self._writing_thread = threading.get_ident()
            try:
                with self._database.writer.connect() as connection, connection.begin() as scope:
                    yield connection, scope
            finally:
                self._writing_thread = None

    def close(self) -> None:
        """Give the lease back, if the database can be reached, and drop all connections."""
        try:
            with self._writer() as (connection, scope):
                self._lease.leave(connection)
                scope.commit()
        except StoreUnavailable:
            pass  # it runs out by itself
        finally:
            lease.HELD.discard(self._lease.token)
            self._database.close()

    # ---------------------------------------------------------------------------------------------------------- reading

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._database.outside(), self._database.reader.connect() as connection:
            yield connection

    def active_jobs(self) -> ActiveJobs:
        """Every job that has not ended, with its spec and live attempts."""
        with self._reading() as connection:
            return reads.active_jobs(connection)

    def job(self, job: int) -> JobRecord:
        with self._reading() as connection:
            return reads.job(connection, job)

    def jobs(self, which: JobFilter) -> list[JobRecord]:
        """By id. `states` as given; else those that have not ended, or `all`."""
        with self._reading() as connection:
            return reads.some_jobs(connection, which)

    def succeeded_last(self, since_s: float, limit: int) -> list[JobRecord]:
        """The newest of the jobs that have succeeded since then, the last to end last."""
        with self._reading() as connection:
            return reads.succeeded_last(connection, since_s, limit)

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        with self._reading() as connection:
            return reads.counts(connection)

    def spec(self, job: int) -> str:
        """JSON of what was asked for."""
        with self._reading() as connection:
            return reads.spec(connection, job)

    def specs(self, jobs: Sequence[int]) -> dict[int, str]:
        """The same of many, by id; those that there are."""
        with self._reading() as connection:
            return reads.specs(connection, jobs)

    def asked(self, ids: Sequence[int]) -> list[AskedFor]:
        """What these jobs asked for, by id, without what is long."""
        with self._reading() as connection:
            return reads.asked(connection, ids)

    def copies(self) -> list[Copy]:
        """The copies of repositories that jobs run in, or did."""
        with self._reading() as connection:
            return reads.copies(connection)

    def attempts(self, job: int) -> list[AttemptRecord]:
        with self._reading() as connection:
            return reads.attempts_of(connection, job)

    def events(self, *, job: int | None = None, after: int = 0, limit: int = 1_000) -> list[EventRecord]:
        """In the order they were committed, those with ids above `after`."""
        with self._reading() as connection:
            return reads.some_events(connection, job, after, limit)

    def decision(self, id: int | None = None, *, at_s: float | None = None) -> DecisionRow | None:
        """That decision; or the last, or the last at or before a time."""
        with self._reading() as connection:
            return reads.decision(connection, id, at_s)

    def policy_memory(self) -> PolicyMemory | None:
        with self._reading() as connection:
            return reads.policy_memory(connection)

    def ids_of_key(self, actor: str, key: str) -> list[int] | None:
        """The jobs that this request made when it was first seen; None = never."""
        with self._reading() as connection:
            return reads.ids_of_key(connection, actor, key)

    def nodes(self) -> list[NodeMark]:
        with self._reading() as connection:
            return reads.node_marks(connection)

    def meta(self, key: str) -> Any:
        """None = nothing there."""
        with self._reading() as connection:
            return reads.meta(connection, key)

    def usage(self, since_s: float | None = None) -> list[Usage]:
        """By user, queue and account: jobs that are active or ended at or after `since_s`."""
        with self._reading() as connection:
            return reads.usage(connection, since_s)

    # ---------------------------------------------------------------------------------------------------------- tokens

    def add_token(self, hash: str, user: str, role: str, name: str, expires_s: float | None) -> int:
        with self.begin() as tx:
            return tx.add_token(hash, user, role, name, expires_s)

    def revoke(self, token: int) -> bool:
        """Whether there was such a token that still held."""
        with self.begin() as tx:
            return tx.revoke(token)

    def find_token(self, hash: str) -> TokenRow | None:
        """The token with this hash, if it is neither revoked nor expired."""
        with self._reading() as connection:
            return reads.find_token(connection, hash, self._now())

    def tokens(self) -> list[TokenRow]:
        with self._reading() as connection:
            return reads.all_tokens(connection)
