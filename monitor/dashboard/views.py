"""What only the pages show, in plain words: hours with what the person said in them, days of a table, and segments to be corrected.

What pages share with reports is worded in `monitor/report`. Knows neither HTTP nor database, and computes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from model.types import Emotion
from monitor.day.feelings import valence_words
from monitor.day.listing import estimate_words
from monitor.day.summary import DayState, DaySummary, HourSummary
from monitor.day.trend import Point, Trend
from monitor.day.wording import percent, span
from monitor.jobs.telling import last_words, next_words, took
from monitor.report.rows import enough, found
from monitor.store.records import CheckIn, JobRun, TimelineEntry

_NAMED = 3
_NOT_KNOWN_YET = "Your usual range is not known yet. It takes at least seven days with enough speech, judged by the same model."
_NOTHING = "Nothing stayed outside your usual range."


@dataclass(frozen=True, slots=True)
class HourRow:
    """An hour in words."""

    label: str
    heard: str
    speech: str
    voice: str
    said: str


@dataclass(frozen=True, slots=True)
class DayRow:
    """A day of many in words. valence: how pleasant it sounded, with the usual range where there is one."""

    on: date
    heard: str
    speech: str
    voice: str
    valence: str
    said: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment as the person looks at it. estimate: what the model said; said: what the person did, empty where they said nothing.

    seen: the correction that is shown, to be handed back with the next. letter: what the model found most likely, if it judged.
    settled: what the person says it was.
    """

    id: int
    clock: str
    length: str
    estimate: str
    letter: Emotion | None
    said: str
    seen: int | None
    settled: Emotion | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """What the monitor does by itself, in words. more: what it waits for, or why it failed; failed: whether that is so."""

    what: str
    next: str
    last: str
    more: str
    failed: bool


@dataclass(frozen=True, slots=True)
class RunRow:
    """One time that it did so."""

    what: str
    on: date
    started: str
    took: str
    outcome: str
    reason: str


def job_row(job: Mapping[str, Any], zone: ZoneInfo, running: bool) -> JobRow:
    """job: as JobState.as_json. running: whether a monitor runs."""
    failed = job["failed"]
    more = f"Failed for {failed['day']}: {failed['reason']}" if failed else f"Waits: {job['waits']}" if job["waits"] else ""
    what = job["what"][:1].upper() + job["what"][1:]
    return JobRow(what, next_words(job, zone, running), last_words(job["last"], zone), more, bool(failed))


def run_row(run: JobRun, zone: ZoneInfo) -> RunRow:
    """A run of the history."""
    started = f"{run.started_at.astimezone(zone):%Y-%m-%d %H:%M}"
    return RunRow(run.job, run.day, started, took(run.seconds).removeprefix(", took "), run.outcome or "goes on", run.reason)


def hour_rows(summary: DaySummary, checkins: Sequence[CheckIn]) -> list[HourRow]:
    """The day hour by hour, leaving out what is still to come."""
    return [
        HourRow(
            hour.label,
            span(hour.heard_s) if hour.heard_s else "not heard",
            span(hour.speech.total.seconds) if hour.speech.total.segments else ("no speech" if hour.heard_s else ""),
            _voice(hour),
            "; ".join(said(one) for one in checkins if hour.start <= one.at < hour.end),
        )
        for hour in summary.hours
        if hour.start < summary.now
    ]


def day_rows(days: Sequence[DaySummary], valence: Trend, checkins: Sequence[CheckIn]) -> list[DayRow]:
    """Every day of a week or a month. valence: the trend of the same days."""
    return [
        DayRow(
            day.day.on,
            day.state.value if day.state is DayState.NO_DATA else f"{span(day.heard_s)}{', PARTIAL' if day.gaps else ''}",
            span(day.speech.total.seconds) if day.speech.total.segments else "",
            _leading(day),
            _valence(point),
            "; ".join(said(one) for one in checkins if day.day.start <= one.at < day.day.end),
        )
        for day, point in zip(days, valence.points, strict=True)
    ]


def compared(changes: Sequence[str], trends: Iterable[Trend]) -> list[str]:
    """The changes there are; else that there are none, or that it cannot be known yet."""
    if changes:
        return list(changes)
    return [_NOTHING if any(point.band for trend in trends for point in trend.points) else _NOT_KNOWN_YET]


def piece(entry: TimelineEntry, zone: ZoneInfo) -> Piece:
    """A segment in words."""
    correction, prediction = entry.correction, entry.prediction
    return Piece(
        entry.id,
        f"{entry.start_at.astimezone(zone):%H:%M:%S}",
        f"{(entry.end_at - entry.start_at).total_seconds():.1f} s",
        estimate_words(entry),
        prediction.emotion if prediction else None,
        "" if correction is None else f"{'you agree' if correction.confirmed else 'you say'}: {correction.emotion.word}",
        correction.id if correction else None,
        correction.emotion if correction else None,
    )


def latest(entries: Iterable[TimelineEntry], zone: ZoneInfo, count: int) -> list[Piece]:
    """The newest segments, newest first."""
    return [piece(entry, zone) for entry in sorted(entries, key=lambda entry: entry.start_at, reverse=True)[:count]]


def said(checkin: CheckIn) -> str:
    """A check-in in words, without its note."""
    return f"{valence_words(checkin.valence)}, {checkin.emotion.word}"


def clock(moment: datetime, zone: ZoneInfo) -> str:
    """The time of day on the wall."""
    return f"{moment.astimezone(zone):%H:%M}"


def _leading(day: DaySummary) -> str:
    """The emotions with the largest shares; of little speech only that it is little."""
    if day.speech.basis.segments and not enough(day.speech):
        return "too little speech for per cent"
    return ", ".join(f"{one.emotion.word} {percent(one.share)}" for one in found(day.speech)[:_NAMED] if one.share is not None)


def _valence(point: Point) -> str:
    if point.value is None:
        return ""
    words = f"{point.value:+.2f}"
    if point.band is not None:
        place = {-1: "under", 0: "within", 1: "above"}[point.outside]
        words += f", {place} {point.band.low:+.2f} to {point.band.high:+.2f}"
    return words


def _voice(hour: HourSummary) -> str:
    speech = hour.speech
    parts = [f"{one.emotion.word} {span(one.amount.seconds)}" for one in found(speech)]
    if speech.unsure.segments:
        parts.append(f"unsure {span(speech.unsure.seconds)}")
    if speech.waiting.segments or speech.given_up.segments:
        parts.append(f"not judged {span((speech.waiting + speech.given_up).seconds)}")
    return ", ".join(parts)
