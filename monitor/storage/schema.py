"""The tables of a timeline as SQLModel sees them, and the transactions in which they are written.

Migrations make the tables; a test holds both to the same columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Column, Connection, Engine, Index, UniqueConstraint, create_engine, event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool
from sqlmodel import Field, Session, SQLModel

from monitor.storage.cipher import DRIVER, Error, StoreKey, connect
from monitor.storage.reader import timeline_error

_ALL_OR_NONE = (
    "(emotion IS NOT NULL) + (confidence IS NOT NULL) + (unsure IS NOT NULL) + (posterior IS NOT NULL)"
    " + (bundle_version IS NOT NULL) + (judged_at IS NOT NULL) = 6 * (state = 'judged')"
)


class SegmentRow(SQLModel, table=True):
    """A row of `segment`. Table models do not validate, so the constraints do."""

    __tablename__ = "segment"
    __table_args__ = (
        UniqueConstraint("stream", "start_sample", name="segment_once"),
        CheckConstraint("0 <= start_sample AND start_sample < end_sample", name="segment_samples"),
        CheckConstraint("start_at < end_at", name="segment_times"),
        CheckConstraint("state IN ('waiting', 'judged', 'unjudged')", name="segment_state"),
        CheckConstraint("(state = 'unjudged') = (reason IS NOT NULL)", name="segment_reason"),
        CheckConstraint(_ALL_OR_NONE, name="segment_judged"),
        CheckConstraint("confidence BETWEEN 0 AND 1", name="segment_confidence"),
        Index("segment_by_start", "start_at"),
        Index("segment_waiting", "state", sqlite_where=text("state = 'waiting'")),
    )

    id: int | None = Field(default=None, primary_key=True)
    stream: str
    start_sample: int
    end_sample: int
    start_at: datetime
    end_at: datetime
    zone: str
    state: str
    reason: str | None = None
    emotion: str | None = None
    confidence: float | None = None
    unsure: bool | None = None
    posterior: dict[str, float] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    bundle_version: str | None = None
    judged_at: datetime | None = None
    transcript: str | None = None
    loudness_db: float | None = None
    pitch_hz: float | None = None
    microphone: str | None = None
    voice_version: str | None = None


class SoundRow(SQLModel, table=True):
    """A row of `sound`: mono int16 at SAMPLE_RATE, little endian. It ages from when it was stored: a recording may be old."""

    __tablename__ = "sound"
    __table_args__ = (CheckConstraint("length(pcm) > 0", name="sound_not_empty"),)

    segment_id: int = Field(primary_key=True, foreign_key="segment.id", ondelete="CASCADE")
    pcm: bytes
    stored_at: datetime


class CoverageRow(SQLModel, table=True):
    """A row of `coverage`. Kinds are not listed in a constraint: they grow, and SQLite cannot change one in place."""

    __tablename__ = "coverage"
    __table_args__ = (
        CheckConstraint("start_at < end_at", name="coverage_times"),
        Index("coverage_by_end", "end_at"),
        Index("coverage_last", "stream", "kind", "end_at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    stream: str
    kind: str
    start_at: datetime
    end_at: datetime
    zone: str
    reason: str


class CorrectionRow(SQLModel, table=True):
    """A row of `correction`: what the person says a segment was. Of a segment's, the last that is not undone holds."""

    __tablename__ = "correction"
    __table_args__ = (
        CheckConstraint("length(emotion) = 1", name="correction_letter"),
        Index("correction_by_segment", "segment_id"),
    )

    id: int | None = Field(default=None, primary_key=True)
    segment_id: int = Field(foreign_key="segment.id", ondelete="CASCADE")
    emotion: str
    confirmed: bool
    at: datetime
    undone_at: datetime | None = None


