"""View models of the pages: hours, days, segments and jobs in words, the charts of a page, and weeks and months.

Wording shared with reports is in `monitor/reports`. Knows neither HTTP nor the database.
"""

import calendar
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from model.emotions import Emotion
from monitor.analysis.formatting import format_duration, format_percent, format_valence
from monitor.analysis.summary import DayState, DaySummary, HourSummary
from monitor.analysis.trend import Trend, TrendPoint
from monitor.reports.charts import day_charts
from monitor.reports.charts import period_charts as days_charts
from monitor.reports.charts.style import ChartOption
from monitor.reports.data import ReportData
from monitor.reports.segment_list import format_estimate
from monitor.reports.view_model import emotion_rows, has_enough_speech
from monitor.scheduler.job_status import format_last_run, format_next_run, format_run_time
from monitor.storage.records import CheckIn, JobRun, SegmentRecord


class PeriodLength(StrEnum):
    """How long a period is."""

    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class PagePeriod:
    """first, last: its days, both within; the last is today where the period is not over. before, after: a day of each neighbour.

    `after` is None when that is still to come.
    """

    length: PeriodLength
    title: str
    first: date
    last: date
    before: date
    after: date | None


def page_period(length: PeriodLength, on: date, today: date) -> PagePeriod:
    """The period that has the day `on`, which is not later than `today`."""
    if length is PeriodLength.WEEK:
        first = on - timedelta(days=on.weekday())
        last = first + timedelta(days=6)
        title = f"Week of {first.day} {first:%B} to {last.day} {last:%B %Y}"
    else:
        first = on.replace(day=1)
        last = on.replace(day=calendar.monthrange(on.year, on.month)[1])
        title = f"{on:%B %Y}"
    after = last + timedelta(days=1)
    return PagePeriod(length, title, first, min(last, today), first - timedelta(days=1), after if after <= today else None)


_MORE_THAN_A_WEEK = 8


@dataclass(frozen=True, slots=True)
class PageChart:
    """size: middle, high or calendar, as the style sheet knows them. option: for ECharts."""

    title: str
    size: str
    option: ChartOption
    note: str = ""


def day_page_charts(summary: DaySummary, entries: Sequence[SegmentRecord], checkins: Sequence[CheckIn]) -> list[PageChart]:
    """The charts of one day; none of a day of which nothing is known."""
    charts = []
    if summary.state is not DayState.NO_DATA:
        charts.append(PageChart("Timeline", "high", day_charts.timeline_chart(summary, entries)))
    if summary.speech.total.segments:
        charts.append(PageChart("Speech by hour", "middle", day_charts.speech_by_hour_chart(summary)))
    if summary.speech.affect or checkins:
        charts.append(PageChart("Pleasantness and check-ins", "middle", day_charts.valence_by_hour_chart(summary, checkins)))
    return charts


def period_page_charts(material: ReportData) -> list[PageChart]:
    """The charts of a week or a month."""
    days = material.days
    said: defaultdict[date, list[float]] = defaultdict(list)
    for one in material.checkins:
        said[one.at.astimezone(material.period.zone).date()].append(one.valence)
    calendar = (
        [PageChart("Main emotion of each day", "calendar", days_charts.calendar_chart(days))] if len(days) >= _MORE_THAN_A_WEEK else []
    )
    return [
        *calendar,
        PageChart(
            "Pleasantness and check-ins",
            "middle",
            days_charts.trend_chart(material.trends["valence"], said),
            "Triangles are outside your usual range; hollow points are partial days.",
        ),
        PageChart("Emotions by day", "middle", days_charts.shares_chart(days)),
        PageChart("Recorded time by day", "middle", days_charts.coverage_chart(days)),
    ]


_NAMED_EMOTIONS = 3
_NOT_KNOWN_YET = "Your usual range is not known yet. It needs at least seven days with enough speech, analysed by the same model."
_NO_CHANGE = "No lasting changes."


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
class SegmentView:
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
    more = f"Failed for {failed['day']}: {failed['reason']}" if failed else f"Waiting: {job['waits']}" if job["waits"] else ""
    what = job["what"][:1].upper() + job["what"][1:]
    return JobRow(what, format_next_run(job, zone, running), format_last_run(job["last"], zone), more, bool(failed))


