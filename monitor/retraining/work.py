"""The folder of a training that was interrupted: its half-trained weights, and which segments they learned from, by number.

It says so as a bundle does (`learned_from.json`), so that forgetting any of it forgets the folder. Whoever trains holds it; it has no
labels and no sound in it.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import TrainingError
from model.manifest import LEARNED_FROM
from monitor.config import state_dir
from monitor.judging.retirement import learned_from
from monitor.store.lock import make_folder_private, make_private, sync

if TYPE_CHECKING:
    from monitor.retraining.evidence import Material, Piece

KEPT = timedelta(days=3)
"""What was interrupted longer ago is not gone on with: there is more to learn from by now."""


@dataclass(frozen=True, slots=True)
class Work:
    """folder: what is removed when it is over."""

    folder: Path

    @classmethod
    def of_this_machine(cls) -> "Work":
        """The one there is."""
        return cls(state_dir() / "retrain-work")

    @property
    def weights(self) -> Path:
        """For the training's own use."""
        return self.folder / "weights"

    @property
    def out(self) -> Path:
        """Where the new bundle comes."""
        return self.folder / "new"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains while the block runs. Raises TrainingError when somebody does, or when it cannot be written."""
        try:
            make_folder_private(self.folder)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise TrainingError(f"cannot use {self.folder}: {error.strerror}; check the permissions there") from error
        try:
            _take(descriptor)
            yield
        finally:
            os.close(descriptor)

    def begun(self, material: "Material", now: datetime) -> "Material":
        """What an interrupted training was about, if it can go on: all of it still holds, and it is not too old. Else all there is."""
        try:
            told = json.loads((self.folder / LEARNED_FROM).read_text(encoding="utf-8"))
            segments, since = {int(number) for number in told["segments"]}, datetime.fromisoformat(told["since"])
            before = material.only(segments)
            if len(before.pieces) == len(segments) and timedelta() <= now - since < KEPT:
                return before
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.clear()
        return material

    def begin(self, pieces: "Sequence[Piece]", now: datetime) -> None:
        """Say what is learned from, before it is. Raises TrainingError."""
        path = self.folder / LEARNED_FROM
        if path.exists():
            return
        start, end = min(piece.start_at for piece in pieces), max(piece.end_at for piece in pieces)
        told = {"segments": [piece.segment for piece in pieces], "from": start.isoformat(), "to": end.isoformat()}
        try:
            make_private(path)
            path.write_text(json.dumps({**told, "since": now.astimezone(UTC).isoformat()}), encoding="utf-8")
            sync(path)
        except OSError as error:
            raise TrainingError(f"cannot write {path}: {error.strerror}; nothing was trained") from error

    def learned_from(self, segments: Collection[int], start: datetime, end: datetime) -> bool:
        """Whether what is here learned from one of the segments, or in that stretch of time, or does not say from what."""
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            return False
        return not (self.folder / LEARNED_FROM).exists() or learned_from(self.folder, segments, start, end)

    def failed(self) -> None:
        """A training failed: once it may go on from here, after the second time what is here is taken to be the reason."""
        mark = self.folder / "failed"
        if mark.exists():
            self.clear()
        else:
            mark.touch(0o600)

    def clear(self) -> None:
        """Remove all that is in it; the folder stays, because it may be held."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _take(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TrainingError("another training is going on; wait for it, or end it first") from error
