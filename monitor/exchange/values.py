"""How single values are written in JSON and in cells of text, and read back exactly. Raises ValueError for what cannot be read.

A cell that a spreadsheet could take for a formula begins with an apostrophe, as does one that is empty but not missing, and one that
begins with an apostrophe itself: so taking one away gives every text back.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from monitor.exchange.tables import Column, Kind

_GUARD = "'"
# What spreadsheets begin a formula with (full-width forms too), or skip before one.
_RISKY = tuple("=+-@\t\r\n＝＋－＠" + _GUARD)


def written_moment(moment: datetime) -> str:
    """Of fixed width, in UTC."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def read_moment(text: str) -> datetime:
    """An ISO 8601 moment that says its offset, as UTC."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} does not say its offset from UTC; write for example 2026-07-14T12:00:00Z")
    return moment.astimezone(UTC)


def to_json(column: Column, value: Any) -> Any:
    """The value as JSON has it."""
    return written_moment(value) if column.kind is Kind.MOMENT and value is not None else value


def from_json(column: Column, value: Any) -> Any:
    """The inverse of `to_json`; whether a value is of the right kind at all is for others to check."""
    match column.kind:
        case Kind.MOMENT if isinstance(value, str):
            return _named(column, read_moment, value)
        case Kind.REAL:
            return _real(value)
        case Kind.POSTERIOR if isinstance(value, Mapping):
            return {letter: _real(probability) for letter, probability in value.items()}
        case _:
            return value


def to_text(column: Column, value: Any) -> str:
    """The value as a cell; empty for None."""
    match column.kind:
        case _ if value is None:
            return ""
        case Kind.TEXT:
            return _GUARD + value if not value or value.startswith(_RISKY) else str(value)
        case Kind.MOMENT:
            return written_moment(value)
        case Kind.TRUTH:
            return "true" if value else "false"
        case _:
            return repr(value)


def from_text(column: Column, text: str) -> Any:
    """The inverse of `to_text`."""
    return None if text == "" else _named(column, _READERS[column.kind], text)


def _real(value: Any) -> Any:
    """JSON does not tell 1 from 1.0."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _named(column: Column, read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{column.name}: {error}") from error


_READERS: Mapping[Kind, Callable[[str], Any]] = {
    Kind.TEXT: lambda text: text.removeprefix(_GUARD),
    Kind.INTEGER: int,
    Kind.REAL: float,
    Kind.TRUTH: _truth,
    Kind.MOMENT: read_moment,
}
