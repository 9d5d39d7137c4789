"""What has to be done once in a while as long as the monitor runs: a backup a day, erasing what was kept long enough, and the
summaries of days that are over.

In a thread of its own, because a backup takes its time; each task is tried whatever became of the others, and again an hour later.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

from model.errors import EmosllmError
from monitor.config import Config
from monitor.look import in_use_of, keep_summaries
from monitor.store.backup import Backups
from monitor.store.timeline import Timeline

_logger = logging.getLogger(__name__)

_FIRST_S, _EVERY_S = 60.0, 3600.0

Task = Callable[[datetime], object]


def tasks_of(timeline: Timeline, config: Config) -> list[Task]:
    """All that has to be done, each to be given the present moment in UTC."""
    backups, zone = Backups.of(config.timeline), config.timeline.zone_info()
    return [
        lambda now: timeline.erase_sound(now - timedelta(days=config.privacy.keep_audio_days)),
        lambda _now: timeline.give_back_space(),
        lambda now: keep_summaries(config.timeline, now, in_use_of(config)),
        lambda now: backups.make_if_due(now, zone),
    ]


class Housekeeper:
    """Does tasks while the block runs: a minute after its beginning, then hourly.

    tell: called after each round with what went wrong in it, or with nothing.
    """

    def __init__(self, tasks: Sequence[Task], tell: Callable[[str], None]) -> None:
        self._tasks = tasks
        self._tell = tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="housekeeping", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._over.set()
        self._thread.join()

    def run_once(self) -> None:
        """Do every task now."""
        problems = []
        for task in self._tasks:
            try:
                task(datetime.now(UTC))
            except EmosllmError as error:
                problems.append(str(error))
                _logger.error("housekeeping: %s", error)
        self._tell("; ".join(problems))

    def _work(self) -> None:
        pause_s = _FIRST_S
        while not self._over.wait(pause_s):
            self.run_once()
            pause_s = _EVERY_S
