"""Bundles as folders: whether one is whole, and how it gets to another place, whole or not at all. Knows no library."""

import errno
import re
import shutil
import stat
from pathlib import Path

from model.errors import BundleError, TimelineError
from model.manifest import BundleManifest, read_manifest, verify
from monitor.store.lock import make_tree_private, sync

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", re.ASCII)


def whole(folder: Path) -> BundleManifest:
    """Read all of a bundle; returns its description. Raises BundleError when something is missing, changed, foreign or a link."""
    manifest = read_manifest(folder)
    checked_version(manifest.version)
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise BundleError(f"the bundle {folder} holds {path.name}, which is a link or no file: it is not used")
    verify(folder, manifest)
    return manifest


def checked_version(version: str) -> str:
    """A version that can be the name of a folder. Raises BundleError for another."""
    if not _VERSION.fullmatch(version):
        raise BundleError(f"{version!r} is no version: letters, digits and . _ + - only, at most 100")
    return version


def move(folder: Path, coming: Path, target: Path) -> None:
    """By renaming, or from another disk by way of a copy in `coming`, which is compared. Raises OSError, BundleError."""
    if folder.stat().st_dev == target.parent.stat().st_dev:
        settle(folder, target)
        return
    shutil.copytree(folder, coming, symlinks=True)
    whole(coming)
    settle(coming, target)
    shutil.rmtree(folder, ignore_errors=True)


def settle(folder: Path, target: Path) -> None:
    """Bring all of a folder to the disk, for its owner alone, then give it its name. Raises OSError, BundleError."""
    try:
        make_tree_private(folder)
    except TimelineError as error:
        raise BundleError(str(error)) from error
    for path in (*folder.rglob("*"), folder):
        sync(path)
    folder.rename(target)
    sync(target.parent)


def remove(path: Path) -> None:
    """A folder with all in it, or a file; of a link, the link. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def reason_of(error: OSError) -> str:
    """Why the disk refused. A copy of many files may have been refused for several reasons."""
    if isinstance(error, shutil.Error):
        return "; ".join(sorted({str(one[2]) for one in error.args[0]}))
    return "the disk is full; free some space" if error.errno == errno.ENOSPC else error.strerror or str(error)
