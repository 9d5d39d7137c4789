"""What the clinic has yet to hear of: which rows changed, read as they are now; and whether anything is shared at all.

Triggers of the tables fill the outbox, in the transaction that changes a row. Whoever sends reads a batch, and takes it out once it has
arrived; what changed meanwhile stays. Never reads words, notes or sound. Knows no clinic and no network.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from monitor.storage.cipher import DRIVER, Connection, Error, connect
from monitor.storage.keys import KeyStore
from monitor.storage.reader import find_timeline_key, reject_malformed_rows, timeline_error, to_stored_moment

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""From when on rows are shared where all are."""

_BUSY_TIMEOUT_S = 5.0

SHARED: Mapping[str, tuple[str, ...]] = {
    "segment": (
        *("id", "stream", "start_sample", "end_sample", "start_at", "end_at", "zone", "state", "reason", "emotion", "confidence"),
        *("unsure", "posterior", "bundle_version", "judged_at", "loudness_db", "pitch_hz"),
    ),
    "coverage": ("id", "stream", "kind", "start_at", "end_at", "zone", "reason"),
    "correction": ("id", "segment_id", "emotion", "confirmed", "at", "undone_at"),
    "checkin": ("id", "at", "zone", "valence", "emotion"),
    "prompt": ("id", "at", "zone", "checkin_id"),
}
"""The tables that are shared, and which of their columns."""

NEVER_SHARED: Mapping[str, tuple[str, ...]] = {"segment": ("transcript", "microphone", "voice_version"), "checkin": ("note",)}
"""Their other columns: what a person said or wrote, and what is known of their voice and microphones."""

# A correction means its segment by what it is known by elsewhere.
_MORE = {"correction": ("segment.stream", "segment.start_sample", "segment.start_at")}
_JOINED = {"correction": "JOIN segment ON segment.id = correction.segment_id"}

# A row that is gone, and is there again under another number, is not gone.
_THERE = {
    "segment": "SELECT 1 FROM segment AS it WHERE it.stream = outbox.stream AND it.start_sample = outbox.start_sample"
    " AND it.state <> 'waiting'",
    "coverage": "SELECT 1 FROM coverage AS it WHERE it.stream = outbox.stream AND it.kind = outbox.name AND it.start_at = outbox.at"
    " AND it.reason = outbox.reason",
    "correction": "SELECT 1 FROM correction AS it JOIN segment ON segment.id = it.segment_id WHERE segment.stream = outbox.stream"
    " AND segment.start_sample = outbox.start_sample AND it.at = outbox.at AND it.emotion = outbox.name AND it.confirmed = outbox.number",
    "checkin": "SELECT 1 FROM checkin AS it WHERE it.at = outbox.at AND it.zone = outbox.zone AND it.emotion = outbox.name"
    " AND it.valence = outbox.number",
    "prompt": "SELECT 1 FROM prompt AS it WHERE it.at = outbox.at AND it.zone = outbox.zone",
}
_KEY = ("stream", "start_sample", "at", "zone", "name", "number", "reason")
_MOMENTS = ("start_at", "end_at", "judged_at", "at", "undone_at")
_TRUTHS = ("unsure", "confirmed")

_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
_QUEUE = "INSERT OR IGNORE INTO outbox (kind, row_id, version, queued_at) SELECT '{table}', {table}.id, 1, " + _NOW + " FROM {table} "
_SINCE = {
    "segment": "WHERE start_at >= :since AND state <> 'waiting'",
    "coverage": "WHERE start_at >= :since",
    "correction": "JOIN segment ON segment.id = segment_id WHERE segment.start_at >= :since",
    "checkin": "WHERE at >= :since",
    "prompt": "WHERE at >= :since",
}


@dataclass(frozen=True, slots=True)
class SharingSetting:
    """active: rows that begin at `since` (aware UTC) or later are shared. clinic, edition: as it named itself when it last answered."""

    active: bool
    since: datetime
    clinic: str | None
    edition: str | None


@dataclass(frozen=True, slots=True)
class OutboxBatch:
    """The oldest entries, by seq with their versions; rows as they are now, and keys of rows that are gone, by table."""

    entries: Sequence[tuple[int, int]] = ()
    rows: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    gone: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)


