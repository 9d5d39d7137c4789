"""Alembic's entry: runs the pending migrations on the connection it is handed, in the transaction open there."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
