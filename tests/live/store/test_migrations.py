"""The schema in tables.py is the one that the migrations lead to, and data survives the way there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from setuptools import find_packages

from live.store.conftest import Opener
from live.store.rows import SPEC, add_job, attempt
from trainmaster.errors import Conflict, InputError
from trainmaster.live.store import NewEvent, Store, migrate, tables

LATER = '''
"""A later version: jobs get a colour."""
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "{head}"


def upgrade():
    op.add_column("jobs", sa.Column("colour", sa.Text(), nullable=False, server_default="grey"))
'''


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


def test_tables_and_migrations_agree(store: Store, url: str):
    engine = engine_of(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_conditions_of_partial_indexes_agree(store: Store, url: str):
    """Alembic does not compare them."""
    engine = engine_of(url)
    found = {i["name"]: i["dialect_options"] for t in ("jobs", "attempts") for i in sa.inspect(engine).get_indexes(t)}
    engine.dispose()
    partial = {name: next(iter(options.values())) for name, options in found.items() if any("where" in key for key in options)}
    assert sorted(partial) == ["ix_attempts_live", "ix_jobs_active"]
    assert str(tables.IS_LIVE) in str(partial["ix_attempts_live"])
    for state in ("SUCCEEDED", "FAILED", "CANCELLED", "TIMEOUT"):
        assert state in str(partial["ix_jobs_active"]) and state in str(tables.IS_ACTIVE)


def later_version(folder: Path) -> Path:
    """The shipped migrations and one more."""
    shutil.copytree(migrate.MIGRATIONS, folder)
    (folder / "versions" / "later.py").write_text(LATER.format(head=ScriptDirectory(str(folder)).get_current_head()))
    return folder


def test_a_store_of_an_earlier_version_is_brought_up_to_date_with_its_data(
    opened: Opener, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = opened("first")
    add_job(first, name="kept", nodes=("cpu-a",))
    with first.begin() as tx:
        tx.add_attempts([attempt(1)])
        tx.add_events([NewEvent(at_s=1.0, kind="submitted", job=1)])
    before = (first.job(1), first.attempts(1), first.events())
    first.close()

    monkeypatch.setattr(migrate, "MIGRATIONS", later_version(tmp_path / "migrations"))
    second = opened("second")
    assert (second.job(1), second.attempts(1), second.events()) == before
    assert second.spec(1) == SPEC.replace(": ", ":").replace(", ", ",")
    engine = engine_of(url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT colour FROM jobs")).scalars().all() == ["grey"]
    engine.dispose()


def test_a_store_is_not_migrated_under_a_controller_that_holds_it(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = opened("first")
    monkeypatch.setattr(migrate, "MIGRATIONS", later_version(tmp_path / "migrations"))
    with pytest.raises(Conflict):
        opened("second")
    assert add_job(first) == 1


def test_a_store_written_by_a_newer_version_is_refused_and_left_alone(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as newer:
        newer.setattr(migrate, "MIGRATIONS", later_version(tmp_path / "migrations"))
        first = opened("first")
        add_job(first)
        first.close()
    with pytest.raises(InputError, match="newer Trainmaster"):
        opened("second")

    monkeypatch.setattr(migrate, "MIGRATIONS", tmp_path / "migrations")
    assert opened("third").job(1).id == 1


def test_the_migrations_are_shipped_with_the_package():
    packages = find_packages(str(Path(migrate.__file__).parents[3]))
    assert {"trainmaster.live.store.migrations", "trainmaster.live.store.migrations.versions"} <= set(packages)
