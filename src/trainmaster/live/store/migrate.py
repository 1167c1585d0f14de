"""Bring a database to the schema of this version: Alembic, run inside the transaction that opens the store."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from trainmaster.errors import InputError

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 0x7472_6D61  # "trma": any number that no other application locks


def config(connection: Connection) -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, where: str, revision: str = "head") -> None:
    try:
        command.upgrade(config(connection), revision)
    except CommandError as error:
        raise InputError(f"{where}: written by a newer Trainmaster than this ({error}); upgrade Trainmaster") from error


def lock_postgres(connection: Connection) -> None:
    """Two controllers that open a new database at once: one creates it, the other waits. (SQLite: BEGIN IMMEDIATE does that.)"""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
