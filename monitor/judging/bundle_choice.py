"""Which bundle the judging process loads: the configured one, unless that was set aside because it kills processes, or was retired.

Remembers in a small file which bundles have answered, so that there is one to go back to. Knows nothing of processes.
"""

import logging
from pathlib import Path

from model.errors import BundleError
from model.manifest import find_bundle, read_manifest
from monitor.config import PACKAGED_BUNDLE
from monitor.judging.in_use import changing, read_memory
from monitor.judging.retirement import WHY, is_retired

_logger = logging.getLogger(__name__)


class BundleChoice:
    """configured: as in [engine] bundle. path: of the file that remembers."""

    def __init__(self, configured: str, path: Path) -> None:
        self._configured = configured
        self._path = path
        self._memory = read_memory(path)

    @property
    def current(self) -> str:
        """The bundle to load: a name or a folder."""
        return self._candidates()[0]

    @property
    def names(self) -> list[str]:
        """Every bundle that may be loaded sooner or later."""
        return [self._configured, *self._memory.proven]

    @property
    def aside(self) -> str:
        """Why the configured bundle is not used; empty when it is."""
        return WHY if _retired(self._configured) else self._memory.aside.get(_version(self._configured), "")

    def answered(self) -> None:
        """The current bundle is loaded and answers: one to go back to."""
        current = self.current
        if self._memory.proven[-1:] != [current]:
            self._memory.proven = [*[name for name in self._memory.proven if name != current][-4:], current]
            self._write()

    def set_aside(self, reason: str) -> bool:
        """The current bundle cannot be used. True when there is another to load.

        When none is left, the fault is not theirs: all are taken back, and the configured one is tried again.
        """
        self._memory.aside[_version(self.current)] = reason
        others = bool(self._candidates(but_aside=True))
        if not others:
            self._memory.aside.clear()
        self._write()
        return others

    def _candidates(self, but_aside: bool = False) -> list[str]:
        """Bundles in the order of preference, without those that are set aside or gone."""
        names = [self._configured, *reversed(self._memory.proven), PACKAGED_BUNDLE]
        usable = [name for name in names if _version(name) and _version(name) not in self._memory.aside]
        return usable if but_aside else usable or [self._configured]

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
