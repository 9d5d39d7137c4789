"""Streams everything that is the person's out of a timeline: row by row, in constant memory, as of one moment, while others write.

Rows are mappings from names to plain values; `monitor/exchange/tables.py` says what they mean, and a test holds both to the same names.
Sound is not among them, nor what can be computed again. What overlaps the range is told whole, but coverage is cut to it.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from model.types import Emotion
from monitor.store.cipher import DRIVER, Connection, Error, connect
from monitor.store.keys import Keys
from monitor.store.reader import bounds, current_key, explain, sensible

_BUSY_TIMEOUT_S = 5.0
_IN_RANGE = "start_at > :earliest AND start_at < :end AND end_at > :start"
_QUERIES: Mapping[str, str] = {
    "segments": f"""
        SELECT stream, start_sample, end_sample, start_at, end_at, zone, state, reason, emotion, confidence, unsure, posterior,
               bundle_version, judged_at, loudness_db, pitch_hz, transcript
        FROM segment WHERE {_IN_RANGE} ORDER BY start_at, id""",
    # CROSS: SQLite shall go through the segments in the order of their index, and sort nothing.
    "corrections": f"""
        SELECT stream, start_sample, said.emotion, confirmed, at, undone_at
        FROM segment CROSS JOIN correction AS said ON said.segment_id = segment.id
        WHERE {_IN_RANGE} ORDER BY start_at, segment.id, said.id""",
    "coverage": """
        SELECT stream, kind, max(start_at, :start) AS start_at, min(end_at, :end) AS end_at, zone, reason
        FROM coverage WHERE coverage.start_at < :end AND coverage.end_at > :start ORDER BY coverage.start_at, id""",
    # An answer to a question asked in the range belongs to it.
    "checkins": """
        SELECT at, zone, valence, emotion, note FROM checkin
        WHERE at >= :start AND at < :end OR id IN (SELECT checkin_id FROM prompt WHERE at >= :start AND at < :end)
        ORDER BY at, id""",
    "prompts": """
        SELECT prompt.at, prompt.zone, checkin.at AS answered_at FROM prompt LEFT JOIN checkin ON checkin.id = checkin_id
        WHERE prompt.at >= :start AND prompt.at < :end ORDER BY prompt.at, prompt.id""",
}
_MOMENTS = ("start_at", "end_at", "judged_at", "at", "undone_at", "answered_at")
_TRUTHS = ("unsure", "confirmed")


class Outflow:
    """What is stored, for one reading to the end. Use it in the thread that opened it, and close it."""

    def __init__(self, path: Path, connection: Connection | None) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, keys: Keys) -> Self:
        """The timeline in `path` as it is now; where there is none yet it is empty. Raises TimelineError and StoreKeyError."""
        key = current_key(path, keys)
        if key is None:
            return cls(path, None)
        try:
            connection = connect(path, key, read_only=True, timeout_s=_BUSY_TIMEOUT_S)
            connection.row_factory = DRIVER.Row
            connection.isolation_level = None
            # One view for all tables: from the first reading on.
            connection.execute("BEGIN")
        except Error as error:
            raise explain(error, path) from error
        return cls(path, connection)

    def rows(self, table: str, start: datetime, end: datetime) -> Iterator[dict[str, Any]]:
        """The rows of one of the tables, by time, as far as they overlap [start, end), both aware UTC. Raises TimelineError."""
        if self._connection is None:
            return
        try:
            with sensible(self._path):
                for row in self._connection.execute(_QUERIES[table], bounds(start, end)):
                    yield _values(dict(row))
        except Error as error:
            raise explain(error, self._path) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()


def _values(row: dict[str, Any]) -> dict[str, Any]:
    for name in _MOMENTS:
        if row.get(name) is not None:
            row[name] = datetime.fromisoformat(row[name]).replace(tzinfo=UTC)
    for name in _TRUTHS:
        if row.get(name) is not None:
            row[name] = bool(row[name])
    if row.get("posterior") is not None:
        given = json.loads(row["posterior"])
        row["posterior"] = {emotion.value: given[emotion] for emotion in Emotion if emotion in given}
    return row
