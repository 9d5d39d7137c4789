"""Which key opens a database, and the making of new ones. Knows the places of keys, not what they are made of.

Each database has a key of its own. Where a key is being changed its place holds two, the old and the new one, and every file
tells by its beginning which of them opens it: so a change that is interrupted locks nobody out.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.errors import StoreKeyError
from monitor.store.cipher import StoreKey, salt_of
from monitor.store.key_places import EnvironmentKey, KeyFile, KeyPlace, KeyringEntry, label, read_key_file, write_key_file

_logger = logging.getLogger(__name__)

_Stored = tuple[StoreKey, ...]
PlaceName = Literal["auto", "keyring", "file", "environment"]


@dataclass(frozen=True, slots=True)
class Keys:
    """Where keys are looked for.

    place: the setting [timeline] key. auto: the environment where it has one, else file and keyring, and new keys are made in the
    keyring where one answers, else in a file. folder: the state directory, where key files are.
    """

    place: PlaceName
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
        _, key = _keep(places, lambda stored: stored or (StoreKey.new(),))
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
                f"the key in {_listed(others)} does not open {file}: it was encrypted with another key (or its first bytes are "
                "damaged, or it is no timeline). Nothing was changed; put the right key there, or put a backup back with "
                "`emosllm-monitor restore`"
            )
        raise StoreKeyError(
            f"{file} is encrypted and its key is missing: there is none in {_listed(places)}. Nothing was changed; bring the key "
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
        place, _ = _keep(places, lambda stored: (*stored[-1:], key))
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
        file = KeyFile(self.folder / f"{label(database, self.folder)}.key")
        match self.place:
            case "environment":
                return [environment]
            case "file":
                return [file]
            case "keyring":
                return [keyring]
            case _:
                return [environment] if environment.read() else [file, keyring]


def _keep(places: Sequence[KeyPlace], wanted: Callable[[_Stored], _Stored]) -> tuple[KeyPlace, StoreKey]:
    """Have the last place that can do it hold what is `wanted`, given what it holds; returns the place and its newest key."""
    for place in reversed(places[1:]):
        try:
            return _keep_in(place, wanted)
        except StoreKeyError as error:
            _logger.info("no key is kept in %s: %s", place, error)
    return _keep_in(places[0], wanted)


def _keep_in(place: KeyPlace, wanted: Callable[[_Stored], _Stored]) -> tuple[KeyPlace, StoreKey]:
    stored = place.read()
    keys = wanted(stored)
    if keys != stored:
        place.write(keys)
        _logger.info("a key was put in %s", place)
    return place, keys[-1]


def _listed(places: Sequence[KeyPlace]) -> str:
    return " and in ".join(str(place) for place in places)
