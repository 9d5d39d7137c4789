"""Runs statements of SQL as they are, several in one text."""

from collections.abc import Iterable

from alembic import op


def run(texts: Iterable[str]) -> None:
    """Run them in order on the connection of the migration."""
    for text in texts:
        # Without parameters, so that per cent signs are what they are.
        op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})
