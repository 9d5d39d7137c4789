"""Exports a time range of the timeline: complete and private, or not at all.

A file or folder is written under a temporary name beside its target and renamed when it is complete and synced.
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
from monitor.analysis.days import ALL_TIME, TimeRange
from monitor.config import Config, TimelineConfig
from monitor.fileio import fsync_path
from monitor.storage.transfer import TimelineExport
from monitor.transfer import folder, jsonl
from monitor.transfer.schema import TABLES, ExportFormat, Row, Table, format_utc

PARTIAL_SUFFIX = ".part"
_FOLDERS = (ExportFormat.CSV, ExportFormat.PARQUET)


def export_data(config: Config, form: ExportFormat, time_range: TimeRange, out: str, force: bool, now: datetime) -> dict[str, int]:
    """Write what is stored of a stretch to a new file or folder, or to standard output where `out` is "-".

    Returns the number of rows by table. force: replace what is there. Raises ExchangeError and TimelineError; then nothing has changed.
    """
    if out == "-" and form in _FOLDERS:
        raise ExchangeError(f"{form} writes a folder and cannot go to standard output; use --format jsonl")
    if out == "-":
        return _to_stdout(lambda target: _write_file(config, form, time_range, target, now))
    with _atomic_output(Path(out).expanduser(), force) as part:
        if form in _FOLDERS:
            part.mkdir(mode=0o700)
            with _rows(config.timeline, time_range) as rows:
                return folder.write_folder(part, table_format(form), rows, _about(time_range))
        with part.open("x", encoding="utf-8") as target:
            return _write_file(config, form, time_range, target, now)


def _write_file(config: Config, form: ExportFormat, time_range: TimeRange, target: IO[str], now: datetime) -> dict[str, int]:
    if form is ExportFormat.FHIR:
        from monitor.reports.fhir import write_fhir_days

        return write_fhir_days(target, config, time_range, now)
    with _rows(config.timeline, time_range) as rows:
        return jsonl.write_jsonl(target, rows, _about(time_range))


@contextmanager
def _rows(settings: TimelineConfig, time_range: TimeRange) -> Iterator[Iterator[tuple[Table, Row]]]:
    with TimelineExport.open(settings.database_path(), settings.keys()) as outflow:
        yield ((table, row) for table in TABLES for row in outflow.rows(table.name, time_range.start, time_range.end))


def _about(time_range: TimeRange) -> dict[str, str | None]:
    return {
        "from": None if time_range.start == ALL_TIME.start else format_utc(time_range.start),
        "to": None if time_range.end == ALL_TIME.end else format_utc(time_range.end),
    }


def table_format(form: ExportFormat) -> folder.TableFormat:
    """What knows the files of a folder."""
    # Imported when asked for: pyarrow takes a third of a second.
    if form is ExportFormat.CSV:
        from monitor.transfer.folder import CSV

        return CSV
    from monitor.transfer.parquet import PARQUET

    return PARQUET


def _to_stdout(write: Callable[[IO[str]], dict[str, int]]) -> dict[str, int]:
    try:
        with open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as target:
            return write(target)
    except BrokenPipeError:
        raise ExchangeError("the reader of the export closed the pipe early") from None
    except OSError as error:
        raise ExchangeError(f"cannot write the export to standard output: {error.strerror}") from error


@contextmanager
def _atomic_output(place: Path, force: bool) -> Iterator[Path]:
    """A name beside `place` for the caller to write to; what is there afterwards is put in its place."""
    part = place.with_name(f".{place.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    before = os.umask(0o077)
    try:
        if not force and (place.exists() or place.is_symlink()):
            raise ExchangeError(f"{place} already exists; name another place or pass --force")
        yield part
        _sync_all(part)
        _put_in_place(part, place)
    except OSError as error:
        raise ExchangeError(f"cannot write the export to {place}: {error.strerror}; check disk space and permissions") from error
    finally:
        os.umask(before)
        _remove(part)


def _sync_all(part: Path) -> None:
    for path in (*(part.iterdir() if part.is_dir() else ()), part):
        fsync_path(path)


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
    fsync_path(place.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
