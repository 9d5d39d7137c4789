"""The export schema: five tables, their columns, what makes a row valid, and how values are written in JSON and in text cells.

A row maps column names to values: text, int, float, bool, aware UTC times, None where a column is optional, and for a posterior a mapping
from letters to probabilities in the order of `Emotion`. Rows hold no database numbers: a segment is identified by its stream and first
sample, a check-in by its time; so rows mean the same in every timeline.

Values read back exactly. A text cell that a spreadsheet could take for a formula begins with an apostrophe, as does one that is empty but
not missing, and one that begins with an apostrophe itself; removing one apostrophe restores every text.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from model.emotions import Emotion, Prediction
from monitor.storage.records import MAX_SEGMENT_S, Coverage, CoverageInterval, SegmentRecord, SegmentState

EXPORT_FORMAT = "emosllm-monitor export"
EXPORT_VERSION = 1
EXPORT_NOTICE = (
    "Estimates by a machine from the sound of a voice, not a diagnosis. These files are not encrypted: anyone who has them can read them. "
    "They contain no audio."
)

Row = Mapping[str, Any]
_E = TypeVar("_E", bound=StrEnum)


class ExportFormat(StrEnum):
    """How an export is written. csv and parquet are folders with a file for each table; fhir tells days, and cannot be brought back."""

    CSV = "csv"
    FHIR = "fhir"
    JSONL = "jsonl"
    PARQUET = "parquet"


class ValueKind(StrEnum):
    """What a value is. moment: aware UTC, to the microsecond. posterior: letter to probability."""

    TEXT = "text"
    INTEGER = "integer"
    REAL = "real"
    TRUTH = "truth"
    MOMENT = "moment"
    POSTERIOR = "posterior"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. words: what it says, for people. optional: None where it does not apply."""

    name: str
    kind: ValueKind
    words: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of rows. one: what a single row is called. check: raises ValueError for a row that cannot be true."""

    name: str
    one: str
    columns: tuple[Column, ...]
    check: Callable[[Row], None]

    @property
    def flat_columns(self) -> tuple[Column, ...]:
        """The columns where a value must be one cell: a posterior becomes a column per emotion."""
        return tuple(flat for column in self.columns for flat in _flat(column))


def flatten(row: Row) -> dict[str, Any]:
    """A row of `columns` as one of `flat_columns`."""
    flat = dict(row)
    if "posterior" in flat:
        posterior = flat.pop("posterior") or {}
        flat.update({_posterior_column(emotion): posterior.get(emotion.value) for emotion in Emotion})
    return flat


def unflatten(table: Table, flat: Row) -> dict[str, Any]:
    """The inverse of `flatten`."""
    row = {column.name: flat.get(column.name) for column in table.columns}
    if "posterior" in row:
        given = {emotion.value: flat[_posterior_column(emotion)] for emotion in Emotion}
        row["posterior"] = {letter: probability for letter, probability in given.items() if probability is not None} or None
    return row


def check_row(table: Table, row: Row) -> None:
    """Raise ValueError, naming the column, unless every value is of its column's kind and the row as a whole makes sense."""
    for column in table.columns:
        _check_value(column, row[column.name])
    table.check(row)


def _flat(column: Column) -> Iterator[Column]:
    if column.kind is not ValueKind.POSTERIOR:
        yield column
        return
    for emotion in Emotion:
        words = f"probability of {emotion.word}, 0 to 1; empty if the model cannot predict it"
        yield replace(column, name=_posterior_column(emotion), kind=ValueKind.REAL, words=words)


def _posterior_column(emotion: Emotion) -> str:
    return f"p_{emotion.word}"


_LETTERS = frozenset(Emotion)
_TYPES: Mapping[ValueKind, Callable[[Any], bool]] = {
    # Half of a surrogate pair is valid in JSON, and in no file.
    ValueKind.TEXT: lambda value: isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value),
    ValueKind.INTEGER: lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63,
    ValueKind.REAL: lambda value: isinstance(value, float) and math.isfinite(value),
    ValueKind.TRUTH: lambda value: isinstance(value, bool),
    ValueKind.MOMENT: lambda value: isinstance(value, datetime) and value.tzinfo is UTC and value.year >= 1000,
    ValueKind.POSTERIOR: lambda value: (
        isinstance(value, Mapping)
        and all(letter in _LETTERS and isinstance(share, float) and 0 <= share <= 1 for letter, share in value.items())
    ),
}


