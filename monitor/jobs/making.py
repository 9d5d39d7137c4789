"""Puts the jobs of a timeline together: for the monitor that runs, and for the command line where none does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from model.errors import TimelineError
from monitor.config import Config
from monitor.jobs.places import plans_path
from monitor.jobs.runner import JobRunner
from monitor.jobs.state import times_of
from monitor.jobs.upkeep import hourly, upkeep_jobs
from monitor.retraining.job import retrain_job
from monitor.store.reader import current_key
from monitor.store.timeline import Timeline

if TYPE_CHECKING:
    from monitor.jobs.schedule import Jobs, Tell


def jobs_of(timeline: Timeline, config: Config, tell: "Tell", first_s: float = 60.0) -> "Jobs":
    """All jobs of a monitor that begins. Raises TimelineError, StoreKeyError."""
    from monitor.jobs.plans import Plans
    from monitor.jobs.schedule import Jobs

    over, database = threading.Event(), config.timeline.database_path()
    runner = _runner(timeline, config, over)
    times, zone = times_of(config.schedule), config.timeline.zone_info()
    return Jobs(Plans(plans_path(database)), str(database), runner, times, zone, hourly(timeline, config), over, tell, first_s)


@contextmanager
def runner_without_monitor(config: Config) -> Iterator[JobRunner]:
    """For jobs that are done on the command line. Raises TimelineError, also where there is no timeline yet, and StoreKeyError."""
    settings = config.timeline
    database, keys = settings.database_path(), settings.keys()
    if current_key(database, keys) is None:
        raise TimelineError(f"there is no timeline in {database} yet; `emosllm-monitor start` begins one")
    with Timeline.open(database, settings.zone_info(), keys) as timeline:
        runner = _runner(timeline, config, threading.Event())
        try:
            yield runner
        finally:
            runner.close()


def _runner(timeline: Timeline, config: Config, over: threading.Event) -> JobRunner:
    settings = config.timeline
    jobs = [*upkeep_jobs(timeline, config), retrain_job(config, over)]
    return JobRunner(jobs, times_of(config.schedule), settings.zone_info(), settings.database_path(), settings.keys(), over)
