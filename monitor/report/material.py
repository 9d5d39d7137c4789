"""What a report is made of, gathered once, whatever its format: days, trends, check-ins, and whom to call.

Leaves out what a report never shows: the words that were spoken, and the notes of check-ins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from monitor.config import ReportConfig
from monitor.day.summary import DayState, DaySummary
from monitor.day.trend import Trend
from monitor.look import Look
from monitor.report.period import Period
from monitor.store.records import CheckIn, JobRun, TimelineEntry
from monitor.store.voice_reference import VoiceReference

# A single day has too few check-ins to compare, so the person's word is told of so many days at least.
WORD_DAYS = 28


@dataclass(frozen=True, slots=True)
class Material:
    """days: every day of the period. trends: of the same days. entries: the segments, where it is one day. checkins: without notes.

    own_word: what the person's own word amounts to, over WORD_DAYS or more, in sentences, where it was asked for.
    contacts: lines that say whom to call.
    patient: whom it is about, where the person wants that written; else empty.
    retrainings: of these days, by time.
    voices: what is known of the voice now, by microphone; None where the model in use has no use for that, or where it is not told.
    """

    period: Period
    now: datetime
    days: tuple[DaySummary, ...]
    trends: Mapping[str, Trend]
    entries: tuple[TimelineEntry, ...]
    checkins: tuple[CheckIn, ...]
    own_word: tuple[str, ...] = ()
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


def gather(look: Look, period: Period, settings: ReportConfig) -> Material:
    """All about a period but the own word. Raises TimelineError when the timeline cannot be read."""
    story, voices = look.story(period.first, period.last), look.voices()
    return Material(
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


def with_own_word(material: Material, look: Look) -> Material:
    """The same with the person's own word. It takes longer than all the rest, as it reads the speech around every check-in."""
    period = material.period
    first = min(period.first, period.last - timedelta(days=WORD_DAYS - 1))
    return replace(material, own_word=look.own_word(first, period.last).sentences)