def _check_value(column: Column, value: object) -> None:
    if value is None:
        if not column.optional:
            raise ValueError(f"{column.name} is missing")
    elif not _TYPES[column.kind](value):
        raise ValueError(f"{column.name} is {value!r}, which is not a valid {column.kind}")


def _check_segment(row: Row) -> None:
    if not 0 <= row["start_sample"] < row["end_sample"]:
        raise ValueError(f"a segment cannot run from sample {row['start_sample']} to {row['end_sample']}")
    _check_zone(row["zone"])
    state = _one_of(SegmentState, "state", row["state"])
    judged = ("emotion", "confidence", "unsure", "posterior", "bundle_version", "judged_at")
    if {row[name] is not None for name in judged} != {state is SegmentState.JUDGED}:
        raise ValueError(f"the state is {state}, but {', '.join(judged)} must all be set if it is judged, and none otherwise")
    if (row["reason"] is not None) != (state is SegmentState.UNJUDGED):
        raise ValueError(f"the state is {state}, but a reason must be set if it is unjudged, and only then")
    prediction = None if state is not SegmentState.JUDGED else _prediction(row)
    entry = SegmentRecord(
        0, row["stream"], row["start_sample"], row["end_sample"], row["start_at"], row["end_at"], row["zone"], state, None, prediction
    )
    if (entry.end_at - entry.start_at).total_seconds() > MAX_SEGMENT_S:
        raise ValueError(f"a segment lasts at most {MAX_SEGMENT_S:.0f} s; this one runs from {entry.start_at} to {entry.end_at}")


def _prediction(row: Row) -> Prediction:
    posterior = {Emotion(letter): probability for letter, probability in row["posterior"].items()}
    prediction = Prediction(posterior, row["unsure"], row["bundle_version"])
    highest = max(posterior.values())
    if posterior.get(row["emotion"]) != highest or row["confidence"] != highest:
        raise ValueError(f"emotion {row['emotion']!r} and confidence {row['confidence']} do not match the posterior")
    return prediction


def _check_correction(row: Row) -> None:
    _one_of(Emotion, "emotion", row["emotion"])


def _check_coverage(row: Row) -> None:
    _check_zone(row["zone"])
    kind = _one_of(Coverage, "kind", row["kind"])
    CoverageInterval(row["stream"], kind, row["start_at"], row["end_at"], row["zone"], row["reason"])


def _check_checkin(row: Row) -> None:
    _check_zone(row["zone"])
    _one_of(Emotion, "emotion", row["emotion"])
    if not -1 <= row["valence"] <= 1:
        raise ValueError(f"valence is {row['valence']}; it must be between -1 and 1")


def _check_prompt(row: Row) -> None:
    _check_zone(row["zone"])


def _one_of(values: type[_E], name: str, text: str) -> _E:
    try:
        return values(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}; it must be one of {', '.join(values)}") from None


@lru_cache
def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError(f"zone is {name!r}, which is not an IANA time zone") from None


_STREAM = Column("stream", ValueKind.TEXT, "the run of the monitor; with start_sample it identifies the segment")
_ZONE = Column("zone", ValueKind.TEXT, "IANA time zone of the monitor")