def run_row(run: JobRun, zone: ZoneInfo) -> RunRow:
    """A run of the history."""
    started = f"{run.started_at.astimezone(zone):%Y-%m-%d %H:%M}"
    return RunRow(run.job, run.day, started, format_run_time(run.seconds).removeprefix(", took "), run.outcome or "running", run.reason)


def hour_rows(summary: DaySummary, checkins: Sequence[CheckIn]) -> list[HourRow]:
    """The day hour by hour, leaving out what is still to come."""
    return [
        HourRow(
            hour.label,
            format_duration(hour.heard_s) if hour.heard_s else "not recorded",
            format_duration(hour.speech.total.seconds) if hour.speech.total.segments else ("no speech" if hour.heard_s else ""),
            _voice(hour),
            "; ".join(format_checkin(one) for one in checkins if hour.start <= one.at < hour.end),
        )
        for hour in summary.hours
        if hour.start < summary.now
    ]


def day_rows(days: Sequence[DaySummary], valence: Trend, checkins: Sequence[CheckIn]) -> list[DayRow]:
    """Every day of a week or a month. valence: the trend of the same days."""
    return [
        DayRow(
            day.day.on,
            day.state.value if day.state is DayState.NO_DATA else f"{format_duration(day.heard_s)}{', PARTIAL' if day.gaps else ''}",
            format_duration(day.speech.total.seconds) if day.speech.total.segments else "",
            _leading(day),
            _valence(point),
            "; ".join(format_checkin(one) for one in checkins if day.day.start <= one.at < day.day.end),
        )
        for day, point in zip(days, valence.points, strict=True)
    ]


def comparison_sentences(changes: Sequence[str], trends: Iterable[Trend]) -> list[str]:
    """The changes there are; else that there are none, or that it cannot be known yet."""
    if changes:
        return list(changes)
    return [_NO_CHANGE if any(point.band for trend in trends for point in trend.points) else _NOT_KNOWN_YET]


def segment_view(entry: SegmentRecord, zone: ZoneInfo) -> SegmentView:
    """A segment in words."""
    correction, prediction = entry.correction, entry.prediction
    return SegmentView(
        entry.id,
        f"{entry.start_at.astimezone(zone):%H:%M:%S}",
        f"{(entry.end_at - entry.start_at).total_seconds():.1f} s",
        format_estimate(entry),
        prediction.emotion if prediction else None,
        "" if correction is None else f"{'confirmed' if correction.confirmed else 'your label'}: {correction.emotion.word}",
        correction.id if correction else None,
        correction.emotion if correction else None,
    )


def latest_segments(entries: Iterable[SegmentRecord], zone: ZoneInfo, count: int) -> list[SegmentView]:
    """The newest segments, newest first."""
    return [segment_view(entry, zone) for entry in sorted(entries, key=lambda entry: entry.start_at, reverse=True)[:count]]


def format_checkin(checkin: CheckIn) -> str:
    """A check-in in words, without its note."""
    return f"{format_valence(checkin.valence)}, {checkin.emotion.word}"


def format_clock(moment: datetime, zone: ZoneInfo) -> str:
    """The time of day on the wall."""
    return f"{moment.astimezone(zone):%H:%M}"


def _leading(day: DaySummary) -> str:
    """The emotions with the largest shares; of little speech only that it is little."""
    if day.speech.basis.segments and not has_enough_speech(day.speech):
        return "too little speech for percentages"
    return ", ".join(
        f"{one.emotion.word} {format_percent(one.share)}" for one in emotion_rows(day.speech)[:_NAMED_EMOTIONS] if one.share is not None
    )


def _valence(point: TrendPoint) -> str:
    if point.value is None:
        return ""
    words = f"{point.value:+.2f}"
    if point.band is not None:
        place = {-1: "below", 0: "within", 1: "above"}[point.outside]
        words += f", {place} {point.band.low:+.2f} to {point.band.high:+.2f}"
    return words


def _voice(hour: HourSummary) -> str:
    speech = hour.speech
    parts = [f"{one.emotion.word} {format_duration(one.amount.seconds)}" for one in emotion_rows(speech)]
    if speech.unsure.segments:
        parts.append(f"unsure {format_duration(speech.unsure.seconds)}")
    if speech.waiting.segments or speech.given_up.segments:
        parts.append(f"not analysed {format_duration((speech.waiting + speech.given_up).seconds)}")
    return ", ".join(parts)
