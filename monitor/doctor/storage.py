"""The timeline and what lies beside it: can it be read, is it whole, can only its owner read it, is there room, is there a backup?"""

import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from monitor.config import Config, state_dir
from monitor.doctor.findings import Finding, Verdict
from monitor.forgetting import interrupted
from monitor.sharing.notes import ENDING
from monitor.store.backup import Backups
from monitor.store.reader import TimelineReader

_ENOUGH_DISK_MIB = 500
_BACKUP_DUE = timedelta(days=2)
_BESIDE = ("", "-wal", "-shm", "-journal", ".lock", ".sock", ".paused", ".forgetting", ".jobs", ".schedule")
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_NAMED = 10


def timeline(config: Config) -> Finding:
    """Raises TimelineError when it cannot be opened or is damaged."""
    path = config.timeline.database_path()
    with TimelineReader.open(path, config.timeline.keys()) as reader:
        reader.check()
    if interrupted(config.timeline):
        return Finding(
            Verdict.FAIL, "timeline", "something was to be forgotten and is not altogether; `emosllm-monitor forget` finishes it"
        )
    state = "opens and is undamaged" if path.exists() else "will be created at the first start"
    return Finding(Verdict.OK, "timeline", f"{path} {state}, zone {config.timeline.zone_info()}")


def permissions(config: Config) -> Finding:
    """Everything of the monitor's own must be closed to other users. The database's folder is not looked at: it may be a home."""
    paths = list(_private(config))
    wrong = [line for path in paths for line in _mend(path)]
    if not wrong:
        return Finding(Verdict.OK, "permissions", f"only you can read what is stored ({len(paths)} files and folders)")
    more = [f"and {len(wrong) - _MOST_NAMED} more"] if len(wrong) > _MOST_NAMED else []
    return Finding(Verdict.FAIL, "permissions", "\n".join(["others can read what is stored; run", *wrong[:_MOST_NAMED], *more]))


def disk(config: Config) -> Finding:
    """Room for the timeline to grow."""
    folder = config.timeline.database_path().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free // 2**20
    if free < _ENOUGH_DISK_MIB:
        return Finding(Verdict.WARN, "disk", f"{free} MiB free at {folder}; have at least {_ENOUGH_DISK_MIB}")
    return Finding(Verdict.OK, "disk", f"{free} MiB free at {folder}")


def key(config: Config) -> Finding:
    """Without its key the timeline is lost. Raises StoreKeyError."""
    path = config.timeline.database_path()
    if not path.exists():
        return Finding(Verdict.OK, "key", f"will be made at the first start ({config.timeline.key})")
    place, _ = config.timeline.keys().place_of(path)
    if len(place.read()) > 1:
        return Finding(Verdict.WARN, "key", f"in {place}; changing it was interrupted, `emosllm-monitor key rotate` finishes that")
    return Finding(Verdict.OK, "key", f"in {place}")


def backups(config: Config) -> Finding:
    """The daemon makes one a day. Raises TimelineError."""
    now, kept = datetime.now(UTC), Backups.of(config.timeline)
    with TimelineReader.open(config.timeline.database_path(), config.timeline.keys()) as reader:
        known = reader.overlapping(_EVER, now)
    if known is None:
        return Finding(Verdict.OK, "backups", "nothing is stored yet that could be lost")
    found = kept.found()
    if not found:
        begun = now - known[0]
        if begun < _BACKUP_DUE:
            return Finding(Verdict.OK, "backups", "none yet; the timeline is younger than two days")
        return Finding(Verdict.WARN, "backups", f"there is none in {kept.folder}; the running monitor makes one a day")
    made_at = found[-1].made_at
    last = f"the last of {len(found)} in {kept.folder} is of {made_at.astimezone(config.timeline.zone_info()):%Y-%m-%d %H:%M}"
    if now - made_at > _BACKUP_DUE:
        return Finding(Verdict.WARN, "backups", f"{last}, more than two days ago; the running monitor makes one a day")
    return Finding(Verdict.OK, "backups", last)


def _private(config: Config) -> Iterator[Path]:
    """What must be there for its owner only, as far as it is there."""
    database, folder = config.timeline.database_path(), state_dir()
    own = {folder, *folder.rglob("*")} if folder.is_dir() else set()
    own |= {database.with_name(database.name + ending) for ending in _BESIDE}
    own |= set(database.parent.glob(f"{database.name}{ENDING}*"))
    if config.engine.key_file:
        own.add(Path(config.engine.key_file).expanduser())
    return (path for path in sorted(own) if path.exists() and not path.is_symlink())


def _mend(path: Path) -> Iterator[str]:
    """The commands that close a path to others; none where it is closed."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return  # what a running monitor does not need any more
    if found.st_uid != os.geteuid():
        yield f"sudo chown {os.geteuid()} {shlex.quote(str(path))}"
    if found.st_mode & 0o077:
        yield f"chmod {'700' if stat.S_ISDIR(found.st_mode) else '600'} {shlex.quote(str(path))}"