SEGMENTS = Table(
    "segments",
    "segment",
    (
        _STREAM,
        Column("start_sample", ValueKind.INTEGER, "first sample in the stream, at 16000 Hz"),
        Column("end_sample", ValueKind.INTEGER, "one past the last sample"),
        Column("start_at", ValueKind.MOMENT, "start of the speech"),
        Column("end_at", ValueKind.MOMENT, "end of the speech"),
        _ZONE,
        Column("state", ValueKind.TEXT, "judged: has an estimate; waiting: not analysed yet; unjudged: will not be analysed"),
        Column("reason", ValueKind.TEXT, "why it is unjudged", optional=True),
        Column("emotion", ValueKind.TEXT, "letter of the most probable emotion", optional=True),
        Column("confidence", ValueKind.REAL, "its estimated probability, 0 to 1", optional=True),
        Column("unsure", ValueKind.TRUTH, "true if below the confidence threshold", optional=True),
        Column("posterior", ValueKind.POSTERIOR, "estimated probability of each letter the model can predict", optional=True),
        Column("bundle_version", ValueKind.TEXT, "version of the model", optional=True),
        Column("judged_at", ValueKind.MOMENT, "time of the estimate", optional=True),
        Column("loudness_db", ValueKind.REAL, "RMS level in dB re full scale; empty if not measured", optional=True),
        Column("pitch_hz", ValueKind.REAL, "median pitch of voiced frames in Hz; empty without voiced frames", optional=True),
        Column("transcript", ValueKind.TEXT, "transcript, if transcripts are kept", optional=True),
    ),
    _check_segment,
)
CORRECTIONS = Table(
    "corrections",
    "correction",
    (
        _STREAM,
        Column("start_sample", ValueKind.INTEGER, "first sample of the segment"),
        Column("emotion", ValueKind.TEXT, "letter of the person's label"),
        Column("confirmed", ValueKind.TRUTH, "true if the person confirmed the estimate, false if they chose the label"),
        Column("at", ValueKind.MOMENT, "time of the label"),
        Column("undone_at", ValueKind.MOMENT, "when the label was undone", optional=True),
    ),
    _check_correction,
)
COVERAGE = Table(
    "coverage",
    "coverage",
    (
        Column("stream", ValueKind.TEXT, "the run of the monitor"),
        Column("kind", ValueKind.TEXT, f"one of {', '.join(Coverage)}"),
        Column("start_at", ValueKind.MOMENT, "start"),
        Column("end_at", ValueKind.MOMENT, "end; clipped to the exported range"),
        _ZONE,
        Column("reason", ValueKind.TEXT, "details, if any"),
    ),
    _check_coverage,
)
CHECKINS = Table(
    "checkins",
    "checkin",
    (
        Column("at", ValueKind.MOMENT, "time of the check-in"),
        _ZONE,
        Column("valence", ValueKind.REAL, "-1 (very unpleasant) to 1 (very pleasant)"),
        Column("emotion", ValueKind.TEXT, "letter of the reported emotion"),
        Column("note", ValueKind.TEXT, "the person's note", optional=True),
    ),
    _check_checkin,
)
PROMPTS = Table(
    "prompts",
    "prompt",
    (
        Column("at", ValueKind.MOMENT, "time of the prompt to check in"),
        _ZONE,
        Column("answered_at", ValueKind.MOMENT, "time of the check-in that answered it", optional=True),
    ),
    _check_prompt,
)
TABLES = (SEGMENTS, CORRECTIONS, COVERAGE, CHECKINS, PROMPTS)
"""In the order in which they are written: what refers to another row comes after it."""

_GUARD = "'"
# What spreadsheets begin a formula with (full-width forms too), or skip before one.
_RISKY = tuple("=+-@\t\r\n＝＋－＠" + _GUARD)


def format_utc(moment: datetime) -> str:
    """Of fixed width, in UTC."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_utc(text: str) -> datetime:
    """An ISO 8601 moment that says its offset, as UTC."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset; use for example 2026-07-14T12:00:00Z")
    return moment.astimezone(UTC)


def to_json_value(column: Column, value: Any) -> Any:
    """The value as JSON has it."""
    return format_utc(value) if column.kind is ValueKind.MOMENT and value is not None else value


def from_json_value(column: Column, value: Any) -> Any:
    """The inverse of `to_json_value`; whether a value is of the right kind at all is for others to check."""
    match column.kind:
        case ValueKind.MOMENT if isinstance(value, str):
            return _parse_named(column, parse_utc, value)
        case ValueKind.REAL:
            return _real(value)
        case ValueKind.POSTERIOR if isinstance(value, Mapping):
            return {letter: _real(probability) for letter, probability in value.items()}
        case _:
            return value


def to_cell(column: Column, value: Any) -> str:
    """The value as a cell; empty for None."""
    match column.kind:
        case _ if value is None:
            return ""
        case ValueKind.TEXT:
            return _GUARD + value if not value or value.startswith(_RISKY) else str(value)
        case ValueKind.MOMENT:
            return format_utc(value)
        case ValueKind.TRUTH:
            return "true" if value else "false"
        case _:
            return repr(value)


def from_cell(column: Column, text: str) -> Any:
    """The inverse of `to_cell`."""
    return None if text == "" else _parse_named(column, _READERS[column.kind], text)


def _real(value: Any) -> Any:
    """JSON does not tell 1 from 1.0."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _parse_named(column: Column, read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{column.name}: {error}") from error


_READERS: Mapping[ValueKind, Callable[[str], Any]] = {
    ValueKind.TEXT: lambda text: text.removeprefix(_GUARD),
    ValueKind.INTEGER: int,
    ValueKind.REAL: float,
    ValueKind.TRUTH: _truth,
    ValueKind.MOMENT: parse_utc,
}
