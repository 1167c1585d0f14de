"""Run by Alembic: migrations go over the connection, and inside the transaction, that the store hands in."""

from alembic import context

from trainmaster.live.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, compare_type=True)
context.run_migrations()
