"""Daily backups of the timeline, restoring one, and changing the key of the timeline and of all its backups.

Each backup is an encrypted database that the same key opens: it helps when the file is damaged or lost, not when the key is. When the key
is rotated, both keys are stored before the first file is encrypted anew, each file is replaced in one step, and the old key goes last: so
whatever interrupts it, every file can still be opened.
"""

import logging
import os
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self
from zoneinfo import ZoneInfo

from model.errors import StoreKeyError, TimelineError
from monitor.fileio import SQLITE_SIDE_FILES, fsync_path, locked
from monitor.paths import DatabaseFiles, backups_dir
from monitor.storage.cipher import Error, StoreKey, connect, salt_of
from monitor.storage.keys import EnvironmentKey, KeyPlace, KeyStore, TimelineSettings, database_label
from monitor.storage.outbox import requeue_all
from monitor.storage.reader import timeline_error
from monitor.storage.snapshot import PARTIAL_SUFFIX, check_copy, checked_copy

_logger = logging.getLogger(__name__)

EXCLUDED_TABLES: tuple[str, ...] = ("sound", "outbox")
"""Tables whose rows no backup holds: sound is kept until it is judged or as long as the person wants it, and not a day longer; what a
clinic is to hear of is noted anew when a backup is put back."""

_BUSY_TIMEOUT_S = 5.0
_STAMP = "%Y%m%dT%H%M%SZ"


class BackupSettings(TimelineSettings, Protocol):
    """The settings of a timeline and its backups."""

    @property
    def backups(self) -> int:
        """How many are kept."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup: its file and the moment it was made, in UTC."""

    path: Path
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Backups:
    """The backups of one database. keep: how many. leave_out: tables that are not backed up."""

    database: Path
    folder: Path
    keys: KeyStore
    keep: int
    leave_out: Sequence[str] = EXCLUDED_TABLES

    @classmethod
    def of(cls, settings: BackupSettings) -> Self:
        """Those that the settings mean."""
        return cls(settings.database_path(), backups_dir(), settings.keys(), settings.backups)

    def found(self) -> list[Backup]:
        """All of this database, oldest first. Raises TimelineError when the folder cannot be read."""
        name = re.compile(re.escape(database_label(self.database, self.keys.folder)) + r"-(\d{8}T\d{6}Z)\.db")
        try:
            files = sorted(self.folder.iterdir()) if self.folder.exists() else []
        except OSError as error:
            raise TimelineError(f"cannot read the backups in {self.folder}: {error.strerror}; check its permissions") from error
        return [
            Backup(file, datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)) for file in files if (match := name.fullmatch(file.name))
        ]

    def make(self, now: datetime) -> Path:
        """Back the database up, also while it is written to; then let go of the oldest beyond `keep`. Returns the file.

        Raises TimelineError when that fails; the backups there are stay then.
        """
        if salt_of(self.database) is None:
            raise TimelineError(f"there is no timeline in {self.database} yet; `emosllm-monitor start` begins one")
        target = self.folder / f"{database_label(self.database, self.keys.folder)}-{now.astimezone(UTC):{_STAMP}}.db"
        try:
            with locked(self.folder):
                self.sweep()
                key = self.keys.find(self.database)
                with checked_copy(self.database, key, target, key, self.leave_out) as copy:
                    copy.replace(target)
                    fsync_path(self.folder)
                self._let_go()
        except OSError as error:
            raise TimelineError(f"cannot keep backups in {self.folder}: {error.strerror}; check its permissions") from error
        _logger.info("a backup of %d bytes was made", target.stat().st_size)
        return target

    def make_if_due(self, now: datetime, zone: ZoneInfo) -> Path | None:
        """Make the backup of the local day that `now` is in, unless there is one. Raises TimelineError."""
        today = now.astimezone(zone).date()
        if any(backup.made_at.astimezone(zone).date() == today for backup in self.found()):
            return None
        return self.make(now)

    def named(self, name: str) -> Path:
        """The file that a person calls `name`: a path, or one of `found`. Raises TimelineError when there is none."""
        for path in (self.folder / name, Path(name).expanduser()):
            if path.is_file():
                return path
        raise TimelineError(f"there is no backup {name}; `emosllm-monitor restore` lists those there are")

    def restore(self, backup: Path, now: datetime) -> Path | None:
        """Put a backup in the database's place. Returns where the database is now that was there, None if there was none.

        Only for the holder of the database's lock. Raises TimelineError, and then the database is as it was.
        """
        key = self.keys.find(self.database, copy=backup)
        with checked_copy(backup, key, self.database, key) as copy:
            _requeue_shared(copy, key)
            aside = self._move_aside(now) if self.database.exists() else None
            copy.replace(self.database)
            fsync_path(self.database.parent)
        return aside

    def _let_go(self) -> None:
        for backup in self.found()[: -self.keep]:
            backup.path.unlink()

    def sweep(self) -> None:
        """Remove what backups that were killed left half made. Only for whose turn it is."""
        for left in self.folder.glob(f"*{PARTIAL_SUFFIX}*"):
            left.unlink()

    def _move_aside(self, now: datetime) -> Path:
        """Give the database a second name, so that there is one under its own name at every moment; and its log, its first."""
        aside = DatabaseFiles(self.database).aside(f"{now.astimezone(UTC):{_STAMP}}")
        os.link(self.database, aside)
        for ending in SQLITE_SIDE_FILES:
            beside = self.database.with_name(self.database.name + ending)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + ending))
        return aside


