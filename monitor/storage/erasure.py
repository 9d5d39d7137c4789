"""Erases a time range from one database file so that its bytes are gone: the timeline, a backup, or a file that was put aside.

All rows go in one transaction; then the file is written anew, so that no page keeps a copy of what was moved or deleted before, and the
write-ahead log beside it is emptied. Repeating it does no harm, so an interrupted erasure is simply repeated. A file with older tables is
treated alike, as far as it has them.

Numbers of segments are never given a second time, not even after the newest segments were erased: a worker about to answer, a person about
to label it, or a bundle that learned from it may still hold one. SQLite would give the highest number again; so the database's
`user_version`, which nothing else uses, holds the highest one ever erased.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path

from model.errors import TimelineError
from monitor.storage.cipher import Connection, Error, StoreKey, connect, name_of
from monitor.storage.outbox import drop_erased_keys
from monitor.storage.reader import range_parameters, timeline_error

NEXT_SEGMENT_ID = """
    SELECT max((SELECT coalesce(max(id), 0) FROM segment), (SELECT user_version FROM pragma_user_version)) + 1"""
"""The query for the number of the next segment; for whoever holds the write lock."""


def retire_segment_ids(connection: Connection, highest: int) -> None:
    """Give no number up to `highest` again, from the end of the transaction on."""
    known = int(connection.execute("PRAGMA user_version").fetchone()[0])
    connection.execute(f"PRAGMA user_version = {max(known, highest)}")


_BUSY_TIMEOUT_S = 30.0
_CHECKPOINT_TIMEOUT_S = 30.0
_RETRY_S = 0.2

_SPEECH = "start_at > :earliest AND start_at < :end AND end_at > :start"
_OF_SPEECH = f"segment_id IN (SELECT id FROM segment WHERE {_SPEECH})"
_WITHIN = "at >= :start AND at < :end"
_AROUND = "start_at < :end AND end_at > :start"
# What was asked and what was answered go together.
_ASKED = f"({_WITHIN} OR checkin_id IN (SELECT id FROM checkin WHERE {_WITHIN}))"

_COUNTS: Mapping[str, tuple[str, str]] = {
    "segments": ("segment", _SPEECH),
    "transcripts": ("segment", f"{_SPEECH} AND transcript IS NOT NULL"),
    "sounds": ("sound", _OF_SPEECH),
    "corrections": ("correction", _OF_SPEECH),
    "coverage": ("coverage", _AROUND),
    "checkins": ("checkin", _WITHIN),
    "prompts": ("prompt", _ASKED),
    "summaries": ("day_summary", _AROUND),
    "voice_hours": ("voice_hour", _AROUND),
}
# Of coverage that reaches beyond the stretch the rest stays.
_REST = "INSERT INTO coverage (stream, kind, start_at, end_at, zone, reason) SELECT stream, kind, {}, zone, reason FROM coverage WHERE {}"
_ERASE: tuple[tuple[str, str], ...] = (
    ("coverage", _REST.format("start_at, :start", "start_at < :start AND end_at > :start")),
    ("coverage", _REST.format(":end, end_at", "start_at < :end AND end_at > :end")),
    ("coverage", f"DELETE FROM coverage WHERE {_AROUND}"),
    ("sound", f"DELETE FROM sound WHERE {_OF_SPEECH}"),
    ("correction", f"DELETE FROM correction WHERE {_OF_SPEECH}"),
    ("segment", f"DELETE FROM segment WHERE {_SPEECH}"),
    ("prompt", f"DELETE FROM prompt WHERE {_ASKED}"),
    ("checkin", f"DELETE FROM checkin WHERE {_WITHIN}"),
    ("day_summary", f"DELETE FROM day_summary WHERE {_AROUND}"),
    # What a reference of the voice holds of an hour goes as a whole, and what is left of it is another reference.
    (
        "voice_reference",
        f"UPDATE voice_reference SET version = lower(hex(randomblob(4))) WHERE id IN (SELECT reference_id FROM voice_hour WHERE {_AROUND})",
    ),
    ("voice_hour", f"DELETE FROM voice_hour WHERE {_AROUND}"),
    ("voice_reference", "DELETE FROM voice_reference WHERE id NOT IN (SELECT reference_id FROM voice_hour)"),
)


@dataclass(frozen=True, slots=True)
class ErasureCounts:
    """What lies in a stretch of time: numbers of rows. transcripts: segments with words; sounds: of segments; summaries: of days.

    voice_hours: hours that a reference of the voice is made of; they go as a whole.
    """

    segments: int = 0
    transcripts: int = 0
    sounds: int = 0
    corrections: int = 0
    coverage: int = 0
    checkins: int = 0
    prompts: int = 0
    summaries: int = 0
    voice_hours: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) for one in fields(self))


@dataclass(frozen=True, slots=True)
class FileErasure:
    """What one file held of a stretch. numbers: of the segments."""

    found: ErasureCounts
    numbers: tuple[int, ...]


def find_in_range(path: Path, key: StoreKey, start: datetime, end: datetime) -> FileErasure:
    """What the file holds of [start, end), aware UTC. Segments count as soon as a part of them lies there. Raises TimelineError."""
    with _opened(path, key, read_only=True) as connection:
        return _find_in_range(connection, range_parameters(start, end))


def erase_range(path: Path, key: StoreKey, start: datetime, end: datetime) -> FileErasure:
    """Erase it, also while others read and write; returns what it was. Raises TimelineError when it cannot be brought to its end."""
    with _opened(path, key, read_only=False) as connection:
        connection.execute("BEGIN IMMEDIATE")
        values = range_parameters(start, end)
        erasure = _find_in_range(connection, values)
        tables = _tables(connection)
        noted = int(connection.execute("SELECT coalesce(max(seq), 0) FROM outbox").fetchone()[0]) if "outbox" in tables else 0
        for table, statement in _ERASE:
            if table in tables:
                connection.execute(statement, values)
        if "outbox" in tables:
            drop_erased_keys(connection, noted, values)
        if erasure.numbers:
            retire_segment_ids(connection, max(erasure.numbers))
        connection.execute("COMMIT")
        _rewrite_file(connection, path)
    return erasure


def _find_in_range(connection: Connection, values: Mapping[str, str]) -> FileErasure:
    tables = _tables(connection)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(segment)")}
    counts = {
        name: int(connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}", values).fetchone()[0])
        for name, (table, condition) in _COUNTS.items()
        if table in tables and (name != "transcripts" or "transcript" in columns)
    }
    numbers = connection.execute(f"SELECT id FROM segment WHERE {_SPEECH}", values).fetchall()
    return FileErasure(ErasureCounts(**counts), tuple(number for (number,) in numbers))


def _rewrite_file(connection: Connection, path: Path) -> None:
    """Write the file anew and empty its log, which has to wait for whoever still reads what was before."""
    connection.execute("VACUUM")
    deadline = time.monotonic() + _CHECKPOINT_TIMEOUT_S
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            raise TimelineError(
                f"everything is erased from {path} but its log, which another program is still reading; "
                "close that program, then `emosllm-monitor forget` finishes it"
            )
        time.sleep(_RETRY_S)


def _tables(connection: Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@contextmanager
def _opened(path: Path, key: StoreKey, *, read_only: bool) -> Iterator[Connection]:
    try:
        with closing(connect(path, key, read_only=read_only, timeout_s=_BUSY_TIMEOUT_S)) as connection:
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
    except Error as error:
        raise timeline_error(error, path) from error


def is_damaged(error: TimelineError) -> bool:
    """Whether a file is beyond reading, and not only out of reach for now."""
    return name_of(error.__cause__).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
