"""Tables as CSV: UTF-8 with the mark that spreadsheets need, commas between cells, one row a line unless a text holds line ends."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monitor.exchange.folder import Put, TableFormat
from monitor.exchange.tables import Row, Table, flatten, unflatten
from monitor.exchange.values import from_text, to_text

_ENCODING = "utf-8-sig"
_LONGEST_CELL = 2**24


@contextmanager
def writing(file: Path, table: Table) -> Iterator[Put]:
    """Open a new file; what it gives writes one row."""
    columns = table.flat_columns
    with file.open("w", encoding=_ENCODING, newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(column.name for column in columns)

        def put(row: Row) -> None:
            flat = flatten(row)
            writer.writerow(to_text(column, flat[column.name]) for column in columns)

        yield put


def reading(file: Path, table: Table) -> Iterator[tuple[str, Row]]:
    """The rows of a file, each with the line it ends in. Raises ValueError naming the line."""
    csv.field_size_limit(_LONGEST_CELL)
    columns = {column.name: column for column in table.flat_columns}
    with file.open(encoding=_ENCODING, newline="") as opened:
        lines = csv.reader(opened, strict=True)
        try:
            names = next(lines, [])
            if sorted(names) != sorted(columns):
                raise ValueError(f"the columns must be {', '.join(columns)}, these are {', '.join(names)}")
            for cells in lines:
                if len(cells) != len(names):
                    raise ValueError(f"{len(cells)} cells, where there are {len(names)} columns")
                flat = {name: from_text(columns[name], cell) for name, cell in zip(names, cells, strict=True)}
                yield f"line {lines.line_num}", unflatten(table, flat)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"line {lines.line_num}: {error}") from error


CSV = TableFormat("csv", writing, reading)
