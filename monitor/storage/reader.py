"""Reads a timeline, also while a daemon writes to it; never creates one, and never changes what is in it.

Speaks SQL through the driver, because importing SQLModel takes most of a second and a report must not wait for that.
`monitor/storage/schema.py` owns the tables; a test holds both to the same columns. SQLite's errors are turned into TimelineError here,
for the writing side too. `AudioReader` also reads the audio that is kept of predicted segments.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from model.emotions import Emotion, Prediction
from model.errors import TimelineError
from monitor.storage.cipher import DRIVER, Connection, Error, Row, StoreKey, connect, name_of, salt_of
from monitor.storage.keys import KeyStore
from monitor.storage.records import (
    MAX_SEGMENT_S,
    MIN_DAY_SPEECH_S,
    CheckIn,
    Correction,
    Coverage,
    CoverageInterval,
    JobRun,
    PredictedSegment,
    Prompt,
    Prosody,
    SegmentRecord,
    SegmentState,
    VoiceReference,
)

SCHEMA_VERSION = "0006"
"""The last migration this program knows."""

MAX_ROW_ID = 2**63 - 1
"""SQLite's largest number: a row cannot have a higher one, and it cannot even be asked about."""

_BUSY_TIMEOUT_S = 5.0
_STORED_TIME = "%Y-%m-%d %H:%M:%S.%f"
_ENTRY = """
    SELECT segment.id, stream, start_sample, end_sample, start_at, end_at, zone, state, reason,
           posterior, unsure, bundle_version, judged_at, loudness_db, pitch_hz, voice_version,
           said.id AS said_id, said.emotion AS said_emotion, said.confirmed AS said_confirmed, said.at AS said_at
    FROM segment LEFT JOIN correction AS said
    ON said.id = (SELECT max(id) FROM correction WHERE segment_id = segment.id AND undone_at IS NULL)"""
_SEGMENTS = f"{_ENTRY} WHERE start_at > :earliest AND start_at < :end AND end_at > :start ORDER BY start_at, segment.id"
_ESTIMATES = """
    SELECT id, start_at, end_at, posterior, unsure FROM segment
    WHERE start_at > :earliest AND start_at < :end AND end_at > :start AND state = 'judged' ORDER BY start_at, id"""
_SEGMENT = f"{_ENTRY} WHERE segment.id = :id"
# The plus keeps SQLite from going through all segments of that time: few are ever corrected.
# What is said of a segment is said after it; a day's grace is for clocks that were set.
_CORRECTED = f"""
    {_ENTRY} WHERE segment.id IN (SELECT segment_id FROM correction WHERE undone_at IS NULL AND at > datetime(:start, '-1 day'))
    AND +start_at > :earliest AND +start_at < :end AND end_at > :start ORDER BY start_at, segment.id"""
_KNOWN_IDS = "SELECT min(id) AS lowest, max(id) AS highest FROM segment"
_CHECKIN = "SELECT id, at, zone, valence, emotion, note FROM checkin"
_CHECKINS = f"{_CHECKIN} WHERE at >= :start AND at < :end ORDER BY at, id"
_LAST_CHECKIN = f"{_CHECKIN} ORDER BY id DESC LIMIT 1"
_PROMPTS = "SELECT id, at, zone, checkin_id FROM prompt WHERE at >= :start AND at < :end ORDER BY at, id"
_COVERAGE = """
    SELECT stream, kind, start_at, end_at, zone, reason
    FROM coverage WHERE start_at < :end AND end_at > :start ORDER BY start_at, id"""
_KNOWN = f"""
    SELECT min(start_at) AS start_at, max(end_at) AS end_at
    FROM (SELECT start_at, end_at FROM ({_SEGMENTS}) UNION ALL SELECT start_at, end_at FROM ({_COVERAGE}))"""
