"""Tables as Parquet, written and read in groups of rows, so no table is held in memory whole. The only file that knows pyarrow."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monitor.transfer.folder import RowWriter, TableFormat
from monitor.transfer.schema import EXPORT_FORMAT, EXPORT_VERSION, Row, Table, ValueKind, flatten, unflatten

_ROWS_AT_A_TIME = 10_000
_TYPES: Mapping[ValueKind, Any] = {
    ValueKind.TEXT: pa.string(),
    ValueKind.INTEGER: pa.int64(),
    ValueKind.REAL: pa.float64(),
    ValueKind.TRUTH: pa.bool_(),
    ValueKind.MOMENT: pa.timestamp("us", tz="UTC"),
}


@contextmanager
def parquet_writer(file: Path, table: Table) -> Iterator[RowWriter]:
    """Open a new file; what it gives writes one row."""
    schema = _schema(table)
    waiting: list[Row] = []
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema))
            waiting.clear()

        def put(row: Row) -> None:
            waiting.append(flatten(row))
            if len(waiting) == _ROWS_AT_A_TIME:
                flush()

        yield put
        flush()


def parquet_rows(file: Path, table: Table) -> Iterator[tuple[str, Row]]:
    """The rows of a file, each with its number. Raises ValueError."""
    number = 0
    try:
        with pq.ParquetFile(file) as opened:
            found, wanted = opened.schema_arrow, _schema(table)
            if not found.equals(wanted):
                raise ValueError(f"expected columns {_format_schema(wanted)}, found {_format_schema(found)}")
            for batch in opened.iter_batches(_ROWS_AT_A_TIME):
                for flat in batch.to_pylist():
                    number += 1
                    yield f"row {number}", unflatten(table, _in_utc(table, flat))
    except pa.ArrowException as error:
        raise ValueError(f"after row {number}: {error}") from error


def _schema(table: Table) -> pa.Schema:
    fields = [pa.field(column.name, _TYPES[column.kind], column.optional, {"words": column.words}) for column in table.flat_columns]
    return pa.schema(fields, {"format": EXPORT_FORMAT, "version": str(EXPORT_VERSION)})


def _in_utc(table: Table, flat: Mapping[str, Any]) -> Row:
    """Arrow has a time zone object of its own."""
    moments = {column.name for column in table.flat_columns if column.kind is ValueKind.MOMENT}
    return {name: value.astimezone(UTC) if name in moments and value is not None else value for name, value in flat.items()}


def _format_schema(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


PARQUET = TableFormat("parquet", parquet_writer, parquet_rows)
