"""The bundle library: bundles made on this machine or brought to it, kept under their versions, and how one is put in use.

A bundle is there whole or not at all: it is moved in, and taken out, by one rename. No link is followed. The bundles that are in use, were
before, or are configured are never removed. Knows a running daemon only by its control command.
"""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from model.bundle_format import (
    DECISION_FILE,
    LEARNED_FROM_FILE,
    MANIFEST_FILE,
    BundleManifest,
    PromotionDecision,
    current_name,
    find_bundle,
    read_bundle_manifest,
    verify_checksums,
)
from model.errors import BundleError, EmosllmError, NotRunning, TimelineError
from monitor.bundles.registry import RETIRED_REASON, BundleRegistry, is_retired, require_transcriber
from monitor.config import PACKAGED_BUNDLE, Config
from monitor.control import send_command
from monitor.fileio import fsync_path, locked, make_private_folder, make_private_tree
from monitor.paths import bundles_dir

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", re.ASCII)


def verify_bundle(folder: Path) -> BundleManifest:
    """Read all of a bundle; returns its description. Raises BundleError when something is missing, changed, foreign or a link."""
    manifest = read_bundle_manifest(folder)
    check_version(manifest.version)
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise BundleError(f"the bundle {folder} holds {path.name}, which is a link or no file: it is not used")
    verify_checksums(folder, manifest)
    return manifest


def check_version(version: str) -> str:
    """A version that can be the name of a folder. Raises BundleError for another."""
    if not _VERSION.fullmatch(version):
        raise BundleError(f"{version!r} is no version: letters, digits and . _ + - only, at most 100")
    return version


def move_bundle(folder: Path, coming: Path, target: Path) -> None:
    """By renaming, or from another disk by way of a copy in `coming`, which is compared. Raises OSError, BundleError."""
    if folder.stat().st_dev == target.parent.stat().st_dev:
        publish_folder(folder, target)
        return
    shutil.copytree(folder, coming, symlinks=True)
    verify_bundle(coming)
    publish_folder(coming, target)
    shutil.rmtree(folder, ignore_errors=True)


def publish_folder(folder: Path, target: Path) -> None:
    """Bring all of a folder to the disk, for its owner alone, then give it its name. Raises OSError, BundleError."""
    try:
        make_private_tree(folder)
    except TimelineError as error:
        raise BundleError(str(error)) from error
    for path in (*folder.rglob("*"), folder):
        fsync_path(path)
    folder.rename(target)
    fsync_path(target.parent)


def remove_path(path: Path) -> None:
    """A folder with all in it, or a file; of a link, the link. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def os_error_reason(error: OSError) -> str:
    """Why the disk refused. A copy of many files may have been refused for several reasons."""
    if isinstance(error, shutil.Error):
        return "; ".join(sorted({str(one[2]) for one in error.args[0]}))
    return "the disk is full; free some space" if error.errno == errno.ENOSPC else error.strerror or str(error)


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """From how many pieces of speech a bundle learned, and from when until when they were said, aware UTC."""

    segments: int
    start: datetime
    end: datetime


def read_decision(folder: Path) -> PromotionDecision | None:
    """None for a bundle that no night made, and for one that does not say legibly how it was decided."""
    try:
        return PromotionDecision.model_validate_json((folder / DECISION_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def read_training_source(folder: Path) -> TrainingSource | None:
    """None for a bundle that learned from nobody here, and for one that does not say legibly from what."""
    try:
        told: dict[str, Any] = json.loads((folder / LEARNED_FROM_FILE).read_text(encoding="utf-8"))
        start, end = (datetime.fromisoformat(told[key]).astimezone(UTC) for key in ("from", "to"))
        return TrainingSource(len(told["segments"]), start, end)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def learned_locally(folder: Path) -> bool:
    """Whether a person's own speech is in its weights."""
    return (folder / LEARNED_FROM_FILE).exists()


_logger = logging.getLogger(__name__)

_INCOMING_PREFIX, _OUTGOING_PREFIX = ".coming-", ".going-"
_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """A bundle that can be named. name: what it is loaded by, a built-in one's name or a folder. own: it lies in the library.

    version: the folder's name where the description cannot be read; then manifest is None and `problem` says why.
    """

    name: str
    folder: Path
    version: str
    own: bool
    retired: bool
    manifest: BundleManifest | None
    problem: str = ""

    @classmethod
    def at(cls, name: str, folder: Path, own: bool) -> Self:
        """What lies in a folder, as far as its description tells."""
        try:
            manifest = read_bundle_manifest(folder)
        except BundleError as error:
            return cls(name, folder, folder.name, own, is_retired(folder), None, str(error))
        return cls(name, folder, manifest.version, own, is_retired(folder), manifest)


