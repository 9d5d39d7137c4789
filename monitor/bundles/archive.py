"""A bundle as one file: a plain tar of its folder, exported and imported. Nothing in an imported file is trusted.

Not compressed: weights hardly shrink, and so a small file cannot unpack to a large one.
"""

import io
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from model.bundle_format import MANIFEST_FILE, BundleManifest
from model.errors import BundleError
from monitor.bundles.library import BundleEntry, BundleLibrary, os_error_reason, verify_bundle
from monitor.fileio import open_private_atomic

_MAX_FILES = 10_000
_MAX_BYTES = 64 * 2**30
_SPARE_BYTES = 64 * 2**20
_MAX_PATH = 200
_DESCRIPTION_BYTES = 2**20


def export_bundle(kept: BundleEntry, out: Path, force: bool = False) -> None:
    """Write a bundle to a new file that only its owner may read, whole or not at all. Raises BundleError."""
    if kept.retired:
        raise BundleError(f"{kept.version} is retired: nothing of it is left but its description")
    if out.is_dir() or (out.exists() and not force):
        raise BundleError(f"{out} is there already: name another file" + ("" if out.is_dir() else ", or write over it with --force"))
    folder = kept.folder.resolve()
    verify_bundle(folder)
    try:
        with open_private_atomic(out) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(folder, kept.version, filter=_without_owner)
    except OSError as error:
        raise BundleError(f"cannot write {out}: {os_error_reason(error)}") from error


def import_bundle(library: BundleLibrary, file: Path) -> str:
    """Bring a bundle into the library; returns its version. Raises BundleError for what is no whole bundle, or there already."""
    try:
        with tarfile.open(file, mode="r:") as archive:
            members = _checked_members(archive, file)
            manifest = _read_manifest(archive, members, file)
            needed = sum(member.size for member in members.values())
            with library.alone():
                free = shutil.disk_usage(library.folder).free
                if needed + _SPARE_BYTES > free:
                    raise BundleError(f"{file} needs {_mib(needed)} and {_mib(free)} are free; free some space")
                with library.receiving(manifest.version) as coming:
                    for name, member in members.items():
                        _write_member(archive, member, coming / name)
                    verify_bundle(coming)
    except tarfile.TarError as error:
        raise BundleError(f"{file} is no plain tar file, or damaged: {error}") from error
    except OSError as error:
        raise BundleError(f"cannot read {file}: {error.strerror or error}") from error
    return manifest.version


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of who packed it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def _checked_members(archive: tarfile.TarFile, file: Path) -> dict[str, tarfile.TarInfo]:
    """Its files by their paths in the bundle, once all of the list is as it has to be."""
    files: dict[str, tarfile.TarInfo] = {}
    tops, total = set(), 0
    for number, member in enumerate(archive):
        path = PurePosixPath(member.name)
        total += member.size
        if number >= _MAX_FILES or total > _MAX_BYTES:
            raise BundleError(f"{file} holds more than {_MAX_FILES} files or {_mib(_MAX_BYTES)}: that is no bundle")
        if not _is_safe_member(member, path):
            raise BundleError(f"{file} holds {member.name[:_MAX_PATH]!r}: only files and folders below one folder are taken, no links")
        tops.add(path.parts[0])
        if member.isdir():
            continue
        name = "/".join(path.parts[1:])
        if not name or name in files:
            raise BundleError(f"{file} holds {member.name!r} twice, or outside of a folder: that is no bundle")
        files[name] = member
    if len(tops) != 1:
        raise BundleError(f"{file} holds {len(tops)} folders, not one: that is no bundle")
    return files


def _is_safe_member(member: tarfile.TarInfo, path: PurePosixPath) -> bool:
    plain = (member.isreg() and not member.issparse()) or member.isdir()
    safe = not path.is_absolute() and ".." not in path.parts and "\\" not in member.name and member.name.isprintable()
    return plain and safe and bool(path.parts) and len(member.name) <= _MAX_PATH


def _read_manifest(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], file: Path) -> BundleManifest:
    """What the bundle says it is, before anything of it is written."""
    from pydantic import ValidationError

    member = members.get(MANIFEST_FILE)
    stream = archive.extractfile(member) if member is not None and member.size <= _DESCRIPTION_BYTES else None
    if stream is None:
        raise BundleError(f"{file} has no {MANIFEST_FILE} in its folder: that is no bundle")
    try:
        return BundleManifest.model_validate_json(stream.read())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise BundleError(f"{MANIFEST_FILE} in {file} is not of a format that is known here: {where}: {first['msg']}") from error


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    stream: IO[bytes] = archive.extractfile(member) or io.BytesIO()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb") as target:
        shutil.copyfileobj(stream, target, 2**20)


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