_EARLIEST = "SELECT min(start_at) AS at FROM segment UNION ALL SELECT min(start_at) FROM coverage"
_RUN = "SELECT id, job, day, started_at, ended_at, outcome, reason, details FROM job_run"
_RUNS = f"{_RUN} WHERE :job IS NULL OR job = :job ORDER BY id DESC LIMIT :limit"
_RUNS_BETWEEN = f"{_RUN} WHERE started_at >= :start AND started_at < :end ORDER BY started_at, id"
VOICE_REFERENCE_QUERY = f"""
    SELECT version, voice_space, microphone, frozen, min(hour.start_at) AS begun_at, max(hour.end_at) AS last_at,
           sum(hour.segments) AS segments, sum(hour.speech_s) AS speech_s,
           (SELECT count(*) FROM (SELECT 1 FROM voice_hour AS own WHERE own.reference_id = reference.id
            GROUP BY own.on_date HAVING sum(own.speech_s) >= {MIN_DAY_SPEECH_S})) AS days
    FROM voice_reference AS reference JOIN voice_hour AS hour ON hour.reference_id = reference.id GROUP BY reference.id"""
"""The query for rows of `voice_reference_from_row`."""

_ALL_VOICE_REFERENCES = f"{VOICE_REFERENCE_QUERY} ORDER BY last_at DESC, version"
_VOICE_HOURS = """
    SELECT sums FROM voice_hour JOIN voice_reference ON voice_reference.id = reference_id WHERE version = :version
    ORDER BY on_date, hour_at"""
_LETTERS = {emotion.value: emotion for emotion in Emotion}
_STATES = {state.value: state for state in SegmentState}
_DAMAGED = "it is damaged; `emosllm-monitor restore` puts a backup back and keeps the damaged file"
_ADVICE = {
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_BUSY": "another program holds it; close that program, or try again",
    "SQLITE_LOCKED": "another program holds it; close that program, or try again",
    "SQLITE_CORRUPT": _DAMAGED,
    # The key is known to be right by then.
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_READONLY": "it may not be written to; check its permissions and those of its folder",
    "SQLITE_CANTOPEN": "it cannot be opened; check its permissions and those of its folder",
    "SQLITE_PERM": "it cannot be opened; check its permissions and those of its folder",
    "SQLITE_IOERR": "reading or writing failed; check the disk",
}


