"""How the jobs stand, as data, as JSON and as text, for `status`, `schedule list` and the dashboard. Knows no scheduler."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from monitor.config import Config, ScheduleConfig
from monitor.scheduler.jobs import DisabledJobs, check_due, last_failure
from monitor.storage.reader import TimelineReader
from monitor.storage.records import JobRun

Json = dict[str, Any]

JOB_DESCRIPTIONS: Mapping[str, str] = {
    "summaries": "summaries of days that are over",
    "backup": "a backup of the timeline",
    "retention": "erase kept sound that is old enough",
    "retrain": "learn from your corrections",
}
"""What each job is for, by its name in [schedule]."""

RECENT_RUNS = 40
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
    def is_scheduled(self) -> bool:
        """Whether the monitor does it by itself."""
        return self.enabled and bool(self.time)

    @property
    def problem(self) -> str:
        """What a person should know went wrong; empty while nothing did, and of a job that is switched off."""
        if self.failed is None or not self.is_scheduled:
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
            "next_at": _format_moment(self.next_at),
            "running_since": _format_moment(self.running_since),
            "waits": self.waits,
            "last": job_run_json(self.last),
            "failed": job_run_json(self.failed),
        }


def job_run_json(run: JobRun | None) -> Json | None:
    """A run without its details, which may be long."""
    if run is None:
        return None
    return {
        "id": run.id,
        "job": run.job,
        "day": run.day.isoformat(),
        "started_at": _format_moment(run.started_at),
        "ended_at": _format_moment(run.ended_at),
        "seconds": None if run.seconds is None else round(run.seconds, 3),
        "outcome": run.outcome,
        "reason": run.reason,
    }


def job_state(name: str, at: str, enabled: bool, now: datetime, zone: ZoneInfo, runs: Sequence[JobRun]) -> JobState:
    """How a job stands by its history alone. at: its time of day, empty for never. runs: its own, newest first."""
    last = next((run for run in runs if run.outcome is not None), None)
    state = JobState(name, JOB_DESCRIPTIONS.get(name, name), at, enabled, last=last, failed=last_failure(runs))
    if not state.is_scheduled:
        return state
    planned = check_due(now, time.fromisoformat(at), zone, runs)
    next_at = now if planned.due else planned.look_at
    return JobState(name, state.what, at, enabled, planned.due is not None, next_at, None, "", last, state.failed)


def offline_job_states(config: Config, now: datetime) -> list[JobState]:
    """How the jobs stand where no monitor runs, from the timeline. Raises TimelineError, StoreKeyError."""
    settings = config.timeline
    zone, disabled = settings.zone_info(), DisabledJobs(settings.database_path()).disabled()
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        return [
            job_state(name, at, name not in disabled, now, zone, reader.job_runs(RECENT_RUNS, name))
            for name, at in job_times(config.schedule).items()
        ]


def job_times(schedule: ScheduleConfig) -> dict[str, str]:
    """The time of day of each job by its name, empty for never."""
    return {name: str(getattr(schedule, name)) for name in JOB_DESCRIPTIONS}


def summarize_jobs(states: Iterable[JobState]) -> Json:
    """What `status` tells of all jobs together: which comes next, which go on, which wait, which have failed."""
    coming = [state for state in states if state.is_scheduled]
    planned = [(state.next_at, state.name) for state in coming if state.next_at is not None and not state.waits]
    next_at, name = min(planned, default=(None, ""))
    return {
        "next": None if next_at is None else {"job": name, "at": _format_moment(next_at)},
        "running": [{"job": state.name, "since": _format_moment(state.running_since)} for state in states if state.running_since],
        "waiting": [{"job": state.name, "for": state.waits, "again_at": _format_moment(state.next_at)} for state in coming if state.waits],
        "failed": [job_run_json(state.failed) for state in coming if state.failed],
    }


def list_job_problems(states: Iterable[JobState]) -> list[str]:
    """What went wrong with jobs, and has not worked since."""
    return [state.problem for state in states if state.problem]


def _format_moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


JobJson = Mapping[str, Any]


def format_job_table(jobs: Sequence[JobJson], zone: ZoneInfo, running: bool) -> Iterator[str]:
    """A line a job, and one below it for why it waits or failed. jobs: as JobState.as_json. running: whether a monitor runs."""
    rows = [(job["job"], format_next_run(job, zone, running), format_last_run(job["last"], zone)) for job in jobs]
    widths = [max(len(row[column]) for row in [*rows, _HEAD]) for column in (0, 1)]
    for row, job in zip([_HEAD, *rows], [None, *jobs], strict=True):
        yield f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip()
        if job is not None:
            yield from (f"{'':<{widths[0]}}  {line}" for line in _detail_lines(job))


_HEAD = ("job", "next", "last")


def format_next_run(job: JobJson, zone: ZoneInfo, running: bool = True) -> str:
    """When it comes next."""
    if job["running_since"]:
        return f"goes on since {format_local_time(job['running_since'], zone)}"
    if not job["enabled"]:
        return "switched off"
    if not job["time"]:
        return "never, say the settings"
    if not running:
        return "when the monitor runs" if job["due"] else f"{format_local_moment(job['next_at'], zone)}, if the monitor runs"
    return "in a moment" if job["due"] else format_local_moment(job["next_at"], zone)


def format_last_run(run: JobJson | None, zone: ZoneInfo) -> str:
    """What came of a run, and when."""
    if run is None:
        return "not done yet"
    return f"{run['outcome'] or 'goes on'}, {format_local_moment(run['started_at'], zone)}{format_run_time(run['seconds'])}"


def format_run_time(seconds: float | None) -> str:
    """How long it took, as an addition; empty where that is not known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f", took {seconds:.0f} s" if seconds >= 1 else ", took under a second"
    return f", took {seconds / 60:.0f} min" if seconds < 3600 else f", took {seconds / 3600:.1f} h"


def job_summary_lines(summary: JobJson, zone: ZoneInfo) -> Iterator[str]:
    """What `status` says of all jobs together; failures are told among the problems."""
    for one in summary["running"]:
        yield f"{one['job']} goes on since {format_local_time(one['since'], zone)}"
    for one in summary["waiting"]:
        yield f"{one['job']} waits: {one['for']}"
    if summary["next"]:
        yield f"next is {summary['next']['job']}, {format_local_moment(summary['next']['at'], zone)}"


def format_job_run(run: JobJson) -> str:
    """One run in one line, for who asked for it."""
    return f"{run['job']} of {run['day']}: {run['outcome']}" + (f"; {run['reason']}" if run["reason"] else "")


def format_local_moment(text: str, zone: ZoneInfo) -> str:
    """A moment of the JSON on the wall's clock and calendar."""
    return f"{datetime.fromisoformat(text).astimezone(zone):%Y-%m-%d %H:%M}"


def format_local_time(text: str, zone: ZoneInfo) -> str:
    """A moment of the JSON on the wall's clock."""
    return f"{datetime.fromisoformat(text).astimezone(zone):%H:%M}"


def _detail_lines(job: JobJson) -> Iterable[str]:
    if job["waits"]:
        yield f"waits: {job['waits']}"
    if job["failed"]:
        yield f"failed for {job['failed']['day']}: {job['failed']['reason']}"
    elif job["last"] and job["last"]["reason"]:
        yield job["last"]["reason"]
