"""The places a key can be in: an environment variable, a file, the system keyring. The only file that knows `keyring`.

Each holds no key, one, or two while the key is being changed: the old, then the new one. What a place holds is never shown.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from model.errors import StoreKeyError
from monitor.store.cipher import StoreKey
from monitor.store.lock import make_folder_private, sync

_logger = logging.getLogger(__name__)

VARIABLE = "EMOSLLM_STORE_KEY"
SERVICE = "emosllm-monitor"
KEYRING_TIMEOUT_S = 10.0
"""A keyring that is locked asks its owner, who may be away; a daemon does not wait for that for ever."""

_T = TypeVar("_T")


class KeyPlace(Protocol):
    """One place for the keys of one database. `str` of it says where that is, to follow "in"."""

    def read(self) -> tuple[StoreKey, ...]:
        """The keys there, none if nothing is. Raises StoreKeyError when that cannot be found out or is no key."""

    def write(self, keys: Sequence[StoreKey]) -> None:
        """Replace what is there, all at once; it lasts when this returns. Raises StoreKeyError when it cannot be."""

    def destroy(self) -> bool:
        """Let nothing be there any more, legible or not; whether something was and is gone. Raises StoreKeyError when it fails."""


class EnvironmentKey:
    """The environment variable, which only its owner can change."""

    def __str__(self) -> str:
        return f"the environment variable {VARIABLE}"

    def read(self) -> tuple[StoreKey, ...]:
        """The variable's key, if it is set."""
        return _parse(os.environ.get(VARIABLE, ""), self)

    def write(self, keys: Sequence[StoreKey]) -> None:
        """Always refused."""
        raise StoreKeyError(f"{self} cannot be set from here; set it yourself to 64 hexadecimal digits")

    def destroy(self) -> bool:
        """Only its owner can."""
        return False


class KeyFile:
    """A file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> tuple[StoreKey, ...]:
        """The keys in the file. One that others can read is taken from them, and that is said."""
        try:
            text = self._path.read_text(encoding="ascii")
            if self._path.stat().st_mode & 0o077:
                self._path.chmod(0o600)
                _logger.warning("others could read the key in %s; no longer. `emosllm-monitor key rotate` makes a new one", self)
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreKeyError(f"the key in {self} cannot be read: {error}; check the file and its permissions") from error
        return _parse(text, self)

    def write(self, keys: Sequence[StoreKey]) -> None:
        """Write a new file beside it, and put that in its place once it is on the disk."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            make_folder_private(self._path.parent)
            fresh.unlink(missing_ok=True)  # of one that was killed
            try:
                _write_private(fresh, _written(keys) + "\n")
                fresh.replace(self._path)
            finally:
                fresh.unlink(missing_ok=True)
            sync(self._path.parent)
        except OSError as error:
            raise StoreKeyError(f"the key cannot be kept in {self}: {error.strerror}; check the folder and the disk") from error

    def destroy(self) -> bool:
        """Overwrite the file where it lies, then remove it; and one that was to replace it."""
        files = [file for file in (self._path, self._path.with_name(f"{self._path.name}.new")) if file.exists()]
        try:
            for file in files:
                with file.open("r+b") as opened:
                    opened.write(b"0" * file.stat().st_size)
                    opened.flush()
                    os.fsync(opened.fileno())
                file.unlink()
                sync(file.parent)
        except OSError as error:
            raise StoreKeyError(f"the key in {self} cannot be destroyed: {error.strerror}; check the permissions there") from error
        return bool(files)


class KeyringEntry:
    """An entry of the system keyring, where a real one answers: Secret Service, KWallet, macOS or Windows."""

    def __init__(self, database: Path) -> None:
        self._user = str(database.resolve())

    def __str__(self) -> str:
        return f"the system keyring (service {SERVICE}, user {self._user})"

    def read(self) -> tuple[StoreKey, ...]:
        """The keys of the entry; none where there is no keyring."""

        def get() -> str | None:
            backend = _backend()
            return None if backend is None else backend.get_password(SERVICE, self._user)

        return _parse(self._asked(get) or "", self)

    def write(self, keys: Sequence[StoreKey]) -> None:
        """Replace the entry, and read it back: what a keyring took and did not keep is found out before it is needed."""
        text = _written(keys)

        def put() -> bool:
            backend = _backend()
            if backend is None:
                return False
            backend.set_password(SERVICE, self._user, text)
            return _parse(backend.get_password(SERVICE, self._user) or "", self) == tuple(keys)

        if not self._asked(put):
            raise StoreKeyError('there is no system keyring that keeps keys here; set [timeline] key = "file", or start one')

    def destroy(self) -> bool:
        """Delete the entry, where there is one."""

        def delete() -> bool:
            backend = _backend()
            if backend is None or backend.get_password(SERVICE, self._user) is None:
                return False
            backend.delete_password(SERVICE, self._user)
            return True

        return self._asked(delete)

    def _asked(self, question: Callable[[], _T]) -> _T:
        """The keyring's answer. Raises StoreKeyError when it has none, or not in time."""
        answers: list[_T] = []
        failures: list[Exception] = []

        def ask() -> None:
            try:
                answers.append(question())
            except Exception as error:  # whatever a backend raises, it is no answer
                failures.append(error)

        thread = threading.Thread(target=ask, name="keyring", daemon=True)
        thread.start()
        thread.join(KEYRING_TIMEOUT_S)
        if answers:
            return answers[0]
        why = f"it failed ({type(failures[0]).__name__}: {failures[0]})" if failures else f"no answer within {KEYRING_TIMEOUT_S:.0f} s"
        raise StoreKeyError(f"{self} cannot be asked: {why}; unlock the keyring and try again")


def label(database: Path, folder: Path) -> str:
    """A file name for what belongs to `database`: its own stem in our folder, else with what tells it from others."""
    real = database.resolve()
    if real.parent == folder.resolve():
        return real.stem
    return f"{real.stem}-{hashlib.sha256(str(real).encode()).hexdigest()[:8]}"


def read_key_file(path: Path) -> StoreKey:
    """The one key in a file a person names. Raises StoreKeyError."""
    keys = KeyFile(path).read()
    if len(keys) != 1:
        raise StoreKeyError(f"{path} does not hold one key: name a file that `emosllm-monitor key export` wrote")
    return keys[0]


def write_key_file(path: Path, key: StoreKey) -> None:
    """Write a key to a new file of mode 0600. Raises StoreKeyError, also where there is a file."""
    try:
        _write_private(path, f"{key.digits}\n")
    except OSError as error:
        raise StoreKeyError(f"the key cannot be written to {path}: {error.strerror}; name a new file in a folder of yours") from error


def _write_private(path: Path, text: str) -> None:
    """Write a new file of mode 0600; it is on the disk when this returns. Raises OSError, also where there is a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _backend() -> Any | None:
    """The first keyring that counts. Below priority 1, keyring's own mark of what it recommends, are those that keep nothing or
    keep it in the clear."""
    import keyring

    chosen = keyring.get_keyring()
    backends = getattr(chosen, "backends", None) or [chosen]
    return next((backend for backend in backends if backend.priority >= 1), None)


def _written(keys: Sequence[StoreKey]) -> str:
    return "\n".join(key.digits for key in keys)


def _parse(text: str, place: KeyPlace) -> tuple[StoreKey, ...]:
    try:
        return tuple(StoreKey.parse(word) for word in text.split())
    except ValueError as error:
        raise StoreKeyError(f"what is in {place} is no key: {error}") from error
