"""Exports all rows of a timeline and imports rows into one. `monitor/transfer` turns them into files and back.

The export streams row by row, in constant memory, as of one moment, while others write; audio is not in it, nor what can be computed
again. Coverage is cut to the range, everything else that overlaps it is told whole. An import is one transaction: all rows or none, and
none that is there already a second time. What the timeline has is never changed, but for corrections, which join a segment's history.
Rows of one import are not compared with one another, so that a history comes back exactly as it was.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from model.emotions import Emotion
from monitor.storage.cipher import DRIVER, Connection, Error, connect
from monitor.storage.erasure import NEXT_SEGMENT_ID
from monitor.storage.keys import KeyStore
from monitor.storage.reader import find_timeline_key, range_parameters, reject_malformed_rows, timeline_error, to_stored_moment

_EXPORT_BUSY_TIMEOUT_S = 5.0
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


class TimelineExport:
    """What is stored, for one reading to the end. Use it in the thread that opened it, and close it."""

    def __init__(self, path: Path, connection: Connection | None) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, keys: KeyStore) -> Self:
        """The timeline in `path` as it is now; where there is none yet it is empty. Raises TimelineError and StoreKeyError."""
        key = find_timeline_key(path, keys)
        if key is None:
            return cls(path, None)
        try:
            connection = connect(path, key, read_only=True, timeout_s=_EXPORT_BUSY_TIMEOUT_S)
            connection.row_factory = DRIVER.Row
            connection.isolation_level = None
            # One view for all tables: from the first reading on.
            connection.execute("BEGIN")
        except Error as error:
            raise timeline_error(error, path) from error
        return cls(path, connection)

    def rows(self, table: str, start: datetime, end: datetime) -> Iterator[dict[str, Any]]:
        """The rows of one of the tables, by time, as far as they overlap [start, end), both aware UTC. Raises TimelineError."""
        if self._connection is None:
            return
        try:
            with reject_malformed_rows(self._path):
                for row in self._connection.execute(_QUERIES[table], range_parameters(start, end)):
                    yield _plain_values(dict(row))
        except Error as error:
            raise timeline_error(error, self._path) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()


def _plain_values(row: dict[str, Any]) -> dict[str, Any]:
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


_IMPORT_BUSY_TIMEOUT_S = 30.0

_SEGMENT = """
    INSERT INTO segment (id, stream, start_sample, end_sample, start_at, end_at, zone, state, reason, emotion, confidence, unsure,
                         posterior, bundle_version, judged_at, loudness_db, pitch_hz, transcript)
    VALUES (:id, :stream, :start_sample, :end_sample, :start_at, :end_at, :zone, :state, :reason, :emotion, :confidence, :unsure,
            :posterior, :bundle_version, :judged_at, :loudness_db, :pitch_hz, :transcript)
    ON CONFLICT (stream, start_sample) DO NOTHING"""
_SAME_SEGMENT = """
    SELECT 1 FROM segment WHERE stream = :stream AND start_sample = :start_sample AND end_sample = :end_sample AND start_at = :start_at
    AND state = :state AND emotion IS :emotion AND confidence IS :confidence AND bundle_version IS :bundle_version
    AND transcript IS :transcript"""
_KNOWN_CORRECTION = """
    SELECT id, undone_at FROM correction
    WHERE segment_id = :segment_id AND at = :at AND emotion = :emotion AND confirmed = :confirmed AND id <= :before"""
_CORRECTION = (
    "INSERT INTO correction (segment_id, emotion, confirmed, at, undone_at) VALUES (:segment_id, :emotion, :confirmed, :at, :undone_at)"
)
# One that lies within what is there says nothing new.
_KNOWN_COVERAGE = """
    SELECT 1 FROM coverage WHERE stream = :stream AND kind = :kind AND end_at >= :end_at AND start_at <= :start_at AND zone = :zone
    AND reason = :reason AND id <= :before"""
_COVERAGE = """
    INSERT INTO coverage (stream, kind, start_at, end_at, zone, reason) VALUES (:stream, :kind, :start_at, :end_at, :zone, :reason)"""
_KNOWN_CHECKIN = """
    SELECT 1 FROM checkin
    WHERE at = :at AND zone = :zone AND valence = :valence AND emotion = :emotion AND note IS :note AND id <= :before"""
_CHECKIN = "INSERT INTO checkin (at, zone, valence, emotion, note) VALUES (:at, :zone, :valence, :emotion, :note)"
_KNOWN_PROMPT = "SELECT 1 FROM prompt WHERE at = :at AND zone = :zone AND id <= :before"
_PROMPT = "INSERT INTO prompt (at, zone, checkin_id) VALUES (:at, :zone, :checkin_id)"


@dataclass(slots=True)
class ImportCounts:
    """How many rows of one table were new, were there already, and were there already and different: those stayed as they were."""

    new: int = 0
    known: int = 0
    different: int = 0


class TimelineImport:
    """One transaction, begun when it is entered; leaving it in good order keeps everything, leaving it by an error nothing."""

    def __init__(self, path: Path, connection: Connection) -> None:
        self._path = path
        self._connection = connection
        self._mixed: set[int] = set()
        self._before: dict[str, int] = {}
        self._next_segment = 0
        self._put: Mapping[str, Callable[[dict[str, Any]], None]] = {
            "segments": self._segment,
            "corrections": self._correction,
            "coverage": lambda row: self._unless_known("coverage", _KNOWN_COVERAGE, _COVERAGE, row),
            "checkins": lambda row: self._unless_known("checkins", _KNOWN_CHECKIN, _CHECKIN, row),
            "prompts": self._prompt,
        }
        self.taken = {name: ImportCounts() for name in self._put}

    @classmethod
    def open(cls, path: Path, keys: KeyStore) -> Self:
        """The timeline in `path`, which must have the newest tables. Raises TimelineError."""
        try:
            connection = connect(path, keys.find(path), read_only=False, timeout_s=_IMPORT_BUSY_TIMEOUT_S)
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys = ON")
        except Error as error:
            raise timeline_error(error, path) from error
        return cls(path, connection)

    def __enter__(self) -> Self:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for table in ("correction", "coverage", "checkin", "prompt"):
                self._before[table] = self._number(f"SELECT coalesce(max(id), 0) FROM {table}")
            self._next_segment = self._number(NEXT_SEGMENT_ID)
        except Error as error:
            self._connection.close()
            raise timeline_error(error, self._path) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_raised: object) -> None:
        try:
            if kind is None:
                self._order_histories()
                self._connection.execute("COMMIT")
        except Error as error:
            raise timeline_error(error, self._path) from error
        finally:
            # What is not committed is rolled back.
            self._connection.close()

    def put(self, table: str, row: Mapping[str, Any]) -> None:
        """Take one row. Raises ValueError when it refers to one that is not there, and TimelineError."""
        try:
            self._put[table]({name: to_stored_moment(value) if isinstance(value, datetime) else value for name, value in row.items()})
        except Error as error:
            raise timeline_error(error, self._path) from error

    def _segment(self, row: dict[str, Any]) -> None:
        posterior = row["posterior"]
        if posterior is not None:
            # Of two that are equally likely the first one counts.
            first = {row["emotion"]: row["confidence"]}
            row["posterior"] = json.dumps(posterior if max(posterior, key=posterior.get) == row["emotion"] else first | posterior)
        done = self._connection.execute(_SEGMENT, {**row, "id": self._next_segment})
        taken = self.taken["segments"]
        if done.rowcount:
            self._next_segment += 1
            taken.new += 1
            return
        taken.known += 1
        taken.different += not self._connection.execute(_SAME_SEGMENT, row).fetchall()

    def _correction(self, row: dict[str, Any]) -> None:
        segment = self._connection.execute("SELECT id FROM segment WHERE stream = :stream AND start_sample = :start_sample", row).fetchone()
        if segment is None:
            raise ValueError(f"there is no segment of stream {row['stream']} at sample {row['start_sample']}")
        row |= {"segment_id": segment[0], "before": self._before["correction"]}
        taken = self.taken["corrections"]
        known = self._connection.execute(_KNOWN_CORRECTION, row).fetchone()
        if known is None:
            if self._connection.execute("SELECT 1 FROM correction WHERE segment_id = :segment_id AND id <= :before", row).fetchone():
                self._mixed.add(segment[0])
            self._connection.execute(_CORRECTION, row)
            taken.new += 1
        elif known[1] is None and row["undone_at"] is not None:
            self._connection.execute("UPDATE correction SET undone_at = ? WHERE id = ?", (row["undone_at"], known[0]))
            taken.new += 1
        else:
            taken.known += 1

    def _prompt(self, row: dict[str, Any]) -> None:
        answer = None
        if row["answered_at"] is not None:
            answer = self._connection.execute("SELECT min(id) FROM checkin WHERE at = :answered_at", row).fetchone()[0]
            if answer is None:
                raise ValueError(f"there is no check-in at {row['answered_at']}")
        self._unless_known("prompts", _KNOWN_PROMPT, _PROMPT, row | {"checkin_id": answer})

    def _unless_known(self, name: str, known: str, insert: str, row: dict[str, Any]) -> None:
        if self._connection.execute(known, row | {"before": self._before[name.removesuffix("s")]}).fetchone():
            self.taken[name].known += 1
        else:
            self._connection.execute(insert, row)
            self.taken[name].new += 1

    def _order_histories(self) -> None:
        """The last correction by number is the one that holds: where two histories meet, that must be the last by time."""
        for segment in self._mixed:
            old = self._number("SELECT max(id) FROM correction")
            self._connection.execute(
                "INSERT INTO correction (segment_id, emotion, confirmed, at, undone_at)"
                " SELECT segment_id, emotion, confirmed, at, undone_at FROM correction WHERE segment_id = ? ORDER BY at, id",
                (segment,),
            )
            self._connection.execute("DELETE FROM correction WHERE segment_id = ? AND id <= ?", (segment, old))

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])