class BundleLibrary:
    """folder: where bundles are kept. registry: which is used. keep: how many of them stay, at least 2; retired ones do not count."""

    def __init__(self, folder: Path, registry: BundleRegistry, keep: int) -> None:
        self.folder = folder
        self.registry = registry
        self._keep = keep

    @classmethod
    def of(cls, config: Config) -> Self:
        """The library that goes with the settings."""
        return cls(bundles_dir(), BundleRegistry.of(config), config.retrain.keep)

    def all(self) -> list[BundleEntry]:
        """Every bundle in the library, oldest first."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return []
        entries = [path for path in self.folder.iterdir() if not path.name.startswith(".") and not path.is_symlink()]
        found = [BundleEntry.at(str(path), path, own=True) for path in entries if (path / MANIFEST_FILE).is_file()]
        return sorted(found, key=_age_key)

    def known(self) -> list[BundleEntry]:
        """Every bundle that can be named: the built-in one, the configured one, those in the library; each once."""
        known: dict[Path, BundleEntry] = {}
        for name in (PACKAGED_BUNDLE, self.registry.configured, self.registry.chosen()):
            with contextlib.suppress(BundleError):
                folder = find_bundle(name)
                known.setdefault(folder.resolve(), BundleEntry.at(name, folder, own=False))
        # Where the configured one lies in the library, it is one of the library's.
        return list({**known, **{kept.folder.resolve(): kept for kept in self.all()}}.values())

    def find(self, text: str) -> BundleEntry:
        """The bundle of a version, the beginning of one (with or without its name), a built-in name, or a folder. Raises BundleError."""
        text, known = current_name(text), self.known()
        exact = [kept for kept in known if text in (kept.version, kept.name)]
        if not exact and (Path(text).expanduser() / MANIFEST_FILE).is_file():
            folder = Path(text).expanduser().absolute()
            exact = [kept for kept in known if kept.folder.resolve() == folder.resolve()] or [
                BundleEntry.at(str(folder), folder, own=False)
            ]
        begun = [kept for kept in known if any(word.startswith(text) for word in (kept.version, kept.version.rpartition("-")[2]))]
        found = exact[:1] or begun
        if len(found) == 1:
            return found[0]
        listed = ", ".join(kept.version for kept in found or known)
        raise BundleError(f"{text!r} may mean {listed}: say more of it" if found else f"there is no bundle {text!r}: there are {listed}")

    def add(self, folder: Path) -> Path:
        """Move a finished bundle in, under its version; returns where it is now. One that is there already is kept instead.

        Raises BundleError when it is damaged, was retired, or cannot be moved: then it is where it was.
        """
        manifest = verify_bundle(folder)
        target = self.folder / manifest.version
        with self.alone():
            if (target / MANIFEST_FILE).is_file() and self._has(target, manifest.version):
                shutil.rmtree(folder)
                return target
            try:
                if os.path.lexists(target):
                    self._drop(target)
                move_bundle(folder, self._coming(target), target)
            except OSError as error:
                where = f"it is still in {folder}"
                raise BundleError(f"cannot keep {manifest.version} in {self.folder}: {os_error_reason(error)}; {where}") from error
            finally:
                shutil.rmtree(self._coming(target), ignore_errors=True)
        return target

    def prune(self) -> list[str]:
        """Remove the oldest bundles beyond what is kept; returns their versions. Raises BundleError."""
        with self.alone():
            kept, dear = [one for one in self.all() if not one.retired], self._dear()
            spare = [one for one in kept if one.folder.resolve() not in dear]
            gone = spare[: max(0, len(kept) - self._keep)]
            for one in gone:
                self._drop(one.folder)
        return [one.version for one in gone]

    def check(self, kept: BundleEntry) -> None:
        """Raise BundleError, with the reason, when a bundle must not or cannot be used. Reads all of it."""
        if kept.retired:
            raise BundleError(f"{kept.version} is not used any more: {RETIRED_REASON}")
        verify_bundle(kept.folder if kept.own else kept.folder.resolve())

    def sweep(self) -> None:
        """Remove what is half made. Raises BundleError."""
        if self.folder.is_dir() and not self.folder.is_symlink():
            with self.alone():
                pass

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else changes the library while the block runs, and nothing half made is in it. Raises BundleError."""
        if self.folder.is_symlink():
            raise BundleError(f"{self.folder} is a link, and may lead anywhere: put a folder there")
        with contextlib.ExitStack() as stack:
            try:
                make_private_folder(self.folder)
                stack.enter_context(locked(self.folder))
                for left in [path for path in self.folder.iterdir() if path.name.startswith((_INCOMING_PREFIX, _OUTGOING_PREFIX))]:
                    remove_path(left)
            except OSError as error:
                raise BundleError(f"cannot use {self.folder}: {os_error_reason(error)}; check the permissions there") from error
            yield

    @contextlib.contextmanager
    def receiving(self, version: str) -> Iterator[Path]:
        """A new folder to fill while the block runs, and whole in the library after it; gone when the block fails.

        For whoever is `alone`. Raises BundleError when the version is there already or its name is none.
        """
        target = self.folder / check_version(version)
        if os.path.lexists(target):
            retired = f", retired: {RETIRED_REASON}" if is_retired(target) else ""
            raise BundleError(f"{version} is there already{retired}; nothing was changed")
        coming = self._coming(target)
        try:
            coming.mkdir(mode=0o700)
            yield coming
            publish_folder(coming, target)
        except OSError as error:
            raise BundleError(f"cannot write {version} to {self.folder}: {os_error_reason(error)}; nothing was changed") from error
        finally:
            shutil.rmtree(coming, ignore_errors=True)

    def _coming(self, target: Path) -> Path:
        return self.folder / f"{_INCOMING_PREFIX}{target.name}"

    def _has(self, target: Path, version: str) -> bool:
        """Whether that version is there, and whole. Raises BundleError for one that was retired."""
        if is_retired(target):
            raise BundleError(f"{version} was here before and is not used any more: {RETIRED_REASON}")
        with contextlib.suppress(BundleError):
            return verify_bundle(target).version == version
        return False

    def _dear(self) -> set[Path]:
        """The folders that are never removed."""
        folders = set()
        for name in (self.registry.configured, self.registry.chosen(), self.registry.previous(), self.registry.to_load()):
            with contextlib.suppress(BundleError):
                folders |= {find_bundle(name).resolve()} if name else set()
        return folders

    def _drop(self, folder: Path) -> None:
        going = self.folder / f"{_OUTGOING_PREFIX}{folder.name}"
        folder.rename(going)
        remove_path(going)


