"""Retires bundles that learned from what the person has had erased: what they learned is deleted, and they are never loaded again.

A bundle that was trained on this machine says in `learned_from.json` from which segments, {"segments": [numbers], "from": moment,
"to": moment}; one without that file learned from nobody here. Retiring marks the folder first, so that it is not loaded even where
the deletion was interrupted. Knows no timeline.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.errors import BundleError
from model.manifest import LEARNED_FROM, MANIFEST, find_bundle
from monitor.store.lock import make_private, sync

RETIRED = "retired.json"
WHY = "it learned from speech that was erased since"


def learned_from(folder: Path, segments: Collection[int], start: datetime, end: datetime) -> bool:
    """Whether the bundle in `folder` learned from one of the segments, or over a time that [start, end) is a part of, and still holds it.

    Better one too many than one too few. One that says it learned here, and not legibly from what, is taken to have learned from this.
    """
    path = folder / LEARNED_FROM
    if not path.exists():
        return False
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return not set(told["segments"]).isdisjoint(segments) or (_moment(told["from"]) < end and _moment(told["to"]) > start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


def is_retired(folder: Path) -> bool:
    """Whether the bundle must not be loaded any more."""
    return (folder / RETIRED).exists()


def retire(folder: Path) -> None:
    """Mark the bundle, then delete all of it but its manifest, by which it is still known. Raises OSError, TimelineError.

    Where that was interrupted it still says what it learned from, and is retired again.
    """
    mark = folder / RETIRED
    make_private(mark)
    mark.write_text(json.dumps({"reason": WHY}), encoding="utf-8")
    sync(mark)
    kept, last = (mark, folder / MANIFEST), folder / LEARNED_FROM
    for file in [path for path in folder.rglob("*") if not path.is_dir() and path not in (*kept, last)]:
        file.unlink()
    last.unlink()
    sync(folder)


def known_bundles(names: Iterable[str], own: Path) -> Iterator[Path]:
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


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment without an offset")
    return moment.astimezone(UTC)
