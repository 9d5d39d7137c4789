"""Imports an export into a timeline: all of it or nothing, and nothing twice. Errors name the line."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path

from model.errors import ExchangeError, TimelineInUse
from monitor.config import TimelineConfig
from monitor.fileio import DatabaseLock
from monitor.storage.transfer import ImportCounts, TimelineImport
from monitor.transfer import folder, jsonl
from monitor.transfer.export import table_format
from monitor.transfer.jsonl import LocatedRow
from monitor.transfer.schema import ExportFormat, check_row

_FOLDERS = (ExportFormat.CSV, ExportFormat.PARQUET)


def import_data(settings: TimelineConfig, source: str) -> Mapping[str, ImportCounts]:
    """Take in what `export` wrote to a file or folder, or what comes on standard input where `source` is "-"; by table, what became of it.

    A running monitor goes on, and writes when this is over. Raises ExchangeError, naming the line that is wrong, and TimelineError;
    then nothing has changed.
    """
    with ExitStack() as stack:
        # A source that is none at all shall not make a timeline.
        rows = stack.enter_context(_opened(source))
        try:
            begun = list(islice(rows, 1))
            _prepare_timeline(settings, stack)
            with TimelineImport.open(settings.database_path(), settings.keys()) as intake:
                for place, table, row in chain(begun, rows):
                    try:
                        check_row(table, row)
                        intake.put(table.name, row)
                    except ValueError as error:
                        raise ValueError(f"{place}: {error}") from error
        except ValueError as error:
            raise ExchangeError(f"{source}, {error}; nothing was imported") from error
        except OSError as error:
            raise ExchangeError(f"cannot read {error.filename or source}: {error.strerror}; nothing was imported") from error
        return intake.taken


@contextmanager
def _opened(source: str) -> Iterator[Iterator[LocatedRow]]:
    """The rows of whichever format it is."""
    path = Path(source).expanduser()
    try:
        if source == "-":
            yield jsonl.read_jsonl(open(sys.stdin.fileno(), encoding="utf-8", closefd=False))  # noqa: SIM115
        elif path.is_dir():
            yield folder.read_folder(path, table_format(_format_of(path)))
        else:
            with path.open(encoding="utf-8") as lines:
                yield jsonl.read_jsonl(lines)
    except OSError as error:
        raise ExchangeError(f"cannot read {source}: {error.strerror}; nothing was imported") from error


def _format_of(path: Path) -> ExportFormat:
    try:
        return _FOLDERS[_FOLDERS.index(ExportFormat(folder.folder_format(path)))]
    except ValueError as error:
        raise ExchangeError(f"{path} cannot be imported: {error}") from error


def _prepare_timeline(settings: TimelineConfig, stack: ExitStack) -> None:
    """A timeline with the newest tables: made or brought up to date here, unless a running monitor has seen to that."""
    from monitor.storage.writer import TimelineWriter

    database = settings.database_path()
    try:
        stack.enter_context(DatabaseLock(database, "nothing, to import"))
    except TimelineInUse:
        return
    TimelineWriter.open(database, settings.zone_info(), settings.keys()).close()
