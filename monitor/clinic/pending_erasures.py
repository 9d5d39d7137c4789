"""Files beside the timeline that record what the clinic must still erase: time ranges only.

They outlive the timeline and a restored backup. Each is a file of its own, so no lock is needed. Whoever removes one has told the clinic.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from model.errors import TimelineError
from monitor.analysis.days import TimeRange
from monitor.fileio import write_private_atomic
from monitor.paths import DatabaseFiles


@dataclass(frozen=True, slots=True)
class PendingErasure:
    """stretch: None for everything."""

    path: Path
    time_range: TimeRange | None


class PendingErasures:
    """Those of one timeline."""

    def __init__(self, database: Path) -> None:
        self._files = DatabaseFiles(database)

    def add(self, time_range: TimeRange | None) -> None:
        """From now on the clinic is to forget it. Raises TimelineError when it cannot be written."""
        told = None if time_range is None else [time_range.start.isoformat(), time_range.end.isoformat()]
        path = self._files.erasure_note(time.time_ns())
        try:
            write_private_atomic(path, json.dumps({"forget": told}))
        except OSError as error:
            raise TimelineError(f"cannot write {path}: {error.strerror}; the clinic was not asked to erase anything") from error

    def read(self) -> Sequence[PendingErasure]:
        """All of them, oldest first. Raises TimelineError when one cannot be read."""
        return [note for path in self._files.erasure_notes() if (note := _read(path)) is not None]

    def remove(self, notes: Sequence[PendingErasure]) -> None:
        """The clinic has forgotten it."""
        for note in notes:
            note.path.unlink(missing_ok=True)


def _read(path: Path) -> PendingErasure | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["forget"]
        return PendingErasure(path, None if told is None else TimeRange(*(datetime.fromisoformat(text).astimezone(UTC) for text in told)))
    except FileNotFoundError:
        return None  # another process has just told the clinic
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TimelineError(f"cannot read {path}, which lists what the clinic must erase ({error}); run `forget` again") from error