class TimelineReader:
    """What is stored, read through one connection. Use it in the thread that opened it, and close it."""

    def __init__(self, path: Path, connection: Connection | None) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, keys: KeyStore) -> Self:
        """Open the timeline in `path`. Where there is none yet it reads as empty, until it is opened again.

        Raises TimelineError when the file is no timeline, is damaged or unreadable, or has other tables, and StoreKeyError when
        the key is not there.
        """
        key = find_timeline_key(path, keys)
        return cls(path, None if key is None else _connect(path, key))

    @property
    def is_there(self) -> bool:
        """Whether there is a timeline to be read."""
        return self._connection is not None

    def segments_between(self, start: datetime, end: datetime) -> list[SegmentRecord]:
        """The segments that overlap [start, end), by start. Both moments in UTC."""
        rows = self._rows(_SEGMENTS, start, end)
        with reject_malformed_rows(self._path):
            return [_segment_from_row(row) for row in rows]

    def predicted_segments_between(self, start: datetime, end: datetime) -> list[PredictedSegment]:
        """What the model said of the segments that overlap [start, end) and are judged, by start. Both moments in UTC."""
        rows = self._rows(_ESTIMATES, start, end)
        with reject_malformed_rows(self._path):
            return [
                PredictedSegment(
                    number, _from_stored_moment(start_at), _from_stored_moment(end_at), _posterior_from_json(posterior), bool(unsure)
                )
                for number, start_at, end_at, posterior, unsure in rows
            ]

    def corrected_between(self, start: datetime, end: datetime) -> list[SegmentRecord]:
        """Of the segments that overlap [start, end), by start, those that the person has said something of. Both moments in UTC."""
        rows = self._rows(_CORRECTED, start, end)
        with reject_malformed_rows(self._path):
            return [_segment_from_row(row) for row in rows]

    def segment(self, segment_id: int) -> SegmentRecord | None:
        """The segment of that number, if there is one."""
        rows = self._query(_SEGMENT, {"id": segment_id}) if abs(segment_id) <= MAX_ROW_ID else []
        with reject_malformed_rows(self._path):
            return next((_segment_from_row(row) for row in rows), None)

    def segment_ids(self) -> tuple[int, int] | None:
        """The lowest and the highest number of a segment; None where there is none. Not every one between must be there."""
        rows = self._query(_KNOWN_IDS, {})
        return next(((row["lowest"], row["highest"]) for row in rows if row["lowest"] is not None), None)

    def checkins_between(self, start: datetime, end: datetime) -> list[CheckIn]:
        """What the person said of how they felt in [start, end), by time. Both moments in UTC."""
        rows = self._rows(_CHECKINS, start, end)
        with reject_malformed_rows(self._path):
            return [_checkin_from_row(row) for row in rows]

    def last_checkin(self) -> CheckIn | None:
        """The check-in that was entered last, whatever moment it is about."""
        rows = self._query(_LAST_CHECKIN, {})
        with reject_malformed_rows(self._path):
            return next((_checkin_from_row(row) for row in rows), None)

    def prompts_between(self, start: datetime, end: datetime) -> list[Prompt]:
        """When the person was asked to check in, in [start, end), by time. Both moments in UTC."""
        rows = self._rows(_PROMPTS, start, end)
        with reject_malformed_rows(self._path):
            return [Prompt(row["id"], _from_stored_moment(row["at"]), row["zone"], row["checkin_id"]) for row in rows]

    def coverage_between(self, start: datetime, end: datetime) -> list[CoverageInterval]:
        """The coverage that overlaps [start, end), by start. Both moments in UTC."""
        rows = self._rows(_COVERAGE, start, end)
        with reject_malformed_rows(self._path):
            return [_coverage_from_row(row) for row in rows]

    def job_runs(self, limit: int, job: str | None = None) -> list[JobRun]:
        """The last runs of one of the monitor's jobs, or of all, newest first; at most `limit`."""
        rows = self._query(_RUNS, {"job": job, "limit": limit})
        with reject_malformed_rows(self._path):
            return [_job_run_from_row(row) for row in rows]

    def job_runs_between(self, start: datetime, end: datetime) -> list[JobRun]:
        """The runs that began in [start, end), by start. Both moments in UTC."""
        rows = self._rows(_RUNS_BETWEEN, start, end)
        with reject_malformed_rows(self._path):
            return [_job_run_from_row(row) for row in rows]

    def voice_references(self) -> list[VoiceReference]:
        """What is known of the person's voice: through each microphone, by bundles of each voice space, the last heard first."""
        rows = self._query(_ALL_VOICE_REFERENCES, {})
        with reject_malformed_rows(self._path):
            return [voice_reference_from_row(row) for row in rows]

    def voice_hours(self, version: str) -> list[bytes]:
        """The sums of the reference of that version, hour by hour, in the order in which they are added up."""
        return [bytes(row["sums"]) for row in self._query(_VOICE_HOURS, {"version": version})]

    def overlapping(self, start: datetime, end: datetime) -> tuple[datetime, datetime] | None:
        """From when until when segments or coverage are stored that overlap [start, end); None if there are none."""
        rows = self._rows(_KNOWN, start, end)
        with reject_malformed_rows(self._path):
            return next(
                ((_from_stored_moment(row["start_at"]), _from_stored_moment(row["end_at"])) for row in rows if row["start_at"]), None
            )

    def earliest(self) -> datetime | None:
        """When the first segment or coverage begins that is stored."""
        with reject_malformed_rows(self._path):
            moments = [row["at"] for row in self._query(_EARLIEST, {}) if row["at"] is not None]
            return min((_from_stored_moment(moment) for moment in moments), default=None)

    def check(self) -> None:
        """Look through the whole file for damage. Raises TimelineError when there is some."""
        if self._connection is None:
            return
        try:
            (first,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        except Error as error:
            raise timeline_error(error, self._path) from error
        if first != "ok":
            raise TimelineError(f"cannot use the timeline {self._path}: {_ADVICE['SQLITE_CORRUPT']} (SQLite says: {first})")

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def _rows(self, query: str, start: datetime, end: datetime) -> list[Row]:
        return self._query(query, range_parameters(start, end))

    def _query(self, query: str, values: Mapping[str, object]) -> list[Row]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(query, values).fetchall()
        except Error as error:
            raise timeline_error(error, self._path) from error


def find_timeline_key(path: Path, keys: KeyStore) -> StoreKey | None:
    """The key of a timeline that has the tables of this program; None where there is no timeline yet. Raises as TimelineReader.open."""
    if salt_of(path) is None:
        return None
    key = keys.find(path)
    version = read_schema_version(path, key)
    if version is not None and version != SCHEMA_VERSION:
        raise TimelineError(
            f"the timeline {path} still has the tables of an older version; run `emosllm-monitor start` once, which brings them up to date"
        )
    return None if version is None else key


def read_schema_version(path: Path, key: StoreKey) -> str | None:
    """The version of the tables in `path`, a file that `key` belongs to; None for an empty database.

    Raises TimelineError when it is damaged, unreadable, another program's, or newer than this.
    """
    try:
        with closing(_connect(path, key)) as connection:
            version = _version(connection, path)
    except Error as error:
        raise timeline_error(error, path) from error
    if version is not None and version > SCHEMA_VERSION:
        raise TimelineError(
            f"the timeline {path} was written by a newer program (tables {version}, this one knows {SCHEMA_VERSION}); "
            "update emosllm-monitor"
        )
    return version


def timeline_error(error: BaseException | None, path: Path) -> TimelineError:
    """What an error of SQLite means for a person, and what to do about it."""
    name = name_of(error)
    advice = next((advice for prefix, advice in _ADVICE.items() if name.startswith(prefix)), "an unforeseen error")
    return TimelineError(f"cannot use the timeline {path}: {advice} (SQLite says: {error})")


def _version(connection: Connection, path: Path) -> str | None:
    tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if not {"alembic_version", "segment"} <= tables:
        raise TimelineError(f"{path} is another program's database; name another file in [timeline] database")
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row["version_num"])


