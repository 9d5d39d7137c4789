"""The jobs that look after the timeline: summaries of days that are over, a backup a day, and erasing what was kept long enough."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from monitor.config import Config
from monitor.jobs.job import Job, Outcome, Result
from monitor.jobs.state import WORDS
from monitor.look import in_use_of, keep_summaries
from monitor.store.backup import Backups
from monitor.store.timeline import Timeline


def upkeep_jobs(timeline: Timeline, config: Config) -> list[Job]:
    """All of them."""
    work = {
        "summaries": lambda now: _summaries(config, now),
        "backup": lambda now: _backup(config, now),
        "retention": lambda now: _retention(timeline, config, now),
    }
    return [Job(name, WORDS[name], run) for name, run in work.items()]


def hourly(timeline: Timeline, config: Config) -> Mapping[str, Callable[[datetime], object]]:
    """What a day is too long for, by the job that does it too.

    Sound shall not be kept for up to a day longer than the settings say, what a large spool leaves behind goes back to the disk, and a
    day that was corrected after the night is summarized again.
    """
    return {
        "summaries": lambda now: _summaries(config, now),
        "retention": lambda now: _retention(timeline, config, now),
    }


def _summaries(config: Config, now: datetime) -> Result:
    made = keep_summaries(config.timeline, now, in_use_of(config))
    if not made:
        return Result(Outcome.NOTHING, "every day that is over has its summary")
    return Result(Outcome.DONE, f"{made} {'day was' if made == 1 else 'days were'} summarized", {"days": made})


def _backup(config: Config, now: datetime) -> Result:
    made = Backups.of(config.timeline).make_if_due(now, config.timeline.zone_info())
    if made is None:
        return Result(Outcome.NOTHING, "there is a backup of this day already")
    size = made.stat().st_size
    return Result(Outcome.DONE, f"a backup of {size / 2**20:.1f} MiB was made", {"bytes": size})


def _retention(timeline: Timeline, config: Config, now: datetime) -> Result:
    days = config.privacy.keep_audio_days
    erased = timeline.erase_sound(now - timedelta(days=days))
    timeline.give_back_space()
    if not erased:
        return Result(Outcome.NOTHING, f"no sound was kept for more than {days} days")
    return Result(Outcome.DONE, f"the sound of {erased} pieces was erased, kept for {days} days", {"sounds": erased})
