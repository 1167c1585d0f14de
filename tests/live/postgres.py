"""A real PostgreSQL for a test session: a cluster of its own in a temporary folder, reached by a Unix socket in it, by nobody else.

    def test_...(postgres):
        url = postgres.database()      # an empty one
        postgres.stop(); postgres.start()

The server refuses to run as root, so root hands it to the user `postgres`. It dies with the test process, even by SIGKILL.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import psycopg.sql
import pytest

START_S = 60.0


def programs() -> Path | None:
    """Where initdb and postgres are: Debian keeps them off PATH."""
    on_path = shutil.which("initdb")
    found = [Path(on_path)] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Postgres:
    def __init__(self, programs: Path, folder: Path, *, durable: bool = False) -> None:
        """`durable=False` leaves fsync out: these servers crash, their machine does not."""
        self.programs, self.folder, self.durable = programs, folder, durable
        self._server: subprocess.Popen[bytes] | None = None
        self._as_user: list[str] = ["setpriv"]
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as_user += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._run("initdb", "--username=trainmaster", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-D", self.data)

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def url(self, database: str) -> str:
        return f"postgresql://trainmaster@/{database}?host={self.folder}"

    def database(self, name: str = "test") -> str:
        """URL of a database that is empty, whatever a test left in it: emptying one is quicker than making one."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return self.url(name)

    def start(self) -> None:
        argv = [*self._as_user, "--pdeathsig=QUIT", str(self.programs / "postgres"), "-D", self.data, "-k", str(self.folder)]
        argv += ["-c", "listen_addresses=", "-c", f"fsync={'on' if self.durable else 'off'}", "-c", "max_connections=60"]
        with open(self.folder / "log", "ab") as log:
            self._server = subprocess.Popen(argv, cwd=self.folder, stdout=log, stderr=log)
        give_up = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()[-2000:]}") from None
                time.sleep(0.05)

    def stop(self, how: int = signal.SIGINT) -> None:
        """SIGINT: fast shutdown, clients are cut off; SIGQUIT: a crash."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(START_S)
            self._server = None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run([*self._as_user, str(self.programs / program), *arguments], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{program}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="tm-pg-"))  # short: a socket's path has at most 107 characters
    server = Postgres(found, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)