def _connect(path: Path, key: StoreKey) -> Connection:
    connection = connect(path, key, read_only=True, timeout_s=_BUSY_TIMEOUT_S)
    connection.row_factory = DRIVER.Row
    return connection


def voice_reference_from_row(row: Sequence[Any]) -> VoiceReference:
    """A row of VOICE_REFERENCES."""
    version, voice_space, microphone, frozen, begun_at, last_at, segments, speech_s, days = row
    spoken = (_from_stored_moment(begun_at), _from_stored_moment(last_at), round(segments), speech_s, days)
    return VoiceReference(version, voice_space, microphone, bool(frozen), *spoken)


def range_parameters(start: datetime, end: datetime) -> dict[str, str]:
    """The values of queries for what overlaps [start, end), both in UTC: `start`, `end` and `earliest`.

    `earliest` lets SQLite find overlapping segments by the index of their starts, however long the timeline.
    """
    moments = {"start": start, "end": end, "earliest": start - timedelta(seconds=MAX_SEGMENT_S)}
    return {name: to_stored_moment(moment) for name, moment in moments.items()}


@contextmanager
def reject_malformed_rows(path: Path) -> Iterator[None]:
    """Rows that cannot be understood were not written by this program."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise TimelineError(f"the timeline {path} holds a row that makes no sense: {error}") from error


def to_stored_moment(moment: datetime) -> str:
    """A moment as SQLModel stores it: UTC, of fixed width, so that text order is time order."""
    if moment.tzinfo is not UTC:
        raise ValueError(f"moments must be aware and in UTC, this one is {moment!r}")
    return moment.strftime(_STORED_TIME)


def _from_stored_moment(stored: str) -> datetime:
    return datetime.fromisoformat(stored + "+00:00")


def _segment_from_row(row: Row) -> SegmentRecord:
    # By position, and without a call per letter: a year of a talkative person has half a million rows.
    (number, stream, start_sample, end_sample, start_at, end_at, zone, state_name, reason, posterior, unsure, bundle, judged_at) = row[:13]
    loudness_db, pitch_hz, voice_version, said_id, said_emotion, said_confirmed, said_at = row[13:]
    state, prediction = _STATES[state_name], None
    if state is SegmentState.JUDGED:
        prediction = Prediction(_posterior_from_json(posterior), bool(unsure), bundle)
    correction = None
    if said_id is not None:
        correction = Correction(said_id, _LETTERS[said_emotion], bool(said_confirmed), _from_stored_moment(said_at))
    return SegmentRecord(
        id=number,
        stream=stream,
        start_sample=start_sample,
        end_sample=end_sample,
        start_at=_from_stored_moment(start_at),
        end_at=_from_stored_moment(end_at),
        zone=zone,
        state=state,
        reason=reason,
        prediction=prediction,
        judged_at=None if judged_at is None else _from_stored_moment(judged_at),
        correction=correction,
        voice=None if loudness_db is None else Prosody(loudness_db, pitch_hz),
        voice_version=voice_version,
    )


def _posterior_from_json(stored: str) -> dict[Emotion, float]:
    return {_LETTERS[letter]: probability for letter, probability in json.loads(stored).items()}


def _checkin_from_row(row: Row) -> CheckIn:
    return CheckIn(row["id"], _from_stored_moment(row["at"]), row["zone"], row["valence"], Emotion(row["emotion"]), row["note"])


def _coverage_from_row(row: Row) -> CoverageInterval:
    start_at, end_at = _from_stored_moment(row["start_at"]), _from_stored_moment(row["end_at"])
    return CoverageInterval(row["stream"], Coverage(row["kind"]), start_at, end_at, row["zone"], row["reason"])


def _job_run_from_row(row: Row) -> JobRun:
    return JobRun(
        id=row["id"],
        job=row["job"],
        day=date.fromisoformat(row["day"]),
        started_at=_from_stored_moment(row["started_at"]),
        ended_at=None if row["ended_at"] is None else _from_stored_moment(row["ended_at"]),
        outcome=row["outcome"],
        reason=row["reason"],
        details=json.loads(row["details"] or "{}"),
    )


_BYTES_A_SAMPLE = 2
# Both by the primary key, which is all that an index says; a length is in a row's head, so that no sound is read for it.
_LENGTHS = """
    SELECT segment_id, length(pcm) AS bytes FROM json_each(:ids) CROSS JOIN sound ON segment_id = value
    JOIN segment ON segment.id = segment_id WHERE state = 'judged'"""
_SOUND = "SELECT pcm FROM sound JOIN segment ON segment.id = segment_id WHERE segment_id = :id AND state = 'judged'"


class AudioReader(TimelineReader):
    """A reader of a timeline that knows its kept sound too. Every method raises TimelineError."""

    def lengths(self, segment_ids: Iterable[int]) -> dict[int, int]:
        """How many samples of segments are kept, by their ids; without those of which none are."""
        rows = self._query(_LENGTHS, {"ids": json.dumps(list(segment_ids))})
        return {row["segment_id"]: row["bytes"] // _BYTES_A_SAMPLE for row in rows}

    def sound(self, segment_id: int) -> bytes | None:
        """Mono int16 at SAMPLE_RATE, little endian; None where none is kept, or the segment still waits."""
        return next((bytes(row["pcm"]) for row in self._query(_SOUND, {"id": segment_id})), None)
