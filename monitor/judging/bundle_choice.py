"""Which bundle the judging process loads: the one in use, unless that was set aside because it kills processes, or was retired.

Remembers in a small file which bundles have answered, so that there is one to go back to. Knows nothing of processes.
"""

import logging
from pathlib import Path

from model.errors import BundleError
from model.manifest import find_bundle, read_manifest
from monitor.config import PACKAGED_BUNDLE
from monitor.judging.in_use import InUse, changing, read_memory
from monitor.judging.retirement import WHY, is_retired

_logger = logging.getLogger(__name__)


class BundleChoice:
    """configured: as in [engine] bundle. path: of the file that remembers."""

    def __init__(self, configured: str, path: Path) -> None:
        self._configured = configured
        self._path = path
        self._memory = read_memory(path)
        self._in_use = InUse(configured, path)
        self._told: str | None = None

    @property
    def current(self) -> str:
        """The bundle to load: a name or a folder."""
        return self._candidates()[0]

    @property
    def names(self) -> list[str]:
        """Every bundle that may be loaded sooner or later."""
        return [self._configured, *self._memory.proven, *(use.name for use in self._in_use.uses())]

    @property
    def aside(self) -> str:
        """Why the bundle that should be in use is not; empty when it is."""
        return WHY if _retired(self._wanted) else self._memory.aside.get(_version(self._wanted), "")

    def check(self, name: str) -> None:
        """Raises BundleError when there is no bundle of this name, or it must not be used any more."""
        folder = find_bundle(name)
        if is_retired(folder):
            raise BundleError(f"the bundle {folder} is not used any more: {WHY}")
        read_manifest(folder)

    def use(self, name: str) -> None:
        """For the rest of this run, this one is to be loaded, whatever was remembered; if it was set aside, it is tried again.

        Whoever asked for it remembers it for the next run, once it is in use.
        """
        self._told = name
        if self._memory.aside.pop(_version(name), None) is not None:
            self._write()

    def answered(self) -> None:
        """The current bundle is loaded and answers: one to go back to."""
        current = self.current
        if self._memory.proven[-1:] != [current]:
            self._memory.proven = [*[name for name in self._memory.proven if name != current][-4:], current]
            self._write()

    def set_aside(self, reason: str) -> bool:
        """The current bundle cannot be used. True when there is another to load.

        When none is left, the fault is not theirs: all are taken back, and the one in use is tried again.
        """
        self._memory.aside[_version(self.current)] = reason
        others = bool(self._candidates(but_aside=True))
        if not others:
            self._memory.aside.clear()
        self._write()
        return others

    @property
    def _wanted(self) -> str:
        return self._told or self._in_use.current

    def _candidates(self, but_aside: bool = False) -> list[str]:
        """Bundles in the order of preference, without those that are set aside or gone."""
        before = [self._in_use.current, self._in_use.previous() or self._wanted]
        names = [self._wanted, *before, *reversed(self._memory.proven), self._configured, PACKAGED_BUNDLE]
        usable = [name for name in names if _version(name) and _version(name) not in self._memory.aside]
        return usable if but_aside else usable or [self._wanted]

    def _write(self) -> None:
        try:
            with changing(self._path) as stored:
                stored.proven, stored.aside = self._memory.proven, self._memory.aside
        except BundleError as error:
            _logger.warning("cannot remember which bundles answer: %s", error)


def _version(name: str) -> str:
    """Empty for a bundle that cannot be read, or must not be."""
    try:
        return "" if _retired(name) else read_manifest(find_bundle(name)).version
    except BundleError:
        return ""


def _retired(name: str) -> bool:
    try:
        return is_retired(find_bundle(name))
    except BundleError:
        return False
