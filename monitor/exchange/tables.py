"""What an export holds: five tables, their columns in words, and what makes a row sensible. Knows neither files nor databases.

A row is a mapping from column names to values: text, int, float, bool, aware UTC moments, None where a column is optional, and for a
posterior a mapping from letters to probabilities in the order of `Emotion`. Nothing is identified by a number of the database: a
segment by its stream and first sample, a check-in by its moment; so rows mean the same in every timeline.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from model.types import Emotion, Prediction
from monitor.store.records import LONGEST_SEGMENT_S, Coverage, CoverageInterval, SegmentState, TimelineEntry

FORMAT = "emosllm-monitor export"
VERSION = 1
NOTICE = (
    "Estimates by a machine from the sound of a voice, not a diagnosis. These files are not encrypted: whoever has them can read them. "
    "Sound is not among them."
)

Row = Mapping[str, Any]
_E = TypeVar("_E", bound=StrEnum)


class Form(StrEnum):
    """How an export is written. csv and parquet are folders with a file for each table; fhir tells days, and cannot be brought back."""

    CSV = "csv"
    FHIR = "fhir"
    JSONL = "jsonl"
    PARQUET = "parquet"


class Kind(StrEnum):
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
    kind: Kind
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
        flat.update({_cell(emotion): posterior.get(emotion.value) for emotion in Emotion})
    return flat


def unflatten(table: Table, flat: Row) -> dict[str, Any]:
    """The inverse of `flatten`."""
    row = {column.name: flat.get(column.name) for column in table.columns}
    if "posterior" in row:
        given = {emotion.value: flat[_cell(emotion)] for emotion in Emotion}
        row["posterior"] = {letter: probability for letter, probability in given.items() if probability is not None} or None
    return row


def check(table: Table, row: Row) -> None:
    """Raise ValueError, naming the column, unless every value is of its column's kind and the row as a whole makes sense."""
    for column in table.columns:
        _check_value(column, row[column.name])
    table.check(row)


def _flat(column: Column) -> Iterator[Column]:
    if column.kind is not Kind.POSTERIOR:
        yield column
        return
    for emotion in Emotion:
        words = f"probability of {emotion.word}, 0 to 1; empty where the model cannot answer it"
        yield replace(column, name=_cell(emotion), kind=Kind.REAL, words=words)


def _cell(emotion: Emotion) -> str:
    return f"p_{emotion.word}"


_LETTERS = frozenset(Emotion)
_TYPES: Mapping[Kind, Callable[[Any], bool]] = {
    # Half of a surrogate pair is valid in JSON, and in no file.
    Kind.TEXT: lambda value: isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value),
    Kind.INTEGER: lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63,
    Kind.REAL: lambda value: isinstance(value, float) and math.isfinite(value),
    Kind.TRUTH: lambda value: isinstance(value, bool),
    Kind.MOMENT: lambda value: isinstance(value, datetime) and value.tzinfo is UTC and value.year >= 1000,
    Kind.POSTERIOR: lambda value: (
        isinstance(value, Mapping)
        and all(letter in _LETTERS and isinstance(share, float) and 0 <= share <= 1 for letter, share in value.items())
    ),
}


def _check_value(column: Column, value: object) -> None:
    if value is None:
        if not column.optional:
            raise ValueError(f"{column.name} is missing")
    elif not _TYPES[column.kind](value):
        raise ValueError(f"{column.name} is {value!r}, which is no {column.kind}")


def _check_segment(row: Row) -> None:
    if not 0 <= row["start_sample"] < row["end_sample"]:
        raise ValueError(f"a segment goes from sample {row['start_sample']} to {row['end_sample']}")
    _check_zone(row["zone"])
    state = _one_of(SegmentState, "state", row["state"])
    judged = ("emotion", "confidence", "unsure", "posterior", "bundle_version", "judged_at")
    if {row[name] is not None for name in judged} != {state is SegmentState.JUDGED}:
        raise ValueError(f"the state is {state}, and {', '.join(judged)} must all be there when it is judged, else none")
    if (row["reason"] is not None) != (state is SegmentState.UNJUDGED):
        raise ValueError(f"the state is {state}, and a reason belongs to what is unjudged, and only there")
    prediction = None if state is not SegmentState.JUDGED else _prediction(row)
    entry = TimelineEntry(
        0, row["stream"], row["start_sample"], row["end_sample"], row["start_at"], row["end_at"], row["zone"], state, None, prediction
    )
    if (entry.end_at - entry.start_at).total_seconds() > LONGEST_SEGMENT_S:
        raise ValueError(f"a segment lasts at most {LONGEST_SEGMENT_S:.0f} s, this one is from {entry.start_at} to {entry.end_at}")


