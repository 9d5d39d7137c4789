"""A folder with one file for each table, a page for people, and `about.json`, which says what this is and how much there is.

What is in the files is for a `TableFormat`: it knows one format of single tables. Rows come table after table.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from monitor.exchange.jsonl import Placed
from monitor.exchange.tables import FORMAT, NOTICE, TABLES, VERSION, Row, Table

ABOUT = "about.json"
PAGE = "README.txt"

Put = Callable[[Row], None]


@dataclass(frozen=True, slots=True)
class TableFormat:
    """ending: of file names. writing: opens a new file and gives what writes a flat row. reading: flat rows of a file, each with its place.

    Both raise ValueError for what is in a file, and OSError.
    """

    ending: str
    writing: Callable[[Path, Table], AbstractContextManager[Put]]
    reading: Callable[[Path, Table], Iterator[tuple[str, Row]]]


def write(folder: Path, form: TableFormat, rows: Iterable[tuple[Table, Row]], about: Mapping[str, Any]) -> dict[str, int]:
    """Write all rows into an empty folder; returns how many of each table. Raises OSError."""
    counts = {table.name: 0 for table in TABLES}
    due = list(TABLES)
    for table, group in groupby(rows, key=lambda pair: pair[0]):
        counts[table.name] = _write_table(folder, form, table, (row for _, row in group))
        due.remove(table)
    for table in due:
        _write_table(folder, form, table, ())
    (folder / PAGE).write_text(_page(form), encoding="utf-8")
    whole = {"format": FORMAT, "version": VERSION, "files": form.ending, **about, "rows": counts, "notice": NOTICE}
    (folder / ABOUT).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return counts


def ending_in(folder: Path) -> str:
    """Which format the files in a folder have. Raises ValueError for a folder that is no export, and OSError."""
    return str(_about(folder).get("files"))


def read(folder: Path, form: TableFormat) -> Iterator[Placed]:
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
        raise ValueError(f"{ABOUT} promises {promised} rows, and there are {counts}")


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
        raise ValueError(f"there is no {ABOUT} in it, so it is no {FORMAT}")
    about = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{ABOUT} says that it is no {FORMAT}")
    if about.get("version") != VERSION:
        raise ValueError(f"{ABOUT} names version {about.get('version')!r} of the format, and this program reads version {VERSION}")
    return about


def _page(form: TableFormat) -> str:
    lines = [f"This is what emosllm-monitor has stored. {NOTICE}", ""]
    lines.append("Moments are in UTC. Emotions: A angry, S sad, H happy, U surprise, F fear, D disgust, C contempt, N neutral, O other.")
    if form.ending == "csv":
        lines.append("An apostrophe at the beginning of a text keeps spreadsheets from taking it for a formula, and does not belong to it.")
    for table in TABLES:
        lines += ["", f"{table.name}.{form.ending}"]
        lines += [f"  {column.name:15} {column.words}" for column in table.flat_columns]
    return "\n".join(lines) + "\n"
