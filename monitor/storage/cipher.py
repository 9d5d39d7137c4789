"""Opens encrypted databases: the only file that knows SQLCipher. Knows nothing of tables, nor of where keys are kept.

A key is 32 random bytes, used as they are: there is no password to guess, and so no slow derivation. The first 16 bytes of a
file, where SQLCipher keeps a random salt in the clear, are derived from the key here. So a file tells which key opens it, and a
wrong key is told from damage. Every page still has a random start value and a checksum of its own.
"""

import hashlib
import hmac
import secrets
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, cast

from sqlcipher3 import dbapi2

from model.errors import TimelineError

# The objects have the interface of those of the standard library, which has types.
Connection = sqlite3.Connection
Row = sqlite3.Row
Error: type[Exception] = dbapi2.Error
DRIVER = dbapi2
"""What SQLAlchemy works through, and where the classes of rows and errors are."""

_KEY_BYTES, _SALT_BYTES, _PAGE_BYTES = 32, 16, 4096
_PLAIN_HEAD = b"SQLite format 3\0"
_SALT_CONTEXT = b"emosllm-monitor: which key opens this file"

_NAMES = {
    "database or disk is full": "SQLITE_FULL",
    "disk I/O error": "SQLITE_IOERR",
    "database is locked": "SQLITE_BUSY",
    "database disk image is malformed": "SQLITE_CORRUPT",
    "file is not a database": "SQLITE_NOTADB",
    "attempt to write a readonly database": "SQLITE_READONLY",
    "unable to open database file": "SQLITE_CANTOPEN",
}


@dataclass(frozen=True, slots=True)
class StoreKey:
    """What opens a database: 64 hexadecimal digits, which are never shown. Raises ValueError for anything else."""

    digits: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.digits) != 2 * _KEY_BYTES or not set(self.digits) <= set("0123456789abcdef"):
            raise ValueError("a key is 64 hexadecimal digits")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that a person or a file gives, in upper or lower case."""
        return cls(text.strip().lower())

    @classmethod
    def new(cls) -> Self:
        """A key that nobody has."""
        return cls(secrets.token_hex(_KEY_BYTES))

    @property
    def salt(self) -> bytes:
        """What a file encrypted with this key begins with; tells nothing about the key."""
        return hmac.digest(bytes.fromhex(self.digits), _SALT_CONTEXT, hashlib.sha256)[:_SALT_BYTES]


def salt_of(path: Path) -> bytes | None:
    """What the encrypted database in `path` begins with; None where there is no file, or an empty one.

    Raises TimelineError when it cannot be read, is plain SQLite, or for another reason cannot be a timeline.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_SALT_BYTES)
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise TimelineError(f"the timeline {path} is a folder; name a file in [timeline] database") from error
    except OSError as error:
        raise TimelineError(f"cannot use the timeline {path}: {error.strerror}; check the permissions there") from error
    if not head:
        return None
    if head == _PLAIN_HEAD:
        raise TimelineError(
            f"{path} is a database that is not encrypted: no timeline of this program. It was left alone; name another file in "
            "[timeline] database"
        )
    if head.isascii() and head.decode("ascii").isprintable():
        raise TimelineError(f"cannot use the timeline {path}: it is no timeline database; name another file in [timeline] database")
    return head


def name_of(error: BaseException | None) -> str:
    """SQLite's name of what happened, such as SQLITE_FULL; empty for what it did not raise."""
    # The driver gives no name to what goes wrong in a backup.
    return getattr(error, "sqlite_errorname", None) or _NAMES.get(str(error), "")


def connect(path: Path, key: StoreKey, *, read_only: bool, timeout_s: float) -> Connection:
    """Open the database in `path`, or make it where it may be written. Nothing is read yet, so a wrong key shows later.

    timeout_s: how long to wait while another program holds it. Only one that is read stays with its thread. Raises Error.
    """
    if read_only and path.with_name(path.name + "-journal").exists():
        # What was killed in the middle of a change must be taken back first, and only one that may write can do that.
        with closing(connect(path, key, read_only=False, timeout_s=timeout_s)) as mending:
            mending.execute("SELECT count(*) FROM sqlite_master")
    mode = "ro" if read_only else "rwc"
    connection = dbapi2.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=timeout_s, check_same_thread=read_only)
    # Otherwise it writes about every page it cannot decrypt to standard error.
    connection.execute("PRAGMA cipher_log_level = NONE")
    connection.execute(f"PRAGMA key = \"x'{key.digits}{key.salt.hex()}'\"")
    if not read_only:
        # Only works before the first table. What is deleted later is overwritten, and its space can be given back.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA secure_delete = ON")
    return cast(Connection, connection)
