"""`bundles.json`: which bundle is in use for the configured one, which were before, which have answered, which are set aside and why.

A person, a night or an erasure changes what is in use; the configured bundle stays what all that began with. Several processes write the
file, so each change is made under a lock, to what the file says at that moment. Knows no engine and no library.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.errors import BundleError
from model.manifest import find_bundle, read_manifest
from monitor.judging.retirement import is_retired
from monitor.store.lock import sync

USES_KEPT = 50


@dataclass(frozen=True, slots=True)
class Use:
    """One change of what is in use. base: the configured bundle that it stands for. name: a built-in one's, or a folder. version: of that.

    at: aware UTC. why: one sentence for people. back: it went back to what was in use before, instead of on to something else.
    """

    base: str
    name: str
    version: str
    at: datetime
    why: str
    back: bool = False


@dataclass
class Memory:
    """All that the file holds. proven: names of bundles that have answered, newest last. aside: why a version is not used, by version.

    uses: newest last, for every configured bundle there was.
    """

    proven: list[str] = field(default_factory=list)
    aside: dict[str, str] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)


class InUse:
    """configured: as in [engine] bundle. path: of the file. Each question is answered from the file as it is then."""

    def __init__(self, configured: str, path: Path) -> None:
        self._configured = configured
        self._path = path

    @property
    def current(self) -> str:
        """Name or folder of the bundle in use; the configured one where nothing else was said. It may have gone since, or be retired."""
        return self._trail()[-1]

    def use(self, name: str, why: str, now: datetime, *, back: bool = False) -> None:
        """Remember that a bundle is in use from now (aware) on, safely on the disk; one that was set aside is tried again.

        back: it goes back to what was in use before. Raises BundleError: it is none, or the disk is full.
        """
        name = self._stored(name)
        use = Use(self._configured, name, read_manifest(find_bundle(name)).version, now.astimezone(UTC), why, back)
        with changing(self._path) as memory:
            memory.uses = [*memory.uses, use][-USES_KEPT:]
            memory.aside.pop(use.version, None)

    def previous(self) -> str | None:
        """What was in use before the current one and may still be; the configured one at last. None where there is no such.

        Who goes back twice comes to what was before that; who goes on to another one by name can go back from there.
        """
        *before, current = self._trail()
        candidates = [*reversed(before), self._configured]
        return next((name for name in candidates if name != current and self.usable(name)), None)

    def uses(self) -> list[Use]:
        """Every change that is remembered for this configured bundle, newest last."""
        return [use for use in read_memory(self._path).uses if use.base == self._configured]

    def usable(self, name: str) -> bool:
        """Whether there is a bundle of that name, not retired and not set aside, as far as its description tells."""
        try:
            folder = find_bundle(name)
            return not is_retired(folder) and read_manifest(folder).version not in self.aside()
        except BundleError:
            return False

    def aside(self) -> dict[str, str]:
        """Why a version is not used although somebody may want it, by version: the engine cannot."""
        return read_memory(self._path).aside

    @property
    def configured(self) -> str:
        """What all that is in use here stands for."""
        return self._configured

    def _trail(self) -> list[str]:
        """The way from the configured bundle to the current one, without what was gone back from."""
        trail = [self._configured]
        for use in self.uses():
            if use.back and use.name in trail:
                del trail[len(trail) - trail[::-1].index(use.name) :]
            elif use.name != trail[-1]:
                trail.append(use.name)
        return trail

    def _stored(self, name: str) -> str:
        """A name that means the same wherever a command is given."""
        path = Path(name).expanduser()
        return name if name == self._configured or find_bundle(name) != path else str(path.absolute())


def read_memory(path: Path) -> Memory:
    """What the file says. A file that is missing or damaged says nothing."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Memory(list(stored["proven"]), dict(stored["aside"]), [_use(told) for told in stored.get("uses", [])])
    except (OSError, ValueError, KeyError, TypeError):
        return Memory()


@contextlib.contextmanager
def changing(path: Path) -> Iterator[Memory]:
    """Change what the block is given, and it is written when the block ends. Others wait meanwhile. Raises BundleError: nothing changed."""
    try:
        with _alone(path):
            memory = read_memory(path)
            yield memory
            _write(path, memory)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror}; which bundle is in use stays as it was") from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The folder, because the file itself is another one after each change.
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, memory: Memory) -> None:
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    uses = [{**asdict(use), "at": use.at.isoformat(timespec="seconds")} for use in memory.uses]
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
            json.dump({"proven": memory.proven, "aside": memory.aside, "uses": uses}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    fresh.replace(path)
    sync(path.parent)


def _use(told: dict[str, Any]) -> Use:
    at = datetime.fromisoformat(told["at"])
    if at.tzinfo is None:
        raise ValueError("a moment without an offset")
    base, name, version, why = (str(told[key]) for key in ("base", "name", "version", "why"))
    return Use(base, name, version, at.astimezone(UTC), why, bool(told.get("back", False)))
