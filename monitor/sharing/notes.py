"""Notes beside the timeline of what a clinic is still to forget: times only. They outlive the timeline itself, and a backup put back.

Each is a file of its own, so that nobody has to take turns. Who takes one away has told the clinic.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from model.errors import TimelineError
from monitor.day.stretches import Stretch
from monitor.store.lock import make_private, sync

ENDING = ".clinic-"
"""What stands between the timeline's name and a note's own."""


@dataclass(frozen=True, slots=True)
class Note:
    """stretch: None for everything."""

    path: Path
    stretch: Stretch | None


class Notes:
    """Those of one timeline."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def add(self, stretch: Stretch | None) -> None:
        """From now on the clinic is to forget it. Raises TimelineError when it cannot be written."""
        told = None if stretch is None else [stretch.start.isoformat(), stretch.end.isoformat()]
        path = self._database.with_name(f"{self._database.name}{ENDING}{time.time_ns()}")
        fresh = path.with_name(f"{path.name}.new")
        try:
            make_private(fresh)
            fresh.write_text(json.dumps({"forget": told}), encoding="utf-8")
            sync(fresh)
            fresh.replace(path)
            sync(path.parent)
        except OSError as error:
            raise TimelineError(f"cannot write {path}: {error.strerror}; the clinic was not told what to forget") from error

    def read(self) -> Sequence[Note]:
        """All of them, oldest first. Raises TimelineError when one cannot be read."""
        found = sorted(self._database.parent.glob(f"{self._database.name}{ENDING}*"))
        return [note for path in found if path.suffix != ".new" and (note := _read(path)) is not None]

    def remove(self, notes: Sequence[Note]) -> None:
        """The clinic has forgotten it."""
        for note in notes:
            note.path.unlink(missing_ok=True)


def _read(path: Path) -> Note | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["forget"]
        return Note(path, None if told is None else Stretch(*(datetime.fromisoformat(text).astimezone(UTC) for text in told)))
    except FileNotFoundError:
        return None  # another process has just told the clinic
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TimelineError(f"{path} should say what the clinic is to forget, and cannot be read ({error}); forget it again") from error