def _requeue_shared(copy: Path, key: StoreKey) -> None:
    """What a clinic has of later days stays there, and what is in the backup goes there once more: it may have been on its way."""
    try:
        with closing(connect(copy, key, read_only=False, timeout_s=_BUSY_TIMEOUT_S)) as connection:
            requeue_all(connection)
            connection.commit()
    except Error as error:
        raise timeline_error(error, copy) from error
    fsync_path(copy)


def rotate_key(database: Path, keys: KeyStore, backups: Backups) -> KeyPlace:
    """Give `database` and its backups a new key, or finish what was interrupted; returns where the key is.

    Only for the holder of the database's lock. Raises TimelineError, when one of the files is damaged too; all of them can
    still be opened then, and calling it again goes on.
    """
    if salt_of(database) is None:
        raise TimelineError(f"there is no timeline in {database} yet, and so no key to change")
    place, key = keys.place_of(database)
    if isinstance(place, EnvironmentKey):
        raise StoreKeyError(f'the key is in {place}, which cannot be changed from here; keep it with [timeline] key = "file" or "keyring"')
    for aside in DatabaseFiles(database).asides():
        raise TimelineError(f"{aside} could not be opened any more without the old key; move it away or remove it, then try again")
    _checkpoint(database, key)
    with locked(backups.folder):
        new = _store_both_keys(place, key)
        for file in (*(backup.path for backup in backups.found()), database):
            if salt_of(file) != new.salt:
                _reencrypt(file, keys.find(database, copy=file), new)
        place.write((new,))
    return place


def _store_both_keys(place: KeyPlace, key: StoreKey) -> StoreKey:
    """The new key, stored beside the old one: an earlier one where a change was interrupted."""
    stored = place.read()
    if len(stored) > 1:
        return stored[-1]
    new = StoreKey.new()
    place.write((key, new))
    return new


def _checkpoint(database: Path, key: StoreKey) -> None:
    """Bring all that is in the write-ahead log into the file, which is to be replaced; nobody else may have it open."""
    try:
        with closing(connect(database, key, read_only=False, timeout_s=_BUSY_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        check_copy(database, key, database)
    except Error as error:
        raise timeline_error(error, database) from error


def _reencrypt(file: Path, key: StoreKey, new: StoreKey) -> None:
    with checked_copy(file, key, file, new) as copy:
        copy.replace(file)
        fsync_path(file.parent)
