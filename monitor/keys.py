"""Which key opens a database, and the making of new ones. Knows the places of keys, not what they are made of.

Each database has a key of its own. Where a key is being changed its place holds two, the old and the new one, and every file
tells by its beginning which of them opens it: so a change that is interrupted locks nobody out.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.errors import StoreKeyError
from monitor.cipher import StoreKey, salt_of
from monitor.key_places import EnvironmentKey, KeyFile, KeyPlace, KeyringEntry, label

_logger = logging.getLogger(__name__)

PlaceName = Literal["auto", "keyring", "file", "environment"]


@dataclass(frozen=True, slots=True)
class Keys:
    """Where keys are looked for.

    place: the setting [timeline] key. auto: the environment where it has one, else file and keyring, and new keys are made in the
    keyring where one answers, else in a file. folder: the state directory, where key files are.
    """

    place: PlaceName
    folder: Path

    def find(self, database: Path) -> StoreKey:
        """The key of a database that exists. Raises StoreKeyError when there is none, or only others."""
        _, key = self.place_of(database)
        return key

    def find_or_make(self, database: Path) -> StoreKey:
        """The key of `database`; for one that is still to be created a new one, safely stored before this returns.

        Only for the holder of the database's lock. Raises StoreKeyError.
        """
        if salt_of(database) is not None:
            return self.find(database)
        *preferred, last = reversed(self._places(database))
        if stored := last.read():
            return stored[-1]
        for place in preferred:
            try:
                return _first_or_new(place)
            except StoreKeyError as error:
                _logger.info("no key was made in %s: %s", place, error)
        return _first_or_new(last)

    def place_of(self, database: Path) -> tuple[KeyPlace, StoreKey]:
        """Where the key of an existing database is, and the key. Raises StoreKeyError when there is none, or only others."""
        salt = salt_of(database)
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
                f"the key in {_listed(others)} does not open {database}: it was encrypted with another key (or its first bytes are "
                "damaged, or it is no timeline). Nothing was changed; put the right key there, or put a backup back with "
                "`emosllm-monitor restore`"
            )
        raise StoreKeyError(
            f"{database} is encrypted and its key is missing: there is none in {_listed(places)}. Nothing was changed; bring the key "
            "back with `emosllm-monitor key import`, or move the file away to begin a new timeline"
        )

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


def _first_or_new(place: KeyPlace) -> StoreKey:
    if stored := place.read():
        return stored[-1]
    key = StoreKey.new()
    place.write((key,))
    _logger.info("a key was made in %s", place)
    return key


def _listed(places: Sequence[KeyPlace]) -> str:
    return " and in ".join(str(place) for place in places)
