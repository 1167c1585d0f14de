"""The disk is full, the database is locked, stopped or killed, the controller dies at any instant: nothing is half-written or lost."""

from __future__ import annotations

import random
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live.postgres import Postgres
from live.store.conftest import Clock
from live.store.rows import add_job, attempt, new_job, write_all_parts
from trainmaster.live.control import JobFilter
from trainmaster.live.store import CommitUnknown, NewEvent, Store, StoreUnavailable
from trainmaster.live.store import database as database_module

ALL = JobFilter(all=True)


def ids(store: Store) -> list[int]:
    return [job.id for job in store.jobs(ALL)]


def assert_whole(store: Store, job: int) -> None:
    assert len(store.attempts(job)) == len(store.events(job=job)) == 1
    assert store.ids_of_key("ada", f"key-{job}") == [job]
    assert store.spec(job)


def test_a_transaction_that_raises_leaves_nothing(store: Store):
    with pytest.raises(KeyError), store.begin() as tx:
        (id,) = tx.add_jobs([new_job(tx)])
        tx.add_attempts([attempt(id)])
        tx.add_events([NewEvent(at_s=1.0, kind="submitted", job=id)])
        raise KeyError
    assert ids(store) == [] and store.events() == [] and store.attempts(1) == []
    assert_whole(store, write_all_parts(store))


def test_after_a_failed_statement_the_transaction_cannot_be_committed(store: Store):
    add_job(store)
    with pytest.raises(Exception, match=r"UNIQUE|unique"), store.begin() as tx:
        tx.add_attempts([attempt(1)])
        with pytest.raises(Exception, match=r"UNIQUE|unique"):
            tx.add_attempts([attempt(1)])  # a bug of the caller, who goes on as if nothing was
        with pytest.raises(Exception, match=r"UNIQUE|unique"):
            tx.add_events([NewEvent(at_s=1.0, kind="x")])
    assert store.attempts(1) == [] and store.events() == []


# ------------------------------------------------------------------------------------------------- SQLite


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@contextmanager
def full_disk(at_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("room", [0, 1, 5_000, 20_000, 100_000])
def test_a_full_disk_makes_the_store_unavailable_and_the_transaction_whole(sqlite_url: str, tmp_path: Path, clock: Clock, room: int):
    store = Store.open(sqlite_url, owner="me", now=clock)
    kept = [write_all_parts(store)]
    with full_disk((tmp_path / "store.db-wal").stat().st_size + room):
        with pytest.raises(StoreUnavailable, match=r"store\.db: (disk I/O error|database or disk is full)"):
            for _ in range(200):
                kept.append(write_all_parts(store))
        with pytest.raises(StoreUnavailable):
            for _ in range(200):
                kept.append(write_all_parts(store))
        assert ids(store) == kept  # reading goes on

    kept.append(write_all_parts(store))
    assert ids(store) == kept
    for id in kept:
        assert_whole(store, id)
    store.close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_lock_of_another_program_makes_the_store_unavailable_until_it_is_gone(
    sqlite_url: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database_module, "BUSY_S", 0.1)
    store = Store.open(sqlite_url, owner="me", now=clock)
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="locked"):
        add_job(store)
    assert ids(store) == []
    other.execute("ROLLBACK")
    other.close()
    written = add_job(store)
    assert ids(store) == [written]
    store.close()


def test_a_folder_that_is_not_there_and_a_file_that_is_no_database_are_said(tmp_path: Path, clock: Clock):
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        Store.open(f"sqlite:///{tmp_path}/missing/store.db", owner="me", now=clock)
    (tmp_path / "text").write_text("this is no database " * 1_000)
    with pytest.raises(StoreUnavailable, match="not a database"):
        Store.open(f"sqlite:///{tmp_path}/text", owner="me", now=clock)


def test_a_commit_waits_for_the_disk_only_if_told_to(sqlite_url: str, clock: Clock):
    for chosen, number in (({}, 1), ({"synchronous": "NORMAL"}, 1), ({"synchronous": "FULL"}, 2)):
        store = Store.open(sqlite_url, owner="me", now=clock, **chosen)
        with store._database.writer.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == number
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        store.close()


# ------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["shutdown", "crash"])
def test_a_server_that_goes_away_makes_the_store_unavailable_until_it_is_back(postgres: Postgres, clock: Clock, how: int):
    store = Store.open(postgres.database(), owner="me", now=clock)
    kept = [write_all_parts(store)]
    assert ids(store) == kept
    try:
        with pytest.raises(StoreUnavailable), store.begin() as tx:
            tx.add_jobs([new_job(tx)])
            postgres.stop(how)
            tx.add_events([NewEvent(at_s=1.0, kind="x")])
        for read_or_write in (lambda: ids(store), lambda: add_job(store), store.renew):
            with pytest.raises(StoreUnavailable, match="trainmaster@/test"):
                read_or_write()
    finally:
        postgres.start()
    assert ids(store) == kept
    kept.append(write_all_parts(store))
    assert ids(store) == kept
    store.close()


