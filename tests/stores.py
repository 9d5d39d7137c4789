"""Timelines as tests open them: keys in the place a person without a keyring has them, and a connection that may do anything."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from monitor.config import TimelineConfig
from monitor.store.cipher import Connection, connect
from monitor.store.keys import Keys
from monitor.store.writing import engine_of


def keys() -> Keys:
    """Where the default settings look for keys, in this test's home."""
    return TimelineConfig().keys()


def raw(path: Path) -> Connection:
    """The database in `path`, created where it is missing, past all rules of the program."""
    return connect(path, keys().find_or_make(path), read_only=False, timeout_s=5.0)


def of_version(path: Path, version: str) -> None:
    """An empty timeline in `path`, where there is nothing yet, with the tables that an earlier program made."""
    engine = engine_of(path, keys().find_or_make(path), 5.0)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "monitor.store:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    engine.dispose()
