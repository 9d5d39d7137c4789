"""Where keys of databases are kept, which one opens a database, and making new ones. The only file that knows `keyring`.

A key is in an environment variable, a file or the system keyring. Each database has a key of its own. While a key is being changed its
place holds two, the old and the new one, and every file tells by its beginning which of them opens it: so a change that is interrupted
locks nobody out. A key is never shown.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from model.errors import StoreKeyError
from monitor.fileio import fsync_path, make_private_folder, partial_path, write_private_atomic
from monitor.storage.cipher import StoreKey, salt_of

_logger = logging.getLogger(__name__)

STORE_KEY_VARIABLE = "EMOSLLM_STORE_KEY"
KEYRING_SERVICE = "emosllm-monitor"
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
        return f"the environment variable {STORE_KEY_VARIABLE}"

    def read(self) -> tuple[StoreKey, ...]:
        """The variable's key, if it is set."""
        return _parse_keys(os.environ.get(STORE_KEY_VARIABLE, ""), self)

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
        return _parse_keys(text, self)

    def write(self, keys: Sequence[StoreKey]) -> None:
        """Replace the file in one step."""
        try:
            make_private_folder(self._path.parent)
            write_private_atomic(self._path, _format_keys(keys) + "\n")
        except OSError as error:
            raise StoreKeyError(f"the key cannot be kept in {self}: {error.strerror}; check the folder and the disk") from error

    def destroy(self) -> bool:
        """Overwrite the file where it lies, then remove it; and one that was to replace it."""
        files = [file for file in (self._path, partial_path(self._path)) if file.exists()]
        try:
            for file in files:
                with file.open("r+b") as opened:
                    opened.write(b"0" * file.stat().st_size)
                    opened.flush()
                    os.fsync(opened.fileno())
                file.unlink()
                fsync_path(file.parent)
        except OSError as error:
            raise StoreKeyError(f"the key in {self} cannot be destroyed: {error.strerror}; check the permissions there") from error
        return bool(files)


class KeyringEntry:
    """An entry of the system keyring, where a real one answers: Secret Service, KWallet, macOS or Windows."""

    def __init__(self, database: Path) -> None:
        self._user = str(database.resolve())

    def __str__(self) -> str:
        return f"the system keyring (service {KEYRING_SERVICE}, user {self._user})"

    def read(self) -> tuple[StoreKey, ...]:
        """The keys of the entry; none where there is no keyring."""

        def get() -> str | None:
            backend = _backend()
            return None if backend is None else backend.get_password(KEYRING_SERVICE, self._user)

        return _parse_keys(self._asked(get) or "", self)

    def write(self, keys: Sequence[StoreKey]) -> None:
        """Replace the entry, and read it back: what a keyring took and did not keep is found out before it is needed."""
        text = _format_keys(keys)

        def put() -> bool:
            backend = _backend()
            if backend is None:
                return False
            backend.set_password(KEYRING_SERVICE, self._user, text)
            return _parse_keys(backend.get_password(KEYRING_SERVICE, self._user) or "", self) == tuple(keys)

        if not self._asked(put):
            raise StoreKeyError('there is no system keyring that keeps keys here; set [timeline] key = "file", or start one')

    def destroy(self) -> bool:
        """Delete the entry, where there is one."""

        def delete() -> bool:
            backend = _backend()
            if backend is None or backend.get_password(KEYRING_SERVICE, self._user) is None:
                return False
            backend.delete_password(KEYRING_SERVICE, self._user)
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


def database_label(database: Path, folder: Path) -> str:
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


def _format_keys(keys: Sequence[StoreKey]) -> str:
    return "\n".join(key.digits for key in keys)


def _parse_keys(text: str, place: KeyPlace) -> tuple[StoreKey, ...]:
    try:
        return tuple(StoreKey.parse(word) for word in text.split())
    except ValueError as error:
        raise StoreKeyError(f"what is in {place} is no key: {error}") from error


_Stored = tuple[StoreKey, ...]
KeyPlaceName = Literal["auto", "keyring", "file", "environment"]


