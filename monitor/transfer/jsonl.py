"""JSON Lines: a header, one line per row, and a final line with the row counts, which tells a truncated file from a whole one."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, NoReturn

from monitor.transfer.schema import EXPORT_FORMAT, EXPORT_NOTICE, EXPORT_VERSION, TABLES, Row, Table, from_json_value, to_json_value

_BY_NAME = {table.one: table for table in TABLES}

LocatedRow = tuple[str, Table, Row]
"""Where a row stands in what is read, in words; what it is a row of; the row."""


def write_jsonl(target: IO[str], rows: Iterable[tuple[Table, Row]], about: Mapping[str, Any]) -> dict[str, int]:
    """Write all rows; returns how many of each table. about: what the first line says beyond format and version."""
    counts: Counter[str] = Counter({table.name: 0 for table in TABLES})
    _line(target, {"type": "header", "format": EXPORT_FORMAT, "version": EXPORT_VERSION, **about, "notice": EXPORT_NOTICE})
    for table, row in rows:
        _line(target, {"type": table.one, **{column.name: to_json_value(column, row[column.name]) for column in table.columns}})
        counts[table.name] += 1
    _line(target, {"type": "end", "rows": dict(counts)})
    return dict(counts)


def read_jsonl(source: Iterable[str]) -> Iterator[LocatedRow]:
    """The rows, each with the number of its line. Raises ValueError naming the line, when the end is missing or wrong too."""
    counts: Counter[str] = Counter({table.name: 0 for table in TABLES})
    ended = False
    number = 0
    for number, line in enumerate(source, 1):
        place = f"line {number}"
        try:
            if ended:
                raise ValueError("there is data after the end")
            if number == 1:
                _check_header(line)
                continue
            thing = _parsed(line)
            kind = thing.pop("type", None)
            if kind == "end":
                _check_end(thing, counts)
                ended = True
            else:
                table = _table(kind)
                row = _row(table, thing)
                counts[table.name] += 1
                yield place, table, row
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    if not ended:
        raise ValueError(f"after line {number}: the end is missing; the file is truncated")


def _line(target: IO[str], thing: Mapping[str, Any]) -> None:
    target.write(json.dumps(thing, ensure_ascii=False, allow_nan=False) + "\n")


def _parsed(line: str) -> dict[str, Any]:
    try:
        thing = json.loads(line, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(thing, dict):
        raise ValueError("not a JSON object")
    return thing


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _check_header(line: str) -> None:
    thing: Mapping[str, Any] = {}
    with suppress(ValueError):
        thing = _parsed(line)
    if thing.get("type") != "header" or thing.get("format") != EXPORT_FORMAT:
        raise ValueError(f"not an {EXPORT_FORMAT}: only jsonl, csv and parquet exports can be imported; fhir holds too little")
    if thing.get("version") != EXPORT_VERSION:
        raise ValueError(f"format version {thing.get('version')!r} is not supported; this program reads version {EXPORT_VERSION}")


def _check_end(thing: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    if thing.get("rows") != counts:
        raise ValueError(f"expected {thing.get('rows')} rows, found {dict(counts)}")


def _table(kind: object) -> Table:
    if not isinstance(kind, str) or kind not in _BY_NAME:
        raise ValueError(f"the type is {kind!r}; it must be one of {', '.join(_BY_NAME)}")
    return _BY_NAME[kind]


def _row(table: Table, thing: Mapping[str, Any]) -> Row:
    names = {column.name for column in table.columns}
    if unknown := thing.keys() - names:
        raise ValueError(f"a {table.one} has no {', '.join(sorted(unknown))}")
    if missing := names - thing.keys():
        raise ValueError(f"{', '.join(sorted(missing))} missing")
    return {column.name: from_json_value(column, thing[column.name]) for column in table.columns}
