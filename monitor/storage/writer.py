"""Writes the timeline: segments with their audio, predictions, coverage, and the runs of scheduled jobs.

Tables in one encrypted SQLite file: `segment` (speech: waiting, then judged or unjudged for good), `sound` (audio of those that wait: the
spool; and of others, where the person wants it kept), `coverage` (what became of every stretch of time), `job_run`, and the voice
references (`monitor/storage/voice_reference.py`). Every write is one transaction and on disk when the call returns; so a segment never
waits without its audio, and none is predicted twice. A job run that is begun and not ended names its process, so that one which a crash
left open is told from one that goes on. Knows nothing of audio formats, engines or days.
"""

import logging
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, text
from sqlmodel import Session, col, delete, func, select

from model.errors import TimelineError
from monitor.fileio import make_private_file
from monitor.storage import voice_reference
from monitor.storage.erasure import NEXT_SEGMENT_ID
from monitor.storage.keys import KeyStore
from monitor.storage.reader import SCHEMA_VERSION, find_timeline_key, read_schema_version
from monitor.storage.records import (
    MAX_SEGMENT_S,
    Coverage,
    CoverageInterval,
    InferenceResult,
    SegmentState,
    VoiceReference,
    VoiceReferenceSums,
    check_time_range,
    merge_coverage,
)
from monitor.storage.schema import (
    CoverageRow,
    JobRunRow,
    SegmentRow,
    SoundRow,
    create_database_engine,
    translated_errors,
    write_transaction,
)
from monitor.storage.snapshot import check_integrity

_logger = logging.getLogger(__name__)

MAX_COVERAGE_GAP_S = 0.001
"""Intervals of coverage this close are one: their ends are derived from samples, and rounded to microseconds."""

# A larger file holds kept sound, and nobody shall wait for that to be read; the daily backup looks through it.
_MAX_CHECKED_BYTES = 512 * 2**20


