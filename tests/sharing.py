"""A person who shares with a clinic, as tests need them: a timeline, what is sent of it, and what a superuser sees at the clinic."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from model.types import Emotion, Prediction
from monitor.clinic.address import Address
from monitor.sharing.delivering import Delivery
from monitor.sharing.notes import Notes
from monitor.store.outbox import SHARED, Outbox
from monitor.store.records import Coverage, Judgement
from monitor.store.timeline import Timeline
from monitor.store.words import Words
from tests.postgres import Clinic
from tests.stores import keys, raw

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)
_NUMBERS = itertools.count(1)


def name(kind: str = "subject") -> str:
    """A login that no other test uses."""
    return f"{kind}_{next(_NUMBERS)}"


class Person:
    """Writes to a timeline as the monitor and the person do. url: their own at the clinic."""

    def __init__(self, path: Path, clinic: Clinic, subject: str | None = None, url: str | None = None) -> None:
        self.path, self.clinic = path, clinic
        self.subject = subject or name()
        self.url = url or clinic.add("subject", self.subject)
        self.address = Address.parse(self.url, "the test's URL")
        self.timeline = Timeline.open(path, PARIS, keys())
        self.words = Words.open(path, PARIS, keys(), lambda: NOON + timedelta(days=30))
        self._sample = 0

    def share(self, past: bool = True, now: datetime = NOON) -> None:
        """Switch sharing on, as a start does."""
        with self.outbox() as outbox:
            outbox.switch_on(now, past)

    def outbox(self) -> Outbox:
        """The timeline's."""
        found = Outbox.open(self.path, keys())
        assert found is not None
        return found

    def speak(self, at: datetime, judged: bool = True, words: str | None = None) -> int:
        """A segment of two seconds."""
        self._sample += 100
        number = self.timeline.add_segment(
            start_sample=self._sample, end_sample=self._sample + 50, start_at=at, end_at=at + timedelta(seconds=2), sound=b"12"
        )
        if judged:
            # Not in the order of letters, and two are equally likely: the first counts.
            said = Prediction({Emotion.SAD: 0.4, Emotion.HAPPY: 0.4, Emotion.NEUTRAL: 0.2}, False, "compact-1")
            self.timeline.judge({number: Judgement(said, words)})
        return number

    def live(self, at: datetime = NOON) -> int:
        """A bit of everything, from `at` on; returns the segment that was corrected."""
        self.timeline.cover(Coverage.HEARD, at - timedelta(minutes=5), at + timedelta(minutes=30))
        segment = self.speak(at, words="secret words")
        self.speak(at + timedelta(minutes=20))
        self.timeline.give_up([self.speak(at + timedelta(seconds=10), judged=False)], "it had waited too long")
        self.words.asked(at + timedelta(seconds=20))
        self.words.check_in(at + timedelta(seconds=30), -0.1234567890123, Emotion.SAD, "a secret note")
        self.words.correct(segment, Emotion.HAPPY)
        self.words.undo(segment)
        self.words.confirm(segment)
        return segment

    @contextmanager
    def delivery(self) -> Iterator[Delivery]:
        """A way to the clinic."""
        with self.outbox() as outbox:
            way = Delivery(self.address, outbox, Notes(self.path))
            try:
                yield way
            finally:
                way.close()

    def send(self) -> int:
        """Send until nothing waits; returns how many changes went."""
        with self.delivery() as way:
            return sum(iter(way.deliver, 0))

    def waiting(self) -> int:
        """How many changes wait."""
        with self.outbox() as outbox:
            return outbox.waiting()[0]

    def here(self, since: str = "") -> dict[str, list[tuple[Any, ...]]]:
        """What is to be shared, as the timeline has it."""
        queries = {
            "segment": "FROM segment WHERE state <> 'waiting' AND start_at >= ?",
            "coverage": "FROM coverage WHERE start_at >= ?",
            "correction": "FROM correction JOIN (SELECT id AS n, start_at FROM segment) ON n = segment_id WHERE start_at >= ?",
            "checkin": "FROM checkin WHERE at >= ?",
            "prompt": "FROM prompt WHERE at >= ?",
        }
        connection = raw(self.path)
        try:
            rows = {t: connection.execute(f"SELECT {', '.join(SHARED[t])} {query} ORDER BY id", (since,)) for t, query in queries.items()}
            return {table: [_plain(table, row) for row in found] for table, found in rows.items()}
        finally:
            connection.close()

    def there(self) -> dict[str, list[tuple[Any, ...]]]:
        """What the clinic has of the subject."""
        queries = {table: f"SELECT {', '.join(columns)} FROM emosllm.{table}" for table, columns in SHARED.items()}
        queries["segment"] = queries["segment"].replace("posterior", "posterior::text")
        rows = {table: self.clinic.rows(f"{query} WHERE subject = %s ORDER BY id", self.subject) for table, query in queries.items()}
        return {table: [_plain(table, row) for row in found] for table, found in rows.items()}

    def close(self) -> None:
        """Let go of the timeline."""
        self.timeline.close()
        self.words.close()


def _plain(table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Moments as aware UTC, truths as such, whichever database they are from."""
    plain = []
    for column, value in zip(SHARED[table], row, strict=True):
        if value is not None and (column == "at" or column.endswith("_at")):
            moment = datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value.astimezone(UTC)
            plain.append(moment)
        elif value is not None and column in ("unsure", "confirmed"):
            plain.append(bool(value))
        else:
            plain.append(value)
    return tuple(plain)