@dataclass(frozen=True, slots=True)
class KeyStore:
    """Where keys are looked for.

    place: the setting [timeline] key. auto: the environment where it has one, else file and keyring, and new keys are made in the
    keyring where one answers, else in a file. folder: the state directory, where key files are.
    """

    place: KeyPlaceName
    folder: Path

    def find(self, database: Path, copy: Path | None = None) -> StoreKey:
        """The key of a database that exists, or of that copy of it. Raises StoreKeyError when there is none, or only others."""
        _, key = self.place_of(database, copy)
        return key

    def find_or_make(self, database: Path) -> StoreKey:
        """The key of `database`; for one that is still to be created a new one, safely stored before this returns.

        Only for the holder of the database's lock. Raises StoreKeyError.
        """
        if salt_of(database) is not None:
            return self.find(database)
        places = self._places(database)
        if stored := places[0].read():
            return stored[-1]
        _, key = _keep_key(places, lambda stored: stored or (StoreKey.new(),))
        return key

    def place_of(self, database: Path, copy: Path | None = None) -> tuple[KeyPlace, StoreKey]:
        """Like `find`, and where the key is."""
        file = copy or database
        salt = salt_of(file)
        others: list[KeyPlace] = []
        places = self._places(database)
        for place in places:
            stored = place.read()
            for key in stored:
                if key.salt == salt:
                    return place, key
            if stored:
                others.append(place)
        if others:
            raise StoreKeyError(
                f"the key in {_format_places(others)} does not open {file}: it was encrypted with another key (or its first bytes are "
                "damaged, or it is no timeline). Nothing was changed; put the right key there, or put a backup back with "
                "`emosllm-monitor restore`"
            )
        raise StoreKeyError(
            f"{file} is encrypted and its key is missing: there is none in {_format_places(places)}. Nothing was changed; bring the key "
            "back with `emosllm-monitor key import`, or move the file away to begin a new timeline"
        )

    def export(self, database: Path, file: Path) -> None:
        """Write the key of `database` to a new file. Raises StoreKeyError."""
        write_key_file(file, self.find(database))

    def bring_back(self, database: Path, file: Path) -> KeyPlace:
        """Store the key that was exported to `file`, if it opens `database`; returns where. Raises StoreKeyError."""
        key = read_key_file(file)
        if salt_of(database) != key.salt:
            raise StoreKeyError(f"the key in {file} does not open {database}; nothing was changed")
        places = self._places(database)
        for place in places:
            if key in place.read():
                return place
        # What is there may open backups: it stays as an older key.
        place, _ = _keep_key(places, lambda stored: (*stored[-1:], key))
        return place

    def destroy(self, database: Path) -> tuple[list[KeyPlace], list[KeyPlace]]:
        """Destroy every key of `database`, so that no copy of it can be read any more: where they were, and where they cannot be reached.

        Raises StoreKeyError when that fails.
        """
        places = self._places(database)
        gone = [place for place in places if place.destroy()]
        return gone, [place for place in places if isinstance(place, EnvironmentKey) and place.read()]

    def _places(self, database: Path) -> Sequence[KeyPlace]:
        """Where to look, the quickest first. New keys go to the last one that takes them: a password protects a keyring."""
        environment, keyring = EnvironmentKey(), KeyringEntry(database)
        file = KeyFile(self.folder / f"{database_label(database, self.folder)}.key")
        match self.place:
            case "environment":
                return [environment]
            case "file":
                return [file]
            case "keyring":
                return [keyring]
            case _:
                return [environment] if environment.read() else [file, keyring]


def _keep_key(places: Sequence[KeyPlace], wanted: Callable[[_Stored], _Stored]) -> tuple[KeyPlace, StoreKey]:
    """Have the last place that can do it hold what is `wanted`, given what it holds; returns the place and its newest key."""
    for place in reversed(places[1:]):
        try:
            return _keep_key_in(place, wanted)
        except StoreKeyError as error:
            _logger.info("no key is kept in %s: %s", place, error)
    return _keep_key_in(places[0], wanted)


def _keep_key_in(place: KeyPlace, wanted: Callable[[_Stored], _Stored]) -> tuple[KeyPlace, StoreKey]:
    stored = place.read()
    keys = wanted(stored)
    if keys != stored:
        place.write(keys)
        _logger.info("a key was put in %s", place)
    return place, keys[-1]


def _format_places(places: Sequence[KeyPlace]) -> str:
    return " and in ".join(str(place) for place in places)


class TimelineSettings(Protocol):
    """The settings that say where a timeline is and what opens it."""

    def database_path(self) -> Path:
        """The database file."""

    def keys(self) -> KeyStore:
        """Where the key that opens it is looked for."""
