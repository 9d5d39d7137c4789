"""Folders with one file per table, a README for people, and `about.json` with format, version and row counts; and tables as CSV.

A `TableFormat` reads and writes the files of one format. CSV is UTF-8 with the byte order mark that spreadsheets need.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from monitor.transfer.jsonl import LocatedRow
from monitor.transfer.schema import EXPORT_FORMAT, EXPORT_NOTICE, EXPORT_VERSION, TABLES, Row, Table, flatten, from_cell, to_cell, unflatten

ABOUT = "about.json"
PAGE = "README.txt"

RowWriter = Callable[[Row], None]


@dataclass(frozen=True, slots=True)
class TableFormat:
    """ending: of file names. writing: opens a new file and gives what writes a flat row. reading: flat rows of a file, each with its place.

    Both raise ValueError for what is in a file, and OSError.
    """

    ending: str
    writing: Callable[[Path, Table], AbstractContextManager[RowWriter]]
    reading: Callable[[Path, Table], Iterator[tuple[str, Row]]]


def write_folder(folder: Path, form: TableFormat, rows: Iterable[tuple[Table, Row]], about: Mapping[str, Any]) -> dict[str, int]:
    """Write all rows into an empty folder; returns how many of each table. Raises OSError."""
    counts = {table.name: 0 for table in TABLES}
    due = list(TABLES)
    for table, group in groupby(rows, key=lambda pair: pair[0]):
        counts[table.name] = _write_table(folder, form, table, (row for _, row in group))
        due.remove(table)
    for table in due:
        _write_table(folder, form, table, ())
    (folder / PAGE).write_text(_page(form), encoding="utf-8")
    whole = {"format": EXPORT_FORMAT, "version": EXPORT_VERSION, "files": form.ending, **about, "rows": counts, "notice": EXPORT_NOTICE}
    (folder / ABOUT).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return counts


def folder_format(folder: Path) -> str:
    """Which format the files in a folder have. Raises ValueError for a folder that is no export, and OSError."""
    return str(_about(folder).get("files"))


def read_folder(folder: Path, form: TableFormat) -> Iterator[LocatedRow]:
    """The rows. Raises ValueError saying where what is wrong, also when rows are missing, and OSError."""
    promised = _about(folder).get("rows")
    counts = {table.name: 0 for table in TABLES}
    for table in TABLES:
        file = folder / f"{table.name}.{form.ending}"
        try:
            for place, flat in form.reading(file, table):
                counts[table.name] += 1
                yield f"{file.name}, {place}", table, flat
        except ValueError as error:
            raise ValueError(f"{file.name}, {error}") from error
    if counts != promised:
        raise ValueError(f"{ABOUT} lists {promised} rows, found {counts}")


def _write_table(folder: Path, form: TableFormat, table: Table, rows: Iterable[Row]) -> int:
    count = 0
    with form.writing(folder / f"{table.name}.{form.ending}", table) as put:
        for row in rows:
            put(row)
            count += 1
    return count


def _about(folder: Path) -> Mapping[str, Any]:
    file = folder / ABOUT
    if not file.is_file():
        raise ValueError(f"it has no {ABOUT}, so it is not an {EXPORT_FORMAT}")
    about = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(about, dict) or about.get("format") != EXPORT_FORMAT:
        raise ValueError(f"{ABOUT} does not describe an {EXPORT_FORMAT}")
    if about.get("version") != EXPORT_VERSION:
        raise ValueError(
            f"format version {about.get('version')!r} in {ABOUT} is not supported; this program reads version {EXPORT_VERSION}"
        )
    return about


def _page(form: TableFormat) -> str:
    lines = [f"Data exported from emosllm-monitor. {EXPORT_NOTICE}", ""]
    lines.append("Times are in UTC. Emotions: A angry, S sad, H happy, U surprise, F fear, D disgust, C contempt, N neutral, O other.")
    if form.ending == "csv":
        lines.append("A leading apostrophe keeps spreadsheets from reading a text as a formula and is not part of the text.")
    for table in TABLES:
        lines += ["", f"{table.name}.{form.ending}"]
        lines += [f"  {column.name:15} {column.words}" for column in table.flat_columns]
    return "\n".join(lines) + "\n"


_ENCODING = "utf-8-sig"
_LONGEST_CELL = 2**24


@contextmanager
def csv_writer(file: Path, table: Table) -> Iterator[RowWriter]:
    """Open a new file; what it gives writes one row."""
    columns = table.flat_columns
    with file.open("w", encoding=_ENCODING, newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(column.name for column in columns)

        def put(row: Row) -> None:
            flat = flatten(row)
            writer.writerow(to_cell(column, flat[column.name]) for column in columns)

        yield put


def csv_rows(file: Path, table: Table) -> Iterator[tuple[str, Row]]:
    """The rows of a file, each with the line it ends in. Raises ValueError naming the line."""
    csv.field_size_limit(_LONGEST_CELL)
    columns = {column.name: column for column in table.flat_columns}
    with file.open(encoding=_ENCODING, newline="") as opened:
        lines = csv.reader(opened, strict=True)
        try:
            names = next(lines, [])
            if sorted(names) != sorted(columns):
                raise ValueError(f"expected columns {', '.join(columns)}, found {', '.join(names)}")
            for cells in lines:
                if len(cells) != len(names):
                    raise ValueError(f"{len(cells)} cells, but {len(names)} columns")
                flat = {name: from_cell(columns[name], cell) for name, cell in zip(names, cells, strict=True)}
                yield f"line {lines.line_num}", unflatten(table, flat)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"line {lines.line_num}: {error}") from error


CSV = TableFormat("csv", csv_writer, csv_rows)
