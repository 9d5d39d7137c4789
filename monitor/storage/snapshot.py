"""Complete, checked, encrypted copies of a timeline, also while it is written to. Knows no tables and keeps no key."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from model.errors import TimelineError
from monitor.fileio import SQLITE_SIDE_FILES, fsync_path, make_private_file
from monitor.storage.cipher import Connection, Error, StoreKey, connect, name_of
from monitor.storage.reader import timeline_error

PARTIAL_SUFFIX = ".part"
"""How the name of a copy ends while it is made."""

_BUSY_TIMEOUT_S = 5.0
_CHECKS = 3
"""How often a page must look wrong: one that the daemon is just writing does so once."""


@contextmanager
def checked_copy(source: Path, key: StoreKey, target: Path, target_key: StoreKey, leave_out: Sequence[str] = ()) -> Iterator[Path]:
    """A copy of `source` beside `target`, for the caller to rename: whole, read back and on the disk.

    leave_out: tables whose rows are not copied, where there are such tables. What the caller does not rename is removed.
    Raises TimelineError naming `source` when it is damaged, else `target`.
    """
    part = target.with_name(target.name + PARTIAL_SUFFIX)
    try:
        remove_database(part)
        make_private_file(part)
        with closing(connect(source, key, read_only=True, timeout_s=_BUSY_TIMEOUT_S)) as old:
            _check_source(old, source)
            with closing(connect(part, target_key, read_only=False, timeout_s=_BUSY_TIMEOUT_S)) as new:
                # All pages in one step: what is written meanwhile goes to the write-ahead log and does not disturb it.
                old.backup(new)
                _finish_copy(new, leave_out)
        check_copy(part, target_key, source)
        fsync_path(part)
        yield part
    except Error as error:
        raise timeline_error(error, source if _is_damage(error) else target) from error
    except OSError as error:
        raise TimelineError(f"cannot write {target}: {error.strerror}; check the disk and the permissions of the folder") from error
    finally:
        remove_database(part)


def check_copy(path: Path, key: StoreKey, named: Path) -> None:
    """Read every page of the database in `path`. Raises TimelineError saying that `named` is damaged."""
    with closing(connect(path, key, read_only=True, timeout_s=_BUSY_TIMEOUT_S)) as connection:
        bad_pages = _bad_pages(connection)
        found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if found != ["ok"] or bad_pages:
        raise _damage_error(named, bad_pages)


def check_integrity(path: Path, key: StoreKey) -> None:
    """Look at every page of a timeline that no daemon has open; about half a second for 100 MB. Raises TimelineError."""
    log = path.with_name(path.name + "-wal")
    try:
        with closing(connect(path, key, read_only=True, timeout_s=_BUSY_TIMEOUT_S)) as connection:
            bad_pages = _bad_pages(connection)
        if bad_pages and log.exists() and log.stat().st_size:
            # A power cut may leave pages half written: the log beside the file has them whole, and puts them right here.
            with closing(connect(path, key, read_only=False, timeout_s=_BUSY_TIMEOUT_S)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                bad_pages = _bad_pages(connection)
    except Error as error:
        raise timeline_error(error, path) from error
    if bad_pages:
        raise _damage_error(path, bad_pages)


def remove_database(path: Path) -> None:
    """Remove a database and what SQLite keeps beside it, if they are there. Raises OSError."""
    for ending in ("", *SQLITE_SIDE_FILES):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _check_source(connection: Connection, source: Path) -> None:
    """A backup takes a page it cannot decrypt for an empty one, without a word: so look first. Raises TimelineError."""
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        for _ in range(_CHECKS):
            if not (bad_pages := _bad_pages(connection)):
                return
    except Error as error:
        raise timeline_error(error, source) from error
    raise _damage_error(source, bad_pages)


def _bad_pages(connection: Connection) -> int:
    return len(connection.execute("PRAGMA cipher_integrity_check").fetchall())


def _damage_error(path: Path, bad_pages: int) -> TimelineError:
    return TimelineError(f"{path} is damaged ({bad_pages} pages cannot be decrypted); `emosllm-monitor restore` lists the backups")


def _finish_copy(connection: Connection, leave_out: Sequence[str]) -> None:
    connection.isolation_level = None
    # A copy is one file: no write-ahead log beside it.
    connection.execute("PRAGMA journal_mode = DELETE")
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in tables & set(leave_out):
        connection.execute(f'DELETE FROM "{table}"')
    if tables & set(leave_out):
        connection.execute("VACUUM")


def _is_damage(error: Exception) -> bool:
    return name_of(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
