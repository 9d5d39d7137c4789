"""Keeps summaries of days that are over beside the timeline, as text of which it knows nothing.

Speaks SQL through the driver, as the reader does. Triggers of the tables remove a summary when anything of its day changes, whoever
changes it; so one that is there is true. It is made in the transaction that stores it, in which nobody else can change the day.
"""

from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any

from monitor.storage.cipher import DRIVER, Connection, Error, StoreKey, connect, name_of
from monitor.storage.reader import TimelineReader, timeline_error, to_stored_moment

# A summary is worth a moment, not more: whoever waits for it can do without its being kept.
_BUSY_TIMEOUT_S = 0.25
_READ_TIMEOUT_S = 5.0
_CANNOT_KEEP = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_PERM")
_WITHIN = "FROM day_summary WHERE zone = ? AND format = ? AND on_date BETWEEN ? AND ?"
_FIND, _KEPT = f"SELECT on_date, summary {_WITHIN}", f"SELECT on_date {_WITHIN}"
_KEEP = "INSERT OR REPLACE INTO day_summary (on_date, zone, start_at, end_at, format, summary) VALUES (?, ?, ?, ?, ?, ?)"


class SummaryCache:
    """The summaries in one timeline, for one zone and format. Use it in the thread that opened it, and close it.

    key: of the timeline in `path`, whose tables are up to date; None where there is none: then there is nothing to find or to keep.
    """

    def __init__(self, path: Path, key: StoreKey | None, zone: str, form: int) -> None:
        self._path, self._key = path, key
        self._zone, self._form = zone, form
        self._writing: Connection | None = None

    def find(self, first: date, last: date) -> dict[date, str]:
        """What is kept of the days from first to last."""
        return {date.fromisoformat(on): summary for on, summary in self._rows(_FIND, first, last)}

    def kept(self, first: date, last: date) -> set[date]:
        """Of which days from first to last something is kept."""
        return {date.fromisoformat(on) for (on,) in self._rows(_KEPT, first, last)}

    def make(self, on: date, start: datetime, end: datetime, compute: Callable[[TimelineReader], str]) -> str | None:
        """Make the summary of a day from what is stored, and keep it. None where it cannot be kept now: locked, or not to be written to."""
        if self._key is None:
            return None
        try:
            writing = self._writing or self._connect(self._key)
            writing.execute("BEGIN IMMEDIATE")
            try:
                text = compute(TimelineReader(self._path, writing))
                writing.execute(_KEEP, (on.isoformat(), self._zone, to_stored_moment(start), to_stored_moment(end), self._form, text))
                writing.execute("COMMIT")
            except BaseException:
                writing.execute("ROLLBACK")
                raise
        except Error as error:
            if name_of(error).startswith(_CANNOT_KEEP):
                return None
            raise timeline_error(error, self._path) from error
        return text

    def close(self) -> None:
        """Let go of the file."""
        if self._writing is not None:
            self._writing.close()

    def _rows(self, query: str, first: date, last: date) -> list[Any]:
        if self._key is None:
            return []
        try:
            with closing(connect(self._path, self._key, read_only=True, timeout_s=_READ_TIMEOUT_S)) as connection:
                return connection.execute(query, (self._zone, self._form, first.isoformat(), last.isoformat())).fetchall()
        except Error as error:
            raise timeline_error(error, self._path) from error

    def _connect(self, key: StoreKey) -> Connection:
        self._writing = connect(self._path, key, read_only=False, timeout_s=_BUSY_TIMEOUT_S)
        self._writing.row_factory = DRIVER.Row
        self._writing.isolation_level = None
        # What is lost in a power cut is made again.
        self._writing.execute("PRAGMA synchronous = NORMAL")
        return self._writing
