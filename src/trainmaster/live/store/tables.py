"""The tables of the store, as they are now; `migrations/` leads there from any earlier version (a test compares the two).

    lease                    one row: who may write
    jobs, specs, environments, attempts
    events                   append-only: triggers refuse UPDATE and DELETE
    decisions, policy_memory what was decided, and the memory that goes with the last decision
    request_keys, nodes, tokens, meta
"""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, text

from trainmaster.live.states import ENDED
from trainmaster.live.store.types import Json, Real, Whole, Words

NAMING = {"pk": "pk_%(table_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"}
metadata = MetaData(naming_convention=NAMING)

NAME, SENTENCE = 400, 1_000  # characters
SMALL_JSON, LARGE_JSON = 64 << 10, 64 << 20  # bytes: a request of 8 MiB is three times as long in ASCII, where é is \u00e9

# A partial index is used only where the query repeats its condition word for word, so this text is written into both.
IS_ACTIVE = text(f"state NOT IN ({', '.join(sorted(repr(state.value) for state in ENDED))})")

lease = Table(
    "lease",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("owner", Words(NAME)),  # NULL = free
    Column("token", Words(NAME)),
    Column("epoch", Whole, nullable=False),  # fences: ascends with every holder
    Column("until_s", Real, nullable=False),
    Column("transactions", Whole, nullable=False),  # committed ones, ever
)

environments = Table(
    "environments",
    metadata,
    Column("digest", Words(64), primary_key=True),  # SHA-256 of body
    Column("body", Words(LARGE_JSON), nullable=False),
)

specs = Table(
    "specs",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=False),
    Column("body", Words(LARGE_JSON), nullable=False),  # without `env`
    Column("env", Words(64), ForeignKey("environments.digest")),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=False),
    Column("spec", Whole, ForeignKey("specs.id"), nullable=False),
    Column("name", Words(NAME), nullable=False),
    Column("user", Words(NAME), nullable=False),
    Column("queue", Words(NAME)),
    Column("account", Words(NAME)),
    Column("state", Words(20), nullable=False),
    Column("reason", Words(SENTENCE), nullable=False),
    Column("priority", Real, nullable=False),
    Column("gpus", Real, nullable=False),
    Column("held", Boolean, nullable=False),
    Column("suspended", Boolean, nullable=False),
    Column("preemptible", Boolean, nullable=False),
    Column("limit_s", Real),
    Column("estimate_s", Real),
    Column("begin_s", Real),
    Column("deadline_s", Real),
    Column("array_job", Whole),
    Column("array_index", Whole),
    Column("after", Json(LARGE_JSON), nullable=False),
    Column("submit_s", Real, nullable=False),
    Column("eligible_s", Real, nullable=False),
    Column("start_s", Real),
    Column("finish_s", Real),
    Column("run_s", Real, nullable=False),
    Column("gpu_s", Real, nullable=False),
    Column("exit_code", Whole),
    Column("attempts", Whole, nullable=False),
    Column("preemptions", Whole, nullable=False),
    Column("failures", Whole, nullable=False),
    Column("tries", Whole, nullable=False),
    Column("lost_steps", Whole, nullable=False),
    Column("step", Whole),
    Column("saved_step", Whole),
    Column("gpu_type", Words(NAME)),
    Column("nodes", Json(LARGE_JSON), nullable=False),
    Column("labels", Json(LARGE_JSON), nullable=False),
    Column("engine", Json(SMALL_JSON), nullable=False),
)
Index("ix_jobs_active", jobs.c.id, sqlite_where=IS_ACTIVE, postgresql_where=IS_ACTIVE)
Index("ix_jobs_state", jobs.c.state, jobs.c.id)
Index("ix_jobs_user", jobs.c.user, jobs.c.id)
Index("ix_jobs_name", jobs.c.name, jobs.c.id)
Index("ix_jobs_queue", jobs.c.queue, jobs.c.id)
Index("ix_jobs_finish_s", jobs.c.finish_s)

attempts = Table(
    "attempts",
    metadata,
    Column("job", Whole, ForeignKey("jobs.id"), primary_key=True, autoincrement=False),
    Column("attempt", Whole, primary_key=True, autoincrement=False),
    Column("state", Words(20), nullable=False),
    Column("shares", Json(LARGE_JSON), nullable=False),
    Column("claimed_s", Real, nullable=False),
    Column("start_s", Real),
    Column("asked_s", Real),
    Column("end_s", Real),
    Column("exit_code", Whole),
    Column("reason", Words(SENTENCE), nullable=False),
    Column("step", Whole),
    Column("saved_step", Whole),
    Column("lost_steps", Whole, nullable=False),
)
IS_LIVE = text("end_s IS NULL")
Index("ix_attempts_live", attempts.c.job, sqlite_where=IS_LIVE, postgresql_where=IS_LIVE)

events = Table(
    "events",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=False),
    Column("at_s", Real, nullable=False),
    Column("job", Whole),
    Column("attempt", Whole),
    Column("kind", Words(NAME), nullable=False),
    Column("state", Words(20)),
    Column("reason", Words(SENTENCE), nullable=False),
    Column("actor", Words(NAME)),
    Column("data", Json(LARGE_JSON), nullable=False),
)
Index("ix_events_job", events.c.job, events.c.id)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=False),
    Column("at_s", Real, nullable=False),
    Column("policy", Words(NAME), nullable=False),
    Column("took_ms", Real, nullable=False),
    Column("record", LargeBinary),  # memory.encode
)
Index("ix_decisions_at_s", decisions.c.at_s)

policy_memory = Table(
    "policy_memory",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("decision", Whole, nullable=False),
    Column("policy", Words(NAME), nullable=False),
    Column("version", Whole, nullable=False),
    Column("body", LargeBinary, nullable=False),  # memory.encode
)

request_keys = Table(
    "request_keys",
    metadata,
    Column("actor", Words(NAME), primary_key=True),
    Column("key", Words(NAME), primary_key=True),
    Column("at_s", Real, nullable=False),
    Column("runs", Json(LARGE_JSON), nullable=False),  # ids as [[first, count], ...]
)
Index("ix_request_keys_at_s", request_keys.c.at_s)

nodes = Table(
    "nodes",
    metadata,
    Column("name", Words(NAME), primary_key=True),
    Column("drained", Boolean, nullable=False),
    Column("reason", Words(SENTENCE), nullable=False),
    Column("actor", Words(NAME)),
    Column("at_s", Real, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=False),
    Column("hash", Words(NAME), nullable=False),
    Column("user", Words(NAME), nullable=False),
    Column("role", Words(NAME), nullable=False),
    Column("name", Words(NAME), nullable=False),
    Column("created_s", Real, nullable=False),
    Column("expires_s", Real),  # NULL = never
    Column("revoked_s", Real),
)
Index("ix_tokens_hash", tokens.c.hash, unique=True)

meta = Table("meta", metadata, Column("key", Words(NAME), primary_key=True), Column("value", Json(LARGE_JSON), nullable=False))
