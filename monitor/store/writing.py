"""How anything is written to a timeline: one connection, transactions that take the write lock at once, errors in the person's words."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool
from sqlmodel import Session

from monitor.store.cipher import DRIVER, Error, StoreKey, connect
from monitor.store.reader import explain


def engine_of(path: Path, key: StoreKey, busy_timeout_s: float) -> Engine:
    """Connections to the database in `path` whose transactions take the write lock at once and are on disk when they end."""
    # One pooled connection: writes take turns anyway, and it stays open from write to write.
    engine = create_engine(
        "sqlite://",
        module=DRIVER,
        creator=lambda: connect(path, key, read_only=False, timeout_s=busy_timeout_s),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        # What is stored may be words; an error names none of it.
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL: a few rows a minute can afford to reach the disk each, so that a power cut loses none.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Explicit, because the driver begins nothing before DDL, and a failed migration would stay half done. IMMEDIATE
        # takes the write lock at once, where waiting works; turning a read lock into one fails without waiting.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLAlchemy and SQLite raise into TimelineError."""
    try:
        yield
    except (Error, SQLAlchemyError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise explain(cause, path) from error


@contextmanager
def writing(path: Path, engine: Engine) -> Iterator[Session]:
    """One transaction: all of it is on disk when the block ends, or, where it raises, nothing. Raises TimelineError."""
    with explained(path), Session(engine) as session, session.begin():
        yield session
