"""Sends what the person shares to the clinic's PostgreSQL, in a thread of its own: recording and inference never wait for it.

Changes wait in the outbox of the timeline and are sent in batches, one transaction each, with growing and randomised pauses while the
clinic does not answer, so that many monitors do not return at once. The clinic lets the monitors of one subject take turns; a monitor
reads what to send only once it has its turn, so nothing older overwrites something newer. A batch leaves the outbox after it has
arrived; after a crash in between it is sent again, which changes nothing. Policies in the database confine each statement to the
subject who is logged in.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from model.errors import ClinicError, TimelineError
from monitor.clinic.address import ClinicAddress, SharingState
from monitor.clinic.connection import Connection, clinic_errors, connect
from monitor.clinic.pending_erasures import PendingErasure, PendingErasures
from monitor.storage.outbox import SHARED, Outbox, OutboxBatch
from monitor.storage.records import MAX_SEGMENT_S, PROMPT_ANSWER_WINDOW

_EXTRA_COLUMNS = {"correction": ("stream", "start_sample", "start_at")}
_KEYS: Mapping[str, tuple[str, ...]] = {
    "segment": ("subject", "stream", "start_sample", "start_at"),
    "coverage": ("subject", "stream", "kind", "start_at", "reason"),
    "correction": ("subject", "stream", "start_sample", "at", "emotion", "confirmed"),
    "checkin": ("subject", "at", "zone", "valence", "emotion"),
    "prompt": ("subject", "at", "zone"),
}
# Coverage only ever grows, but for what is forgotten, which is said apart: so what a clinic knows of later than a backup that was put
# back stays known.
_UPDATES = {("coverage", "end_at"): "greatest(coverage.end_at, excluded.end_at)"}


def _upsert(table: str) -> str:
    columns = ("subject", *SHARED[table], *_EXTRA_COLUMNS.get(table, ()))
    values = ", ".join(f"%({column})s{'::json' if column == 'posterior' else ''}" for column in columns)
    taken = [f"{column} = {_UPDATES.get((table, column), f'excluded.{column}')}" for column in columns if column not in _KEYS[table]]
    return (
        f"INSERT INTO emosllm.{table} ({', '.join(columns)}) VALUES ({values})"
        f" ON CONFLICT ({', '.join(_KEYS[table])}) DO UPDATE SET {', '.join(taken)}"
    )


UPSERT_ROW: Mapping[str, str] = {table: _upsert(table) for table in SHARED}
"""For each table: store a row, or store it anew. Values by column."""

DELETE_ROW: Mapping[str, Sequence[str]] = {
    "segment": (
        "DELETE FROM emosllm.correction WHERE stream = %(stream)s AND start_sample = %(start_sample)s",
        "DELETE FROM emosllm.segment WHERE stream = %(stream)s AND start_sample = %(start_sample)s AND start_at = %(at)s",
    ),
    "coverage": (
        "DELETE FROM emosllm.coverage WHERE stream = %(stream)s AND kind = %(name)s AND start_at = %(at)s AND reason = %(reason)s",
    ),
    "correction": (
        "DELETE FROM emosllm.correction WHERE stream = %(stream)s AND start_sample = %(start_sample)s AND at = %(at)s"
        " AND emotion = %(name)s AND confirmed = (%(number)s = 1)",
    ),
    "checkin": ("DELETE FROM emosllm.checkin WHERE at = %(at)s AND zone = %(zone)s AND emotion = %(name)s AND valence = %(number)s",),
    "prompt": ("DELETE FROM emosllm.prompt WHERE at = %(at)s AND zone = %(zone)s",),
}
"""For each table: a row is gone. Values as the outbox names them."""

_SPEECH = f"start_at > %(start)s - interval '{MAX_SEGMENT_S} s' AND start_at < %(end)s AND end_at > %(start)s"
_WITHIN = "at >= %(start)s AND at < %(end)s"
_ANSWERED = (
    f"at >= %(start)s - interval '{PROMPT_ANSWER_WINDOW.total_seconds()} s' AND at < %(start)s"
    f" AND checkin_id IN (SELECT id FROM emosllm.checkin WHERE {_WITHIN})"
)
ERASE_RANGE: Sequence[str] = (
    "INSERT INTO emosllm.coverage (subject, id, stream, kind, start_at, end_at, zone, reason)"
    " SELECT subject, id, stream, kind, %(end)s, end_at, zone, reason FROM emosllm.coverage"
    " WHERE start_at < %(end)s AND end_at > %(end)s"
    " ON CONFLICT (subject, stream, kind, start_at, reason) DO UPDATE SET end_at = greatest(coverage.end_at, excluded.end_at)",
    "UPDATE emosllm.coverage SET end_at = %(start)s WHERE start_at < %(start)s AND end_at > %(start)s",
    "DELETE FROM emosllm.coverage WHERE start_at >= %(start)s AND start_at < %(end)s",
    "DELETE FROM emosllm.correction USING emosllm.segment WHERE correction.stream = segment.stream"
    f" AND correction.start_sample = segment.start_sample AND {_SPEECH.replace('start_at', 'segment.start_at')}",
    "DELETE FROM emosllm.correction WHERE start_at >= %(start)s AND start_at < %(end)s",
    f"DELETE FROM emosllm.segment WHERE {_SPEECH}",
    f"DELETE FROM emosllm.prompt WHERE ({_WITHIN}) OR ({_ANSWERED})",
    f"DELETE FROM emosllm.checkin WHERE {_WITHIN}",
)
"""Forget from `start` to `end` what the timeline's own erasure does, whichever machine it came from."""

