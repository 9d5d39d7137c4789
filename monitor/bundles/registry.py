"""The bundle registry (`bundles.json`): which bundle is in use, which were before, which have answered, which are disabled and why.

A person, a night or a deletion changes what is in use; the configured bundle stays the one they stand for. Several processes write the
file, so each change is made under a lock, to what the file says at that moment. `BundleSelector` picks the bundle that the worker loads:
the one in use unless it is disabled or retired. A bundle is retired when something it learned from (`learned_from.json`) was deleted: its
weights are deleted and it is never loaded again. `require_transcriber` refuses a bundle that needs transcripts where nobody makes them.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bundle_format import LEARNED_FROM_FILE, MANIFEST_FILE, BundleManifest, find_bundle, read_bundle_manifest
from model.errors import BundleError
from monitor.config import PACKAGED_BUNDLE, EngineConfig
from monitor.fileio import fsync_path, make_private_file

if TYPE_CHECKING:
    from model.transcriber import Transcriber


RETIRED_FILE = "retired.json"
RETIRED_REASON = "it learned from speech that was erased since"


def learned_from_any(folder: Path, segments: Collection[int], start: datetime, end: datetime) -> bool:
    """Whether the bundle in `folder` learned from one of the segments, or over a time that [start, end) is a part of, and still holds it.

    Better one too many than one too few. One that says it learned here, and not legibly from what, is taken to have learned from this.
    """
    path = folder / LEARNED_FROM_FILE
    if not path.exists():
        return False
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return not set(told["segments"]).isdisjoint(segments) or (_parse_moment(told["from"]) < end and _parse_moment(told["to"]) > start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


def is_retired(folder: Path) -> bool:
    """Whether the bundle must not be loaded any more."""
    return (folder / RETIRED_FILE).exists()


def retire_bundle(folder: Path) -> None:
    """Mark the bundle, then delete all of it but its manifest, by which it is still known. Raises OSError, TimelineError.

    Where that was interrupted it still says what it learned from, and is retired again.
    """
    mark = folder / RETIRED_FILE
    make_private_file(mark)
    mark.write_text(json.dumps({"reason": RETIRED_REASON}), encoding="utf-8")
    fsync_path(mark)
    kept, last = (mark, folder / MANIFEST_FILE), folder / LEARNED_FROM_FILE
    for file in [path for path in folder.rglob("*") if not path.is_dir() and path not in (*kept, last)]:
        file.unlink()
    last.unlink()
    fsync_path(folder)


def bundle_folders(names: Iterable[str], own: Path) -> Iterator[Path]:
    """The folders of all bundles of those names that are there, and of those in the folder `own`; each once."""
    seen: set[Path] = set()
    folders = [folder for folder in own.iterdir() if folder.is_dir()] if own.is_dir() else []
    for name in names:
        try:
            folders.append(find_bundle(name))
        except BundleError:
            continue
    for folder in folders:
        real = folder.resolve()
        if real not in seen:
            seen.add(real)
            yield real


def _parse_moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment without an offset")
    return moment.astimezone(UTC)


MAX_ACTIVATIONS = 50


@dataclass(frozen=True, slots=True)
class BundleActivation:
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
class RegistryState:
    """All that the file holds. proven: names of bundles that have answered, newest last. aside: why a version is not used, by version.

    uses: newest last, for every configured bundle there was.
    """

    proven: list[str] = field(default_factory=list)
    aside: dict[str, str] = field(default_factory=dict)
    uses: list[BundleActivation] = field(default_factory=list)


class ActiveBundle:
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
        use = BundleActivation(self._configured, name, read_bundle_manifest(find_bundle(name)).version, now.astimezone(UTC), why, back)
        with edit_registry(self._path) as memory:
            memory.uses = [*memory.uses, use][-MAX_ACTIVATIONS:]
            memory.aside.pop(use.version, None)

    def previous(self) -> str | None:
        """What was in use before the current one and may still be; the configured one at last. None where there is no such.

        Who goes back twice comes to what was before that; who goes on to another one by name can go back from there.
        """
        *before, current = self._trail()
        candidates = [*reversed(before), self._configured]
        return next((name for name in candidates if name != current and self.usable(name)), None)

    def uses(self) -> list[BundleActivation]:
        """Every change that is remembered for this configured bundle, newest last."""
        return [use for use in read_registry(self._path).uses if use.base == self._configured]

    def usable(self, name: str) -> bool:
        """Whether there is a bundle of that name, not retired and not set aside, as far as its description tells."""
        try:
            folder = find_bundle(name)
            return not is_retired(folder) and read_bundle_manifest(folder).version not in self.aside()
        except BundleError:
            return False

    def aside(self) -> dict[str, str]:
        """Why a version is not used although somebody may want it, by version: the engine cannot."""
        return read_registry(self._path).aside

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


def read_registry(path: Path) -> RegistryState:
    """What the file says. A file that is missing or damaged says nothing."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return RegistryState(list(stored["proven"]), dict(stored["aside"]), [_parse_activation(told) for told in stored.get("uses", [])])
    except (OSError, ValueError, KeyError, TypeError):
        return RegistryState()


