"""The pause: how long the microphone stays closed because the person said so, kept in a file that survives crashes and restarts.

Knows moments and one small file beside the database, nothing of audio.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from model.errors import ConfigError, TimelineError
from monitor.fileio import write_private_atomic

_DURATION = re.compile(r"(\d{1,4})\s*(s|m|min|h|d)", re.ASCII | re.IGNORECASE)
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_MAX_PAUSE = timedelta(days=31)


def parse_duration(text: str) -> timedelta:
    """A length of time such as 90s, 30m, 2h or 1d. Raises ConfigError for anything else, for none and for more than 31 days."""
    parts = _DURATION.fullmatch(text.strip())
    span = timedelta(seconds=int(parts[1]) * _UNITS[parts[2].lower()]) if parts else timedelta()
    if not timedelta() < span <= _MAX_PAUSE:
        raise ConfigError(f"{text!r} is no length of time; use for example 90s, 30m, 2h or 1d, at most 31d")
    return span


class PauseFile:
    """Whether and until when listening is paused. Any thread may read; one writes.

    path: of the file, which exists while a pause lasts and holds its end, or none for a pause that lasts until `resume`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lasts, self._until = self._stored()

    @property
    def until(self) -> datetime | None:
        """When the pause ends by itself; None when it does not, or when there is none."""
        return self._until

    def holds(self, now: datetime) -> bool:
        """Whether it is paused at `now`; one that is over is forgotten."""
        if self._lasts and self._until is not None and now >= self._until:
            self.end()
        return self._lasts

    def begin(self, until: datetime | None) -> None:
        """Pause from now on. Raises TimelineError when it cannot be written down: then nothing has changed."""
        try:
            write_private_atomic(self._path, json.dumps({"until": until and until.isoformat()}))
        except OSError as error:
            raise TimelineError(f"cannot write down the pause in {self._path}: {error.strerror}") from error
        self._lasts, self._until = True, until

    def end(self) -> None:
        """Listen again."""
        self._lasts, self._until = False, None
        self._path.unlink(missing_ok=True)

    def _stored(self) -> tuple[bool, datetime | None]:
        try:
            until = json.loads(self._path.read_text(encoding="utf-8"))["until"]
            return True, until and datetime.fromisoformat(until).astimezone(UTC)
        except FileNotFoundError:
            return False, None
        except (OSError, ValueError, KeyError, TypeError):
            # Half written when the power went: whoever wrote it wanted the microphone closed.
            return True, None
