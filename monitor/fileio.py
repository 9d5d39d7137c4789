"""Private files, atomic writes, locks and fsync: the one place where files of our own are created, replaced and locked.

Knows files only, nothing of what is in them.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Self

from filelock import lock_descriptor

from model.errors import TimelineError, TimelineInUse
from monitor.paths import DatabaseFiles

SQLITE_SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database while it is open, and after a crash: part of it."""


def fsync_path(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_folder(folder: Path) -> None:
    """Create a folder of our own with mode 0700, or take it from group and others. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def make_private_tree(folder: Path) -> int:
    """Take a folder of our own and all in it from group and others, where it is ours to change; returns how many that were.

    Raises TimelineError when it cannot be done.
    """
    mended = 0
    try:
        for path in (folder, *folder.rglob("*")) if folder.exists() else ():
            found = path.lstat()
            if found.st_mode & 0o077 and found.st_uid == os.geteuid() and not path.is_symlink():
                path.chmod(0o700 if path.is_dir() else 0o600)
                mended += 1
    except OSError as error:
        raise TimelineError(f"others may read {error.filename or folder}, and that cannot be mended: {error.strerror}") from error
    return mended


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Nobody else, in any process, holds this file or folder of ours while the block runs. A folder that is missing is made.

    A file that is replaced is locked by its folder. The operating system lets go when the process ends, however it ends.

    Args:
        wait: for whoever holds it; otherwise BlockingIOError is raised.

    Raises OSError.
    """
    if not path.exists():
        make_private_folder(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not lock_descriptor(descriptor, blocking=wait):
            raise BlockingIOError(errno.EWOULDBLOCK, "it is held by another process", str(path))
        yield
    finally:
        os.close(descriptor)


def partial_path(path: Path) -> Path:
    """The file that is to replace `path`: it is there while it is written, and after its writer was killed."""
    return path.with_name(f".{path.name}.new")


@contextmanager
def open_private_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write while the block runs, which only its owner can read; after it, on the disk and in the place of `path`.

    When the block fails, `path` is as it was. Raises OSError.
    """
    fresh = partial_path(path)
    try:
        fresh.unlink(missing_ok=True)  # of one that was killed
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        fsync_path(path.parent)
    except BaseException:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def write_private_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file of our own by one that only its owner can read, in one step; a folder that is missing is made. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open_private_atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def make_private_file(path: Path) -> None:
    """Create `path` empty with mode 0600 in a folder of mode 0700, or take an existing file from group and others.

    A folder that is there already keeps its mode: it may be somebody's home.
    What SQLite keeps beside a database is treated alike. Raises TimelineError when that cannot be done.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for file in (path, *(path.with_name(path.name + ending) for ending in SQLITE_SIDE_FILES)):
            if file.is_file() and file.stat().st_mode & 0o077:
                file.chmod(0o600)
    except OSError as error:
        raise TimelineError(
            f"cannot use the timeline file {path}: {error.strerror}; check the permissions there, or name another file "
            "in [timeline] database"
        ) from error


def lock_holder(database: Path) -> tuple[Path, int | None]:
    """The lock's file, and the process that its note names: the last to hold it, which may be gone. None where there is no note."""
    path = DatabaseFiles(database).lock
    try:
        return path, int(json.loads(path.read_text())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return path, None


class DatabaseLock:
    """Holds `<database>.lock` while the daemon runs, so that a second one on the same database is refused.

    The operating system lets go of it when the process ends, however it ends: a file left behind blocks nobody.
    path: the database. source: what is listened to, for the message a second start gets.
    """

    def __init__(self, path: Path, source: str) -> None:
        files = DatabaseFiles(path)
        self._database, self._path = files.database, files.lock
        self._source = source
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Take the lock. Raises TimelineInUse naming process, time and source of the daemon that holds it, or TimelineError."""
        make_private_file(self._path)
        note = {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds"), "source": self._source}
        try:
            with ExitStack() as stack:
                stack.enter_context(locked(self._path, wait=False))
                self._path.write_text(json.dumps(note), encoding="utf-8")
                self._held = stack.pop_all()
        except BlockingIOError as error:
            raise TimelineInUse(f"{self._database} is already in use by {self._holder()}; stop it first") from error
        except OSError as error:
            raise TimelineError(f"cannot write {self._path}: {error.strerror}; check the permissions there") from error
        return self

    def __exit__(self, *_raised: object) -> None:
        # The file stays: removing it would let a third process lock a new file while a second waits on this one.
        self._held.close()

    def _holder(self) -> str:
        try:
            note = json.loads(self._path.read_text())
            since = datetime.fromisoformat(note["since"]).astimezone()
            source = {"mic": "the microphone", "-": "standard input"}.get(note["source"], note["source"])
            return f"process {note['pid']}, listening to {source} since {since:%Y-%m-%d %H:%M:%S}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process, which only just started"