class CheckInRow(SQLModel, table=True):
    """A row of `checkin`: how the person says they feel."""

    __tablename__ = "checkin"
    __table_args__ = (
        CheckConstraint("valence BETWEEN -1 AND 1", name="checkin_valence"),
        CheckConstraint("length(emotion) = 1", name="checkin_letter"),
        Index("checkin_by_time", "at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    at: datetime
    zone: str
    valence: float
    emotion: str
    note: str | None = None


class PromptRow(SQLModel, table=True):
    """A row of `prompt`: when the person was asked to check in, and the check-in that answered."""

    __tablename__ = "prompt"
    __table_args__ = (Index("prompt_by_time", "at"),)

    id: int | None = Field(default=None, primary_key=True)
    at: datetime
    zone: str
    checkin_id: int | None = Field(default=None, foreign_key="checkin.id", ondelete="SET NULL")


class DaySummaryRow(SQLModel, table=True):
    """A row of `day_summary`: what a day that is over amounts to, in one time zone. Triggers remove it when the day's rows change."""

    __tablename__ = "day_summary"
    __table_args__ = (
        CheckConstraint("start_at < end_at", name="day_summary_times"),
        Index("day_summary_by_end", "end_at"),
    )

    on_date: str = Field(primary_key=True)
    zone: str = Field(primary_key=True)
    start_at: datetime
    end_at: datetime
    format: int
    summary: str


class JobRunRow(SQLModel, table=True):
    """A row of `job_run`: one run of one of the monitor's own jobs, and the local date that it was for. Counts only, nothing that was said.

    While it goes on, `details` names the process that does it. Outcomes are not listed in a constraint, as kinds of coverage are not.
    """

    __tablename__ = "job_run"
    __table_args__ = (
        CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="job_run_ended"),
        Index("job_run_by_job", "job", "day"),
        Index("job_run_by_start", "started_at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    job: str
    day: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    reason: str = ""
    details: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))


class VoiceReferenceRow(SQLModel, table=True):
    """A row of `voice_reference`: what is known of the person's voice through one microphone, by bundles of one voice space.

    version: another one whenever the reference is another. frozen: it is known well enough, and is not added to any more.
    """

    __tablename__ = "voice_reference"
    __table_args__ = (
        UniqueConstraint("voice_space", "microphone", name="voice_reference_once"),
        UniqueConstraint("version", name="voice_reference_version"),
    )

    id: int | None = Field(default=None, primary_key=True)
    version: str
    voice_space: str
    microphone: str
    frozen: bool


class VoiceHourRow(SQLModel, table=True):
    """A row of `voice_hour`: what the segments that began in an hour of UTC, of one local day, added to a reference.

    start_at, end_at: from the first to the last of them. sums: VoiceSums as bytes; segments and speech_s are in them too.
    """

    __tablename__ = "voice_hour"
    __table_args__ = (CheckConstraint("start_at < end_at", name="voice_hour_times"),)

    reference_id: int = Field(primary_key=True, foreign_key="voice_reference.id", ondelete="CASCADE")
    on_date: str = Field(primary_key=True)
    hour_at: datetime = Field(primary_key=True)
    start_at: datetime
    end_at: datetime
    segments: float
    speech_s: float
    sums: bytes


class SharingRow(SQLModel, table=True):
    """The row of `sharing`, once anything was ever shared with a clinic. While it is active, rows that begin at `since` or later are.

    clinic, edition: as the clinic names itself; None until it has answered.
    """

    __tablename__ = "sharing"
    __table_args__ = (CheckConstraint("id = 1", name="sharing_once"),)

    id: int | None = Field(default=None, primary_key=True)
    active: bool
    since: datetime
    clinic: str | None = None
    edition: str | None = None


class OutboxRow(SQLModel, table=True):
    """A row of `outbox`: a change that the clinic has yet to hear of. Triggers write them.

    A row of the table `kind` with the number `row_id`, as it is when it is sent; version: how often it has changed since it was noted.
    Or, without `row_id`, one that is gone, by what it is known elsewhere.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("kind", "row_id", name="outbox_once"),
        CheckConstraint("(row_id IS NULL) = (at IS NOT NULL)", name="outbox_which"),
        {"sqlite_autoincrement": True},
    )

    seq: int | None = Field(default=None, primary_key=True)
    kind: str
    row_id: int | None = None
    version: int
    queued_at: datetime
    stream: str | None = None
    start_sample: int | None = None
    at: datetime | None = None
    zone: str | None = None
    name: str | None = None
    number: float | None = None
    reason: str | None = None


def create_database_engine(path: Path, key: StoreKey, busy_timeout_s: float) -> Engine:
    """Connections to the database in `path` whose transactions take the write lock at once and are on disk when they end."""
    # One pooled connection: writes take turns anyway, and it stays open from write to write.
    engine = create_engine(
        "sqlite://",
        module=DRIVER,
        creator=lambda: connect(path, key, read_only=False, timeout_s=busy_timeout_s),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        # What is stored may be words; an error names none of it.
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL: a few rows a minute can afford to reach the disk each, so that a power cut loses none.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Explicit, because the driver begins nothing before DDL, and a failed migration would stay half done. IMMEDIATE
        # takes the write lock at once, where waiting works; turning a read lock into one fails without waiting.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn what SQLAlchemy and SQLite raise into TimelineError."""
    try:
        yield
    except (Error, SQLAlchemyError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise timeline_error(cause, path) from error


@contextmanager
def write_transaction(path: Path, engine: Engine) -> Iterator[Session]:
    """One transaction: all of it is on disk when the block ends, or, where it raises, nothing. Raises TimelineError."""
    with translated_errors(path), Session(engine) as session, session.begin():
        yield session