@contextlib.contextmanager
def edit_registry(path: Path) -> Iterator[RegistryState]:
    """Change what the block is given, and it is written when the block ends. Others wait meanwhile. Raises BundleError: nothing changed."""
    try:
        with _registry_lock(path):
            memory = read_registry(path)
            yield memory
            _write_registry(path, memory)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror}; which bundle is in use stays as it was") from error


@contextlib.contextmanager
def _registry_lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The folder, because the file itself is another one after each change.
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_registry(path: Path, memory: RegistryState) -> None:
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
    fsync_path(path.parent)


def _parse_activation(told: dict[str, Any]) -> BundleActivation:
    at = datetime.fromisoformat(told["at"])
    if at.tzinfo is None:
        raise ValueError("a moment without an offset")
    base, name, version, why = (str(told[key]) for key in ("base", "name", "version", "why"))
    return BundleActivation(base, name, version, at.astimezone(UTC), why, bool(told.get("back", False)))


_logger = logging.getLogger(__name__)


class BundleSelector:
    """configured: as in [engine] bundle. path: of the file that remembers."""

    def __init__(self, configured: str, path: Path) -> None:
        self._configured = configured
        self._path = path
        self._memory = read_registry(path)
        self._in_use = ActiveBundle(configured, path)
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
        return RETIRED_REASON if _is_retired_name(self._wanted) else self._memory.aside.get(_usable_version(self._wanted), "")

    def check(self, name: str) -> None:
        """Raises BundleError when there is no bundle of this name, or it must not be used any more."""
        folder = find_bundle(name)
        if is_retired(folder):
            raise BundleError(f"the bundle {folder} is not used any more: {RETIRED_REASON}")
        read_bundle_manifest(folder)

    def use(self, name: str) -> None:
        """For the rest of this run, this one is to be loaded, whatever was remembered; if it was set aside, it is tried again.

        Whoever asked for it remembers it for the next run, once it is in use.
        """
        self._told = name
        if self._memory.aside.pop(_usable_version(name), None) is not None:
            self._write()

    def answered(self) -> None:
        """The current bundle is loaded and answers: one to go back to."""
        current = self.current
        if self._memory.proven[-1:] != [current]:
            self._memory.proven = [*[name for name in self._memory.proven if name != current][-4:], current]
            self._write()

    def disable_current(self, reason: str) -> bool:
        """The current bundle cannot be used. True when there is another to load.

        When none is left, the fault is not theirs: all are taken back, and the one in use is tried again.
        """
        self._memory.aside[_usable_version(self.current)] = reason
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
        usable = [name for name in names if _usable_version(name) and _usable_version(name) not in self._memory.aside]
        return usable if but_aside else usable or [self._wanted]

    def _write(self) -> None:
        try:
            with edit_registry(self._path) as stored:
                stored.proven, stored.aside = self._memory.proven, self._memory.aside
        except BundleError as error:
            _logger.warning("cannot remember which bundles answer: %s", error)


def _usable_version(name: str) -> str:
    """Empty for a bundle that cannot be read, or must not be."""
    try:
        return "" if _is_retired_name(name) else read_bundle_manifest(find_bundle(name)).version
    except BundleError:
        return ""


def _is_retired_name(name: str) -> bool:
    try:
        return is_retired(find_bundle(name))
    except BundleError:
        return False


def require_transcriber(config: EngineConfig, manifest: BundleManifest) -> None:
    """Raises BundleError for a bundle that needs the words of each segment where no transcriber is set."""
    if manifest.strategy.needs_transcript and not config.transcriber:
        raise BundleError(
            f"{manifest.version} is asked with the words of each segment ({manifest.strategy}), and nobody writes them down: set [engine]"
            ' transcriber, for example to "base", and start the monitor again, or use another bundle'
        )


def open_transcriber(config: EngineConfig, manifest: BundleManifest, loaded: "Transcriber | None" = None) -> "Transcriber | None":
    """What transcribes for a bundle; None where it needs no words. loaded: one that is at hand already.

    Raises BundleError where none is set, TranscriberUnavailable where it cannot be loaded.
    """
    require_transcriber(config, manifest)
    if not manifest.strategy.needs_transcript:
        return None
    if loaded is not None:
        return loaded
    from model.transcriber import Transcriber

    return Transcriber(config.transcriber, config.transcriber_language)
