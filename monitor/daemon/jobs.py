"""Puts the scheduled jobs of a timeline together: summaries, backup, retention and nightly retraining.

For a running daemon (`create_job_scheduler`) and for the command line where none runs (`offline_job_runner`).
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from model.errors import TimelineError
from monitor.analysis.timeline_query import store_missing_summaries
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config
from monitor.personalization.retraining import retrain_job
from monitor.scheduler.job_status import JOB_DESCRIPTIONS, job_times
from monitor.scheduler.jobs import Job, JobOutcome, JobResult
from monitor.scheduler.runner import JobRunner
from monitor.storage.backup import Backups
from monitor.storage.reader import find_timeline_key
from monitor.storage.writer import TimelineWriter

if TYPE_CHECKING:
    from monitor.scheduler.scheduler import JobScheduler, ReportJobs


def maintenance_jobs(timeline: TimelineWriter, config: Config) -> list[Job]:
    """All of them."""
    work = {
        "summaries": lambda now: _summaries(config, now),
        "backup": lambda now: _backup(config, now),
        "retention": lambda now: _retention(timeline, config, now),
    }
    return [Job(name, JOB_DESCRIPTIONS[name], run) for name, run in work.items()]


def hourly_tasks(timeline: TimelineWriter, config: Config) -> Mapping[str, Callable[[datetime], object]]:
    """What a day is too long for, by the job that does it too.

    Sound shall not be kept for up to a day longer than the settings say, what a large spool leaves behind goes back to the disk, and a
    day that was corrected after the night is summarized again.
    """
    return {
        "summaries": lambda now: _summaries(config, now),
        "retention": lambda now: _retention(timeline, config, now),
    }


def _summaries(config: Config, now: datetime) -> JobResult:
    made = store_missing_summaries(config.timeline, now, BundleRegistry.of(config).active())
    if not made:
        return JobResult(JobOutcome.NOTHING, "every day that is over has its summary")
    return JobResult(JobOutcome.DONE, f"{made} {'day was' if made == 1 else 'days were'} summarized", {"days": made})


def _backup(config: Config, now: datetime) -> JobResult:
    made = Backups.of(config.timeline).make_if_due(now, config.timeline.zone_info())
    if made is None:
        return JobResult(JobOutcome.NOTHING, "there is a backup of this day already")
    size = made.stat().st_size
    return JobResult(JobOutcome.DONE, f"a backup of {size / 2**20:.1f} MiB was made", {"bytes": size})


def _retention(timeline: TimelineWriter, config: Config, now: datetime) -> JobResult:
    days = config.privacy.keep_audio_days
    erased = timeline.erase_audio(now - timedelta(days=days))
    timeline.release_free_pages()
    if not erased:
        return JobResult(JobOutcome.NOTHING, f"no sound was kept for more than {days} days")
    return JobResult(JobOutcome.DONE, f"the sound of {erased} pieces was erased, kept for {days} days", {"sounds": erased})


def create_job_scheduler(timeline: TimelineWriter, config: Config, tell: "ReportJobs", first_s: float = 60.0) -> "JobScheduler":
    """All jobs of a monitor that begins. Raises TimelineError, StoreKeyError."""
    from monitor.scheduler.scheduler import JobScheduler

    over, files = threading.Event(), config.timeline.files()
    runner = _create_runner(timeline, config, over)
    times, zone = job_times(config.schedule), config.timeline.zone_info()
    return JobScheduler(files.jobs, runner, times, zone, hourly_tasks(timeline, config), over, tell, first_s)


@contextmanager
def offline_job_runner(config: Config) -> Iterator[JobRunner]:
    """For jobs that are done on the command line. Raises TimelineError, also where there is no timeline yet, and StoreKeyError."""
    settings = config.timeline
    database, keys = settings.database_path(), settings.keys()
    if find_timeline_key(database, keys) is None:
        raise TimelineError(f"there is no timeline in {database} yet; `emosllm-monitor start` begins one")
    with TimelineWriter.open(database, settings.zone_info(), keys) as timeline:
        runner = _create_runner(timeline, config, threading.Event())
        try:
            yield runner
        finally:
            runner.close()


def _create_runner(timeline: TimelineWriter, config: Config, over: threading.Event) -> JobRunner:
    settings = config.timeline
    jobs = [*maintenance_jobs(timeline, config), retrain_job(config, over)]
    return JobRunner(jobs, job_times(config.schedule), settings.zone_info(), settings.database_path(), settings.keys(), over)