class TimelineWriter:
    """The writing side, open for one start of the monitor: one `stream`. Any thread may call any method.

    Every method raises TimelineError, saying what to do, when the file cannot be written: disk full, locked, damaged.
    """

    def __init__(self, path: Path, engine: Engine, zone: ZoneInfo) -> None:
        self.stream = str(uuid.uuid4())
        self._path = path
        self._engine = engine
        self._zone = str(zone)
        # SQLite has one writer at a time. Threads take turns here, because waiting inside SQLite is polling.
        self._turn = threading.Lock()

    @classmethod
    def open(cls, path: Path, zone: ZoneInfo, keys: KeyStore, busy_timeout_s: float = 5.0) -> Self:
        """Open the timeline in `path` for writing, created if missing and brought up to the newest tables.

        zone: in which the monitor runs, stored with every row. keys: where its key is, or goes if it is created.
        busy_timeout_s: how long to wait while another program writes. Raises TimelineError for a folder, a file that is no
        timeline, a newer one or damaged, and missing permission; StoreKeyError when the key is not there.
        """
        key = keys.find_or_make(path)
        make_private_file(path)
        version = read_schema_version(path, key)
        if version is not None and path.stat().st_size <= _MAX_CHECKED_BYTES:
            check_integrity(path, key)
        engine = create_database_engine(path, key, busy_timeout_s)
        if version != SCHEMA_VERSION:
            with translated_errors(path), engine.begin() as connection:
                _migrate(connection)
            _logger.info("timeline tables brought from version %s to %s", version, SCHEMA_VERSION)
        return cls(path, engine, zone)

    def add_segment(
        self, *, start_sample: int, end_sample: int, start_at: datetime, end_at: datetime, sound: bytes, microphone: str | None = None
    ) -> int:
        """Store a segment that waits to be judged, with its sound; returns its id. Half open, in samples of the stream and in UTC.

        microphone: which one heard it; None for a recording. Raises ValueError for moments not in UTC, and for segments that are empty or
        longer than LONGEST_SEGMENT_S.
        """
        check_time_range(start_at, end_at)
        if (end_at - start_at).total_seconds() > MAX_SEGMENT_S:
            raise ValueError(f"a segment lasts at most {MAX_SEGMENT_S} s, this one is from {start_at} to {end_at}")
        row = SegmentRow(
            stream=self.stream,
            start_sample=start_sample,
            end_sample=end_sample,
            start_at=start_at,
            end_at=end_at,
            zone=self._zone,
            state=SegmentState.WAITING,
            microphone=microphone,
        )
        with self._writing() as session:
            row.id = int(session.scalar(text(NEXT_SEGMENT_ID)))
            session.add(row)
            session.flush()
            session.add(SoundRow(segment_id=row.id, pcm=sound, stored_at=datetime.now(UTC)))
            return row.id

    def judge(self, results: Mapping[int, InferenceResult], keep_audio: bool = False) -> list[int]:
        """Store what the model said about segments, by their ids, and erase their sound unless it is to be kept.

        What they add to a reference of the voice is stored in the same transaction. Returns those that were waiting for it; what was
        settled before stays as it is.
        """
        judged_at = datetime.now(UTC)
        with self._writing() as session:
            rows = _waiting_rows(session, results)
            for segment_id, row in rows.items():
                prediction = results[segment_id].prediction
                row.state = SegmentState.JUDGED
                row.emotion = prediction.emotion.value
                row.confidence = prediction.confidence
                row.unsure = prediction.unsure
                row.posterior = {emotion.value: probability for emotion, probability in prediction.posterior.items()}
                row.bundle_version = prediction.bundle_version
                row.judged_at = judged_at
                row.transcript = results[segment_id].transcript
                voice = results[segment_id].voice
                if voice is not None:
                    row.loudness_db, row.pitch_hz = voice.loudness_db, voice.pitch_hz
            voice_reference.learn_voice(session, ((row, results[segment_id]) for segment_id, row in rows.items()))
            if not keep_audio:
                session.exec(delete(SoundRow).where(col(SoundRow.segment_id).in_(rows)))
            return list(rows)

    def voice_version(self, segment_id: int, voice_space: str) -> str | None:
        """Which reference of the voice a segment is to be heard against, by its microphone; None where nothing is known."""
        with self._writing() as session:
            return voice_reference.reference_version_for(session, voice_space, segment_id)

    def reference_sums(self, version: str) -> VoiceReferenceSums | None:
        """That reference, with all its sums as they are now; None where it is gone. Raises ValueError where they make no sense."""
        with self._writing() as session:
            return voice_reference.load_reference_sums(session, version)

    def voice_reference(self, microphone: str, voice_space: str) -> VoiceReference | None:
        """What is known of the voice through a microphone; None where nothing is."""
        with self._writing() as session:
            return voice_reference.find_voice_reference(session, voice_space, microphone)

    def give_up(self, segment_ids: Collection[int], reason: str) -> None:
        """Store why waiting segments will never be judged, erase their sound, and store their time as engine-down."""
        with self._writing() as session:
            rows = _waiting_rows(session, segment_ids)
            for row in rows.values():
                row.state, row.reason = SegmentState.UNJUDGED, reason
                lost = CoverageInterval(row.stream, Coverage.ENGINE_DOWN, row.start_at, row.end_at, row.zone, reason)
                session.add(CoverageRow(**asdict(lost)))
            session.exec(delete(SoundRow).where(col(SoundRow.segment_id).in_(rows)))

    def sound(self, segment_id: int) -> bytes | None:
        """The sound of a segment that waits; None when it does not."""
        with self._writing() as session:
            return session.exec(
                select(SoundRow.pcm)
                .join(SegmentRow, col(SegmentRow.id) == SoundRow.segment_id)
                .where(SoundRow.segment_id == segment_id, SegmentRow.state == SegmentState.WAITING)
            ).first()

    def recover(self) -> list[tuple[int, datetime, float]]:
        """What earlier starts of the monitor left waiting: id, start and length in seconds, oldest first.

        What has no sound is given up: backups hold none.
        """
        with self._writing() as session:
            rows = session.exec(_WAITING.where(col(SegmentRow.stream) != self.stream)).all()
            with_sound = set(session.exec(select(SoundRow.segment_id)).all())
            found = [(row.id, row.start_at, (row.end_at - row.start_at).total_seconds()) for row in rows if row.id is not None]
        silent = [segment_id for segment_id, _, _ in found if segment_id not in with_sound]
        if silent:
            self.give_up(silent, "its sound was not in the backup")
        left = [one for one in found if one[0] in with_sound]
        if left:
            _logger.info("%d segments of earlier starts are still to be judged", len(left))
        return left

    def waiting_stored_before(self, moment: datetime) -> list[int]:
        """Segments that wait and were stored before `moment`."""
        old = (
            select(SoundRow.segment_id)
            .join(SegmentRow, col(SegmentRow.id) == SoundRow.segment_id)
            .where(SegmentRow.state == SegmentState.WAITING, SoundRow.stored_at < moment)
        )
        with self._writing() as session:
            return list(session.exec(old).all())

    def beyond(self, limit_bytes: int) -> list[int]:
        """Of the segments that wait, the oldest that have to go so that the sound of the others is at most `limit_bytes` long."""
        sizes = (
            select(SoundRow.segment_id, func.length(SoundRow.pcm))
            .join(SegmentRow, col(SegmentRow.id) == SoundRow.segment_id)
            .where(SegmentRow.state == SegmentState.WAITING)
            .order_by(col(SegmentRow.start_at).desc(), col(SegmentRow.id).desc())
        )
        with self._writing() as session:
            newest_first = session.exec(sizes).all()
        totals = accumulate(size for _, size in newest_first)
        return [segment_id for (segment_id, _), total in zip(newest_first, totals, strict=True) if total > limit_bytes]

    def erase_audio(self, before: datetime) -> int:
        """Erase kept sound that was stored before `before` and is not waited for; returns of how many segments."""
        waiting = select(SegmentRow.id).where(SegmentRow.state == SegmentState.WAITING)
        old = delete(SoundRow).where(col(SoundRow.stored_at) < before, col(SoundRow.segment_id).not_in(waiting))
        with self._writing() as session:
            return int(session.exec(old).rowcount)

    def release_free_pages(self) -> None:
        """Return the file's free pages to the disk: what a large spool leaves behind."""
        with self._turn, translated_errors(self._path), self._engine.begin() as connection:
            # Each step of the statement frees a page, and SQLAlchemy takes but one step of what has no columns.
            connection.connection.cursor().execute("PRAGMA incremental_vacuum").fetchall()

    def cover(self, kind: Coverage, start_at: datetime, end_at: datetime, reason: str = "") -> None:
        """Store what became of [start_at, end_at); extends this stream's last interval of the kind where they touch.

        Raises ValueError for moments that are not in UTC and for empty stretches.
        """
        new = CoverageInterval(self.stream, kind, start_at, end_at, self._zone, reason)
        with self._writing() as session:
            row = session.exec(
                select(CoverageRow)
                .where(CoverageRow.stream == self.stream, CoverageRow.kind == kind)
                .order_by(col(CoverageRow.end_at).desc())
            ).first()
            merged = row and merge_coverage(_coverage_of(row), new, MAX_COVERAGE_GAP_S)
            if row is not None and merged is not None:
                row.start_at, row.end_at = merged.start_at, merged.end_at
            else:
                session.add(CoverageRow(**asdict(new)))

    def close(self) -> None:
        """Let go of the file; what SQLite kept beside it is folded in."""
        with self._turn:
            self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._turn, write_transaction(self._path, self._engine) as session:
            yield session


