"""Prompts the person at random times to check in, by a desktop notification, while the daemon runs.

A day's prompts are one at random in each of as many equal blocks, as in experience sampling (Csikszentmihalyi & Larson 1987; Myin-Germeys
& Kuppens, The Open Handbook of Experience Sampling Methodology). They follow from the date, so a restart neither repeats nor moves them.
What a notification shows may be read by whoever looks at the screen, so nothing personal is in it.
"""

import logging
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Self
from zoneinfo import ZoneInfo

from model.errors import DesktopError, EmosllmError
from monitor.analysis.days import Day
from monitor.config import CheckInConfig

_PROGRAM = "notify-send"
_NOTIFY_TIMEOUT_S = 10.0


def find_notify_send() -> str:
    """The path of what shows notifications. Raises DesktopError when it is not installed."""
    found = shutil.which(_PROGRAM)
    if found is None:
        raise DesktopError(f"notifications cannot be shown: {_PROGRAM} is not installed (on Debian and Ubuntu: libnotify-bin)")
    return found


def show_notification(title: str, text: str) -> None:
    """Show a notification. Raises DesktopError where there is no desktop to show it."""
    command = [find_notify_send(), "--app-name=emosllm-monitor", title, text]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_NOTIFY_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DesktopError(f"a notification could not be shown: {_PROGRAM} failed ({error})") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise DesktopError(f"a notification could not be shown: {said}; is the monitor part of a desktop session?")


_logger = logging.getLogger(__name__)

PROMPT_TITLE, PROMPT_TEXT = "Check-in", "Two short questions, if it suits you now: emosllm-monitor checkin"
"""All that a notification says: nothing about the person."""

_CHECK_EVERY_S = 20.0
_MAX_SPACING = timedelta(hours=1)
# A machine that slept through a time, or was started after it, does not ask later: the moment has passed.
_MAX_DELAY = timedelta(minutes=5)


def prompt_times(day: Day, config: CheckInConfig) -> list[datetime]:
    """When the person is to be asked on a day: aware UTC, in order, the same whenever it is computed.

    Each lies in a block of its own, and half a block, at most an hour, after the one before.
    """
    chance = random.Random(f"{day.on} {day.zone} {config}")
    start, end = (day.at(clock) for clock in config.window())
    block = (end - start) / max(1, config.prompts_per_day)
    apart = min(block / 2, _MAX_SPACING)
    times: list[datetime] = []
    for first, last in pairwise(start + number * block for number in range(config.prompts_per_day + 1)):
        free = max(first, times[-1] + apart) if times else first
        times.append(free + chance.random() * (last - free))
    return times


class CheckInPrompter:
    """Asks while the block runs.

    zone: the person's. busy: whether they must not be asked now. record: stores that they were asked at a moment in UTC; it and the
    notification may raise EmosllmError. tell: gets what went wrong, and nothing when it is over.
    """

    def __init__(
        self,
        config: CheckInConfig,
        zone: ZoneInfo,
        busy: Callable[[], bool],
        record: Callable[[datetime], object],
        tell: Callable[[str], None],
    ) -> None:
        self._config = config
        self._zone = zone
        self._busy = busy
        self._record = record
        self._tell = tell
        self._looked_at = datetime.now(UTC)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prompting", daemon=True)

    def __enter__(self) -> Self:
        if self._config.prompts_per_day:
            self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self, now: datetime) -> None:
        """Ask if a time has come since the last look. now: UTC."""
        times = prompt_times(Day(now.astimezone(self._zone).date(), self._zone), self._config)
        due = any(max(self._looked_at, now - _MAX_DELAY) < moment <= now for moment in times)
        self._looked_at = now
        if due and not self._busy():
            self._try(lambda: self._ask(now))

    def _ask(self, now: datetime) -> None:
        show_notification(PROMPT_TITLE, PROMPT_TEXT)
        self._record(now)
        _logger.info("the person was asked to check in")

    def _work(self) -> None:
        self._try(find_notify_send)
        while not self._over.wait(_CHECK_EVERY_S):
            self.look(datetime.now(UTC))

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except EmosllmError as error:
            _logger.error("the person was not asked to check in: %s", error)
            self._tell(str(error))
        else:
            self._tell("")
