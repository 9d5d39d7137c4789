"""Who may ask the server: a small file of names and digests of keys. The keys themselves are nowhere; each is shown once.

Commands write it while a server reads it, so it is replaced as a whole, and the server looks whether it is another one.
"""

import contextlib
import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from model.errors import ServingError
from monitor.fileio import locked, write_private_atomic

logger = logging.getLogger(__name__)

LOCAL_CLIENT = "local"
"""Whoever asks a server without clients, which answers this machine only."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Client:
    """sha256: of its key, in hex. since: aware UTC in ISO 8601. operator: it may read /metrics, which tell about everyone."""

    sha256: str
    since: str
    operator: bool = False


def read_clients(path: Path) -> dict[str, Client]:
    """Everyone who may ask, by name; nobody where there is no file. Raises ServingError for a file that cannot be read."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {_check_name(name): Client(**told) for name, told in stored["clients"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServingError(f"the clients in {path} cannot be read ({type(error).__name__}); mend the file or make it anew") from error


def add_client(path: Path, name: str, *, operator: bool = False) -> str:
    """Let somebody ask. Returns the key, which is not kept. Raises ServingError: the name is none, or taken; the disk is full."""
    _check_name(name)
    with _edit_clients(path) as clients:
        if name in clients:
            raise ServingError(f"there is a client {name} already; remove it first to give it another key")
        key = secrets.token_urlsafe(_KEY_BYTES)
        clients[name] = Client(_digest(key), datetime.now(UTC).isoformat(timespec="seconds"), operator)
    return key


def remove_client(path: Path, name: str) -> None:
    """Somebody may not ask any more, and their adapters go. Raises ServingError where there is no such client."""
    with _edit_clients(path) as clients:
        if clients.pop(name, None) is None:
            raise ServingError(f"there is no client {name}; there are: {', '.join(sorted(clients)) or 'none'}")


class KnownClients:
    """The clients of a file as they are now: it is read again when it has changed. path: None where everyone is let in as LOCAL."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._clients: Mapping[str, Client] = {}
        self.changes = 0  # how often they have become others

    @property
    def names(self) -> set[str]:
        """Everyone who may ask now."""
        if self._path is None:
            return {LOCAL_CLIENT}
        self._look(self._path)
        return set(self._clients)

    def authenticate(self, key: str | None) -> str | None:
        """Whose key this is; None for nobody's. It takes as long for any key."""
        if self._path is None:
            return LOCAL_CLIENT
        self._look(self._path)
        digest, found = _digest(key or ""), None
        for name, client in self._clients.items():
            if hmac.compare_digest(digest, client.sha256):
                found = name
        return found

    def is_operator(self, name: str) -> bool:
        """Whether a client may see what everyone does."""
        return self._path is None or (name in self._clients and self._clients[name].operator)

    def _look(self, path: Path) -> None:
        try:
            status = path.stat()
            stamp: tuple[int, ...] = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = ()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._clients = read_clients(path) if stamp else {}
            self.changes += 1
        except ServingError as error:
            # Whoever was let in stays, so that a slip while editing the file throws nobody out.
            logger.error("%s; the clients stay those of before", error)


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ServingError(f"{name!r} is no name for a client: lower-case letters, digits and hyphens, 1 to 40 of them")
    return name


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@contextlib.contextmanager
def _edit_clients(path: Path) -> Iterator[dict[str, Client]]:
    """Change what the block is given, and it is written when the block ends. Others wait meanwhile."""
    try:
        with locked(path.parent):  # the folder, because the file itself is another one after each change
            clients = read_clients(path)
            yield clients
            write_private_atomic(path, json.dumps({"clients": {name: asdict(clients[name]) for name in sorted(clients)}}, indent=1))
    except OSError as error:
        raise ServingError(f"cannot write {path}: {error.strerror}; the clients stay as they were") from error