_WAITING = select(SegmentRow).where(SegmentRow.state == SegmentState.WAITING).order_by(col(SegmentRow.start_at), col(SegmentRow.id))


def _waiting_rows(session: Session, segment_ids: Iterable[int]) -> dict[int, SegmentRow]:
    """Those of the segments that wait, by id."""
    rows = ((segment_id, session.get(SegmentRow, segment_id)) for segment_id in segment_ids)
    return {segment_id: row for segment_id, row in rows if row is not None and row.state == SegmentState.WAITING}


def _coverage_of(row: CoverageRow) -> CoverageInterval:
    return CoverageInterval(row.stream, Coverage(row.kind), row.start_at, row.end_at, row.zone, row.reason)


def _migrate(connection: Connection) -> None:
    """Apply all pending migrations in the transaction that is open: all of them with their records, or none."""
    # Imported here: it takes half a second, and a database is migrated once in its life.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "monitor.storage:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


INTERRUPTED = "it was interrupted"
"""Why a run failed whose process is gone."""

_FAILED = "failed"
_PROCESS = "process"
_BUSY_TIMEOUT_S = 5.0


class JobHistory:
    """The runs of jobs, to be written. Any thread may call any method; every one raises TimelineError when the file cannot be written."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine

    @classmethod
    def open(cls, path: Path, keys: KeyStore) -> Self:
        """Open the timeline in `path`. Raises TimelineError where there is none, StoreKeyError when its key is not there."""
        key = find_timeline_key(path, keys)
        if key is None:
            raise TimelineError(f"there is no timeline in {path} yet; `emosllm-monitor start` begins one")
        return cls(path, create_database_engine(path, key, _BUSY_TIMEOUT_S))

    def begin(self, job: str, day: date, at: datetime) -> int | None:
        """Store that a job begins now, in this process, for a local date; returns the run's id. at: UTC.

        None when a process is doing that job. What a dead one left open is ended first.
        """
        _require_utc(at)
        with write_transaction(self._path, self._engine) as session:
            if not all(_end_if_dead(row) for row in session.exec(_OPEN_RUNS.where(JobRunRow.job == job)).all()):
                return None
            row = JobRunRow(job=job, day=day.isoformat(), started_at=at, reason="", details={_PROCESS: _this_process()})
            session.add(row)
            session.flush()
            return row.id

    def end(self, run_id: int, at: datetime, outcome: str, reason: str, details: Mapping[str, Any]) -> None:
        """Store what came of it. details: in JSON's types; counts and figures."""
        _require_utc(at)
        with write_transaction(self._path, self._engine) as session:
            row = session.get(JobRunRow, run_id)
            if row is not None:
                row.ended_at, row.outcome, row.reason, row.details = at, outcome, reason, dict(details) or None

    def retract(self, run_id: int) -> None:
        """Erase that a job began: its conditions do not hold, so it has not."""
        with write_transaction(self._path, self._engine) as session:
            row = session.get(JobRunRow, run_id)
            if row is not None:
                session.delete(row)

    def fail_interrupted(self) -> int:
        """End what dead processes left open; returns how many runs that were."""
        with write_transaction(self._path, self._engine) as session:
            return sum(_end_if_dead(row) for row in session.exec(_OPEN_RUNS).all())

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()


_OPEN_RUNS = select(JobRunRow).where(col(JobRunRow.ended_at).is_(None))


def _end_if_dead(row: JobRunRow) -> bool:
    """Whether nobody does it any more. When it ended is not known then, so its start stands for that."""
    if _is_alive(str((row.details or {}).get(_PROCESS, ""))):
        return False
    row.ended_at, row.outcome, row.reason, row.details = row.started_at, _FAILED, INTERRUPTED, {"interrupted": True}
    return True


def _this_process() -> str:
    return _process_identity("self")


def _is_alive(process: str) -> bool:
    number = process.split(" ")[0]
    return number.isdecimal() and _process_identity(number) == process


def _process_identity(number: str) -> str:
    """A process by its number, its start, and the start of the machine it is of: numbers alone are given again. Empty where it is gone."""
    try:
        # The name in brackets may hold anything, spaces and brackets too.
        before, _, after = Path(f"/proc/{number}/stat").read_text().rpartition(")")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    fields = after.split()
    return "" if fields[0] in "ZX" else f"{before.split(' ')[0]} {fields[19]} {boot}"


def _require_utc(moment: datetime) -> None:
    if moment.tzinfo is not UTC:
        raise ValueError(f"moments must be aware and in UTC, this one is {moment!r}")