def _prediction(row: Row) -> Prediction:
    posterior = {Emotion(letter): probability for letter, probability in row["posterior"].items()}
    prediction = Prediction(posterior, row["unsure"], row["bundle_version"])
    highest = max(posterior.values())
    if posterior.get(row["emotion"]) != highest or row["confidence"] != highest:
        raise ValueError(f"emotion and confidence are {row['emotion']!r} and {row['confidence']}, and the posterior says otherwise")
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
        raise ValueError(f"valence is {row['valence']}, which is not within -1 and 1")


def _check_prompt(row: Row) -> None:
    _check_zone(row["zone"])


def _one_of(values: type[_E], name: str, text: str) -> _E:
    try:
        return values(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, which is none of {', '.join(values)}") from None


@lru_cache
def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError(f"zone is {name!r}, which is no IANA time zone") from None


_STREAM = Column("stream", Kind.TEXT, "which start of the monitor it belongs to; with start_sample it names the segment")
_ZONE = Column("zone", Kind.TEXT, "IANA name of the time zone the monitor ran in")

SEGMENTS = Table(
    "segments",
    "segment",
    (
        _STREAM,
        Column("start_sample", Kind.INTEGER, "first sample in the stream, at 16000 a second"),
        Column("end_sample", Kind.INTEGER, "the sample after the last"),
        Column("start_at", Kind.MOMENT, "when the speech began"),
        Column("end_at", Kind.MOMENT, "when it ended"),
        _ZONE,
        Column("state", Kind.TEXT, "judged; waiting: not judged yet; unjudged: never will be"),
        Column("reason", Kind.TEXT, "why it is unjudged", optional=True),
        Column("emotion", Kind.TEXT, "letter of the likeliest emotion", optional=True),
        Column("confidence", Kind.REAL, "its estimated probability, 0 to 1", optional=True),
        Column("unsure", Kind.TRUTH, "true where nothing was likely enough to count", optional=True),
        Column("posterior", Kind.POSTERIOR, "estimated probability of each letter the model can answer", optional=True),
        Column("bundle_version", Kind.TEXT, "the model that judged it", optional=True),
        Column("judged_at", Kind.MOMENT, "when that was", optional=True),
        Column("loudness_db", Kind.REAL, "RMS level, dB re full scale; empty where it was not measured", optional=True),
        Column("pitch_hz", Kind.REAL, "median pitch of voiced frames; empty without any", optional=True),
        Column("transcript", Kind.TEXT, "the words, where they are kept", optional=True),
    ),
    _check_segment,
)
CORRECTIONS = Table(
    "corrections",
    "correction",
    (
        _STREAM,
        Column("start_sample", Kind.INTEGER, "of the segment that it is about"),
        Column("emotion", Kind.TEXT, "letter of what the person says the segment was"),
        Column("confirmed", Kind.TRUTH, "true where the person agreed with the model, false where they chose it themselves"),
        Column("at", Kind.MOMENT, "when they said so"),
        Column("undone_at", Kind.MOMENT, "when they took it back", optional=True),
    ),
    _check_correction,
)
COVERAGE = Table(
    "coverage",
    "coverage",
    (
        Column("stream", Kind.TEXT, "which start of the monitor it belongs to"),
        Column("kind", Kind.TEXT, f"one of {', '.join(Coverage)}"),
        Column("start_at", Kind.MOMENT, "from when it was so"),
        Column("end_at", Kind.MOMENT, "until when; cut where the range asked for begins or ends"),
        _ZONE,
        Column("reason", Kind.TEXT, "more about the kind, where there is more to say"),
    ),
    _check_coverage,
)
CHECKINS = Table(
    "checkins",
    "checkin",
    (
        Column("at", Kind.MOMENT, "when the person said how they felt"),
        _ZONE,
        Column("valence", Kind.REAL, "-1 very unpleasant to 1 very pleasant"),
        Column("emotion", Kind.TEXT, "letter of what they call it"),
        Column("note", Kind.TEXT, "their own words", optional=True),
    ),
    _check_checkin,
)
PROMPTS = Table(
    "prompts",
    "prompt",
    (
        Column("at", Kind.MOMENT, "when the person was asked to check in"),
        _ZONE,
        Column("answered_at", Kind.MOMENT, "the moment of the check-in that answered", optional=True),
    ),
    _check_prompt,
)
TABLES = (SEGMENTS, CORRECTIONS, COVERAGE, CHECKINS, PROMPTS)
"""In the order in which they are written: what refers to another row comes after it."""
