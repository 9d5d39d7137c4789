"""What the monitor is doing right now, for the live view and for `status`. Written by the daemon's threads, read by anyone.

Each field has one writer. What is told to other processes holds times and counts, never an emotion.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from model.emotions import Prediction
from monitor.clinic.address import SharingState
from monitor.inference.protocol import EngineState
from monitor.personalization.voice import voice_json
from monitor.scheduler.job_status import JobState, list_job_problems, summarize_jobs
from monitor.storage.records import VoiceReference

RECENT_SEGMENTS = 8
MIN_DBFS = -60.0


@dataclass(frozen=True, slots=True)
class RecentSegment:
    """A segment that was judged, or why it was not."""

    start_at: datetime
    duration_s: float
    prediction: Prediction | None
    reason: str = ""

    @property
    def end_at(self) -> datetime:
        """Aware UTC, as `start_at`."""
        return self.start_at + timedelta(seconds=self.duration_s)


@dataclass
class DaemonStatus:
    """listening: the microphone is open, or a recording plays. Problems are empty while there are none.

    unwritten: what waits because the timeline cannot be written. position: the moment that is being heard. bundle: the version of the one
    that judges, empty while none does. transcriber: what writes down the words for it; empty where it needs none. untranscribed: how many
    segments were judged without their words because that failed. away_since: since when a server elsewhere does not answer, aware UTC.
    next_bundle: the name of the one that was asked for and is not in use yet. bundle_problem: why the one that was asked for last is not.
    jobs: the scheduled jobs, as `summarize_jobs` tells them. sharing: None while nothing is shared with a clinic.
    learns_voice: whether the model has use for a reference of the voice, and a microphone is heard. voice: what is known of it; None while
    nothing is.
    """

    source: str
    live: bool
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    level_dbfs: float = MIN_DBFS
    speaking: bool = False
    listening: bool = False
    muted: bool = False
    paused: bool = False
    paused_until: datetime | None = None
    device_problem: str = ""
    store_problem: str = ""
    upkeep_problem: str = ""
    jobs: Mapping[str, Any] = field(default_factory=lambda: summarize_jobs([]))
    job_problems: Sequence[str] = ()
    prompt_problem: str = ""
    sharing: SharingState | None = None
    sharing_problem: str = ""
    uses_voice_reference: bool = False
    voice: VoiceReference | None = None
    position: datetime | None = None
    segments: int = 0
    judged: int = 0
    unjudged: int = 0
    waiting: int = 0
    unwritten: int = 0
    engine: EngineState = EngineState.LOADING
    engine_detail: str = ""
    away_since: datetime | None = None
    bundle: str = ""
    transcriber: str = ""
    untranscribed: int = 0
    next_bundle: str = ""
    bundle_problem: str = ""
    ending: str = ""
    recent: deque[RecentSegment] = field(default_factory=lambda: deque(maxlen=RECENT_SEGMENTS))

    @property
    def state(self) -> str:
        """In a word or two: listening, muted, paused, no microphone, or ending."""
        if self.ending:
            return "ending"
        if self.paused:
            return "paused"
        if not self.listening:
            return "no microphone" if self.live else "starting"
        return "muted" if self.muted else "listening"

    @property
    def problems(self) -> list[str]:
        """What is wrong with microphone, timeline, check-in prompts, bundle, transcriber, clinic and jobs, as far as something is."""
        found = (self.device_problem, self.store_problem, self.upkeep_problem, self.prompt_problem, self.bundle_problem)
        silent = f"the transcriber failed on {self.untranscribed} segments, which were judged without their words; engine.log says how"
        return [problem for problem in (*found, silent if self.untranscribed else "", self.sharing_problem, *self.job_problems) if problem]

    def report_jobs(self, states: Sequence[JobState], problem: str) -> None:
        """How the jobs stand, and what went wrong in what is done hourly; empty for nothing."""
        self.jobs, self.job_problems, self.upkeep_problem = summarize_jobs(states), list_job_problems(states), problem

    def report_prompts(self, problem: str) -> None:
        """Why the person was not asked to check in when they should have been; empty for nothing."""
        self.prompt_problem = problem

    def report_sharing(self, state: SharingState | None, problem: str) -> None:
        """How things stand with the clinic, and why not everything has arrived there; empty for nothing."""
        self.sharing, self.sharing_problem = state or self.sharing, problem

    def as_json(self) -> dict[str, Any]:
        """What `status` tells, in JSON's types; moments in ISO 8601 UTC."""
        return {
            "state": self.state,
            "since": self.since.isoformat(timespec="seconds"),
            "source": self.source,
            "speaking": self.speaking,
            "level_dbfs": round(self.level_dbfs, 1) if self.listening else None,
            "paused_until": self.paused_until and self.paused_until.isoformat(timespec="seconds"),
            "segments": self.segments,
            "judged": self.judged,
            "unjudged": self.unjudged,
            "waiting": self.waiting,
            "unwritten": self.unwritten,
            "engine": self.engine.value,
            "engine_detail": self.engine_detail,
            "away_since": self.away_since and self.away_since.isoformat(timespec="seconds"),
            "bundle": self.bundle or None,
            "transcriber": self.transcriber or None,
            "next_bundle": self.next_bundle or None,
            "problems": self.problems,
            "jobs": self.jobs,
            "sharing": self.sharing and self.sharing.as_json(),
            "voice": voice_json(self.voice) if self.uses_voice_reference else None,
        }
