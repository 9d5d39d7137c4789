"""The data behind every report, whatever its format: the period that was asked for, its days, trends and check-ins, and contacts.

Never holds transcripts or the notes of check-ins. A period may reach back before anything was stored, but not into the future.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from model.errors import DayError
from monitor.analysis.days import Day, parse_day
from monitor.analysis.summary import DayState, DaySummary
from monitor.analysis.timeline_query import TimelineQuery
from monitor.analysis.trend import Trend
from monitor.config import ReportConfig
from monitor.storage.records import CheckIn, JobRun, SegmentRecord, VoiceReference

WEEK_DAYS, MONTH_DAYS, SHEET_DAYS = 7, 30, 28
"""How many days a week, a month and a sheet for a clinician have; all end with the day that was asked for."""

MAX_REPORT_DAYS = 3 * 366


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """bundle: name or folder of the model in use, whose figures a sheet quotes. plain: sentences for screen readers, instead of text.

    sheet: one page for a clinician, as html or pdf.
    """

    bundle: str
    plain: bool = False
    sheet: bool = False


@dataclass(frozen=True, slots=True)
class ReportPeriod:
    """The calendar days from first to last, both included, in a zone."""

    first: date
    last: date
    zone: ZoneInfo

    @property
    def is_day(self) -> bool:
        """Whether it is one day, which is shown hour by hour."""
        return self.first == self.last

    @property
    def day(self) -> Day:
        """The last day."""
        return Day(self.last, self.zone)


@dataclass(frozen=True, slots=True)
class PeriodOptions:
    """What was typed: --day, --week, --month, --from and --to; None and False where they were not."""

    day: str | None = None
    week: bool = False
    month: bool = False
    first: str | None = None
    last: str | None = None

    def period(self, zone: ZoneInfo, now: datetime, usual_days: int = 1) -> ReportPeriod:
        """The period that is meant at the aware moment `now`. usual_days: how many days where only a day, or nothing, was given.

        Raises DayError for what is no date, is still to come, or cannot be meant together.
        """
        self._check()
        if self.first is not None:
            first, last = (parse_day(text, zone, now).on for text in (self.first, self.last or "today"))
            return _checked(ReportPeriod(first, last, zone))
        last = parse_day(self.day or "today", zone, now).on
        length = WEEK_DAYS if self.week else MONTH_DAYS if self.month else usual_days
        return ReportPeriod(last - timedelta(days=length - 1), last, zone)

    def _check(self) -> None:
        lengths = [name for name, given in (("--week", self.week), ("--month", self.month), ("--from", self.first is not None)) if given]
        if len(lengths) > 1:
            raise DayError(f"{' and '.join(lengths)} exclude each other; pass only one")
        if self.first is not None and self.day is not None:
            raise DayError("--day and --from exclude each other; end a period with --to")
        if self.last is not None and self.first is None:
            raise DayError(f"--to {self.last} needs --from, the first day of the period")


def _checked(period: ReportPeriod) -> ReportPeriod:
    days = (period.last - period.first).days + 1
    if days < 1:
        raise DayError(f"--from {period.first} is after --to {period.last}")
    if days > MAX_REPORT_DAYS:
        raise DayError(f"{period.first} to {period.last} is {days} days; a report covers at most {MAX_REPORT_DAYS} days (three years)")
    return period


# A single day has too few check-ins to compare, so the person's word is told of so many days at least.
SELF_REPORT_DAYS = 28


@dataclass(frozen=True, slots=True)
class ReportData:
    """days: every day of the period. trends: of the same days. entries: the segments, where it is one day. checkins: without notes.

    own_word: what the person's own word amounts to, over WORD_DAYS or more, in sentences, where it was asked for.
    contacts: lines that say whom to call.
    patient: whom it is about, where the person wants that written; else empty.
    retrainings: of these days, by time.
    voices: what is known of the voice now, by microphone; None where the model in use has no use for that, or where it is not told.
    """

    period: ReportPeriod
    now: datetime
    days: tuple[DaySummary, ...]
    trends: Mapping[str, Trend]
    entries: tuple[SegmentRecord, ...]
    checkins: tuple[CheckIn, ...]
    self_report: tuple[str, ...] = ()
    contacts: tuple[str, ...] = ()
    patient: str = ""
    retrainings: tuple[JobRun, ...] = ()
    voices: tuple[VoiceReference, ...] | None = None

    @property
    def day(self) -> DaySummary:
        """The last day: the one, where it is one."""
        return self.days[-1]

    @property
    def known(self) -> tuple[DaySummary, ...]:
        """The days that something was heard on."""
        return tuple(day for day in self.days if day.state is not DayState.NO_DATA)

    @property
    def bundles(self) -> dict[str, int]:
        """Segments judged by each bundle version, oldest first."""
        total: dict[str, int] = {}
        for day in self.days:
            for version, segments in day.bundles.items():
                total[version] = total.get(version, 0) + segments
        return total


def load_report_data(look: TimelineQuery, period: ReportPeriod, settings: ReportConfig) -> ReportData:
    """All about a period but the own word. Raises TimelineError when the timeline cannot be read."""
    story, voices = look.story(period.first, period.last), look.voices()
    return ReportData(
        period=period,
        now=look.now,
        days=story.days,
        trends=story.trends,
        entries=tuple(look.entries(period.day)) if period.is_day else (),
        checkins=tuple(replace(one, note=None) for one in look.checkins(period.first, period.last)),
        contacts=tuple(settings.contacts),
        patient=settings.patient,
        retrainings=tuple(run for run in look.job_runs(period.first, period.last) if run.job == "retrain"),
        voices=None if voices is None else tuple(voices),
    )


def with_self_report(material: ReportData, look: TimelineQuery) -> ReportData:
    """The same with the person's own word. It takes longer than all the rest, as it reads the speech around every check-in."""
    period = material.period
    first = min(period.first, period.last - timedelta(days=SELF_REPORT_DAYS - 1))
    return replace(material, self_report=look.self_report(first, period.last).sentences)
