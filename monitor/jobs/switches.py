"""Which jobs the person has switched off: a small file beside the timeline, that holds nothing but their names."""

import json
from collections.abc import Iterable
from pathlib import Path

from model.errors import EmosllmError
from monitor.jobs.places import switches_path
from monitor.store.lock import make_private, sync

_DISABLED = "disabled"


class Switches:
    """database: the timeline beside which the file lies. What cannot be read counts as nothing switched off."""

    def __init__(self, database: Path) -> None:
        self._path = switches_path(database)

    def disabled(self) -> frozenset[str]:
        """The names of jobs that are switched off."""
        try:
            return frozenset(str(name) for name in json.loads(self._path.read_text(encoding="utf-8"))[_DISABLED])
        except (OSError, ValueError, KeyError, TypeError):
            return frozenset()

    def switch(self, name: str, on: bool) -> None:
        """Switch a job on or off, for good. Raises EmosllmError when that cannot be kept."""
        before = self.disabled()
        self._write(before - {name} if on else before | {name})

    def _write(self, disabled: Iterable[str]) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        make_private(fresh)
        try:
            fresh.write_text(json.dumps({_DISABLED: sorted(disabled)}), encoding="utf-8")
            sync(fresh)
            fresh.replace(self._path)
            sync(self._path.parent)
        except OSError as error:
            raise EmosllmError(f"cannot write {self._path}: {error.strerror}; check the disk and the permissions there") from error
