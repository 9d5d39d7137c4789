"""Brings an export back into a timeline: everything in it or nothing, and nothing twice. Says where what is wrong."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path

from model.errors import ExchangeError, TimelineInUse
from monitor.config import TimelineConfig
from monitor.exchange import folder, jsonl
from monitor.exchange.jsonl import Placed
from monitor.exchange.outgoing import table_format
from monitor.exchange.tables import Form, check
from monitor.store.intake import Intake, Taken
from monitor.store.lock import DatabaseLock

_FOLDERS = (Form.CSV, Form.PARQUET)


def bring_back(settings: TimelineConfig, source: str) -> Mapping[str, Taken]:
    """Take in what `export` wrote to a file or folder, or what comes on standard input where `source` is "-"; by table, what became of it.

    A running monitor goes on, and writes when this is over. Raises ExchangeError, naming the line that is wrong, and TimelineError;
    then nothing has changed.
    """
    with ExitStack() as stack:
        # A source that is none at all shall not make a timeline.
        rows = stack.enter_context(_opened(source))
        try:
            begun = list(islice(rows, 1))
            _make_ready(settings, stack)
            with Intake.open(settings.database_path(), settings.keys()) as intake:
                for place, table, row in chain(begun, rows):
                    try:
                        check(table, row)
                        intake.put(table.name, row)
                    except ValueError as error:
                        raise ValueError(f"{place}: {error}") from error
        except ValueError as error:
            raise ExchangeError(f"{source}, {error}; nothing was imported") from error
        except OSError as error:
            raise ExchangeError(f"cannot read {error.filename or source}: {error.strerror}; nothing was imported") from error
        return intake.taken


@contextmanager
def _opened(source: str) -> Iterator[Iterator[Placed]]:
    """The rows of whichever format it is."""
    path = Path(source).expanduser()
    try:
        if source == "-":
            yield jsonl.read(open(sys.stdin.fileno(), encoding="utf-8", closefd=False))  # noqa: SIM115
        elif path.is_dir():
            yield folder.read(path, table_format(_form_of(path)))
        else:
            with path.open(encoding="utf-8") as lines:
                yield jsonl.read(lines)
    except OSError as error:
        raise ExchangeError(f"cannot read {source}: {error.strerror}; nothing was imported") from error


def _form_of(path: Path) -> Form:
    try:
        return _FOLDERS[_FOLDERS.index(Form(folder.ending_in(path)))]
    except ValueError as error:
        raise ExchangeError(f"{path} cannot be imported: {error}") from error


def _make_ready(settings: TimelineConfig, stack: ExitStack) -> None:
    """A timeline with the newest tables: made or brought up to date here, unless a running monitor has seen to that."""
    from monitor.store.timeline import Timeline

    database = settings.database_path()
    try:
        stack.enter_context(DatabaseLock(database, "nothing, to import"))
    except TimelineInUse:
        return
    Timeline.open(database, settings.zone_info(), settings.keys()).close()
