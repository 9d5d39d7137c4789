"""Read-only timeline queries for reports and the dashboard: days with their summaries, trends, segments and check-ins.

Summaries of days that are over are made once and cached; where the timeline may not be written to, or is held by another program, they
are made each time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

from model.errors import BundleError
from monitor.analysis.agreement import SelfReport, checkin_agreement, checkin_windows, label_agreement, prompt_compliance
from monitor.analysis.days import Day
from monitor.analysis.shares import ConfusionModel, confusion_model
from monitor.analysis.summarize import summarize
from monitor.analysis.summary import SUMMARY_FORMAT, DaySummary, dump_summary, load_summary
from monitor.analysis.trend import WARM_UP_DAYS, Trend, compute_trends
from monitor.config import PACKAGED_BUNDLE, TimelineConfig
from monitor.paths import bundles_dir
from monitor.storage.reader import TimelineReader
from monitor.storage.records import CheckIn, JobRun, SegmentRecord, TimelineSource, VoiceReference
from monitor.storage.summary_cache import SummaryCache

# An hour's share of what a long timeline may lack, after an update: it takes some seconds, beside listening.
_MAX_DAYS_PER_RUN = 60


def store_missing_summaries(settings: TimelineConfig, now: datetime, bundle: str = PACKAGED_BUNDLE) -> int:
    """Make summaries of days that are over and have none, so that nobody has to wait for them; returns of how many.

    Raises TimelineError.
    """
    with TimelineQuery.open(settings, now, bundle) as look:
        return look.store_missing(_MAX_DAYS_PER_RUN)


@dataclass(frozen=True, slots=True)
class DaysWithTrends:
    """Consecutive days, and by its key how each measure went over them; what is usual is taken from the days before, too."""

    days: tuple[DaySummary, ...]
    trends: Mapping[str, Trend]


class TimelineQuery:
    """One look at a timeline, as things stand at `now` (aware UTC), in the zone of its settings. Use it in one thread, and close it."""

    def __init__(self, timeline: TimelineSource, kept: SummaryCache, zone: ZoneInfo, now: datetime, bundle: str) -> None:
        self.zone, self.now = zone, now.astimezone(UTC)
        self._timeline, self._kept = timeline, kept
        self._bundle = bundle

    @classmethod
    def open(cls, settings: TimelineConfig, now: datetime, bundle: str = PACKAGED_BUNDLE) -> Self:
        """bundle: name or folder of the one in use, by whose confusion shares are estimated, as by that of the built-in one.

        Raises TimelineError and StoreKeyError as TimelineReader.open does; where there is no timeline yet, all days are empty.
        """
        path, keys, zone = settings.database_path(), settings.keys(), settings.zone_info()
        timeline = TimelineReader.open(path, keys)
        kept = SummaryCache(path, keys.find(path) if timeline.is_there else None, str(zone), SUMMARY_FORMAT)
        return cls(timeline, kept, zone, now, bundle)

    @classmethod
    def at_clinic(cls, timeline: TimelineSource, zone: ZoneInfo, now: datetime, bundle: str) -> Self:
        """A look at what somebody shares, in their zone: summaries are made each time, and not kept here."""
        return cls(timeline, SummaryCache(Path(), None, str(zone), SUMMARY_FORMAT), zone, now, bundle)

    def day(self, day: Day) -> DaySummary:
        """The summary of a day of this zone."""
        return self._summary(day, self._kept.find(day.on, day.on))

    def days(self, first: date, last: date) -> list[DaySummary]:
        """Every day of the calendar from first to last, those without data too. A date that the calendar jumped over is none."""
        kept = self._kept.find(first, last)
        return [self._summary(day, kept) for day in self._calendar(first, last)]

    def story(self, first: date, last: date) -> DaysWithTrends:
        """The days from first to last with their trends."""
        warm_up = first - timedelta(days=WARM_UP_DAYS)
        kept = self._kept.find(warm_up, last)
        days = [self._summary(day, kept, with_hours=day.on >= first) for day in self._calendar(warm_up, last)]
        return DaysWithTrends(tuple(day for day in days if day.day.on >= first), compute_trends(days, first))

    def store_missing(self, at_most: int) -> int:
        """Make and keep the summaries of days that are over and have none, the latest first; returns of how many."""
        begin = self._timeline.earliest()
        if begin is None:
            return 0
        first, last = begin.astimezone(self.zone).date(), self.now.astimezone(self.zone).date() - timedelta(days=1)
        kept = self._kept.kept(first, last)
        missing = [day for day in self._calendar(first, last) if day.on not in kept]
        return sum(self._make(day) is not None for day in missing[: -at_most - 1 : -1])

    def entries(self, day: Day) -> list[SegmentRecord]:
        """The segments that lie in a day at least in part, by start."""
        return self._timeline.segments_between(day.start, day.end)

    def segment(self, segment_id: int) -> SegmentRecord | None:
        """The segment of that number, if there is one."""
        return self._timeline.segment(segment_id)

    def checkins(self, first: date, last: date) -> list[CheckIn]:
        """What the person said of how they felt, from the first day to the end of the last, by time."""
        return self._timeline.checkins_between(Day(first, self.zone).start, Day(last, self.zone).end)

    def job_runs(self, first: date, last: date) -> list[JobRun]:
        """What the monitor began to do by itself, from the first day to the end of the last, by time."""
        return self._timeline.job_runs_between(Day(first, self.zone).start, Day(last, self.zone).end)

    def last_job_runs(self, at_most: int) -> list[JobRun]:
        """What the monitor did by itself last, newest first."""
        return self._timeline.job_runs(at_most)

    def voices(self) -> list[VoiceReference] | None:
        """What the bundle in use can know of the voice, by microphone, the last heard first; None where it has no use for that, and where
        that is not told."""
        from model.bundle_format import find_bundle, read_bundle_manifest

        try:
            space = read_bundle_manifest(find_bundle(self._bundle)).voice_space
        except BundleError:
            return None
        known = None if space is None else self._timeline.voice_references()
        return None if known is None else [one for one in known if one.voice_space == space]

    def self_report(self, first: date, last: date) -> SelfReport:
        """What the person's own word amounts to, from the first day to the end of the last."""
        start, end = Day(first, self.zone).start, Day(last, self.zone).end
        checkins = self._timeline.checkins_between(start, end)
        near = [estimate for time_range in checkin_windows(checkins) for estimate in self._timeline.predicted_segments_between(*time_range)]
        return SelfReport(
            checkin_agreement(checkins, near, self.zone),
            label_agreement(self._timeline.corrected_between(start, end), self.zone),
            prompt_compliance(self._timeline.prompts_between(start, end), self.now),
        )

    def close(self) -> None:
        """Let go of the file."""
        self._timeline.close()
        self._kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def _calendar(self, first: date, last: date) -> Iterator[Day]:
        for number in range((last - first).days + 1):
            day = Day(first + timedelta(days=number), self.zone)
            if day.start < day.end:
                yield day

    def _summary(self, day: Day, kept: Mapping[date, str], with_hours: bool = True) -> DaySummary:
        if day.end > self.now or day.start == day.end:
            return self._summarize(self._timeline, day)
        text = kept.get(day.on) or self._make(day)
        return self._summarize(self._timeline, day) if text is None else load_summary(text, day, self.now, with_hours)

    def _make(self, day: Day) -> str | None:
        return self._kept.make(day.on, day.start, day.end, lambda timeline: dump_summary(self._summarize(timeline, day)))

    def _summarize(self, timeline: TimelineSource, day: Day) -> DaySummary:
        entries, coverage = timeline.segments_between(day.start, day.end), timeline.coverage_between(day.start, day.end)
        return summarize(day, entries, coverage, self.now, self._confusions)

    @cached_property
    def _confusions(self) -> Mapping[str, ConfusionModel]:
        """How bundles confuse emotions, by version: that in use, the built-in one, and those that are kept, as older days were judged by
        them. By one that is not there any more, shares are counted, without intervals."""
        from model.bundle_format import read_bundle_manifest, read_confusion
        from monitor.bundles.registry import bundle_folders

        known: dict[str, ConfusionModel] = {}
        for folder in bundle_folders((PACKAGED_BUNDLE, self._bundle), bundles_dir()):
            try:
                manifest = read_bundle_manifest(folder)
                confusion = confusion_model(read_confusion(folder), manifest.training_prior)
            except BundleError:
                continue
            if confusion is not None:
                known[manifest.version] = confusion
        return known
