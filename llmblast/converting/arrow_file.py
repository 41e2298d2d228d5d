"""Parquet and Arrow, by pyarrow (extra `tables`), a batch of rows at a time.

A column of JSON text says so in the metadata of its field, and so does one whose empty cells stand for null: elsewhere
an empty cell means that the row has no such member. Tables that others have written have null there.
"""

import base64
import datetime
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, BinaryIO

from llmblast.converting.columns import ABSENT, Column, Kind, cells_of, unflatten
from llmblast.converting.rows import PlacedRow, Row, Rows, bad_row, load_value
from llmblast.errors import InputDamagedError, UsageError
from llmblast.writing.safe_json import dump_line

MAX_BATCH_ROWS = 10_000
MAX_BATCH_BYTES = 8 * 1024 * 1024
_READ_ROWS = 500
_JSON = b"llmblast.json"
_EMPTY = b"llmblast.empty"


def _pyarrow() -> Any:
    try:
        import pyarrow  # noqa: PLC0415 -- an extra, 100 ms
    except ImportError:
        raise UsageError("Parquet and Arrow need one more package: pip install 'llmblast[tables]'") from None
    return pyarrow


def read_parquet(file: BinaryIO, name: str) -> Rows:
    """Yield the rows of a Parquet file. Raises InputDamagedError."""
    arrow = _pyarrow()
    from pyarrow import parquet  # noqa: PLC0415

    try:
        table = parquet.ParquetFile(file, pre_buffer=False)
        yield from _rows(table.schema_arrow, table.iter_batches(batch_size=_READ_ROWS), name)
    except (arrow.ArrowException, OSError) as error:
        raise InputDamagedError(f"{name}: no readable Parquet file: {_first_line(error)}") from None


def read_arrow(file: BinaryIO, name: str) -> Rows:
    """Yield the rows of an Arrow file, or of a stream. Raises InputDamagedError."""
    arrow = _pyarrow()
    try:
        if file.read(6) == b"ARROW1":
            reader = arrow.ipc.open_file(file)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            file.seek(0)
            reader = arrow.ipc.open_stream(file)
            batches = iter(reader)
        yield from _rows(reader.schema, batches, name)
    except (arrow.ArrowException, OSError) as error:
        raise InputDamagedError(f"{name}: no readable Arrow file: {_first_line(error)}") from None


def _rows(schema: Any, batches: Iterator[Any], name: str) -> Rows:
    metadata: Mapping[str, Mapping[bytes, bytes]] = {field.name: field.metadata or {} for field in schema}
    if len(metadata) != len(schema.names):
        raise InputDamagedError(f"{name}: two columns have the same name: rename one")
    number = 0
    for batch in batches:
        for cells in batch.to_pylist():
            number += 1
            try:
                row = {
                    column: _value(cell, metadata[column])
                    for column, cell in cells.items()
                    if cell is not None or metadata[column].get(_EMPTY) != b"absent"
                }
            except ValueError:
                raise bad_row(name, number, "a cell that should hold JSON holds none") from None
            yield PlacedRow(number, unflatten(row))


def _value(cell: Any, metadata: Mapping[bytes, bytes]) -> Any:
    if isinstance(cell, str):
        return load_value(cell.encode()) if _JSON in metadata else cell
    return _plain(cell)


def _plain(cell: Any) -> Any:
    """Return a cell as a JSON value: times as ISO 8601, bytes as base64, decimals as text."""
    if isinstance(cell, dict):
        return {str(name): _plain(value) for name, value in cell.items()}
    if isinstance(cell, list | tuple):
        return [_plain(value) for value in cell]
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, bytes):
        return base64.b64encode(cell).decode()
    return str(cell) if isinstance(cell, Decimal | datetime.timedelta) else cell


class _Writer:
    """Gather rows, and write them as batches."""

    needs_schema = True

    def __init__(self, file: BinaryIO, columns: list[Column]) -> None:
        self._arrow = _pyarrow()
        self._columns = columns
        self._schema = self._arrow.schema([self._field(column) for column in columns])
        self._rows: list[list[Any]] = []
        self._size_bytes = 0
        self._sink = self._open(file)

    def write(self, row: Row) -> None:
        """Write one row."""
        cells = [
            _cell(value, column.kind) for value, column in zip(cells_of(row, self._columns), self._columns, strict=True)
        ]
        self._rows.append(cells)
        self._size_bytes += sum(len(cell) for cell in cells if isinstance(cell, str)) + 8 * len(cells)
        if len(self._rows) >= MAX_BATCH_ROWS or self._size_bytes >= MAX_BATCH_BYTES:
            self._write_batch()

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        if self._rows:
            self._write_batch()
        self._sink.close()

    def _open(self, file: BinaryIO) -> Any:
        return self._arrow.ipc.new_file(file, self._schema)

    def _write_batch(self) -> None:
        fields = list(zip(*self._rows, strict=True))
        arrays = [self._arrow.array(cells, field.type) for cells, field in zip(fields, self._schema, strict=True)]
        self._sink.write_batch(self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows = []
        self._size_bytes = 0

    def _field(self, column: Column) -> Any:
        types = {"bool": self._arrow.bool_(), "int": self._arrow.int64(), "float": self._arrow.float64()}
        metadata = {_EMPTY: b"null" if column.has_null and column.kind != "json" else b"absent"}
        if column.kind == "json":
            metadata[_JSON] = b"1"
        return self._arrow.field(column.name, types.get(str(column.kind), self._arrow.string()), metadata=metadata)


class ArrowWriter(_Writer):
    """Write rows to an Arrow file."""


class ParquetWriter(_Writer):
    """Write rows to a Parquet file; a batch is a row group."""

    def _open(self, file: BinaryIO) -> Any:
        from pyarrow import parquet  # noqa: PLC0415

        return parquet.ParquetWriter(file, self._schema, compression="zstd")


def _cell(value: Any, kind: Kind | None) -> Any:
    if value is ABSENT:
        return None
    if kind == "json":
        return dump_line({"": value})[4:-2].decode()
    if kind == "text" and isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # Arrow holds no lone surrogates
    return value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
