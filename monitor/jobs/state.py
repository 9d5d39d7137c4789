"""How the jobs stand, as status, `schedule list` and the dashboard tell it. Plain data with its words; knows no scheduler."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from monitor.config import Config, ScheduleConfig
from monitor.jobs.planning import failing, plan
from monitor.jobs.switches import Switches
from monitor.store.reader import TimelineReader
from monitor.store.records import JobRun

Json = dict[str, Any]

WORDS: Mapping[str, str] = {
    "summaries": "summaries of days that are over",
    "backup": "a backup of the timeline",
    "retention": "erase kept sound that is old enough",
    "retrain": "learn from your corrections",
}
"""What each job is for, by its name in [schedule]."""

ENOUGH_RUNS = 40
"""Of one job, more than there can be for two dates, but for a person who asks for it over and over."""


@dataclass(frozen=True, slots=True)
class JobState:
    """name and what: of the job. time: of day, empty for never. enabled: not switched off.

    due: it is to be done as soon as the monitor gets to it. next_at: when it comes next, or is looked at again; UTC, None for never.
    running_since: UTC. waits: which condition does not hold. last: its last run that ended. failed: that which failed, where none
    has worked since.
    """

    name: str
    what: str
    time: str
    enabled: bool
    due: bool = False
    next_at: datetime | None = None
    running_since: datetime | None = None
    waits: str = ""
    last: JobRun | None = None
    failed: JobRun | None = None

    @property
    def comes(self) -> bool:
        """Whether the monitor does it by itself."""
        return self.enabled and bool(self.time)

    @property
    def problem(self) -> str:
        """What a person should know went wrong; empty while nothing did, and of a job that is switched off."""
        if self.failed is None or not self.comes:
            return ""
        return f"{self.name} of {self.failed.day} failed: {self.failed.reason}"

    def as_json(self) -> Json:
        """Moments in ISO 8601 UTC."""
        return {
            "job": self.name,
            "what": self.what,
            "time": self.time,
            "enabled": self.enabled,
            "due": self.due,
            "next_at": _text(self.next_at),
            "running_since": _text(self.running_since),
            "waits": self.waits,
            "last": run_json(self.last),
            "failed": run_json(self.failed),
        }


def run_json(run: JobRun | None) -> Json | None:
    """A run without its details, which may be long."""
    if run is None:
        return None
    return {
        "id": run.id,
        "job": run.job,
        "day": run.day.isoformat(),
        "started_at": _text(run.started_at),
        "ended_at": _text(run.ended_at),
        "seconds": None if run.seconds is None else round(run.seconds, 3),
        "outcome": run.outcome,
        "reason": run.reason,
    }


def state_of(name: str, at: str, enabled: bool, now: datetime, zone: ZoneInfo, runs: Sequence[JobRun]) -> JobState:
    """How a job stands by its history alone. at: its time of day, empty for never. runs: its own, newest first."""
    last = next((run for run in runs if run.outcome is not None), None)
    state = JobState(name, WORDS.get(name, name), at, enabled, last=last, failed=failing(runs))
    if not state.comes:
        return state
    planned = plan(now, time.fromisoformat(at), zone, runs)
    next_at = now if planned.due else planned.look_at
    return JobState(name, state.what, at, enabled, planned.due is not None, next_at, None, "", last, state.failed)


def states_without_monitor(config: Config, now: datetime) -> list[JobState]:
    """How the jobs stand where no monitor runs, from the timeline. Raises TimelineError, StoreKeyError."""
    settings = config.timeline
    zone, disabled = settings.zone_info(), Switches(settings.database_path()).disabled()
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        return [
            state_of(name, at, name not in disabled, now, zone, reader.job_runs(ENOUGH_RUNS, name))
            for name, at in times_of(config.schedule).items()
        ]


def times_of(schedule: ScheduleConfig) -> dict[str, str]:
    """The time of day of each job by its name, empty for never."""
    return {name: str(getattr(schedule, name)) for name in WORDS}


def summary(states: Iterable[JobState]) -> Json:
    """What `status` tells of all jobs together: which comes next, which go on, which wait, which have failed."""
    coming = [state for state in states if state.comes]
    planned = [(state.next_at, state.name) for state in coming if state.next_at is not None and not state.waits]
    next_at, name = min(planned, default=(None, ""))
    return {
        "next": None if next_at is None else {"job": name, "at": _text(next_at)},
        "running": [{"job": state.name, "since": _text(state.running_since)} for state in states if state.running_since],
        "waiting": [{"job": state.name, "for": state.waits, "again_at": _text(state.next_at)} for state in coming if state.waits],
        "failed": [run_json(state.failed) for state in coming if state.failed],
    }


def problems(states: Iterable[JobState]) -> list[str]:
    """What went wrong with jobs, and has not worked since."""
    return [state.problem for state in states if state.problem]


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
