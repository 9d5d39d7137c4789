"""Reads what a subject shares with the clinic, for a clinician who has access to them. The clinic records each reading in its audit log.

The whole time range is read on opening, once for each kind of rows, so that the audit says what was read and not how a report is made
of it. What is never shared reads as empty: transcripts, notes and scheduled jobs.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar
from zoneinfo import ZoneInfo

from model.emotions import Emotion, Prediction
from model.errors import ClinicError
from monitor.clinic.address import ClinicAddress
from monitor.clinic.connection import clinic_connection
from monitor.storage.records import (
    MAX_SEGMENT_S,
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
)

_T = TypeVar("_T")
_LONGEST = timedelta(seconds=MAX_SEGMENT_S)
_READ = "SELECT * FROM emosllm.read_{}(%s, %s, %s)"


def subject_zone(address: ClinicAddress, subject: str) -> ZoneInfo | None:
    """The zone in which the subject's days are days; None where nothing is shared yet. Raises ClinicError."""
    with clinic_connection(address) as connection:
        row = connection.execute("SELECT emosllm.read_zone(%s) AS zone", (subject,)).fetchone()
    try:
        return None if row is None or row["zone"] is None else ZoneInfo(row["zone"])
    except (ValueError, LookupError) as error:
        raise ClinicError(f"{address} holds an unknown time zone for {subject}") from error


class ClinicReader:
    """Everything that one subject shares of one stretch, in memory: 2 KB for a segment, so a talkative year takes a gigabyte."""

    def __init__(
        self,
        time_range: tuple[datetime, datetime],
        segments: Sequence[SegmentRecord],
        coverage: Sequence[CoverageInterval],
        checkins: Sequence[CheckIn],
        prompts: Sequence[Prompt],
    ) -> None:
        self._stretch = time_range
        self._segments, self._coverage = segments, coverage
        self._checkins, self._prompts = checkins, prompts

    @classmethod
    def open(cls, address: ClinicAddress, subject: str, start: datetime, end: datetime) -> Self:
        """Read [start, end), both aware UTC. Raises ClinicError, where the subject is not entrusted to whoever logs in, too."""
        with clinic_connection(address) as connection:

            def read(what: str, made: Callable[[dict[str, Any]], _T]) -> list[_T]:
                return [made(_plain(row)) for row in connection.execute(_READ.format(what).encode(), (subject, start, end))]

            try:
                return cls(
                    (start, end),
                    read("segments", _entry),
                    read("coverage", _interval),
                    read("checkins", _checkin),
                    read("prompts", _prompt),
                )
            except (ValueError, TypeError, AttributeError, LookupError) as error:
                raise ClinicError(f"{address} holds an invalid row of {subject}: {error}") from error

    def segments_between(self, start: datetime, end: datetime) -> list[SegmentRecord]:
        """See Readable."""
        self._refuse_beyond(start, end)
        first = bisect_left(self._segments, start - _LONGEST, key=_start_of)
        last = bisect_left(self._segments, end, key=_start_of)
        return [entry for entry in self._segments[first:last] if entry.end_at > start]

    def predicted_segments_between(self, start: datetime, end: datetime) -> list[PredictedSegment]:
        """See Readable."""
        return [
            PredictedSegment(entry.id, entry.start_at, entry.end_at, entry.prediction.posterior, entry.prediction.unsure)
            for entry in self.segments_between(start, end)
            if entry.prediction is not None
        ]

    def corrected_between(self, start: datetime, end: datetime) -> list[SegmentRecord]:
        """See Readable."""
        return [entry for entry in self.segments_between(start, end) if entry.correction is not None]

    def segment(self, segment_id: int) -> SegmentRecord | None:
        """None: at a clinic, numbers are those of the subject's machines, and name nothing."""

    def coverage_between(self, start: datetime, end: datetime) -> list[CoverageInterval]:
        """See Readable."""
        self._refuse_beyond(start, end)
        return [part for part in self._coverage if part.start_at < end and part.end_at > start]

    def checkins_between(self, start: datetime, end: datetime) -> list[CheckIn]:
        """See Readable; without notes."""
        self._refuse_beyond(start, end)
        return [checkin for checkin in self._checkins if start <= checkin.at < end]

    def prompts_between(self, start: datetime, end: datetime) -> list[Prompt]:
        """See Readable."""
        self._refuse_beyond(start, end)
        return [prompt for prompt in self._prompts if start <= prompt.at < end]

    def job_runs(self, limit: int, job: str | None = None) -> list[JobRun]:
        """None: what the monitor does by itself is not shared."""
        return []

    def job_runs_between(self, start: datetime, end: datetime) -> list[JobRun]:
        """None: what the monitor does by itself is not shared."""
        return []

    def voice_references(self) -> None:
        """Not told: what is known of a voice is not shared."""

    def earliest(self) -> datetime | None:
        """See Readable; of what was read."""
        moments = [entry.start_at for entry in self._segments[:1]] + [part.start_at for part in self._coverage[:1]]
        return min(moments, default=None)

    def close(self) -> None:
        """Nothing is open any more."""

    def _refuse_beyond(self, start: datetime, end: datetime) -> None:
        if start < self._stretch[0] or end > self._stretch[1]:
            raise ValueError(f"read was {self._stretch[0]} to {self._stretch[1]}, asked for is {start} to {end}")


def _start_of(entry: SegmentRecord) -> datetime:
    return entry.start_at


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Moments as they are here; and in text, which somebody else sent, nothing that a terminal would obey."""
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC)
        case str():
            return "".join(letter if letter.isprintable() else "?" for letter in value)
        case _:
            return value


def _entry(row: dict[str, Any]) -> SegmentRecord:
    prediction = correction = None
    if row["state"] == SegmentState.JUDGED:
        posterior = {Emotion(letter): share for letter, share in row["posterior"].items()}
        prediction = Prediction(posterior, row["unsure"], row["bundle_version"])
    if row["said_id"] is not None:
        correction = Correction(row["said_id"], Emotion(row["said_emotion"]), row["said_confirmed"], row["said_at"])
    place = (row["id"], row["stream"], row["start_sample"], row["end_sample"], row["start_at"], row["end_at"], row["zone"])
    voice = None if row["loudness_db"] is None else Prosody(row["loudness_db"], row["pitch_hz"])
    return SegmentRecord(*place, SegmentState(row["state"]), row["reason"], prediction, row["judged_at"], correction, voice)


def _interval(row: dict[str, Any]) -> CoverageInterval:
    return CoverageInterval(**{**row, "kind": Coverage(row["kind"])})


def _checkin(row: dict[str, Any]) -> CheckIn:
    return CheckIn(**{**row, "emotion": Emotion(row["emotion"])})


def _prompt(row: dict[str, Any]) -> Prompt:
    return Prompt(**row)
