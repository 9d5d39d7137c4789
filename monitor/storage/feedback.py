"""Writes the person's feedback: check-ins, corrections and confirmations of segments, and the prompts they were shown.

Works beside a daemon that writes at the same time. Corrections of a segment are a history: the last one that is not undone holds, and
undoing it brings back the one before. Knows nothing of terminals and pages, and logs nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from model.emotions import Emotion
from model.errors import EditConflict, UnknownSegment, WordError
from monitor.fileio import DatabaseLock
from monitor.storage.cipher import salt_of
from monitor.storage.keys import KeyStore
from monitor.storage.reader import MAX_ROW_ID, SCHEMA_VERSION, read_schema_version
from monitor.storage.records import PROMPT_ANSWER_WINDOW, CheckIn, Correction
from monitor.storage.schema import CheckInRow, CorrectionRow, PromptRow, SegmentRow, create_database_engine, write_transaction
from monitor.storage.writer import TimelineWriter

MAX_NOTE_CHARS = 2000
"""Characters of a note."""

_BUSY_TIMEOUT_S = 5.0


class SeenCorrection(Enum):
    """ANY: whatever was said of the segment before, it may be replaced."""

    ANY = auto()


_Seen = int | None | SeenCorrection


class FeedbackStore:
    """The person's own word, to be written. Any thread may call any method.

    `seen`, where a method takes it, is the id of the correction that the person saw, None where they saw none: when another one holds
    by now, nothing is changed and EditConflict is raised. Every method raises TimelineError when the file cannot be written.
    """

    def __init__(self, path: Path, engine: Engine, zone: ZoneInfo, clock: Callable[[], datetime]) -> None:
        self._path = path
        self._engine = engine
        self._zone = str(zone)
        self._clock = clock

    @classmethod
    def open(cls, path: Path, zone: ZoneInfo, keys: KeyStore, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Self:
        """Open the timeline in `path`. Where there is none it is begun: who only ever says how they feel needs no microphone.

        zone: the person's, stored with every row. clock: the present moment, in UTC. Raises TimelineError for a file that is no
        timeline or damaged, StoreKeyError when the key is not there.
        """
        if salt_of(path) is None or read_schema_version(path, keys.find(path)) != SCHEMA_VERSION:
            with DatabaseLock(path, "nothing, to prepare the timeline"):
                TimelineWriter.open(path, zone, keys).close()
        return cls(path, create_database_engine(path, keys.find(path), _BUSY_TIMEOUT_S), zone, clock)

    def check_in(self, at: datetime, valence: float, emotion: Emotion, note: str | None = None) -> CheckIn:
        """Store how the person felt at a moment; answers the prompt they were shown, if it is about now.

        at: UTC. valence: -1 (very unpleasant) to 1 (very pleasant). Raises WordError for a moment to come and for a note that is too
        long, ValueError for other values out of range.
        """
        now, note = self._clock(), (note or "").strip() or None
        if at.tzinfo is not UTC or not -1 <= valence <= 1:
            raise ValueError(f"a check-in has a moment in UTC and a valence from -1 to 1, not {at!r} and {valence}")
        if at > now:
            raise WordError("a check-in cannot be about a moment that is still to come")
        if note and len(note) > MAX_NOTE_CHARS:
            raise WordError(f"the note has {len(note)} characters; {MAX_NOTE_CHARS} are kept at most, so nothing was stored")
        row = CheckInRow(at=at, zone=self._zone, valence=valence, emotion=emotion.value, note=note)
        with self._writing() as session:
            session.add(row)
            session.flush()
            asked = session.exec(_UNANSWERED.where(col(PromptRow.at) > now - PROMPT_ANSWER_WINDOW, col(PromptRow.at) <= at)).first()
            if asked is not None:
                asked.checkin_id = row.id
            return _checkin(row)

    def retract(self, checkin_id: int) -> CheckIn:
        """Erase a check-in, and return what it was. Raises WordError when it is not there."""
        with self._writing() as session:
            row = session.get(CheckInRow, checkin_id) if 0 < checkin_id <= MAX_ROW_ID else None
            if row is None:
                raise WordError("that check-in is not there any more")
            erased = _checkin(row)
            session.delete(row)
            return erased

    def asked(self, at: datetime) -> int:
        """Store that the person was asked to check in; returns the prompt's id. at: UTC."""
        if at.tzinfo is not UTC:
            raise ValueError(f"moments must be aware and in UTC, this one is {at!r}")
        row = PromptRow(at=at, zone=self._zone)
        with self._writing() as session:
            session.add(row)
            session.flush()
            return _id(row)

    def correct(self, segment_id: int, emotion: Emotion, seen: _Seen = SeenCorrection.ANY) -> Correction:
        """Store what the segment really was; saying it again changes nothing. Raises UnknownSegment, EditConflict."""
        with self._writing() as session:
            _segment(session, segment_id)
            return self._say(session, segment_id, emotion, False, seen)

    def confirm(self, segment_id: int, seen: _Seen = SeenCorrection.ANY) -> Correction:
        """Store that the model's most probable emotion is right, also where it was unsure of it; again changes nothing.

        Raises UnknownSegment, EditConflict, and WordError for a segment that was not judged.
        """
        with self._writing() as session:
            row = _segment(session, segment_id)
            if row.emotion is None:
                raise WordError(
                    f"segment {segment_id} was not judged, so there is nothing to agree with; say what it was with "
                    f"`emosllm-monitor label {segment_id} LETTER`"
                )
            return self._say(session, segment_id, Emotion(row.emotion), True, seen)

    def undo(self, segment_id: int, seen: _Seen = SeenCorrection.ANY) -> Correction | None:
        """Take back what was said last of the segment; returns what holds now, None where the estimate stands alone again.

        Raises UnknownSegment, EditConflict, and WordError when there is nothing to take back.
        """
        with self._writing() as session:
            _segment(session, segment_id)
            row = _current_correction(session, segment_id)
            _refuse_conflict(segment_id, row, seen)
            if row is None:
                raise WordError(f"you have said nothing of segment {segment_id} that could be taken back")
            row.undone_at = self._clock()
            session.flush()
            before = _current_correction(session, segment_id)
            return None if before is None else _correction(before)

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def _say(self, session: Session, segment_id: int, emotion: Emotion, confirmed: bool, seen: _Seen) -> Correction:
        held = _current_correction(session, segment_id)
        if held is not None and held.emotion == emotion:
            return _correction(held)
        _refuse_conflict(segment_id, held, seen)
        row = CorrectionRow(segment_id=segment_id, emotion=emotion.value, confirmed=confirmed, at=self._clock())
        session.add(row)
        session.flush()
        return _correction(row)

    def _writing(self) -> AbstractContextManager[Session]:
        return write_transaction(self._path, self._engine)


