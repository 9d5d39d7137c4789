"""Writes an export: whole and for its owner only, or not at all.

A file or folder is made under another name beside its place and gets its own name when it is complete and on the disk.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from model.errors import ExchangeError
from monitor.config import Config, TimelineConfig
from monitor.day.stretches import EVER, Stretch
from monitor.exchange import folder, jsonl
from monitor.exchange.tables import TABLES, Form, Row, Table
from monitor.exchange.values import written_moment
from monitor.store.lock import sync
from monitor.store.outflow import Outflow

PART = ".part"
_FOLDERS = (Form.CSV, Form.PARQUET)


def export(config: Config, form: Form, stretch: Stretch, out: str, force: bool, now: datetime) -> dict[str, int]:
    """Write what is stored of a stretch to a new file or folder, or to standard output where `out` is "-".

    Returns the number of rows by table. force: replace what is there. Raises ExchangeError and TimelineError; then nothing has changed.
    """
    if out == "-" and form in _FOLDERS:
        raise ExchangeError(f"{form} is a folder with several files and cannot go to standard output; use --format jsonl")
    if out == "-":
        return _to_stdout(lambda target: _write_file(config, form, stretch, target, now))
    with _replacing(Path(out).expanduser(), force) as part:
        if form in _FOLDERS:
            part.mkdir(mode=0o700)
            with _rows(config.timeline, stretch) as rows:
                return folder.write(part, table_format(form), rows, _about(stretch))
        with part.open("x", encoding="utf-8") as target:
            return _write_file(config, form, stretch, target, now)


def _write_file(config: Config, form: Form, stretch: Stretch, target: IO[str], now: datetime) -> dict[str, int]:
    if form is Form.FHIR:
        from monitor.exchange.days_in_fhir import write

        return write(target, config, stretch, now)
    with _rows(config.timeline, stretch) as rows:
        return jsonl.write(target, rows, _about(stretch))


@contextmanager
def _rows(settings: TimelineConfig, stretch: Stretch) -> Iterator[Iterator[tuple[Table, Row]]]:
    with Outflow.open(settings.database_path(), settings.keys()) as outflow:
        yield ((table, row) for table in TABLES for row in outflow.rows(table.name, stretch.start, stretch.end))


def _about(stretch: Stretch) -> dict[str, str | None]:
    return {
        "from": None if stretch.start == EVER.start else written_moment(stretch.start),
        "to": None if stretch.end == EVER.end else written_moment(stretch.end),
    }


def table_format(form: Form) -> folder.TableFormat:
    """What knows the files of a folder."""
    # Imported when asked for: pyarrow takes a third of a second.
    if form is Form.CSV:
        from monitor.exchange.csv_files import CSV

        return CSV
    from monitor.exchange.parquet import PARQUET

    return PARQUET


def _to_stdout(write: Callable[[IO[str]], dict[str, int]]) -> dict[str, int]:
    try:
        with open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as target:
            return write(target)
    except BrokenPipeError:
        raise ExchangeError("whoever read the export stopped before its end") from None
    except OSError as error:
        raise ExchangeError(f"cannot write the export to standard output: {error.strerror}") from error


@contextmanager
def _replacing(place: Path, force: bool) -> Iterator[Path]:
    """A name beside `place` for the caller to write to; what is there afterwards is put in its place."""
    part = place.with_name(f".{place.name}.{os.getpid()}{PART}")
    before = os.umask(0o077)
    try:
        if not force and (place.exists() or place.is_symlink()):
            raise ExchangeError(f"{place} is there already; name another place, or replace it with --force")
        yield part
        _sync_all(part)
        _put_in_place(part, place)
    except OSError as error:
        raise ExchangeError(f"cannot write the export to {place}: {error.strerror}; check the disk and the permissions there") from error
    finally:
        os.umask(before)
        _remove(part)


def _sync_all(part: Path) -> None:
    for path in (*(part.iterdir() if part.is_dir() else ()), part):
        sync(path)


def _put_in_place(part: Path, place: Path) -> None:
    if place.is_dir() or part.is_dir():
        # A folder is not replaced at one stroke: what was there goes when the new one has its name.
        old = place.with_name(f".{place.name}.{os.getpid()}.old")
        if place.exists():
            place.rename(old)
        part.rename(place)
        _remove(old)
    else:
        part.replace(place)
    sync(place.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