def activate_bundle(config: Config, name: str, why: str, *, back: bool = False) -> str:
    """Use a bundle from now on, and in a running monitor at once; returns its version. name: as `BundleLibrary.find` takes it.

    why: one sentence for people. back: it goes back to what was in use before. Raises BundleError, or EmosllmError with the words of the
    running monitor, and then what was in use still is.
    """
    library = BundleLibrary.of(config)
    chosen, before = library.find(name), library.registry.chosen()
    library.check(chosen)
    require_transcriber(config.engine, read_bundle_manifest(chosen.folder))
    running = _switch_daemon(config, chosen)
    if chosen.name != before:
        try:
            library.registry.activate(chosen.name, why, datetime.now(UTC), back=back)
        except BundleError:
            if running:
                with contextlib.suppress(EmosllmError):
                    send_command(config.timeline.database_path(), "use-bundle", name=before)
            raise
    try:
        library.prune()
    except (BundleError, OSError) as error:
        _logger.warning("bundles that are not needed any more stay: %s", error)
    return chosen.version


def _switch_daemon(config: Config, chosen: BundleEntry) -> bool:
    """Have a running monitor use a bundle, and wait until it does; False when none runs. Raises EmosllmError when it does not."""
    deadline = time.monotonic() + config.engine.start_timeout_s
    while True:
        try:
            answer = send_command(config.timeline.database_path(), "use-bundle", name=chosen.name)
        except NotRunning:
            return False
        if answer.get("state") == "in use":
            if answer.get("version") != chosen.version:
                raise EmosllmError(f"the running monitor uses {answer.get('version')} instead of {chosen.version}; its log says why")
            return True
        if time.monotonic() > deadline:
            raise EmosllmError(f"the running monitor still loads {chosen.version}; ask it again later, or start it anew")
        time.sleep(_POLL_S)


def _age_key(kept: BundleEntry) -> tuple[str, int, str]:
    """Sorts the oldest first. A description tells the day at least, and the folder the moment."""
    return kept.manifest.created if kept.manifest else "", kept.folder.stat().st_mtime_ns, kept.version
