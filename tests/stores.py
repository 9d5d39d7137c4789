"""Timelines as tests open them: keys in the place a person without a keyring has them, and a connection that may do anything."""

from pathlib import Path

from monitor.config import TimelineConfig
from monitor.store.cipher import Connection, connect
from monitor.store.keys import Keys


def keys() -> Keys:
    """Where the default settings look for keys, in this test's home."""
    return TimelineConfig().keys()


def raw(path: Path) -> Connection:
    """The database in `path`, created where it is missing, past all rules of the program."""
    return connect(path, keys().find_or_make(path), read_only=False, timeout_s=5.0)