class Outbox:
    """The outbox of one timeline. Any thread may use it, one at a time; close it. Every method raises TimelineError."""

    def __init__(self, path: Path, connection: Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, keys: KeyStore) -> Self | None:
        """That of the timeline in `path`; None where there is no timeline yet. Raises TimelineError, StoreKeyError."""
        key = find_timeline_key(path, keys)
        if key is None:
            return None
        try:
            connection = connect(path, key, read_only=False, timeout_s=_BUSY_TIMEOUT_S)
            connection.isolation_level = None
            connection.row_factory = DRIVER.Row
            connection.execute("PRAGMA synchronous = FULL")
        except Error as error:
            raise timeline_error(error, path) from error
        return cls(path, connection)

    def sharing(self) -> SharingSetting | None:
        """Whether anything is shared; None where nothing ever was."""
        with self._explained():
            row = self._connection.execute("SELECT active, since, clinic, edition FROM sharing").fetchone()
            return row and SharingSetting(bool(row["active"]), _moment(row["since"]), row["clinic"], row["edition"])

    def enable_sharing(self, now: datetime, past: bool) -> None:
        """Share what begins from now on (aware UTC), or, where it is on already, go on with that. past: also all that there is."""
        with self._changing():
            known = self._connection.execute("SELECT since FROM sharing WHERE active").fetchone()
            if known is not None and not (past and _moment(known["since"]) > EPOCH):
                return
            since = to_stored_moment(EPOCH if past else now)
            self._connection.execute(
                "INSERT INTO sharing (id, active, since) VALUES (1, TRUE, :since)"
                " ON CONFLICT (id) DO UPDATE SET active = TRUE, since = :since",
                {"since": since},
            )
            if known is None:
                # Perhaps it is another clinic than before it was switched off.
                self._connection.execute("UPDATE sharing SET clinic = NULL, edition = NULL")
            _queue_all(self._connection, since)

    def disable_sharing(self) -> None:
        """Share nothing any more, and let go of what waits."""
        known = self.sharing()
        if known is None or not known.active:
            return
        with self._changing():
            self._connection.execute("UPDATE sharing SET active = FALSE")
            self._connection.execute("DELETE FROM outbox")

    def note_clinic(self, clinic: str, edition: str) -> None:
        """Remember which clinic answered; where it is of another edition than before, everything that is shared is to be sent again."""
        with self._changing():
            known = self._connection.execute("SELECT since, edition FROM sharing").fetchone()
            self._connection.execute("UPDATE sharing SET clinic = ?, edition = ?", (clinic, edition))
            if known is not None and known["edition"] not in (None, edition):
                _queue_all(self._connection, known["since"])

    def waiting(self) -> tuple[int, datetime | None]:
        """How many changes wait, and since when the first does."""
        with self._explained():
            count, oldest = self._connection.execute("SELECT count(*), min(queued_at) FROM outbox").fetchone()
            return int(count), None if oldest is None else _moment(oldest)

    def batch(self, at_most: int) -> OutboxBatch:
        """The oldest changes, with their rows as they are at one moment."""
        with self._explained(), self._transaction("BEGIN"):
            entries = self._connection.execute("SELECT seq, version FROM outbox ORDER BY seq LIMIT ?", (at_most,)).fetchall()
            if not entries:
                return OutboxBatch()
            bounds = {"first": entries[0]["seq"], "last": entries[-1]["seq"]}
            rows = {table: self._read(_rows_of(table), bounds) for table in SHARED}
            gone = {table: self._read(_gone_of(table), bounds) for table in SHARED}
        return OutboxBatch([(entry["seq"], entry["version"]) for entry in entries], rows, gone)

    def take_out(self, batch: OutboxBatch) -> None:
        """It has arrived: forget what of it has not changed again since it was read."""
        with self._changing():
            self._connection.executemany("DELETE FROM outbox WHERE seq = ? AND version = ?", batch.entries)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def _read(self, query: str, values: Mapping[str, object]) -> list[dict[str, Any]]:
        return [_plain_values(dict(row)) for row in self._connection.execute(query, values)]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._explained(), self._transaction("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with reject_malformed_rows(self._path):
                yield
        except Error as error:
            raise timeline_error(error, self._path) from error


def requeue_all(connection: Connection) -> None:
    """In a timeline that was put back from a backup, where something is shared: everything is to be sent again."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "sharing" in tables:
        for (since,) in connection.execute("SELECT since FROM sharing WHERE active").fetchall():
            _queue_all(connection, since)


def drop_erased_keys(connection: Connection, before: int, values: Mapping[str, str]) -> None:
    """After a stretch was erased, from `start` to `end`: take out what tells of rows that are gone, there or since entry `before`.

    The clinic is told of the stretch instead.
    """
    there = " OR ".join(f"(kind = '{table}' AND EXISTS ({query}))" for table, query in _THERE.items())
    numbered = " OR ".join(f"(kind = '{table}' AND EXISTS (SELECT 1 FROM {table} AS it WHERE it.id = row_id))" for table in SHARED)
    lately = "seq > :before OR row_id IS NOT NULL OR (at >= :start AND at < :end)"
    connection.execute(
        f"DELETE FROM outbox WHERE ({lately}) AND NOT (row_id IS NULL AND ({there})) AND NOT (row_id IS NOT NULL AND ({numbered}))",
        {**values, "before": before},
    )


def _queue_all(connection: Connection, since: str) -> None:
    for table, which in _SINCE.items():
        connection.execute(_QUEUE.format(table=table) + which, {"since": since})


def _rows_of(table: str) -> str:
    columns = ", ".join([*(f"{table}.{column}" for column in SHARED[table]), *_MORE.get(table, ())])
    return (
        f"SELECT {columns} FROM outbox JOIN {table} ON {table}.id = row_id {_JOINED.get(table, '')}"
        f" WHERE outbox.kind = '{table}' AND seq BETWEEN :first AND :last ORDER BY seq"
    )


def _gone_of(table: str) -> str:
    return (
        f"SELECT {', '.join(_KEY)} FROM outbox WHERE kind = '{table}' AND row_id IS NULL AND seq BETWEEN :first AND :last"
        f" AND NOT EXISTS ({_THERE[table]}) ORDER BY seq"
    )


def _plain_values(row: dict[str, Any]) -> dict[str, Any]:
    for name in _MOMENTS:
        if row.get(name) is not None:
            row[name] = _moment(row[name])
    for name in _TRUTHS:
        if row.get(name) is not None:
            row[name] = bool(row[name])
    return row


def _moment(stored: str) -> datetime:
    return datetime.fromisoformat(stored).replace(tzinfo=UTC)
