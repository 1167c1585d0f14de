"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
APPEND_ONLY = "events are append-only"


def upgrade() -> None:
    active, live = sa.text("state NOT IN ('CANCELLED', 'FAILED', 'SUCCEEDED', 'TIMEOUT')"), sa.text("end_s IS NULL")
    op.create_table(
        "decisions",
        sa.Column("id", WHOLE, autoincrement=False, nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("took_ms", sa.Double(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
    )
    op.create_index("ix_decisions_at_s", "decisions", ["at_s"])
    op.create_table(
        "environments",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_environments"),
    )
    op.create_table(
        "events",
        sa.Column("id", WHOLE, autoincrement=False, nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("job", WHOLE, nullable=True),
        sa.Column("attempt", WHOLE, nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_job", "events", ["job", "id"])
    op.create_table(
        "lease",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("token", sa.Text(), nullable=True),
        sa.Column("epoch", WHOLE, nullable=False),
        sa.Column("until_s", sa.Double(), nullable=False),
        sa.Column("transactions", WHOLE, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_lease"),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "nodes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("drained", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_nodes"),
    )
    op.create_table(
        "policy_memory",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("decision", WHOLE, nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("version", WHOLE, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_policy_memory"),
    )
    op.create_table(
        "request_keys",
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("runs", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("actor", "key", name="pk_request_keys"),
    )
    op.create_index("ix_request_keys_at_s", "request_keys", ["at_s"])
    op.create_table(
        "tokens",
        sa.Column("id", WHOLE, autoincrement=False, nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_s", sa.Double(), nullable=False),
        sa.Column("expires_s", sa.Double(), nullable=True),
        sa.Column("revoked_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )
    op.create_index("ix_tokens_hash", "tokens", ["hash"], unique=True)
    op.create_table(
        "specs",
        sa.Column("id", WHOLE, autoincrement=False, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("env", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_specs"),
        sa.ForeignKeyConstraint(["env"], ["environments.digest"], name="fk_specs_env"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", WHOLE, autoincrement=False, nullable=False),
        sa.Column("spec", WHOLE, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=True),
        sa.Column("account", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("priority", sa.Double(), nullable=False),
        sa.Column("gpus", sa.Double(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("suspended", sa.Boolean(), nullable=False),
        sa.Column("preemptible", sa.Boolean(), nullable=False),
        sa.Column("limit_s", sa.Double(), nullable=True),
        sa.Column("estimate_s", sa.Double(), nullable=True),
        sa.Column("begin_s", sa.Double(), nullable=True),
        sa.Column("deadline_s", sa.Double(), nullable=True),
        sa.Column("array_job", WHOLE, nullable=True),
        sa.Column("array_index", WHOLE, nullable=True),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("submit_s", sa.Double(), nullable=False),
        sa.Column("eligible_s", sa.Double(), nullable=False),
        sa.Column("start_s", sa.Double(), nullable=True),
        sa.Column("finish_s", sa.Double(), nullable=True),
        sa.Column("run_s", sa.Double(), nullable=False),
        sa.Column("gpu_s", sa.Double(), nullable=False),
        sa.Column("exit_code", WHOLE, nullable=True),
        sa.Column("attempts", WHOLE, nullable=False),
        sa.Column("preemptions", WHOLE, nullable=False),
        sa.Column("failures", WHOLE, nullable=False),
        sa.Column("tries", WHOLE, nullable=False),
        sa.Column("lost_steps", WHOLE, nullable=False),
        sa.Column("step", WHOLE, nullable=True),
        sa.Column("saved_step", WHOLE, nullable=True),
        sa.Column("gpu_type", sa.Text(), nullable=True),
        sa.Column("nodes", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.ForeignKeyConstraint(["spec"], ["specs.id"], name="fk_jobs_spec"),
    )
    op.create_index("ix_jobs_active", "jobs", ["id"], sqlite_where=active, postgresql_where=active)
    op.create_index("ix_jobs_finish_s", "jobs", ["finish_s"])
    op.create_index("ix_jobs_name", "jobs", ["name", "id"])
    op.create_index("ix_jobs_queue", "jobs", ["queue", "id"])
    op.create_index("ix_jobs_state", "jobs", ["state", "id"])
    op.create_index("ix_jobs_user", "jobs", ["user", "id"])
    op.create_table(
        "attempts",
        sa.Column("job", WHOLE, autoincrement=False, nullable=False),
        sa.Column("attempt", WHOLE, autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("shares", sa.Text(), nullable=False),
        sa.Column("claimed_s", sa.Double(), nullable=False),
        sa.Column("start_s", sa.Double(), nullable=True),
        sa.Column("asked_s", sa.Double(), nullable=True),
        sa.Column("end_s", sa.Double(), nullable=True),
        sa.Column("exit_code", WHOLE, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("step", WHOLE, nullable=True),
        sa.Column("saved_step", WHOLE, nullable=True),
        sa.Column("lost_steps", WHOLE, nullable=False),
        sa.PrimaryKeyConstraint("job", "attempt", name="pk_attempts"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name="fk_attempts_job"),
    )
    op.create_index("ix_attempts_live", "attempts", ["job"], sqlite_where=live, postgresql_where=live)
    op.execute("INSERT INTO lease (id, epoch, until_s, transactions) VALUES (1, 0, 0, 0)")
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END"
            )
    else:
        op.execute(
            f"CREATE FUNCTION events_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{APPEND_ONLY}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
            "FOR EACH STATEMENT EXECUTE FUNCTION events_append_only()"
        )