ERASE_ALL: Sequence[str] = tuple(f"DELETE FROM emosllm.{table}" for table in SHARED)
"""Forget everything."""

BATCH_SIZE = 500
"""Changes that are sent together at most."""


class ClinicUploader:
    """The way to the clinic for one timeline, connected when it is needed. Use it in one thread at a time, and close it."""

    def __init__(self, address: ClinicAddress, outbox: Outbox, notes: PendingErasures) -> None:
        self._address = address
        self._outbox, self._notes = outbox, notes
        self._connection: Connection | None = None
        self._months: set[date] = set()

    def deliver(self) -> int:
        """Deliver at most BATCH changes; returns how many. Raises ClinicError, TimelineError: then nothing has arrived, or all of it."""
        try:
            with clinic_errors(self._address):
                if self._connection is None:
                    self._connection = connect(self._address)
                    self._connection.autocommit = True
                return self._deliver(self._connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _deliver(self, connection: Connection) -> int:
        while True:
            with connection.transaction():
                subject = self._begin(connection)
                notes, batch = self._read()
                missing = _months(notes, batch) - self._months
                if not missing:
                    _erase(connection, notes)
                    _send(connection, subject, batch)
            if not missing:
                self._outbox.take_out(batch)
                self._notes.remove(notes)
                return len(batch.entries) + len(notes)
            # In transactions of their own: while tables change, whoever writes to one and waits for the other would wait for ever.
            for month in sorted(missing):
                for table in ("segment", "coverage"):
                    connection.execute("SELECT emosllm.make_month(%s, %s)", (table, month))
            self._months |= missing

    def _begin(self, connection: Connection) -> str:
        row = connection.execute("SELECT * FROM emosllm.begin_sending()").fetchone()
        sharing = self._outbox.sharing()
        assert row is not None
        if sharing is not None and sharing.clinic not in (None, row["clinic"]):
            raise ClinicError(
                f"{self._address} is not the clinic that data was shared with so far; nothing was sent. To change"
                ' clinics, start once with [store] url = "", then with the new URL'
            )
        if sharing is not None and (sharing.clinic, sharing.edition) != (row["clinic"], row["edition"]):
            self._outbox.note_clinic(row["clinic"], row["edition"])
        return str(row["subject"])

    def _read(self) -> tuple[Sequence[PendingErasure], OutboxBatch]:
        """Both as of one moment: what came after something was forgotten must not be read before that."""
        while True:
            notes = self._notes.read()
            batch = self._outbox.batch(BATCH_SIZE)
            if self._notes.read() == notes:
                return notes, batch


def erase_at_clinic(address: ClinicAddress, notes: PendingErasures) -> None:
    """Have the clinic forget at once what it is to forget, without the timeline. Raises ClinicError, TimelineError."""
    with clinic_errors(address), connect(address, patient=False) as connection:
        connection.execute("SELECT * FROM emosllm.begin_sending()")
        told = notes.read()
        _erase(connection, told)
        connection.commit()
    notes.remove(told)


def _erase(connection: Connection, notes: Iterable[PendingErasure]) -> None:
    for note in notes:
        if note.time_range is None:
            for statement in ERASE_ALL:
                connection.execute(statement.encode())
        else:
            for statement in ERASE_RANGE:
                connection.execute(statement.encode(), {"start": note.time_range.start, "end": note.time_range.end})


def _send(connection: Connection, subject: str, batch: OutboxBatch) -> None:
    with connection.cursor() as cursor:
        for table, keys in batch.gone.items():
            for statement in DELETE_ROW[table] if keys else ():
                cursor.executemany(statement.encode(), keys)
        for table, rows in batch.rows.items():
            if rows:
                cursor.executemany(UPSERT_ROW[table].encode(), [_row(subject, row) for row in rows])


def _row(subject: str, row: dict[str, Any]) -> dict[str, Any]:
    # PostgreSQL's text has no zero character.
    plain = {name: value.replace("\0", "") if isinstance(value, str) else value for name, value in row.items()}
    return plain | {"subject": subject}


def _months(notes: Iterable[PendingErasure], batch: OutboxBatch) -> set[date]:
    """The months in which something is going to be stored, a rest where what is forgotten ends too; and the next month, ahead of time."""
    moments = [row["start_at"] for table in ("segment", "coverage") for row in batch.rows.get(table, ())]
    moments += [note.time_range.end for note in notes if note.time_range is not None]
    months = {moment.date().replace(day=1) for moment in moments}
    if (this := datetime.now(UTC).date().replace(day=1)) in months:
        months.add((this + timedelta(days=32)).replace(day=1))
    return months


_logger = logging.getLogger(__name__)

_EVERY_S = 5.0
_RETRY_DELAYS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
_AT_LEAST = 0.5
# At the end: what has not arrived by then waits for the next start.
_LAST_S = 20.0

ReportState = Callable[[SharingState | None, str], None]


class SyncThread:
    """Sends while the block runs, and once more when it ends.

    tell: gets how things stand, and what is wrong; empty for nothing.
    """

    def __init__(self, address: ClinicAddress, outbox: Outbox, database: Path, tell: ReportState) -> None:
        self._address = address
        self._outbox, self._notes = outbox, PendingErasures(database)
        self._delivery = ClinicUploader(address, outbox, self._notes)
        self._tell = tell
        self._sent_at: datetime | None = None
        self._problem = ""
        self._failures = 0
        self._over = threading.Event()
        self._ended_at = float("inf")
        self._thread = threading.Thread(target=self._work, name="sharing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._ended_at = time.monotonic()
        self._over.set()
        self._thread.join(_LAST_S + 10.0)

    def turn(self) -> float:
        """Send what there is; returns for how long to wait before the next turn, in seconds."""
        try:
            while (waiting := self._outbox.waiting()[0]) or self._notes.read():
                self._delivery.deliver()
                self._sent_at = datetime.now(UTC)
                if waiting <= BATCH_SIZE or time.monotonic() > self._ended_at + _LAST_S:
                    break
        except (ClinicError, TimelineError) as error:
            self._failures += 1
            self._report(str(error))
            return _RETRY_DELAYS_S[min(self._failures, len(_RETRY_DELAYS_S)) - 1]
        self._failures = 0
        self._report("")
        return _EVERY_S

    def _work(self) -> None:
        pause = 0.0
        while not self._over.wait(pause * random.uniform(_AT_LEAST, 1.0)):
            pause = self.turn()
        if not self._failures:
            self.turn()
        self._delivery.close()
        self._outbox.close()

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            _logger.warning("sharing with the clinic: %s", problem or "working again")
            self._problem = problem
        try:
            waiting, since = self._outbox.waiting()
        except TimelineError as error:
            self._tell(None, problem or str(error))
        else:
            told = f"data is waiting to be sent to the clinic: {problem}" if problem else ""
            self._tell(SharingState(str(self._address), waiting, since, self._sent_at), told)