class Relay:
    """Between the store and the server's socket. Told to, it cuts the connection at the next COMMIT: before or after the server has it."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.server, self.cut = server, ""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / ".s.PGSQL.5432"))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.server))
            silent = threading.Event()  # what the server says is no longer passed on
            answered = threading.Event()
            threading.Thread(target=self._to_server, args=(client, server, silent, answered), daemon=True).start()
            threading.Thread(target=self._to_client, args=(client, server, silent, answered), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket, silent: threading.Event, answered: threading.Event) -> None:
        while data := client.recv(1 << 16):
            if self.cut and b"COMMIT" in data:
                silent.set()
                if self.cut == "after":
                    server.sendall(data)
                    answered.wait()
                self.cut = ""
                break
            server.sendall(data)
        for end in (client, server):
            end.shutdown(socket.SHUT_RDWR)

    def _to_client(self, client: socket.socket, server: socket.socket, silent: threading.Event, answered: threading.Event) -> None:
        try:
            while data := server.recv(1 << 16):
                if silent.is_set():
                    answered.set()
                else:
                    client.sendall(data)
        except OSError:
            pass


@pytest.mark.parametrize("cut, committed", [("before", False), ("after", True)])
def test_a_connection_that_breaks_at_commit_leaves_a_question_that_the_store_can_answer(
    postgres: Postgres, clock: Clock, cut: str, committed: bool
):
    with tempfile.TemporaryDirectory(prefix="tm-relay-") as folder:
        url = postgres.database().replace(f"host={postgres.folder}", f"host={folder}")
        relay = Relay(Path(folder), postgres.folder / ".s.PGSQL.5432")
        store = Store.open(url, owner="me", now=clock)
        first = write_all_parts(store)
        relay.cut = cut
        with pytest.raises(CommitUnknown, match="broke at COMMIT") as caught:
            write_all_parts(store)
        later = write_all_parts(store)  # whatever is written in between

        assert store.committed(caught.value) is committed
        assert (first + 1 in ids(store)) is committed
        assert later == first + 2
        store.close()
        relay.listener.close()


# ------------------------------------------------------------------------------------------------- the controller dies

WRITER = """
import sys
from live.store.rows import write_all_parts
from trainmaster.live.store import Store

store = Store.open(sys.argv[1], owner=sys.argv[2], now=lambda: float(sys.argv[3]))
while True:
    print(write_all_parts(store), flush=True)
"""


def test_a_controller_killed_at_any_instant_loses_nothing_that_it_had_committed(url: str, clock: Clock):
    chance, told = random.Random(4), []
    tests = str(Path(__file__).parents[2])
    for life in range(3):
        argv = [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{WRITER}", url, f"life-{life}", str(1e6 + 100 * life)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            told.append(int(writer.stdout.readline()))
            time.sleep(chance.uniform(0.0, 0.15))
            writer.kill()
            told += [int(line) for line in writer.stdout.read().splitlines() if line]

    clock.now_s += 1e6
    store = Store.open(url, owner="last", now=clock)
    found = ids(store)
    assert sorted(told) == told and len(set(told)) == len(told)
    assert set(told) <= set(found) and len(found) <= len(told) + 3  # committed, but killed before it could say so
    for id in found:
        assert_whole(store, id)
    assert add_job(store) > max(found)
    store.close()


# ------------------------------------------------------------------------------------------------- a model

steps = st.lists(st.tuples(st.sampled_from(["commit", "raise", "reopen"]), st.integers(1, 4)), max_size=12)


@settings(max_examples=15)
@given(steps)
def test_what_is_in_the_store_is_what_was_committed(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]):
    url = f"sqlite:///{tmp_path_factory.mktemp('model')}/store.db"
    store, kept, given_out = Store.open(url, owner="me", now=lambda: 0.0), [], [0]
    for end, count in steps:
        if end == "reopen":
            store.close()
            store = Store.open(url, owner="me", now=lambda: 0.0)
            given_out = [max(kept, default=0)]  # of ids that nobody was told, a new controller may give the last again
            continue
        try:
            with store.begin() as tx:
                new = tx.add_jobs([new_job(tx)] * count)
                assert new == list(range(given_out[-1] + 1, given_out[-1] + 1 + count))
                given_out += new
                if end == "raise":
                    raise InterruptedError
            kept += new
        except InterruptedError:
            pass
        assert ids(store) == kept
    store.close()