_UNANSWERED = select(PromptRow).where(col(PromptRow.checkin_id).is_(None)).order_by(col(PromptRow.at).desc())


def _segment(session: Session, segment_id: int) -> SegmentRow:
    row = session.get(SegmentRow, segment_id) if 0 < segment_id <= MAX_ROW_ID else None
    if row is None:
        lowest, highest = session.exec(select(func.min(SegmentRow.id), func.max(SegmentRow.id))).one()
        raise UnknownSegment(segment_id, None if lowest is None or highest is None else (lowest, highest))
    return row


def _current_correction(session: Session, segment_id: int) -> CorrectionRow | None:
    """The correction that holds: ids grow with time, clocks may not."""
    of_it = select(CorrectionRow).where(CorrectionRow.segment_id == segment_id, col(CorrectionRow.undone_at).is_(None))
    return session.exec(of_it.order_by(col(CorrectionRow.id).desc())).first()


def _refuse_conflict(segment_id: int, held: CorrectionRow | None, seen: _Seen) -> None:
    if seen is not SeenCorrection.ANY and seen != (held and held.id):
        raise EditConflict(f"what you say of segment {segment_id} was changed somewhere else since you looked; look again, then decide")


def _id(row: CheckInRow | CorrectionRow | PromptRow) -> int:
    assert row.id is not None, "it was flushed"
    return row.id


def _correction(row: CorrectionRow) -> Correction:
    return Correction(_id(row), Emotion(row.emotion), row.confirmed, row.at)


def _checkin(row: CheckInRow) -> CheckIn:
    return CheckIn(_id(row), row.at, row.zone, row.valence, Emotion(row.emotion), row.note)
