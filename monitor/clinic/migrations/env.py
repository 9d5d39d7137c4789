"""Alembic's entry: runs the pending migrations on the connection it is handed, in the transaction open there."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table_schema="emosllm")
context.run_migrations()
