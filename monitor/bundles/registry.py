"""The bundle registry (`bundles.json`): which bundle is in use, which were before, which have answered, which are disabled and why.

A person, a night or a deletion changes what is in use; the configured bundle stays the one they stand for. Several processes write the
file, so each change is made under a lock, to what the file says at that moment. What the worker loads is the bundle in use unless it is
disabled or retired. A bundle is retired when something it learned from (`learned_from.json`) was deleted: its weights are deleted and it
is never loaded again. `require_transcriber` refuses a bundle that needs transcripts where nobody makes them.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from model.bundle_format import LEARNED_FROM_FILE, MANIFEST_FILE, BundleManifest, find_bundle, read_bundle_manifest
from model.errors import BundleError, TimelineError
from monitor.config import PACKAGED_BUNDLE, Config, EngineConfig
from monitor.fileio import fsync_path, locked, write_private_atomic
from monitor.paths import bundles_file

if TYPE_CHECKING:
    from model.transcriber import Transcriber


_logger = logging.getLogger(__name__)

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
    """Mark the bundle, then delete all of it but its manifest, by which it is still known. Raises TimelineError.

    Where that was interrupted it still says what it learned from, and is retired again.
    """
    mark, last = folder / RETIRED_FILE, folder / LEARNED_FROM_FILE
    try:
        write_private_atomic(mark, json.dumps({"reason": RETIRED_REASON}))
        for file in [path for path in folder.rglob("*") if not path.is_dir() and path not in (mark, folder / MANIFEST_FILE, last)]:
            file.unlink()
        last.unlink()
        fsync_path(folder)
    except OSError as error:
        raise TimelineError(f"cannot delete the bundle {folder}: {error.strerror}; check the permissions there") from error


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
    """All that the file holds. proven: names of bundles that have answered, newest last. disabled: why a version is not used, by version;
    "aside" in the file. uses: newest last, for every configured bundle there was.
    """

    proven: list[str] = field(default_factory=list)
    disabled: dict[str, str] = field(default_factory=dict)
    uses: list[BundleActivation] = field(default_factory=list)


class BundleRegistry:
    """configured: as in [engine] bundle. path: of the file. Each question is answered from the file as it is then.

    Where the disk takes no change that the daemon makes for itself, the change holds for this run and is made with the next one.
    """

    def __init__(self, configured: str, path: Path) -> None:
        self.configured = configured
        self._path = path
        self._requested: str | None = None
        self._unwritten: list[Callable[[RegistryState], object]] = []

    @classmethod
    def of(cls, config: Config) -> Self:
        """The registry that goes with the settings."""
        return cls(config.engine.bundle, bundles_file())

    def chosen(self) -> str:
        """Name or folder of what was last put in the configured bundle's place, or that one. It may have gone since, or be retired."""
        return self._trail(self._read())[-1]

    def active(self) -> str:
        """Name or folder of the bundle in use: the chosen one, as long as it may be used; the configured one where none was ever chosen."""
        state = self._read()
        chosen = self._trail(state)[-1]
        return chosen if not state.uses or _is_usable(chosen, state) else self.to_load()

    def to_load(self) -> str:
        """Name or folder of the bundle that the worker loads."""
        return self._candidates(self._read())[0]

    def fallback_reason(self) -> str:
        """Why the bundle that should be loaded is not; empty when it is."""
        state = self._read()
        wanted = self._wanted(state)
        return RETIRED_REASON if is_retired_name(wanted) else state.disabled.get(_usable_version(wanted), "")

    def previous(self) -> str | None:
        """What was in use before the chosen one and may still be; the configured one at last. None where there is no such.

        Who goes back twice comes to what was before that; who goes on to another one by name can go back from there.
        """
        return self._previous(self._read())

    def uses(self) -> list[BundleActivation]:
        """Every change that is remembered for this configured bundle, newest last."""
        return self._uses(self._read())

    def disabled(self) -> dict[str, str]:
        """Why a version is not used although somebody may want it, by version: the engine cannot."""
        return self._read().disabled

    def names(self) -> list[str]:
        """Every bundle that may be loaded sooner or later."""
        state = self._read()
        return [self.configured, *state.proven, *(use.name for use in self._uses(state))]

    def check(self, name: str) -> None:
        """Raises BundleError when there is no bundle of this name, or it must not be used any more."""
        folder = find_bundle(name)
        if is_retired(folder):
            raise BundleError(f"the bundle {folder} is not used any more: {RETIRED_REASON}")
        read_bundle_manifest(folder)

    def activate(self, name: str, why: str, now: datetime, *, back: bool = False) -> None:
        """Remember that a bundle is in use from now (aware) on, safely on the disk; one that was disabled is tried again.

        back: it goes back to what was in use before. Raises BundleError: it is none, or the disk is full.
        """
        name = self._absolute(name)
        use = BundleActivation(self.configured, name, read_bundle_manifest(find_bundle(name)).version, now.astimezone(UTC), why, back)

        def change(state: RegistryState) -> None:
            state.uses = [*state.uses, use][-MAX_ACTIVATIONS:]
            state.disabled.pop(use.version, None)

        self._edit(change)

    def request(self, name: str) -> None:
        """For the rest of this run, this one is to be loaded, whatever was chosen; if it was disabled, it is tried again.

        Whoever asked for it activates it for the next run, once it is in use.
        """
        self._requested = name
        version = _usable_version(name)
        if version in self._read().disabled:
            self._edit_or_keep(lambda state: state.disabled.pop(version, None))

    def mark_answered(self, name: str) -> None:
        """This bundle is loaded and answers: one to go back to."""

        def change(state: RegistryState) -> None:
            state.proven = [*[proven for proven in state.proven if proven != name][-4:], name]

        if self._read().proven[-1:] != [name]:
            self._edit_or_keep(change)

    def disable(self, name: str, reason: str) -> bool:
        """This bundle was loaded and cannot be used. True when there is another to load.

        When none is left, the fault is not theirs: all are taken back, and the one in use is tried again.
        """
        if version := _usable_version(name):
            self._edit_or_keep(lambda state: state.disabled.update({version: reason}))
        if self._usable_candidates(self._read()):
            return True
        self._edit_or_keep(lambda state: state.disabled.clear())
        return False

    def _wanted(self, state: RegistryState) -> str:
        return self._requested or self._trail(state)[-1]

    def _candidates(self, state: RegistryState) -> list[str]:
        return self._usable_candidates(state) or [self._wanted(state)]

    def _usable_candidates(self, state: RegistryState) -> list[str]:
        """Bundles in the order of preference, without those that are disabled or gone."""
        wanted, chosen = self._wanted(state), self._trail(state)[-1]
        names = [wanted, chosen, self._previous(state) or wanted, *reversed(state.proven), self.configured, PACKAGED_BUNDLE]
        return [name for name in names if _is_usable(name, state)]

    def _previous(self, state: RegistryState) -> str | None:
        *before, chosen = self._trail(state)
        candidates = [*reversed(before), self.configured]
        return next((name for name in candidates if name != chosen and _is_usable(name, state)), None)

    def _uses(self, state: RegistryState) -> list[BundleActivation]:
        return [use for use in state.uses if use.base == self.configured]

    def _trail(self, state: RegistryState) -> list[str]:
        """The way from the configured bundle to the chosen one, without what was gone back from."""
        trail = [self.configured]
        for use in self._uses(state):
            if use.back and use.name in trail:
                del trail[len(trail) - trail[::-1].index(use.name) :]
            elif use.name != trail[-1]:
                trail.append(use.name)
        return trail

    def _absolute(self, name: str) -> str:
        """A name that means the same wherever a command is given."""
        path = Path(name).expanduser()
        return name if name == self.configured or find_bundle(name) != path else str(path.absolute())

    def _read(self) -> RegistryState:
        """What the file says, and what could not be written to it. A file that is missing or damaged says nothing."""
        try:
            stored: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            proven, disabled = list(stored["proven"]), dict(stored["aside"])
            state = RegistryState(proven, disabled, [_parse_activation(told) for told in stored.get("uses", [])])
        except (OSError, ValueError, KeyError, TypeError):
            state = RegistryState()
        for change in self._unwritten:
            change(state)
        return state

    def _edit(self, change: Callable[[RegistryState], object]) -> None:
        """Change the file; others wait meanwhile. Raises BundleError: nothing changed."""
        try:
            with locked(self._path.parent):  # the folder, because the file itself is another one after each change
                state = self._read()
                change(state)
                self._write(state)
        except OSError as error:
            raise BundleError(f"cannot write {self._path}: {error.strerror}; which bundle is in use stays as it was") from error
        self._unwritten.clear()

    def _edit_or_keep(self, change: Callable[[RegistryState], object]) -> None:
        try:
            self._edit(change)
        except BundleError as error:
            self._unwritten.append(change)
            _logger.warning("cannot remember which bundles answer: %s", error)

    def _write(self, state: RegistryState) -> None:
        uses = [{**asdict(use), "at": use.at.isoformat(timespec="seconds")} for use in state.uses]
        write_private_atomic(self._path, json.dumps({"proven": state.proven, "aside": state.disabled, "uses": uses}, indent=1))


def _parse_activation(told: dict[str, Any]) -> BundleActivation:
    at = datetime.fromisoformat(told["at"])
    if at.tzinfo is None:
        raise ValueError("a moment without an offset")
    base, name, version, why = (str(told[key]) for key in ("base", "name", "version", "why"))
    return BundleActivation(base, name, version, at.astimezone(UTC), why, bool(told.get("back", False)))


def _is_usable(name: str, state: RegistryState) -> bool:
    """Whether there is a bundle of that name, not retired and not disabled, as far as its description tells."""
    version = _usable_version(name)
    return bool(version) and version not in state.disabled


def _usable_version(name: str) -> str:
    """Empty for a bundle that cannot be read, or must not be."""
    try:
        return "" if is_retired_name(name) else read_bundle_manifest(find_bundle(name)).version
    except BundleError:
        return ""


def is_retired_name(name: str) -> bool:
    """Whether the bundle of that name is there and must not be loaded any more."""
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
