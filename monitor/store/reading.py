"""What a look at somebody's days reads, wherever their rows are: in the timeline on this machine, or at a clinic."""

from datetime import datetime
from typing import Protocol

from monitor.store.records import CheckIn, CoverageInterval, Estimate, JobRun, Prompt, TimelineEntry
from monitor.store.voice_reference import VoiceReference


class Readable(Protocol):
    """As `TimelineReader` does each of these."""

    def segments_between(self, start: datetime, end: datetime) -> list[TimelineEntry]:
        """The segments that overlap [start, end), by start. Both moments in UTC."""

    def estimates_between(self, start: datetime, end: datetime) -> list[Estimate]:
        """What the model said of those of them that are judged."""

    def corrected_between(self, start: datetime, end: datetime) -> list[TimelineEntry]:
        """Those of them that the person has said something of."""

    def segment(self, segment_id: int) -> TimelineEntry | None:
        """The segment of that number, if there is one."""

    def coverage_between(self, start: datetime, end: datetime) -> list[CoverageInterval]:
        """The coverage that overlaps [start, end), by start."""

    def checkins_between(self, start: datetime, end: datetime) -> list[CheckIn]:
        """What the person said of how they felt, by time."""

    def prompts_between(self, start: datetime, end: datetime) -> list[Prompt]:
        """When they were asked, by time."""

    def job_runs(self, limit: int, job: str | None = None) -> list[JobRun]:
        """The last runs of the monitor's jobs, newest first."""

    def job_runs_between(self, start: datetime, end: datetime) -> list[JobRun]:
        """The runs that began in [start, end), by start."""

    def voice_references(self) -> list[VoiceReference] | None:
        """What is known of the voice, the last heard first; None where that is not told."""

    def earliest(self) -> datetime | None:
        """When the first segment or coverage begins."""

    def close(self) -> None:
        """Let go of it."""
