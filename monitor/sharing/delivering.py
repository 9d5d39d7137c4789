"""Delivers what waits to the clinic, a batch in one transaction, so that each change arrives once.

The clinic lets the monitors of a subject take turns: who has it reads what there is to send only then, so that nothing older is ever
written over something newer. A batch leaves the outbox after it has arrived; killed between the two, it arrives once more, which
changes nothing.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from model.errors import ClinicError
from monitor.clinic.address import Address
from monitor.clinic.connection import Connection, connect, explained
from monitor.sharing.notes import Note, Notes
from monitor.sharing.statements import FORGET, FORGET_ALL, GONE, STORE
from monitor.store.outbox import Batch, Outbox

BATCH = 500
"""Changes that are sent together at most."""


class Delivery:
    """The way to the clinic for one timeline, connected when it is needed. Use it in one thread at a time, and close it."""

    def __init__(self, address: Address, outbox: Outbox, notes: Notes) -> None:
        self._address = address
        self._outbox, self._notes = outbox, notes
        self._connection: Connection | None = None
        self._months: set[date] = set()

    def deliver(self) -> int:
        """Deliver at most BATCH changes; returns how many. Raises ClinicError, TimelineError: then nothing has arrived, or all of it."""
        try:
            with explained(self._address):
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
                    _forget(connection, notes)
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
                f"{self._address} is another clinic than the one that things were shared with so far; nothing was sent there. To change"
                ' clinics, start once with [store] url = "", then with the new one'
            )
        if sharing is not None and (sharing.clinic, sharing.edition) != (row["clinic"], row["edition"]):
            self._outbox.meet(row["clinic"], row["edition"])
        return str(row["subject"])

    def _read(self) -> tuple[Sequence[Note], Batch]:
        """Both as of one moment: what came after something was forgotten must not be read before that."""
        while True:
            notes = self._notes.read()
            batch = self._outbox.batch(BATCH)
            if self._notes.read() == notes:
                return notes, batch


def forget_now(address: Address, notes: Notes) -> None:
    """Have the clinic forget at once what it is to forget, without the timeline. Raises ClinicError, TimelineError."""
    with explained(address), connect(address, patient=False) as connection:
        connection.execute("SELECT * FROM emosllm.begin_sending()")
        told = notes.read()
        _forget(connection, told)
        connection.commit()
    notes.remove(told)


def _forget(connection: Connection, notes: Iterable[Note]) -> None:
    for note in notes:
        if note.stretch is None:
            for statement in FORGET_ALL:
                connection.execute(statement.encode())
        else:
            for statement in FORGET:
                connection.execute(statement.encode(), {"start": note.stretch.start, "end": note.stretch.end})


def _send(connection: Connection, subject: str, batch: Batch) -> None:
    with connection.cursor() as cursor:
        for table, keys in batch.gone.items():
            for statement in GONE[table] if keys else ():
                cursor.executemany(statement.encode(), keys)
        for table, rows in batch.rows.items():
            if rows:
                cursor.executemany(STORE[table].encode(), [_row(subject, row) for row in rows])


def _row(subject: str, row: dict[str, Any]) -> dict[str, Any]:
    # PostgreSQL's text has no zero character.
    plain = {name: value.replace("\0", "") if isinstance(value, str) else value for name, value in row.items()}
    return plain | {"subject": subject}


def _months(notes: Iterable[Note], batch: Batch) -> set[date]:
    """The months in which something is going to be stored, a rest where what is forgotten ends too; and the next month, ahead of time."""
    moments = [row["start_at"] for table in ("segment", "coverage") for row in batch.rows.get(table, ())]
    moments += [note.stretch.end for note in notes if note.stretch is not None]
    months = {moment.date().replace(day=1) for moment in moments}
    if (this := datetime.now(UTC).date().replace(day=1)) in months:
        months.add((this + timedelta(days=32)).replace(day=1))
    return months
